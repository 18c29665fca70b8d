//! Shards with real sockets and a stand-in for everything behind them.

#![allow(clippy::disallowed_methods, reason = "the tests' own clock")]

mod allocations;
mod cache;
mod deadlines;
mod deflate;
mod events;
mod harness;
mod hostile;
mod instructions;
mod limits;
mod routes;
mod simulation;
mod slow;
mod tls;

use crate::close::Reason;
use crate::mail::{Answer, AskKind, Asked, Delivery, Mail};
use crate::metrics::{Cell, Lane, Lanes};
use harness::{Client, Gateway, event, read_to_end};
use proto::Uuid;
use proto::client::client_frame::Frame as Up;
use proto::client::server_frame::Frame as Down;
use proto::client::{self, Cursor, Hello, SyncPage, Verdict};
use proto::link::response::Response;
use proto::link::{HttpResult, PresenceAuthorizeResult, PresenceQueryResult, SyncResult};
use std::io::Write;
use std::time::{Duration, Instant};

#[test]
fn a_session_is_welcomed_in_its_home_shard_and_gets_its_events_in_order() {
    let gateway = Gateway::start(3, |settings| settings.ring_entries = 1_000);
    for binary in [true, false] {
        let user = proto::id::new();
        let mut client = Client::greeted(&gateway, user, binary);
        for number in 1..=500 {
            gateway.deliver(user, event(Uuid::from_u128(7), number));
        }
        for number in 1..=500 {
            assert_eq!(client.next_sequence_number(), number);
        }
        client.close();
    }
    gateway.stop();
}

#[test]
fn two_devices_of_one_user_both_get_an_event_and_others_do_not() {
    let gateway = Gateway::start(2, |_| {});
    let (user, other) = (proto::id::new(), proto::id::new());
    let mut devices =
        [Client::greeted(&gateway, user, true), Client::greeted(&gateway, user, false)];
    let mut stranger = Client::greeted(&gateway, other, true);
    gateway.deliver(user, event(Uuid::from_u128(7), 1));
    for device in &mut devices {
        assert_eq!(device.next_sequence_number(), 1);
    }
    gateway.deliver(other, event(Uuid::from_u128(7), 2));
    assert_eq!(stranger.next_sequence_number(), 2);
    gateway.stop();
}

#[test]
fn a_send_is_asked_and_its_answer_comes_back_with_its_request_id() {
    let gateway = Gateway::start(2, |_| {});
    let mut client = Client::greeted(&gateway, proto::id::new(), true);
    let send = client::Send {
        conversation_id: vec![7; 16],
        idempotency_key: "k".into(),
        text: "hi".into(),
    };
    client.send(41, Up::Send(send.clone()));
    let ask = gateway.next_ask();
    assert_eq!(ask.traceparent.len(), 55);
    assert!(matches!(&ask.kind, AskKind::Send(asked) if *asked == send));
    let sent = client::Sent { sequence_number: 9, ..client::Sent::default() };
    gateway.answer(&ask, Asked::Send, Ok(Response::Sent(sent)));
    let (request_id, frame) = client.next();
    assert!(request_id == 41 && matches!(frame, Down::Sent(sent) if sent.sequence_number == 9));
    client.send(42, Up::Send(client::Send { idempotency_key: String::new(), ..send }));
    let (request_id, frame) = client.next();
    assert!(request_id == 42);
    assert!(matches!(frame, Down::Error(error) if error.code == "idempotency_key_missing"));
    gateway.stop();
}

#[test]
fn a_resume_is_pages_then_what_came_meanwhile_then_verdicts() {
    let gateway = Gateway::start(2, |_| {});
    let (user, conversation) = (proto::id::new(), Uuid::from_u128(5));
    let conversation_id = conversation.as_bytes().to_vec();
    let cursors = vec![Cursor { conversation_id: conversation_id.clone(), sequence_number: 10 }];
    let mut client = Client::connect(&gateway, true);
    client.send(1, Up::Hello(Hello { resume: true, cursors, ..gateway.hello(user) }));
    assert!(matches!(client.next(), (1, Down::Welcome(_))));
    let ask = gateway.next_ask();
    assert!(matches!(&ask.kind, AskKind::Sync { resume: true, cursors, .. } if cursors.len() == 1));
    for number in [12, 13] {
        gateway.deliver(user, event(conversation, number));
    }
    let pages =
        (0..600).map(|_| SyncPage { conversation_id: conversation_id.clone(), events: vec![] });
    let verdict = Verdict {
        conversation_id: conversation_id.clone(),
        complete_to_sequence_number: 12,
        ..Verdict::default()
    };
    let result = SyncResult { pages: pages.collect(), verdicts: vec![verdict] };
    gateway.answer(&ask, Asked::Resume, Ok(Response::Sync(result)));
    for _ in 0..600 {
        assert!(matches!(client.next(), (1, Down::SyncPage(_))));
    }
    assert_eq!(client.next_sequence_number(), 13);
    let (request_id, Down::Synced(synced)) = client.next() else { panic!("synced is awaited") };
    assert_eq!((request_id, synced.verdicts[0].complete_to_sequence_number), (1, 13));
    gateway.deliver(user, event(conversation, 14));
    assert_eq!(client.next_sequence_number(), 14);
    gateway.stop();
}

#[test]
fn a_resume_that_fails_says_so_and_the_session_is_live() {
    let gateway = Gateway::start(1, |_| {});
    let user = proto::id::new();
    let mut client = Client::connect(&gateway, false);
    client.send(8, Up::Hello(Hello { resume: true, ..gateway.hello(user) }));
    assert!(matches!(client.next(), (8, Down::Welcome(_))));
    let ask = gateway.next_ask();
    gateway.deliver(user, event(Uuid::from_u128(5), 3));
    let error = proto::error::ErrorCode::Unavailable.to_frame("chatd is away");
    gateway.answer(&ask, Asked::Resume, Err(error));
    let (8, Down::Error(error)) = client.next() else { panic!("an error is awaited") };
    assert!(error.retryable);
    assert_eq!(client.next_sequence_number(), 3);
    gateway.stop();
}

#[test]
fn presence_is_told_to_those_who_may_watch() {
    let gateway = Gateway::start(2, |_| {});
    let (user, friend, stranger) = (proto::id::new(), proto::id::new(), proto::id::new());
    let mut client = Client::greeted(&gateway, user, true);
    let user_ids = [friend, stranger].map(|it| it.as_bytes().to_vec()).to_vec();
    client.send(5, Up::PresenceSubscribe(client::PresenceSubscribe { user_ids }));
    let ask = gateway.next_ask();
    assert!(matches!(&ask.kind, AskKind::PresenceAuthorize(users) if users.len() == 2));
    let user_ids = friend.as_bytes().to_vec();
    let allowed = PresenceAuthorizeResult { user_ids: user_ids.clone() };
    gateway.answer(&ask, Asked::PresenceAuthorize, Ok(Response::PresenceAuthorize(allowed)));
    let ask = gateway.next_ask();
    assert!(matches!(&ask.kind, AskKind::PresenceQuery(users) if *users == [friend]));
    let states =
        vec![client::PresenceChanged { user_id: user_ids, online: true, last_seen_at_us: 0 }];
    let result = PresenceQueryResult { states, ..Default::default() };
    gateway.answer(&ask, Asked::PresenceQuery, Ok(Response::PresenceQuery(result)));
    assert!(matches!(client.next(), (5, Down::Event(_))));
    let mailbox = gateway.mailboxes.get(ask.session.shard);
    for who in [stranger, friend] {
        let frame = harness::frame_bytes(event(Uuid::nil(), if who == friend { 77 } else { 66 }));
        mailbox.send(Mail::Presence { user: who, frame }).unwrap();
    }
    assert_eq!(client.next_sequence_number(), 77);
    gateway.stop();
}

#[test]
fn whoever_watches_is_told_anew_once_presenced_forgot_and_the_client_hears_of_no_failure() {
    let gateway = Gateway::start(1, |_| {});
    let friend = proto::id::new();
    let mut client = Client::greeted(&gateway, proto::id::new(), true);
    let _other = Client::greeted(&gateway, proto::id::new(), true);
    let user_ids = vec![friend.as_bytes().to_vec()];
    client.send(5, Up::PresenceSubscribe(client::PresenceSubscribe { user_ids }));
    let ask = gateway.next_ask();
    let allowed = PresenceAuthorizeResult { user_ids: friend.as_bytes().to_vec() };
    gateway.answer(&ask, Asked::PresenceAuthorize, Ok(Response::PresenceAuthorize(allowed)));
    let state = |online| client::PresenceChanged {
        user_id: friend.as_bytes().to_vec(),
        online,
        last_seen_at_us: 1,
    };
    let result = |online| {
        let result = PresenceQueryResult { states: vec![state(online)], ..Default::default() };
        Ok(Response::PresenceQuery(result))
    };
    gateway.answer(&gateway.next_ask(), Asked::PresenceQuery, result(true));
    assert!(matches!(client.next(), (5, Down::Event(_))));
    let forgotten = || gateway.mailboxes.get(0).send(Mail::PresenceForgotten).unwrap();
    forgotten();
    let ask = gateway.next_ask();
    assert!(matches!(&ask.kind, AskKind::PresenceRefresh(users) if *users == [friend]));
    let error = proto::error::ErrorCode::Unavailable.to_frame("presenced is away");
    gateway.answer(&ask, Asked::PresenceRefresh, Err(error));
    forgotten();
    gateway.answer(&gateway.next_ask(), Asked::PresenceRefresh, result(false));
    let (0, Down::Event(event)) = client.next() else { panic!("an event is awaited") };
    assert_eq!(event.kind, Some(client::event::Kind::PresenceChanged(state(false))));
    assert!(gateway.no_ask(), "nobody else watches");
    gateway.stop();
}

#[test]
fn a_reader_that_is_too_slow_is_closed_with_4008_and_others_are_not() {
    let gateway = Gateway::start(1, |settings| settings.ring_entries = 16);
    let (slow, fast) = (proto::id::new(), proto::id::new());
    let mut slow_client = Client::greeted(&gateway, slow, true);
    let mut fast_client = Client::greeted(&gateway, fast, true);
    let big = harness::big_event(60_000);
    for number in 1..=400 {
        let frame = harness::frame_bytes(big.clone());
        let delivery =
            Delivery { frame, ..gateway.delivery(vec![slow], event(Uuid::from_u128(7), number)) };
        gateway.mailboxes.get(0).send(Mail::Deliver(delivery)).unwrap();
        gateway.deliver(fast, event(Uuid::from_u128(7), number));
        assert_eq!(fast_client.next_sequence_number(), number);
    }
    assert_eq!(slow_client.close_code(), Some(4008));
    drop(slow_client);
    while gateway.connections() > 1 {
        std::thread::yield_now();
    }
    assert_eq!(gateway.closes(Reason::BackpressureOverflow), 1);
    gateway.stop();
}

#[test]
fn heartbeats_close_a_session_that_does_not_answer() {
    let gateway = Gateway::start(1, |settings| {
        settings.ping_ms = 100;
        settings.pong_ms = 200;
    });
    let alive = proto::id::new();
    let mut answering = Client::greeted(&gateway, alive, true);
    let mut silent = Client::greeted(&gateway, proto::id::new(), true);
    let started = Instant::now();
    // tungstenite answers pings while it reads; the other client reads nothing until later.
    while started.elapsed() < Duration::from_millis(600) {
        gateway.deliver(alive, event(Uuid::from_u128(7), 1));
        assert_eq!(answering.next_sequence_number(), 1);
    }
    assert_eq!(silent.close_code(), Some(4009));
    gateway.stop();
}

#[test]
fn tokens_are_checked_at_hello_in_mid_session_and_at_a_refresh() {
    let gateway = Gateway::start(2, |settings| settings.hello_ms = 200);
    let user = proto::id::new();
    for (hello, code, close) in [
        (Hello::default(), "token_missing", 4001),
        (Hello { token: "no.such.token".into(), ..Hello::default() }, "token_invalid", 4001),
        (Hello { token: gateway.token(user, -5), ..Hello::default() }, "token_expired", 4002),
    ] {
        let mut client = Client::connect(&gateway, true);
        client.send(3, Up::Hello(hello));
        assert!(matches!(client.next(), (3, Down::Error(error)) if error.code == code));
        assert_eq!(client.close_code(), Some(close));
    }
    assert_eq!(Client::connect(&gateway, true).close_code(), Some(4003));
    let mut client = Client::connect(&gateway, false);
    client.send(1, Up::Hello(Hello { token: gateway.token(user, 2), ..Hello::default() }));
    assert!(matches!(client.next(), (1, Down::Welcome(_))));
    let other = client::TokenRefresh { token: gateway.token(proto::id::new(), 60) };
    client.send(2, Up::TokenRefresh(other));
    assert!(matches!(client.next(), (2, Down::Error(error)) if error.code == "token_invalid"));
    assert!(matches!(client.next(), (0, Down::Error(error)) if error.code == "token_expired"));
    assert_eq!(client.close_code(), Some(4002));
    let mut client = Client::greeted(&gateway, user, true);
    client.send(2, Up::TokenRefresh(client::TokenRefresh { token: gateway.token(user, 600) }));
    assert!(matches!(client.next(), (2, Down::TokenAccepted(_))));
    gateway.stop();
}

#[test]
fn api_requests_are_passed_on_and_answered_in_order() {
    let gateway = Gateway::start(1, |_| {});
    let mut stream = gateway.stream();
    let requests = "POST /v1/a HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhiGET /v1/b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    stream.write_all(requests.as_bytes()).unwrap();
    for (target, body) in [("/v1/a", "first"), ("/v1/b", "second")] {
        let ask = gateway.next_ask();
        assert!(
            matches!(&ask.kind, AskKind::Http(http) if http.target == target && http.client_ip == "127.0.0.1")
        );
        let result = HttpResult { status: 200, headers: vec![], body: body.into() };
        gateway.answer(&ask, Asked::Http, Ok(Response::Http(result)));
    }
    let text = read_to_end(&mut stream);
    let (first, second) = (text.find("first").unwrap(), text.find("second").unwrap());
    assert!(first < second && text.matches("HTTP/1.1 200 OK").count() == 2, "{text}");
    gateway.stop();
}

#[test]
fn hostile_bytes_are_answered_as_the_security_table_says() {
    let gateway = Gateway::start(1, |settings| settings.handshake_ms = 300);
    let head = |more: &str| format!("GET /v1/connect HTTP/1.1\r\nHost: h\r\n{more}\r\n");
    for (request, status) in [
        (head(&format!("a: {}\r\n", "b".repeat(9_000))), "431"),
        (head(&"a: b\r\n".repeat(64)), "431"),
        (head("Transfer-Encoding: chunked\r\n"), "411"),
        (harness::upgrade_request("Origin: http://evil.example\r\n"), "403"),
        (head(""), "426"),
        ("GET /nothing HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".to_owned(), "404"),
        ("DELETE /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".to_owned(), "405"),
    ] {
        let mut stream = gateway.stream();
        stream.write_all(request.as_bytes()).unwrap();
        let text = read_to_end(&mut stream);
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {text}");
    }
    let started = Instant::now();
    let mut slow = gateway.stream();
    slow.write_all(b"GET / HTTP/1.1\r\nHo").unwrap();
    assert_eq!(read_to_end(&mut slow), "");
    assert!(started.elapsed() < Duration::from_secs(2));
    for (bytes, code) in [
        (&[0x81, 2, b'h', b'i'][..], 1002_u16),
        (&[0xc1, 0x80, 0, 0, 0, 0], 1002),
        (&[0x83, 0x80, 0, 0, 0, 0], 1002),
        (&[0x89, 0xfe, 0, 126, 0, 0, 0, 0], 1002),
        (&[0x81, 0x85, 0, 0, 0, 0, 0xff], 1007),
        (&[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 1009),
        (&[0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0], 1009),
        (&[0x82, 0x80, 0, 0, 0, 0], 1003),
    ] {
        let mut stream = gateway.stream();
        stream.write_all(harness::upgrade_request("").as_bytes()).unwrap();
        stream.write_all(bytes).unwrap();
        let answer = harness::read_bytes(&mut stream);
        let end = answer.windows(4).position(|it| it == b"\r\n\r\n").unwrap() + 4;
        let close = &answer[end..];
        assert_eq!(close[0], 0x88, "{bytes:x?}");
        assert_eq!(u16::from_be_bytes([close[2], close[3]]), code, "{bytes:x?}");
    }
    gateway.stop();
}

#[test]
fn draining_says_goaway_answers_what_is_under_way_and_ends() {
    let gateway = Gateway::start(2, |_| {});
    let mut idle = Client::greeted(&gateway, proto::id::new(), true);
    let mut busy = Client::greeted(&gateway, proto::id::new(), true);
    busy.send(4, Up::Ack(client::Ack { conversation_id: vec![1; 16], ..client::Ack::default() }));
    let ask = gateway.next_ask();
    gateway.drain();
    for client in [&mut idle, &mut busy] {
        assert!(matches!(client.next(), (0, Down::Goaway(_))));
    }
    assert_eq!(idle.close_code(), Some(1012));
    gateway.answer(&ask, Asked::Ack, Ok(Response::Accepted(client::Accepted {})));
    assert!(matches!(busy.next(), (4, Down::Accepted(_))));
    assert_eq!(busy.close_code(), Some(1012));
    gateway.stop();
}

/// As clients come back when they were told to, their delays are their arrivals.
#[test]
fn a_gateway_that_drains_sends_its_clients_back_spread_over_the_time() {
    const CLIENTS: usize = 200;
    const TENTHS: usize = 10;
    let gateway = Gateway::start(2, |settings| settings.drain_ms = 10_000);
    let greeted = |_| Client::greeted(&gateway, proto::id::new(), true);
    let mut clients: Vec<_> = (0..CLIENTS).map(greeted).collect();
    gateway.drain();
    let mut arrivals = [0; TENTHS];
    for client in &mut clients {
        let (0, Down::Goaway(goaway)) = client.next() else { panic!("a goaway is awaited") };
        let tenth = goaway.reconnect_delay_ms as usize * TENTHS / 10_001;
        arrivals[tenth] += 1;
    }
    // 20 are expected in each; a burst would be all in one.
    assert!(arrivals.iter().all(|it| (3..=60).contains(it)), "{arrivals:?}");
    gateway.stop();
}

#[test]
fn one_connection_too_many_is_answered_503() {
    let gateway = Gateway::start(1, |settings| settings.sessions_max = 2);
    let _first = Client::greeted(&gateway, proto::id::new(), true);
    let _second = Client::greeted(&gateway, proto::id::new(), true);
    let text = read_to_end(&mut gateway.stream());
    assert!(text.starts_with("HTTP/1.1 503 "), "{text}");
    gateway.stop();
}

#[test]
fn presence_hears_of_every_beginning_and_end() {
    let gateway = Gateway::start(2, |_| {});
    let user = proto::id::new();
    let mut client = Client::greeted(&gateway, user, true);
    let connected = gateway.next_change();
    assert!(connected.0 && connected.1 == user);
    client.close();
    let disconnected = gateway.next_change();
    assert_eq!(disconnected, (false, user, connected.2));
    gateway.stop();
}

/// The answer to a request of a session that has ended goes nowhere.
#[test]
fn an_answer_for_a_slot_that_was_used_again_is_dropped() {
    let gateway = Gateway::start(1, |_| {});
    let mut first = Client::greeted(&gateway, proto::id::new(), true);
    first.send(4, Up::Ack(client::Ack { conversation_id: vec![1; 16], ..client::Ack::default() }));
    let ask = gateway.next_ask();
    first.close();
    while gateway.connections() > 0 {
        std::thread::yield_now();
    }
    let user = proto::id::new();
    let mut second = Client::greeted(&gateway, user, true);
    let outcome = Ok(Response::Accepted(client::Accepted {}));
    let answer = Answer { session: ask.session, request_id: 4, asked: Asked::Ack, outcome };
    gateway.mailboxes.get(0).send(Mail::Answer(answer)).unwrap();
    gateway.deliver(user, event(Uuid::from_u128(7), 1));
    assert_eq!(second.next_sequence_number(), 1);
    gateway.stop();
}

#[test]
fn what_becomes_of_an_event_is_counted_by_its_partition() {
    let gateway = Gateway::start(1, |_| {});
    let (here, away) = (proto::id::new(), proto::id::new());
    let mut client = Client::greeted(&gateway, here, true);
    let lanes = Lanes::default();
    let [first, second] = [1, 2].map(|partition| lanes.of("t", partition));
    for (number, lane) in [(1, first), (2, second), (3, second)] {
        let event = event(Uuid::from_u128(7), number);
        let delivery = Delivery { lane, ..gateway.delivery(vec![here, away], event) };
        gateway.mailboxes.get(0).send(Mail::Deliver(delivery)).unwrap();
        assert_eq!(client.next_sequence_number(), number);
    }
    let shard = gateway.counts(0);
    let counts = |lane| {
        let it = shard.lane(lane);
        [&it.reached, &it.no_session, &it.enqueued, &it.written].map(Cell::get)
    };
    let started = Instant::now();
    // It is counted as written once the client may have it already.
    while counts(second)[3] < 2 {
        assert!(started.elapsed() < Duration::from_secs(10));
    }
    assert_eq!((counts(first), counts(second)), ([1; 4], [2; 4]));
    assert_eq!(counts(Lane::NONE), [0; 4]);
    gateway.stop();
}
