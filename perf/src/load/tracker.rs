//! Which events each session has seen, by sequence number alone.

use proto::Uuid;
use std::collections::HashMap;

/// How far one session has come in one conversation.
#[derive(Debug, Clone, Default)]
struct View {
    conversation: u32,
    last: u64,
    /// Passed over, and not seen since.
    missing: Vec<u64>,
}

/// What an event was to the session that saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sight {
    New,
    /// Seen before.
    Duplicate,
    /// New, but after a later one.
    Late,
    /// Of a conversation that the session has no part in.
    Foreign,
}

/// All sessions, and the counts over all of them.
#[derive(Debug)]
pub(crate) struct Tracker {
    conversations: HashMap<Uuid, u32>,
    views: Vec<Vec<View>>,
    pub(crate) delivered: u64,
    pub(crate) duplicates: u64,
    pub(crate) reordered: u64,
}

impl Tracker {
    /// `sessions` holds each session's conversations, as indexes into `conversations`; all have
    /// seen everything up to `start`.
    pub(crate) fn new(
        conversations: impl IntoIterator<Item = Uuid>,
        sessions: &[Vec<usize>],
        start: u64,
    ) -> Self {
        let number = |index: usize| u32::try_from(index).unwrap_or(u32::MAX);
        let view =
            |index: &usize| View { conversation: number(*index), last: start, missing: Vec::new() };
        let conversations = conversations.into_iter().enumerate();
        Self {
            conversations: conversations.map(|(index, id)| (id, number(index))).collect(),
            views: sessions.iter().map(|it| it.iter().map(view).collect()).collect(),
            delivered: 0,
            duplicates: 0,
            reordered: 0,
        }
    }

    /// A session saw an event.
    pub(crate) fn see(&mut self, session: usize, conversation_id: &[u8], seq: u64) -> Sight {
        let conversation = Uuid::from_slice(conversation_id).ok();
        let Some(number) = conversation.and_then(|id| self.conversations.get(&id)) else {
            return Sight::Foreign;
        };
        let views = self.views.get_mut(session).into_iter().flatten();
        let Some(view) = views.into_iter().find(|it| it.conversation == *number) else {
            return Sight::Foreign;
        };
        if seq > view.last {
            view.missing.extend(view.last + 1..seq);
            view.last = seq;
            self.delivered += 1;
            return Sight::New;
        }
        if let Some(at) = view.missing.iter().position(|it| *it == seq) {
            view.missing.swap_remove(at);
            self.delivered += 1;
            self.reordered += 1;
            return Sight::Late;
        }
        self.duplicates += 1;
        Sight::Duplicate
    }

    /// Events that sessions never saw, when each conversation has events up to `last`.
    pub(crate) fn lost(&self, last: &[u64]) -> u64 {
        let views = self.views.iter().flatten();
        let lost = views.map(|view| {
            let end = last.get(view.conversation as usize).copied().unwrap_or_default();
            view.missing.len() as u64 + end.saturating_sub(view.last)
        });
        lost.sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_trouble_is_told_apart() {
        let ids = [proto::id::new(), proto::id::new()];
        let mut tracker = Tracker::new(ids, &[vec![0], vec![0, 1]], 1);
        let mut see = |session, conversation: usize, seq| {
            tracker.see(session, ids[conversation].as_bytes(), seq)
        };
        assert_eq!(see(0, 0, 2), Sight::New);
        assert_eq!(see(0, 0, 5), Sight::New);
        assert_eq!(see(0, 0, 3), Sight::Late);
        assert_eq!(see(0, 0, 3), Sight::Duplicate);
        assert_eq!(see(0, 1, 2), Sight::Foreign);
        assert_eq!(see(1, 1, 2), Sight::New);
        // Session 0 lacks 4 and 6, session 1 lacks 2..=6 of the first and 3 of the second.
        assert_eq!(tracker.lost(&[6, 3]), 2 + 5 + 1);
        assert_eq!((tracker.delivered, tracker.duplicates, tracker.reordered), (4, 1, 1));
    }
}
