//! The log, as the client protocol tells it.

use crate::db::{Connection, Query, signed, unsigned};
use crate::failure::Failure;
use crate::limits::{HISTORY_EVENTS_DEFAULT, HISTORY_EVENTS_MAX};
use postgres::Row;
use proto::client::{
    Event, MembershipChanged, Message as Said, MessageDeleted, MessageEdited, Reaction,
    SettingsChanged, event::Kind,
};
use proto::{Message, Uuid};

/// What a member may see of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Membership {
    pub(crate) joined_sequence_number: u64,
    pub(crate) last_sequence_number: u64,
}

const MEMBERSHIP: Query = Query {
    name: "membership",
    sql: "SELECT m.joined_sequence_number, c.last_sequence_number
          FROM messaging.members m JOIN messaging.conversations c USING (conversation_id)
          WHERE m.conversation_id = $1 AND m.user_id = $2 AND m.left_sequence_number IS NULL",
};

const RANGE: Query = Query {
    name: "events_range",
    sql: "SELECT conversation_id, sequence_number, kind, message_id, message_number, sender_id,
                 text, details, created_at_us
          FROM messaging.events
          WHERE conversation_id = $1 AND sequence_number BETWEEN $2 AND $3
          ORDER BY sequence_number",
};

/// An error if the user is not a member now.
pub(crate) fn membership(
    connection: &mut Connection,
    conversation_id: Uuid,
    user_id: Uuid,
) -> Result<Membership, Failure> {
    let row = connection
        .row(&MEMBERSHIP, &[&conversation_id, &user_id])?
        .ok_or_else(Failure::not_a_member)?;
    Ok(Membership {
        joined_sequence_number: unsigned(row.get(0)),
        last_sequence_number: unsigned(row.get(1)),
    })
}

/// One page of the log in ascending order, and the conversation's last sequence number.
pub(crate) fn history(
    connection: &mut Connection,
    conversation_id: Uuid,
    user_id: Uuid,
    (after, before): (Option<u64>, Option<u64>),
    limit: Option<u64>,
) -> Result<(Vec<Event>, u64), Failure> {
    let membership = membership(connection, conversation_id, user_id)?;
    let Some((from, to)) = page(membership, after, before, limit) else {
        return Ok((Vec::new(), membership.last_sequence_number));
    };
    let rows = connection.rows(&RANGE, &[&conversation_id, &signed(from), &signed(to)])?;
    Ok((rows.iter().map(event).collect(), membership.last_sequence_number))
}

/// First and last sequence number of the page that is asked for; nothing if it is empty.
/// `after` counts upwards from there; else the page ends below `before`, or at the newest.
fn page(
    membership: Membership,
    after: Option<u64>,
    before: Option<u64>,
    limit: Option<u64>,
) -> Option<(u64, u64)> {
    let limit = limit.unwrap_or(HISTORY_EVENTS_DEFAULT).clamp(1, HISTORY_EVENTS_MAX);
    let below = before.map_or(u64::MAX, |before| before.saturating_sub(1));
    let to = membership.last_sequence_number.min(below);
    let first = membership.joined_sequence_number;
    let (from, to) = match after {
        Some(after) => {
            let from = first.max(after.saturating_add(1));
            (from, to.min(from.saturating_add(limit - 1)))
        }
        None => (first.max((to + 1).saturating_sub(limit)), to),
    };
    (from <= to).then_some((from, to))
}

/// An event from the columns of [`RANGE`].
pub(super) fn event(row: &Row) -> Event {
    let conversation_id: Uuid = row.get(0);
    let sender_id: Uuid = row.get(5);
    Event {
        conversation_id: conversation_id.as_bytes().to_vec(),
        sequence_number: unsigned(row.get(1)),
        created_at_us: unsigned(row.get(8)),
        sender_id: sender_id.as_bytes().to_vec(),
        kind: kind(row),
    }
}

/// A kind that this build does not know is an event without a kind, which clients skip over.
fn kind(row: &Row) -> Option<Kind> {
    let details: Option<&[u8]> = row.get(7);
    let details = details.unwrap_or_default();
    match row.get::<_, i16>(2) {
        1 => {
            let message_id: Option<Uuid> = row.get(3);
            let text: Option<String> = row.get(6);
            Some(Kind::Message(Said {
                message_id: message_id.map(|id| id.as_bytes().to_vec()).unwrap_or_default(),
                message_number: unsigned(row.get(4)),
                text: text.unwrap_or_default(),
            }))
        }
        2 => MessageEdited::decode(details).ok().map(Kind::MessageEdited),
        3 => MessageDeleted::decode(details).ok().map(Kind::MessageDeleted),
        4 => Reaction::decode(details).ok().map(Kind::Reaction),
        5 => MembershipChanged::decode(details).ok().map(Kind::MembershipChanged),
        6 => SettingsChanged::decode(details).ok().map(Kind::SettingsChanged),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_stay_within_the_membership() {
        let seen = Membership { joined_sequence_number: 5, last_sequence_number: 20 };
        let page = |after, before, limit| page(seen, after, before, Some(limit));
        assert_eq!(page(None, None, 10), Some((11, 20)));
        assert_eq!(page(None, None, 100), Some((5, 20)));
        assert_eq!(page(None, Some(11), 4), Some((7, 10)));
        assert_eq!(page(None, Some(5), 4), None);
        assert_eq!(page(None, Some(0), 4), None);
        assert_eq!(page(Some(0), None, 4), Some((5, 8)));
        assert_eq!(page(Some(18), None, 4), Some((19, 20)));
        assert_eq!(page(Some(20), None, 4), None);
        assert_eq!(page(Some(u64::MAX), None, 4), None);
        assert_eq!(page(Some(9), Some(12), 200), Some((10, 11)));
        assert_eq!(page(None, None, 0), Some((20, 20)), "a page holds at least one event");
    }
}
