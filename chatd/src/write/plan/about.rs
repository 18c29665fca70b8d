//! What is appended about a message that is in the log: an edit, its deletion, a reaction.

use super::{Entry, Planner, Target, TextRow, kind};
use crate::failure::Failure;
use crate::write::command::{Append, Appended, Change};
use crate::write::plan::Locked;
use proto::Message as _;
use proto::Uuid;
use proto::client::{MessageDeleted, MessageEdited, Reaction, event};
use proto::error::ErrorCode;
use proto::headers::event_type;

impl<'a> Planner<'a, '_> {
    /// Of a message that the sender may see, and that is not deleted.
    pub(super) fn about(
        &mut self,
        append: &'a Append,
        locked: Locked,
        target: Option<&Target>,
    ) -> Result<Appended, Failure> {
        let message_id = append.change.about().unwrap_or_default();
        let Some(target) = target else {
            let message = format!("the conversation has no message {message_id} for you");
            return Err(Failure::new(ErrorCode::NotFound, message));
        };
        let place = (append.conversation_id, target.sequence_number);
        let before = self.plan.texts.get(&place);
        if target.is_deleted || before.is_some_and(|it| it.text.is_none()) {
            let message = format!("message {message_id} is deleted");
            return Err(Failure::new(ErrorCode::NotFound, message));
        }
        let entry = match &append.change {
            Change::Edit { text, .. } => {
                may_edit(append, target)?;
                self.plan.texts.insert(place, TextRow { message_id, text: Some(text) });
                edited(message_id, text)
            }
            Change::Delete { .. } => {
                may_delete(append, target, &locked)?;
                self.plan.texts.insert(place, TextRow { message_id, text: None });
                deleted(message_id)
            }
            Change::React { reaction, removed, .. } => reacted(message_id, reaction, *removed),
            _ => return Err(Failure::invalid("the request is about no message")),
        };
        Ok(self.append(append, locked, entry))
    }
}

fn may_edit(append: &Append, target: &Target) -> Result<(), Failure> {
    if append.sender_id == target.sender_id {
        return Ok(());
    }
    Err(Failure::new(ErrorCode::Forbidden, "only the user who sent a message may edit it"))
}

/// One's own always; others' by whoever made the conversation.
fn may_delete(append: &Append, target: &Target, locked: &Locked) -> Result<(), Failure> {
    if [target.sender_id, locked.created_by].contains(&append.sender_id) {
        return Ok(());
    }
    let message = "only the user who sent a message, or who made the conversation, may delete it";
    Err(Failure::new(ErrorCode::Forbidden, message))
}

fn edited<'a>(message_id: Uuid, text: &str) -> Entry<'a> {
    let edit = MessageEdited { message_id: message_id.as_bytes().to_vec(), text: text.to_owned() };
    let details = edit.encode_to_vec();
    let event = event::Kind::MessageEdited(edit);
    entry(message_id, kind::MESSAGE_EDITED, event_type::MESSAGE_EDITED, event, details)
}

fn deleted<'a>(message_id: Uuid) -> Entry<'a> {
    let deletion = MessageDeleted { message_id: message_id.as_bytes().to_vec() };
    let details = deletion.encode_to_vec();
    let event = event::Kind::MessageDeleted(deletion);
    entry(message_id, kind::MESSAGE_DELETED, event_type::MESSAGE_DELETED, event, details)
}

fn reacted<'a>(message_id: Uuid, reaction: &str, removed: bool) -> Entry<'a> {
    let message_id_bytes = message_id.as_bytes().to_vec();
    let reaction =
        Reaction { message_id: message_id_bytes, reaction: reaction.to_owned(), removed };
    let details = reaction.encode_to_vec();
    let event = event::Kind::Reaction(reaction);
    entry(message_id, kind::REACTION, event_type::REACTION, event, details)
}

fn entry<'a>(
    message_id: Uuid,
    kind: i16,
    event_type: &'static str,
    event: event::Kind,
    details: Vec<u8>,
) -> Entry<'a> {
    Entry {
        kind,
        event_type,
        event: Some(event),
        message_id: Some(message_id),
        text: None,
        details: Some(details),
        recipients: None,
        title: None,
    }
}
