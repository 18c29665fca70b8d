//! The engine's statements: each handles a whole batch, with arrays as parameters.
//!
//! Rows are locked in the order of their keys, conversations before receipts (and between them receipt
//! summaries), by every writer of every chatd: so they cannot deadlock.

use super::audience::Audience;
use super::columns::{EventColumns, OutboxColumns};
use super::command::{Append, Appended};
use super::plan::{EventRow, Known, MemberChange, Plan, kind};
use super::receipts::{Cursor, CursorKey};
use super::record::OutboxRow;
use crate::db::{Connection, CopyRows, Query, signed, unsigned};
use crate::limits::COPY_ROWS_MIN;
use postgres::Error;
use proto::Uuid;
use std::collections::{BTreeMap, HashMap};

/// Of a row to copy: fixed values and the lengths of all, in bytes, roughly.
const EVENT_ROW_BYTES: usize = 160;
const OUTBOX_ROW_BYTES: usize = 96;

const LOCK_CONVERSATIONS: Query = Query {
    name: "lock_conversations",
    sql: "SELECT conversation_id, last_sequence_number, last_message_number, membership_version,
                 created_by, last_event_at_us
          FROM messaging.conversations WHERE conversation_id = ANY($1)
          ORDER BY conversation_id FOR NO KEY UPDATE",
};

const READ_CONVERSATIONS: Query = Query {
    name: "read_conversations",
    sql: "SELECT conversation_id, last_sequence_number, last_message_number, membership_version,
                 created_by, last_event_at_us
          FROM messaging.conversations WHERE conversation_id = ANY($1)",
};

const MEMBERS: Query = Query {
    name: "batch_members",
    sql: "SELECT conversation_id, user_id FROM messaging.members
          WHERE conversation_id = ANY($1) AND left_sequence_number IS NULL",
};

const KNOWN_KEYS: Query = Query {
    name: "known_keys",
    sql: "SELECT asked.ordinal, e.body_hash, e.kind, e.message_id, e.sequence_number,
                 e.message_number, e.created_at_us
          FROM unnest($1::uuid[], $2::uuid[], $3::text[])
               WITH ORDINALITY AS asked (conversation_id, sender_id, key, ordinal)
          JOIN messaging.events e ON e.conversation_id = asked.conversation_id
               AND e.sender_id = asked.sender_id AND e.idempotency_key = asked.key",
};

const INSERT_CONVERSATIONS: Query = Query {
    name: "insert_conversations",
    sql: "INSERT INTO messaging.conversations (conversation_id, title, created_by, created_at_us,
              last_sequence_number, last_message_number, membership_version, last_event_at_us)
          SELECT id, title, created_by, at_us, sequence_number, message_number, version, at_us
          FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::bigint[], $5::bigint[], $6::bigint[],
                      $7::bigint[])
               AS made (id, title, created_by, at_us, sequence_number, message_number, version)
          ORDER BY id",
};

/// The old number is compared, so that a plan made of anything but the locked rows writes nothing.
const UPDATE_CONVERSATIONS: Query = Query {
    name: "update_conversations",
    sql: "UPDATE messaging.conversations c
          SET last_sequence_number = new.sequence_number, last_message_number = new.message_number,
              membership_version = new.version, last_event_at_us = new.at_us,
              title = COALESCE(new.title, c.title)
          FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[],
                      $6::bigint[], $7::text[])
               AS new (id, before, sequence_number, message_number, version, at_us, title)
          WHERE c.conversation_id = new.id AND c.last_sequence_number = new.before",
};

const JOIN_MEMBERS: Query = Query {
    name: "join_members",
    sql: "INSERT INTO messaging.members AS m
              (conversation_id, user_id, joined_sequence_number, left_sequence_number)
          SELECT conversation_id, user_id, joined, left_at
          FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::bigint[])
               AS new (conversation_id, user_id, joined, left_at)
          ORDER BY conversation_id, user_id
          ON CONFLICT (conversation_id, user_id) DO UPDATE
          SET joined_sequence_number = excluded.joined_sequence_number,
              left_sequence_number = excluded.left_sequence_number",
};

const LEAVE_MEMBERS: Query = Query {
    name: "leave_members",
    sql: "UPDATE messaging.members m SET left_sequence_number = new.left_at
          FROM unnest($1::uuid[], $2::uuid[], $3::bigint[])
               AS new (conversation_id, user_id, left_at)
          WHERE m.conversation_id = new.conversation_id AND m.user_id = new.user_id",
};

const INSERT_EVENTS: Query = Query {
    name: "insert_events",
    sql: "INSERT INTO messaging.events (conversation_id, sequence_number, kind, message_id,
              message_number, sender_id, sender_device_id, idempotency_key, body_hash, text,
              details, created_at_us)
          SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::smallint[], $4::uuid[], $5::bigint[],
              $6::uuid[], $7::uuid[], $8::text[], $9::bytea[], $10::text[], $11::bytea[],
              $12::bigint[])",
};

const COPY_EVENTS: Query = Query {
    name: "copy_events",
    sql: "COPY messaging.events (conversation_id, sequence_number, kind, message_id,
              message_number, sender_id, sender_device_id, idempotency_key, body_hash, text,
              details, created_at_us)
          FROM STDIN (FORMAT binary)",
};

/// Ids are given in the order of the arrays, which is the order to publish in.
const INSERT_OUTBOX: Query = Query {
    name: "insert_outbox",
    sql: "INSERT INTO messaging.outbox (shard, topic, key, value, headers, created_at_us)
          SELECT shard, topic, key, value, headers, created_at_us
          FROM unnest($1::smallint[], $2::text[], $3::bytea[], $4::bytea[], $5::bytea[],
                      $6::bigint[])
               WITH ORDINALITY
               AS new (shard, topic, key, value, headers, created_at_us, ordinal)
          ORDER BY ordinal",
};

/// Ids are given in the order of the rows.
const COPY_OUTBOX: Query = Query {
    name: "copy_outbox",
    sql: "COPY messaging.outbox (shard, topic, key, value, headers, created_at_us)
          FROM STDIN (FORMAT binary)",
};

const UPSERT_RECEIPTS: Query = Query {
    name: "upsert_receipts",
    sql: "INSERT INTO messaging.receipts AS r (conversation_id, user_id, device_id,
              delivered_sequence_number, read_sequence_number, updated_at_us)
          SELECT conversation_id, user_id, device_id, delivered, read, $6
          FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::bigint[], $5::bigint[])
               AS new (conversation_id, user_id, device_id, delivered, read)
          ORDER BY conversation_id, user_id, device_id
          ON CONFLICT (conversation_id, user_id, device_id) DO UPDATE
          SET delivered_sequence_number =
                  GREATEST(r.delivered_sequence_number, excluded.delivered_sequence_number),
              read_sequence_number =
                  GREATEST(r.read_sequence_number, excluded.read_sequence_number),
              updated_at_us = excluded.updated_at_us
          WHERE excluded.delivered_sequence_number > r.delivered_sequence_number
             OR excluded.read_sequence_number > r.read_sequence_number
          RETURNING r.conversation_id, r.user_id, r.device_id, r.delivered_sequence_number,
              r.read_sequence_number",
};

/// Wakes the relay. After the commit, not in it: a notifying commit holds a lock of the whole
/// cluster while it waits for the disk, and so would make writers wait for each other.
pub(crate) const NOTIFY: &str = "NOTIFY realchat_outbox";

/// A conversation, its audience aside.
#[derive(Debug, Clone, Copy, Default)]
pub struct ConversationState {
    pub conversation_id: Uuid,
    pub last_sequence_number: u64,
    pub last_message_number: u64,
    pub membership_version: u64,
    pub created_by: Uuid,
    pub last_event_at_us: u64,
}

pub(super) fn lock(
    connection: &mut Connection,
    ids: &[Uuid],
) -> Result<Vec<ConversationState>, Error> {
    states(connection, &LOCK_CONVERSATIONS, ids)
}

/// Without a lock.
pub(super) fn read(
    connection: &mut Connection,
    ids: &[Uuid],
) -> Result<Vec<ConversationState>, Error> {
    states(connection, &READ_CONVERSATIONS, ids)
}

fn states(
    connection: &mut Connection,
    query: &Query,
    ids: &[Uuid],
) -> Result<Vec<ConversationState>, Error> {
    let state = |row: postgres::Row| ConversationState {
        conversation_id: row.get(0),
        last_sequence_number: unsigned(row.get(1)),
        last_message_number: unsigned(row.get(2)),
        membership_version: unsigned(row.get(3)),
        created_by: row.get(4),
        last_event_at_us: unsigned(row.get(5)),
    };
    Ok(connection.rows(query, &[&ids])?.into_iter().map(state).collect())
}

pub(super) fn audiences(
    connection: &mut Connection,
    ids: &[Uuid],
) -> Result<HashMap<Uuid, Audience>, Error> {
    let mut members: HashMap<Uuid, Vec<Uuid>> = ids.iter().map(|id| (*id, Vec::new())).collect();
    for row in connection.rows(&MEMBERS, &[&ids])? {
        members.entry(row.get(0)).or_default().push(row.get(1));
    }
    Ok(members.into_iter().map(|(id, members)| (id, Audience::new(&members))).collect())
}

/// The first answers of keys that were used before; each of `asked` comes with its index in the
/// batch, and its answer under that.
pub(super) fn known_keys(
    connection: &mut Connection,
    asked: &[(usize, &Append)],
) -> Result<HashMap<usize, Known>, Error> {
    if asked.is_empty() {
        return Ok(HashMap::new());
    }
    let conversations: Vec<_> = asked.iter().map(|(_, it)| it.conversation_id).collect();
    let senders: Vec<_> = asked.iter().map(|(_, it)| it.sender_id).collect();
    let keys: Vec<_> = asked.iter().map(|(_, it)| it.key.as_str()).collect();
    let rows = connection.rows(&KNOWN_KEYS, &[&conversations, &senders, &keys])?;
    let known = rows.iter().map(|row| {
        // Ordinals count from 1.
        let ordinal = usize::try_from(row.get::<_, i64>(0)).unwrap_or(0).saturating_sub(1);
        let (index, _) = asked[ordinal];
        let answer = Appended {
            // Other kinds have the message there that they are about.
            message_id: row
                .get::<_, Option<Uuid>>(3)
                .filter(|_| row.get::<_, i16>(2) == kind::MESSAGE),
            sequence_number: unsigned(row.get(4)),
            message_number: unsigned(row.get(5)),
            created_at_us: unsigned(row.get(6)),
            repeated: true,
        };
        (index, Known { body_hash: row.get(1), answer })
    });
    Ok(known.collect())
}

/// Writes a plan's conversations and members. Returns whether every conversation was as planned.
pub(super) fn write_conversations(
    connection: &mut Connection,
    plan: &Plan<'_>,
) -> Result<bool, Error> {
    let (made, changed): (Vec<_>, Vec<_>) =
        plan.conversations.iter().partition(|(_, row)| row.before_sequence_number.is_none());
    if !made.is_empty() {
        let ids: Vec<Uuid> = made.iter().map(|(id, _)| **id).collect();
        let titles: Vec<&str> = made.iter().map(|(_, row)| row.title.unwrap_or("")).collect();
        let creators: Vec<Uuid> = made.iter().map(|(_, row)| row.after.created_by).collect();
        let column = |value: fn(&super::plan::Locked) -> u64| -> Vec<i64> {
            made.iter().map(|(_, row)| signed(value(&row.after))).collect()
        };
        connection.execute(
            &INSERT_CONVERSATIONS,
            &[
                &ids,
                &titles,
                &creators,
                &column(|it| it.last_event_at_us),
                &column(|it| it.last_sequence_number),
                &column(|it| it.last_message_number),
                &column(|it| it.membership_version),
            ],
        )?;
    }
    if changed.is_empty() {
        return Ok(true);
    }
    let ids: Vec<Uuid> = changed.iter().map(|(id, _)| **id).collect();
    let before: Vec<i64> = changed
        .iter()
        .map(|(_, row)| signed(row.before_sequence_number.unwrap_or_default()))
        .collect();
    let titles: Vec<Option<&str>> = changed.iter().map(|(_, row)| row.title).collect();
    let column = |value: fn(&super::plan::Locked) -> u64| -> Vec<i64> {
        changed.iter().map(|(_, row)| signed(value(&row.after))).collect()
    };
    let updated = connection.execute(
        &UPDATE_CONVERSATIONS,
        &[
            &ids,
            &before,
            &column(|it| it.last_sequence_number),
            &column(|it| it.last_message_number),
            &column(|it| it.membership_version),
            &column(|it| it.last_event_at_us),
            &titles,
        ],
    )?;
    Ok(updated == changed.len() as u64)
}

pub(super) fn write_members(
    connection: &mut Connection,
    members: &BTreeMap<(Uuid, Uuid), MemberChange>,
) -> Result<(), Error> {
    let columns = |joins: bool| {
        let some =
            members.iter().filter(move |(_, it)| it.joined_sequence_number.is_some() == joins);
        let (mut conversations, mut users) = (Vec::new(), Vec::new());
        let (mut joined, mut left) = (Vec::new(), Vec::new());
        for ((conversation_id, user_id), change) in some {
            conversations.push(*conversation_id);
            users.push(*user_id);
            joined.push(change.joined_sequence_number.map(signed));
            left.push(change.left_sequence_number.map(signed));
        }
        (conversations, users, joined, left)
    };
    let (conversations, users, joined, left) = columns(true);
    if !users.is_empty() {
        connection.execute(&JOIN_MEMBERS, &[&conversations, &users, &joined, &left])?;
    }
    let (conversations, users, _, left) = columns(false);
    if !users.is_empty() {
        connection.execute(&LEAVE_MEMBERS, &[&conversations, &users, &left])?;
    }
    Ok(())
}

pub(super) fn write_events(
    connection: &mut Connection,
    events: &[EventRow<'_>],
) -> Result<(), Error> {
    if events.is_empty() {
        return Ok(());
    }
    if events.len() >= COPY_ROWS_MIN {
        return connection.copy(&COPY_EVENTS, event_rows(events)).map(drop);
    }
    let columns = EventColumns::of(events);
    connection.execute(
        &INSERT_EVENTS,
        &[
            &columns.conversations,
            &columns.sequence_numbers,
            &columns.kinds,
            &columns.message_ids,
            &columns.message_numbers,
            &columns.senders,
            &columns.devices,
            &columns.keys,
            &columns.body_hashes,
            &columns.texts,
            &columns.details,
            &columns.created_at_us,
        ],
    )?;
    Ok(())
}

fn event_rows(events: &[EventRow<'_>]) -> CopyRows {
    let body_bytes = |it: &EventRow<'_>| {
        it.append.key.len() + it.text.map_or(0, str::len) + it.details.as_ref().map_or(0, Vec::len)
    };
    let bytes = events.iter().map(|it| EVENT_ROW_BYTES + body_bytes(it)).sum();
    let mut rows = CopyRows::with_capacity(bytes);
    for it in events {
        rows.row(12);
        rows.uuid(&it.append.conversation_id);
        rows.bigint(signed(it.sequence_number));
        rows.smallint(it.kind);
        rows.maybe(it.message_id.as_ref().map(|id| id.as_bytes().as_slice()));
        rows.bigint(signed(it.message_number));
        rows.uuid(&it.append.sender_id);
        rows.uuid(&it.append.device_id);
        rows.value(it.append.key.as_bytes());
        rows.value(&it.append.body_hash);
        rows.maybe(it.text.map(str::as_bytes));
        rows.maybe(it.details.as_deref());
        rows.bigint(signed(it.created_at_us));
    }
    rows
}

/// Writes rows of the outbox, if there are any, in their order.
pub(crate) fn write_outbox(connection: &mut Connection, rows: &[&OutboxRow]) -> Result<(), Error> {
    if rows.is_empty() {
        return Ok(());
    }
    if rows.len() >= COPY_ROWS_MIN {
        return connection.copy(&COPY_OUTBOX, outbox_rows(rows)).map(drop);
    }
    let columns = OutboxColumns::of(rows.iter().copied());
    connection.execute(
        &INSERT_OUTBOX,
        &[
            &columns.shards,
            &columns.topics,
            &columns.keys,
            &columns.values,
            &columns.headers,
            &columns.created_at_us,
        ],
    )?;
    Ok(())
}

fn outbox_rows(rows: &[&OutboxRow]) -> CopyRows {
    let bytes = rows.iter().map(|it| OUTBOX_ROW_BYTES + it.value.len() + it.headers.len()).sum();
    let mut copied = CopyRows::with_capacity(bytes);
    for it in rows {
        copied.row(6);
        copied.smallint(shard(it));
        copied.value(it.topic.as_bytes());
        copied.value(it.key.as_bytes());
        copied.value(&it.value);
        copied.value(&it.headers);
        copied.bigint(signed(it.created_at_us));
    }
    copied
}

pub(super) fn shard(row: &OutboxRow) -> i16 {
    // Shards are few.
    i16::try_from(proto::id::outbox_shard(&row.key)).unwrap_or_default()
}

/// A cursor that moved forward, as it is stored now.
pub struct Moved {
    pub key: CursorKey,
    pub delivered_sequence_number: u64,
    pub read_sequence_number: u64,
}

pub(super) fn write_receipts(
    connection: &mut Connection,
    cursors: &BTreeMap<CursorKey, Cursor>,
    now_us: u64,
) -> Result<Vec<Moved>, Error> {
    if cursors.is_empty() {
        return Ok(Vec::new());
    }
    let conversations: Vec<Uuid> = cursors.keys().map(|key| key.0).collect();
    let users: Vec<Uuid> = cursors.keys().map(|key| key.1).collect();
    let devices: Vec<Uuid> = cursors.keys().map(|key| key.2).collect();
    let delivered: Vec<i64> =
        cursors.values().map(|it| signed(it.delivered_sequence_number)).collect();
    let read: Vec<i64> = cursors.values().map(|it| signed(it.read_sequence_number)).collect();
    let rows = connection.rows(
        &UPSERT_RECEIPTS,
        &[&conversations, &users, &devices, &delivered, &read, &signed(now_us)],
    )?;
    let moved = |row: &postgres::Row| Moved {
        key: (row.get(0), row.get(1), row.get(2)),
        delivered_sequence_number: unsigned(row.get(3)),
        read_sequence_number: unsigned(row.get(4)),
    };
    Ok(rows.iter().map(moved).collect())
}
