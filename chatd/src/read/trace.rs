//! What became of one message.

use super::events::membership;
use crate::db::{Connection, Query, unsigned};
use crate::failure::Failure;
use crate::limits::TRACE_OUTBOX_ROWS_MAX;
use proto::error::ErrorCode;
use proto::record::RecordHeaders;
use proto::{Message, Uuid};

/// A message's place, and whether the relay has published it.
#[derive(Debug)]
pub(crate) struct Trace {
    pub(crate) conversation_id: Uuid,
    pub(crate) sequence_number: u64,
    pub(crate) created_at_us: u64,
    pub(crate) relayed: bool,
}

const MESSAGE: Query = Query {
    name: "trace_message",
    sql: "SELECT conversation_id, sequence_number, created_at_us
          FROM messaging.events WHERE message_id = $1 AND kind = 1",
};

/// The relay publishes a shard in order, so what waits is near the front.
const WAITING: Query = Query {
    name: "trace_outbox",
    sql: "SELECT key, headers FROM messaging.outbox WHERE shard = $1 ORDER BY id LIMIT $2",
};

/// An error if there is no such message, or it is none that the user may see.
pub(crate) fn trace(
    connection: &mut Connection,
    user_id: Uuid,
    message_id: Uuid,
) -> Result<Trace, Failure> {
    let not_found = || {
        let message = "there is no such message, or you are not a member of its conversation";
        Failure::new(ErrorCode::NotFound, message)
    };
    let row = connection.row(&MESSAGE, &[&message_id])?.ok_or_else(not_found)?;
    let conversation_id: Uuid = row.get(0);
    let sequence_number = unsigned(row.get(1));
    let seen =
        membership(connection, conversation_id, user_id).map_err(|failure| match failure.code {
            ErrorCode::NotAMember => not_found(),
            _ => failure,
        })?;
    if sequence_number < seen.joined_sequence_number {
        return Err(not_found());
    }
    let shard = i16::try_from(proto::id::outbox_shard(&conversation_id)).unwrap_or_default();
    let rows = connection.rows(&WAITING, &[&shard, &TRACE_OUTBOX_ROWS_MAX])?;
    let waits = rows.iter().any(|row| {
        row.get::<_, &[u8]>(0) == conversation_id.as_bytes()
            && RecordHeaders::decode(row.get::<_, &[u8]>(1))
                .is_ok_and(|headers| headers.sequence_number == sequence_number)
    });
    let created_at_us = unsigned(row.get(2));
    Ok(Trace { conversation_id, sequence_number, created_at_us, relayed: !waits })
}
