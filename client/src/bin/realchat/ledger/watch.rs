//! The ledger while messages flow: what is under way cannot be told from what is lost by one reading, so
//! what is unaccounted for is put between two bounds.
//!
//! At least: what entered before the window began and has not left by its end. At most: the fewest that were
//! under way at any moment of the window, in each partition, for what is lost is never not among them. With
//! both 0 nothing was missing at that moment.

use super::Reading;
use super::stages::{Partition, partitions};
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Longer than anything takes that is not held up.
pub(super) const WINDOW: Duration = Duration::from_secs(10);

/// A part of the way, and a topic's partition there.
type Place = (String, String, u32);

/// One part of the way at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Row {
    /// `relay`, or a gateway.
    part: String,
    /// Records, since the watch began.
    entered: u64,
    /// Records, and at a gateway their recipients, that have entered and not left.
    under_way: u64,
    /// Of these: more than a window old; 0 while the first window lasts.
    pub(super) unaccounted: u64,
    unaccounted_at_most: u64,
}

struct Sample {
    at: Duration,
    reading: Reading,
    /// Rows of the outbox are under way, too.
    partitions: Vec<Partition>,
    under_way: BTreeMap<Place, u64>,
}

/// The readings of one window.
#[derive(Default)]
pub(super) struct Window {
    samples: VecDeque<Sample>,
}

impl Window {
    /// A reading of what came since the watch began, `at` after that.
    pub(super) fn add(&mut self, at: Duration, reading: Reading) {
        // The second is within the window, too: the first is what had entered before it.
        while self.samples.get(1).is_some_and(|it| it.at + WINDOW <= at) {
            self.samples.pop_front();
        }
        let moving = reading.without_waiting();
        let partitions = partitions(&moving, &moving);
        let under_way = by_place(&partitions);
        self.samples.push_back(Sample { at, reading, partitions, under_way });
    }

    pub(super) fn rows(&self) -> Vec<Row> {
        let (Some(first), Some(last)) = (self.samples.front(), self.samples.back()) else {
            return Vec::new();
        };
        let has_passed = first.at + WINDOW <= last.at;
        let late = has_passed.then(|| by_place(&partitions(&first.reading, &last.reading)));
        let mut rows: BTreeMap<String, Row> = BTreeMap::new();
        // Where nothing was counted yet, too.
        let gateways = last.reading.daemons("gateway").map(|(name, _)| name.as_str());
        for part in gateways.chain(["relay"]) {
            rows.entry(part.to_owned()).or_default().part = part.to_owned();
        }
        for partition in &last.partitions {
            let place = place(partition);
            let row = rows.entry(partition.part.clone()).or_default();
            row.entered += partition.entered();
            row.under_way += partition.unaccounted;
            row.unaccounted += late.as_ref().map_or(0, |it| of(it, &place));
            let least = self.samples.iter().map(|it| of(&it.under_way, &place)).min();
            row.unaccounted_at_most += least.unwrap_or_default();
        }
        rows.into_values().collect()
    }
}

impl Row {
    /// The line for people.
    pub(super) fn words(&self) -> String {
        let Self { part, entered, under_way, unaccounted, unaccounted_at_most } = self;
        let bounds = match (unaccounted, unaccounted_at_most) {
            (least, most) if least >= most => least.to_string(),
            (least, most) => format!("{least} to {most}"),
        };
        format!("{part:<10} entered {entered:<9} under way {under_way:<6} unaccounted {bounds}")
    }
}

fn place(partition: &Partition) -> Place {
    (partition.part.clone(), partition.topic.clone(), partition.partition)
}

fn by_place(partitions: &[Partition]) -> BTreeMap<Place, u64> {
    partitions.iter().map(|it| (place(it), it.unaccounted)).collect()
}

fn of(counts: &BTreeMap<Place, u64>, place: &Place) -> u64 {
    counts.get(place).copied().unwrap_or_default()
}
