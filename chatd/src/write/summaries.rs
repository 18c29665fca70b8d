//! The summaries of large conversations' receipts in the database. Invariant: a summary is read, counted
//! and written under its row's lock, and told by whoever turns `is_told` under it: several chatds count
//! nobody twice, and none repeats what another has told.

use super::receipts::{Cursor, CursorKey, Standing};
use super::statements::Moved;
use super::summary::{Reach, Step, count};
use crate::db::{Connection, Query, unsigned};
use postgres::Error;
use proto::client::ReceiptSummary;
use proto::limits::INLINE_RECIPIENTS_MAX;
use proto::{Message, Uuid};
use std::collections::{BTreeMap, HashMap};

/// Writes what was there, which locks it; a row that is new was told of nothing, long ago.
const LOCK: Query = Query {
    name: "lock_summaries",
    sql: "INSERT INTO messaging.receipt_summaries AS s (conversation_id, summary, told_at, is_told)
          SELECT id, '', to_timestamp(0), true FROM unnest($1::uuid[]) AS large (id) ORDER BY id
          ON CONFLICT (conversation_id) DO UPDATE SET told_at = s.told_at
          RETURNING s.conversation_id, s.summary",
};

const READ_REACHES: Query = Query {
    name: "read_reaches",
    sql: "SELECT large.conversation_id, large.user_id, reach.delivered, reach.read
          FROM unnest($1::uuid[], $2::uuid[]) AS large (conversation_id, user_id)
          CROSS JOIN LATERAL (
              SELECT COALESCE(max(r.delivered_sequence_number), 0) AS delivered,
                     COALESCE(max(r.read_sequence_number), 0) AS read
              FROM messaging.receipts r
              WHERE r.conversation_id = large.conversation_id AND r.user_id = large.user_id
          ) reach",
};

const WRITE: Query = Query {
    name: "write_summaries",
    sql: "UPDATE messaging.receipt_summaries s SET summary = new.summary, is_told = false
          FROM unnest($1::uuid[], $2::bytea[]) AS new (conversation_id, summary)
          WHERE s.conversation_id = new.conversation_id",
};

const DUE: Query = Query {
    name: "due_summaries",
    sql: "SELECT conversation_id FROM messaging.receipt_summaries
          WHERE NOT is_told AND told_at <= now() - make_interval(secs => $1)
          ORDER BY told_at LIMIT $2",
};

const LOCK_DUE: Query = Query {
    name: "lock_due_summaries",
    sql: "SELECT FROM messaging.receipt_summaries WHERE conversation_id = ANY($1)
          ORDER BY conversation_id FOR NO KEY UPDATE",
};

/// Another chatd may have been first.
const TAKE_DUE: Query = Query {
    name: "take_due_summaries",
    sql: "UPDATE messaging.receipt_summaries SET is_told = true, told_at = clock_timestamp()
          WHERE conversation_id = ANY($1) AND NOT is_told
            AND told_at <= clock_timestamp() - make_interval(secs => $2)
          RETURNING conversation_id, summary",
};

/// The large conversations of a batch's receipts, locked.
#[derive(Default)]
pub struct Counting {
    summaries: BTreeMap<Uuid, ReceiptSummary>,
    /// Of each member with a cursor in the batch, before the batch.
    before: HashMap<(Uuid, Uuid), Reach>,
}

impl Counting {
    /// To be called before the cursors are written.
    pub(super) fn begin(
        connection: &mut Connection,
        cursors: &BTreeMap<CursorKey, Cursor>,
        standings: &HashMap<Uuid, Standing>,
    ) -> Result<Self, Error> {
        let members = |id: &Uuid| standings.get(id).map_or(0, |it| it.audience.len());
        let keys = cursors.keys().filter(|key| members(&key.0) > INLINE_RECIPIENTS_MAX);
        let mut people: Vec<(Uuid, Uuid)> = keys.map(|key| (key.0, key.1)).collect();
        // A member's devices stand side by side.
        people.dedup();
        let (ids, users): (Vec<Uuid>, Vec<Uuid>) = people.into_iter().unzip();
        if ids.is_empty() {
            return Ok(Self::default());
        }
        let mut large = ids.clone();
        large.dedup();
        let mut counting = Self::default();
        for row in connection.rows(&LOCK, &[&large])? {
            let mut summary = decode(row.get(1));
            summary.member_count = u32::try_from(members(&row.get(0))).unwrap_or(u32::MAX);
            counting.summaries.insert(row.get(0), summary);
        }
        for row in connection.rows(&READ_REACHES, &[&ids, &users])? {
            let reach = Reach { delivered: unsigned(row.get(2)), read: unsigned(row.get(3)) };
            counting.before.insert((row.get(0), row.get(1)), reach);
        }
        Ok(counting)
    }

    /// Counts the cursors that moved, and writes what changed.
    pub(super) fn end(mut self, connection: &mut Connection, moved: &[Moved]) -> Result<(), Error> {
        let mut after: BTreeMap<(Uuid, Uuid), Reach> = BTreeMap::new();
        for it in moved {
            let who = (it.key.0, it.key.1);
            let Some(before) = self.before.get(&who) else { continue };
            let reach = after.entry(who).or_insert(*before);
            reach.delivered = reach.delivered.max(it.delivered_sequence_number);
            reach.read = reach.read.max(it.read_sequence_number);
        }
        let mut steps: HashMap<Uuid, Vec<Step>> = HashMap::new();
        for (who, after) in after {
            steps.entry(who.0).or_default().push((self.before[&who], after));
        }
        let (mut ids, mut written) = (Vec::new(), Vec::new());
        for (conversation_id, summary) in &mut self.summaries {
            if count(summary, steps.get(conversation_id).map_or(&[], Vec::as_slice)) {
                ids.push(*conversation_id);
                written.push(summary.encode_to_vec());
            }
        }
        if !ids.is_empty() {
            connection.execute(&WRITE, &[&ids, &written])?;
        }
        Ok(())
    }
}

/// Conversations whose members are to be told now, because nobody told them for `interval_s`; without
/// a lock.
pub(super) fn due(
    connection: &mut Connection,
    interval_s: f64,
    limit: i64,
) -> Result<Vec<Uuid>, Error> {
    let rows = connection.rows(&DUE, &[&interval_s, &limit])?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Those of them that are still to be told. From now on they are told, if the transaction commits.
pub(super) fn take_due(
    connection: &mut Connection,
    ids: &[Uuid],
    interval_s: f64,
) -> Result<Vec<(Uuid, ReceiptSummary)>, Error> {
    connection.rows(&LOCK_DUE, &[&ids])?;
    let rows = connection.rows(&TAKE_DUE, &[&ids, &interval_s])?;
    Ok(rows.iter().map(|row| (row.get(0), decode(row.get(1)))).collect())
}

/// An unreadable one is counted anew.
fn decode(bytes: &[u8]) -> ReceiptSummary {
    ReceiptSummary::decode(bytes).unwrap_or_default()
}
