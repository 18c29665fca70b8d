//! Slow sessions where `ring.overflow` is `gap`, and what is given up first.

use super::harness::{Client, Gateway, big_event, event, frame_bytes};
use crate::close::Reason;
use crate::config::Overflow;
use crate::limits::GAPS_MAX;
use crate::mail::{Asked, Delivery, Mail, Missed, Priority, Recipients};
use proto::Uuid;
use proto::client::client_frame::Frame as Up;
use proto::client::server_frame::Frame as Down;
use proto::client::{
    Event, Hello, ReceiptCount, ReceiptSummary, Sync, SyncPage, TypingChanged, event::Kind,
};
use proto::link::SyncResult;
use proto::link::response::Response;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const A: Uuid = Uuid::from_u128(7);
const B: Uuid = Uuid::from_u128(8);
/// A queue that did not change for so long is behind a socket that is full.
const STUCK: Duration = Duration::from_millis(300);

fn deliver(gateway: &Gateway, user: Uuid, event: Event, priority: Priority) {
    let delivery = Delivery { priority, ..gateway.delivery(vec![user], event) };
    gateway.mailboxes.get(0).send(Mail::Deliver(delivery)).unwrap();
}

/// Events that no reader takes, until the socket is full.
fn fill_socket(gateway: &Gateway, user: Uuid) -> u64 {
    for number in 1..=20 {
        let frame = frame_bytes(Event { sequence_number: number, ..big_event(60_000) });
        let delivery = Delivery { frame, ..gateway.delivery(vec![user], event(A, number)) };
        gateway.mailboxes.get(0).send(Mail::Deliver(delivery)).unwrap();
    }
    // What is left once nothing moves any more is what the socket did not take.
    let mut before = (0, Instant::now());
    while before.0 == 0 || before.1.elapsed() < STUCK {
        let depth = gateway.counts(0).send_queue_depth.get();
        if depth != before.0 {
            before = (depth, Instant::now());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    20
}

#[test]
fn a_slow_reader_is_told_of_its_gap_and_stays() {
    let gateway = Gateway::start(1, |settings| {
        settings.ring_entries = 16;
        settings.overflow = Overflow::Gap;
    });
    let user = proto::id::new();
    let mut client = Client::greeted(&gateway, user, true);
    let mut last = 400;
    for number in 1..=last {
        let frame = frame_bytes(Event { sequence_number: number, ..big_event(60_000) });
        let delivery = Delivery { frame, ..gateway.delivery(vec![user], event(A, number)) };
        gateway.mailboxes.get(0).send(Mail::Deliver(delivery)).unwrap();
    }
    while gateway.counts(0).rings_shed.get() == 0 {
        std::thread::yield_now();
    }
    let (mut seen, mut gaps) = (BTreeSet::new(), Vec::new());
    let mut newest = 0;
    while newest < last {
        match client.next() {
            (0, Down::Event(event)) => {
                assert!(event.sequence_number > newest, "{} again", event.sequence_number);
                newest = event.sequence_number;
                seen.insert(newest);
            }
            (0, Down::Gap(gap)) => {
                assert_eq!(gap.conversation_id, A.as_bytes());
                assert_eq!(gap.reason, Reason::BackpressureOverflow.text());
                assert!(gap.from_sequence_number > newest);
                newest = gap.to_sequence_number;
                gaps.push(gap.from_sequence_number..=gap.to_sequence_number);
            }
            other => panic!("{other:?} came"),
        }
    }
    let told = |number| seen.contains(&number) || gaps.iter().any(|gap| gap.contains(&number));
    assert!((1..=last).all(told) && !gaps.is_empty(), "{seen:?} {gaps:?}");
    last += 1;
    gateway.deliver(user, event(A, last));
    assert_eq!(client.next_sequence_number(), last);
    assert_eq!(gateway.closes(Reason::BackpressureOverflow), 0);
    gateway.stop();
}

/// Rings of 64 payloads, of which logs are thrown away.
fn gapping() -> Gateway {
    Gateway::start(1, |settings| {
        settings.ring_entries = 64;
        settings.ring_bytes_max = 1 << 24;
        settings.overflow = Overflow::Gap;
    })
}

#[test]
fn high_priority_is_shed_last() {
    let gateway = gapping();
    let user = proto::id::new();
    let mut client = Client::greeted(&gateway, user, true);
    let filled = fill_socket(&gateway, user);
    for number in 1..=3 {
        deliver(&gateway, user, event(B, number), Priority::High);
    }
    for number in filled + 1..=filled + 100 {
        deliver(&gateway, user, event(A, number), Priority::Normal);
    }
    let (mut high, mut gap_to) = (Vec::new(), 0);
    while gap_to < filled + 100 {
        match client.next() {
            (0, Down::Event(event)) if event.conversation_id == B.as_bytes() => {
                high.push(event.sequence_number);
            }
            (0, Down::Event(_)) => {}
            (0, Down::Gap(gap)) => gap_to = gap.to_sequence_number,
            other => panic!("{other:?} came"),
        }
    }
    assert_eq!(high, [1, 2, 3]);
    gateway.stop();
}

#[test]
fn a_ring_full_of_what_cannot_be_synced_closes_all_the_same() {
    let gateway = gapping();
    let user = proto::id::new();
    let mut client = Client::greeted(&gateway, user, true);
    fill_socket(&gateway, user);
    for _ in 0..100 {
        deliver(&gateway, user, event(A, 0), Priority::Normal);
    }
    assert_eq!(client.close_code(), Some(4008));
    gateway.stop();
}

/// Events for a session that reads none of them: whether it was closed for that.
fn is_closed_with(payload_bytes_max: usize) -> bool {
    let gateway = Gateway::start(1, |settings| {
        settings.ring_entries = 4_096;
        settings.ring_bytes_max = 64 << 20;
        settings.payload_bytes_max = payload_bytes_max;
    });
    let (slow, brisk) = (proto::id::new(), proto::id::new());
    let _slow = Client::greeted(&gateway, slow, true);
    let mut client = Client::greeted(&gateway, brisk, true);
    for number in 1..=400 {
        let frame = frame_bytes(Event { sequence_number: number, ..big_event(60_000) });
        let delivery = Delivery { frame, ..gateway.delivery(vec![slow], event(A, number)) };
        gateway.mailboxes.get(0).send(Mail::Deliver(delivery)).unwrap();
    }
    deliver(&gateway, brisk, event(B, 1), Priority::Normal);
    let (_, frame) = client.next();
    assert!(matches!(frame, Down::Event(event) if event.sequence_number == 1), "harmed nobody");
    gateway.counts(0).events_overflowed.get() > 0
}

#[test]
fn who_has_a_backlog_is_too_slow_once_all_backlogs_together_are_too_much() {
    assert!(!is_closed_with(64 << 20));
    assert!(is_closed_with(8 << 20));
}

fn typing(sender: u8, active: bool) -> Event {
    let kind = Some(Kind::TypingChanged(TypingChanged { active }));
    Event { kind, sender_id: vec![sender; 16], ..event(A, 0) }
}

fn summary(conversation: Uuid, read_count: u32) -> Event {
    let counts = vec![ReceiptCount { sequence_number: 9, delivered_count: 0, read_count }];
    let kind = Some(Kind::ReceiptSummary(ReceiptSummary { counts, member_count: 2_000 }));
    Event { kind, sender_id: Vec::new(), ..event(conversation, 0) }
}

#[test]
fn of_receipt_summaries_a_slow_reader_gets_each_conversations_last() {
    let gateway = Gateway::start(1, |settings| settings.ring_bytes_max = 1 << 24);
    let user = proto::id::new();
    let mut client = Client::greeted(&gateway, user, true);
    let filled = fill_socket(&gateway, user);
    for count in 1..=50 {
        deliver(&gateway, user, summary(A, count), Priority::Ephemeral);
        deliver(&gateway, user, summary(B, count + 100), Priority::Ephemeral);
    }
    deliver(&gateway, user, event(A, filled + 1), Priority::Normal);
    let mut told = Vec::new();
    loop {
        let (0, Down::Event(event)) = client.next() else { panic!("an event is awaited") };
        match event.kind {
            Some(Kind::ReceiptSummary(summary)) => told.push(summary.counts[0].read_count),
            _ if event.sequence_number > filled => break,
            _ => {}
        }
    }
    assert_eq!(told, [50, 150]);
    assert_eq!(gateway.counts(0).events_coalesced.get(), 98);
    gateway.stop();
}

#[test]
fn of_ephemeral_events_about_the_same_a_slow_reader_gets_the_last() {
    let gateway = Gateway::start(1, |settings| settings.ring_bytes_max = 1 << 24);
    let user = proto::id::new();
    let mut client = Client::greeted(&gateway, user, true);
    let filled = fill_socket(&gateway, user);
    for round in 0..50 {
        deliver(&gateway, user, typing(1, round % 2 == 0), Priority::Ephemeral);
    }
    deliver(&gateway, user, typing(2, true), Priority::Ephemeral);
    deliver(&gateway, user, event(A, filled + 1), Priority::Normal);
    let mut notices = Vec::new();
    loop {
        let (0, Down::Event(event)) = client.next() else { panic!("an event is awaited") };
        match event.kind {
            Some(Kind::TypingChanged(typing)) => notices.push((event.sender_id[0], typing.active)),
            _ if event.sequence_number > filled => break,
            _ => {}
        }
    }
    assert_eq!(notices, [(1, false), (2, true)]);
    assert_eq!(gateway.counts(0).events_coalesced.get(), 49);
    gateway.stop();
}

#[test]
fn so_many_gaps_wait_for_a_slow_reader_and_one_more_closes_it() {
    let gateway = gapping();
    let read_gaps = |gaps: usize| {
        let user = proto::id::new();
        let mut client = Client::greeted(&gateway, user, true);
        fill_socket(&gateway, user);
        for conversation in 0..gaps {
            let missed = Missed {
                recipients: Recipients::Own(vec![user].into()),
                conversation: Uuid::from_u128(conversation as u128 + 1_000),
                from: 1,
                to: 2,
            };
            gateway.mailboxes.get(0).send(Mail::Missed(missed)).unwrap();
        }
        // The census is answered behind all these letters.
        gateway.allocations();
        if gaps > GAPS_MAX {
            assert_eq!(client.close_code(), Some(4008));
            return;
        }
        let mut told = BTreeSet::new();
        while told.len() < gaps {
            if let (0, Down::Gap(gap)) = client.next() {
                assert!(told.insert(gap.conversation_id));
            }
        }
    };
    read_gaps(GAPS_MAX);
    read_gaps(GAPS_MAX + 1);
    gateway.stop();
}

/// Asks for a page of one event, and answers.
fn sync(gateway: &Gateway, client: &mut Client, text_bytes: usize) {
    client.send(5, Up::Sync(Sync::default()));
    let page = SyncPage { conversation_id: vec![7; 16], events: vec![big_event(text_bytes)] };
    let result = SyncResult { pages: vec![page], verdicts: vec![] };
    gateway.answer(&gateway.next_ask(), Asked::Sync, Ok(Response::Sync(result)));
}

#[test]
fn while_too_much_waits_for_slow_readers_nobody_else_catches_up() {
    let gateway = Gateway::start(1, |settings| {
        settings.ring_entries = 64;
        settings.ring_bytes_max = 1 << 24;
        settings.backlog_bytes_max = 100_000;
    });
    let users = [proto::id::new(), proto::id::new()];
    let [mut slow, mut other] = users.map(|user| Client::greeted(&gateway, user, true));
    fill_socket(&gateway, users[0]);
    // What is there does not yet reach the limit, and then does.
    for _ in 0..2 {
        sync(&gateway, &mut slow, 60_000);
    }
    sync(&gateway, &mut other, 10);
    let (5, Down::Error(error)) = other.next() else { panic!("an error is awaited") };
    assert!(error.code == "overloaded" && error.retryable, "{error:?}");
    let mut third = Client::connect(&gateway, true);
    third.send(1, Up::Hello(Hello { resume: true, ..gateway.hello(users[1]) }));
    let refused = [third.next(), third.next()];
    let is_refused =
        |it: &(u64, Down)| matches!(it, (1, Down::Error(error)) if error.code == "overloaded");
    assert!(refused.iter().any(is_refused), "{refused:?}");
    let mut pages = 0;
    while pages < 2 {
        pages += usize::from(matches!(slow.next(), (5, Down::SyncPage(_))));
    }
    sync(&gateway, &mut other, 10);
    assert!(matches!(other.next(), (5, Down::SyncPage(_))));
    gateway.stop();
}
