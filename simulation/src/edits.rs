//! What is done to messages of the conversation whose members come and go, and what the log says of them in the end.

use crate::Outside;
use crate::database::{Logged, State};
use crate::limits::{EDITS, STORM_US, USERS};
use ::chatd::rules::Change;
use fastrand::Rng;
use proto::Uuid;
use proto::client::event::Kind;
use std::collections::BTreeMap;

/// Somebody does something to a message, at these times; to which of them is chosen when it is time.
pub(crate) fn plan(random: &mut Rng, users: &[Uuid]) -> Vec<(u64, crate::chatd::Changed)> {
    let mut changes = Vec::new();
    for number in 0..random.usize(EDITS) {
        let (key, message_id) = (format!("about-{number}"), Uuid::nil());
        let change = match random.u8(..4) {
            0 => Change::Delete { message_id },
            1 => Change::React { message_id, reaction: "yes".into(), removed: random.bool() },
            _ => Change::Edit { message_id, text: format!("edit {number}") },
        };
        let changed = crate::chatd::Changed { sender: users[random.usize(..USERS)], key, change };
        changes.push((random.u64(..STORM_US), changed));
    }
    changes
}

/// Chooses a message for a change that has none yet; mostly one of the sender's who may do it. False: there is none.
pub(crate) fn aim(outside: &mut Outside, sender: &mut Uuid, change: &mut Change) -> bool {
    let (Change::Edit { message_id, .. }
    | Change::Delete { message_id }
    | Change::React { message_id, .. }) = change
    else {
        return true;
    };
    let database = outside.database.borrow();
    let log = rows(&database.state, outside.revolving);
    let messages: Vec<&Logged> = log.map(|it| it.1).filter(|it| it.is_message()).collect();
    if messages.is_empty() {
        return false;
    }
    let chosen = messages[outside.bus.random.usize(..messages.len())];
    *message_id = chosen.message_id.unwrap_or_default();
    let is_reaction = matches!(change, Change::React { .. });
    if !is_reaction && outside.bus.random.u8(..4) > 0 {
        *sender = chosen.sender;
    }
    true
}

fn rows(state: &State, conversation: Uuid) -> impl Iterator<Item = (u64, &Logged)> {
    let rows = state.log.range((conversation, 0)..=(conversation, u64::MAX));
    rows.map(|((_, sequence_number), logged)| (*sequence_number, logged))
}

/// A message says what its last edit said, a deleted one and its edits nothing; and nothing is done to it later.
pub(crate) fn judge(outside: &Outside) -> Vec<String> {
    let database = outside.database.borrow();
    let mut expected: BTreeMap<Vec<u8>, Option<String>> = BTreeMap::new();
    let mut violations = Vec::new();
    let log = || rows(&database.state, outside.revolving);
    for (seq, logged) in log() {
        let about = match &logged.event.kind {
            Some(Kind::Message(message)) => {
                let text = logged.text.clone();
                expected.insert(message.message_id.clone(), text);
                continue;
            }
            Some(Kind::MessageEdited(edit)) => &edit.message_id,
            Some(Kind::MessageDeleted(deletion)) => &deletion.message_id,
            Some(Kind::Reaction(reaction)) => &reaction.message_id,
            _ => continue,
        };
        match expected.get_mut(about) {
            None => violations.push(format!("event {seq} is about a message that is not there")),
            Some(None) => violations.push(format!("event {seq} is about a deleted message")),
            Some(text) => match &logged.event.kind {
                Some(Kind::MessageEdited(edit)) => *text = Some(edit.text.clone()),
                Some(Kind::MessageDeleted(_)) => *text = None,
                _ => {}
            },
        }
    }
    for (seq, logged) in log() {
        let (about, says) = match &logged.event.kind {
            Some(Kind::Message(message)) => (&message.message_id, &message.text),
            // Of a message that is not deleted each edit keeps its own.
            Some(Kind::MessageEdited(edit)) if expected.get(&edit.message_id) == Some(&None) => {
                (&edit.message_id, &edit.text)
            }
            _ => continue,
        };
        let wanted = expected.get(about).cloned().flatten().unwrap_or_default();
        if *says != wanted {
            violations.push(format!("event {seq} says {says:?} instead of {wanted:?}"));
        }
    }
    violations
}
