//! Announces to Kafka: per user the newest state alone, again and again until the broker has it.
//! There is at most one announcement of a user on its way, so that they cannot overtake each other.

use crate::config::Settings;
use crate::limits::{
    BROKER_PROBE_MS_MAX, BROKER_WATCH_MS, PUBLISH_IN_FLIGHT_MAX, PUBLISH_MS_MAX, PUBLISH_RETRY_MS,
    REPORTS_POLL_MS,
};
use crate::metrics::{PresenceMetrics, What};
use crossbeam_channel::{Receiver, Sender, unbounded};
use daemon::Health;
use proto::client::{Event, PresenceChanged, ServerFrame, event, server_frame};
use proto::headers::{SCHEMA_VERSION_NOW, event_type};
use proto::record::RecordHeaders;
use proto::{Message, Uuid, topics};
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// What is to be announced, or was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announcement {
    /// Of whom.
    pub user: Uuid,
    /// Online, or offline.
    pub online: bool,
    /// When, in microseconds since the Unix epoch; grows for each user.
    pub at_us: u64,
}

struct Delivered {
    announcement: Announcement,
    error: Option<String>,
}

struct Deliveries {
    delivered: Sender<Delivered>,
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
    type DeliveryOpaque = Box<Announcement>;

    fn delivery(&self, result: &DeliveryResult<'_>, announcement: Box<Announcement>) {
        let error = result.as_ref().err().map(|(error, _)| error.to_string());
        // Gone only when the process ends.
        let _ = self.delivered.send(Delivered { announcement: *announcement, error });
    }
}

/// The newest announcement of each user that Kafka does not have yet. Pure.
#[derive(Debug, Default)]
pub struct Waiting {
    newest: HashMap<Uuid, Announcement>,
    on_its_way: HashSet<Uuid>,
}

impl Waiting {
    /// It is to be announced, in place of an earlier one of the user.
    pub fn add(&mut self, announcement: Announcement) {
        self.newest.insert(announcement.user, announcement);
    }

    /// Announcements to hand to Kafka now, at most so many on their way at once.
    pub fn take(&mut self, in_flight_max: usize) -> Vec<Announcement> {
        let room = in_flight_max.saturating_sub(self.on_its_way.len());
        let ready = self.newest.values().filter(|it| !self.on_its_way.contains(&it.user));
        let ready: Vec<Announcement> = ready.take(room).copied().collect();
        self.on_its_way.extend(ready.iter().map(|it| it.user));
        ready
    }

    /// It is no longer on its way: Kafka has it, or it is tried again unless there is a newer one.
    pub fn returned(&mut self, announcement: Announcement, delivered: bool) {
        self.on_its_way.remove(&announcement.user);
        if delivered && self.newest.get(&announcement.user) == Some(&announcement) {
            self.newest.remove(&announcement.user);
        }
    }
}

pub(crate) struct Announcer {
    settings: Settings,
    health: Health,
    metrics: PresenceMetrics,
    incoming: Receiver<Announcement>,
    /// Tells the core what Kafka has.
    announced: Sender<Announcement>,
}

impl Announcer {
    pub(crate) fn new(
        settings: Settings,
        health: Health,
        metrics: PresenceMetrics,
        incoming: Receiver<Announcement>,
        announced: Sender<Announcement>,
    ) -> Self {
        Self { settings, health, metrics, incoming, announced }
    }

    /// Runs until the core is gone and everything was announced or the time for it is over.
    pub(crate) fn run(self) {
        let (delivered, returned) = unbounded();
        let producer = match self.producer(delivered) {
            Ok(producer) => producer,
            Err(error) => {
                self.health.not_ready("kafka", error.to_string());
                return;
            }
        };
        let mut waiting = Waiting::default();
        let mut retry_at = Instant::now();
        loop {
            crossbeam_channel::select! {
                recv(self.incoming) -> announcement => match announcement {
                    Ok(announcement) => waiting.add(announcement),
                    Err(_) => break,
                },
                recv(returned) -> it => {
                    if let Ok(it) = it && !self.note(&mut waiting, it) {
                        retry_at = Instant::now() + Duration::from_millis(PUBLISH_RETRY_MS);
                    }
                }
                default(Duration::from_millis(PUBLISH_RETRY_MS)) => {}
            }
            self.incoming.try_iter().for_each(|announcement| waiting.add(announcement));
            while let Ok(it) = returned.try_recv() {
                if !self.note(&mut waiting, it) {
                    retry_at = Instant::now() + Duration::from_millis(PUBLISH_RETRY_MS);
                }
            }
            if Instant::now() >= retry_at && !self.hand_over(&producer, &mut waiting) {
                retry_at = Instant::now() + Duration::from_millis(PUBLISH_RETRY_MS);
            }
        }
        self.hand_over(&producer, &mut waiting);
        // What cannot be told now, the next start tells: Redis still has it as not announced.
        let _ = producer.flush(Duration::from_millis(PUBLISH_MS_MAX / 5));
    }

    fn producer(
        &self,
        delivered: Sender<Delivered>,
    ) -> Result<Arc<BaseProducer<Deliveries>>, String> {
        let mut config = client_config(&self.settings);
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("message.timeout.ms", PUBLISH_MS_MAX.to_string())
            .set("linger.ms", "1")
            .set("partitioner", "murmur2_random");
        let producer = guarded(&config, delivered, &self.settings.brokers)?;
        let served = Arc::downgrade(&producer);
        std::thread::Builder::new()
            .name("producer".into())
            .spawn(move || serve(&served))
            .map_err(|error| format!("thread producer: {error}"))?;
        Ok(producer)
    }

    /// False if some could not be handed over.
    fn hand_over(&self, producer: &BaseProducer<Deliveries>, waiting: &mut Waiting) -> bool {
        for announcement in waiting.take(PUBLISH_IN_FLIGHT_MAX) {
            let key = announcement.user.as_bytes();
            let value = frame(announcement).encode_to_vec();
            let record = BaseRecord::with_opaque_to(topic(announcement), Box::new(announcement))
                .key(key.as_slice())
                .payload(value.as_slice())
                .headers(headers(announcement));
            if let Err((error, _)) = producer.send(record) {
                tracing::debug!(%error, "announcement not handed over");
                waiting.returned(announcement, false);
                return false;
            }
        }
        true
    }

    /// False if Kafka did not take it.
    fn note(&self, waiting: &mut Waiting, it: Delivered) -> bool {
        waiting.returned(it.announcement, it.error.is_none());
        if let Some(error) = it.error {
            tracing::debug!(user_id = %it.announcement.user, error, "announcement not taken");
            return false;
        }
        let what = What { event: if it.announcement.online { "online" } else { "offline" } };
        self.metrics.announced.get_or_create(&what).inc();
        // The core is gone only when the process ends.
        let _ = self.announced.send(it.announcement);
        true
    }
}

/// Takes the producer's reports as long as somebody has it. Not the library's own thread for that,
/// which polls for 100 ms at a time and spins through the last millisecond of each.
fn serve(producer: &Weak<BaseProducer<Deliveries>>) {
    while let Some(producer) = producer.upgrade() {
        producer.poll(Duration::from_millis(REPORTS_POLL_MS));
    }
}

fn topic(announcement: Announcement) -> &'static str {
    if announcement.online { topics::USER_ONLINE } else { topics::USER_OFFLINE }
}

/// The client event that gateways push as it is.
fn frame(announcement: Announcement) -> ServerFrame {
    let user_id = announcement.user.as_bytes().to_vec();
    let changed = PresenceChanged {
        user_id: user_id.clone(),
        online: announcement.online,
        last_seen_at_us: announcement.at_us,
    };
    let event = Event {
        created_at_us: announcement.at_us,
        sender_id: user_id,
        kind: Some(event::Kind::PresenceChanged(changed)),
        ..Event::default()
    };
    ServerFrame { request_id: 0, frame: Some(server_frame::Frame::Event(event)) }
}

fn headers(announcement: Announcement) -> OwnedHeaders {
    let headers = RecordHeaders {
        event_type: event_type::PRESENCE.to_owned(),
        schema_version: SCHEMA_VERSION_NOW,
        created_at_us: announcement.at_us,
        ..RecordHeaders::default()
    };
    let pairs = headers.to_pairs();
    pairs.iter().fold(OwnedHeaders::new(), |all, (key, value)| {
        all.insert(Header { key, value: Some(value) })
    })
}

fn client_config(settings: &Settings) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &settings.brokers)
        .set("client.id", format!("realchat-presenced-{}", settings.instance))
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "500")
        .set("socket.keepalive.enable", "true")
        .set_log_level(RDKafkaLogLevel::Warning);
    config
}

/// A producer that keeps its brokers. An error is one line for a person.
fn guarded(
    config: &ClientConfig,
    delivered: Sender<Delivered>,
    brokers: &str,
) -> Result<Arc<BaseProducer<Deliveries>>, String> {
    let producer: BaseProducer<Deliveries> = config
        .create_with_context(Deliveries { delivered })
        .map_err(|error: KafkaError| error.to_string())?;
    kafka::guard(producer, brokers)
}

/// Runs until the process ends: sees that the broker is there and has the topics.
pub(crate) fn watch(settings: &Settings, health: &Health) {
    // Nothing is produced with this one: its deliveries go nowhere.
    let (delivered, _) = unbounded();
    let producer = match guarded(&client_config(settings), delivered, &settings.brokers) {
        Ok(producer) => producer,
        Err(error) => return health.not_ready("kafka", error),
    };
    let patience = Duration::from_millis(BROKER_PROBE_MS_MAX);
    loop {
        producer.poll(Duration::ZERO);
        let metadata = producer.client().fetch_metadata(None, patience);
        match metadata {
            Err(error) => {
                health.not_ready("kafka", format!("{} does not answer: {error}", settings.brokers));
            }
            Ok(metadata) => {
                let has = |name| metadata.topics().iter().any(|topic| topic.name() == name);
                if has(topics::USER_ONLINE) && has(topics::USER_OFFLINE) {
                    health.ready("kafka");
                } else {
                    health.not_ready(
                        "kafka",
                        "the presence topics are not there yet (relay makes them)",
                    );
                }
            }
        }
        std::thread::sleep(Duration::from_millis(BROKER_WATCH_MS));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announcement(user: u128, online: bool, at_us: u64) -> Announcement {
        Announcement { user: Uuid::from_u128(user), online, at_us }
    }

    #[test]
    fn of_each_user_only_the_newest_is_told_and_never_two_at_once() {
        let mut waiting = Waiting::default();
        let (first, second, third) =
            (announcement(1, true, 1), announcement(1, false, 2), announcement(1, true, 3));
        waiting.add(first);
        assert_eq!(waiting.take(10), [first]);
        waiting.add(second);
        waiting.add(third);
        assert_eq!(waiting.take(10), []);
        waiting.returned(first, true);
        assert_eq!(waiting.take(10), [third]);
        waiting.returned(third, false);
        assert_eq!(waiting.take(10), [third], "what was not taken is tried again");
        waiting.returned(third, true);
        assert_eq!(waiting.take(10), []);
    }

    #[test]
    fn no_more_than_allowed_are_on_their_way() {
        let mut waiting = Waiting::default();
        (0..5).for_each(|user| waiting.add(announcement(user, true, 1)));
        let some = waiting.take(3);
        assert_eq!(some.len(), 3);
        assert_eq!(waiting.take(3), []);
        waiting.returned(some[0], true);
        assert_eq!(waiting.take(3).len(), 1);
    }

    #[test]
    fn the_record_is_the_event_that_clients_see() {
        let it = announcement(7, false, 9);
        assert_eq!(topic(it), topics::USER_OFFLINE);
        let frame = frame(it);
        let Some(server_frame::Frame::Event(event)) = frame.frame else { panic!("no event") };
        assert_eq!((event.sequence_number, event.created_at_us), (0, 9));
        assert_eq!(event.sender_id, Uuid::from_u128(7).as_bytes());
        assert!(matches!(event.kind, Some(event::Kind::PresenceChanged(it)) if !it.online));
    }
}
