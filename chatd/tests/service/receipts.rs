//! Who is told of receipts, by how many members a conversation has; and what of large conversations.

use crate::support::{Chatd, Database, PATIENCE, Person, wait_for};
use proto::client::{Event, ReceiptSummary, ServerFrame, event::Kind, server_frame::Frame};
use proto::link::{Ack, request::Request};
use proto::record::{Priority, RecordHeaders};
use proto::{Message, Uuid};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Members that a record's headers can name: the largest conversation that is told of each read cursor.
const NAMED_MAX: usize = proto::limits::INLINE_RECIPIENTS_MAX;
/// The largest that is told of each delivered cursor.
const DELIVERED_TOLD_MAX: usize = 32;
/// Between two summaries of a conversation.
const INTERVAL: Duration = Duration::from_secs(2);

/// A conversation, of people who have no accounts here but for the first.
struct Crowd {
    conversation_id: Uuid,
    members: Vec<Uuid>,
    /// The last sequence number.
    last: u64,
}

impl Crowd {
    fn new(chatd: &Chatd, alice: &Person, count: usize) -> Self {
        let mut members = vec![alice.user_id];
        members.extend((1..count.min(NAMED_MAX)).map(|_| proto::id::new()));
        let body = json!({ "title": "Crowd", "member_ids": members[1..] });
        let made = alice.done(chatd, "POST", "/v1/conversations", body);
        let conversation_id = crate::support::people::id(&made["conversation_id"]);
        let mut crowd = Self { conversation_id, members, last: 1 };
        while crowd.members.len() < count {
            crowd.grow(chatd, alice);
        }
        crowd
    }

    fn grow(&mut self, chatd: &Chatd, alice: &Person) {
        let newcomer = proto::id::new();
        self.members.push(newcomer);
        let key = newcomer.to_string();
        let add = json!({ "user_ids": [newcomer], "idempotency_key": key });
        let target = format!("/v1/conversations/{}/members", self.conversation_id);
        let added = alice.done(chatd, "POST", &target, add);
        self.last = added["sequence_number"].as_u64().unwrap();
    }

    fn say(&mut self, chatd: &Chatd, alice: &Person) {
        let sent = alice.send(chatd, self.conversation_id, "said", "hi").unwrap();
        self.last = sent.sequence_number;
    }

    fn ack(&self, member: usize, device: u128, delivered: u64, read: u64) -> Request {
        Request::Ack(Ack {
            user_id: self.members[member].as_bytes().to_vec(),
            device_id: Uuid::from_u128(device).as_bytes().to_vec(),
            ack: Some(proto::client::Ack {
                conversation_id: self.conversation_id.as_bytes().to_vec(),
                delivered_sequence_number: delivered,
                read_sequence_number: read,
            }),
        })
    }

    /// The outbox rows that tell of receipts, in the order of commit.
    fn told(&self, database: &Database) -> Vec<(RecordHeaders, Event)> {
        let query = "SELECT headers, value FROM messaging.outbox WHERE key = $1 ORDER BY id";
        let key = self.conversation_id.as_bytes().as_slice();
        let rows = database.owner().query(query, &[&key]).unwrap();
        let told = rows.iter().map(|row| {
            let headers = RecordHeaders::decode(row.get::<_, &[u8]>(0)).unwrap();
            let frame = ServerFrame::decode(row.get::<_, &[u8]>(1)).unwrap();
            let Some(Frame::Event(event)) = frame.frame else { panic!("no event") };
            (headers, event)
        });
        told.filter(|(_, event)| {
            matches!(event.kind, Some(Kind::Receipt(_) | Kind::ReceiptSummary(_)))
        })
        .collect()
    }

    /// Whose receipts are told, and to how many.
    fn receipts(&self, database: &Database) -> Vec<(Vec<u8>, usize)> {
        let told = self.told(database).into_iter();
        let receipts = told.filter(|(_, event)| matches!(event.kind, Some(Kind::Receipt(_))));
        receipts.map(|(headers, event)| (event.sender_id, headers.recipients.len() / 16)).collect()
    }

    fn summaries(&self, database: &Database) -> Vec<(u64, ReceiptSummary)> {
        let told = self.told(database).into_iter();
        let summaries = told.filter_map(|(_, event)| match event.kind {
            Some(Kind::ReceiptSummary(summary)) => Some((event.created_at_us, summary)),
            _ => None,
        });
        summaries.collect()
    }
}

fn done(chatd: &Chatd, request: Request) {
    chatd.ask(request).unwrap();
}

fn counts(summary: &ReceiptSummary) -> Vec<(u64, u32, u32)> {
    let counts = summary.counts.iter();
    counts.map(|it| (it.sequence_number, it.delivered_count, it.read_count)).collect()
}

#[test]
fn delivered_cursors_are_told_in_small_conversations_and_read_cursors_in_larger_ones() {
    let database = Database::new();
    let chatd = Chatd::start(&database);
    let alice = Person::register(&chatd, "alice");
    let small = Crowd::new(&chatd, &alice, DELIVERED_TOLD_MAX);
    let larger = Crowd::new(&chatd, &alice, DELIVERED_TOLD_MAX + 1);
    for crowd in [&small, &larger] {
        done(&chatd, crowd.ack(1, 1, 1, 0));
    }
    let who = |crowd: &Crowd| crowd.members[1].as_bytes().to_vec();
    assert_eq!(small.receipts(&database), [(who(&small), DELIVERED_TOLD_MAX)]);
    assert_eq!(larger.receipts(&database), []);
    done(&chatd, larger.ack(1, 1, 1, 1));
    assert_eq!(larger.receipts(&database), [(who(&larger), DELIVERED_TOLD_MAX + 1)]);
}

#[test]
fn beyond_what_a_record_can_name_members_are_told_in_a_summary() {
    let database = Database::new();
    let chatd = Chatd::start(&database);
    let alice = Person::register(&chatd, "alice");
    let mut named = Crowd::new(&chatd, &alice, NAMED_MAX);
    let mut large = Crowd::new(&chatd, &alice, NAMED_MAX + 1);
    for crowd in [&mut named, &mut large] {
        crowd.say(&chatd, &alice);
        let last = crowd.last;
        for member in 1..=3 {
            done(&chatd, crowd.ack(member, 1, last, last));
        }
        // Got, not read; and once more by another device of somebody who has read it.
        done(&chatd, crowd.ack(4, 1, last, last - 1));
        done(&chatd, crowd.ack(3, 2, last, last));
    }
    let summary = |least: u32| {
        wait_for("the summary", || {
            let (_, last) = large.summaries(&database).pop()?;
            last.counts.last().is_some_and(|it| it.delivered_count >= least).then_some(last)
        })
    };
    let last = summary(4);
    assert_eq!((counts(&last), last.member_count), (vec![(large.last, 4, 3)], 1_025));
    let (headers, event) = large.told(&database).pop().unwrap();
    assert_eq!(headers.event_type, "receipt-summary");
    assert_eq!((headers.priority(), headers.member_count), (Priority::Ephemeral, 1_025));
    assert!(headers.recipients.is_empty() && headers.sequence_number == 0);
    assert!(event.sender_id.is_empty() && event.sequence_number == 0);
    // One's other devices are told of one's own read cursor, however many members there are.
    let own = |member: usize| (large.members[member].as_bytes().to_vec(), 1);
    assert_eq!(large.receipts(&database), [own(1), own(2), own(3), own(4), own(3)]);
    assert!(named.receipts(&database).iter().all(|(_, recipients)| *recipients == NAMED_MAX));
    assert_eq!((named.receipts(&database).len(), named.summaries(&database)), (5, vec![]));
    // What is only got is told to nobody but in the summary.
    done(&chatd, large.ack(5, 1, large.last, 0));
    assert_eq!(counts(&summary(5)), [(large.last, 5, 3)]);
    assert_eq!(large.receipts(&database).len(), 5);
    let read = |crowd: &Crowd| {
        alice.get(&chatd, &format!("/v1/conversations/{}/receipts", crowd.conversation_id))
    };
    assert_eq!(read(&large)["summary"], serde_json::to_value(summary(5)).unwrap());
    assert_eq!(read(&named)["summary"], Value::Null);
}

#[test]
fn a_conversation_that_grows_is_told_in_summaries_from_then_on() {
    let database = Database::new();
    let chatd = Chatd::start(&database);
    let alice = Person::register(&chatd, "alice");
    let mut crowd = Crowd::new(&chatd, &alice, NAMED_MAX);
    done(&chatd, crowd.ack(1, 1, 1, 1));
    assert_eq!(crowd.receipts(&database).len(), 1);
    crowd.grow(&chatd, &alice);
    done(&chatd, crowd.ack(1, 1, 2, 2));
    done(&chatd, crowd.ack(NAMED_MAX, 1, 2, 2));
    let last = wait_for("the summary", || {
        let (_, last) = crowd.summaries(&database).pop()?;
        (last.counts.last()?.read_count == 2).then_some(last)
    });
    assert_eq!(counts(&last), [(2, 2, 2)]);
    let (id, newcomer) = (crowd.conversation_id, crowd.members[NAMED_MAX]);
    let gone = format!("/v1/conversations/{id}/members/{newcomer}");
    alice.done(&chatd, "DELETE", &gone, json!({ "idempotency_key": "remove" }));
    done(&chatd, crowd.ack(1, 1, 3, 3));
    assert_eq!(crowd.receipts(&database).last().unwrap().1, NAMED_MAX, "told singly again");
}

#[test]
fn however_many_members_ack_at_however_many_chatds_an_interval_has_one_summary() {
    const MEMBERS: usize = 600;
    let database = Database::new();
    let chatds = [Chatd::start(&database), Chatd::start(&database)];
    let alice = Person::register(&chatds[0], "alice");
    let crowd = Crowd::new(&chatds[0], &alice, NAMED_MAX + 1);
    let began = Instant::now();
    // Each member with two devices, at both chatds at once: it counts once.
    for members in (1..=MEMBERS).collect::<Vec<_>>().chunks(50) {
        let mut pending = Vec::new();
        for member in members {
            for (device, chatd) in (1..).zip(&chatds) {
                pending.push(chatd.submit(crowd.ack(*member, device, 2, 2)));
            }
        }
        for answer in pending {
            answer.recv_timeout(PATIENCE).unwrap().unwrap();
        }
        std::thread::sleep(Duration::from_millis(400));
    }
    let all = u32::try_from(MEMBERS).unwrap();
    wait_for("all are counted", || {
        let (_, last) = crowd.summaries(&database).pop()?;
        (counts(&last) == [(2, all, all)]).then_some(())
    });
    let took = began.elapsed();
    let summaries = crowd.summaries(&database);
    let times: Vec<u64> = summaries.iter().map(|it| it.0).collect();
    let interval_us = u64::try_from(INTERVAL.as_micros()).unwrap();
    assert!(times.windows(2).all(|it| it[1] - it[0] >= interval_us), "{times:?}");
    let most = took.as_secs_f64() / INTERVAL.as_secs_f64() + 2.0;
    assert!(summaries.len() > 1 && summaries.len() as f64 <= most, "{} in {took:?}", times.len());
    let read: Vec<u32> = summaries.iter().map(|it| it.1.counts[0].read_count).collect();
    assert!(read.is_sorted() && BTreeSet::from_iter(&read).len() == read.len(), "{read:?}");
    // Nobody comes further: nothing is told.
    for member in 1..=50 {
        done(&chatds[member % 2], crowd.ack(member, 1, 2, 2));
    }
    std::thread::sleep(INTERVAL + INTERVAL / 2);
    assert_eq!(crowd.summaries(&database).len(), summaries.len());
}

#[test]
fn what_a_chatd_counted_and_did_not_tell_another_one_tells() {
    let database = Database::new();
    let one = Chatd::start(&database);
    let alice = Person::register(&one, "alice");
    let crowd = Crowd::new(&one, &alice, NAMED_MAX + 1);
    done(&one, crowd.ack(1, 1, 1, 1));
    wait_for("the first summary", || crowd.summaries(&database).pop());
    // Within the interval, so that nothing is told of it yet.
    done(&one, crowd.ack(2, 1, 1, 1));
    drop(one);
    assert_eq!(crowd.summaries(&database).len(), 1);
    let _two = Chatd::start(&database);
    let last = wait_for("the second summary", || {
        let summaries = crowd.summaries(&database);
        (summaries.len() == 2).then(|| summaries[1].1.clone())
    });
    assert_eq!(counts(&last), [(1, 2, 2)]);
}
