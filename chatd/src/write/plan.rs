//! Planning a batch, purely: requests and locked rows in; rows to write and answers out.
//!
//! Requests are taken in their order. Each that is granted takes the next sequence number of its
//! conversation, so what is granted leaves no hole, whatever is refused between.

use super::audience::Audience;
use super::body_hash;
use super::command::{Append, Appended, Change};
use super::record::{OutboxRow, Routing, outbox_row};
use crate::failure::Failure;
use crate::limits::MEMBERS_MAX;
use proto::client::{Event, MembershipChanged, Message as Said, SettingsChanged, event};
use proto::error::ErrorCode;
use proto::headers::event_type;
use proto::record::Priority;
use proto::{Message, Uuid, topics};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

mod about;

/// The `kind` column of the log.
pub(crate) mod kind {
    pub(crate) const MESSAGE: i16 = 1;
    pub(crate) const MESSAGE_EDITED: i16 = 2;
    pub(crate) const MESSAGE_DELETED: i16 = 3;
    pub(crate) const REACTION: i16 = 4;
    pub(crate) const MEMBERSHIP_CHANGED: i16 = 5;
    pub(crate) const SETTINGS_CHANGED: i16 = 6;
}

/// A conversation as it stands under the batch's lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locked {
    pub last_sequence_number: u64,
    pub last_message_number: u64,
    pub membership_version: u64,
    pub created_by: Uuid,
    pub last_event_at_us: u64,
    pub audience: Arc<Audience>,
}

/// What an idempotency key was answered with before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub body_hash: Vec<u8>,
    pub answer: Appended,
}

/// A message that a request is about, which its sender may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    pub sequence_number: u64,
    pub sender_id: Uuid,
    pub is_deleted: bool,
}

/// What the database knows about a batch.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub conversations: HashMap<Uuid, Locked>,
    /// By the request's index in the batch.
    pub known: HashMap<usize, Known>,
    /// By the request's index in the batch.
    pub targets: HashMap<usize, Target>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct EventRow<'a> {
    pub append: &'a Append,
    pub sequence_number: u64,
    pub kind: i16,
    pub message_id: Option<Uuid>,
    pub message_number: u64,
    pub text: Option<&'a str>,
    pub details: Option<Vec<u8>>,
    pub created_at_us: u64,
}

/// What a message's text is from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextRow<'a> {
    pub message_id: Uuid,
    /// None: the message is deleted.
    pub text: Option<&'a str>,
}

/// What is left of a membership after the batch; both set: joined and left within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemberChange {
    pub joined_sequence_number: Option<u64>,
    pub left_sequence_number: Option<u64>,
}

/// A conversation that the batch changes, as it stands afterwards.
#[derive(Debug, PartialEq, Eq)]
pub struct ConversationRow<'a> {
    pub after: Locked,
    /// What the row's last sequence number is until then; nothing if there is no row yet.
    pub before_sequence_number: Option<u64>,
    /// Nothing: unchanged.
    pub title: Option<&'a str>,
}

/// All that one batch writes, and what each request is told once it is committed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan<'a> {
    /// One for each request, in order.
    pub answers: Vec<Result<Appended, Failure>>,
    pub events: Vec<EventRow<'a>>,
    /// Texts of messages that are in the log, by conversation and sequence number.
    pub texts: BTreeMap<(Uuid, u64), TextRow<'a>>,
    pub outbox: Vec<OutboxRow>,
    pub members: BTreeMap<(Uuid, Uuid), MemberChange>,
    /// Sorted, as locks are taken.
    pub conversations: BTreeMap<Uuid, ConversationRow<'a>>,
}

/// Plans a batch. `next_id` gives a fresh message id.
pub(crate) fn plan<'a>(
    appends: &[&'a Append],
    found: Found,
    now_us: u64,
    next_id: &mut dyn FnMut() -> Uuid,
) -> Plan<'a> {
    let Found { conversations, known, targets } = found;
    let mut planner = Planner { conversations, now_us, next_id, plan: Plan::default() };
    let mut granted: HashMap<(Uuid, Uuid, &str), usize> = HashMap::with_capacity(appends.len());
    for (index, append) in appends.iter().enumerate() {
        let key = (append.conversation_id, append.sender_id, append.key.as_str());
        let before = match known.get(&index) {
            Some(known) => Some((known.body_hash.as_slice(), known.answer.clone())),
            None => granted.get(&key).and_then(|earlier: &usize| {
                let answer = planner.plan.answers.get(*earlier)?.as_ref().ok()?.clone();
                Some((appends[*earlier].body_hash.as_slice(), answer))
            }),
        };
        let answer = match before {
            Some((body_hash, answer)) => repeat(append, body_hash, answer),
            None => planner.grant(append, targets.get(&index)),
        };
        if answer.is_ok() {
            granted.entry(key).or_insert(index);
        }
        planner.plan.answers.push(answer);
    }
    planner.plan
}

fn repeat(append: &Append, before: &[u8], answer: Appended) -> Result<Appended, Failure> {
    if body_hash::is_of(before, &append.change, &append.body_hash) {
        return Ok(Appended { repeated: true, ..answer });
    }
    Err(Failure::new(
        ErrorCode::IdempotencyKeyConflict,
        "the idempotency_key was used before with another body; use a new key for a new request",
    ))
}

struct Planner<'a, 'i> {
    /// As they stand at this point of the batch.
    conversations: HashMap<Uuid, Locked>,
    now_us: u64,
    next_id: &'i mut dyn FnMut() -> Uuid,
    plan: Plan<'a>,
}

/// What a granted request adds to the log.
struct Entry<'a> {
    kind: i16,
    event_type: &'static str,
    /// Taken when it is published.
    event: Option<event::Kind>,
    message_id: Option<Uuid>,
    text: Option<&'a str>,
    details: Option<Vec<u8>>,
    /// Who is told, if not the members afterwards.
    recipients: Option<Arc<Audience>>,
    title: Option<&'a str>,
}

impl<'a> Planner<'a, '_> {
    fn grant(&mut self, append: &'a Append, target: Option<&Target>) -> Result<Appended, Failure> {
        if let Change::Create { title, member_ids } = &append.change {
            return self.create(append, title, member_ids);
        }
        let locked = self
            .conversations
            .get(&append.conversation_id)
            .filter(|it| it.audience.contains(&append.sender_id))
            .ok_or_else(Failure::not_a_member)?
            .clone();
        match &append.change {
            Change::Message { text } => Ok(self.message(append, locked, text)),
            Change::Title { title } => Ok(self.title(append, locked, title)),
            Change::Add { user_ids, is_keyed } => self.add(append, locked, user_ids, *is_keyed),
            Change::Remove { user_id } => self.remove(append, locked, user_id),
            Change::Edit { .. } | Change::Delete { .. } | Change::React { .. } => {
                self.about(append, locked, target)
            }
            Change::Create { .. } => Err(Failure::invalid("the conversation exists")),
        }
    }

    fn message(&mut self, append: &'a Append, mut locked: Locked, text: &'a str) -> Appended {
        let message_id = (self.next_id)();
        locked.last_message_number += 1;
        let event = Some(event::Kind::Message(Said {
            message_id: message_id.as_bytes().to_vec(),
            message_number: locked.last_message_number,
            text: text.to_owned(),
        }));
        let entry = Entry {
            kind: kind::MESSAGE,
            event_type: event_type::MESSAGE,
            event,
            message_id: Some(message_id),
            text: Some(text),
            details: None,
            recipients: None,
            title: None,
        };
        self.append(append, locked, entry)
    }

    fn title(&mut self, append: &'a Append, locked: Locked, title: &'a str) -> Appended {
        let change = SettingsChanged { title: title.to_owned() };
        let entry = Entry {
            kind: kind::SETTINGS_CHANGED,
            event_type: event_type::SETTINGS,
            details: Some(change.encode_to_vec()),
            event: Some(event::Kind::SettingsChanged(change)),
            message_id: None,
            text: None,
            recipients: None,
            title: Some(title),
        };
        self.append(append, locked, entry)
    }

    fn create(
        &mut self,
        append: &'a Append,
        title: &'a str,
        member_ids: &[Uuid],
    ) -> Result<Appended, Failure> {
        if self.conversations.contains_key(&append.conversation_id) {
            // Its key would be known, had this sender made it.
            return Err(Failure::new(ErrorCode::Forbidden, "the conversation exists already"));
        }
        let locked = Locked {
            last_sequence_number: 0,
            last_message_number: 0,
            membership_version: 1,
            created_by: append.sender_id,
            last_event_at_us: 0,
            audience: Arc::new(Audience::new(member_ids)),
        };
        for member in member_ids {
            self.join(append.conversation_id, *member, 1);
        }
        let change = MembershipChanged {
            added_user_ids: member_ids.iter().map(|id| id.as_bytes().to_vec()).collect(),
            removed_user_ids: Vec::new(),
            created: true,
        };
        let entry = Entry { title: Some(title), ..membership(change, None) };
        self.plan.conversations.insert(
            append.conversation_id,
            ConversationRow { after: locked.clone(), before_sequence_number: None, title: None },
        );
        Ok(self.append(append, locked, entry))
    }

    fn add(
        &mut self,
        append: &'a Append,
        mut locked: Locked,
        user_ids: &[Uuid],
        is_keyed: bool,
    ) -> Result<Appended, Failure> {
        let added: Vec<Uuid> =
            user_ids.iter().filter(|id| !locked.audience.contains(id)).copied().collect();
        if added.is_empty() && !is_keyed {
            return Ok(nothing_to_do(&locked));
        }
        let members = locked.audience.len() + added.len();
        if members > MEMBERS_MAX {
            return Err(Failure::invalid(format!(
                "the conversation would have {members} members; at most {MEMBERS_MAX} are allowed"
            )));
        }
        for user_id in &added {
            self.join(append.conversation_id, *user_id, locked.last_sequence_number + 1);
        }
        // Where all are members already, the event is there to keep the request's key.
        if !added.is_empty() {
            locked.audience = Arc::new(locked.audience.with(&added));
            locked.membership_version += 1;
        }
        let change = MembershipChanged {
            added_user_ids: added.iter().map(|id| id.as_bytes().to_vec()).collect(),
            ..Default::default()
        };
        Ok(self.append(append, locked, membership(change, None)))
    }

    /// Oneself always; another only by whoever made the conversation, or, once that user is gone,
    /// by any member.
    fn remove(
        &mut self,
        append: &'a Append,
        mut locked: Locked,
        user_id: &Uuid,
    ) -> Result<Appended, Failure> {
        let sender_id = append.sender_id;
        let has_creator = locked.audience.contains(&locked.created_by);
        if *user_id != sender_id && has_creator && sender_id != locked.created_by {
            let message = "only the user who made the conversation may remove others from it";
            return Err(Failure::new(ErrorCode::Forbidden, message));
        }
        if !locked.audience.contains(user_id) {
            let message = format!("user {user_id} is not a member of the conversation");
            return Err(Failure::new(ErrorCode::NotFound, message));
        }
        // The one who goes is told, too.
        let recipients = Arc::clone(&locked.audience);
        locked.audience = Arc::new(locked.audience.without(user_id));
        locked.membership_version += 1;
        let left_sequence_number = locked.last_sequence_number + 1;
        let member = self.plan.members.entry((append.conversation_id, *user_id)).or_default();
        member.left_sequence_number = Some(left_sequence_number);
        let change = MembershipChanged {
            removed_user_ids: vec![user_id.as_bytes().to_vec()],
            ..Default::default()
        };
        Ok(self.append(append, locked, membership(change, Some(recipients))))
    }

    fn join(&mut self, conversation_id: Uuid, user_id: Uuid, joined_sequence_number: u64) {
        let change = MemberChange {
            joined_sequence_number: Some(joined_sequence_number),
            left_sequence_number: None,
        };
        self.plan.members.insert((conversation_id, user_id), change);
    }

    /// Takes the next sequence number and writes the rows of `entry`.
    fn append(&mut self, append: &'a Append, mut locked: Locked, mut entry: Entry<'a>) -> Appended {
        let conversation_id = append.conversation_id;
        let before_sequence_number = locked.last_sequence_number;
        locked.last_sequence_number += 1;
        // A conversation's times never go back, whatever the clock does.
        locked.last_event_at_us = locked.last_event_at_us.max(self.now_us);
        let answer = Appended {
            message_id: entry.message_id.filter(|_| entry.kind == kind::MESSAGE),
            sequence_number: locked.last_sequence_number,
            message_number: locked.last_message_number,
            created_at_us: locked.last_event_at_us,
            repeated: false,
        };
        let event = entry.event.take();
        self.publish(append, &locked, &entry, event);
        self.plan.events.push(EventRow {
            append,
            sequence_number: answer.sequence_number,
            kind: entry.kind,
            message_id: entry.message_id,
            message_number: answer.message_number,
            text: entry.text,
            details: entry.details,
            created_at_us: answer.created_at_us,
        });
        let row = self.plan.conversations.entry(conversation_id).or_insert_with(|| {
            let before_sequence_number = Some(before_sequence_number);
            ConversationRow { after: locked.clone(), before_sequence_number, title: None }
        });
        row.after = locked.clone();
        row.title = entry.title.or(row.title);
        self.conversations.insert(conversation_id, locked);
        answer
    }

    fn publish(
        &mut self,
        append: &Append,
        locked: &Locked,
        entry: &Entry<'_>,
        kind: Option<event::Kind>,
    ) {
        let recipients = entry.recipients.as_ref().unwrap_or(&locked.audience);
        // A direct message is pushed before all else.
        let is_direct = entry.kind == kind::MESSAGE && locked.audience.len() <= 2;
        let routing = Routing {
            event_type: entry.event_type,
            traceparent: &append.traceparent,
            priority: if is_direct { Priority::High } else { Priority::Normal },
            recipients: recipients.packed(),
        };
        let event = Event {
            conversation_id: append.conversation_id.as_bytes().to_vec(),
            sequence_number: locked.last_sequence_number,
            created_at_us: locked.last_event_at_us,
            sender_id: append.sender_id.as_bytes().to_vec(),
            kind,
        };
        let row = outbox_row(topics::MESSAGE_CREATED, append.conversation_id, event, &routing);
        if entry.kind == kind::MEMBERSHIP_CHANGED {
            self.plan.outbox.push(OutboxRow { topic: topics::MEMBERSHIP, ..row.clone() });
        }
        self.plan.outbox.push(row);
    }
}

fn membership<'a>(change: MembershipChanged, recipients: Option<Arc<Audience>>) -> Entry<'a> {
    Entry {
        kind: kind::MEMBERSHIP_CHANGED,
        event_type: event_type::MEMBERSHIP,
        details: Some(change.encode_to_vec()),
        event: Some(event::Kind::MembershipChanged(change)),
        message_id: None,
        text: None,
        recipients,
        title: None,
    }
}

/// The conversation is already as was asked: nothing is appended.
fn nothing_to_do(locked: &Locked) -> Appended {
    Appended {
        message_id: None,
        sequence_number: locked.last_sequence_number,
        message_number: locked.last_message_number,
        created_at_us: locked.last_event_at_us,
        repeated: false,
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
