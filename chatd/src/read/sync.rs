//! What lies beyond a device's cursors, over many conversations in one answer.
//!
//! What is wanted is cut into pages, pages are read in chunks, and reading stops when the answer is
//! large enough; whatever was not read is a gap in its conversation's verdict.

use super::events::event;
use crate::db::{Connection, Query, signed, unsigned};
use crate::failure::Failure;
use crate::limits::{SYNC_BYTES_MAX, SYNC_CHUNK_EVENTS};
use crate::metrics::ChatdMetrics;
use proto::Uuid;
use proto::client::{Cursor, Event, SyncPage, Verdict, event::Kind};
use proto::id::from_field;
use proto::limits::{CURSORS_MAX, SYNC_EVENTS_DEFAULT, SYNC_EVENTS_MAX, SYNC_PAGE_EVENTS_MAX};
use proto::link::{Sync, SyncResult};
use std::collections::{HashMap, HashSet};

/// All memberships that hold, and those that ended if they are named.
const RESUMED: Query = Query {
    name: "sync_resumed",
    sql: "SELECT m.conversation_id, m.joined_sequence_number, m.left_sequence_number,
                 c.last_sequence_number
          FROM messaging.members m JOIN messaging.conversations c USING (conversation_id)
          WHERE m.user_id = $1 AND (m.left_sequence_number IS NULL OR m.conversation_id = ANY($2))
          ORDER BY c.last_event_at_us DESC, m.conversation_id",
};

const NAMED: Query = Query {
    name: "sync_named",
    sql: "SELECT m.conversation_id, m.joined_sequence_number, m.left_sequence_number,
                 c.last_sequence_number
          FROM messaging.members m JOIN messaging.conversations c USING (conversation_id)
          WHERE m.user_id = $1 AND m.conversation_id = ANY($2)",
};

const EVENTS: Query = Query {
    name: "sync_events",
    sql: "SELECT e.conversation_id, e.sequence_number, e.kind, e.message_id, e.message_number,
                 e.sender_id, e.text, e.details, e.created_at_us, asked.ordinal
          FROM unnest($1::uuid[], $2::bigint[], $3::bigint[])
               WITH ORDINALITY AS asked (conversation_id, first, last, ordinal)
          JOIN messaging.events e ON e.conversation_id = asked.conversation_id
               AND e.sequence_number BETWEEN asked.first AND asked.last
          ORDER BY asked.ordinal, e.sequence_number",
};

/// A membership of the asker.
#[derive(Debug, Clone, Copy)]
pub struct Membership {
    /// Where it is of.
    pub conversation_id: Uuid,
    /// The first event that the member may see.
    pub joined: u64,
    /// The last one, of a membership that ended.
    pub left: Option<u64>,
    /// The conversation's last event.
    pub last: u64,
}

/// A conversation, and the first and last sequence number that are asked of it.
pub type Range = (Uuid, u64, u64);

/// A conversation's part of the answer while it is put together.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Progress {
    conversation_id: Uuid,
    /// Everything up to here is with the device or in the answer.
    complete_to: u64,
    /// The last event that this answer is to hold.
    wanted_to: u64,
    /// The last event that the user may see.
    visible_to: u64,
    reset: bool,
    /// The device knows of events that the conversation does not have.
    is_ahead: bool,
}

/// Events of one conversation that become one frame: first and last sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    /// Index of the conversation's progress.
    index: usize,
    first: u64,
    last: u64,
}

pub(crate) fn sync(connection: &mut Connection, sync: &Sync) -> Result<SyncResult, Failure> {
    let user_id = from_field("user_id", &sync.user_id)?;
    let cursors = read_cursors(&sync.cursors)?;
    let named: Vec<Uuid> = cursors.keys().copied().collect();
    let query = if sync.resume { &RESUMED } else { &NAMED };
    let rows = connection.rows(query, &[&user_id, &named])?;
    let memberships: Vec<_> = rows
        .iter()
        .map(|row| Membership {
            conversation_id: row.get(0),
            joined: unsigned(row.get(1)),
            left: row.get::<_, Option<i64>>(2).map(unsigned),
            last: unsigned(row.get(3)),
        })
        .collect();
    let result =
        answer(&memberships, &cursors, sync.limit, |ranges| read_ranges(connection, ranges))?;
    tell_rewound(&result, user_id, connection.metrics());
    Ok(result)
}

/// Cursors beyond the end are harmless each, but many at once mean that the database was set back.
fn tell_rewound(result: &SyncResult, user_id: Uuid, metrics: &ChatdMetrics) {
    let rewound = result.verdicts.iter().filter(|it| it.rewind_to_sequence_number > 0).count();
    if rewound > 0 {
        metrics.sync_rewound.inc_by(rewound as u64);
        tracing::warn!(%user_id, conversations = rewound, "cursors beyond the last event");
    }
}

/// Puts the answer together; `read` gives the events of each range, in order.
pub fn answer<E>(
    memberships: &[Membership],
    cursors: &HashMap<Uuid, u64>,
    limit: u32,
    mut read: impl FnMut(&[Range]) -> Result<Vec<Vec<Event>>, E>,
) -> Result<SyncResult, E> {
    let mut progress = plan(memberships, cursors, limit);
    let mut pages = Vec::new();
    let mut bytes = 0;
    let pieces = pieces(&progress);
    let mut rest = pieces.as_slice();
    while !rest.is_empty() && bytes < SYNC_BYTES_MAX {
        let (chunk, later) = rest.split_at(chunk_pieces(rest));
        let range = |it: &Piece| (progress[it.index].conversation_id, it.first, it.last);
        let events = read(&chunk.iter().map(range).collect::<Vec<_>>())?;
        bytes += add_chunk(chunk, events, &mut progress, &mut pages);
        rest = later;
    }
    Ok(SyncResult { pages, verdicts: progress.iter().map(verdict).collect() })
}

fn read_cursors(cursors: &[Cursor]) -> Result<HashMap<Uuid, u64>, Failure> {
    if cursors.len() > CURSORS_MAX {
        let count = cursors.len();
        return Err(Failure::invalid(format!(
            "{count} cursors are too many; at most {CURSORS_MAX} are allowed"
        )));
    }
    cursors
        .iter()
        .map(|it| Ok((from_field("conversation_id", &it.conversation_id)?, it.sequence_number)))
        .collect()
}

/// Where each conversation stands before anything is read.
fn plan(memberships: &[Membership], cursors: &HashMap<Uuid, u64>, limit: u32) -> Vec<Progress> {
    let limit = u64::from(match limit {
        0 => SYNC_EVENTS_DEFAULT,
        limit => limit.min(SYNC_EVENTS_MAX),
    });
    let of_membership = |it: &Membership| {
        let visible_to = it.left.unwrap_or(it.last);
        let cursor = cursors.get(&it.conversation_id).copied();
        // What came before the joining is not to be had; what came after the end is not there.
        let complete_to = cursor.unwrap_or(0).max(it.joined.saturating_sub(1)).min(visible_to);
        Progress {
            conversation_id: it.conversation_id,
            complete_to,
            wanted_to: visible_to.min(complete_to + limit),
            visible_to,
            // Who left and knows it has nothing more to ask for.
            reset: it.left.is_some() && cursor.is_some_and(|cursor| cursor >= visible_to),
            is_ahead: it.left.is_none() && cursor.is_some_and(|cursor| cursor > it.last),
        }
    };
    let mut progress: Vec<_> = memberships.iter().map(of_membership).collect();
    let known: HashSet<_> = memberships.iter().map(|it| it.conversation_id).collect();
    let unknown = cursors.keys().filter(|id| !known.contains(id)).map(|id| Progress {
        conversation_id: *id,
        complete_to: 0,
        wanted_to: 0,
        visible_to: 0,
        reset: true,
        is_ahead: false,
    });
    progress.extend(unknown);
    progress
}

/// All that is wanted, cut into pages.
fn pieces(progress: &[Progress]) -> Vec<Piece> {
    let page = SYNC_PAGE_EVENTS_MAX as u64;
    let mut pieces = Vec::new();
    for (index, it) in progress.iter().enumerate() {
        let mut first = it.complete_to + 1;
        while first <= it.wanted_to {
            let last = it.wanted_to.min(first + page - 1);
            pieces.push(Piece { index, first, last });
            first = last + 1;
        }
    }
    pieces
}

/// How many pieces are read at once: as many as hold a chunk's events, but at least one.
fn chunk_pieces(pieces: &[Piece]) -> usize {
    let mut events = 0;
    let fitting = pieces.iter().take_while(|piece| {
        events += piece.last - piece.first + 1;
        events <= SYNC_CHUNK_EVENTS
    });
    fitting.count().max(1)
}

fn read_ranges(connection: &mut Connection, ranges: &[Range]) -> Result<Vec<Vec<Event>>, Failure> {
    let ids: Vec<Uuid> = ranges.iter().map(|it| it.0).collect();
    let first: Vec<i64> = ranges.iter().map(|it| signed(it.1)).collect();
    let last: Vec<i64> = ranges.iter().map(|it| signed(it.2)).collect();
    let rows = connection.rows(&EVENTS, &[&ids, &first, &last])?;
    let mut events: Vec<Vec<Event>> = ranges.iter().map(|_| Vec::new()).collect();
    for row in &rows {
        // Ordinals count from 1.
        let ordinal = usize::try_from(row.get::<_, i64>(9)).unwrap_or(0);
        if let Some(page) = ordinal.checked_sub(1).and_then(|index| events.get_mut(index)) {
            page.push(event(row));
        }
    }
    Ok(events)
}

/// Adds what was read of one chunk; returns the bytes of its texts.
fn add_chunk(
    chunk: &[Piece],
    read: Vec<Vec<Event>>,
    progress: &mut [Progress],
    pages: &mut Vec<SyncPage>,
) -> usize {
    let bytes = read.iter().flatten().map(event_bytes).sum();
    for (piece, events) in chunk.iter().zip(read) {
        let it = &mut progress[piece.index];
        // Only what follows on without a hole is complete.
        if it.complete_to + 1 == piece.first && !events.is_empty() {
            it.complete_to += events.len() as u64;
            let conversation_id = it.conversation_id.as_bytes().to_vec();
            pages.push(SyncPage { conversation_id, events });
        }
    }
    bytes
}

/// About what an event takes in the answer.
fn event_bytes(event: &Event) -> usize {
    const FIXED: usize = 96;
    match &event.kind {
        Some(Kind::Message(message)) => FIXED + message.text.len(),
        Some(Kind::MessageEdited(edit)) => FIXED + edit.text.len(),
        Some(Kind::MembershipChanged(change)) => {
            FIXED + 18 * (change.added_user_ids.len() + change.removed_user_ids.len())
        }
        _ => FIXED,
    }
}

fn verdict(progress: &Progress) -> Verdict {
    let has_gap = !progress.reset && progress.complete_to < progress.visible_to;
    Verdict {
        conversation_id: progress.conversation_id.as_bytes().to_vec(),
        complete_to_sequence_number: progress.complete_to,
        gap_from_sequence_number: if has_gap { progress.complete_to + 1 } else { 0 },
        gap_to_sequence_number: if has_gap { progress.visible_to } else { 0 },
        reset: progress.reset,
        rewind_to_sequence_number: if progress.is_ahead { progress.visible_to } else { 0 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    fn member(number: u128, joined: u64, left: Option<u64>, last: u64) -> Membership {
        Membership { conversation_id: id(number), joined, left, last }
    }

    fn one(membership: Membership, cursor: Option<u64>, limit: u32) -> Progress {
        let cursors = cursor.map(|cursor| (membership.conversation_id, cursor));
        plan(&[membership], &cursors.into_iter().collect(), limit).remove(0)
    }

    #[test]
    fn a_plan_stays_within_joining_leaving_and_the_limit() {
        let bounds = |it: Progress| (it.complete_to, it.wanted_to, it.visible_to, it.reset);
        assert_eq!(bounds(one(member(1, 5, None, 20), None, 0)), (4, 20, 20, false));
        assert_eq!(bounds(one(member(1, 5, None, 20), Some(2), 3)), (4, 7, 20, false));
        assert_eq!(bounds(one(member(1, 5, None, 20), Some(20), 3)), (20, 20, 20, false));
        assert_eq!(bounds(one(member(1, 5, None, 20), Some(99), 3)), (20, 20, 20, false));
        assert_eq!(bounds(one(member(1, 5, Some(9), 20), Some(7), 9)), (7, 9, 9, false));
        assert_eq!(bounds(one(member(1, 5, Some(9), 20), Some(9), 9)), (9, 9, 9, true));
        let large = one(member(1, 1, None, 100_000), None, u32::MAX);
        assert_eq!(large.wanted_to, u64::from(SYNC_EVENTS_MAX));
    }

    #[test]
    fn a_cursor_beyond_the_last_event_is_told_where_to_go_on() {
        let rewind = |it| verdict(&it).rewind_to_sequence_number;
        assert_eq!(rewind(one(member(1, 5, None, 20), Some(21), 3)), 20);
        assert_eq!(rewind(one(member(1, 5, None, 20), Some(20), 3)), 0);
        assert_eq!(rewind(one(member(1, 5, None, 20), None, 3)), 0);
        let furthest = verdict(&one(member(1, 5, None, 20), Some(u64::MAX), 3));
        assert_eq!((furthest.rewind_to_sequence_number, furthest.reset), (20, false));
        assert_eq!(furthest.complete_to_sequence_number, 20);
        assert_eq!(furthest.gap_to_sequence_number, 0);
        // Whose membership ended is told that, and nothing of the conversation.
        let left = verdict(&one(member(1, 5, Some(9), 20), Some(99), 3));
        assert_eq!((left.rewind_to_sequence_number, left.reset), (0, true));
    }

    #[test]
    fn a_conversation_that_is_not_the_users_is_reset_and_tells_nothing() {
        let progress = plan(&[], &HashMap::from([(id(3), 7)]), 0);
        let verdict = verdict(&progress[0]);
        assert!(verdict.reset && pieces(&progress).is_empty());
        assert_eq!(verdict.complete_to_sequence_number, 0);
        assert_eq!(verdict.gap_to_sequence_number, 0);
    }

    #[test]
    fn pieces_are_pages_and_chunks_hold_several() {
        let members = [member(1, 1, None, 150), member(2, 1, None, 3), member(3, 1, None, 0)];
        let progress = plan(&members, &HashMap::new(), 0);
        let pieces = pieces(&progress);
        let bounds: Vec<_> = pieces.iter().map(|it| (it.index, it.first, it.last)).collect();
        assert_eq!(bounds, [(0, 1, 64), (0, 65, 128), (0, 129, 150), (1, 1, 3)]);
        assert_eq!(chunk_pieces(&pieces), 4);
        let many: Vec<_> = (0..9).map(|_| Piece { index: 0, first: 1, last: 64 }).collect();
        assert_eq!(chunk_pieces(&many), 4);
    }

    #[test]
    fn what_was_not_read_is_a_gap() {
        let mut it = one(member(1, 1, None, 100), None, 64);
        it.complete_to = 64;
        let verdict = verdict(&it);
        assert_eq!((verdict.gap_from_sequence_number, verdict.gap_to_sequence_number), (65, 100));
        assert!(!verdict.reset);
    }
}
