//! One or a few messages of one conversation in one statement, which is one transaction: a lone send costs a
//! single round trip, and the disk's.

use super::columns::{EventColumns, OutboxColumns};
use super::plan::{EventRow, Plan};
use super::record::OutboxRow;
use super::statements::shard;
use crate::db::{Connection, Query, signed};
use postgres::types::ToSql;
use postgres::{Error, Row};

/// Nothing is written if the conversation is not as it was planned with: then no row comes back. The
/// events and the records are what is selected beside the conversation that moved on.
macro_rules! append {
    ($events:literal, $records:literal) => {
        concat!(
            "WITH moved AS (
                 UPDATE messaging.conversations c
                 SET last_sequence_number = $3, last_message_number = $4, membership_version = $5,
                     last_event_at_us = $6, title = COALESCE($7, c.title)
                 WHERE c.conversation_id = $1 AND c.last_sequence_number = $2
                 RETURNING c.conversation_id
             ), logged AS (
                 INSERT INTO messaging.events (conversation_id, sequence_number, kind, message_id,
                     message_number, sender_id, sender_device_id, idempotency_key, body_hash, text,
                     details, created_at_us) ",
            $events,
            "), queued AS (
                 INSERT INTO messaging.outbox (shard, topic, key, value, headers, created_at_us) ",
            $records,
            ") SELECT conversation_id FROM moved"
        )
    };
}

/// Of one event and one record: without arrays to take apart, PostgreSQL takes two thirds of the time.
const APPEND_ONE: Query = Query {
    name: "append_one",
    sql: append!(
        "SELECT conversation_id, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18 FROM moved",
        "SELECT $19, $20, $21, $22, $23, $24 FROM moved"
    ),
};

const APPEND_SEVERAL: Query = Query {
    name: "append_several",
    sql: append!(
        "SELECT moved.conversation_id, new.*
         FROM moved, unnest($8::bigint[], $9::smallint[], $10::uuid[], $11::bigint[], $12::uuid[],
             $13::uuid[], $14::text[], $15::bytea[], $16::text[], $17::bytea[], $18::bigint[]) AS new",
        "SELECT new.shard, new.topic, new.key, new.value, new.headers, new.created_at_us
         FROM moved, unnest($19::smallint[], $20::text[], $21::bytea[], $22::bytea[], $23::bytea[],
             $24::bigint[])
             WITH ORDINALITY AS new (shard, topic, key, value, headers, created_at_us, ordinal)
         ORDER BY new.ordinal"
    ),
};

type Parameter<'a> = &'a (dyn ToSql + Sync);

/// Commits a plan of one conversation, in which no membership changes. False: the conversation is not
/// as planned, and nothing was written.
pub(super) fn append_alone(connection: &mut Connection, plan: &Plan<'_>) -> Result<bool, Error> {
    let Some((conversation_id, row)) = plan.conversations.first_key_value() else {
        return Ok(true);
    };
    let before = signed(row.before_sequence_number.unwrap_or_default());
    let [last_sequence_number, last_message_number, membership_version, last_event_at_us] = [
        row.after.last_sequence_number,
        row.after.last_message_number,
        row.after.membership_version,
        row.after.last_event_at_us,
    ]
    .map(signed);
    let moved: [Parameter<'_>; _] = [
        conversation_id,
        &before,
        &last_sequence_number,
        &last_message_number,
        &membership_version,
        &last_event_at_us,
        &row.title,
    ];
    let rows = match (plan.events.as_slice(), plan.outbox.as_slice()) {
        ([event], [record]) => append_one(connection, &moved, event, record),
        _ => append_several(connection, &moved, plan),
    };
    Ok(!rows?.is_empty())
}

fn append_one(
    connection: &mut Connection,
    moved: &[Parameter<'_>],
    event: &EventRow<'_>,
    record: &OutboxRow,
) -> Result<Vec<Row>, Error> {
    let written: [Parameter<'_>; _] = [
        &signed(event.sequence_number),
        &event.kind,
        &event.message_id,
        &signed(event.message_number),
        &event.append.sender_id,
        &event.append.device_id,
        &event.append.key,
        &event.append.body_hash.as_slice(),
        &event.text,
        &event.details,
        &signed(event.created_at_us),
        &shard(record),
        &record.topic,
        &record.key.as_bytes().as_slice(),
        &record.value,
        &record.headers,
        &signed(record.created_at_us),
    ];
    connection.rows(&APPEND_ONE, &[moved, &written].concat())
}

fn append_several(
    connection: &mut Connection,
    moved: &[Parameter<'_>],
    plan: &Plan<'_>,
) -> Result<Vec<Row>, Error> {
    let events = EventColumns::of(&plan.events);
    let outbox = OutboxColumns::of(plan.outbox.iter());
    let written: [Parameter<'_>; _] = [
        &events.sequence_numbers,
        &events.kinds,
        &events.message_ids,
        &events.message_numbers,
        &events.senders,
        &events.devices,
        &events.keys,
        &events.body_hashes,
        &events.texts,
        &events.details,
        &events.created_at_us,
        &outbox.shards,
        &outbox.topics,
        &outbox.keys,
        &outbox.values,
        &outbox.headers,
        &outbox.created_at_us,
    ];
    connection.rows(&APPEND_SEVERAL, &[moved, &written].concat())
}
