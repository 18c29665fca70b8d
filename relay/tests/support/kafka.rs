//! The Kafka that KAFKA_BROKERS names, looked at from where it stood when the test began.

use proto::topics;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::collections::HashMap;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// One record, as a consumer sees it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) key: [u8; 16],
    pub(crate) partition: i32,
    pub(crate) value: Vec<u8>,
    pub(crate) headers: HashMap<String, Vec<u8>>,
}

impl Seen {
    /// The sequence number that `value` wrote.
    pub(crate) fn number(&self) -> u64 {
        u64::from_be_bytes(self.value[..8].try_into().unwrap())
    }
}

pub(crate) struct Kafka {
    pub(crate) brokers: String,
}

impl Kafka {
    /// Nothing if the environment names no broker; the reason is printed.
    pub(crate) fn from_environment() -> Option<Self> {
        match std::env::var("KAFKA_BROKERS") {
            Ok(brokers) if !brokers.is_empty() => Some(Self { brokers }),
            _ => {
                eprintln!("skipped: KAFKA_BROKERS does not name a running Kafka");
                None
            }
        }
    }

    /// A consumer of `topic` that begins at its end.
    pub(crate) fn tail(&self, topic: &str) -> Tail {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.brokers)
            .set("group.id", "relay-tests")
            .set("enable.auto.commit", "false")
            .set("fetch.message.max.bytes", "20000000")
            .create()
            .unwrap();
        let mut list = TopicPartitionList::new();
        for partition in 0..self.partitions(&consumer, topic) {
            let mut end = None;
            // A topic made a moment ago may have no leader yet.
            super::wait_until(20, "the topic's end", || {
                end = consumer.fetch_watermarks(topic, partition, PATIENCE).ok();
                end.is_some()
            });
            let (_, end) = end.unwrap();
            list.add_partition_offset(topic, partition, Offset::Offset(end)).unwrap();
        }
        consumer.assign(&list).unwrap();
        Tail { consumer, seen: Vec::new() }
    }

    /// 0 if the topic is not there yet.
    fn partitions(&self, consumer: &BaseConsumer, topic: &str) -> i32 {
        let metadata = consumer.fetch_metadata(None, PATIENCE).unwrap();
        let found = metadata.topics().iter().find(|it| it.name() == topic);
        i32::try_from(found.map_or(0, |it| it.partitions().len())).unwrap()
    }

    pub(crate) fn has_topics(&self) -> bool {
        let consumer: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", &self.brokers).create().unwrap();
        topics::ALL.iter().all(|name| {
            self.partitions(&consumer, name) > 0
                && self.partitions(&consumer, &topics::dead_letter(name)) > 0
        })
    }
}

pub(crate) struct Tail {
    consumer: BaseConsumer,
    pub(crate) seen: Vec<Seen>,
}

impl Tail {
    /// Reads until `done` holds for what was seen, which should take at most `seconds`; other tests'
    /// keys are skipped.
    pub(crate) fn read_until(
        &mut self,
        seconds: u64,
        mine: impl Fn(&[u8; 16]) -> bool,
        done: impl Fn(&[Seen]) -> bool,
    ) -> bool {
        let end = Instant::now() + super::SLOWNESS * Duration::from_secs(seconds);
        let mut looked_at = usize::MAX;
        while Instant::now() < end {
            if self.seen.len() != looked_at && self.seen.len().is_multiple_of(64) || looked_at == 0
            {
                looked_at = self.seen.len();
                if done(&self.seen) {
                    return true;
                }
            }
            match self.consumer.poll(Duration::from_millis(50)) {
                Some(Ok(message)) => {
                    let key: [u8; 16] = message.key().unwrap().try_into().unwrap();
                    if mine(&key) {
                        self.seen.push(seen(key, &message));
                    }
                }
                Some(Err(error)) => eprintln!("consumer: {error}"),
                None if done(&self.seen) => return true,
                None => {}
            }
        }
        done(&self.seen)
    }

    /// The same for so long at most, where it need not happen.
    pub(crate) fn read_for_ms(
        &mut self,
        ms: u64,
        mine: impl Fn(&[u8; 16]) -> bool,
        done: impl Fn(&[Seen]) -> bool,
    ) -> bool {
        let end = Instant::now() + Duration::from_millis(ms);
        while Instant::now() < end && !done(&self.seen) {
            if let Some(Ok(message)) = self.consumer.poll(Duration::from_millis(20)) {
                let key: [u8; 16] = message.key().unwrap().try_into().unwrap();
                if mine(&key) {
                    self.seen.push(seen(key, &message));
                }
            }
        }
        done(&self.seen)
    }
}

fn seen(key: [u8; 16], message: &rdkafka::message::BorrowedMessage<'_>) -> Seen {
    let headers = message.headers().map_or_else(HashMap::new, |headers| {
        let pair = |it: rdkafka::message::Header<'_, &[u8]>| {
            (it.key.to_owned(), it.value.unwrap_or_default().to_vec())
        };
        headers.iter().map(pair).collect()
    });
    Seen {
        key,
        partition: message.partition(),
        value: message.payload().unwrap_or_default().to_vec(),
        headers,
    }
}
