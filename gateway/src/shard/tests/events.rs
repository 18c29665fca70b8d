//! Server-sent events with real sockets.

use super::harness::{Gateway, big_event, event, frame_bytes, read_to_end};
use crate::close::Reason;
use crate::mail::{Ask, AskKind, Asked, Delivery, Mail};
use proto::Uuid;
use proto::client::{Cursor, SyncPage, Verdict};
use proto::link::SyncResult;
use proto::link::response::Response;
use rustls::version::TLS13;
use std::io::{BufRead, BufReader, Read, Write};
use std::time::{Duration, Instant};

const CHAT: Uuid = Uuid::from_u128(5);

/// A stream, read block by block.
struct Stream<S> {
    reader: BufReader<S>,
    /// The last id that came.
    id: String,
}

impl<S: Read + Write> Stream<S> {
    fn open(mut stream: S, gateway: &Gateway, user: Uuid, id: Option<&str>) -> Self {
        let id = id.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
        let token = gateway.token(user, 600);
        let request = format!(
            "GET /v1/events HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n{id}\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut stream = Self { reader: BufReader::new(stream), id: String::new() };
        let head = stream.block();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains("content-type: text/event-stream\r\n"), "{head}");
        assert!(stream.block().contains("\"welcome\":"));
        stream
    }

    /// The next block, up to its empty line.
    fn block(&mut self) -> String {
        let mut text = String::new();
        loop {
            let before = text.len();
            assert!(self.reader.read_line(&mut text).unwrap() > 0, "the end came after {text:?}");
            if let Some(id) = text[before..].strip_prefix("id: ") {
                id.trim().clone_into(&mut self.id);
            }
            if matches!(&text[before..], "\n" | "\r\n") {
                return text;
            }
        }
    }

    fn json(&mut self) -> serde_json::Value {
        let block = self.block();
        let data = block.lines().find_map(|line| line.strip_prefix("data: "));
        serde_json::from_str(data.unwrap_or_else(|| panic!("no data in {block:?}"))).unwrap()
    }

    fn sequence_number(&mut self) -> u64 {
        let json = self.json();
        json["event"]["sequence_number"].as_u64().unwrap_or_else(|| panic!("{json}"))
    }
}

fn asked(gateway: &Gateway) -> (Ask, Vec<Cursor>, u32) {
    let ask = gateway.next_ask();
    match &ask.kind {
        AskKind::Sync { resume: true, cursors, limit } => {
            let (cursors, limit) = (cursors.clone(), *limit);
            (ask, cursors, limit)
        }
        _ => panic!("a resume is awaited"),
    }
}

fn answer(gateway: &Gateway, ask: &Ask, events: &[u64], verdict: (u64, u64, u64)) {
    let conversation_id = CHAT.as_bytes().to_vec();
    let events = events.iter().map(|number| event(CHAT, *number)).collect();
    let pages = vec![SyncPage { conversation_id: conversation_id.clone(), events }];
    let (complete_to_sequence_number, gap_from_sequence_number, gap_to_sequence_number) = verdict;
    let verdict = Verdict {
        conversation_id,
        complete_to_sequence_number,
        gap_from_sequence_number,
        gap_to_sequence_number,
        reset: false,
        rewind_to_sequence_number: 0,
    };
    let result = SyncResult { pages, verdicts: vec![verdict] };
    gateway.answer(ask, Asked::Resume, Ok(Response::Sync(result)));
}

fn cursor(number: u64) -> Vec<Cursor> {
    vec![Cursor { conversation_id: CHAT.as_bytes().to_vec(), sequence_number: number }]
}

fn lifetime<S: Read + Write>(gateway: &Gateway, connect: impl Fn() -> S) {
    let user = proto::id::new();
    // A new client: what happened before is none of its business, what happens meanwhile is.
    let mut stream = Stream::open(connect(), gateway, user, None);
    let (ask, cursors, limit) = asked(gateway);
    assert_eq!((cursors, limit), (vec![], 1));
    gateway.deliver(user, event(CHAT, 12));
    answer(gateway, &ask, &[1], (1, 2, 11));
    assert_eq!(stream.sequence_number(), 12);
    let synced = stream.json();
    assert_eq!(synced["synced"]["verdicts"][0]["complete_to_sequence_number"], 12);
    for number in 13..60 {
        gateway.deliver(user, event(CHAT, number));
    }
    let first_id = stream.id.clone();
    for number in 13..44 {
        assert_eq!(stream.sequence_number(), number);
    }
    assert_eq!(stream.id, first_id);
    // After so many events the id is told again.
    assert_eq!(stream.sequence_number(), 44);
    assert!(stream.block().starts_with("id: ") && stream.id != first_id);
    for number in 45..60 {
        assert_eq!(stream.sequence_number(), number);
    }
    let id = stream.id.clone();
    drop(stream);
    // It comes again with what it has.
    let mut stream = Stream::open(connect(), gateway, user, Some(&id));
    let (ask, cursors, limit) = asked(gateway);
    assert_eq!(cursors, cursor(44));
    assert!(limit > 1);
    gateway.deliver(user, event(CHAT, 72));
    answer(gateway, &ask, &[45, 46], (46, 47, 71));
    let page = stream.json();
    assert_eq!(page["sync_page"]["events"].as_array().map(Vec::len), Some(2), "{page}");
    assert_eq!(stream.sequence_number(), 72);
    assert_eq!(stream.json()["synced"]["verdicts"][0]["gap_to_sequence_number"], 71);
    drop(stream.reader);
    // A gap is left: the next time the client is given what it lacks.
    let _again = Stream::open(connect(), gateway, user, Some(&stream.id));
    assert_eq!(asked(gateway).1, cursor(46));
}

#[test]
fn a_stream_is_live_and_goes_on_where_it_stopped() {
    let gateway = Gateway::start(3, |_| {});
    lifetime(&gateway, || gateway.stream());
    lifetime(&gateway, || gateway.tls_stream(&TLS13));
    gateway.stop();
}

#[test]
fn a_quiet_stream_gets_comments_and_the_id_when_it_has_changed() {
    let gateway = Gateway::start(1, |settings| settings.events_ms = 100);
    let user = proto::id::new();
    let mut stream = Stream::open(gateway.stream(), &gateway, user, None);
    let (ask, ..) = asked(&gateway);
    answer(&gateway, &ask, &[], (7, 0, 0));
    stream.json();
    assert_eq!(stream.block(), ":\n\n");
    gateway.deliver(user, event(CHAT, 8));
    let before = stream.id.clone();
    let mut blocks: Vec<String> = Vec::new();
    while stream.id == before {
        blocks.push(stream.block());
        assert!(blocks.len() < 10, "{blocks:?}");
    }
    assert!(blocks.iter().any(|block| block.starts_with("data: ")));
    assert!(blocks.iter().any(|block| block == ":\n\n"));
    assert_eq!(stream.block(), ":\n\n");
    gateway.stop();
}

#[test]
fn who_may_not_listen_is_told_with_a_status() {
    let gateway = Gateway::start(1, |settings| settings.sessions_per_user_max = 1);
    let user = proto::id::new();
    let request = |method: &str, more: &str| {
        let mut stream = gateway.stream();
        let text =
            format!("{method} /v1/events HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{more}\r\n");
        stream.write_all(text.as_bytes()).unwrap();
        read_to_end(&mut stream)
    };
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    let good = bearer(&gateway.token(user, 600));
    let _stream = Stream::open(gateway.stream(), &gateway, user, None);
    for (method, more, status, code) in [
        ("GET", String::new(), "401", "token_missing"),
        ("GET", bearer("no.such.token"), "401", "token_invalid"),
        ("GET", bearer(&gateway.token(user, -5)), "401", "token_expired"),
        ("GET", good.clone() + "Origin: http://evil.example\r\n", "403", "forbidden"),
        ("GET", good.clone() + "Last-Event-ID: 17\r\n", "400", "invalid_argument"),
        ("POST", good.clone(), "405", "method_not_allowed"),
        ("GET", good.clone(), "429", "too_many_requests"),
    ] {
        let text = request(method, &more);
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{more}: {text}");
        assert!(text.contains(code), "{text}");
    }
    gateway.stop();
}

#[test]
fn a_stream_that_is_read_too_slowly_ends_as_a_session_does() {
    let gateway = Gateway::start(1, |settings| settings.ring_entries = 16);
    let user = proto::id::new();
    let mut stream = Stream::open(gateway.stream(), &gateway, user, None);
    let (ask, ..) = asked(&gateway);
    answer(&gateway, &ask, &[], (0, 0, 0));
    // It is live: what comes now is not kept for it until it has caught up.
    assert!(stream.json()["synced"].is_object());
    for number in 1..=300 {
        let frame = frame_bytes(big_event(60_000));
        let delivery = Delivery { frame, ..gateway.delivery(vec![user], event(CHAT, number)) };
        gateway.mailboxes.get(0).send(Mail::Deliver(delivery)).unwrap();
    }
    let started = Instant::now();
    while gateway.overflows() == 0 {
        assert!(started.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut rest = String::new();
    stream.reader.read_to_string(&mut rest).unwrap();
    let end = "event: close\ndata: {\"code\":4008,\"reason\":\"backpressure overflow\"}\n\n";
    assert!(rest.ends_with(end), "{}", &rest[rest.len().saturating_sub(200)..]);
    drop(stream);
    let started = Instant::now();
    while gateway.closes(Reason::BackpressureOverflow) == 0 {
        assert!(started.elapsed() < Duration::from_secs(10));
    }
    gateway.stop();
}

#[test]
fn a_stream_ends_with_its_token_and_with_the_gateway() {
    let gateway = Gateway::start(1, |_| {});
    let mut stream = gateway.stream();
    let token = gateway.token(proto::id::new(), 2);
    let request =
        format!("GET /v1/events HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let text = read_to_end(&mut stream);
    assert!(text.contains("\"token_expired\"") && text.contains("{\"code\":4002,"), "{text}");
    let mut stream = Stream::open(gateway.stream(), &gateway, proto::id::new(), None);
    gateway.next_ask();
    let (ask, ..) = asked(&gateway);
    answer(&gateway, &ask, &[], (0, 0, 0));
    stream.json();
    gateway.drain();
    let goaway = stream.block();
    assert!(goaway.starts_with("retry: ") && goaway.contains("\"goaway\""), "{goaway}");
    assert_eq!(
        stream.block(),
        "event: close\ndata: {\"code\":1012,\"reason\":\"the gateway is stopping\"}\n\n"
    );
    gateway.stop();
}
