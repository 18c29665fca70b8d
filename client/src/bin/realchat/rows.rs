//! Events as lines of output.

use crate::context::Context;
use client::Uuid;
use client::api::Member;
use proto::client::{Event, ReceiptCount, event::Kind};
use serde::Serialize;
use std::collections::HashMap;

/// An event of a conversation, as `tail` and `history` print it.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    conversation_id: Uuid,
    sequence_number: u64,
    kind: &'static str,
    /// The sender's name.
    sender: String,
    sender_id: Uuid,
    created_at_us: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    added: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    removed: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reaction: Option<String>,
    /// The reaction was taken back.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_removed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    delivered_sequence_number: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    read_sequence_number: Option<u64>,
    /// Of a receipt summary: how many members have come how far.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    counts: Vec<ReceiptCount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    member_count: Option<u32>,
    /// How it came: `live` or `sync`.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'static str>,
}

impl Row {
    /// Looks up the names that the event needs.
    pub(crate) fn new(event: &Event, path: Option<&'static str>, names: &mut Names) -> Self {
        let sender_id = id(&event.sender_id);
        let mut row = Self {
            conversation_id: id(&event.conversation_id),
            sequence_number: event.sequence_number,
            kind: "unknown",
            sender: if event.sender_id.is_empty() { String::new() } else { names.of(sender_id) },
            sender_id,
            created_at_us: event.created_at_us,
            message_id: None,
            text: None,
            title: None,
            added: Vec::new(),
            removed: Vec::new(),
            reaction: None,
            is_removed: false,
            delivered_sequence_number: None,
            read_sequence_number: None,
            counts: Vec::new(),
            member_count: None,
            path,
        };
        if let Some(kind) = &event.kind {
            row.describe(kind, names);
        }
        row
    }

    fn describe(&mut self, kind: &Kind, names: &mut Names) {
        match kind {
            Kind::Message(message) => {
                self.kind = "message";
                self.message_id = Some(id(&message.message_id));
                self.text = Some(message.text.clone());
            }
            Kind::MessageEdited(edited) => {
                self.kind = "message_edited";
                self.message_id = Some(id(&edited.message_id));
                self.text = Some(edited.text.clone());
            }
            Kind::MessageDeleted(deleted) => {
                self.kind = "message_deleted";
                self.message_id = Some(id(&deleted.message_id));
            }
            Kind::Reaction(reaction) => {
                self.kind = "reaction";
                self.message_id = Some(id(&reaction.message_id));
                self.reaction = Some(reaction.reaction.clone());
                self.is_removed = reaction.removed;
            }
            Kind::MembershipChanged(change) => {
                self.kind = "membership_changed";
                self.added = names.of_all(&change.added_user_ids);
                self.removed = names.of_all(&change.removed_user_ids);
            }
            Kind::SettingsChanged(settings) => {
                self.kind = "settings_changed";
                self.title = Some(settings.title.clone());
            }
            Kind::Receipt(receipt) => {
                self.kind = "receipt";
                self.delivered_sequence_number = Some(receipt.delivered_sequence_number);
                self.read_sequence_number = Some(receipt.read_sequence_number);
            }
            Kind::ReceiptSummary(summary) => {
                self.kind = "receipt_summary";
                self.counts.clone_from(&summary.counts);
                self.member_count = Some(summary.member_count);
            }
            Kind::ProfileUpdated(_) => self.kind = "profile_updated",
            Kind::TypingChanged(_) => self.kind = "typing_changed",
            Kind::PresenceChanged(_) => self.kind = "presence_changed",
        }
    }

    /// What a receipt or a summary says, for people.
    fn reach(&self) -> Option<String> {
        if let (Some(delivered), Some(read)) =
            (self.delivered_sequence_number, self.read_sequence_number)
        {
            return Some(format!("has {delivered}, has read {read}"));
        }
        let (last, members) = (self.counts.last()?, self.member_count?);
        let ReceiptCount { sequence_number, delivered_count, read_count } = last;
        Some(format!(
            "{sequence_number} is with {delivered_count} and read by {read_count} of {members} members"
        ))
    }

    /// The line for people.
    pub(crate) fn text(&self) -> String {
        let mut what = self.text.clone().unwrap_or_default();
        if !self.added.is_empty() {
            what = format!("added {}", self.added.join(", "));
        }
        if !self.removed.is_empty() {
            what = format!("{what} removed {}", self.removed.join(", "));
        }
        if let Some(told) = self.title.as_ref().or(self.reaction.as_ref()) {
            what.clone_from(told);
        }
        if self.is_removed {
            what = format!("no longer {what}");
        }
        if let Some(reach) = self.reach() {
            what = reach;
        }
        format!(
            "{}  {}  {}  {}  {}",
            self.conversation_id,
            self.sequence_number,
            self.kind,
            self.sender,
            what.trim()
        )
    }
}

/// Names of users, looked up once each.
pub(crate) struct Names<'a> {
    context: &'a Context,
    known: HashMap<Uuid, String>,
}

impl<'a> Names<'a> {
    pub(crate) fn new(context: &'a Context) -> Self {
        Self { context, known: HashMap::new() }
    }

    pub(crate) fn learn<'b>(&mut self, members: impl IntoIterator<Item = &'b Member>) {
        let names = members.into_iter().map(|member| (member.user_id, member.name.clone()));
        self.known.extend(names);
    }

    /// Names of as many as somebody reads, and ids of the others.
    fn of_all(&mut self, users: &[Vec<u8>]) -> Vec<String> {
        const NAMES_MAX: usize = 16;
        let (named, others) = users.split_at(users.len().min(NAMES_MAX));
        let mut names: Vec<String> = named.iter().map(|it| self.of(id(it))).collect();
        names.extend(others.iter().map(|it| id(it).to_string()));
        names
    }

    /// The user's name; the id's text if it cannot be found out.
    pub(crate) fn of(&mut self, user: Uuid) -> String {
        if let Some(name) = self.known.get(&user) {
            return name.clone();
        }
        let found = self.context.token().ok().and_then(|token| {
            let users = self.context.api.users_by_id(&token, &[user]).ok()?;
            Some(users.into_iter().find(|it| it.user_id == user)?.name)
        });
        match found {
            Some(name) => self.known.entry(user).or_insert(name).clone(),
            None => user.to_string(),
        }
    }
}

/// An id of the protocol; nil where there is none.
pub(crate) fn id(bytes: &[u8]) -> Uuid {
    Uuid::from_slice(bytes).unwrap_or_default()
}
