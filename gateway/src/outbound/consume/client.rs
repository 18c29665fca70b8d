//! The Kafka client of a consumer thread: its settings, its log and its errors.

use crate::limits::{KAFKA_FETCH_BYTES_MAX, KAFKA_FETCH_MS_MAX, KAFKA_FETCHED_KB_MAX};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::{ClientConfig, ClientContext, TopicPartitionList};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

pub(super) type Consumer = BaseConsumer<Callbacks>;

/// Called by librdkafka while a consumer is polled.
#[derive(Default)]
pub(super) struct Callbacks {
    commit: AtomicU8,
}

/// How the last asynchronous commit stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Commit {
    Done = 0,
    /// It may wait long for a broker that is down, and would then overwrite a later one.
    InFlight = 1,
    Failed = 2,
}

impl Callbacks {
    pub(super) fn commit(&self) -> Commit {
        match self.commit.load(Ordering::Acquire) {
            1 => Commit::InFlight,
            2 => Commit::Failed,
            _ => Commit::Done,
        }
    }

    pub(super) fn set_commit(&self, commit: Commit) {
        self.commit.store(commit as u8, Ordering::Release);
    }
}

impl ClientContext for Callbacks {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        complain(&error, reason);
    }
}

impl ConsumerContext for Callbacks {
    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        match result {
            Ok(()) => self.set_commit(Commit::Done),
            Err(error) => {
                tracing::warn!(%error, "offsets not committed");
                self.set_commit(Commit::Failed);
            }
        }
    }
}

/// Logs an error of a client. An outage is told by the health condition, once: here it would be
/// repeated with every attempt to connect.
pub(crate) fn complain(error: &KafkaError, reason: &str) {
    use rdkafka::types::RDKafkaErrorCode::{
        AllBrokersDown, BrokerTransportFailure, OperationTimedOut, Resolve,
    };
    match error.rdkafka_error_code() {
        Some(AllBrokersDown | BrokerTransportFailure | OperationTimedOut | Resolve) => {
            tracing::debug!(%error, reason, "kafka client");
        }
        _ => tracing::warn!(%error, reason, "kafka client"),
    }
}

/// librdkafka's log lines, as ours. Its errors are connections that failed, each once.
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
pub(super) fn connect(brokers: &str, group: &str) -> Result<Arc<Consumer>, String> {
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
        .set("fetch.wait.max.ms", KAFKA_FETCH_MS_MAX.to_string())
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
        .set("log.connection.close", "false")
        // Nobody takes the client's own telemetry (KIP-714), and measuring costs something a fetch.
        .set("enable.metrics.push", "false");
    let consumer = config
        .create_with_context(Callbacks::default())
        .map_err(|error| format!("kafka.brokers {brokers}: {error}"))?;
    kafka::guard(consumer, brokers)
}
