//! The Kafka client of a consumer thread: its settings, its log and its errors.

use crate::limits::{KAFKA_FETCH_BYTES_MAX, KAFKA_FETCHED_KB_MAX};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::{ClientConfig, ClientContext, TopicPartitionList};
use std::sync::atomic::{AtomicBool, Ordering};

pub(super) type Consumer = BaseConsumer<Callbacks>;

/// Called by librdkafka while a consumer is polled.
#[derive(Default)]
pub(super) struct Callbacks {
    commit_failed: AtomicBool,
}

impl Callbacks {
    /// Whether a commit failed since the last call.
    pub(super) fn take_commit_failed(&self) -> bool {
        self.commit_failed.swap(false, Ordering::AcqRel)
    }
}

impl ClientContext for Callbacks {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "kafka consumer");
    }
}

impl ConsumerContext for Callbacks {
    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        if let Err(error) = result {
            self.commit_failed.store(true, Ordering::Release);
            tracing::warn!(%error, "offsets not committed");
        }
    }
}

/// librdkafka's log lines, as ours. A broker that is down is an error to librdkafka only.
pub(crate) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(facility, "librdkafka: {message}");
        }
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
            tracing::warn!(facility, "librdkafka: {message}");
        }
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
            tracing::info!(facility, "librdkafka: {message}");
        }
        RDKafkaLogLevel::Debug => tracing::debug!(facility, "librdkafka: {message}"),
    }
}

/// A consumer for static assignment: it never subscribes, so nothing ever rebalances; it commits
/// only what it is told to; and where an offset is out of range it says so instead of jumping.
pub(super) fn connect(brokers: &str, group: &str) -> Result<Consumer, String> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", brokers)
        .set("group.id", group)
        .set("client.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "false")
        .set("isolation.level", "read_committed")
        // A fetch is answered with the first byte; the wait is for idle partitions only.
        .set("fetch.min.bytes", "1")
        .set("fetch.wait.max.ms", "500")
        .set("fetch.max.bytes", KAFKA_FETCH_BYTES_MAX.to_string())
        .set("fetch.error.backoff.ms", "100")
        .set("fetch.queue.backoff.ms", "5")
        .set("queued.min.messages", "10000")
        .set("queued.max.messages.kbytes", KAFKA_FETCHED_KB_MAX.to_string())
        .set("socket.nagle.disable", "true")
        .set("socket.keepalive.enable", "true")
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "1000")
        .set("topic.metadata.refresh.interval.ms", "30000")
        .set("log.connection.close", "false");
    config
        .create_with_context(Callbacks::default())
        .map_err(|error| format!("kafka.brokers {brokers}: {error}"))
}
