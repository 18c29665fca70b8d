//! Receipts of a batch, purely: many acks of one device become one cursor, which only moves forward.

use super::audience::Audience;
use super::command::ReceiptCommand;
use crate::failure::Failure;
use crate::limits::DELIVERED_TOLD_MEMBERS_MAX;
use proto::Uuid;
use proto::limits::INLINE_RECIPIENTS_MAX;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Conversation, user, device: sorted, as rows are locked.
pub type CursorKey = (Uuid, Uuid, Uuid);

/// The furthest that a device has come, by the acks of one batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    pub delivered_sequence_number: u64,
    pub read_sequence_number: u64,
    /// Of the ack that came last.
    pub traceparent: String,
}

/// What acks are judged by.
#[derive(Debug, Clone)]
pub struct Standing {
    pub last_sequence_number: u64,
    pub audience: Arc<Audience>,
}

/// What to store, and what each ack is told once it is committed.
pub(crate) struct Judged {
    pub answers: Vec<Result<(), Failure>>,
    pub cursors: BTreeMap<CursorKey, Cursor>,
}

pub(crate) fn judge(commands: &[&ReceiptCommand], standings: &HashMap<Uuid, Standing>) -> Judged {
    let mut judged =
        Judged { answers: Vec::with_capacity(commands.len()), cursors: BTreeMap::new() };
    for command in commands {
        let answer = check(command, standings.get(&command.conversation_id));
        if answer.is_ok() {
            let key = (command.conversation_id, command.user_id, command.device_id);
            let cursor = judged.cursors.entry(key).or_insert_with(|| Cursor {
                delivered_sequence_number: 0,
                read_sequence_number: 0,
                traceparent: String::new(),
            });
            cursor.delivered_sequence_number =
                cursor.delivered_sequence_number.max(command.delivered_sequence_number);
            cursor.read_sequence_number =
                cursor.read_sequence_number.max(command.read_sequence_number);
            cursor.traceparent.clone_from(&command.traceparent);
        }
        judged.answers.push(answer);
    }
    judged
}

fn check(command: &ReceiptCommand, standing: Option<&Standing>) -> Result<(), Failure> {
    let standing = standing
        .filter(|it| it.audience.contains(&command.user_id))
        .ok_or_else(Failure::not_a_member)?;
    let last = standing.last_sequence_number;
    let acked = command.delivered_sequence_number;
    if acked > last {
        return Err(Failure::invalid(format!(
            "sequence number {acked} is acked, but the conversation's last is {last}"
        )));
    }
    Ok(())
}

/// Who is told of a cursor that moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    Members,
    /// The user's own devices: what one of them has read is not unread on the others.
    Own,
    Nobody,
}

/// Of a read cursor everybody, unless they are too many: those are told in a summary.
pub(crate) fn told(audience: &Audience, cursor: &Cursor, stored_read: u64) -> Told {
    let read_moved = cursor.read_sequence_number > 0 && cursor.read_sequence_number == stored_read;
    match (audience.len(), read_moved) {
        (..=DELIVERED_TOLD_MEMBERS_MAX, _) | (..=INLINE_RECIPIENTS_MAX, true) => Told::Members,
        (_, true) => Told::Own,
        (_, false) => Told::Nobody,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::error::ErrorCode;

    fn ack(user: u128, device: u128, delivered: u64, read: u64) -> ReceiptCommand {
        ReceiptCommand {
            conversation_id: Uuid::from_u128(1),
            user_id: Uuid::from_u128(user),
            device_id: Uuid::from_u128(device),
            delivered_sequence_number: delivered,
            read_sequence_number: read,
            traceparent: format!("{delivered}"),
        }
        .checked()
        .unwrap()
    }

    fn standings(members: u128) -> HashMap<Uuid, Standing> {
        let members: Vec<_> = (10..10 + members).map(Uuid::from_u128).collect();
        let audience = Arc::new(Audience::new(&members));
        HashMap::from([(Uuid::from_u128(1), Standing { last_sequence_number: 9, audience })])
    }

    #[test]
    fn acks_of_a_device_become_one_cursor_that_never_goes_back() {
        let acks = [ack(10, 1, 3, 0), ack(10, 1, 7, 2), ack(10, 1, 5, 4), ack(10, 2, 1, 0)];
        let judged = judge(&acks.iter().collect::<Vec<_>>(), &standings(2));
        assert!(judged.answers.iter().all(Result::is_ok));
        let cursors: Vec<_> = judged
            .cursors
            .values()
            .map(|it| (it.delivered_sequence_number, it.read_sequence_number))
            .collect();
        assert_eq!(cursors, [(7, 4), (1, 0)]);
    }

    #[test]
    fn a_stranger_and_a_number_from_the_future_are_refused_alone() {
        let acks = [ack(99, 1, 1, 1), ack(10, 1, 10, 0), ack(11, 1, 9, 9)];
        let judged = judge(&acks.iter().collect::<Vec<_>>(), &standings(2));
        let codes: Vec<_> =
            judged.answers.iter().map(|it| it.as_ref().err().map(|error| error.code)).collect();
        assert_eq!(codes, [Some(ErrorCode::NotAMember), Some(ErrorCode::InvalidArgument), None]);
        assert_eq!(judged.cursors.len(), 1);
    }

    #[test]
    fn what_was_read_was_delivered_and_an_empty_ack_is_refused() {
        assert_eq!(ack(10, 1, 0, 4).delivered_sequence_number, 4);
        let empty = ReceiptCommand { delivered_sequence_number: 0, ..ack(10, 1, 1, 0) };
        assert_eq!(empty.checked().unwrap_err().code, ErrorCode::InvalidArgument);
    }

    #[test]
    fn who_is_told_of_a_cursor_depends_on_how_many_members_there_are() {
        let cursor = |read| Cursor {
            delivered_sequence_number: 9,
            read_sequence_number: read,
            traceparent: String::new(),
        };
        let members: Vec<_> = (0..=INLINE_RECIPIENTS_MAX as u128).map(Uuid::from_u128).collect();
        let audience = |count: usize| Audience::new(&members[..count]);
        let of = |count, read, stored| told(&audience(count), &cursor(read), stored);
        assert_eq!(of(DELIVERED_TOLD_MEMBERS_MAX, 0, 0), Told::Members);
        assert_eq!(of(DELIVERED_TOLD_MEMBERS_MAX + 1, 0, 0), Told::Nobody);
        assert_eq!(of(DELIVERED_TOLD_MEMBERS_MAX + 1, 7, 7), Told::Members);
        let behind = of(DELIVERED_TOLD_MEMBERS_MAX + 1, 3, 7);
        assert_eq!(behind, Told::Nobody, "the read cursor was further already");
        assert_eq!(of(INLINE_RECIPIENTS_MAX, 7, 7), Told::Members);
        assert_eq!(of(INLINE_RECIPIENTS_MAX + 1, 7, 7), Told::Own);
        assert_eq!(of(INLINE_RECIPIENTS_MAX + 1, 3, 7), Told::Nobody);
        assert_eq!(of(INLINE_RECIPIENTS_MAX + 1, 0, 0), Told::Nobody);
    }
}
