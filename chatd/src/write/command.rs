//! What can be asked of the write engine, checked as far as it can be without the database.

use super::body_hash::{BodyHash, body_hash};
use crate::failure::Failure;
use crate::limits::MEMBERS_NAMED_MAX;
use proto::Uuid;
use proto::error::ErrorCode;
use proto::limits::{
    IDEMPOTENCY_KEY_BYTES_MAX, MESSAGE_TEXT_BYTES_MAX, REACTION_BYTES_MAX, TITLE_BYTES_MAX,
};

/// A request for the conversation's next sequence number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Append {
    pub conversation_id: Uuid,
    pub sender_id: Uuid,
    pub device_id: Uuid,
    pub key: String,
    pub body_hash: BodyHash,
    /// W3C trace context; empty when there is none.
    pub traceparent: String,
    pub change: Change,
}

/// What is appended to the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Message {
        text: String,
    },
    /// The conversation's first event; the sender becomes a member, too.
    Create {
        title: String,
        member_ids: Vec<Uuid>,
    },
    Title {
        title: String,
    },
    Add {
        user_ids: Vec<Uuid>,
        /// The client chose the request's key, which keeps its answer even where all are members already.
        is_keyed: bool,
    },
    Remove {
        user_id: Uuid,
    },
    /// Another text for a message of the sender's own.
    Edit {
        message_id: Uuid,
        text: String,
    },
    /// A message of the sender's own, or any in a conversation that the sender made.
    Delete {
        message_id: Uuid,
    },
    React {
        message_id: Uuid,
        reaction: String,
        /// Takes it back.
        removed: bool,
    },
}

/// The answer to an [`Append`]: what is now durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// Messages only.
    pub message_id: Option<Uuid>,
    pub sequence_number: u64,
    pub message_number: u64,
    pub created_at_us: u64,
    /// The key was known: this is the first answer again.
    pub repeated: bool,
}

/// How far a device of a member has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiptCommand {
    pub conversation_id: Uuid,
    pub user_id: Uuid,
    pub device_id: Uuid,
    pub delivered_sequence_number: u64,
    pub read_sequence_number: u64,
    pub traceparent: String,
}

impl Append {
    /// Checks everything that needs no database.
    pub fn new(
        conversation_id: Uuid,
        (sender_id, device_id): (Uuid, Uuid),
        key: String,
        traceparent: String,
        change: Change,
    ) -> Result<Self, Failure> {
        check_key(&key)?;
        let change = change.checked(sender_id)?;
        let body_hash = body_hash(&change);
        Ok(Self { conversation_id, sender_id, device_id, key, body_hash, traceparent, change })
    }
}

impl Change {
    fn checked(self, sender_id: Uuid) -> Result<Self, Failure> {
        match self {
            Self::Message { text } => {
                check_text(&text)?;
                Ok(Self::Message { text })
            }
            Self::Create { title, mut member_ids } => {
                check_title(&title)?;
                member_ids.push(sender_id);
                Ok(Self::Create { title, member_ids: distinct(member_ids)? })
            }
            Self::Title { title } => {
                check_title(&title)?;
                Ok(Self::Title { title })
            }
            Self::Add { user_ids, .. } if user_ids.is_empty() => {
                Err(Failure::invalid("no user is named; name 1 or more in names or user_ids"))
            }
            Self::Add { user_ids, is_keyed } => {
                Ok(Self::Add { user_ids: distinct(user_ids)?, is_keyed })
            }
            Self::Edit { message_id, text } => {
                check_text(&text)?;
                Ok(Self::Edit { message_id, text })
            }
            Self::React { message_id, reaction, removed } => {
                check_reaction(&reaction)?;
                Ok(Self::React { message_id, reaction, removed })
            }
            Self::Remove { .. } | Self::Delete { .. } => Ok(self),
        }
    }

    /// The message that it is about, if it is about one.
    pub fn about(&self) -> Option<Uuid> {
        match self {
            Self::Edit { message_id, .. }
            | Self::Delete { message_id }
            | Self::React { message_id, .. } => Some(*message_id),
            _ => None,
        }
    }
}

impl ReceiptCommand {
    /// What was read was delivered.
    pub fn checked(mut self) -> Result<Self, Failure> {
        self.delivered_sequence_number =
            self.delivered_sequence_number.max(self.read_sequence_number);
        if self.delivered_sequence_number == 0 {
            return Err(Failure::invalid(
                "an ack needs a delivered_sequence_number or read_sequence_number of 1 or more",
            ));
        }
        Ok(self)
    }
}

/// The id of a conversation that is to be made. With an idempotency key it follows from creator and
/// key, so that the same request finds the conversation that it made before.
pub(crate) fn new_conversation_id(creator_id: Uuid, key: Option<&str>) -> Uuid {
    match key {
        Some(key) => Uuid::new_v5(&creator_id, format!("conversation:{key}").as_bytes()),
        None => proto::id::new(),
    }
}

fn distinct(mut ids: Vec<Uuid>) -> Result<Vec<Uuid>, Failure> {
    ids.sort_unstable();
    ids.dedup();
    if ids.len() > MEMBERS_NAMED_MAX {
        let count = ids.len();
        return Err(Failure::invalid(format!(
            "{count} members are too many; at most {MEMBERS_NAMED_MAX} are allowed"
        )));
    }
    Ok(ids)
}

/// PostgreSQL's text cannot hold it, and no message needs it.
fn check_nul(field: &str, text: &str) -> Result<(), Failure> {
    if text.as_bytes().contains(&0) {
        return Err(Failure::invalid(format!(
            "{field} holds a NUL character, which is not allowed"
        )));
    }
    Ok(())
}

/// A text that is stored: bounded, and without NUL.
pub(crate) fn check_stored(field: &str, text: &str, bytes_max: usize) -> Result<(), Failure> {
    if text.len() > bytes_max {
        let bytes = text.len();
        return Err(Failure::invalid(format!(
            "{field} is {bytes} bytes; at most {bytes_max} are allowed"
        )));
    }
    check_nul(field, text)
}

fn check_key(key: &str) -> Result<(), Failure> {
    if key.is_empty() {
        let message = format!(
            "idempotency_key is missing; 1 to {IDEMPOTENCY_KEY_BYTES_MAX} bytes of your choice are \
             required"
        );
        return Err(Failure::new(ErrorCode::IdempotencyKeyMissing, message));
    }
    check_stored("idempotency_key", key, IDEMPOTENCY_KEY_BYTES_MAX)
}

fn check_text(text: &str) -> Result<(), Failure> {
    if text.is_empty() {
        return Err(Failure::invalid("text is empty; 1 byte or more is required"));
    }
    if text.len() > MESSAGE_TEXT_BYTES_MAX {
        let bytes = text.len();
        let message =
            format!("text is {bytes} bytes; at most {MESSAGE_TEXT_BYTES_MAX} are allowed");
        return Err(Failure::new(ErrorCode::MessageTooLong, message));
    }
    check_nul("text", text)
}

fn check_reaction(reaction: &str) -> Result<(), Failure> {
    if reaction.is_empty() {
        return Err(Failure::invalid("reaction is empty; 1 byte or more is required"));
    }
    if reaction.chars().any(char::is_control) {
        let message = "reaction holds a control character, which is not allowed";
        return Err(Failure::invalid(message));
    }
    check_stored("reaction", reaction, REACTION_BYTES_MAX)
}

fn check_title(title: &str) -> Result<(), Failure> {
    check_stored("title", title, TITLE_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(key: &str, change: Change) -> Result<Append, Failure> {
        let ids = (Uuid::from_u128(1), Uuid::from_u128(2));
        Append::new(Uuid::from_u128(9), ids, key.into(), String::new(), change)
    }

    fn message(text: &str) -> Change {
        Change::Message { text: text.into() }
    }

    fn code(outcome: Result<Append, Failure>) -> ErrorCode {
        outcome.unwrap_err().code
    }

    #[test]
    fn bad_requests_are_named_before_they_reach_a_batch() {
        assert_eq!(code(append("", message("hi"))), ErrorCode::IdempotencyKeyMissing);
        assert_eq!(code(append(&"k".repeat(129), message("hi"))), ErrorCode::InvalidArgument);
        assert_eq!(code(append("k\0", message("hi"))), ErrorCode::InvalidArgument);
        assert_eq!(code(append("k", message(""))), ErrorCode::InvalidArgument);
        assert_eq!(code(append("k", message("a\0b"))), ErrorCode::InvalidArgument);
        let long = "x".repeat(MESSAGE_TEXT_BYTES_MAX + 1);
        assert_eq!(code(append("k", message(&long))), ErrorCode::MessageTooLong);
        assert!(append("k", message(&long[1..])).is_ok());
        let title = "t".repeat(TITLE_BYTES_MAX + 1);
        assert_eq!(code(append("k", Change::Title { title })), ErrorCode::InvalidArgument);
        let add = Change::Add { user_ids: vec![], is_keyed: true };
        assert_eq!(code(append("k", add)), ErrorCode::InvalidArgument);
    }

    #[test]
    fn edits_and_reactions_are_bounded() {
        let message_id = Uuid::from_u128(5);
        let edit = |text: &str| append("k", Change::Edit { message_id, text: text.into() });
        assert_eq!(code(edit("")), ErrorCode::InvalidArgument);
        assert_eq!(code(edit(&"x".repeat(MESSAGE_TEXT_BYTES_MAX + 1))), ErrorCode::MessageTooLong);
        assert!(edit(&"x".repeat(MESSAGE_TEXT_BYTES_MAX)).is_ok());
        let react = |reaction: &str| {
            let reaction = reaction.to_owned();
            append("k", Change::React { message_id, reaction, removed: false })
        };
        assert!(react(&"x".repeat(REACTION_BYTES_MAX)).is_ok());
        let error = react(&"x".repeat(REACTION_BYTES_MAX + 1)).unwrap_err();
        assert_eq!(error.message, "reaction is 65 bytes; at most 64 are allowed");
        assert_eq!(code(react("")), ErrorCode::InvalidArgument);
        assert_eq!(code(react("a\nb")), ErrorCode::InvalidArgument);
    }

    #[test]
    fn members_are_made_distinct_and_counted_with_the_creator() {
        let create = |count: u128| Change::Create {
            title: String::new(),
            member_ids: (0..count).map(|id| Uuid::from_u128(100 + id)).collect(),
        };
        assert!(append("k", create(MEMBERS_NAMED_MAX as u128 - 1)).is_ok());
        let error = append("k", create(MEMBERS_NAMED_MAX as u128)).unwrap_err();
        assert_eq!(error.message, "1025 members are too many; at most 1024 are allowed");
        let twice = vec![Uuid::from_u128(1), Uuid::from_u128(5), Uuid::from_u128(5)];
        let create = Change::Create { title: String::new(), member_ids: twice };
        let Change::Create { member_ids, .. } = append("k", create).unwrap().change else {
            panic!("no creation");
        };
        assert_eq!(member_ids, [Uuid::from_u128(1), Uuid::from_u128(5)]);
    }

    #[test]
    fn a_key_names_the_conversation_it_made() {
        let creator = Uuid::from_u128(3);
        let id = new_conversation_id(creator, Some("k"));
        assert_eq!(id, new_conversation_id(creator, Some("k")));
        assert_ne!(id, new_conversation_id(Uuid::from_u128(4), Some("k")));
        assert_ne!(new_conversation_id(creator, None), new_conversation_id(creator, None));
    }
}
