//! Conversations as a writer left them, so that a batch need not lock and read what it is about to
//! write: it writes at once, and compares. Every change of a conversation takes a sequence number, so
//! one whose last number is still the remembered one has not changed at all.

use super::generations::Generations;
use super::statements::ConversationState;
use crate::limits::CONVERSATIONS_REMEMBERED_MAX;
use proto::Uuid;

/// By conversation.
#[derive(Debug)]
pub(super) struct Remembered(Generations<ConversationState>);

impl Default for Remembered {
    fn default() -> Self {
        Self(Generations::new(CONVERSATIONS_REMEMBERED_MAX))
    }
}

impl Remembered {
    /// The rows of all these conversations; None if one of them is not known.
    pub(super) fn rows<'a>(
        &mut self,
        ids: impl Iterator<Item = &'a Uuid>,
    ) -> Option<Vec<ConversationState>> {
        ids.map(|id| self.0.get(id).copied()).collect()
    }

    pub(super) fn put(&mut self, row: ConversationState) {
        self.0.put(row.conversation_id, row, 1);
    }

    pub(super) fn forget<'a>(&mut self, ids: impl Iterator<Item = &'a Uuid>) {
        ids.for_each(|id| self.0.forget(id));
    }

    /// Another server may have answered for the database meanwhile.
    pub(super) fn forget_all(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: u128, last_sequence_number: u64) -> ConversationState {
        ConversationState {
            conversation_id: Uuid::from_u128(id),
            last_sequence_number,
            ..ConversationState::default()
        }
    }

    fn last(remembered: &mut Remembered, id: u128) -> Option<u64> {
        let rows = remembered.rows([Uuid::from_u128(id)].iter())?;
        rows.first().map(|it| it.last_sequence_number)
    }

    #[test]
    fn all_are_known_or_none_is_told() {
        let mut remembered = Remembered::default();
        remembered.put(row(1, 5));
        remembered.put(row(2, 6));
        let ids = [1, 2, 3].map(Uuid::from_u128);
        assert_eq!(remembered.rows(ids[..2].iter()).map(|it| it.len()), Some(2));
        assert!(remembered.rows(ids.iter()).is_none());
        remembered.put(row(1, 7));
        assert_eq!(last(&mut remembered, 1), Some(7));
        remembered.forget(ids[..1].iter());
        assert_eq!((last(&mut remembered, 1), last(&mut remembered, 2)), (None, Some(6)));
        remembered.forget_all();
        assert_eq!(last(&mut remembered, 2), None);
    }

    #[test]
    fn what_is_used_stays_and_the_rest_is_bounded() {
        let mut remembered = Remembered::default();
        remembered.put(row(1, 1));
        for id in 2..3 * CONVERSATIONS_REMEMBERED_MAX as u128 {
            remembered.put(row(id, 1));
            assert_eq!(last(&mut remembered, 1), Some(1), "{id}");
        }
        assert_eq!(last(&mut remembered, 2), None);
        let held = remembered.0.len();
        assert!(held <= CONVERSATIONS_REMEMBERED_MAX, "{held}");
    }

    #[test]
    fn an_older_row_does_not_come_back_after_a_newer_was_forgotten() {
        let mut remembered = Remembered::default();
        remembered.put(row(1, 1));
        for id in 2..=CONVERSATIONS_REMEMBERED_MAX as u128 / 2 + 1 {
            remembered.put(row(id, 1));
        }
        remembered.put(row(1, 9));
        remembered.forget([Uuid::from_u128(1)].iter());
        assert_eq!(last(&mut remembered, 1), None);
    }
}
