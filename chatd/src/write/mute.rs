//! Muting: a member's own setting, in no log and told to nobody; the relay reads it before it asks for
//! a push. It changes one row and holds no other lock, so that it waits for the engine at most.

use crate::db::{Connection, Query, signed};
use crate::failure::Failure;
use proto::Uuid;

const MUTE: Query = Query {
    name: "mute",
    sql: "UPDATE messaging.members SET muted_until_us = $3
          WHERE conversation_id = $1 AND user_id = $2 AND left_sequence_number IS NULL",
};

/// Until then the member wants no push requests of the conversation; nothing: it wants them.
pub(crate) fn mute(
    connection: &mut Connection,
    conversation_id: Uuid,
    user_id: Uuid,
    until_us: Option<u64>,
) -> Result<(), Failure> {
    let until_us = until_us.map(signed);
    match connection.execute(&MUTE, &[&conversation_id, &user_id, &until_us])? {
        0 => Err(Failure::not_a_member()),
        _ => Ok(()),
    }
}
