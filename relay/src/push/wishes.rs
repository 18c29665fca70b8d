//! What PostgreSQL knows about whether a request is wanted: membership, muting, read cursors.

use super::windows::Request;
use crate::database::{connect, explain};
use postgres::{Client, Row, Statement};
use proto::Uuid;

/// Why somebody is not pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unwanted {
    /// It has a session.
    Online,
    /// It is no member any more, or joined after these messages.
    Left,
    Muted,
    /// Another device has read them.
    Read,
}

impl Unwanted {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Left => "left",
            Self::Muted => "muted",
            Self::Read => "read",
        }
    }
}

/// For each place in the arrays: is the user a member who may see the message $3, is it muted at $4,
/// how far has it read.
const ASK: &str = "
    SELECT asked.place, m.is_member, m.is_muted,
        COALESCE((SELECT max(r.read_sequence_number) FROM messaging.receipts r
            WHERE r.conversation_id = asked.conversation_id AND r.user_id = asked.user_id), 0)
            >= asked.last
    FROM unnest($1::uuid[], $2::uuid[], $3::bigint[])
        WITH ORDINALITY AS asked (conversation_id, user_id, last, place)
    LEFT JOIN LATERAL (
        SELECT left_sequence_number IS NULL AND joined_sequence_number <= asked.last AS is_member,
            COALESCE(muted_until_us > $4, false) AS is_muted
        FROM messaging.members
        WHERE conversation_id = asked.conversation_id AND user_id = asked.user_id
    ) m ON true";

/// A page of the conversation's members in the order of their ids, after $2, who may see the message $3.
const PAGE: &str = "
    SELECT m.user_id, true,
        COALESCE(m.muted_until_us > $4, false),
        COALESCE((SELECT max(r.read_sequence_number) FROM messaging.receipts r
            WHERE r.conversation_id = $1 AND r.user_id = m.user_id), 0) >= $3
    FROM messaging.members m
    WHERE m.conversation_id = $1 AND m.user_id > $2 AND m.left_sequence_number IS NULL
        AND m.joined_sequence_number <= $3
    ORDER BY m.user_id LIMIT $5";

struct Connected {
    client: Client,
    ask: Statement,
    page: Statement,
}

pub(crate) struct Wishes {
    url: String,
    connected: Option<Connected>,
}

/// A member of a large conversation, and why it is not to be pushed.
pub(crate) type Member = (Uuid, Option<Unwanted>);

impl Wishes {
    pub(crate) fn new(url: &str) -> Self {
        Self { url: url.to_owned(), connected: None }
    }

    /// For each of the users' requests: why it is not wanted, if it is not.
    pub(crate) fn ask(
        &mut self,
        asked: &[(Uuid, &Request)],
        now_us: u64,
    ) -> Result<Vec<Option<Unwanted>>, String> {
        if asked.is_empty() {
            return Ok(Vec::new());
        }
        let conversations: Vec<Uuid> =
            asked.iter().map(|(_, it)| it.latest.conversation_id).collect();
        let users: Vec<Uuid> = asked.iter().map(|(user, _)| *user).collect();
        let last: Vec<i64> =
            asked.iter().map(|(_, it)| it.latest.sequence_number.cast_signed()).collect();
        let now_us = now_us.cast_signed();
        let rows =
            self.with(|it| it.client.query(&it.ask, &[&conversations, &users, &last, &now_us]))?;
        let mut verdicts = vec![Some(Unwanted::Left); asked.len()];
        for row in rows {
            let place = usize::try_from(row.get::<_, i64>(0) - 1).unwrap_or(usize::MAX);
            if let Some(verdict) = verdicts.get_mut(place) {
                *verdict = unwanted(&row);
            }
        }
        Ok(verdicts)
    }

    /// The next members of a large conversation, at most `limit`.
    pub(crate) fn page(
        &mut self,
        request: &Request,
        after: Uuid,
        now_us: u64,
        limit: usize,
    ) -> Result<Vec<Member>, String> {
        let conversation = request.latest.conversation_id;
        let last = request.latest.sequence_number.cast_signed();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self.with(|it| {
            let now_us = now_us.cast_signed();
            it.client.query(&it.page, &[&conversation, &after, &last, &now_us, &limit])
        })?;
        Ok(rows.iter().map(|row| (row.get(0), unwanted(row))).collect())
    }

    fn with(
        &mut self,
        work: impl FnOnce(&mut Connected) -> Result<Vec<Row>, postgres::Error>,
    ) -> Result<Vec<Row>, String> {
        let connected = match &mut self.connected {
            Some(connected) => connected,
            None => self.connected.insert(Connected::new(&self.url)?),
        };
        let outcome = work(connected);
        if outcome.is_err() {
            self.connected = None;
        }
        outcome.map_err(|error| format!("postgres: {}", explain(&error)))
    }
}

impl Connected {
    fn new(url: &str) -> Result<Self, String> {
        let mut client = connect(url, "push").map_err(|error| format!("postgres: {error}"))?;
        let mut prepare = || -> Result<[Statement; 2], postgres::Error> {
            // Rows are found by index, and nothing else is ever right.
            client.batch_execute("SET enable_hashjoin = off; SET enable_mergejoin = off")?;
            Ok([client.prepare(ASK)?, client.prepare(PAGE)?])
        };
        let [ask, page] = prepare().map_err(|error| format!("postgres: {}", explain(&error)))?;
        Ok(Self { client, ask, page })
    }
}

/// From the columns after the first; who is not found is no member.
fn unwanted(row: &Row) -> Option<Unwanted> {
    let is_member: Option<bool> = row.get(1);
    let is_muted: Option<bool> = row.get(2);
    if is_member != Some(true) {
        Some(Unwanted::Left)
    } else if is_muted == Some(true) {
        Some(Unwanted::Muted)
    } else if row.get(3) {
        Some(Unwanted::Read)
    } else {
        None
    }
}
