//! Conversations that are too large for a record's headers, with a chatd of the test's own behind a
//! real link.

use super::*;
use daemon::link::{Handler, Incoming, Reply, Server, ServerSettings, serve};
use proto::client::MembershipChanged;
use proto::error::ErrorCode;
use proto::headers::event_type;
use proto::limits::INLINE_RECIPIENTS_MAX;
use proto::link::AudiencePageResult;
use proto::link::request::Request;
use proto::link::response::Response;

/// A member: who, joined with which event, left with which.
type Member = (Uuid, u64, u64);

#[derive(Default)]
struct Chatd {
    members: Mutex<HashMap<Uuid, Vec<Member>>>,
    is_down: AtomicBool,
    pages: std::sync::atomic::AtomicUsize,
}

impl Handler for Chatd {
    fn handle(&self, incoming: Incoming, reply: Reply) {
        let Request::AudiencePage(page) = incoming.request else { panic!("another request") };
        if self.is_down.load(Ordering::Acquire) {
            return reply.refuse(ErrorCode::Unavailable, "not now");
        }
        self.pages.fetch_add(1, Ordering::AcqRel);
        let conversation = Uuid::from_slice(&page.conversation_id).unwrap();
        let after = Uuid::from_slice(&page.after_user_id).unwrap_or_default();
        let at = page.sequence_number;
        let members = self.members.lock().unwrap();
        let mut users: Vec<Uuid> = members[&conversation]
            .iter()
            .filter(|(user, joined, left)| *user > after && *joined <= at && *left >= at)
            .map(|(user, ..)| *user)
            .collect();
        users.sort_unstable();
        let limit = usize::try_from(page.limit).unwrap();
        let more = users.len() >= limit;
        users.truncate(limit);
        let user_ids = proto::id::pack(&users);
        reply.send(Response::AudiencePage(AudiencePageResult { user_ids, more }));
    }
}

impl Chatd {
    fn serve(self: &Arc<Self>, address: &str) -> Server {
        let settings = ServerSettings {
            address: address.into(),
            secret: SECRET.into(),
            instance: "chatd".into(),
        };
        serve(settings, Arc::clone(self) as Arc<dyn Handler>).unwrap()
    }

    fn join(&self, conversation: Uuid, users: &[Uuid], number: u64) {
        let mut members = self.members.lock().unwrap();
        let list = members.entry(conversation).or_default();
        list.extend(users.iter().map(|user| (*user, number, u64::MAX)));
    }

    fn leave(&self, conversation: Uuid, user: Uuid, number: u64) {
        let mut members = self.members.lock().unwrap();
        let list = members.get_mut(&conversation).unwrap();
        list.iter_mut().find(|it| it.0 == user).unwrap().2 = number;
    }

    fn pages(&self) -> usize {
        self.pages.load(Ordering::Acquire)
    }
}

impl Producing {
    fn counted(&self, conversation: Uuid, sequence_number: u64, members: usize) {
        let headers = RecordHeaders {
            sequence_number,
            member_count: u32::try_from(members).unwrap(),
            ..RecordHeaders::default()
        };
        let value = value(conversation, sequence_number);
        self.raw(topics::MESSAGE_CREATED, conversation.as_bytes(), &value, &headers.to_pairs());
    }

    /// As chatd's: beside the log, and for all members.
    fn summary(&self, conversation: Uuid, members: usize) {
        let headers = RecordHeaders {
            event_type: event_type::RECEIPT_SUMMARY.into(),
            priority: Priority::Ephemeral.into(),
            member_count: u32::try_from(members).unwrap(),
            ..RecordHeaders::default()
        };
        let value = value(conversation, 0);
        self.raw(topics::MESSAGE_CREATED, conversation.as_bytes(), &value, &headers.to_pairs());
    }

    fn change(
        &self,
        conversation: Uuid,
        sequence_number: u64,
        members: usize,
        who: (&[Uuid], &[Uuid]),
    ) {
        let ids = |ids: &[Uuid]| ids.iter().map(|it| it.as_bytes().to_vec()).collect();
        let changed = MembershipChanged {
            added_user_ids: ids(who.0),
            removed_user_ids: ids(who.1),
            created: false,
        };
        let event = Event {
            conversation_id: conversation.as_bytes().to_vec(),
            sequence_number,
            kind: Some(event::Kind::MembershipChanged(changed)),
            ..Event::default()
        };
        let frame = Some(server_frame::Frame::Event(event));
        let value = ServerFrame { request_id: 0, frame }.encode_to_vec();
        let headers = RecordHeaders {
            event_type: event_type::MEMBERSHIP.into(),
            sequence_number,
            member_count: u32::try_from(members).unwrap(),
            ..RecordHeaders::default()
        };
        self.raw(topics::MESSAGE_CREATED, conversation.as_bytes(), &value, &headers.to_pairs());
    }
}

/// How often what is beside a log was mailed to a user.
fn summaries(seen: &Seen, conversation: Uuid, user: Uuid) -> usize {
    let of = seen.delivered.iter().filter(|it| it.conversation == conversation);
    of.filter(|it| it.sequence_number == 0 && it.recipients.contains(&user)).count()
}

#[test]
fn a_receipt_summary_goes_to_those_who_are_members_at_its_place_of_the_log() {
    let Some((brokers, _turn)) = broker() else { return };
    let chatd = Arc::new(Chatd::default());
    let server = chatd.serve("127.0.0.1:0");
    let instance = format!("test-{}", proto::id::new());
    let gateway = Gateway::beside(&brokers, &instance, server.address());
    let producing = Producing::to(&brokers);
    let large = proto::id::new();
    let users = ids(INLINE_RECIPIENTS_MAX + 2);
    let (stays, goes) = (users[0], users[1]);
    chatd.join(large, &users, 1);
    let shed = |count: usize| format!("receipt_summaries_shed_total {count}\n");
    // Nobody knows the members yet, and they are not asked for.
    producing.summary(large, users.len());
    gateway.wait("the shed one", |_| gateway.metrics.text().contains(&shed(1)));
    assert_eq!(chatd.pages(), 0);
    producing.counted(large, 1, users.len());
    gateway.wait("the event", |seen| deliveries(seen, large) == users.len());
    producing.summary(large, users.len());
    gateway.wait("the summary", |seen| deliveries(seen, large) == 2 * users.len());
    {
        let seen = gateway.seen();
        let mut told = seen.delivered.iter().filter(|it| it.sequence_number == 0);
        assert!(told.all(|it| it.priority == crate::mail::Priority::Ephemeral));
        assert!(users.iter().all(|user| summaries(&seen, large, *user) == 1));
    }
    chatd.leave(large, goes, 2);
    producing.change(large, 2, users.len(), (&[], &[goes]));
    producing.summary(large, users.len());
    let all = 4 * users.len() - 1;
    gateway.wait("the summary after one went", |seen| deliveries(seen, large) == all);
    let seen = gateway.seen();
    assert_eq!((summaries(&seen, large, stays), summaries(&seen, large, goes)), (2, 1));
    drop(seen);
    assert!(gateway.metrics.text().contains(&shed(1)) && chatd.pages() == 1);
    gateway.wait("all is committed", |_| {
        let (offsets, ends) = committed(&brokers, &instance);
        offsets == ends
    });
    gateway.stop();
}

/// What each user got of the conversation, in the order of delivery.
fn got(seen: &Seen, conversation: Uuid) -> HashMap<Uuid, Vec<u64>> {
    let all = by_recipient(seen).into_iter().filter(|((it, _), _)| *it == conversation);
    all.map(|((_, user), numbers)| (user, numbers)).collect()
}

fn deliveries(seen: &Seen, conversation: Uuid) -> usize {
    let of = seen.delivered.iter().filter(|it| it.conversation == conversation);
    of.map(|it| it.recipients.len()).sum()
}

/// Another conversation in the same partition.
fn neighbour(of: Uuid) -> Uuid {
    // Kafka's default partitioner hashes the key; enough tries meet each partition.
    let partition = |id: &Uuid| crc32(id.as_bytes()) % PARTITIONS.unsigned_abs();
    std::iter::repeat_with(proto::id::new).find(|it| partition(it) == partition(&of)).unwrap()
}

/// librdkafka's `consistent_random` partitioner.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 }
        })
    })
}

#[test]
fn recipients_are_named_up_to_the_limit_and_asked_for_beyond_it() {
    let Some((brokers, _turn)) = broker() else { return };
    let chatd = Arc::new(Chatd::default());
    let server = chatd.serve("127.0.0.1:0");
    let instance = format!("test-{}", proto::id::new());
    let gateway = Gateway::beside(&brokers, &instance, server.address());
    let producing = Producing::to(&brokers);
    let [small, large] = [proto::id::new(), proto::id::new()];
    let users = ids(INLINE_RECIPIENTS_MAX + 1);
    let named = &users[1..];
    producing.event(small, 1, named);
    gateway.wait("the named", |seen| deliveries(seen, small) == INLINE_RECIPIENTS_MAX);
    assert_eq!(chatd.pages(), 0);
    chatd.join(large, &users, 1);
    producing.counted(large, 1, users.len());
    producing.counted(large, 2, users.len());
    gateway.wait("the counted", |seen| deliveries(seen, large) == 2 * users.len());
    assert_eq!(chatd.pages(), 1);
    let got = got(&gateway.seen(), large);
    assert!(got.len() == users.len() && got.values().all(|it| *it == [1, 2]));
    // By partition, and all of it.
    let of = |name: &str| -> Vec<usize> {
        let start = format!("realchat_gateway_{name}_total{{topic=\"{}\"", topics::MESSAGE_CREATED);
        let text = gateway.metrics.text();
        let lines = text.lines().filter(|line| line.starts_with(&start));
        lines.map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap()).collect()
    };
    let (mailed, consumed) = (of("recipients_mailed"), of("records_consumed"));
    assert!(mailed.len() >= PARTITIONS.unsigned_abs() as usize, "{mailed:?}");
    assert_eq!(mailed.iter().sum::<usize>(), INLINE_RECIPIENTS_MAX + 2 * users.len());
    assert_eq!(consumed.iter().sum::<usize>(), 3);
    gateway.stop();
}

#[test]
fn fifty_thousand_members_come_and_go_with_events_in_flight() {
    const MEMBERS: usize = 50_000;
    let Some((brokers, _turn)) = broker() else { return };
    let chatd = Arc::new(Chatd { is_down: AtomicBool::new(true), ..Chatd::default() });
    let server = chatd.serve("127.0.0.1:0");
    let instance = format!("test-{}", proto::id::new());
    let gateway = Gateway::beside(&brokers, &instance, server.address());
    let producing = Producing::to(&brokers);
    let large = proto::id::new();
    let small = neighbour(large);
    let users = ids(MEMBERS + 2);
    let (goes, comes) = (users[17], &users[MEMBERS..]);
    chatd.join(large, &users[..MEMBERS], 1);
    producing.counted(large, 7, MEMBERS);
    // In flight while the members are asked for: one goes, two come.
    chatd.leave(large, goes, 8);
    producing.change(large, 8, MEMBERS, (&[], &[goes]));
    producing.counted(large, 9, MEMBERS - 1);
    producing.event(small, 1, &users[..3]);
    gateway.wait("the neighbour's event", |seen| deliveries(seen, small) == 3);
    std::thread::sleep(Duration::from_millis(2 * KAFKA_COMMIT_MS));
    assert_eq!(deliveries(&gateway.seen(), large), 0, "chatd does not answer yet");
    let (offsets, ends) = committed(&brokers, &instance);
    assert!(
        offsets.iter().zip(&ends).any(|(offset, end)| end - offset == 4),
        "{offsets:?} {ends:?}"
    );
    chatd.is_down.store(false, Ordering::Release);
    chatd.join(large, comes, 10);
    producing.change(large, 10, MEMBERS + 1, (comes, &[]));
    producing.counted(large, 11, MEMBERS + 1);
    let all = MEMBERS + MEMBERS + (MEMBERS - 1) + 2 * (MEMBERS + 1);
    gateway.wait("all", |seen| deliveries(seen, large) >= all);
    {
        let got = got(&gateway.seen(), large);
        assert_eq!(got[&goes], [7, 8], "the removal itself, and nothing after it");
        assert!(comes.iter().all(|user| got[user] == [10, 11]));
        let stays = users[..MEMBERS].iter().filter(|user| **user != goes);
        assert!(stays.clone().all(|user| got[user] == [7, 8, 9, 10, 11]));
    }
    assert_eq!(chatd.pages(), MEMBERS.div_ceil(proto::limits::AUDIENCE_PAGE_USERS_MAX));
    gateway.wait("what waits no more", |_| {
        let (offsets, ends) = committed(&brokers, &instance);
        offsets == ends
    });
    cost(&gateway, &producing, (large, MEMBERS + 1));
    assert!(gateway.metrics.text().contains("rosters_fetched_total 1\n"));
    gateway.stop();
}

/// What an event to so many costs besides the shards' part, printed.
fn cost(gateway: &Gateway, producing: &Producing, (large, members): (Uuid, usize)) {
    const EVENTS: u64 = 20;
    gateway.seen.lock().unwrap().delivered.clear();
    let start = Instant::now();
    for number in 12..12 + EVENTS {
        producing.counted(large, number, members);
    }
    let all = members * usize::try_from(EVENTS).unwrap();
    gateway.wait("the timed events", |seen| deliveries(seen, large) == all);
    let took = start.elapsed();
    println!(
        "an event to {members} members: {:.2} ms from produce to the last shard's mailbox, {:.1} ns a member",
        took.as_secs_f64() * 1e3 / EVENTS as f64,
        took.as_secs_f64() * 1e9 / all as f64
    );
}

#[test]
fn what_waits_for_a_chatd_that_is_away_comes_when_it_is_back() {
    let Some((brokers, _turn)) = broker() else { return };
    let chatd = Arc::new(Chatd::default());
    let address = chatd.serve("127.0.0.1:0").address().to_owned();
    // Nobody listens there until chatd is back.
    let address = std::net::TcpListener::bind("127.0.0.1:0")
        .map_or(address, |free| free.local_addr().unwrap().to_string());
    let instance = format!("test-{}", proto::id::new());
    let gateway = Gateway::beside(&brokers, &instance, &address);
    let producing = Producing::to(&brokers);
    let large = proto::id::new();
    let users = ids(2_000);
    chatd.join(large, &users, 1);
    let count = crate::limits::HELD_RECORDS_MAX as u64 + 1;
    for number in 1..=count {
        producing.counted(large, number, users.len());
    }
    producing.flush();
    std::thread::sleep(Duration::from_millis(KAFKA_COMMIT_MS));
    assert!(gateway.seen().delivered.is_empty() && gateway.seen().missed.is_empty());
    let _server = chatd.serve(&address);
    // One more than may wait: a gap, for everybody.
    gateway.wait("the gap", |seen| seen.missed.len() >= 2 * users.len());
    assert!(gateway.seen().missed.iter().all(|(_, from, to)| (*from, *to) == (1, count)));
    producing.counted(large, count + 1, users.len());
    gateway.wait("the next event", |seen| deliveries(seen, large) == users.len());
    assert!(got(&gateway.seen(), large).values().all(|it| *it == [count + 1]));
    gateway.stop();
}
