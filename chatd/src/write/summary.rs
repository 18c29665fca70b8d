//! How many members of a large conversation have come how far, purely.
//!
//! Each member counts once for each of a few sequence numbers, when the furthest of its devices passes
//! it. A number is counted for from before any member has it: so the counts are right without ever
//! being taken from all receipts. Those of conversations that were small for a while, or have receipts from
//! before there were summaries, are too low, until a higher number is acked.

use crate::limits::RECEIPT_COUNTS_MAX;
use proto::client::{ReceiptCount, ReceiptSummary};
use std::collections::BTreeSet;

/// How far a member has come, whichever of its devices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Reach {
    pub(super) delivered: u64,
    pub(super) read: u64,
}

/// A member's reach before a batch, and after it.
pub(super) type Step = (Reach, Reach);

/// Counts a batch's steps, one a member at most. Returns whether any count changed.
pub(super) fn count(summary: &mut ReceiptSummary, steps: &[Step]) -> bool {
    let counts = &mut summary.counts;
    let newest = counts.last().map_or(0, |it| it.sequence_number);
    let reached = steps.iter().flat_map(|(_, after)| [after.delivered, after.read]);
    let beyond: BTreeSet<u64> = reached.filter(|number| *number > newest).collect();
    let first = beyond.len().saturating_sub(RECEIPT_COUNTS_MAX);
    counts.extend(
        beyond
            .into_iter()
            .skip(first)
            .map(|sequence_number| ReceiptCount { sequence_number, ..ReceiptCount::default() }),
    );
    let mut is_changed = false;
    for (before, after) in steps {
        for count in &mut *counts {
            let passed = |before, after| (before + 1..=after).contains(&count.sequence_number);
            let delivered = u32::from(passed(before.delivered, after.delivered));
            let read = u32::from(passed(before.read, after.read));
            count.delivered_count = count.delivered_count.saturating_add(delivered);
            count.read_count = count.read_count.saturating_add(read);
            is_changed |= delivered + read > 0;
        }
    }
    thin(counts);
    is_changed
}

/// Keeps the first and the last, and between them the more, the nearer to the last.
fn thin(counts: &mut Vec<ReceiptCount>) {
    while counts.len() > RECEIPT_COUNTS_MAX {
        let number = |index: usize| counts[index].sequence_number as f64;
        let last = counts.len() - 1;
        // How much room it would leave, as seen from the last.
        let room =
            |index: usize| (number(index + 1) - number(index - 1)) / (number(last) - number(index));
        let least = (1..last).min_by(|a, b| room(*a).total_cmp(&room(*b)));
        counts.remove(least.unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(delivered: u64, read: u64) -> Reach {
        Reach { delivered, read }
    }

    fn shown(summary: &ReceiptSummary) -> Vec<(u64, u32, u32)> {
        let counts = summary.counts.iter();
        counts.map(|it| (it.sequence_number, it.delivered_count, it.read_count)).collect()
    }

    #[test]
    fn each_member_counts_once_for_each_number_that_it_passes() {
        let mut summary = ReceiptSummary::default();
        let nobody = Reach::default();
        assert!(count(&mut summary, &[(nobody, reach(5, 3)), (nobody, reach(5, 5))]));
        assert_eq!(shown(&summary), [(3, 2, 2), (5, 2, 1)]);
        // Further, to where others are already.
        assert!(count(&mut summary, &[(reach(5, 3), reach(5, 5))]));
        assert_eq!(shown(&summary), [(3, 2, 2), (5, 2, 2)]);
        // Again, by a device that lags behind: nothing.
        assert!(!count(&mut summary, &[(reach(5, 5), reach(5, 5))]));
        assert!(!count(&mut summary, &[(nobody, reach(2, 1))]), "no number is counted for there");
        assert!(count(&mut summary, &[(reach(2, 1), reach(7, 7))]));
        assert_eq!(shown(&summary), [(3, 3, 3), (5, 3, 3), (7, 1, 1)]);
    }

    /// Against counting all members, after each of many batches that a seed makes.
    #[test]
    fn counts_are_those_of_all_members_however_they_come() {
        let mut random = fastrand::Rng::with_seed(11);
        let mut summary = ReceiptSummary::default();
        let mut members = vec![Reach::default(); 300];
        let mut last = 1;
        for _ in 0..2_000 {
            last += random.u64(0..3);
            let mut steps = Vec::new();
            let mut chosen: Vec<usize> = (0..members.len()).collect();
            random.shuffle(&mut chosen);
            for member in chosen.into_iter().take(random.usize(0..20)) {
                let before = members[member];
                let reached = if random.bool() { last } else { random.u64(0..=last) };
                let delivered = before.delivered.max(reached);
                let read = before.read.max(random.u64(0..=delivered));
                members[member] = Reach { delivered, read };
                steps.push((before, members[member]));
            }
            let before = summary.clone();
            assert_eq!(count(&mut summary, &steps), {
                let known = |it: &ReceiptCount| before.counts.contains(it);
                !summary.counts.iter().all(known)
            });
            assert!(summary.counts.len() <= RECEIPT_COUNTS_MAX);
            assert!(summary.counts.is_sorted_by_key(|it| it.sequence_number));
            for it in &summary.counts {
                let have = |of: fn(&Reach) -> u64| {
                    members.iter().filter(|reach| of(reach) >= it.sequence_number).count()
                };
                assert_eq!(it.delivered_count as usize, have(|reach| reach.delivered));
                assert_eq!(it.read_count as usize, have(|reach| reach.read));
            }
        }
        let numbers: Vec<u64> = summary.counts.iter().map(|it| it.sequence_number).collect();
        assert_eq!(numbers.len(), RECEIPT_COUNTS_MAX);
        // Dense where members are, and yet far back.
        assert!(last - numbers[RECEIPT_COUNTS_MAX - 2] < 20, "{numbers:?}");
        assert!(numbers[1] < last / 2 + last / 4, "{numbers:?}");
    }

    #[test]
    fn a_batch_of_many_numbers_keeps_the_highest() {
        let mut summary = ReceiptSummary::default();
        let steps: Vec<Step> =
            (1..=100).map(|number| (Reach::default(), reach(number, number))).collect();
        assert!(count(&mut summary, &steps));
        assert_eq!(summary.counts.len(), RECEIPT_COUNTS_MAX);
        assert_eq!(shown(&summary).last(), Some(&(100, 1, 1)));
    }
}
