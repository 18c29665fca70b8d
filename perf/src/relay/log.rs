//! What came out: the log in Kafka from where it ended at the beginning, record by record.

use crate::clock;
use crate::failure::{Context, Failure, Outcome};
use crate::latency::Latencies;
use proto::{headers, topics};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// One question to the broker.
const ASK: Duration = Duration::from_secs(10);
/// Without a record for so long, no more is expected.
const QUIET_US_MAX: u64 = 30_000_000;

/// One key's records.
#[derive(Debug, Default, PartialEq, Eq)]
struct Key {
    /// 1 to this came, in this order.
    last: u64,
    /// Came before one that is due before them.
    early: BTreeSet<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) reordered: u64,
    pub(super) lost: u64,
    pub(super) duplicates: u64,
}

#[derive(Default)]
struct Judge {
    keys: HashMap<Vec<u8>, Key>,
    distinct: u64,
    reordered: u64,
    duplicates: u64,
}

impl Judge {
    fn take(&mut self, key: &[u8], number: u64) {
        let key = self.keys.entry(key.to_vec()).or_default();
        if number <= key.last || key.early.contains(&number) {
            self.duplicates += 1;
            return;
        }
        self.distinct += 1;
        if number > key.last + 1 {
            self.reordered += 1;
            key.early.insert(number);
            return;
        }
        key.last = number;
        while key.early.remove(&(key.last + 1)) {
            key.last += 1;
        }
    }

    fn verdict(&self, expected: u64) -> Verdict {
        let lost = expected.saturating_sub(self.distinct);
        Verdict { reordered: self.reordered, lost, duplicates: self.duplicates }
    }
}

pub(super) struct Log {
    consumer: BaseConsumer,
    judge: Judge,
    ages: Latencies,
    last_us: u64,
}

impl Log {
    pub(super) fn at_its_end(brokers: &str) -> Outcome<Self> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("group.id", "perf-relay")
            .set("enable.auto.commit", "false")
            .create()
            .reaching("Kafka")?;
        let metadata = consumer.fetch_metadata(Some(topics::MESSAGE_CREATED), ASK);
        let metadata = metadata.reaching("Kafka")?;
        let mut list = TopicPartitionList::new();
        for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
            let ends = consumer.fetch_watermarks(topics::MESSAGE_CREATED, partition.id(), ASK);
            let (_, end) = ends.reaching("Kafka")?;
            list.add_partition_offset(topics::MESSAGE_CREATED, partition.id(), Offset::Offset(end))
                .doing("the positions")?;
        }
        if list.count() == 0 {
            return Err(Failure::Unreachable("Kafka has no log; does a relay run?".into()));
        }
        consumer.assign(&list).doing("the assignment")?;
        Ok(Self { consumer, judge: Judge::default(), ages: Latencies::new(), last_us: 0 })
    }

    /// Until so many different records came in all, or none comes any more.
    pub(super) fn read_until(&mut self, expected: u64) -> Outcome {
        let mut heard_us = clock::now_us();
        while self.judge.distinct < expected && clock::now_us() < heard_us + QUIET_US_MAX {
            match self.consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    heard_us = clock::now_us();
                    if let Some((number, created_at_us)) = numbers(&message) {
                        self.judge.take(message.key().unwrap_or_default(), number);
                        let age_us = daemon::clock::now_us().saturating_sub(created_at_us);
                        self.ages.record_us(age_us);
                        self.last_us = heard_us;
                    }
                }
                Some(Err(error)) => return Err(error).reaching("Kafka"),
                None => {}
            }
        }
        Ok(())
    }

    /// When the last record came.
    pub(super) fn last_us(&self) -> u64 {
        self.last_us
    }

    pub(super) fn forget_ages(&mut self) {
        self.ages = Latencies::new();
    }

    pub(super) fn ages(&self) -> &Latencies {
        &self.ages
    }

    pub(super) fn verdict(&self, expected: u64) -> Verdict {
        self.judge.verdict(expected)
    }
}

/// The sequence number and the time of creation.
fn numbers(message: &BorrowedMessage<'_>) -> Option<(u64, u64)> {
    let number = |name: &str| {
        let mut all = message.headers()?.iter();
        let value = all.find(|header| header.key == name)?.value?;
        std::str::from_utf8(value).ok()?.parse().ok()
    };
    Some((number(headers::SEQUENCE_NUMBER)?, number(headers::CREATED_AT_US)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(numbers: &[u64], expected: u64) -> (u64, u64, u64) {
        let mut judge = Judge::default();
        numbers.iter().for_each(|number| judge.take(b"key", *number));
        let Verdict { reordered, lost, duplicates } = judge.verdict(expected);
        (reordered, lost, duplicates)
    }

    #[test]
    fn what_is_lost_early_or_twice_is_counted() {
        assert_eq!(judged(&[1, 2, 3, 4], 4), (0, 0, 0));
        assert_eq!(judged(&[1, 2, 1, 2, 3, 4], 4), (0, 0, 2));
        assert_eq!(judged(&[1, 3, 2, 4], 4), (1, 0, 0));
        assert_eq!(judged(&[1, 3, 3, 4], 4), (2, 1, 1));
        assert_eq!(judged(&[1, 2, 3], 4), (0, 1, 0));
    }
}
