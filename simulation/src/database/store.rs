//! The engine's connection to the model, and where it gets its times and ids.

use super::rows::{Change, Logged};
use super::{Database, Pending, record};
use crate::bugs::Bug;
use crate::limits::STATEMENT_FAULT_PERMILLE;
use chatd::rules::{
    Append, Audience, Audiences, CommitError, ConversationState, Counting, Cursor, CursorKey,
    EventRow, Known, MemberChange, Moved, OutboxRow, Plan, Source, Standing, Store, Target,
    TextRow,
};
use proto::client::{ServerFrame, server_frame};
use proto::{Message, Uuid};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

/// What an engine is told from outside before it is given a batch, and what is learnt from it after.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) database: Rc<RefCell<Database>>,
    /// The server can be reached.
    pub(crate) is_up: bool,
    /// Statements and commits may fail.
    pub(crate) is_stormy: bool,
    pub(crate) wall_us: u64,
    pub(crate) random: fastrand::Rng,
    /// The transaction whose commit was asked for.
    pub(crate) begun: Option<u64>,
    /// The relay is to be woken.
    pub(crate) wakes: bool,
    pub(crate) chatd: usize,
}

/// The engine's way to its [`Link`].
#[derive(Debug, Clone)]
pub(crate) struct Handle(pub(crate) Rc<RefCell<Link>>);

pub(crate) struct Connection {
    link: Rc<RefCell<Link>>,
    epoch: u64,
    writes: Vec<Change>,
    locks: BTreeSet<Uuid>,
}

impl Source for Handle {
    type Store = Connection;

    fn connect(&mut self) -> Result<Connection, CommitError> {
        let link = self.0.borrow();
        if !link.is_up {
            return Err(away());
        }
        let epoch = link.database.borrow().epoch;
        let (writes, locks) = (Vec::new(), BTreeSet::new());
        Ok(Connection { link: Rc::clone(&self.0), epoch, writes, locks })
    }

    fn now_us(&mut self) -> u64 {
        self.0.borrow().wall_us
    }

    fn new_id(&mut self) -> Uuid {
        Uuid::from_u128(self.0.borrow_mut().random.u128(..))
    }

    fn committed(&mut self, _: &Plan<'_>, _: &[OutboxRow]) {}

    fn wake_relay(&mut self) {
        self.0.borrow_mut().wakes = true;
    }
}

fn away() -> CommitError {
    CommitError::Temporary("the connection is lost".into())
}

impl Connection {
    /// One statement: it may fail.
    fn statement<T>(&mut self, work: impl FnOnce(&mut Database) -> T) -> Result<T, CommitError> {
        let database = {
            let mut link = self.link.borrow_mut();
            let fails = link.is_stormy && link.random.u64(..1_000) < STATEMENT_FAULT_PERMILLE;
            if fails || !link.is_up || link.database.borrow().epoch != self.epoch {
                // Dead from here on.
                self.epoch = u64::MAX;
                return Err(away());
            }
            Rc::clone(&link.database)
        };
        let mut database = database.borrow_mut();
        Ok(work(&mut database))
    }

    fn write_rows(&mut self, plan: &Plan<'_>) -> Result<bool, CommitError> {
        let planned = |database: &mut Database| {
            plan.conversations.iter().all(|(id, row)| {
                let last = database.state.conversations.get(id).map(|it| it.last_sequence_number);
                last == row.before_sequence_number
            })
        };
        if !self.statement(planned)? {
            return Ok(false);
        }
        for (id, row) in &plan.conversations {
            self.locks.insert(*id);
            self.writes.push(Change::Conversation(ConversationState {
                conversation_id: *id,
                last_sequence_number: row.after.last_sequence_number,
                last_message_number: row.after.last_message_number,
                membership_version: row.after.membership_version,
                created_by: row.after.created_by,
                last_event_at_us: row.after.last_event_at_us,
            }));
        }
        Ok(true)
    }
}

impl Store for Connection {
    fn is_usable(&mut self) -> bool {
        let link = self.link.borrow();
        link.is_up && link.database.borrow().epoch == self.epoch
    }

    fn begin(&mut self) -> Result<(), CommitError> {
        self.writes.clear();
        self.locks.clear();
        self.statement(|_| ())
    }

    /// What becomes of it is decided here, and happens a while later.
    fn commit(&mut self) -> Result<(), CommitError> {
        let (writes, locks) = (std::mem::take(&mut self.writes), std::mem::take(&mut self.locks));
        self.statement(|_| ())?;
        let mut link = self.link.borrow_mut();
        let fate = if link.is_stormy { link.random.u64(..1_000) } else { u64::MAX };
        let is_lost = fate < STATEMENT_FAULT_PERMILLE;
        let in_doubt = fate < 3 * STATEMENT_FAULT_PERMILLE;
        let owner = link.chatd;
        let mut database = link.database.borrow_mut();
        database.next_transaction += 1;
        let transaction = database.next_transaction;
        database.pending.insert(transaction, Pending { writes, locks, is_lost, owner });
        drop(database);
        link.begun = Some(transaction);
        if in_doubt {
            self.epoch = u64::MAX;
            return Err(away());
        }
        Ok(())
    }

    fn rollback(&mut self) {
        self.writes.clear();
        self.locks.clear();
    }

    fn lock(&mut self, ids: &[Uuid]) -> Result<Vec<ConversationState>, CommitError> {
        self.statement(|database| {
            let rows = &database.state.conversations;
            ids.iter().filter_map(|id| rows.get(id).copied()).collect()
        })
    }

    fn read(&mut self, ids: &[Uuid]) -> Result<Vec<ConversationState>, CommitError> {
        self.lock(ids)
    }

    fn audiences(&mut self, ids: &[Uuid]) -> Result<Audiences, CommitError> {
        self.statement(|database| {
            let with_left = database.bug == Some(Bug::NeverLeaves);
            let audience =
                |id: &Uuid| (*id, Audience::new(&database.state.audience(*id, with_left)));
            ids.iter().map(audience).collect()
        })
    }

    fn known_keys(
        &mut self,
        asked: &[(usize, &Append)],
    ) -> Result<HashMap<usize, Known>, CommitError> {
        self.statement(|database| {
            let known = |(index, it): &(usize, &Append)| {
                let known = database.state.known(it.conversation_id, it.sender_id, &it.key)?;
                Some((*index, known))
            };
            asked.iter().filter_map(known).collect()
        })
    }

    fn targets(
        &mut self,
        asked: &[(usize, &Append)],
    ) -> Result<HashMap<usize, Target>, CommitError> {
        if asked.is_empty() {
            return Ok(HashMap::new());
        }
        self.statement(|database| {
            let target =
                |(index, it): &(usize, &Append)| Some((*index, database.state.target(it)?));
            asked.iter().filter_map(target).collect()
        })
    }

    fn write_conversations(&mut self, plan: &Plan<'_>) -> Result<bool, CommitError> {
        self.write_rows(plan)
    }

    fn write_members(
        &mut self,
        members: &BTreeMap<(Uuid, Uuid), MemberChange>,
    ) -> Result<(), CommitError> {
        for ((conversation, user), change) in members {
            self.writes.push(Change::Member {
                conversation: *conversation,
                user: *user,
                joined: change.joined_sequence_number,
                left: change.left_sequence_number,
            });
        }
        self.statement(|_| ())
    }

    fn write_events(&mut self, events: &[EventRow<'_>]) -> Result<(), CommitError> {
        let taken = self.statement(|database| {
            let keys = &database.state.keys;
            let is_taken = |row: &EventRow<'_>| {
                let it = row.append;
                keys.contains_key(&(it.conversation_id, it.sender_id, it.key.clone()))
            };
            events.iter().any(is_taken)
        })?;
        if taken {
            return Err(CommitError::Unique("a key is taken".into()));
        }
        for row in events {
            let logged = Logged {
                event: proto::client::Event::default(),
                message_id: row.message_id,
                message_number: row.message_number,
                sender: row.append.sender_id,
                key: row.append.key.clone(),
                body_hash: row.append.body_hash.to_vec(),
                text: row.text.map(str::to_owned),
                is_deleted: false,
            };
            self.writes.push(Change::Event {
                conversation: row.append.conversation_id,
                sequence_number: row.sequence_number,
                logged: Box::new(logged),
            });
        }
        Ok(())
    }

    fn write_texts(
        &mut self,
        texts: &BTreeMap<(Uuid, u64), TextRow<'_>>,
    ) -> Result<(), CommitError> {
        if texts.is_empty() || self.statement(|database| database.bug == Some(Bug::LosesEdits))? {
            return Ok(());
        }
        for ((conversation, sequence_number), row) in texts {
            self.writes.push(Change::Text {
                conversation: *conversation,
                sequence_number: *sequence_number,
                text: row.text.map(str::to_owned),
            });
        }
        Ok(())
    }

    fn write_receipts(
        &mut self,
        cursors: &BTreeMap<CursorKey, Cursor>,
        _: u64,
    ) -> Result<Vec<Moved>, CommitError> {
        let before = self.statement(|database| database.state.receipts.clone())?;
        let mut moved = Vec::new();
        for (key, cursor) in cursors {
            let (delivered, read) = before.get(key).copied().unwrap_or_default();
            let after = (
                delivered.max(cursor.delivered_sequence_number),
                read.max(cursor.read_sequence_number),
            );
            if after == (delivered, read) {
                continue;
            }
            self.writes.push(Change::Receipt { key: *key, cursors: after });
            let (delivered_sequence_number, read_sequence_number) = after;
            moved.push(Moved { key: *key, delivered_sequence_number, read_sequence_number });
        }
        Ok(moved)
    }

    /// Ids are taken now, and seen when the transaction is committed: not in that order.
    fn write_outbox(&mut self, rows: &[&OutboxRow]) -> Result<(), CommitError> {
        for row in rows {
            let id = self.statement(Database::next_row)?;
            self.tell_event(row);
            self.writes.push(Change::Outbox(Box::new(record(row, id))));
        }
        Ok(())
    }

    fn append_alone(&mut self, plan: &Plan<'_>) -> Result<bool, CommitError> {
        self.writes.clear();
        self.locks.clear();
        if !self.write_rows(plan)? {
            return Ok(false);
        }
        self.write_events(&plan.events)?;
        self.write_outbox(&plan.outbox.iter().collect::<Vec<_>>())?;
        self.commit()?;
        Ok(true)
    }

    fn begin_counting(
        &mut self,
        _: &BTreeMap<CursorKey, Cursor>,
        _: &HashMap<Uuid, Standing>,
    ) -> Result<Counting, CommitError> {
        Ok(Counting::default())
    }

    fn end_counting(&mut self, _: Counting, _: &[Moved]) -> Result<(), CommitError> {
        Ok(())
    }
}

impl Connection {
    /// What the log's row holds is read back as what was published of it.
    fn tell_event(&mut self, row: &OutboxRow) {
        let Ok(ServerFrame { frame: Some(server_frame::Frame::Event(event)), .. }) =
            ServerFrame::decode(row.value.as_slice())
        else {
            return;
        };
        for change in &mut self.writes {
            if let Change::Event { conversation, sequence_number, logged } = change
                && *conversation == row.key
                && *sequence_number == event.sequence_number
            {
                logged.event = event.clone();
            }
        }
    }
}
