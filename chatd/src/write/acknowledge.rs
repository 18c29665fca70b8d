//! The receipts' part of a batch's transaction.

use super::command::ReceiptCommand;
use super::receipts::{Judged, Standing, Told, judge, told};
use super::record::{MovedReceipt, OutboxRow, receipt};
use super::statements::write_receipts;
use super::summaries::Counting;
use crate::db::Connection;
use crate::failure::Failure;
use postgres::Error;
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
    connection: &mut Connection,
    receipts: &[&ReceiptCommand],
    standings: &HashMap<Uuid, Standing>,
    now_us: u64,
) -> Result<Acknowledged, Error> {
    let Judged { answers, cursors } = judge(receipts, standings);
    let counting = Counting::begin(connection, &cursors, standings)?;
    let moved = write_receipts(connection, &cursors, now_us)?;
    counting.end(connection, &moved)?;
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
