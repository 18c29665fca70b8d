//! Lanes: the partitions that are read, numbered, so that who counts by partition has an array.

#![allow(
    clippy::disallowed_types,
    reason = "numbers are given by the Kafka threads and read by a scrape; no shard comes here"
)]

use super::{Cell, ShardMetrics};
use crate::limits::LANES_MAX;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// A partition of a topic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lane(u16);

impl Lane {
    /// Of what comes from no partition, and of partitions for which there is no number left.
    pub const NONE: Self = Self(0);
}

/// What becomes of one lane's events in one shard.
#[derive(Debug, Default)]
pub(crate) struct LaneCounts {
    pub(crate) no_session: Cell,
    pub(crate) reached: Cell,
    pub(crate) enqueued: Cell,
    pub(crate) shed: Cell,
    pub(crate) written: Cell,
}

/// Every lane's counts in one shard.
#[derive(Debug)]
pub(super) struct LaneTable(Box<[LaneCounts]>);

impl Default for LaneTable {
    fn default() -> Self {
        Self((0..LANES_MAX).map(|_| LaneCounts::default()).collect())
    }
}

impl LaneTable {
    pub(super) fn of(&self, lane: Lane) -> &LaneCounts {
        // Numbers are given below the table's length.
        &self.0[usize::from(lane.0)]
    }
}

/// The partitions that have numbers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lanes(Arc<Mutex<Vec<(&'static str, i32)>>>);

impl Lanes {
    /// The same for the same partition.
    pub(crate) fn of(&self, topic: &'static str, partition: i32) -> Lane {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = known.iter().position(|it| *it == (topic, partition)).unwrap_or_else(|| {
            known.push((topic, partition));
            known.len() - 1
        });
        u16::try_from(place + 1)
            .ok()
            .filter(|it| usize::from(*it) < LANES_MAX)
            .map_or(Lane::NONE, Lane)
    }

    fn known(&self) -> Vec<(&'static str, i32)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One number of every lane, added up over the shards; what has no lane has empty labels.
#[derive(Debug, Clone)]
pub(super) struct LaneSum {
    pub(super) shards: Arc<[Arc<ShardMetrics>]>,
    pub(super) lanes: Lanes,
    pub(super) read: fn(&LaneCounts) -> &Cell,
}

impl EncodeMetric for LaneSum {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let mut encode = |lane, topic: &str, partition: &str| {
            let sum: u64 = self.shards.iter().map(|it| (self.read)(it.lane(lane)).get()).sum();
            let labels = [("topic", topic), ("partition", partition)];
            encoder
                .encode_family(&labels)?
                .encode_counter::<prometheus_client::encoding::NoLabelSet, _, u64>(&sum, None)
        };
        encode(Lane::NONE, "", "")?;
        for (number, (topic, partition)) in (1..).zip(self.lanes.known()).take(LANES_MAX - 1) {
            encode(Lane(number), topic, &partition.to_string())?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_keeps_its_number_and_those_beyond_the_limit_have_none() {
        let lanes = Lanes::default();
        let number = |partition| lanes.of("t", partition);
        let all: Vec<Lane> = (1..i32::try_from(LANES_MAX).unwrap()).map(number).collect();
        assert!(all.iter().all(|lane| *lane != Lane::NONE));
        assert_eq!(lanes.of("u", 1), Lane::NONE);
        assert_eq!((number(1), number(7)), (all[0], all[6]));
        let table = LaneTable::default();
        table.of(all[all.len() - 1]).shed.increment();
        assert_eq!(
            (table.of(all[all.len() - 1]).shed.get(), table.of(Lane::NONE).shed.get()),
            (1, 0)
        );
    }
}
