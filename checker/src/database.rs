//! What PostgreSQL holds at the end: the truth that every observer must agree with.

use super::verdict::{Verdict, Violation};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};

/// One row of the conversations' log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseEvent {
    pub conversation: String,
    pub seq: u64,
    /// None for events that are no messages, as are the two below.
    pub message_id: Option<String>,
    pub sender: Option<String>,
    pub key: Option<String>,
    pub body_hash: Option<String>,
}

/// One event, compact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) message_id: Option<u128>,
    pub(crate) body: Option<u64>,
    /// Sender and idempotency key.
    pub(crate) origin: Option<(String, String)>,
}

/// The dump by conversation, with conversations numbered.
#[derive(Debug, Default)]
pub(crate) struct Database {
    numbers: HashMap<String, u32>,
    names: Vec<String>,
    events: BTreeMap<u32, BTreeMap<u64, Event>>,
    places: HashMap<u128, (u32, u64)>,
}

/// A message id's text as a number; None if it is no UUID.
pub(crate) fn id_number(text: &str) -> Option<u128> {
    uuid::Uuid::parse_str(text).ok().map(|id| id.as_u128())
}

/// A body hash's text as a number.
pub(crate) fn body_number(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

impl Database {
    /// Reads a dump and checks it by itself: sequence numbers are 1..N, and sequence number and
    /// message id, and key and message id, belong together one to one.
    pub(crate) fn load(
        dump: impl IntoIterator<Item = DatabaseEvent>,
        verdict: &mut Verdict,
    ) -> Self {
        let mut database = Self::default();
        let mut origins = HashSet::new();
        for row in dump {
            let conversation = database.number(&row.conversation);
            let event = Event {
                message_id: row.message_id.as_deref().and_then(id_number),
                body: row.body_hash.as_deref().and_then(body_number),
                origin: row.sender.zip(row.key),
            };
            if let Some((sender, key)) = &event.origin
                && !origins.insert((conversation, sender.clone(), key.clone()))
            {
                verdict.violate(Violation::Conflict, || {
                    format!("the database holds key {key} of {sender} twice")
                });
            }
            if let Some(id) = event.message_id
                && let Some((_, seq)) = database.places.insert(id, (conversation, row.seq))
            {
                verdict.violate(Violation::Reordered, || {
                    format!("the database holds one message id at {seq} and at {}", row.seq)
                });
            }
            let events = database.events.entry(conversation).or_default();
            if events.insert(row.seq, event).is_some() {
                verdict.violate(Violation::Reordered, || {
                    format!("the database holds {} of {} twice", row.seq, row.conversation)
                });
            }
        }
        for (conversation, events) in &database.events {
            for (seq, expected) in events.keys().zip(1..) {
                if *seq != expected {
                    let name = database.name(*conversation);
                    verdict.violate(Violation::Gap, || {
                        format!("the database has {seq} of {name} where {expected} belongs")
                    });
                    break;
                }
            }
        }
        database
    }

    /// The number of a conversation; a new one if it was never named.
    pub(crate) fn number(&mut self, conversation: &str) -> u32 {
        if let Some(number) = self.numbers.get(conversation) {
            return *number;
        }
        let number = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        self.names.push(conversation.to_owned());
        self.numbers.insert(conversation.to_owned(), number);
        number
    }

    pub(crate) fn name(&self, conversation: u32) -> &str {
        self.names.get(conversation as usize).map_or("?", String::as_str)
    }

    pub(crate) fn event(&self, conversation: u32, seq: u64) -> Option<&Event> {
        self.events.get(&conversation)?.get(&seq)
    }

    /// Where a message stands.
    pub(crate) fn place(&self, message_id: u128) -> Option<(u32, u64)> {
        self.places.get(&message_id).copied()
    }

    /// The conversation's events after `seq`, in order.
    pub(crate) fn after(&self, conversation: u32, seq: u64) -> impl Iterator<Item = u64> {
        let events = self.events.get(&conversation).into_iter();
        events.flat_map(move |it| it.range(seq.saturating_add(1)..).map(|(seq, _)| *seq))
    }

    pub(crate) fn conversations(&self) -> impl Iterator<Item = (u32, &BTreeMap<u64, Event>)> {
        self.events.iter().map(|(number, events)| (*number, events))
    }

    pub(crate) fn len(&self) -> usize {
        self.events.len()
    }
}
