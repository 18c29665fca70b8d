//! How far each shard has come with what each Kafka thread mailed it: one slot for each pair, the
//! only memory that a shard and a Kafka thread share.

use std::sync::atomic::{AtomicU64, Ordering};

/// Tickets only ever grow.
pub(crate) struct Progress {
    shards: usize,
    tickets: Box<[AtomicU64]>,
}

impl Progress {
    pub(crate) fn new(consumers: usize, shards: usize) -> Self {
        let tickets = (0..consumers * shards).map(|_| AtomicU64::new(0)).collect();
        Self { shards, tickets }
    }

    /// By the shard: all that `consumer` mailed it before `ticket` is enqueued to the sessions.
    pub(crate) fn store(&self, consumer: u16, shard: u16, ticket: u64) {
        self.slot(consumer, shard).store(ticket, Ordering::Release);
    }

    /// By the Kafka thread.
    pub(crate) fn load(&self, consumer: u16, shard: u16) -> u64 {
        self.slot(consumer, shard).load(Ordering::Acquire)
    }

    fn slot(&self, consumer: u16, shard: u16) -> &AtomicU64 {
        &self.tickets[usize::from(consumer) * self.shards + usize::from(shard)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_has_its_own_slot() {
        let progress = Progress::new(2, 3);
        for (consumer, shard) in [(0, 0), (0, 2), (1, 0), (1, 2)] {
            progress.store(consumer, shard, u64::from(consumer * 10 + shard + 1));
        }
        assert_eq!([progress.load(0, 0), progress.load(0, 1), progress.load(0, 2)], [1, 0, 3]);
        assert_eq!([progress.load(1, 0), progress.load(1, 1), progress.load(1, 2)], [11, 0, 13]);
    }
}
