//! A histogram with fixed buckets that one thread fills and others read, without a lock.

use super::Cell;

/// Upper ends of the buckets, in microseconds; one more bucket takes what is longer.
const ENDS_US: [u64; 18] = [
    500, 1_000, 2_000, 3_000, 5_000, 8_000, 10_000, 15_000, 25_000, 50_000, 100_000, 250_000,
    500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000, 60_000_000,
];

#[derive(Debug, Default)]
pub(crate) struct Histogram {
    counts: [Cell; ENDS_US.len() + 1],
    sum_us: Cell,
}

impl Histogram {
    pub(crate) fn observe(&self, us: u64) {
        let bucket = ENDS_US.partition_point(|end| *end < us);
        self.counts[bucket].increment();
        self.sum_us.add(us);
    }
}

/// Sum in milliseconds, count, and each bucket's end in milliseconds with its own count.
pub(super) fn added_up<'a>(
    all: impl Iterator<Item = &'a Histogram>,
) -> (f64, u64, Vec<(f64, u64)>) {
    let mut sum_us = 0;
    let mut counts = [0; ENDS_US.len() + 1];
    for histogram in all {
        sum_us += histogram.sum_us.get();
        for (count, cell) in counts.iter_mut().zip(&histogram.counts) {
            *count += cell.get();
        }
    }
    let ends = ENDS_US.iter().map(|end| in_ms(*end)).chain([f64::INFINITY]);
    (in_ms(sum_us), counts.iter().sum(), ends.zip(counts).collect())
}

fn in_ms(us: u64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "a metric needs no more than 53 bits")]
    let us = us as f64;
    us / 1_000.0
}
