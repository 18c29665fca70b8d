//! The tables, as far as the path needs them, and their changes.

use chatd::rules::{Append, Appended, ConversationState, Known, Membership, Range, Target};
use proto::Uuid;
use proto::client::Event;
use proto::client::event::Kind;
use relay::lease::Shard;
use relay::rules::Record;
use std::collections::{BTreeMap, HashMap};

/// A row of the conversations.
pub(crate) type Conversation = ConversationState;

/// A row of the log.
#[derive(Debug, Clone)]
pub(crate) struct Logged {
    pub(crate) event: Event,
    pub(crate) message_id: Option<Uuid>,
    pub(crate) message_number: u64,
    pub(crate) sender: Uuid,
    pub(crate) key: String,
    pub(crate) body_hash: Vec<u8>,
    /// As it was sent.
    pub(crate) text: Option<String>,
    pub(crate) is_deleted: bool,
}

impl Logged {
    pub(crate) fn is_message(&self) -> bool {
        matches!(self.event.kind, Some(Kind::Message(_)))
    }

    /// What it says from now on; nothing: it is deleted.
    fn set_text(&mut self, text: Option<&str>) {
        if let Some(Kind::Message(message)) = &mut self.event.kind {
            message.text = text.unwrap_or_default().to_owned();
        }
        self.is_deleted = text.is_none();
    }
}

/// How far a device has come: delivered and read.
pub(crate) type Cursors = (u64, u64);

#[derive(Debug, Clone)]
pub(crate) enum Change {
    Conversation(Conversation),
    /// Joined, and left if the membership ended.
    Member {
        conversation: Uuid,
        user: Uuid,
        joined: Option<u64>,
        left: Option<u64>,
    },
    Event {
        conversation: Uuid,
        sequence_number: u64,
        logged: Box<Logged>,
    },
    /// A message's text from now on; nothing: it is deleted.
    Text {
        conversation: Uuid,
        sequence_number: u64,
        text: Option<String>,
    },
    Receipt {
        key: (Uuid, Uuid, Uuid),
        cursors: Cursors,
    },
    Outbox(Box<Record>),
    Published {
        shard: Shard,
        id: i64,
    },
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) conversations: BTreeMap<Uuid, Conversation>,
    /// Conversation and user: first visible event, and the last one.
    pub(crate) members: BTreeMap<(Uuid, Uuid), (u64, Option<u64>)>,
    pub(crate) log: BTreeMap<(Uuid, u64), Logged>,
    /// Conversation, sender and idempotency key.
    pub(crate) keys: BTreeMap<(Uuid, Uuid, String), u64>,
    pub(crate) receipts: BTreeMap<(Uuid, Uuid, Uuid), Cursors>,
    pub(crate) outbox: BTreeMap<(Shard, i64), Record>,
}

impl State {
    pub(crate) fn apply(&mut self, change: &Change) {
        match change {
            Change::Conversation(row) => {
                self.conversations.insert(row.conversation_id, *row);
            }
            Change::Member { conversation, user, joined, left } => {
                let member = self.members.entry((*conversation, *user)).or_default();
                *member = (joined.unwrap_or(member.0), *left);
            }
            Change::Event { conversation, sequence_number, logged } => {
                let key = (*conversation, logged.sender, logged.key.clone());
                self.keys.insert(key, *sequence_number);
                self.log.insert((*conversation, *sequence_number), (**logged).clone());
            }
            Change::Text { conversation, sequence_number, text } => {
                if let Some(logged) = self.log.get_mut(&(*conversation, *sequence_number)) {
                    logged.set_text(text.as_deref());
                    let message_id = logged.message_id;
                    if text.is_none() {
                        self.empty_edits(*conversation, message_id);
                    }
                }
            }
            Change::Receipt { key, cursors } => {
                self.receipts.insert(*key, *cursors);
            }
            Change::Outbox(record) => {
                self.outbox.insert((record.shard, record.id), (**record).clone());
            }
            Change::Published { shard, id } => {
                self.outbox.remove(&(*shard, *id));
            }
        }
    }

    fn empty_edits(&mut self, conversation: Uuid, message_id: Option<Uuid>) {
        let rows = self.log.range_mut((conversation, 0)..=(conversation, u64::MAX));
        for (_, logged) in rows.filter(|(_, it)| it.message_id == message_id) {
            if let Some(Kind::MessageEdited(edit)) = &mut logged.event.kind {
                edit.text.clear();
            }
        }
    }

    /// The user's memberships that hold, and those that ended if they are named.
    pub(crate) fn memberships(
        &self,
        user: Uuid,
        cursors: &HashMap<Uuid, u64>,
        resume: bool,
    ) -> Vec<Membership> {
        let own = self.members.iter().filter(|((_, member), _)| *member == user);
        let asked = own.filter(|((id, _), (_, left))| {
            let is_named = cursors.contains_key(id);
            if resume { left.is_none() || is_named } else { is_named }
        });
        let membership = |((id, _), (joined, left)): (&(Uuid, Uuid), &(u64, Option<u64>))| {
            let last = self.conversations.get(id).map_or(0, |it| it.last_sequence_number);
            Membership { conversation_id: *id, joined: *joined, left: *left, last }
        };
        asked.map(membership).collect()
    }

    pub(crate) fn events(&self, (id, first, last): &Range) -> Vec<Event> {
        let rows = self.log.range((*id, *first)..=(*id, *last));
        rows.map(|(_, logged)| logged.event.clone()).collect()
    }

    /// The message that a request is about, if its sender may see it.
    pub(crate) fn target(&self, append: &Append) -> Option<Target> {
        let conversation = append.conversation_id;
        let (joined, left) = self.members.get(&(conversation, append.sender_id))?;
        let mut rows = self.log.range((conversation, *joined)..=(conversation, u64::MAX));
        let about = append.change.about();
        let (key, logged) = rows
            .find(|(_, it)| it.message_id == about && it.is_message())
            .filter(|_| left.is_none())?;
        Some(Target {
            sequence_number: key.1,
            sender_id: logged.sender,
            is_deleted: logged.is_deleted,
        })
    }

    /// The first answer of a key.
    pub(crate) fn known(&self, conversation: Uuid, sender: Uuid, key: &str) -> Option<Known> {
        let sequence_number = *self.keys.get(&(conversation, sender, key.to_owned()))?;
        let logged = self.log.get(&(conversation, sequence_number))?;
        let answer = Appended {
            message_id: logged.message_id.filter(|_| logged.is_message()),
            sequence_number,
            message_number: logged.message_number,
            created_at_us: logged.event.created_at_us,
            repeated: true,
        };
        Some(Known { body_hash: logged.body_hash.clone(), answer })
    }

    /// Who belongs to the conversation now, or ever did.
    pub(crate) fn audience(&self, conversation: Uuid, with_left: bool) -> Vec<Uuid> {
        let first = (conversation, Uuid::nil());
        let last = (conversation, Uuid::max());
        let members =
            self.members.range(first..=last).filter(|(_, (_, left))| with_left || left.is_none());
        members.map(|((_, user), _)| *user).collect()
    }
}
