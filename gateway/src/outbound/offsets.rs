//! Which offsets may be committed, pure: only a partition's contiguous prefix of records that every
//! shard concerned has enqueued to its sessions.
//!
//! A Kafka thread gives each batch a ticket, and mails the ticket after the batch to each shard that
//! the batch concerned. Mailboxes keep order: a shard that stored the ticket has enqueued the batch.

use crate::limits::SHARDS_MAX;
use std::collections::{BTreeSet, VecDeque};

const WORDS: usize = SHARDS_MAX.div_ceil(64);

/// Some of the shards.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ShardSet([u64; WORDS]);

impl ShardSet {
    pub fn insert(&mut self, shard: u16) {
        self.0[usize::from(shard) / 64] |= 1 << (shard % 64);
    }

    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    pub fn union(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine |= theirs;
        }
    }

    /// In ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u16> {
        (0_u16..).step_by(64).zip(self.0).flat_map(|(first, mut bits)| {
            std::iter::from_fn(move || {
                let bit = u16::try_from(bits.trailing_zeros()).unwrap_or_default();
                // Takes the lowest bit away.
                bits = (bits != 0).then(|| bits & (bits - 1))?;
                Some(first + bit)
            })
        })
    }

    /// Those that are not in the other.
    pub fn without(mut self, other: &Self) -> Self {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine &= !theirs;
        }
        self
    }
}

/// Records of one partition and one batch.
struct Span {
    /// One past the last record's offset.
    end: i64,
    ticket: u64,
    shards: ShardSet,
}

#[derive(Default)]
struct Partition {
    /// The offset of the record that comes next, once it is known.
    next: Option<i64>,
    /// Everything below is enqueued.
    done: Option<i64>,
    /// What was last handed out by [`Tracker::take_due`].
    committed: Option<i64>,
    waiting: VecDeque<Span>,
    /// Records that were read and are not yet mailed,
    held: BTreeSet<i64>,
    /// and those that were mailed late: offset, ticket, shards.
    late: Vec<(i64, u64, ShardSet)>,
    /// The first record that is held, as it was last asked for.
    told: Option<i64>,
}

/// The partitions of one Kafka thread, by index. Memory: one span for a partition and batch that
/// shards have not finished, so as many as tickets fit the shards' mailboxes.
#[derive(Default)]
pub struct Tracker {
    partitions: Vec<Partition>,
}

impl Tracker {
    /// Adds a partition and returns its index. Its start is due for committing, so that a restart
    /// goes on from there even if no record came.
    pub fn add_partition(&mut self, start: Option<i64>) -> usize {
        let partition = Partition { next: start, done: start, ..Partition::default() };
        self.partitions.push(partition);
        self.partitions.len() - 1
    }

    /// A record was routed: `shards` have it in their mailboxes and will find `ticket` behind it.
    /// Offsets of a partition grow, with holes; one that was there before changes nothing.
    pub fn record(&mut self, partition: usize, offset: i64, ticket: u64, shards: &ShardSet) {
        let partition = &mut self.partitions[partition];
        if partition.next.is_some_and(|next| offset < next) {
            return;
        }
        let end = offset + 1;
        partition.next = Some(end);
        match partition.waiting.back_mut() {
            Some(last) if last.ticket == ticket || shards.is_empty() => {
                last.end = end;
                last.shards.union(shards);
            }
            None if shards.is_empty() => partition.done = Some(end),
            _ => partition.waiting.push_back(Span { end, ticket, shards: *shards }),
        }
    }

    /// A record that is read waits before it is mailed: nothing from it on is committed.
    pub fn hold(&mut self, partition: usize, offset: i64) {
        self.partitions[partition].held.insert(offset);
    }

    /// It waits no more: `shards` have it and will find `ticket` behind it. Of a record that did not
    /// wait this changes nothing.
    pub fn release(&mut self, partition: usize, offset: i64, ticket: u64, shards: &ShardSet) {
        let partition = &mut self.partitions[partition];
        if partition.held.remove(&offset) && !shards.is_empty() {
            partition.late.push((offset, ticket, *shards));
        }
    }

    /// The first record that waits, if that has changed since this was last asked.
    pub fn held_changed(&mut self, partition: usize) -> Option<Option<i64>> {
        let partition = &mut self.partitions[partition];
        let first = partition.held.first().copied();
        (std::mem::replace(&mut partition.told, first) != first).then_some(first)
    }

    /// The offset that is to be read next, if it is known.
    pub fn next_offset(&self, partition: usize) -> Option<i64> {
        self.partitions[partition].next
    }

    /// Looks at what the shards stored: `stored(shard)` is its last ticket.
    pub fn advance(&mut self, stored: impl Fn(u16) -> u64) {
        for partition in &mut self.partitions {
            while let Some(first) = partition.waiting.front()
                && first.shards.iter().all(|shard| stored(shard) >= first.ticket)
            {
                partition.done = Some(first.end);
                partition.waiting.pop_front();
            }
            partition
                .late
                .retain(|(_, ticket, shards)| !shards.iter().all(|shard| stored(shard) >= *ticket));
        }
    }

    /// Partition and offset of what may be committed and was not handed out before.
    pub fn take_due(&mut self) -> Vec<(usize, i64)> {
        let mut due = Vec::new();
        for (index, partition) in self.partitions.iter_mut().enumerate() {
            let late = partition.late.iter().map(|(offset, ..)| *offset);
            let kept = partition.held.first().copied().into_iter().chain(late).min();
            if let Some(done) = partition.done.map(|done| done.min(kept.unwrap_or(done)))
                && partition.committed != Some(done)
            {
                partition.committed = Some(done);
                due.push((index, done));
            }
        }
        due
    }

    /// Everything that may be committed is due again, e.g. after a commit that failed.
    pub fn commit_all(&mut self) {
        for partition in &mut self.partitions {
            partition.committed = None;
        }
    }

    /// The partition goes on elsewhere. Forward: what lies between is lost to this gateway, and what
    /// waits is still waited for. Backward: it is another log, of which nothing was read yet.
    pub fn move_to(&mut self, partition: usize, offset: i64) {
        let partition = &mut self.partitions[partition];
        if partition.next.is_some_and(|next| offset < next) {
            partition.waiting.clear();
            partition.held.clear();
            partition.late.clear();
        }
        partition.next = Some(offset);
        match partition.waiting.back_mut() {
            Some(last) => last.end = offset,
            None => partition.done = Some(offset),
        }
    }

    /// Whether nothing waits for a shard.
    pub fn is_settled(&self) -> bool {
        self.partitions.iter().all(|it| it.waiting.is_empty() && it.late.is_empty())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn set(shards: &[u16]) -> ShardSet {
        let mut set = ShardSet::default();
        shards.iter().for_each(|shard| set.insert(*shard));
        set
    }

    #[test]
    fn a_set_holds_what_was_put_in() {
        let last = u16::try_from(SHARDS_MAX - 1).unwrap();
        let shards = [0, 1, 63, 64, 65, last];
        assert_eq!(set(&shards).iter().collect::<Vec<_>>(), shards);
        assert!(ShardSet::default().is_empty() && !set(&[last]).is_empty());
        let mut union = set(&[3]);
        union.union(&set(&[70]));
        assert_eq!(union, set(&[3, 70]));
        assert_eq!(union.without(&set(&[3, 4])), set(&[70]));
    }

    #[test]
    fn the_start_is_due_and_a_record_only_once_its_shards_stored_the_ticket() {
        let mut tracker = Tracker::default();
        let partition = tracker.add_partition(Some(100));
        assert_eq!(tracker.take_due(), [(partition, 100)]);
        tracker.record(partition, 100, 1, &set(&[0, 2]));
        tracker.advance(|shard| u64::from(shard == 0));
        assert!(tracker.take_due().is_empty() && !tracker.is_settled());
        tracker.advance(|_| 1);
        assert_eq!(tracker.take_due(), [(partition, 101)]);
        assert!(tracker.take_due().is_empty() && tracker.is_settled());
    }

    #[test]
    fn records_for_nobody_wait_for_those_before_them() {
        let mut tracker = Tracker::default();
        let partition = tracker.add_partition(None);
        tracker.record(partition, 5, 1, &ShardSet::default());
        assert_eq!(tracker.take_due(), [(partition, 6)]);
        tracker.record(partition, 6, 1, &set(&[1]));
        tracker.record(partition, 9, 2, &ShardSet::default());
        assert_eq!(tracker.next_offset(partition), Some(10));
        assert!(tracker.take_due().is_empty());
        tracker.advance(|_| 1);
        assert_eq!(tracker.take_due(), [(partition, 10)]);
    }

    #[test]
    fn a_record_that_comes_again_changes_nothing_and_a_failed_commit_is_due_again() {
        let mut tracker = Tracker::default();
        let partition = tracker.add_partition(Some(0));
        tracker.record(partition, 0, 1, &set(&[0]));
        tracker.advance(|_| 1);
        tracker.record(partition, 0, 2, &set(&[0]));
        assert!(tracker.is_settled());
        assert_eq!(tracker.take_due(), [(partition, 1)]);
        tracker.commit_all();
        assert_eq!(tracker.take_due(), [(partition, 1)]);
    }

    #[test]
    fn a_partition_that_goes_on_elsewhere_still_waits_for_what_was_mailed() {
        let mut tracker = Tracker::default();
        let partition = tracker.add_partition(Some(10));
        tracker.record(partition, 10, 1, &set(&[0]));
        tracker.move_to(partition, 50);
        assert_eq!(tracker.take_due(), [(partition, 10)]);
        tracker.advance(|_| 1);
        assert_eq!(tracker.take_due(), [(partition, 50)]);
        tracker.record(partition, 50, 2, &set(&[0]));
        tracker.move_to(partition, 3);
        assert_eq!((tracker.take_due(), tracker.is_settled()), (vec![(partition, 3)], true));
        assert_eq!(tracker.next_offset(partition), Some(3));
    }

    /// Mailboxes, shards and the tracker in random order; after every step, what may be committed is
    /// at most the first record that some shard has not enqueued, and in the end it is everything.
    #[test]
    fn whatever_the_order_no_offset_is_committed_before_its_records_are_enqueued() {
        let seed = std::env::var("REALCHAT_SEED").ok().and_then(|it| it.parse().ok());
        for seed in seed.map_or(0..2_000, |seed: u64| seed..seed + 1) {
            simulate(seed);
        }
    }

    enum Letter {
        Record(usize),
        Ticket(u64),
    }

    struct Simulation {
        random: fastrand::Rng,
        tracker: Tracker,
        mailboxes: Vec<VecDeque<Letter>>,
        stored: Vec<u64>,
        /// Partition, offset and how many shards have it still to enqueue.
        records: Vec<(usize, i64, usize)>,
        next: Vec<i64>,
        committed: Vec<i64>,
        ticket: u64,
    }

    fn simulate(seed: u64) {
        let mut random = fastrand::Rng::with_seed(seed);
        let (shards, partitions) = (random.usize(1..6), random.usize(1..4));
        let mut tracker = Tracker::default();
        let starts: Vec<i64> = (0..partitions).map(|_| random.i64(0..1_000)).collect();
        starts.iter().for_each(|start| assert!(tracker.add_partition(Some(*start)) < partitions));
        let mut simulation = Simulation {
            random,
            tracker,
            mailboxes: (0..shards).map(|_| VecDeque::new()).collect(),
            stored: vec![0; shards],
            records: Vec::new(),
            next: starts.clone(),
            committed: starts,
            ticket: 0,
        };
        for _ in 0..200 {
            match simulation.random.u8(0..8) {
                0 | 1 => simulation.batch(),
                2 => simulation.commit(seed),
                3 => simulation.tracker.commit_all(),
                _ => {
                    let shard = simulation.random.usize(0..shards);
                    simulation.take_letter(shard);
                }
            }
        }
        for shard in 0..shards {
            while simulation.take_letter(shard) {}
        }
        simulation.tracker.commit_all();
        simulation.commit(seed);
        assert!(simulation.tracker.is_settled(), "REALCHAT_SEED={seed}");
        assert_eq!(simulation.committed, simulation.next, "REALCHAT_SEED={seed}");
    }

    impl Simulation {
        fn batch(&mut self) {
            self.ticket += 1;
            let mut concerned = ShardSet::default();
            for _ in 0..self.random.usize(1..8) {
                let partition = self.random.usize(0..self.next.len());
                let offset = self.next[partition] + self.random.i64(0..3);
                self.next[partition] = offset + 1;
                let mut shards = ShardSet::default();
                for shard in 0..self.mailboxes.len() {
                    if self.random.u8(0..3) == 0 {
                        shards.insert(u16::try_from(shard).unwrap());
                        self.mailboxes[shard].push_back(Letter::Record(self.records.len()));
                    }
                }
                self.records.push((partition, offset, shards.iter().count()));
                self.tracker.record(partition, offset, self.ticket, &shards);
                concerned.union(&shards);
            }
            for shard in concerned.iter() {
                self.mailboxes[usize::from(shard)].push_back(Letter::Ticket(self.ticket));
            }
        }

        fn take_letter(&mut self, shard: usize) -> bool {
            match self.mailboxes[shard].pop_front() {
                Some(Letter::Record(index)) => self.records[index].2 -= 1,
                Some(Letter::Ticket(ticket)) => self.stored[shard] = ticket,
                None => return false,
            }
            true
        }

        fn commit(&mut self, seed: u64) {
            self.tracker.advance(|shard| self.stored[usize::from(shard)]);
            for (partition, offset) in self.tracker.take_due() {
                let open = self.records.iter().filter(|it| it.0 == partition && it.2 > 0);
                let first_open = open.map(|it| it.1).min().unwrap_or(i64::MAX);
                assert!(offset <= first_open, "REALCHAT_SEED={seed}");
                assert!(offset >= self.committed[partition], "REALCHAT_SEED={seed}");
                self.committed[partition] = offset;
            }
        }
    }

    #[test]
    fn what_waits_is_not_committed_before_it_was_mailed_and_enqueued() {
        let mut tracker = Tracker::default();
        let partition = tracker.add_partition(Some(10));
        tracker.take_due();
        for offset in 10..20 {
            if offset == 13 || offset == 15 {
                tracker.hold(partition, offset);
                tracker.record(partition, offset, 1, &set(&[]));
            } else {
                tracker.record(partition, offset, 1, &set(&[0]));
            }
        }
        assert_eq!(tracker.held_changed(partition), Some(Some(13)));
        assert_eq!(tracker.held_changed(partition), None);
        tracker.advance(|_| 1);
        assert_eq!(tracker.take_due(), [(partition, 13)]);
        tracker.release(partition, 13, 2, &set(&[1]));
        assert_eq!(tracker.held_changed(partition), Some(Some(15)));
        assert!(tracker.take_due().is_empty() && !tracker.is_settled());
        tracker.advance(|_| 2);
        assert_eq!(tracker.take_due(), [(partition, 15)]);
        tracker.release(partition, 15, 3, &set(&[]));
        tracker.release(partition, 16, 3, &set(&[1]));
        assert_eq!(tracker.held_changed(partition), Some(None));
        assert_eq!(tracker.take_due(), [(partition, 20)]);
        assert!(tracker.is_settled());
    }
}
