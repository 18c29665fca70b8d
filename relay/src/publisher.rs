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
use crate::metrics::{Copied, CopyPartition};
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
    /// Topics of gateways that get the same.
    pub(crate) copies: Vec<String>,
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

#[derive(Default)]
struct Batch {
    outcomes: Vec<Outcome>,
    /// What of each record is not acknowledged.
    unacked: Vec<Unacked>,
    /// Records and copies handed over of which nothing was heard yet.
    waiting: usize,
}

/// A record and its copies, as far as they are under way.
#[derive(Clone, Default)]
struct Unacked {
    count: usize,
    has_failed: bool,
    /// Where the record itself is, once it is acknowledged.
    partition: i32,
}

impl Batch {
    fn of(records: usize) -> Self {
        let outcomes = vec![Outcome::Held; records];
        Self { outcomes, unacked: vec![Unacked::default(); records], waiting: 0 }
    }

    /// One more, the record or a copy of it, is under way.
    fn hand_over(&mut self, index: usize) {
        self.outcomes[index] = Outcome::Stalled("not acknowledged in time".into());
        self.unacked[index].count += 1;
        self.waiting += 1;
    }

    /// It was not taken after all.
    fn take_back(&mut self, index: usize) {
        self.unacked[index].count -= 1;
        self.unacked[index].has_failed = true;
        self.waiting -= 1;
    }

    /// What became of a record (then with its partition) or of a copy of it. One that failed fails the record.
    fn heard(&mut self, index: usize, partition: Option<i32>, failure: Option<Outcome>) {
        self.waiting = self.waiting.saturating_sub(1);
        let (Some(outcome), Some(unacked)) =
            (self.outcomes.get_mut(index), self.unacked.get_mut(index))
        else {
            return;
        };
        unacked.count = unacked.count.saturating_sub(1);
        if let Some(partition) = partition {
            unacked.partition = partition;
        }
        if let Some(failure) = failure {
            unacked.has_failed = true;
            *outcome = failure;
        } else if unacked.count == 0 && !unacked.has_failed {
            *outcome = Outcome::Acked(unacked.partition);
        }
    }
}

/// Collects what Kafka's client says about each record; the record's index travels with it.
struct Deliveries {
    batch: Mutex<Batch>,
    all_heard: Condvar,
    copied: Copied,
}

impl Deliveries {
    fn new(copied: Copied) -> Self {
        let batch = Mutex::new(Batch::default());
        Self { batch, all_heard: Condvar::new(), copied }
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
        let (mut partition, mut failure) = (None, None);
        match result {
            Ok(message) if topics::gateway_of(message.topic()).is_some() => {
                let (topic, partition) = (message.topic().to_owned(), message.partition());
                self.copied.get_or_create(&CopyPartition { topic, partition }).inc();
            }
            Ok(message) => partition = Some(message.partition()),
            Err((error, _)) => failure = Some(classify(error)),
        }
        let mut batch = self.batch();
        batch.heard(index, partition, failure);
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
    /// Counts copies for gateways.
    copied: Copied,
    producer: Option<Arc<BaseProducer<Deliveries>>>,
}

impl Publisher {
    pub(crate) fn new(settings: &Settings, record_bytes_max: usize) -> Self {
        let config = producer_config(settings, record_bytes_max);
        Self { config, copied: Copied::default(), producer: None }
    }

    /// The same, where records may have copies.
    pub(crate) fn with_copies(
        settings: &Settings,
        record_bytes_max: usize,
        copied: Copied,
    ) -> Self {
        Self { copied, ..Self::new(settings, record_bytes_max) }
    }

    /// Makes a producer if there is none, and sees that the broker answers it.
    pub(crate) fn ensure(&mut self) -> Result<(), String> {
        if self.producer.is_some() {
            return Ok(());
        }
        let producer: BaseProducer<Deliveries> = self
            .config
            .create_with_context(Deliveries::new(self.copied.clone()))
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
        *context.batch() = Batch::of(records.len());
        hand_over(producer, records, deadlines.send_by, prepare);
        if !context.wait(deadlines.acked_by) {
            producer.purge(PurgeConfig::default().queue().inflight());
            context.wait(Instant::now() + Duration::from_millis(PURGE_MS_MAX));
        }
        let batch = std::mem::take(&mut *context.batch());
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
            Ok(prepared) => hand_over_with_copies(producer, record, index, prepared, send_by),
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

/// The record first: where that is refused, nobody gets a copy.
fn hand_over_with_copies(
    producer: &BaseProducer<Deliveries>,
    record: &Record,
    index: usize,
    prepared: Prepared,
    send_by: Instant,
) -> Option<Outcome> {
    // Counted before any is handed over, so that the record is not taken for acknowledged between two of them.
    let Prepared { topic, copies, headers } = prepared;
    let mut batch = producer.context().batch();
    (0..=copies.len()).for_each(|_| batch.hand_over(index));
    drop(batch);
    // Mostly there are none.
    let of_copies = copies.iter().map(|copy| (copy, headers.clone())).collect::<Vec<_>>();
    let mut failure = None;
    for (topic, headers) in std::iter::once((&topic, headers)).chain(of_copies) {
        if failure.is_none() {
            failure = hand_over_one(producer, record, index, (topic, headers), send_by);
        }
        if failure.is_some() {
            producer.context().batch().take_back(index);
        }
    }
    failure
}

/// Nothing if it was taken, else what became of the record; held if it is too late for it.
fn hand_over_one(
    producer: &BaseProducer<Deliveries>,
    record: &Record,
    index: usize,
    (topic, headers): (&str, OwnedHeaders),
    send_by: Instant,
) -> Option<Outcome> {
    let mut outgoing = BaseRecord::with_opaque_to(topic, index)
        .key(record.key.as_slice())
        .payload(record.value.as_slice())
        .headers(headers);
    loop {
        if Instant::now() >= send_by {
            return Some(Outcome::Held);
        }
        match producer.send(outgoing) {
            Ok(()) => return None,
            Err((error, back)) => {
                if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                    return Some(classify(&error));
                }
                // Its queue holds more than a wave, so that this ends as the broker takes some.
                outgoing = back;
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_acknowledged_with_the_last_of_its_copies_and_fails_with_any() {
        let three = || {
            let mut batch = Batch::of(1);
            (0..3).for_each(|_| batch.hand_over(0));
            batch
        };
        let mut batch = three();
        batch.heard(0, None, None);
        batch.heard(0, Some(7), None);
        assert!(matches!(batch.outcomes[0], Outcome::Stalled(_)) && batch.waiting == 1);
        batch.heard(0, None, None);
        assert_eq!((&batch.outcomes[0], batch.waiting), (&Outcome::Acked(7), 0));
        let mut batch = three();
        batch.heard(0, Some(7), None);
        batch.heard(0, None, Some(Outcome::Refused("no".into())));
        batch.heard(0, None, None);
        assert_eq!(batch.outcomes[0], Outcome::Refused("no".into()));
        let mut batch = three();
        batch.take_back(0);
        batch.heard(0, Some(7), None);
        batch.heard(0, None, None);
        assert!(matches!(batch.outcomes[0], Outcome::Stalled(_)) && batch.waiting == 0);
    }

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
