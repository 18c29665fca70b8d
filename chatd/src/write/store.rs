//! What the engine needs of a database, so that it runs over PostgreSQL and, in a simulation, over a
//! model of it. One method is one statement, at most one round trip.

use super::alone::append_alone;
use super::audience::Audience;
use super::command::Append;
use super::engine::CommitError;
use super::messages;
use super::plan::{EventRow, Known, MemberChange, Plan, Target, TextRow, kind};
use super::receipts::{Cursor, CursorKey, Standing};
use super::record::OutboxRow;
use super::statements::{self as sql, ConversationState, Moved};
use super::summaries::Counting;
use super::waker::Waker;
use crate::db::{Connection, Role, Settings};
use crate::metrics::KindLabel;
use proto::Uuid;
use std::collections::{BTreeMap, HashMap};

/// Members by conversation.
pub type Audiences = HashMap<Uuid, Audience>;

/// A connection to the database.
pub trait Store {
    /// Is it worth a batch?
    fn is_usable(&mut self) -> bool;

    /// Begins a transaction.
    fn begin(&mut self) -> Result<(), CommitError>;

    /// After an error nobody knows whether it was committed.
    fn commit(&mut self) -> Result<(), CommitError>;

    /// If this fails, so has the connection, and the server rolls back by itself.
    fn rollback(&mut self);

    /// Locks and reads conversations, in the order of their ids; those that do not exist are left out.
    fn lock(&mut self, ids: &[Uuid]) -> Result<Vec<ConversationState>, CommitError>;

    /// The same without a lock.
    fn read(&mut self, ids: &[Uuid]) -> Result<Vec<ConversationState>, CommitError>;

    /// The members of conversations.
    fn audiences(&mut self, ids: &[Uuid]) -> Result<Audiences, CommitError>;

    /// The first answers of keys that were used before; each of `asked` comes with its index in the
    /// batch, and its answer under that.
    fn known_keys(
        &mut self,
        asked: &[(usize, &Append)],
    ) -> Result<HashMap<usize, Known>, CommitError>;

    /// The messages that requests are about, as far as their senders may see them; each of `asked` comes
    /// with its index in the batch, and its message under that.
    fn targets(
        &mut self,
        asked: &[(usize, &Append)],
    ) -> Result<HashMap<usize, Target>, CommitError>;

    /// Writes a plan's conversations; false if one of them is not as planned.
    fn write_conversations(&mut self, plan: &Plan<'_>) -> Result<bool, CommitError>;

    /// Writes who joined and who left.
    fn write_members(
        &mut self,
        members: &BTreeMap<(Uuid, Uuid), MemberChange>,
    ) -> Result<(), CommitError>;

    /// Writes rows of the log.
    fn write_events(&mut self, events: &[EventRow<'_>]) -> Result<(), CommitError>;

    /// Gives messages of the log other texts; of those that are deleted, their edits lose theirs, too.
    fn write_texts(
        &mut self,
        texts: &BTreeMap<(Uuid, u64), TextRow<'_>>,
    ) -> Result<(), CommitError>;

    /// Moves cursors forward; what is given back moved.
    fn write_receipts(
        &mut self,
        cursors: &BTreeMap<CursorKey, Cursor>,
        now_us: u64,
    ) -> Result<Vec<Moved>, CommitError>;

    /// Writes rows of the outbox, in their order.
    fn write_outbox(&mut self, rows: &[&OutboxRow]) -> Result<(), CommitError>;

    /// Commits a plan of one conversation in which no membership changes, in a transaction of its own.
    /// False: the conversation is not as planned, and nothing was written.
    fn append_alone(&mut self, plan: &Plan<'_>) -> Result<bool, CommitError>;

    /// Locks the summaries of the large conversations among the cursors', before these are written.
    fn begin_counting(
        &mut self,
        cursors: &BTreeMap<CursorKey, Cursor>,
        standings: &HashMap<Uuid, Standing>,
    ) -> Result<Counting, CommitError>;

    /// Counts the cursors that moved in them.
    fn end_counting(&mut self, counting: Counting, moved: &[Moved]) -> Result<(), CommitError>;

    /// Runs `work` in one transaction: committed if it succeeds, rolled back if not.
    fn transaction<T, E: From<CommitError>>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        self.begin()?;
        match work(self) {
            Ok(value) => {
                self.commit()?;
                Ok(value)
            }
            Err(error) => {
                self.rollback();
                Err(error)
            }
        }
    }
}

/// Where an engine's connections, times and ids come from.
pub trait Source {
    /// The connections.
    type Store: Store;

    /// A fresh connection, to a server that keeps what it acknowledges.
    fn connect(&mut self) -> Result<Self::Store, CommitError>;

    /// The wall clock, in microseconds since the Unix epoch.
    fn now_us(&mut self) -> u64;

    /// An id that nothing else has.
    fn new_id(&mut self) -> Uuid;

    /// A plan was committed, with these further rows of the outbox.
    fn committed(&mut self, plan: &Plan<'_>, told: &[OutboxRow]);

    /// Tells relays that there is something in the outbox. It does not wait for that.
    fn wake_relay(&mut self);
}

/// An engine's source of connections to PostgreSQL.
pub(crate) struct Postgres {
    pub(crate) settings: Settings,
    pub(crate) waker: Waker,
}

impl Store for Connection {
    fn is_usable(&mut self) -> bool {
        Self::is_usable(self)
    }

    fn begin(&mut self) -> Result<(), CommitError> {
        Ok(self.batch("begin", "BEGIN")?)
    }

    fn commit(&mut self) -> Result<(), CommitError> {
        Ok(self.batch("commit", "COMMIT")?)
    }

    fn rollback(&mut self) {
        let _ = self.batch("rollback", "ROLLBACK");
    }

    fn lock(&mut self, ids: &[Uuid]) -> Result<Vec<ConversationState>, CommitError> {
        Ok(sql::lock(self, ids)?)
    }

    fn read(&mut self, ids: &[Uuid]) -> Result<Vec<ConversationState>, CommitError> {
        Ok(sql::read(self, ids)?)
    }

    fn audiences(&mut self, ids: &[Uuid]) -> Result<Audiences, CommitError> {
        Ok(sql::audiences(self, ids)?)
    }

    fn known_keys(
        &mut self,
        asked: &[(usize, &Append)],
    ) -> Result<HashMap<usize, Known>, CommitError> {
        Ok(sql::known_keys(self, asked)?)
    }

    fn targets(
        &mut self,
        asked: &[(usize, &Append)],
    ) -> Result<HashMap<usize, Target>, CommitError> {
        Ok(messages::targets(self, asked)?)
    }

    fn write_conversations(&mut self, plan: &Plan<'_>) -> Result<bool, CommitError> {
        Ok(sql::write_conversations(self, plan)?)
    }

    fn write_members(
        &mut self,
        members: &BTreeMap<(Uuid, Uuid), MemberChange>,
    ) -> Result<(), CommitError> {
        Ok(sql::write_members(self, members)?)
    }

    fn write_events(&mut self, events: &[EventRow<'_>]) -> Result<(), CommitError> {
        Ok(sql::write_events(self, events)?)
    }

    fn write_texts(
        &mut self,
        texts: &BTreeMap<(Uuid, u64), TextRow<'_>>,
    ) -> Result<(), CommitError> {
        Ok(messages::write_texts(self, texts)?)
    }

    fn write_receipts(
        &mut self,
        cursors: &BTreeMap<CursorKey, Cursor>,
        now_us: u64,
    ) -> Result<Vec<Moved>, CommitError> {
        Ok(sql::write_receipts(self, cursors, now_us)?)
    }

    fn write_outbox(&mut self, rows: &[&OutboxRow]) -> Result<(), CommitError> {
        Ok(sql::write_outbox(self, rows)?)
    }

    fn append_alone(&mut self, plan: &Plan<'_>) -> Result<bool, CommitError> {
        Ok(append_alone(self, plan)?)
    }

    fn begin_counting(
        &mut self,
        cursors: &BTreeMap<CursorKey, Cursor>,
        standings: &HashMap<Uuid, Standing>,
    ) -> Result<Counting, CommitError> {
        Ok(Counting::begin(self, cursors, standings)?)
    }

    fn end_counting(&mut self, counting: Counting, moved: &[Moved]) -> Result<(), CommitError> {
        Ok(counting.end(self, moved)?)
    }
}

impl Source for Postgres {
    type Store = Connection;

    fn connect(&mut self) -> Result<Connection, CommitError> {
        let mut connection = Connection::open(&self.settings, Role::Writer)?;
        // Again with each connection: the server may have been restarted with other settings.
        connection.check_durability(&self.settings).map_err(CommitError::Temporary)?;
        Ok(connection)
    }

    fn now_us(&mut self) -> u64 {
        daemon::clock::now_us()
    }

    fn new_id(&mut self) -> Uuid {
        proto::id::new()
    }

    fn committed(&mut self, plan: &Plan<'_>, told: &[OutboxRow]) {
        let metrics = self.settings.metrics();
        let rows = plan.outbox.iter().chain(told);
        metrics.committed(rows.map(|it| (it.topic, &it.key)));
        let messages = plan.events.iter().filter(|it| it.kind == kind::MESSAGE).count() as u64;
        let others = plan.events.len() as u64 - messages;
        for (kind, count) in [("message", messages), ("other", others)] {
            if count > 0 {
                metrics.events_committed.get_or_create(&KindLabel { kind }).inc_by(count);
            }
        }
        let repeated = plan.answers.iter().flatten().filter(|it| it.repeated).count();
        metrics.repeated.inc_by(repeated as u64);
    }

    fn wake_relay(&mut self) {
        self.waker.wake();
    }
}
