//! Publishing a wave with Kafka's idempotent producer, and knowing what became of each record.
//!
//! Two things are kept here:
//!
//! *Order.* Nothing of a key is handed over after one of its records was refused, the producer stops for good
//! at the first hole (`enable.gapless.guarantee`), and a wave that the broker does not acknowledge in
//! time is taken back whole before the next is read.
//!
//! *Fencing.* A wave is begun only if the lease outlasts the time after which Kafka's client drops
//! what it has not sent (`message.timeout.ms`). So a relay that was paused beyond its lease has nothing left
//! to send when it wakes. Awake, it takes the wave back earlier than that, so that the client never
//! drops single records out of the middle of a wave.

use crate::config::Settings;
use crate::limits::{BROKER_PROBE_MS_MAX, MESSAGE_PERCENT, PURGE_MS_MAX, REPORTS_POLL_MS};
use crate::wave::{KeyOf, Outcome, Record};
use daemon::failpoint::{ACKNOWLEDGED_BY_ONE, is_planted};
use proto::topics;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Message, OwnedHeaders};
use rdkafka::producer::{
    BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext, PurgeConfig,
};
use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Where a record goes, and with which headers.
pub(crate) struct Prepared {
    pub(crate) topic: String,
    pub(crate) headers: OwnedHeaders,
}

/// By when a wave must be handed over, and by when acknowledged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadlines {
    pub(crate) send_by: Instant,
    pub(crate) acked_by: Instant,
}

/// What every Kafka client of the relay is configured with.
pub(crate) fn client_config(settings: &Settings) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &settings.brokers)
        .set("client.id", format!("realchat-relay-{}", settings.instance))
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "500")
        .set("socket.keepalive.enable", "true")
        .set("socket.nagle.disable", "true")
        .set_log_level(RDKafkaLogLevel::Warning);
    config
}

fn producer_config(settings: &Settings, record_bytes_max: usize) -> ClientConfig {
    let mut config = client_config(settings);
    let message_timeout = settings.lease_part(MESSAGE_PERCENT);
    config
        .set("enable.idempotence", "true")
        .set("enable.gapless.guarantee", "true")
        .set("acks", "all")
        .set("message.timeout.ms", message_timeout.as_millis().to_string())
        .set("message.max.bytes", record_bytes_max.to_string())
        .set("batch.size", record_bytes_max.to_string())
        // A wave is handed over at once, so that waiting for more only adds to the latency.
        .set("linger.ms", "0")
        .set("retry.backoff.ms", "20")
        // The partition that Kafka's own clients choose for the key.
        .set("partitioner", "murmur2_random");
    if is_planted(ACKNOWLEDGED_BY_ONE) {
        // An idempotent producer waits for all.
        config.remove("enable.gapless.guarantee");
        config.set("enable.idempotence", "false").set("acks", "1");
    }
    config
}

struct Batch {
    outcomes: Vec<Outcome>,
    /// Records handed over of which nothing was heard yet.
    waiting: usize,
}

/// Collects what Kafka's client says about each record; the record's index travels with it.
struct Deliveries {
    batch: Mutex<Batch>,
    all_heard: Condvar,
}

impl Deliveries {
    fn new() -> Self {
        let batch = Mutex::new(Batch { outcomes: Vec::new(), waiting: 0 });
        Self { batch, all_heard: Condvar::new() }
    }

    fn batch(&self) -> MutexGuard<'_, Batch> {
        self.batch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until everything was heard of; false if it was not by `until`.
    fn wait(&self, until: Instant) -> bool {
        let mut batch = self.batch();
        while batch.waiting > 0 {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            batch =
                self.all_heard.wait_timeout(batch, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl ClientContext for Deliveries {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        // Lost brokers are told by the health condition, once; this is for who looks closer.
        tracing::debug!(facility, message, "kafka client");
    }
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "kafka client");
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, index: usize) {
        let outcome = match result {
            Ok(message) => Outcome::Acked(message.partition()),
            Err((error, _)) => classify(error),
        };
        let mut batch = self.batch();
        if let Some(place) = batch.outcomes.get_mut(index) {
            *place = outcome;
        }
        batch.waiting = batch.waiting.saturating_sub(1);
        if batch.waiting == 0 {
            self.all_heard.notify_all();
        }
    }
}

/// Is it the record, or the broker?
fn classify(error: &KafkaError) -> Outcome {
    use RDKafkaErrorCode as Code;
    let refused = match error {
        KafkaError::Nul(_) => true,
        _ => matches!(
            error.rdkafka_error_code(),
            Some(
                Code::MessageSizeTooLarge
                    | Code::InvalidMessageSize
                    | Code::InvalidMessage
                    | Code::InvalidRecord
                    | Code::InvalidTimestamp
                    | Code::InvalidTopic
                    | Code::PolicyViolation
                    | Code::BadMessage
            )
        ),
    };
    if refused { Outcome::Refused(error.to_string()) } else { Outcome::Stalled(error.to_string()) }
}

/// One producer, made anew whenever it cannot be trusted any more.
pub(crate) struct Publisher {
    config: ClientConfig,
    producer: Option<Arc<BaseProducer<Deliveries>>>,
}

impl Publisher {
    pub(crate) fn new(settings: &Settings, record_bytes_max: usize) -> Self {
        Self { config: producer_config(settings, record_bytes_max), producer: None }
    }

    /// Makes a producer if there is none, and sees that the broker answers it.
    pub(crate) fn ensure(&mut self) -> Result<(), String> {
        if self.producer.is_some() {
            return Ok(());
        }
        let producer: BaseProducer<Deliveries> = self
            .config
            .create_with_context(Deliveries::new())
            .map_err(|error| error.to_string())?;
        let patience = Duration::from_millis(BROKER_PROBE_MS_MAX);
        producer
            .client()
            .fetch_metadata(Some(topics::MESSAGE_CREATED), patience)
            .map_err(|error| error.to_string())?;
        let producer = Arc::new(producer);
        let served = Arc::downgrade(&producer);
        std::thread::Builder::new()
            .name("producer".into())
            .spawn(move || serve(&served))
            .map_err(|error| format!("thread producer: {error}"))?;
        self.producer = Some(producer);
        Ok(())
    }

    /// Publishes records in their order and waits for what becomes of them: one outcome each.
    pub(crate) fn publish(
        &mut self,
        records: &[Record],
        deadlines: Deadlines,
        prepare: impl Fn(&Record) -> Result<Prepared, String>,
    ) -> Vec<Outcome> {
        let Some(producer) = &self.producer else {
            return records.iter().map(|_| Outcome::Stalled("no producer".into())).collect();
        };
        let context = producer.context();
        *context.batch() = Batch { outcomes: vec![Outcome::Held; records.len()], waiting: 0 };
        hand_over(producer, records, deadlines.send_by, prepare);
        if !context.wait(deadlines.acked_by) {
            producer.purge(PurgeConfig::default().queue().inflight());
            context.wait(Instant::now() + Duration::from_millis(PURGE_MS_MAX));
        }
        let batch =
            std::mem::replace(&mut *context.batch(), Batch { outcomes: Vec::new(), waiting: 0 });
        let is_fatal = producer.client().fatal_error().is_some();
        let unsure = |it: &Outcome| matches!(it, Outcome::Stalled(_));
        if is_fatal || batch.waiting > 0 || batch.outcomes.iter().any(unsure) {
            self.producer = None;
        }
        batch.outcomes
    }
}

/// Takes the producer's reports as long as somebody has it. Not the library's own thread for that,
/// which polls for 100 ms at a time and spins through the last millisecond of each.
fn serve(producer: &Weak<BaseProducer<Deliveries>>) {
    while let Some(producer) = producer.upgrade() {
        producer.poll(Duration::from_millis(REPORTS_POLL_MS));
    }
}

/// Hands records to Kafka's client until it takes none, or the time for it is up.
fn hand_over(
    producer: &BaseProducer<Deliveries>,
    records: &[Record],
    send_by: Instant,
    prepare: impl Fn(&Record) -> Result<Prepared, String>,
) {
    let mut broken: HashSet<KeyOf> = HashSet::new();
    for (index, record) in records.iter().enumerate() {
        if !broken.is_empty() && broken.contains(&record.key_of()) {
            continue;
        }
        let outcome = match prepare(record) {
            Ok(prepared) => hand_over_one(producer, record, index, prepared, send_by),
            Err(reason) => Some(Outcome::Refused(reason)),
        };
        let Some(outcome) = outcome else { continue };
        let refused = matches!(outcome, Outcome::Refused(_));
        producer.context().batch().outcomes[index] = outcome;
        if !refused {
            return;
        }
        broken.insert(record.key_of());
    }
}

/// Nothing if it was taken, else what became of the record; held if it is too late for it.
fn hand_over_one(
    producer: &BaseProducer<Deliveries>,
    record: &Record,
    index: usize,
    prepared: Prepared,
    send_by: Instant,
) -> Option<Outcome> {
    let context = producer.context();
    {
        let mut batch = context.batch();
        batch.outcomes[index] = Outcome::Stalled("not acknowledged in time".into());
        batch.waiting += 1;
    }
    let mut outgoing = BaseRecord::with_opaque_to(&prepared.topic, index)
        .key(record.key.as_slice())
        .payload(record.value.as_slice())
        .headers(prepared.headers);
    let outcome = loop {
        if Instant::now() >= send_by {
            break Outcome::Held;
        }
        match producer.send(outgoing) {
            Ok(()) => return None,
            Err((error, back)) => {
                if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                    break classify(&error);
                }
                // Its queue holds more than a wave, so that this ends as the broker takes some.
                outgoing = back;
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    };
    context.batch().waiting -= 1;
    Some(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_that_is_away_is_not_the_records_fault() {
        let error = |code| KafkaError::MessageProduction(code);
        let away = [
            RDKafkaErrorCode::MessageTimedOut,
            RDKafkaErrorCode::BrokerTransportFailure,
            RDKafkaErrorCode::NotEnoughReplicas,
            RDKafkaErrorCode::PurgeInflight,
            RDKafkaErrorCode::Fatal,
            RDKafkaErrorCode::TopicAuthorizationFailed,
        ];
        for code in away {
            assert!(matches!(classify(&error(code)), Outcome::Stalled(_)), "{code:?}");
        }
        let refused = classify(&error(RDKafkaErrorCode::MessageSizeTooLarge));
        assert!(matches!(refused, Outcome::Refused(_)));
    }
}
