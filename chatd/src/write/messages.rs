//! The engine's statements about messages that are in the log.

use super::command::Append;
use super::plan::{Target, TextRow};
use crate::db::{Connection, Query, signed, unsigned};
use postgres::Error;
use proto::Uuid;
use std::collections::{BTreeMap, HashMap};

/// Who may see a message is who has been a member since before it was sent.
const TARGETS: Query = Query {
    name: "targets",
    sql: "SELECT asked.ordinal, e.sequence_number, e.sender_id, e.text IS NULL
          FROM unnest($1::uuid[], $2::uuid[], $3::uuid[])
               WITH ORDINALITY AS asked (conversation_id, message_id, user_id, ordinal)
          JOIN messaging.events e ON e.message_id = asked.message_id AND e.kind = 1
               AND e.conversation_id = asked.conversation_id
          JOIN messaging.members m ON m.conversation_id = asked.conversation_id
               AND m.user_id = asked.user_id AND m.left_sequence_number IS NULL
               AND m.joined_sequence_number <= e.sequence_number",
};

const UPDATE_TEXTS: Query = Query {
    name: "update_texts",
    sql: "UPDATE messaging.events e SET text = new.text
          FROM unnest($1::uuid[], $2::bigint[], $3::text[])
               AS new (conversation_id, sequence_number, text)
          WHERE e.conversation_id = new.conversation_id
            AND e.sequence_number = new.sequence_number",
};

/// What is left of an edit is the message's id: field 1 of `MessageEdited`, 16 bytes.
const EMPTY_EDITS: Query = Query {
    name: "empty_edits",
    sql: "UPDATE messaging.events SET details = '\\x0a10'::bytea || uuid_send(message_id)
          WHERE message_id = ANY($1) AND kind = 2",
};

pub(super) fn targets(
    connection: &mut Connection,
    asked: &[(usize, &Append)],
) -> Result<HashMap<usize, Target>, Error> {
    if asked.is_empty() {
        return Ok(HashMap::new());
    }
    let conversations: Vec<_> = asked.iter().map(|(_, it)| it.conversation_id).collect();
    let messages: Vec<_> =
        asked.iter().map(|(_, it)| it.change.about().unwrap_or_default()).collect();
    let users: Vec<_> = asked.iter().map(|(_, it)| it.sender_id).collect();
    let rows = connection.rows(&TARGETS, &[&conversations, &messages, &users])?;
    let target = |row: &postgres::Row| {
        // Ordinals count from 1.
        let ordinal = usize::try_from(row.get::<_, i64>(0)).unwrap_or(0).saturating_sub(1);
        let target = Target {
            sequence_number: unsigned(row.get(1)),
            sender_id: row.get(2),
            is_deleted: row.get(3),
        };
        (asked[ordinal].0, target)
    };
    Ok(rows.iter().map(target).collect())
}

pub(super) fn write_texts(
    connection: &mut Connection,
    texts: &BTreeMap<(Uuid, u64), TextRow<'_>>,
) -> Result<(), Error> {
    if texts.is_empty() {
        return Ok(());
    }
    let conversations: Vec<Uuid> = texts.keys().map(|it| it.0).collect();
    let sequence_numbers: Vec<i64> = texts.keys().map(|it| signed(it.1)).collect();
    let new: Vec<Option<&str>> = texts.values().map(|it| it.text).collect();
    connection.execute(&UPDATE_TEXTS, &[&conversations, &sequence_numbers, &new])?;
    let deleted = texts.values().filter(|it| it.text.is_none());
    let deleted: Vec<Uuid> = deleted.map(|it| it.message_id).collect();
    if !deleted.is_empty() {
        connection.execute(&EMPTY_EDITS, &[&deleted])?;
    }
    Ok(())
}
