//! Sessions of a gateway that is routed to: they begin once their user is routed.

use super::harness::{Client, Gateway, event};
use crate::close::Reason;
use crate::limits::POLL_MS_MAX;
use crate::mail::{AskKind, Mail, RouteNote};
use proto::Uuid;
use proto::client::client_frame::Frame as Up;
use proto::client::server_frame::Frame as Down;
use proto::client::{Hello, Sync};
use std::time::{Duration, Instant};

const A: Uuid = Uuid::from_u128(7);

fn routed_to(shards: usize) -> Gateway {
    Gateway::start(shards, |settings| {
        settings.is_routed = true;
        settings.recent_bytes_max = 0;
    })
}

/// The next note, which says that the user came: its ticket, and the shard that is to be told.
fn entered(gateway: &Gateway, user: Uuid) -> (u64, u16) {
    match gateway.routes.recv_timeout(Duration::from_secs(60)).unwrap() {
        RouteNote::Enter { user: it, ticket, shard } if it == user => (ticket, shard),
        other => panic!("{user} is awaited, {other:?} came"),
    }
}

fn left(gateway: &Gateway, user: Uuid) {
    let note = gateway.routes.recv_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!(note, RouteNote::Leave { user });
}

fn confirm(gateway: &Gateway, user: Uuid, (ticket, shard): (u64, u16)) {
    gateway.mailboxes.get(shard).send(Mail::Routed(vec![(user, ticket)])).unwrap();
}

fn sessions(gateway: &Gateway) -> u64 {
    let shards = 0..u16::try_from(gateway.mailboxes.len()).unwrap();
    shards.map(|shard| gateway.counts(shard).active_sessions.get()).sum()
}

/// Waits until every shard has gone round at least once.
fn a_while() {
    std::thread::sleep(Duration::from_millis(POLL_MS_MAX / 10));
}

#[test]
fn a_session_begins_once_its_user_is_routed_and_what_was_sent_meanwhile_is_taken_then() {
    // In one of them it is handed over, whichever shard accepts it.
    for shards in [1, 2] {
        let gateway = routed_to(shards);
        for _ in 0..4 {
            let user = proto::id::new();
            let mut client = Client::connect(&gateway, true);
            let hello = Hello { resume: true, ..gateway.hello(user) };
            client.send(1, Up::Hello(hello));
            client.send(2, Up::Sync(Sync { cursors: Vec::new(), limit: 1 }));
            let (ticket, shard) = entered(&gateway, user);
            confirm(&gateway, user, (ticket + 1, shard));
            a_while();
            assert!(sessions(&gateway) == 0 && gateway.no_ask(), "of another entering");
            confirm(&gateway, user, (ticket, shard));
            let (1, Down::Welcome(welcome)) = client.next() else { panic!("no welcome") };
            assert!(welcome.watermark.is_empty());
            assert!(matches!(gateway.next_ask().kind, AskKind::Sync { resume: true, .. }));
            assert!(matches!(gateway.next_ask().kind, AskKind::Sync { resume: false, .. }));
            client.close();
            left(&gateway, user);
            let ended = Instant::now();
            while sessions(&gateway) > 0 {
                assert!(ended.elapsed() < Duration::from_secs(60));
            }
        }
        gateway.stop();
    }
}

#[test]
fn a_user_who_is_routed_waits_for_nothing_and_leaves_with_the_last_session() {
    let gateway = routed_to(1);
    let user = proto::id::new();
    let mut first = Client::connect(&gateway, true);
    first.send(1, Up::Hello(gateway.hello(user)));
    let mut second = Client::connect(&gateway, false);
    second.send(1, Up::Hello(gateway.hello(user)));
    let entering = entered(&gateway, user);
    a_while();
    confirm(&gateway, user, entering);
    for client in [&mut first, &mut second] {
        assert!(matches!(client.next(), (1, Down::Welcome(_))));
    }
    let mut third = Client::greeted(&gateway, user, true);
    gateway.deliver(user, event(A, 1));
    assert_eq!(third.next_sequence_number(), 1);
    first.close();
    third.close();
    a_while();
    assert!(gateway.routes.is_empty(), "one is left");
    second.close();
    left(&gateway, user);
    // It came again: another entering.
    let mut again = Client::connect(&gateway, true);
    again.send(1, Up::Hello(gateway.hello(user)));
    let (ticket, shard) = entered(&gateway, user);
    assert_ne!(ticket, entering.0);
    confirm(&gateway, user, (ticket, shard));
    assert!(matches!(again.next(), (1, Down::Welcome(_))));
    again.close();
    gateway.stop();
}

#[test]
fn who_waits_in_vain_is_closed_in_time() {
    // At home at once, or handed over.
    for shards in [1, 2] {
        let gateway = Gateway::start(shards, |settings| {
            settings.is_routed = true;
            settings.hello_ms = 300;
        });
        for closed in 1..=4 {
            let user = proto::id::new();
            let mut client = Client::connect(&gateway, true);
            client.send(1, Up::Hello(gateway.hello(user)));
            let entering = entered(&gateway, user);
            assert_eq!(client.close_code(), Reason::HelloDeadline.code());
            left(&gateway, user);
            confirm(&gateway, user, entering);
            // It is counted once the client has hung up.
            drop(client);
            let ended = Instant::now();
            while gateway.closes(Reason::HelloDeadline) < closed {
                assert!(ended.elapsed() < Duration::from_secs(60));
            }
        }
        gateway.stop();
    }
}

#[test]
fn who_goes_while_waiting_is_forgotten() {
    let gateway = routed_to(1);
    let user = proto::id::new();
    let mut client = Client::connect(&gateway, true);
    client.send(1, Up::Hello(gateway.hello(user)));
    let entering = entered(&gateway, user);
    gateway.drain();
    left(&gateway, user);
    confirm(&gateway, user, entering);
    gateway.stop();
}
