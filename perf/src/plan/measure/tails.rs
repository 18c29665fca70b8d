//! Consumers that take every record of the log, as a gateway does, and do nothing with it.

use crate::failure::{Context, Failure, Outcome};
use proto::topics;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);

pub(super) struct Tails {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Tails {
    /// From the log's end on.
    pub(super) fn start(brokers: &str, tails: usize) -> Outcome<Self> {
        let stop = Arc::<AtomicBool>::default();
        let mut threads = Vec::new();
        for _ in 0..tails {
            let (consumer, stop) = (consumer(brokers)?, Arc::clone(&stop));
            let tail = move || {
                while !stop.load(Ordering::Acquire) {
                    // What is wrong shows in how many records the gateways deliver.
                    let _ = consumer.poll(POLL);
                }
            };
            let thread = std::thread::Builder::new().name("tail".into()).spawn(tail);
            threads.push(thread.doing("a thread")?);
        }
        Ok(Self { stop, threads })
    }

    pub(super) fn finish(self) -> Outcome {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads {
            thread.join().map_err(|_| Failure::Refused("a tail's thread ended".into()))?;
        }
        Ok(())
    }
}

fn consumer(brokers: &str) -> Outcome<BaseConsumer> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "perf-tail")
        .set("enable.auto.commit", "false")
        .create()
        .reaching("Kafka")?;
    let topic = topics::MESSAGE_CREATED;
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).reaching("Kafka")?;
    let mut all = TopicPartitionList::new();
    for partition in metadata.topics().iter().flat_map(|it| it.partitions()) {
        all.add_partition_offset(topic, partition.id(), Offset::End).reaching("Kafka")?;
    }
    consumer.assign(&all).reaching("Kafka")?;
    Ok(consumer)
}
