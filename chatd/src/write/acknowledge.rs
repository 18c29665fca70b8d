//! The receipts' part of a batch's transaction.

use super::command::ReceiptCommand;
use super::engine::CommitError;
use super::receipts::{Judged, Standing, Told, judge, told};
use super::record::{MovedReceipt, OutboxRow, receipt};
use super::store::Store;
use crate::failure::Failure;
use proto::Uuid;
use std::collections::HashMap;

/// What became of a batch's receipts.
#[derive(Default)]
pub(super) struct Acknowledged {
    pub(super) answers: Vec<Result<(), Failure>>,
    pub(super) outbox: Vec<OutboxRow>,
}

/// Stores the cursors that move, and says who is to be told of each.
pub(super) fn acknowledge(
    store: &mut impl Store,
    receipts: &[&ReceiptCommand],
    standings: &HashMap<Uuid, Standing>,
    now_us: u64,
) -> Result<Acknowledged, CommitError> {
    let Judged { answers, cursors } = judge(receipts, standings);
    let counting = store.begin_counting(&cursors, standings)?;
    let moved = store.write_receipts(&cursors, now_us)?;
    store.end_counting(counting, &moved)?;
    let mut outbox = Vec::new();
    for moved in moved {
        let (Some(cursor), Some(standing)) = (cursors.get(&moved.key), standings.get(&moved.key.0))
        else {
            continue;
        };
        let (conversation_id, user_id, device_id) = moved.key;
        let recipients = match told(&standing.audience, cursor, moved.read_sequence_number) {
            Told::Members => standing.audience.packed(),
            Told::Own => user_id.as_bytes(),
            Told::Nobody => continue,
        };
        let moved = MovedReceipt {
            conversation_id,
            user_id,
            device_id,
            delivered_sequence_number: moved.delivered_sequence_number,
            read_sequence_number: moved.read_sequence_number,
            traceparent: &cursor.traceparent,
            recipients,
        };
        outbox.push(receipt(&moved, now_us));
    }
    Ok(Acknowledged { answers, outbox })
}
