//! One batch, one transaction: lock, read, plan, write, commit.
//!
//! Was a request's idempotency key used before? Looking up each key of a batch is a good part of
//! its cost, and hardly ever finds one. So a plain message from a member is written without asking:
//! if its key was used, the unique index fails the transaction, the batch is tried again with every
//! key looked up, and so are the next [`WARY_BATCHES`], since repeated keys come in swarms (clients
//! that connect again). A request whose answer may be anything but a new message is always asked for.
//!
//! Are the conversations as this writer left them? Locking and reading them is as good a part. So a
//! batch is planned with what is remembered, and its update compares: if another chatd wrote to one of
//! them, nothing is written, the batch is done again with every conversation locked first, and so are
//! the next [`CAUTIOUS_BATCHES`]. A few messages of one conversation, which are one statement, are then
//! planned with what was just read, and compared as well. What is refused is always refused under the
//! lock.

use super::acknowledge::{Acknowledged, acknowledge};
use super::audience::{Audience, AudienceCache};
use super::command::{Append, Appended, Change, ReceiptCommand};
use super::plan::{Found, Locked, Plan, plan};
use super::receipts::Standing;
use super::record::OutboxRow;
use super::remembered::Remembered;
use super::statements::{ConversationState, shard};
use super::store::{Source, Store};
use crate::failure::{Failure, describe, is_temporary};
use crate::limits::{CAUTIOUS_BATCHES, COPY_ROWS_MIN, WARY_BATCHES};
use daemon::failpoint::{
    CHATD_AFTER_COMMIT, CHATD_AFTER_INSERT, CHATD_BEFORE_COMMIT, CHATD_BEFORE_INSERT, Injected,
    reach,
};
use postgres::error::SqlState;
use proto::Uuid;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// A writer's connection and what it remembers between batches.
pub struct Engine<S: Source> {
    source: S,
    connection: Option<S::Store>,
    audiences: AudienceCache,
    remembered: Remembered,
    /// Batches whose keys are all looked up from now on.
    wary: u32,
    /// Batches for which nothing is remembered from now on.
    cautious: u32,
    /// The relay was not told of what was committed.
    owes_wake: bool,
}

/// What a batch's attempt leaves to the database.
#[derive(Debug, Clone, Copy)]
struct Care {
    /// Every key is looked up.
    keys: bool,
    footing: Footing,
}

/// What conversations are planned with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Footing {
    /// As this writer left them.
    Remembered,
    /// As they were read a moment ago. A batch that is not a single statement locks them.
    Read,
    Locked,
}

/// Why an attempt wrote nothing, or nobody knows whether it did.
enum Undone {
    /// A conversation is not as it was remembered or read.
    Stale,
    /// A conversation that nobody has locked would not be written, so that nothing compares it.
    Uncompared,
    Failed(CommitError),
}

impl<E> From<E> for Undone
where
    CommitError: From<E>,
{
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// What each request is told, in the order of the requests.
#[derive(Debug)]
pub struct Outcome {
    /// What each append is told.
    pub appended: Vec<Result<Appended, Failure>>,
    /// What each receipt is told.
    pub receipts: Vec<Result<(), Failure>>,
}

/// Why a batch has no outcome. It may have been committed: only its keys can tell.
#[derive(Debug, PartialEq, Eq)]
pub enum CommitError {
    /// Connection trouble, shutdown, deadlock: the same batch may succeed later.
    Temporary(String),
    /// Another chatd used a key of the batch at the same time.
    Unique(String),
    /// Something in the batch: its requests may succeed one by one.
    Data(String),
}

impl CommitError {
    /// What was wrong, for the log.
    pub(super) fn reason(&self) -> &str {
        match self {
            Self::Temporary(reason) | Self::Unique(reason) | Self::Data(reason) => reason,
        }
    }
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

impl<S: Source> Engine<S> {
    /// An engine that connects with its first batch.
    pub fn new(source: S) -> Self {
        Self {
            source,
            connection: None,
            audiences: AudienceCache::default(),
            remembered: Remembered::default(),
            wary: 0,
            cautious: 0,
            owes_wake: false,
        }
    }

    /// Commits a batch. Nothing is answered here: when this returns an outcome, it is durable.
    /// [`Self::wake_relay`] is to follow, once everybody has their answers.
    pub fn commit(
        &mut self,
        appends: &[&Append],
        receipts: &[&ReceiptCommand],
    ) -> Result<Outcome, CommitError> {
        let footing = if self.cautious > 0 { Footing::Read } else { Footing::Remembered };
        let mut care = Care { keys: self.wary > 0, footing };
        self.wary = self.wary.saturating_sub(1);
        self.cautious = self.cautious.saturating_sub(1);
        // Each doubt is met once.
        loop {
            match self.attempt(appends, receipts, care) {
                Ok(outcome) => return Ok(outcome),
                Err(Undone::Stale | Undone::Uncompared) if care.footing == Footing::Locked => {
                    let reason = "a locked conversation changed".to_owned();
                    return Err(CommitError::Temporary(reason));
                }
                Err(Undone::Stale) => {
                    let was_remembered = care.footing == Footing::Remembered;
                    self.cautious = CAUTIOUS_BATCHES;
                    care.footing = if was_remembered { Footing::Read } else { Footing::Locked };
                }
                Err(Undone::Uncompared) => care.footing = Footing::Locked,
                Err(Undone::Failed(CommitError::Unique(_))) if !care.keys => {
                    self.wary = WARY_BATCHES;
                    care = Care { keys: true, footing: Footing::Locked };
                }
                Err(Undone::Failed(error)) => return Err(error),
            }
        }
    }

    fn attempt(
        &mut self,
        appends: &[&Append],
        receipts: &[&ReceiptCommand],
        care: Care,
    ) -> Result<Outcome, Undone> {
        let usable = self.connection.as_mut().is_some_and(Store::is_usable);
        let connection = match self.connection.take() {
            Some(connection) if usable => self.connection.insert(connection),
            _ => {
                // It may be another server's database now.
                self.remembered.forget_all();
                self.connection.insert(self.source.connect()?)
            }
        };
        let audiences = &mut self.audiences;
        let now_us = self.source.now_us();
        let ids: BTreeSet<Uuid> = appends.iter().map(|it| it.conversation_id).collect();
        let remembered = match care.footing {
            Footing::Remembered => self.remembered.rows(ids.iter()),
            Footing::Read | Footing::Locked => None,
        };
        let is_alone = ids.len() == 1 && receipts.is_empty() && are_plain(appends);
        let new_id: &mut dyn FnMut() -> Uuid = &mut || self.source.new_id();
        let batch = Batch { connection, audiences, care, now_us, new_id };
        let outcome = match remembered {
            Some(rows) if is_alone => batch.append_alone(appends, rows),
            None if is_alone && care.footing != Footing::Locked => {
                batch.read_and_append(appends, &ids)
            }
            remembered => batch.write(appends, receipts, &ids, remembered),
        };
        let (plan, told) = match outcome {
            Ok(done) => done,
            Err(undone) => {
                self.remembered.forget(ids.iter());
                // Any other failure, and the connection is not trusted with the next attempt.
                if matches!(&undone, Undone::Failed(error) if !matches!(error, CommitError::Unique(_)))
                {
                    self.connection = None;
                }
                return Err(undone);
            }
        };
        reach(CHATD_AFTER_COMMIT)?;
        self.owes_wake |= !(plan.outbox.is_empty() && told.outbox.is_empty());
        self.remember(&plan);
        self.source.committed(&plan, &told.outbox);
        Ok(Outcome { appended: plan.answers, receipts: told.answers })
    }

    /// Tells the relay that there is something in the outbox, if there is.
    pub fn wake_relay(&mut self) {
        if std::mem::take(&mut self.owes_wake) {
            self.source.wake_relay();
        }
    }

    fn remember(&mut self, plan: &Plan<'_>) {
        for (conversation_id, row) in &plan.conversations {
            let (version, audience) = (row.after.membership_version, &row.after.audience);
            if self.audiences.get(conversation_id, version).is_none() {
                self.audiences.put(*conversation_id, version, Arc::clone(audience));
            }
            self.remembered.put(ConversationState {
                conversation_id: *conversation_id,
                last_sequence_number: row.after.last_sequence_number,
                last_message_number: row.after.last_message_number,
                membership_version: version,
                created_by: row.after.created_by,
                last_event_at_us: row.after.last_event_at_us,
            });
        }
    }
}

/// Messages and titles, few enough for one statement.
fn are_plain(appends: &[&Append]) -> bool {
    let is_plain =
        |it: &&Append| matches!(it.change, Change::Message { .. } | Change::Title { .. });
    appends.len() < COPY_ROWS_MIN && appends.iter().all(is_plain)
}

/// One attempt at a batch.
struct Batch<'e, S> {
    connection: &'e mut S,
    audiences: &'e mut AudienceCache,
    care: Care,
    now_us: u64,
    new_id: &'e mut dyn FnMut() -> Uuid,
}

impl<S: Store> Batch<'_, S> {
    /// All of it in one transaction; with the conversations as they are remembered, or locked.
    fn write<'a>(
        self,
        appends: &[&'a Append],
        receipts: &[&ReceiptCommand],
        ids: &BTreeSet<Uuid>,
        remembered: Option<Vec<ConversationState>>,
    ) -> Result<(Plan<'a>, Acknowledged), Undone> {
        let Self { connection, audiences, care, now_us, new_id } = self;
        connection.transaction(|connection| {
            let mut batch = Batch { connection, audiences, care, now_us, new_id };
            let plan = batch.append(appends, ids, remembered)?;
            let told = batch.acknowledge(receipts, &plan)?;
            let mut rows: Vec<&OutboxRow> = plan.outbox.iter().chain(&told.outbox).collect();
            // A shard's rows side by side, as relays read them; a key is of one shard, and its rows stay
            // in their order.
            rows.sort_by_cached_key(|row| shard(row));
            batch.connection.write_outbox(&rows)?;
            reach(CHATD_BEFORE_COMMIT)?;
            Ok((plan, told))
        })
    }

    /// The conversations' part of the transaction.
    fn append<'a>(
        &mut self,
        appends: &[&'a Append],
        ids: &BTreeSet<Uuid>,
        remembered: Option<Vec<ConversationState>>,
    ) -> Result<Plan<'a>, Undone> {
        if appends.is_empty() {
            return Ok(Plan::default());
        }
        let plan = match remembered {
            Some(rows) => self.plan_unlocked(appends, rows)?,
            None => {
                let ids: Vec<Uuid> = ids.iter().copied().collect();
                let rows = self.connection.lock(&ids)?;
                self.plan(appends, rows)?
            }
        };
        reach(CHATD_BEFORE_INSERT)?;
        if !self.connection.write_conversations(&plan)? {
            return Err(Undone::Stale);
        }
        self.connection.write_members(&plan.members)?;
        self.connection.write_events(&plan.events)?;
        self.connection.write_texts(&plan.texts)?;
        reach(CHATD_AFTER_INSERT)?;
        Ok(plan)
    }

    /// The receipts' part of the transaction.
    fn acknowledge(
        &mut self,
        receipts: &[&ReceiptCommand],
        plan: &Plan<'_>,
    ) -> Result<Acknowledged, CommitError> {
        if receipts.is_empty() {
            return Ok(Acknowledged::default());
        }
        let standings = standings(self.connection, self.audiences, receipts, plan)?;
        acknowledge(self.connection, receipts, &standings, self.now_us)
    }

    /// A few messages of one conversation, in one statement.
    fn append_alone<'a>(
        mut self,
        appends: &[&'a Append],
        rows: Vec<ConversationState>,
    ) -> Result<(Plan<'a>, Acknowledged), Undone> {
        let plan = self.plan_unlocked(appends, rows)?;
        // There is nothing between these.
        for point in [CHATD_BEFORE_INSERT, CHATD_AFTER_INSERT, CHATD_BEFORE_COMMIT] {
            reach(point)?;
        }
        if self.connection.append_alone(&plan)? {
            Ok((plan, Acknowledged::default()))
        } else {
            Err(Undone::Stale)
        }
    }

    /// The same with a conversation that this writer does not know, or not well.
    fn read_and_append<'a>(
        self,
        appends: &[&'a Append],
        ids: &BTreeSet<Uuid>,
    ) -> Result<(Plan<'a>, Acknowledged), Undone> {
        let ids: Vec<Uuid> = ids.iter().copied().collect();
        let rows = self.connection.read(&ids)?;
        if rows.is_empty() { Err(Undone::Uncompared) } else { self.append_alone(appends, rows) }
    }

    /// With conversations that nobody has locked. Each of them must be written, which compares them:
    /// an answer that writes nothing would be told of what is perhaps no longer so.
    fn plan_unlocked<'a>(
        &mut self,
        appends: &[&'a Append],
        rows: Vec<ConversationState>,
    ) -> Result<Plan<'a>, Undone> {
        let count = rows.len();
        let plan = self.plan(appends, rows)?;
        if plan.conversations.len() == count { Ok(plan) } else { Err(Undone::Uncompared) }
    }

    fn plan<'a>(
        &mut self,
        appends: &[&'a Append],
        rows: Vec<ConversationState>,
    ) -> Result<Plan<'a>, CommitError> {
        let versions: Vec<_> =
            rows.iter().map(|row| (row.conversation_id, row.membership_version)).collect();
        let mut audiences = audiences(self.connection, self.audiences, &versions)?;
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
        let asked = to_look_up(appends, &conversations, self.care.keys);
        let known = self.connection.known_keys(&asked)?;
        let targets = self.connection.targets(&about_messages(appends))?;
        let found = Found { conversations, known, targets };
        Ok(plan(appends, found, self.now_us, self.new_id))
    }
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

/// The requests that are about a message of the log, with their indexes.
fn about_messages<'a>(appends: &[&'a Append]) -> Vec<(usize, &'a Append)> {
    let indexed = appends.iter().enumerate().map(|(index, it)| (index, *it));
    indexed.filter(|(_, it)| it.change.about().is_some()).collect()
}

/// What a batch's receipts are judged by.
fn standings(
    connection: &mut impl Store,
    cache: &mut AudienceCache,
    receipts: &[&ReceiptCommand],
    plan: &Plan<'_>,
) -> Result<HashMap<Uuid, Standing>, CommitError> {
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
    let rows = connection.read(&unknown.into_iter().collect::<Vec<_>>())?;
    let versions: Vec<_> =
        rows.iter().map(|row| (row.conversation_id, row.membership_version)).collect();
    let mut audiences = audiences(connection, cache, &versions)?;
    for row in rows {
        let audience = audiences.remove(&row.conversation_id).unwrap_or_default();
        let last_sequence_number = row.last_sequence_number;
        standings.insert(row.conversation_id, Standing { last_sequence_number, audience });
    }
    Ok(standings)
}

/// The audiences of conversations at these versions, from the cache where it knows them.
fn audiences(
    connection: &mut impl Store,
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
    let mut found = connection.audiences(&ids)?;
    for (conversation_id, version) in missing {
        let audience = Arc::new(found.remove(&conversation_id).unwrap_or_default());
        cache.put(conversation_id, version, Arc::clone(&audience));
        audiences.insert(conversation_id, audience);
    }
    Ok(audiences)
}
