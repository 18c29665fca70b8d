//! One batch, one transaction: lock, read, plan, write, commit.
//!
//! Was a request's idempotency key used before? Looking up each key of a batch is a good part of
//! its cost, and hardly ever finds one. So a plain message from a member is written without asking:
//! if its key was used, the unique index fails the transaction, the batch is tried again with every
//! key looked up, and so are the next [`WARY_BATCHES`], since repeated keys come in swarms (clients
//! that connect again). A request whose answer may be anything but a new message is always asked for.

use super::audience::{Audience, AudienceCache};
use super::command::{Append, Appended, Change, ReceiptCommand};
use super::plan::{Found, Locked, Plan, plan};
use super::receipts::{Judged, Standing, is_told, judge};
use super::record::{MovedReceipt, OutboxRow, receipt};
use super::statements as sql;
use crate::db::{Connection, Role, Settings};
use crate::failure::{Failure, describe, is_temporary};
use crate::limits::WARY_BATCHES;
use crate::metrics::{KindLabel, TopicLabel};
use daemon::failpoint::{
    CHATD_AFTER_COMMIT, CHATD_AFTER_INSERT, CHATD_BEFORE_COMMIT, CHATD_BEFORE_INSERT, Injected,
    reach,
};
use postgres::error::SqlState;
use proto::Uuid;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// A writer's connection and what it remembers between batches.
pub(crate) struct Engine {
    settings: Settings,
    connection: Option<Connection>,
    audiences: AudienceCache,
    /// Batches whose keys are all looked up from now on.
    wary: u32,
}

/// What each request is told, in the order of the requests.
pub(crate) struct Outcome {
    pub(crate) appended: Vec<Result<Appended, Failure>>,
    pub(crate) receipts: Vec<Result<(), Failure>>,
}

/// Why a batch has no outcome. It may have been committed: only its keys can tell.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum CommitError {
    /// Connection trouble, shutdown, deadlock: the same batch may succeed later.
    Temporary(String),
    /// Another chatd used a key of the batch at the same time.
    Unique(String),
    /// Something in the batch: its requests may succeed one by one.
    Data(String),
}

impl From<postgres::Error> for CommitError {
    fn from(error: postgres::Error) -> Self {
        let reason = describe(&error);
        if error.code() == Some(&SqlState::UNIQUE_VIOLATION) {
            Self::Unique(reason)
        } else if is_temporary(&error) {
            Self::Temporary(reason)
        } else {
            Self::Data(reason)
        }
    }
}

impl From<Injected> for CommitError {
    fn from(error: Injected) -> Self {
        Self::Temporary(error.to_string())
    }
}

impl Engine {
    pub(crate) fn new(settings: Settings) -> Self {
        Self { settings, connection: None, audiences: AudienceCache::default(), wary: 0 }
    }

    /// Commits a batch. Nothing is answered here: when this returns an outcome, it is durable.
    pub(crate) fn commit(
        &mut self,
        appends: &[&Append],
        receipts: &[&ReceiptCommand],
    ) -> Result<Outcome, CommitError> {
        let is_wary = self.wary > 0;
        let outcome = self.attempt(appends, receipts, is_wary);
        self.wary = self.wary.saturating_sub(1);
        if is_wary || !matches!(outcome, Err(CommitError::Unique(_))) {
            return outcome;
        }
        self.wary = WARY_BATCHES;
        self.attempt(appends, receipts, true)
    }

    fn attempt(
        &mut self,
        appends: &[&Append],
        receipts: &[&ReceiptCommand],
        is_wary: bool,
    ) -> Result<Outcome, CommitError> {
        let usable = self.connection.as_mut().is_some_and(Connection::is_usable);
        let connection = match self.connection.take() {
            Some(connection) if usable => self.connection.insert(connection),
            _ => self.connection.insert(open(&self.settings)?),
        };
        let audiences = &mut self.audiences;
        let now_us = daemon::clock::now_us();
        let outcome = connection.transaction(|connection| {
            let plan = append(connection, audiences, appends, is_wary, now_us)?;
            let told = acknowledge(connection, audiences, receipts, &plan, now_us)?;
            let rows: Vec<&OutboxRow> = plan.outbox.iter().chain(&told.outbox).collect();
            sql::write_outbox(connection, &rows)?;
            reach(CHATD_BEFORE_COMMIT)?;
            Ok::<_, CommitError>((plan, told))
        });
        let (plan, told) = match outcome {
            Ok(done) => done,
            Err(error) => {
                // Any other failure, and the connection is not trusted with the next attempt.
                if !matches!(error, CommitError::Unique(_)) {
                    self.connection = None;
                }
                return Err(error);
            }
        };
        reach(CHATD_AFTER_COMMIT)?;
        if !(plan.outbox.is_empty() && told.outbox.is_empty()) {
            // Committed already. If this fails, the relay finds the rows by itself a little later.
            let _ = connection.batch("notify", sql::NOTIFY);
        }
        self.remember(&plan);
        self.count(&plan, &told);
        Ok(Outcome { appended: plan.answers, receipts: told.answers })
    }

    fn remember(&mut self, plan: &Plan<'_>) {
        for (conversation_id, row) in &plan.conversations {
            let (version, audience) = (row.after.membership_version, &row.after.audience);
            if self.audiences.get(conversation_id, version).is_none() {
                self.audiences.put(*conversation_id, version, Arc::clone(audience));
            }
        }
    }

    fn count(&self, plan: &Plan<'_>, told: &Told) {
        let metrics = self.settings.metrics();
        let mut topics: HashMap<&'static str, u64> = HashMap::new();
        for row in plan.outbox.iter().chain(&told.outbox) {
            *topics.entry(row.topic).or_default() += 1;
        }
        for (topic, count) in topics {
            metrics.ledger_committed.get_or_create(&TopicLabel { topic }).inc_by(count);
        }
        let messages = plan.events.iter().filter(|it| it.message_id.is_some()).count() as u64;
        let others = plan.events.len() as u64 - messages;
        for (kind, count) in [("message", messages), ("other", others)] {
            if count > 0 {
                metrics.events_committed.get_or_create(&KindLabel { kind }).inc_by(count);
            }
        }
        let repeated = plan.answers.iter().flatten().filter(|it| it.repeated).count();
        metrics.repeated.inc_by(repeated as u64);
    }
}

fn open(settings: &Settings) -> Result<Connection, CommitError> {
    let mut connection = Connection::open(settings, Role::Writer)?;
    // Again with each connection: the server may have been restarted with other settings.
    connection.check_durability(settings).map_err(CommitError::Temporary)?;
    Ok(connection)
}

/// The conversations' part of the transaction.
fn append<'a>(
    connection: &mut Connection,
    cache: &mut AudienceCache,
    appends: &[&'a Append],
    is_wary: bool,
    now_us: u64,
) -> Result<Plan<'a>, CommitError> {
    if appends.is_empty() {
        return Ok(Plan::default());
    }
    let ids: BTreeSet<Uuid> = appends.iter().map(|it| it.conversation_id).collect();
    let rows = sql::lock(connection, &ids.into_iter().collect::<Vec<_>>())?;
    let versions: Vec<_> =
        rows.iter().map(|row| (row.conversation_id, row.membership_version)).collect();
    let mut audiences = audiences(connection, cache, &versions)?;
    let conversations = rows.into_iter().map(|row| {
        let audience = audiences.remove(&row.conversation_id).unwrap_or_default();
        let locked = Locked {
            last_sequence_number: row.last_sequence_number,
            last_message_number: row.last_message_number,
            membership_version: row.membership_version,
            created_by: row.created_by,
            last_event_at_us: row.last_event_at_us,
            audience,
        };
        (row.conversation_id, locked)
    });
    let conversations = conversations.collect();
    let known = sql::known_keys(connection, &to_look_up(appends, &conversations, is_wary))?;
    let plan = plan(appends, Found { conversations, known }, now_us, &mut proto::id::new);
    reach(CHATD_BEFORE_INSERT)?;
    if !sql::write_conversations(connection, &plan)? {
        return Err(CommitError::Temporary("a locked conversation changed".to_owned()));
    }
    sql::write_members(connection, &plan.members)?;
    sql::write_events(connection, &plan.events)?;
    reach(CHATD_AFTER_INSERT)?;
    Ok(plan)
}

/// The requests whose keys are looked up, with their indexes: all of them, or those that would not
/// be written as a new message, which is what the unique index looks at.
fn to_look_up<'a>(
    appends: &[&'a Append],
    conversations: &HashMap<Uuid, Locked>,
    is_wary: bool,
) -> Vec<(usize, &'a Append)> {
    let is_message = |it: &Append| matches!(it.change, Change::Message { .. });
    // Changes may turn a member of now into a stranger within the batch.
    let all = is_wary || !appends.iter().all(|it| is_message(it));
    let is_granted = |it: &Append| {
        let locked = conversations.get(&it.conversation_id);
        locked.is_some_and(|locked| locked.audience.contains(&it.sender_id))
    };
    let indexed = appends.iter().enumerate().map(|(index, it)| (index, *it));
    indexed.filter(|(_, it)| all || !is_granted(it)).collect()
}

/// What became of a batch's receipts.
#[derive(Default)]
struct Told {
    answers: Vec<Result<(), Failure>>,
    outbox: Vec<OutboxRow>,
}

/// The receipts' part of the transaction.
fn acknowledge(
    connection: &mut Connection,
    cache: &mut AudienceCache,
    receipts: &[&ReceiptCommand],
    plan: &Plan<'_>,
    now_us: u64,
) -> Result<Told, CommitError> {
    if receipts.is_empty() {
        return Ok(Told::default());
    }
    let mut standings: HashMap<Uuid, Standing> = HashMap::new();
    let mut unknown = BTreeSet::new();
    for command in receipts {
        match plan.conversations.get(&command.conversation_id) {
            Some(row) => {
                let audience = Arc::clone(&row.after.audience);
                let last_sequence_number = row.after.last_sequence_number;
                let standing = Standing { last_sequence_number, audience };
                standings.insert(command.conversation_id, standing);
            }
            None => {
                unknown.insert(command.conversation_id);
            }
        }
    }
    let rows = sql::read(connection, &unknown.into_iter().collect::<Vec<_>>())?;
    let versions: Vec<_> = rows.iter().map(|(id, _, version)| (*id, *version)).collect();
    let mut audiences = audiences(connection, cache, &versions)?;
    for (conversation_id, last_sequence_number, _) in rows {
        let audience = audiences.remove(&conversation_id).unwrap_or_default();
        standings.insert(conversation_id, Standing { last_sequence_number, audience });
    }
    let Judged { answers, cursors } = judge(receipts, &standings);
    let mut outbox = Vec::new();
    for moved in sql::write_receipts(connection, &cursors, now_us)? {
        let (Some(cursor), Some(standing)) = (cursors.get(&moved.key), standings.get(&moved.key.0))
        else {
            continue;
        };
        if is_told(&standing.audience, cursor, moved.read_sequence_number) {
            let moved = MovedReceipt {
                conversation_id: moved.key.0,
                user_id: moved.key.1,
                device_id: moved.key.2,
                delivered_sequence_number: moved.delivered_sequence_number,
                read_sequence_number: moved.read_sequence_number,
                traceparent: &cursor.traceparent,
                recipients: standing.audience.packed(),
            };
            outbox.push(receipt(&moved, now_us));
        }
    }
    Ok(Told { answers, outbox })
}

/// The audiences of conversations at these versions, from the cache where it knows them.
fn audiences(
    connection: &mut Connection,
    cache: &mut AudienceCache,
    versions: &[(Uuid, u64)],
) -> Result<HashMap<Uuid, Arc<Audience>>, CommitError> {
    let mut audiences = HashMap::with_capacity(versions.len());
    let mut missing = Vec::new();
    for (conversation_id, version) in versions {
        match cache.get(conversation_id, *version) {
            Some(audience) => {
                audiences.insert(*conversation_id, audience);
            }
            None => missing.push((*conversation_id, *version)),
        }
    }
    if missing.is_empty() {
        return Ok(audiences);
    }
    let ids: Vec<Uuid> = missing.iter().map(|(id, _)| *id).collect();
    let mut found = sql::audiences(connection, &ids)?;
    for (conversation_id, version) in missing {
        let audience = Arc::new(found.remove(&conversation_id).unwrap_or_default());
        cache.put(conversation_id, version, Arc::clone(&audience));
        audiences.insert(conversation_id, audience);
    }
    Ok(audiences)
}
