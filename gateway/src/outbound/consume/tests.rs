//! The Kafka threads against a real broker, with shards played by threads of the test. They run
//! where `REALCHAT_TEST_KAFKA_BROKERS` names a broker that is the tests' own (they make the topics
//! and publish to them); `REALCHAT_TEST_KAFKA_RESTART` is a shell command that kills and restarts it.

use super::*;
use crate::audience::Audience;
use crate::drain::DrainTimes;
use crate::limits::KAFKA_COMMIT_MS;
use crate::mail::{Mail, Skipped};
use crate::mailbox::pair;
use daemon::config::load_from;
use proto::Message;
use proto::Uuid;
use proto::client::{Event, ServerFrame, event, server_frame};
use proto::headers::dead_letter;
use proto::record::{Priority, RecordHeaders};
use proto::topics;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Headers, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::JoinHandle;

const PATIENCE: Duration = Duration::from_secs(60);
const SECRET: &str = "a secret of enough bytes";
const SHARDS: usize = 3;
const PARTITIONS: i32 = 3;

/// One test at a time has the broker; None where there is no broker.
fn broker() -> Option<(String, MutexGuard<'static, ()>)> {
    static TURN: Mutex<()> = Mutex::new(());
    let Ok(brokers) = std::env::var("REALCHAT_TEST_KAFKA_BROKERS") else {
        eprintln!("not run: REALCHAT_TEST_KAFKA_BROKERS names no broker");
        return None;
    };
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    make_topics(&brokers);
    Some((brokers, turn))
}

fn admin(brokers: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap()
}

/// Waits for an answer to the admin client, whose own thread wakes this one.
fn wait_for<T>(answer: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut answer = std::pin::pin!(answer);
    loop {
        match answer.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(answer) => return answer,
            Poll::Pending => std::thread::park_timeout(Duration::from_millis(100)),
        }
    }
}

fn make_topics(brokers: &str) {
    let names: Vec<String> =
        topics::ALL.iter().flat_map(|it| [(*it).to_owned(), topics::dead_letter(it)]).collect();
    let new: Vec<NewTopic<'_>> = names
        .iter()
        .map(|name| NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(1)))
        .collect();
    let admin = admin(brokers);
    for outcome in wait_for(admin.create_topics(&new, &AdminOptions::new())).unwrap() {
        use rdkafka::types::RDKafkaErrorCode::TopicAlreadyExists;
        assert!(matches!(outcome, Ok(_) | Err((_, TopicAlreadyExists))), "{outcome:?}");
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Delivered {
    shard: u16,
    conversation: Uuid,
    sequence_number: u64,
    recipients: Vec<Uuid>,
    frame: Vec<u8>,
    priority: crate::mail::Priority,
}

#[derive(Default)]
struct Seen {
    delivered: Vec<Delivered>,
    present: Vec<(u16, Uuid)>,
    missed: Vec<(Uuid, u64, u64)>,
    /// Letters that tell of events that nobody knows.
    skipped: usize,
}

/// A gateway without sockets: the Kafka threads, and shards that note what they are mailed.
struct Gateway {
    consumers: Option<Consumers>,
    audiences: Audiences<TypingSession>,
    mailboxes: Mailboxes,
    seen: Arc<Mutex<Seen>>,
    /// The shard that takes nothing, if it is one of them.
    stuck: Arc<std::sync::atomic::AtomicUsize>,
    ending: Arc<AtomicBool>,
    shards: Vec<JoinHandle<()>>,
    health: Health,
    metrics: Metrics,
}

impl Gateway {
    fn start(brokers: &str, instance: &str) -> Self {
        Self::beside(brokers, instance, "127.0.0.1:1")
    }

    /// With a chatd at this address.
    fn beside(brokers: &str, instance: &str, chatd: &str) -> Self {
        let variables = HashMap::from([
            ("REALCHAT_GATEWAY_CHATD_LINK".to_owned(), chatd.to_owned()),
            ("REALCHAT_GATEWAY_LINK_SECRET".to_owned(), SECRET.to_owned()),
            ("REALCHAT_GATEWAY_KAFKA_BROKERS".to_owned(), brokers.to_owned()),
            ("REALCHAT_GATEWAY_KAFKA_CONSUMERS".to_owned(), "2".to_owned()),
        ]);
        let config = load_from("gateway", crate::config::KEYS, None, variables).unwrap();
        let (boxes, inboxes): (Vec<_>, Vec<_>) = (0..SHARDS).map(|_| pair(64, None)).unzip();
        let mailboxes = Mailboxes::new(boxes);
        let progress = Arc::new(Progress::new(threads(2), SHARDS));
        let seen = Arc::new(Mutex::new(Seen::default()));
        let stuck = Arc::new(std::sync::atomic::AtomicUsize::new(SHARDS));
        let ending = Arc::new(AtomicBool::new(false));
        let shards = (0_u16..).zip(inboxes).map(|(shard, inbox)| {
            let (seen, stuck) = (Arc::clone(&seen), Arc::clone(&stuck));
            let (ending, progress) = (Arc::clone(&ending), Arc::clone(&progress));
            std::thread::spawn(move || {
                while !ending.load(Ordering::Acquire) {
                    let is_stuck = stuck.load(Ordering::Acquire) == usize::from(shard);
                    match (!is_stuck).then(|| inbox.take()).flatten() {
                        Some(letter) => note(shard, letter, &seen, &progress),
                        None => std::thread::sleep(Duration::from_millis(1)),
                    }
                }
            })
        });
        let shards = shards.collect();
        let (health, metrics) = (Health::default(), Metrics::new("gateway"));
        let audiences = Audiences::new();
        let consumers = start(Setup {
            config: &config,
            instance,
            health: &health,
            metrics: &metrics,
            lanes: Lanes::default(),
            mailboxes: mailboxes.clone(),
            progress,
            own_topic: None,
            audiences: audiences.clone(),
            publisher: Publisher::start(&config, instance, &metrics).unwrap(),
        });
        let consumers = Some(consumers.unwrap());
        Self { consumers, audiences, mailboxes, seen, stuck, ending, shards, health, metrics }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    fn wait(&self, what: &str, holds: impl Fn(&Seen) -> bool) {
        let start = Instant::now();
        while !holds(&self.seen()) {
            assert!(start.elapsed() < PATIENCE, "{what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn stop(mut self) {
        self.consumers.take().unwrap().stop(DrainTimes::of(10_000));
        self.end_shards();
    }

    fn end_shards(&mut self) {
        self.ending.store(true, Ordering::Release);
        self.shards.drain(..).for_each(|shard| shard.join().unwrap());
    }
}

fn note(shard: u16, letter: Mail, seen: &Mutex<Seen>, progress: &Progress) {
    match letter {
        Mail::Deliver(delivery) => seen.lock().unwrap().delivered.push(Delivered {
            shard,
            conversation: delivery.conversation,
            sequence_number: delivery.sequence_number,
            recipients: delivery.recipients.to_vec(),
            frame: delivery.frame.into(),
            priority: delivery.priority,
        }),
        Mail::Presence { user, .. } => seen.lock().unwrap().present.push((shard, user)),
        Mail::Ticket { consumer, ticket } => progress.store(consumer, shard, ticket),
        Mail::Tail { skipped: Skipped::Unknown, .. } => seen.lock().unwrap().skipped += 1,
        Mail::Tail { .. } | Mail::Late { .. } => {}
        Mail::Missed(missed) => {
            let told = missed.recipients.iter().map(|user| (*user, missed.from, missed.to));
            seen.lock().unwrap().missed.extend(told);
        }
        _ => panic!("a letter of another kind"),
    }
}

struct Producing(ThreadedProducer<DefaultProducerContext>);

impl Producing {
    fn to(brokers: &str) -> Self {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers).set("enable.idempotence", "true");
        config.set("linger.ms", "0").set("reconnect.backoff.max.ms", "500");
        Self(config.create().unwrap())
    }

    fn raw(&self, topic: &str, key: &[u8], value: &[u8], pairs: &[(&str, Vec<u8>)]) {
        let headers = pairs.iter().fold(OwnedHeaders::new(), |all, (key, value)| {
            all.insert(Header { key, value: Some(value) })
        });
        let record = BaseRecord::to(topic).key(key).payload(value).headers(headers);
        self.0.send(record).map_err(|(error, _)| error).unwrap();
    }

    /// An event of the conversation's log; returns its value.
    fn event(&self, conversation: Uuid, sequence_number: u64, recipients: &[Uuid]) -> Vec<u8> {
        let value = value(conversation, sequence_number);
        let headers = RecordHeaders {
            sequence_number,
            recipients: proto::id::pack(recipients),
            ..RecordHeaders::default()
        };
        self.raw(topics::MESSAGE_CREATED, conversation.as_bytes(), &value, &headers.to_pairs());
        value
    }

    fn flush(&self) {
        self.0.flush(PATIENCE).unwrap();
    }
}

fn value(conversation: Uuid, sequence_number: u64) -> Vec<u8> {
    let event = Event {
        conversation_id: conversation.as_bytes().to_vec(),
        sequence_number,
        kind: Some(event::Kind::Message(proto::client::Message::default())),
        ..Event::default()
    };
    let frame = Some(server_frame::Frame::Event(event));
    ServerFrame { request_id: 0, frame }.encode_to_vec()
}

fn long_value(text_bytes: usize) -> Vec<u8> {
    let message = proto::client::Message { text: "x".repeat(text_bytes), ..Default::default() };
    let kind = Some(event::Kind::Message(message));
    let frame = Some(server_frame::Frame::Event(Event { kind, ..Event::default() }));
    ServerFrame { request_id: 0, frame }.encode_to_vec()
}

fn ids(count: usize) -> Vec<Uuid> {
    (0..count).map(|_| proto::id::new()).collect()
}

fn reader(brokers: &str, group: &str) -> BaseConsumer {
    ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .create()
        .unwrap()
}

/// What the instance's group committed of the log, partition by partition, and the partitions' ends.
fn committed(brokers: &str, instance: &str) -> (Vec<i64>, Vec<i64>) {
    let reader = reader(brokers, &format!("realchat-{instance}"));
    let mut list = TopicPartitionList::new();
    list.add_partition_range(topics::MESSAGE_CREATED, 0, PARTITIONS - 1);
    let start = Instant::now();
    let committed = loop {
        // The coordinator is not there at once after a broker's start.
        match reader.committed_offsets(list.clone(), PATIENCE) {
            Ok(committed) => break committed,
            Err(error) => assert!(start.elapsed() < PATIENCE, "{error}"),
        }
    };
    let committed = committed.elements().iter().map(|it| it.offset().to_raw().unwrap()).collect();
    let end = |partition| {
        reader.fetch_watermarks(topics::MESSAGE_CREATED, partition, PATIENCE).unwrap().1
    };
    (committed, (0..PARTITIONS).map(end).collect())
}

/// Per conversation and recipient, the sequence numbers in the order of delivery.
fn by_recipient(seen: &Seen) -> HashMap<(Uuid, Uuid), Vec<u64>> {
    let mut all: HashMap<_, Vec<u64>> = HashMap::new();
    for it in &seen.delivered {
        for recipient in &it.recipients {
            all.entry((it.conversation, *recipient)).or_default().push(it.sequence_number);
        }
    }
    all
}

#[test]
fn events_reach_the_home_shards_once_and_in_order_and_a_restart_goes_on() {
    let Some((brokers, _turn)) = broker() else { return };
    let instance = format!("test-{}", proto::id::new());
    let producing = Producing::to(&brokers);
    let (conversations, users) = (ids(5), ids(12));
    let before = producing.event(conversations[0], 1, &users);
    producing.flush();
    let gateway = Gateway::start(&brokers, &instance);
    assert!(gateway.health.missing().is_empty());
    for sequence_number in 2..=100 {
        for conversation in &conversations {
            producing.event(*conversation, sequence_number, &users);
        }
    }
    let expected: Vec<u64> = (2..=100).collect();
    let pairs = conversations.len() * users.len();
    gateway.wait("the events", |seen| {
        let all = by_recipient(seen);
        all.len() == pairs && all.values().all(|it| it.len() == expected.len())
    });
    assert!(by_recipient(&gateway.seen()).values().all(|it| *it == expected));
    for it in &gateway.seen().delivered {
        assert!(it.recipients.iter().all(|user| gateway.mailboxes.home(user) == it.shard));
        assert_eq!(it.frame, value(it.conversation, it.sequence_number));
        assert!(it.frame != before && it.priority == crate::mail::Priority::Normal);
    }
    gateway.stop();
    let (offsets, ends) = committed(&brokers, &instance);
    assert_eq!(offsets, ends);
    producing.event(conversations[0], 101, &users);
    producing.flush();
    let gateway = Gateway::start(&brokers, &instance);
    gateway.wait("what came in between", |seen| by_recipient(seen).len() == users.len());
    assert!(by_recipient(&gateway.seen()).values().all(|it| *it == [101]));
    gateway.stop();
}

#[test]
fn an_offset_is_not_committed_while_a_shard_has_not_enqueued_its_event() {
    let Some((brokers, _turn)) = broker() else { return };
    let instance = format!("test-{}", proto::id::new());
    let producing = Producing::to(&brokers);
    let mut gateway = Gateway::start(&brokers, &instance);
    let users = ids(40);
    let conversation = proto::id::new();
    producing.event(conversation, 1, &users);
    gateway.wait("the first event", |seen| by_recipient(seen).len() == users.len());
    std::thread::sleep(Duration::from_millis(2 * KAFKA_COMMIT_MS));
    let (first, ends) = committed(&brokers, &instance);
    assert_eq!(first, ends);
    gateway.stuck.store(1, Ordering::Release);
    for sequence_number in 2..=10 {
        producing.event(conversation, sequence_number, &users);
    }
    gateway.wait("the other shards' events", |seen| {
        seen.delivered.iter().filter(|it| it.shard == 0).count() == 10
    });
    std::thread::sleep(Duration::from_millis(3 * KAFKA_COMMIT_MS));
    let (offsets, ends) = committed(&brokers, &instance);
    assert_eq!(offsets, first);
    assert_ne!(offsets, ends);
    // The shards end before they took their letters, as in a gateway that is killed.
    gateway.end_shards();
    gateway.consumers.take().unwrap().stop(DrainTimes::of(10_000));
    assert_eq!(committed(&brokers, &instance).0, first);
    let gateway = Gateway::start(&brokers, &instance);
    gateway.wait("the events of the shard that was stuck", |seen| {
        let all = by_recipient(seen);
        all.len() == users.len() && all.values().all(|it| *it == (2..=10).collect::<Vec<_>>())
    });
    gateway.stop();
}

#[test]
fn presence_reaches_every_shard_and_membership_the_audiences() {
    let Some((brokers, _turn)) = broker() else { return };
    let producing = Producing::to(&brokers);
    let gateway = Gateway::start(&brokers, &format!("test-{}", proto::id::new()));
    let [user, conversation] = [proto::id::new(), proto::id::new()];
    for topic in [topics::USER_ONLINE, topics::USER_OFFLINE] {
        producing.raw(topic, user.as_bytes(), &value(conversation, 0), &[]);
    }
    gateway.wait("presence", |seen| {
        let of_shard = |shard| seen.present.iter().filter(|it| **it == (shard, user)).count();
        (0..3).all(|shard| of_shard(shard) == 2)
    });
    let now_ms = gateway.audiences.now_ms();
    let question = || TypingSession::example(user);
    let _ = gateway.audiences.lock().find(conversation, user, question(), now_ms);
    gateway.audiences.lock().answered(
        conversation,
        user,
        Some(Audience::new(&[user], false)),
        now_ms,
    );
    producing.raw(topics::MEMBERSHIP, conversation.as_bytes(), &value(conversation, 1), &[]);
    let start = Instant::now();
    let ask = crate::audience::Found::Ask;
    while gateway.audiences.lock().find(conversation, user, question(), now_ms) != ask {
        assert!(start.elapsed() < PATIENCE, "the audience was not forgotten");
        std::thread::sleep(Duration::from_millis(2));
    }
    gateway.stop();
}

/// Key, value, headers, and what the error says.
type Case<'a> = (&'a [u8], &'a [u8], &'a [(&'a str, Vec<u8>)], &'a str);

#[test]
fn records_that_cannot_be_read_become_dead_letters_and_the_next_is_delivered() {
    let Some((brokers, _turn)) = broker() else { return };
    let producing = Producing::to(&brokers);
    let gateway = Gateway::start(&brokers, &format!("test-{}", proto::id::new()));
    let letters = reader(&brokers, "test-dead-letters");
    let mut tail = TopicPartitionList::new();
    let topic = topics::dead_letter(topics::EPHEMERAL);
    for partition in 0..PARTITIONS {
        let (_, end) = letters.fetch_watermarks(&topic, partition, PATIENCE).unwrap();
        tail.add_partition_offset(&topic, partition, Offset::Offset(end)).unwrap();
    }
    letters.assign(&tail).unwrap();
    let [conversation, user] = [proto::id::new(), proto::id::new()];
    let key = conversation.as_bytes().as_slice();
    let good = value(conversation, 0);
    let headers = |recipients: &[u8]| {
        RecordHeaders {
            priority: Priority::Ephemeral.into(),
            recipients: recipients.to_vec(),
            ..RecordHeaders::default()
        }
        .to_pairs()
    };
    let to_user = headers(user.as_bytes());
    let bad_number = [to_user.clone(), vec![("created-at-us", b"soon".to_vec())]].concat();
    let too_many = headers(&vec![1; 16 * (proto::limits::INLINE_RECIPIENTS_MAX + 1)]);
    let cases: [Case<'_>; 7] = [
        (b"short", &good, &to_user, "the record's key is 5 bytes"),
        (key, b"", &to_user, "0 bytes"),
        (key, b"garbage", &to_user, "no encoded ServerFrame"),
        (key, &good, &headers(b""), "recipients is missing"),
        (key, &good, &headers(&[1; 17]), "recipients is 17 bytes"),
        (key, &good, &too_many, "at most 1024"),
        (key, &good, &bad_number, "created-at-us does not hold"),
    ];
    for (key, value, headers, _) in &cases {
        producing.raw(topics::EPHEMERAL, key, value, headers);
    }
    producing.raw(topics::EPHEMERAL, key, &good, &to_user);
    gateway.wait("the good record", |seen| {
        seen.delivered
            .iter()
            .any(|it| it.priority == crate::mail::Priority::Ephemeral && it.recipients == [user])
    });
    let start = Instant::now();
    let mut reasons = Vec::new();
    while reasons.len() < cases.len() {
        assert!(start.elapsed() < PATIENCE, "dead letters are missing: {reasons:?}");
        let Some(letter) = letters.poll(Duration::from_millis(100)) else { continue };
        let letter = letter.unwrap();
        let headers = letter.headers().unwrap();
        let error = headers.iter().find(|it| it.key == dead_letter::ERROR).unwrap().value.unwrap();
        for key in [dead_letter::CONSUMER, dead_letter::PARTITION, dead_letter::OFFSET] {
            assert!(headers.iter().any(|it| it.key == key), "{key}");
        }
        reasons.push(String::from_utf8(error.to_vec()).unwrap());
    }
    for (_, _, _, reason) in &cases {
        assert!(reasons.iter().any(|it| it.contains(reason)), "{reason} is not in {reasons:?}");
    }
    let text = gateway.metrics.text();
    // Each partition has a line of its own.
    let of_topic = format!("records_skipped_total{{topic=\"{}\",partition=", topics::EPHEMERAL);
    let counts = text.lines().filter(|line| line.contains(&of_topic));
    let skipped: u64 = counts.filter_map(|it| it.rsplit(' ').next()?.parse::<u64>().ok()).sum();
    assert_eq!(skipped, cases.len() as u64, "{text}");
    gateway.stop();
}

#[test]
fn records_that_were_deleted_unread_are_stepped_over() {
    assert_eq!(shards_told_of_deleted_records(topics::MESSAGE_ACKNOWLEDGED), 0);
}

/// Whose they were nobody knows: every session resumes.
#[test]
fn events_that_were_deleted_unread_make_every_session_resume() {
    assert_eq!(shards_told_of_deleted_records(topics::MESSAGE_CREATED), SHARDS);
}

/// Deletes records of a topic that the gateway has not read yet. How many shards are told that nobody
/// knows what they miss.
fn shards_told_of_deleted_records(topic: &str) -> usize {
    const RECORDS: u64 = 2_000;
    let Some((brokers, _turn)) = broker() else {
        return if topic == topics::MESSAGE_CREATED { SHARDS } else { 0 };
    };
    let producing = Producing::to(&brokers);
    let gateway = Gateway::start(&brokers, &format!("test-{}", proto::id::new()));
    let user = proto::id::new();
    let home = usize::from(gateway.mailboxes.home(&user));
    gateway.stuck.store(home, Ordering::Release);
    let conversation = proto::id::new();
    let headers = |sequence_number| {
        let recipients = user.as_bytes().to_vec();
        RecordHeaders { sequence_number, recipients, ..RecordHeaders::default() }.to_pairs()
    };
    let long = long_value(40_000);
    for sequence_number in 1..=RECORDS {
        let key = conversation.as_bytes();
        producing.raw(topic, key, &long, &headers(sequence_number));
        if sequence_number % 200 == 0 {
            producing.flush();
        }
    }
    let mut list = TopicPartitionList::new();
    let reader = reader(&brokers, "test-watermarks");
    for partition in 0..PARTITIONS {
        let watermarks = reader.fetch_watermarks(topic, partition, PATIENCE).unwrap();
        list.add_partition_offset(topic, partition, Offset::Offset(watermarks.1)).unwrap();
    }
    wait_for(admin(&brokers).delete_records(&list, &AdminOptions::new())).unwrap();
    gateway.stuck.store(SHARDS, Ordering::Release);
    let start = Instant::now();
    while gateway.metrics.text().contains("offset_repositions_total 0") {
        assert!(start.elapsed() < PATIENCE, "not repositioned: {}", gateway.metrics.text());
        std::thread::sleep(Duration::from_millis(10));
    }
    let (key, value) = (conversation.as_bytes(), value(conversation, RECORDS + 1));
    producing.raw(topic, key, &value, &headers(RECORDS + 1));
    gateway.wait("the next record", |seen| {
        seen.delivered.last().is_some_and(|it| it.sequence_number == RECORDS + 1)
    });
    let seen = by_recipient(&gateway.seen());
    let sequence = &seen[&(conversation, user)];
    assert!(sequence.is_sorted() && sequence.len() < usize::try_from(RECORDS).unwrap());
    let told = gateway.seen().skipped;
    gateway.stop();
    told
}

#[test]
fn a_partition_that_is_added_is_read_from_its_first_record() {
    let Some((brokers, _turn)) = broker() else { return };
    let producing = Producing::to(&brokers);
    let gateway = Gateway::start(&brokers, &format!("test-{}", proto::id::new()));
    let topic = topics::PROFILE_UPDATED;
    let metadata = producing.0.client().fetch_metadata(Some(topic), PATIENCE).unwrap();
    let count = metadata.topics()[0].partitions().len();
    let more = NewPartitions::new(topic, count + 1);
    let made = wait_for(admin(&brokers).create_partitions([&more], &AdminOptions::new())).unwrap();
    assert!(made.iter().all(Result::is_ok), "{made:?}");
    let [user, other] = [proto::id::new(), proto::id::new()];
    let producing = Producing::to(&brokers);
    for (partition, user) in [(count, user), (0, other)] {
        let recipients = OwnedHeaders::new()
            .insert(Header { key: "recipients", value: Some(user.as_bytes().as_slice()) });
        let value = value(user, 0);
        let record = BaseRecord::to(topic)
            .partition(i32::try_from(partition).unwrap())
            .key(user.as_bytes().as_slice())
            .payload(&value)
            .headers(recipients);
        producing.0.send(record).map_err(|(error, _)| error).unwrap();
    }
    producing.flush();
    gateway.wait("the profiles", |seen| {
        let of = |user| seen.delivered.iter().filter(|it| it.recipients == [user]).count();
        (of(user), of(other)) == (1, 1)
    });
    gateway.stop();
}

mod large;
mod outage;
