//! Resumes that the cache of recent events answers, and those that it cannot.

use super::harness::{Client, Gateway, event};
use crate::close::Reason;
use crate::mail::{AskKind, Delivery, Mail, Skipped};
use proto::Uuid;
use proto::client::client_frame::Frame as Up;
use proto::client::server_frame::Frame as Down;
use proto::client::{Cursor, Hello, Synced, Welcome};
use std::sync::Arc;

const A: Uuid = Uuid::from_u128(7);

fn tail(gateway: &Gateway, positions: &[(u16, i64)]) {
    for mailbox in gateway.mailboxes.iter() {
        mailbox
            .send(Mail::Tail { log: 1, positions: positions.into(), skipped: Skipped::Nothing })
            .unwrap();
    }
}

fn welcomed(gateway: &Gateway, user: Uuid, hello: Hello) -> (Client, Welcome) {
    let mut client = Client::connect(gateway, true);
    client.send(3, Up::Hello(Hello { ..hello }));
    let (3, Down::Welcome(welcome)) = client.next() else { panic!("a welcome is awaited") };
    assert_eq!(welcome.user_id, user.as_bytes());
    (client, welcome)
}

fn resuming(gateway: &Gateway, user: Uuid, watermark: &[u8], seen: u64) -> Hello {
    Hello {
        resume: true,
        cursors: vec![Cursor { conversation_id: A.as_bytes().to_vec(), sequence_number: seen }],
        watermark: watermark.to_vec(),
        ..gateway.hello(user)
    }
}

fn synced(client: &mut Client) -> Synced {
    match client.next() {
        (3, Down::Synced(synced)) => synced,
        other => panic!("synced is awaited, {other:?} came"),
    }
}

#[test]
fn a_device_that_was_away_briefly_is_caught_up_without_chatd() {
    let gateway = Gateway::start(2, |_| {});
    let user = proto::id::new();
    let (mut client, before) = welcomed(&gateway, user, gateway.hello(user));
    assert!(before.watermark.is_empty(), "nothing is known yet");
    client.close();
    tail(&gateway, &[(0, 0)]);
    let (mut client, welcome) = welcomed(&gateway, user, gateway.hello(user));
    gateway.deliver(user, event(A, 1));
    assert_eq!(client.next_sequence_number(), 1);
    client.close();
    for number in 2..=5 {
        gateway.deliver(user, event(A, number));
    }
    let hello = resuming(&gateway, user, &welcome.watermark, 1);
    let (mut client, later) = welcomed(&gateway, user, hello);
    for number in 2..=5 {
        assert_eq!(client.next_sequence_number(), number);
    }
    let verdicts = synced(&mut client).verdicts;
    assert_eq!((verdicts.len(), verdicts[0].complete_to_sequence_number), (1, 5));
    assert_eq!(verdicts[0].gap_to_sequence_number, 0);
    gateway.deliver(user, event(A, 6));
    assert_eq!(client.next_sequence_number(), 6);
    client.close();
    // Up to date: nothing but the verdict.
    let (mut client, _) = welcomed(&gateway, user, resuming(&gateway, user, &later.watermark, 6));
    assert_eq!(synced(&mut client).verdicts[0].complete_to_sequence_number, 6);
    let counts = gateway.counts(gateway.mailboxes.home(&user));
    assert_eq!((counts.resumes_from_cache.get(), counts.resumes_from_chatd.get()), (2, 0));
    gateway.stop();
}

#[test]
fn what_the_cache_does_not_know_is_asked_of_chatd() {
    let gateway = Gateway::start(1, |_| {});
    let (user, other) = (proto::id::new(), proto::id::new());
    tail(&gateway, &[(0, 10)]);
    let (_live, welcome) = welcomed(&gateway, other, gateway.hello(other));
    for number in 11..=13 {
        gateway.deliver(other, event(A, number));
    }
    let asks = |hello: Hello| {
        let (client, _) = welcomed(&gateway, user, hello);
        let ask = gateway.next_ask();
        assert!(matches!(ask.kind, AskKind::Sync { resume: true, .. }));
        drop(client);
    };
    // A hole before what the cache has, no watermark, and one that nobody gave.
    let theirs = Delivery { offset: 14, ..gateway.delivery(vec![user], event(A, 14)) };
    gateway.mailboxes.get(0).send(Mail::Deliver(theirs)).unwrap();
    asks(resuming(&gateway, user, &welcome.watermark, 12));
    asks(resuming(&gateway, user, &[], 13));
    asks(resuming(&gateway, user, b"\x01garbage that is none", 13));
    // Events of others are not told, whatever a client says that it has missed.
    let stranger = proto::id::new();
    let hello = resuming(&gateway, stranger, &welcome.watermark, 10);
    let (mut client, _) = welcomed(&gateway, stranger, hello);
    assert_eq!(synced(&mut client).verdicts[0].complete_to_sequence_number, 10);
    gateway.stop();
}

#[test]
fn the_watermark_is_told_with_the_heartbeat_while_it_changes() {
    let gateway = Gateway::start(1, |settings| settings.ping_ms = 400);
    let user = proto::id::new();
    tail(&gateway, &[(0, 0)]);
    let (mut client, welcome) = welcomed(&gateway, user, gateway.hello(user));
    let mut text = Client::greeted(&gateway, user, false);
    gateway.deliver(user, event(A, 1));
    tail(&gateway, &[(0, 2)]);
    assert_eq!(client.next_sequence_number(), 1);
    let (0, Down::Watermark(told)) = client.next() else { panic!("a watermark is awaited") };
    assert!(!told.watermark.is_empty() && told.watermark != welcome.watermark);
    assert_eq!(text.next_sequence_number(), 1);
    let (0, Down::Watermark(same)) = text.next() else { panic!("a watermark is awaited") };
    assert_eq!(same, told);
    // It stays as it is: heartbeats come alone. What the first one left out may still be told.
    let before = client.pings;
    let mut told_again = 0;
    while client.pings < before + 3 {
        match client.socket.read().unwrap() {
            tungstenite::Message::Ping(_) => client.pings += 1,
            _ => told_again += 1,
        }
    }
    assert!(told_again <= 1, "{told_again} watermarks with 3 heartbeats");
    client.close();
    // It is as good as a welcome's.
    gateway.deliver(user, event(A, 2));
    let (mut client, _) = welcomed(&gateway, user, resuming(&gateway, user, &told.watermark, 1));
    assert_eq!(client.next_sequence_number(), 2);
    assert_eq!(synced(&mut client).verdicts[0].complete_to_sequence_number, 2);
    gateway.stop();
}

#[test]
fn sessions_that_may_have_missed_something_are_sent_to_resume_and_chatd_is_asked() {
    let gateway = Gateway::start(2, |_| {});
    let user = proto::id::new();
    tail(&gateway, &[(0, 0)]);
    let (mut client, before) = welcomed(&gateway, user, gateway.hello(user));
    let (log, positions, skipped) = (1, Arc::from([(0, 50)]), Skipped::Unknown);
    for mailbox in gateway.mailboxes.iter() {
        let positions = Arc::clone(&positions);
        mailbox.send(Mail::Tail { log, positions, skipped }).unwrap();
    }
    let (_, Down::Goaway(goaway)) = client.next() else { panic!("a goaway is awaited") };
    assert_eq!(goaway.reason, "events_lost");
    assert_eq!(client.close_code(), Reason::EventsLost.code());
    // What it brings is from before: the cache knows that it does not know.
    let hello = resuming(&gateway, user, &before.watermark, 1);
    let (_client, after) = welcomed(&gateway, user, hello);
    assert_ne!(after.watermark, before.watermark);
    assert!(matches!(gateway.next_ask().kind, AskKind::Sync { resume: true, .. }));
    gateway.stop();
}
