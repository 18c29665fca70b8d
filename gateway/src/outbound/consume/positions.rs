//! Where reading starts. A partition is gone on with from its committed offset if that is recent,
//! else from its end, as a number that is fixed before the gateway listens: what was published
//! earlier was committed to PostgreSQL earlier, so a later sync has it.

use super::client::Consumer;
use super::record::{Purpose, tailed};
use crate::limits::{KAFKA_ASK_MS_MAX, KAFKA_RECENT_MS};
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

const ASK: Duration = Duration::from_millis(KAFKA_ASK_MS_MAX);

/// Kafka threads for so many lanes of the log.
pub(crate) fn threads(lanes: usize) -> usize {
    lanes + 1
}

/// One partition and where its reading starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) topic: &'static str,
    pub(super) purpose: Purpose,
    pub(super) partition: i32,
    /// None: at its first record (a partition that is new).
    pub(super) start: Option<i64>,
}

impl Position {
    /// Which thread reads the partition, of [`threads`] for so many lanes: the log's partitions are
    /// divided among the lanes, and everything else is on one thread of its own. A broker's work for
    /// a fetch grows with the partitions that it names, so the fetches that are many must name few.
    pub(super) fn thread(&self, lanes: usize) -> usize {
        match self.purpose {
            Purpose::Log => usize::try_from(self.partition).unwrap_or_default() % lanes.max(1),
            _ => lanes,
        }
    }
}

/// Looks at the topics, with a client that reads no records.
pub(super) struct Scout {
    consumer: Arc<Consumer>,
    tailed: Vec<(&'static str, Purpose)>,
    /// The topic of a gateway that is routed to.
    own: Option<&'static str>,
    /// Partitions of each topic as they were last handed out.
    known: HashMap<&'static str, i32>,
}

impl Scout {
    pub(super) fn new(consumer: Arc<Consumer>, own: Option<&'static str>) -> Self {
        Self { consumer, tailed: tailed(own), own, known: HashMap::new() }
    }

    /// A number that another cluster, or another topic, whose offsets mean something else, hardly has.
    pub(super) fn log(&self) -> Result<u64, String> {
        let id = self.consumer.client().fetch_cluster_id(ASK);
        let id = id.ok_or("the cluster's id is not known")?;
        // FNV-1a.
        Ok(id
            .bytes()
            .chain(self.own.unwrap_or_default().bytes())
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            }))
    }

    /// The start of every partition of every tailed topic; an error, for a person, if a broker does
    /// not answer or a topic is missing. `now_ms`: since the Unix epoch.
    pub(super) fn start_positions(&mut self, now_ms: u64) -> Result<Vec<Position>, String> {
        let counts = self.partition_counts()?;
        let ends = self.offsets(&counts, Offset::End)?;
        let recent_ms = i64::try_from(now_ms.saturating_sub(KAFKA_RECENT_MS)).unwrap_or_default();
        let recent = self.offsets(&counts, Offset::Offset(recent_ms))?;
        let committed = self
            .consumer
            .committed_offsets(self.list(&counts, Offset::Invalid), ASK)
            .map_err(|error| format!("committed offsets: {error}"))?;
        let mut positions = Vec::new();
        for (topic, purpose, partition) in self.partitions(&counts) {
            let find = |list: &TopicPartitionList| {
                list.find_partition(topic, partition).map(|it| it.offset())
            };
            let Some(Offset::Offset(end)) = find(&ends) else {
                return Err(format!("the end of {topic} partition {partition} is not known"));
            };
            // What came for users who are gone is nothing to those who come.
            let committed =
                number(find(&committed)).filter(|_| self.own.is_none_or(|own| own != topic));
            let start = choose(committed, number(find(&recent)), end);
            positions.push(Position { topic, purpose, partition, start: Some(start) });
        }
        self.known = counts;
        Ok(positions)
    }

    /// Partitions that came since the last call; also tells whether a broker answers at all.
    pub(super) fn added_partitions(&mut self) -> Result<Vec<Position>, String> {
        let counts = self.partition_counts()?;
        let added = self
            .partitions(&counts)
            .filter(|(topic, _, partition)| self.known.get(topic).is_none_or(|it| partition >= it))
            .map(|(topic, purpose, partition)| Position { topic, purpose, partition, start: None })
            .collect();
        self.known = counts;
        Ok(added)
    }

    fn partition_counts(&self) -> Result<HashMap<&'static str, i32>, String> {
        let metadata = self.consumer.fetch_metadata(None, ASK);
        let metadata = metadata.map_err(|error| format!("no broker answers: {error}"))?;
        let mut counts = HashMap::new();
        for (topic, _) in &self.tailed {
            let found = metadata.topics().iter().find(|it| it.name() == *topic);
            let count =
                found.filter(|it| it.error().is_none()).map_or(0, |it| it.partitions().len());
            if count == 0 {
                return Err(format!("the topic {topic} does not exist yet; relay creates it"));
            }
            counts.insert(*topic, i32::try_from(count).unwrap_or(i32::MAX));
        }
        Ok(counts)
    }

    /// `at`: the end, or a time in milliseconds, which gives the first record that is not older
    /// (the end again if there is none). One request to each broker.
    fn offsets(
        &self,
        counts: &HashMap<&'static str, i32>,
        at: Offset,
    ) -> Result<TopicPartitionList, String> {
        let answer = self.consumer.offsets_for_times(self.list(counts, at), ASK);
        let answer = answer.map_err(|error| format!("offsets: {error}"))?;
        let failed = answer.elements().iter().find_map(|it| {
            let error: KafkaError = it.error().err()?;
            Some(format!("offset of {} partition {}: {error}", it.topic(), it.partition()))
        });
        failed.map_or(Ok(answer), Err)
    }

    fn partitions(
        &self,
        counts: &HashMap<&'static str, i32>,
    ) -> impl Iterator<Item = (&'static str, Purpose, i32)> {
        partitions(&self.tailed, counts)
    }

    fn list(&self, counts: &HashMap<&'static str, i32>, offset: Offset) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for (topic, _, partition) in self.partitions(counts) {
            // Fails only for offsets that cannot be written as a number; these can.
            let _ = list.add_partition_offset(topic, partition, offset);
        }
        list
    }
}

fn partitions(
    tailed: &[(&'static str, Purpose)],
    counts: &HashMap<&'static str, i32>,
) -> impl Iterator<Item = (&'static str, Purpose, i32)> {
    tailed.iter().flat_map(|(topic, purpose)| {
        let count = counts.get(topic).copied().unwrap_or_default();
        (0..count).map(move |partition| (*topic, *purpose, partition))
    })
}

/// The committed offset, unless there is none, or the record there is not recent, or the partition
/// ends before it (the topic was made anew): then the end. `recent` is the first record that is recent,
/// if there is one.
pub fn choose(committed: Option<i64>, recent: Option<i64>, end: i64) -> i64 {
    let recent = recent.unwrap_or(end)..=end;
    committed.filter(|offset| recent.contains(offset)).unwrap_or(end)
}

fn number(offset: Option<Offset>) -> Option<i64> {
    match offset {
        Some(Offset::Offset(number)) => Some(number),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recent_committed_offset_is_gone_on_from_and_any_other_is_not() {
        for (committed, recent, expected) in [
            (Some(90), Some(50), 90),
            (Some(50), Some(50), 50),
            (Some(49), Some(50), 100),
            (Some(100), None, 100),
            (Some(99), None, 100),
            (Some(101), Some(50), 100),
            (None, Some(50), 100),
            (None, None, 100),
        ] {
            assert_eq!(choose(committed, recent, 100), expected, "{committed:?} {recent:?}");
        }
    }

    #[test]
    fn lanes_share_the_log_evenly_and_all_else_is_on_one_more_thread() {
        let tailed = tailed(None);
        let counts = tailed.iter().map(|(topic, _)| (*topic, 8)).collect();
        for (lanes, expected) in [(1, vec![8, 48]), (2, vec![4, 4, 48]), (3, vec![3, 3, 2, 48])] {
            let mut shares = vec![0; threads(lanes)];
            for (topic, purpose, partition) in partitions(&tailed, &counts) {
                shares[Position { topic, purpose, partition, start: None }.thread(lanes)] += 1;
            }
            assert_eq!(shares, expected);
        }
    }
}
