//! A second opinion on which offsets may be committed, kept beside the tracker in builds with
//! failpoints: it remembers every record by itself, and shares no decision with what it judges.

use super::offsets::ShardSet;

/// A record that was mailed: its offset, the ticket behind it, and whom it was mailed to.
type Mailed = (i64, u64, ShardSet);

/// By partition, what was mailed and is not known to be enqueued. As many records as the shards'
/// mailboxes hold.
#[derive(Default)]
pub(crate) struct Witness(Vec<Vec<Mailed>>);

impl Witness {
    /// `shards` have the record in their mailboxes and will find `ticket` behind it. One below the
    /// partition's next offset was there before.
    pub(crate) fn mailed(
        &mut self,
        partition: usize,
        next: Option<i64>,
        offset: i64,
        ticket: u64,
        shards: &ShardSet,
    ) {
        if shards.is_empty() || next.is_some_and(|next| offset < next) {
            return;
        }
        if self.0.len() <= partition {
            self.0.resize_with(partition + 1, Vec::new);
        }
        self.0[partition].push((offset, ticket, *shards));
    }

    /// The first record that some shard has not enqueued; `stored(shard)` is its last ticket.
    pub(crate) fn first_waiting(
        &mut self,
        partition: usize,
        stored: impl Fn(u16) -> u64,
    ) -> Option<i64> {
        let mailed = self.0.get_mut(partition)?;
        mailed.retain(|(_, ticket, shards)| !shards.iter().all(|shard| stored(shard) >= *ticket));
        mailed.iter().map(|it| it.0).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbound::offsets::Tracker;
    use crate::outbound::offsets::tests::set;

    #[test]
    fn the_first_record_that_waits_is_the_first_that_some_shard_lacks() {
        let mut witness = Witness::default();
        assert_eq!(witness.first_waiting(3, |_| 0), None);
        witness.mailed(1, None, 10, 1, &set(&[0]));
        witness.mailed(1, Some(11), 11, 2, &set(&[0, 1]));
        witness.mailed(1, Some(12), 12, 2, &set(&[]));
        // It was there before.
        witness.mailed(1, Some(13), 9, 2, &set(&[1]));
        assert_eq!(witness.first_waiting(1, |_| 0), Some(10));
        assert_eq!(witness.first_waiting(1, |shard| if shard == 0 { 2 } else { 1 }), Some(11));
        assert_eq!(witness.first_waiting(1, |_| 2), None);
    }

    #[test]
    fn a_tracker_that_believes_too_much_is_found_out() {
        let (mut tracker, mut witness) = (Tracker::default(), Witness::default());
        let partition = tracker.add_partition(Some(5));
        tracker.take_due();
        witness.mailed(partition, tracker.next_offset(partition), 5, 1, &set(&[0]));
        tracker.record(partition, 5, 1, &set(&[0]));
        tracker.advance(|_| 0);
        assert!(tracker.take_due().is_empty());
        tracker.advance(|_| u64::MAX);
        assert_eq!(tracker.take_due(), [(partition, 6)]);
        assert_eq!(witness.first_waiting(partition, |_| 0), Some(5), "and 6 was to be committed");
    }
}
