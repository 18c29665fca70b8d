//! Conversations as their members see them.

use crate::db::{Connection, Query, signed, unsigned};
use crate::failure::Failure;
use crate::limits::{LIST_MEMBERS_MAX, MEMBERS_NAMED_MAX, OWN_UNREAD_EVENTS_MAX, RECEIPTS_MAX};
use postgres::Row;
use proto::client::ReceiptSummary;
use proto::{Message, Uuid};
use std::collections::HashMap;

/// A conversation, for one of its members.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) conversation_id: Uuid,
    pub(crate) title: String,
    pub(crate) last_sequence_number: u64,
    pub(crate) message_count: u64,
    /// Others' messages beyond the furthest read cursor of the user's devices.
    pub(crate) unread_count: u64,
    pub(crate) read_sequence_number: u64,
    pub(crate) joined_sequence_number: u64,
    /// Nothing if it is not muted now.
    pub(crate) muted_until_us: Option<u64>,
    pub(crate) created_at_us: u64,
    pub(crate) member_count: u64,
    pub(crate) members: Vec<Member>,
    pub(crate) last_message: Option<LastMessage>,
}

#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) user_id: Uuid,
    pub(crate) joined_sequence_number: u64,
}

#[derive(Debug)]
pub(crate) struct LastMessage {
    pub(crate) sequence_number: u64,
    pub(crate) sender_id: Uuid,
    pub(crate) text: String,
    pub(crate) created_at_us: u64,
}

/// Which part of the list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Page {
    pub(crate) limit: u64,
    /// The last conversation, or member, of the page before.
    pub(crate) before: Option<Uuid>,
}

/// What follows `FROM page`: each conversation's read cursor, counts and last message. Messages beyond
/// the cursor are a difference of message numbers; which of them are one's own only their rows tell.
macro_rules! view {
    ($page:literal) => {
        concat!(
            "WITH page AS MATERIALIZED (",
            $page,
            ")
            SELECT page.conversation_id, page.title, page.last_sequence_number,
                   page.last_message_number, page.joined_sequence_number, page.created_at_us,
                   cursor.read, base.message_number, last.sequence_number, last.sender_id,
                   last.text, last.created_at_us, members.count, own.count,
                   page.muted_until_us
            FROM page
            CROSS JOIN LATERAL (
                SELECT COALESCE(max(r.read_sequence_number), 0) AS read FROM messaging.receipts r
                WHERE r.conversation_id = page.conversation_id AND r.user_id = $1
            ) cursor
            LEFT JOIN LATERAL (
                SELECT e.message_number FROM messaging.events e
                WHERE e.conversation_id = page.conversation_id
                  AND e.sequence_number = GREATEST(cursor.read, page.joined_sequence_number)
            ) base ON true
            LEFT JOIN LATERAL (
                SELECT e.sequence_number, e.sender_id, e.text, e.created_at_us
                FROM messaging.events e
                WHERE e.conversation_id = page.conversation_id AND e.kind = 1
                  AND e.sequence_number >= page.joined_sequence_number
                ORDER BY e.sequence_number DESC LIMIT 1
            ) last ON true
            CROSS JOIN LATERAL (
                SELECT count(*) FILTER (WHERE beyond.kind = 1 AND beyond.sender_id = $1) AS count
                FROM (
                    SELECT e.kind, e.sender_id FROM messaging.events e
                    WHERE e.conversation_id = page.conversation_id AND e.sequence_number
                        > GREATEST(cursor.read, page.joined_sequence_number)
                    ORDER BY e.sequence_number DESC LIMIT $3
                ) beyond
            ) own
            CROSS JOIN LATERAL (
                SELECT count(*) AS count FROM messaging.members m
                WHERE m.conversation_id = page.conversation_id AND m.left_sequence_number IS NULL
            ) members
            ORDER BY page.last_event_at_us DESC, page.conversation_id DESC"
        )
    };
}

const ONE: Query = Query {
    name: "conversation",
    sql: view!(
        "SELECT c.*, m.joined_sequence_number, m.muted_until_us
         FROM messaging.members m JOIN messaging.conversations c USING (conversation_id)
         WHERE m.conversation_id = $2 AND m.user_id = $1 AND m.left_sequence_number IS NULL"
    ),
};

const LIST: Query = Query {
    name: "conversations",
    sql: view!(
        "SELECT c.*, m.joined_sequence_number, m.muted_until_us
         FROM messaging.members m JOIN messaging.conversations c USING (conversation_id)
         WHERE m.user_id = $1 AND m.left_sequence_number IS NULL
           AND ($2::uuid IS NULL OR (c.last_event_at_us, c.conversation_id) < (
               SELECT b.last_event_at_us, b.conversation_id
               FROM messaging.conversations b WHERE b.conversation_id = $2))
         ORDER BY c.last_event_at_us DESC, c.conversation_id DESC LIMIT $4"
    ),
};

const MEMBERS: Query = Query {
    name: "conversation_members",
    sql: "SELECT asked.id, m.user_id, m.joined_sequence_number
          FROM unnest($1::uuid[]) AS asked (id)
          CROSS JOIN LATERAL (
              SELECT user_id, joined_sequence_number FROM messaging.members
              WHERE conversation_id = asked.id AND left_sequence_number IS NULL
                AND ($3::uuid IS NULL OR (joined_sequence_number, user_id) > (
                    SELECT b.joined_sequence_number, b.user_id FROM messaging.members b
                    WHERE b.conversation_id = asked.id AND b.user_id = $3))
              ORDER BY joined_sequence_number, user_id LIMIT $2
          ) m",
};

const RECEIPTS: Query = Query {
    name: "receipts",
    sql: "SELECT r.user_id, r.device_id, r.delivered_sequence_number, r.read_sequence_number
          FROM messaging.receipts r JOIN messaging.members m
               ON m.conversation_id = r.conversation_id AND m.user_id = r.user_id
          WHERE r.conversation_id = $1 AND m.left_sequence_number IS NULL
            AND r.delivered_sequence_number >= $2
          ORDER BY r.user_id, r.device_id LIMIT $3",
};

const RECEIPT_SUMMARY: Query = Query {
    name: "receipt_summary",
    sql: "SELECT summary FROM messaging.receipt_summaries WHERE conversation_id = $1",
};

/// A page of the user's conversations, newest activity first, each with some of its members.
pub(crate) fn list(
    connection: &mut Connection,
    user_id: Uuid,
    page: Page,
) -> Result<Vec<View>, Failure> {
    let limit = signed(page.limit);
    let rows = connection.rows(&LIST, &[&user_id, &page.before, &OWN_UNREAD_EVENTS_MAX, &limit])?;
    let mut views: Vec<View> = rows.iter().map(view).collect();
    let ids: Vec<Uuid> = views.iter().map(|it| it.conversation_id).collect();
    let mut members = read_members(connection, &ids, LIST_MEMBERS_MAX, None)?;
    for view in &mut views {
        view.members = members.remove(&view.conversation_id).unwrap_or_default();
    }
    Ok(views)
}

/// One of the user's conversations, with the first page of its members.
pub(crate) fn one(
    connection: &mut Connection,
    user_id: Uuid,
    conversation_id: Uuid,
) -> Result<View, Failure> {
    let row = connection.row(&ONE, &[&user_id, &conversation_id, &OWN_UNREAD_EVENTS_MAX])?;
    let mut view = row.as_ref().map(view).ok_or_else(Failure::not_a_member)?;
    let page = Page { limit: MEMBERS_NAMED_MAX as u64, before: None };
    view.members = members_of(connection, conversation_id, page)?;
    Ok(view)
}

/// A page of the members; the caller has checked that the asker is one of them.
pub(crate) fn members_of(
    connection: &mut Connection,
    conversation_id: Uuid,
    page: Page,
) -> Result<Vec<Member>, Failure> {
    let mut members =
        read_members(connection, &[conversation_id], signed(page.limit), page.before)?;
    Ok(members.remove(&conversation_id).unwrap_or_default())
}

fn read_members(
    connection: &mut Connection,
    ids: &[Uuid],
    limit: i64,
    after: Option<Uuid>,
) -> Result<HashMap<Uuid, Vec<Member>>, Failure> {
    let mut members: HashMap<Uuid, Vec<Member>> = HashMap::new();
    for row in connection.rows(&MEMBERS, &[&ids, &limit, &after])? {
        let member = Member { user_id: row.get(1), joined_sequence_number: unsigned(row.get(2)) };
        members.entry(row.get(0)).or_default().push(member);
    }
    Ok(members)
}

/// User, device, delivered and read cursor, of members who have come at least as far as `delivered`.
pub(crate) fn receipts(
    connection: &mut Connection,
    conversation_id: Uuid,
    delivered: u64,
) -> Result<Vec<(Uuid, Uuid, u64, u64)>, Failure> {
    let rows =
        connection.rows(&RECEIPTS, &[&conversation_id, &signed(delivered), &RECEIPTS_MAX])?;
    let receipt = |row: &Row| (row.get(0), row.get(1), unsigned(row.get(2)), unsigned(row.get(3)));
    Ok(rows.iter().map(receipt).collect())
}

/// How many members have come how far; nothing of a conversation that was never large.
pub(crate) fn receipt_summary(
    connection: &mut Connection,
    conversation_id: Uuid,
) -> Result<Option<ReceiptSummary>, Failure> {
    let row = connection.row(&RECEIPT_SUMMARY, &[&conversation_id])?;
    Ok(row.and_then(|row| ReceiptSummary::decode(row.get::<_, &[u8]>(0)).ok()))
}

fn view(row: &Row) -> View {
    let message_count = unsigned(row.get(3));
    let read_messages = row.get::<_, Option<i64>>(7).map_or(0, unsigned);
    let own_messages = unsigned(row.get(13));
    let muted_until_us = row.get::<_, Option<i64>>(14).map(unsigned);
    let last_message = row.get::<_, Option<i64>>(8).map(|sequence_number| LastMessage {
        sequence_number: unsigned(sequence_number),
        sender_id: row.get(9),
        text: row.get::<_, Option<String>>(10).unwrap_or_default(),
        created_at_us: unsigned(row.get(11)),
    });
    View {
        conversation_id: row.get(0),
        title: row.get(1),
        last_sequence_number: unsigned(row.get(2)),
        message_count,
        unread_count: message_count.saturating_sub(read_messages + own_messages),
        read_sequence_number: unsigned(row.get(6)),
        joined_sequence_number: unsigned(row.get(4)),
        muted_until_us: muted_until_us.filter(|it| *it > daemon::clock::now_us()),
        created_at_us: unsigned(row.get(5)),
        member_count: unsigned(row.get(12)),
        members: Vec::new(),
        last_message,
    }
}
