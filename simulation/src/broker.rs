//! The model of Kafka: partitions that only grow, producers that are idempotent, offsets of groups.
//!
//! A broker that is killed comes back with everything that it acknowledged (`acks=all`, and what the
//! page cache holds outlives the process); what was on its way is lost.

use crate::limits::PARTITIONS;
use proto::Uuid;
use proto::record::RecordHeaders;
use std::collections::BTreeMap;

/// One record of the log, or of another topic.
#[derive(Debug, Clone)]
pub(crate) struct LogRecord {
    pub(crate) topic: &'static str,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    pub(crate) headers: Vec<(&'static str, Vec<u8>)>,
    /// Of all records of the broker, which it is.
    pub(crate) place: u64,
    /// Nobody of ours wrote it.
    pub(crate) is_poison: bool,
}

impl LogRecord {
    pub(crate) fn new(
        topic: &'static str,
        key: &[u8],
        value: &[u8],
        headers: &RecordHeaders,
    ) -> Self {
        let headers = headers.to_pairs();
        let (key, value) = (key.to_vec(), value.to_vec());
        Self { topic, key, value, headers, place: 0, is_poison: false }
    }
}

/// What a broker says to a request to produce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Produced {
    /// It has the records now, or had them already.
    Acknowledged,
    /// An earlier request of the producer is missing.
    OutOfOrder,
}

#[derive(Debug, Default)]
pub(crate) struct Broker {
    partitions: BTreeMap<(&'static str, usize), Vec<LogRecord>>,
    appended: u64,
    /// By producer and partition: the number of the request that comes next.
    expected: BTreeMap<(u64, usize), u64>,
    /// By group (a gateway) and partition of the log.
    committed: BTreeMap<(usize, usize), i64>,
}

/// Which partition of its topic holds a key's records.
pub(crate) fn partition(key: &[u8]) -> usize {
    let id = Uuid::from_slice(key).unwrap_or_default();
    usize::from(proto::id::outbox_shard(&id)) % PARTITIONS
}

impl Broker {
    /// A request of an idempotent producer: each partition's are numbered from 0.
    pub(crate) fn produce(
        &mut self,
        producer: u64,
        partition: usize,
        number: u64,
        records: &[LogRecord],
    ) -> Produced {
        let expected = self.expected.entry((producer, partition)).or_default();
        if number > *expected {
            return Produced::OutOfOrder;
        }
        if number == *expected {
            *expected += 1;
            for record in records {
                self.append(partition, record.clone());
            }
        }
        Produced::Acknowledged
    }

    /// Whoever writes it.
    pub(crate) fn append(&mut self, partition: usize, record: LogRecord) {
        let log = self.partitions.entry((record.topic, partition)).or_default();
        self.appended += 1;
        log.push(LogRecord { place: self.appended, ..record });
    }

    pub(crate) fn end(&self, topic: &'static str, partition: usize) -> i64 {
        let length = self.partitions.get(&(topic, partition)).map_or(0, Vec::len);
        i64::try_from(length).unwrap_or(i64::MAX)
    }

    /// Records from an offset on, each with its own.
    pub(crate) fn fetch(
        &self,
        topic: &'static str,
        partition: usize,
        from: i64,
        most: usize,
    ) -> Vec<(i64, LogRecord)> {
        let records = self.partitions.get(&(topic, partition)).map_or(&[][..], Vec::as_slice);
        let from = usize::try_from(from).unwrap_or(0);
        let numbered = records.iter().enumerate().skip(from).take(most);
        numbered.map(|(at, it)| (i64::try_from(at).unwrap_or(i64::MAX), it.clone())).collect()
    }

    /// All partitions of a topic, from their first records; each with its partition and offset.
    pub(crate) fn all(
        &self,
        topic: &'static str,
    ) -> impl Iterator<Item = ((i32, i64), &LogRecord)> {
        let partitions = self.partitions.iter().filter(move |(place, _)| place.0 == topic);
        partitions.flat_map(|((_, partition), records)| {
            let partition = i32::try_from(*partition).unwrap_or(i32::MAX);
            (0..).zip(records).map(move |(offset, record)| ((partition, offset), record))
        })
    }

    pub(crate) fn commit(&mut self, group: usize, offsets: &[(usize, i64)]) {
        for (partition, offset) in offsets {
            self.committed.insert((group, *partition), *offset);
        }
    }

    pub(crate) fn committed(&self, group: usize, partition: usize) -> Option<i64> {
        self.committed.get(&(group, partition)).copied()
    }
}
