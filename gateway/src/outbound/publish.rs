//! What the gateway itself produces to Kafka: ephemeral events, and dead letters of records that it
//! could not read. Everything else is published by relay, from the outbox.

#![allow(
    clippy::disallowed_methods,
    reason = "the shell: its thread serves the producer's reports"
)]

use crate::limits::{PUBLISH_KB_MAX, PUBLISH_MS_MAX, PUBLISH_POLL_MS, PUBLISH_RECORDS_MAX};
use daemon::{Config, Metrics};
use prometheus_client::metrics::counter::Counter;
use proto::Uuid;
use proto::headers::dead_letter;
use proto::record::RecordHeaders;
use proto::topics;
use rdkafka::ClientConfig;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Shared by the threads that produce. Nothing here blocks.
#[derive(Clone)]
pub(crate) struct Publisher {
    producer: Arc<BaseProducer<Reports>>,
    failed: Counter,
    instance: Arc<str>,
}

/// A record that cannot be processed.
pub(crate) struct DeadLetter<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
    /// The record's own headers that could be read.
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) error: &'a str,
}

struct Reports {
    failed: Counter,
}

impl Publisher {
    /// Connects by itself; Kafka need not be there.
    pub(crate) fn start(
        config: &Config,
        instance: &str,
        metrics: &Metrics,
    ) -> Result<Self, String> {
        let failed = metrics.register(
            "publish_failures",
            "Records that the gateway could not produce to Kafka",
            Counter::default(),
        );
        let brokers = config.list("kafka.brokers").join(",");
        let producer: BaseProducer<Reports> = ClientConfig::new()
            .set("bootstrap.servers", &brokers)
            .set("client.id", "realchat-gateway")
            .set("acks", "all")
            .set("linger.ms", "0")
            .set("compression.type", "none")
            .set("queue.buffering.max.messages", PUBLISH_RECORDS_MAX.to_string())
            .set("queue.buffering.max.kbytes", PUBLISH_KB_MAX.to_string())
            .set("message.max.bytes", (2 * proto::limits::RECORD_VALUE_BYTES_MAX).to_string())
            .set("message.timeout.ms", PUBLISH_MS_MAX.to_string())
            .set("socket.nagle.disable", "true")
            .set("reconnect.backoff.max.ms", "1000")
            .set("log.connection.close", "false")
            .create_with_context(Reports { failed: failed.clone() })
            .map_err(|error: KafkaError| format!("kafka.brokers: {error}"))?;
        let producer = kafka::guard(producer, &brokers)?;
        let served = Arc::downgrade(&producer);
        std::thread::Builder::new()
            .name("producer".into())
            .spawn(move || serve(&served))
            .map_err(|error| format!("thread producer: {error}"))?;
        Ok(Self { producer, failed, instance: instance.into() })
    }

    /// Produces an ephemeral event of a conversation; one that cannot be queued is counted and gone.
    pub(crate) fn ephemeral(&self, conversation: &Uuid, frame: &[u8], headers: &RecordHeaders) {
        let pairs = headers.to_pairs();
        let pairs = pairs.iter().map(|(name, value)| (*name, value.as_slice()));
        let key = conversation.as_bytes().as_slice();
        if let Err(error) = self.send(topics::EPHEMERAL, key, frame, pairs) {
            self.failed.inc();
            tracing::debug!(%error, conversation_id = %conversation, "typing not published");
        }
    }

    /// Hands a record to its topic's dead letters, with the error and its origin in the headers.
    pub(crate) fn dead_letter(&self, letter: &DeadLetter<'_>) {
        let (partition, offset) = (letter.partition.to_string(), letter.offset.to_string());
        let failed_at_us = daemon::clock::now_us().to_string();
        let own = letter.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        let added = [
            (dead_letter::ERROR, letter.error.as_bytes()),
            (dead_letter::TOPIC, letter.topic.as_bytes()),
            (dead_letter::ATTEMPTS, b"1"),
            (dead_letter::FAILED_AT_US, failed_at_us.as_bytes()),
            (dead_letter::CONSUMER, self.instance.as_bytes()),
            (dead_letter::PARTITION, partition.as_bytes()),
            (dead_letter::OFFSET, offset.as_bytes()),
        ];
        // A gateway's own topic holds copies of the log.
        let is_copy = topics::gateway_of(letter.topic).is_some();
        let origin = if is_copy { topics::MESSAGE_CREATED } else { letter.topic };
        let topic = topics::dead_letter(origin);
        if let Err(error) = self.send(&topic, letter.key, letter.value, own.chain(added)) {
            self.failed.inc();
            tracing::error!(%error, topic, "dead letter not published");
        }
    }

    fn send<'a>(
        &self,
        topic: &str,
        key: &[u8],
        value: &[u8],
        headers: impl Iterator<Item = (&'a str, &'a [u8])>,
    ) -> KafkaResult<()> {
        let headers = headers.fold(OwnedHeaders::new(), |headers, (key, value)| {
            headers.insert(Header { key, value: Some(value) })
        });
        let record = BaseRecord::to(topic).key(key).payload(value).headers(headers);
        self.producer.send(record).map_err(|(error, _)| error)
    }

    /// Waits until what was queued is produced, but not longer than `patience`.
    pub(crate) fn flush(&self, patience: Duration) {
        if let Err(error) = self.producer.flush(patience) {
            tracing::warn!(%error, "records were left unpublished");
        }
    }
}

/// Takes the producer's reports as long as somebody has it. Not the library's own thread for that,
/// which polls for 100 ms at a time and spins through the last millisecond of each: one percent of a
/// core in which nothing happens.
fn serve(producer: &Weak<BaseProducer<Reports>>) {
    while let Some(producer) = producer.upgrade() {
        producer.poll(Duration::from_millis(PUBLISH_POLL_MS));
    }
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        super::consume::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        super::consume::complain(&error, reason);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            self.failed.inc();
            tracing::warn!(%error, "a record was not published");
        }
    }
}
