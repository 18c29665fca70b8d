//! What waits for a writer: first come first served within a conversation, and conversations in turns, so
//! that a busy one delays the others by no more than its part of a batch, and never takes all the room.

use crate::limits::CONVERSATION_QUEUE_PERCENT;
use proto::Uuid;
use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Why something was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    Full,
    /// The conversation has its part of the queue.
    ConversationFull,
    Stopped,
}

/// A writer's queue.
pub(super) struct Queue<T> {
    waiting: Mutex<Waiting<T>>,
    arrived: Condvar,
}

struct Waiting<T> {
    limit: usize,
    conversation_limit: usize,
    conversations: HashMap<Uuid, VecDeque<T>>,
    /// The conversations with something that waits, each once, the next one first.
    turns: VecDeque<Uuid>,
    count: usize,
    is_stopped: bool,
}

impl<T> Queue<T> {
    /// For so many at most.
    pub(super) fn new(limit: usize) -> Self {
        Self { waiting: Mutex::new(Waiting::new(limit)), arrived: Condvar::new() }
    }

    pub(super) fn push(&self, conversation: Uuid, item: T) -> Result<(), (Refusal, T)> {
        let was_empty = self.lock().push(conversation, item)?;
        // There is one writer, and it sleeps only while there is nothing.
        if was_empty {
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// Waits for something, and takes up to so many; nothing once the queue was stopped and is empty.
    pub(super) fn take(&self, most: usize) -> Vec<T> {
        let mut waiting = self.lock();
        while waiting.count == 0 && !waiting.is_stopped {
            waiting = self.arrived.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        waiting.take(most)
    }

    /// All that waits now.
    pub(super) fn take_all(&self) -> Vec<T> {
        self.lock().take(usize::MAX)
    }

    pub(super) fn len(&self) -> usize {
        self.lock().count
    }

    /// Nothing more is taken in; what waits can still be taken out.
    pub(super) fn stop(&self) {
        self.lock().is_stopped = true;
        self.arrived.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<T>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Waiting<T> {
    fn new(limit: usize) -> Self {
        Self {
            limit,
            conversation_limit: (limit * CONVERSATION_QUEUE_PERCENT / 100).max(1),
            conversations: HashMap::new(),
            turns: VecDeque::new(),
            count: 0,
            is_stopped: false,
        }
    }

    /// True if nothing waited before.
    fn push(&mut self, conversation: Uuid, item: T) -> Result<bool, (Refusal, T)> {
        if self.is_stopped {
            return Err((Refusal::Stopped, item));
        }
        if self.count >= self.limit {
            return Err((Refusal::Full, item));
        }
        let own = self.conversations.entry(conversation).or_default();
        if own.len() >= self.conversation_limit {
            return Err((Refusal::ConversationFull, item));
        }
        if own.is_empty() {
            self.turns.push_back(conversation);
        }
        own.push_back(item);
        self.count += 1;
        Ok(self.count == 1)
    }

    /// Each conversation gets an equal part of what is left of the batch, then those with more go on.
    fn take(&mut self, most: usize) -> Vec<T> {
        let mut batch = Vec::with_capacity(most.min(self.count));
        while batch.len() < most
            && let Some(conversation) = self.turns.pop_front()
        {
            let part = ((most - batch.len()) / (self.turns.len() + 1)).max(1);
            let Some(own) = self.conversations.get_mut(&conversation) else { continue };
            batch.extend(own.drain(..part.min(own.len())));
            if own.is_empty() {
                self.conversations.remove(&conversation);
            } else {
                self.turns.push_back(conversation);
            }
        }
        self.count -= batch.len();
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOT: Uuid = Uuid::from_u128(1);

    fn cold(number: u128) -> Uuid {
        Uuid::from_u128(100 + number)
    }

    fn queue(limit: usize, hot: usize, others: u128) -> Waiting<(Uuid, usize)> {
        let mut waiting = Waiting::new(limit);
        for number in 0..hot {
            waiting.push(HOT, (HOT, number)).unwrap();
        }
        for number in 0..others {
            waiting.push(cold(number), (cold(number), 0)).unwrap();
        }
        waiting
    }

    #[test]
    fn a_conversation_keeps_its_order_and_does_not_hold_up_the_others() {
        let mut waiting = queue(10_000, 3_000, 20);
        let batch = waiting.take(64);
        assert_eq!((batch.len(), batch.iter().filter(|it| it.0 != HOT).count()), (64, 20));
        let mut hot: Vec<usize> = batch.iter().filter(|it| it.0 == HOT).map(|it| it.1).collect();
        while waiting.count > 0 {
            let batch = waiting.take(64);
            assert!(!batch.is_empty() && batch.len() <= 64);
            hot.extend(batch.iter().map(|it| it.1));
        }
        assert_eq!(hot, (0..3_000).collect::<Vec<_>>());
        assert!(waiting.conversations.is_empty() && waiting.turns.is_empty());
        assert_eq!(waiting.take(64), []);
    }

    #[test]
    fn more_conversations_than_a_batch_holds_are_served_in_turns() {
        let mut waiting = queue(10_000, 0, 100);
        for number in 0..100 {
            waiting.push(cold(number), (cold(number), 1)).unwrap();
        }
        let first: Vec<Uuid> = waiting.take(60).iter().map(|it| it.0).collect();
        let second: Vec<Uuid> = waiting.take(60).iter().map(|it| it.0).collect();
        assert_eq!(first, (0..60).map(cold).collect::<Vec<_>>());
        assert_eq!(second[..40], (60..100).map(cold).collect::<Vec<_>>());
    }

    #[test]
    fn one_more_than_the_limit_is_refused_and_a_conversation_leaves_room_for_others() {
        let half = 100 * CONVERSATION_QUEUE_PERCENT / 100;
        let mut waiting = queue(100, half, 0);
        let refused = waiting.push(HOT, (HOT, 99)).unwrap_err();
        assert_eq!(refused, (Refusal::ConversationFull, (HOT, 99)));
        for number in 0..(100 - half) as u128 {
            assert_eq!(waiting.push(cold(number), (cold(number), 0)), Ok(false));
        }
        assert_eq!(waiting.push(cold(999), (HOT, 0)).unwrap_err().0, Refusal::Full);
        waiting.take(1);
        assert_eq!(waiting.push(cold(999), (HOT, 0)), Ok(false));
        assert_eq!(Waiting::new(1).push(HOT, ()), Ok(true));
    }

    #[test]
    fn a_stopped_queue_gives_out_what_waits_and_then_nothing() {
        let queue = Queue::new(10);
        queue.push(HOT, 1).unwrap();
        queue.stop();
        assert_eq!(queue.push(HOT, 2), Err((Refusal::Stopped, 2)));
        assert_eq!((queue.len(), queue.take(9), queue.take(9)), (1, vec![1], vec![]));
        let queue = Queue::new(10);
        std::thread::scope(|scope| {
            let taken = scope.spawn(|| (queue.take(9), queue.take(9)));
            queue.push(HOT, 1).unwrap();
            while queue.len() > 0 {
                std::thread::yield_now();
            }
            queue.stop();
            assert_eq!(taken.join().unwrap(), (vec![1], vec![]));
        });
    }
}
