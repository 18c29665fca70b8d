//! Sessions against a small server on loopback that misbehaves by script.

mod tls;

use super::*;
use crate::update::{Path, Update};
use prost::Message as _;
use proto::client::{
    ClientFrame, Event, Message as Text, Sent, ServerFrame, SyncPage, Synced, Verdict, Welcome,
    client_frame, event::Kind, server_frame::Frame,
};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::AtomicU32;
use std::thread;
use std::time::Instant;
use tungstenite::handshake::server::{Request, Response};
use tungstenite::{Message, WebSocket};

const CHAT: Uuid = Uuid::from_u128(1);
const PATIENCE: Duration = Duration::from_secs(10);

/// One accepted connection of the small server.
struct Peer {
    socket: WebSocket<TcpStream>,
}

impl Peer {
    fn accept(listener: &TcpListener) -> Self {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        #[allow(clippy::result_large_err, reason = "tungstenite's callback type")]
        let choose = |request: &Request, mut answer: Response| {
            assert_eq!(request.headers()["Authorization"], "Bearer token");
            assert!(request.uri().query().is_none());
            let protocol = request.headers()["Sec-WebSocket-Protocol"].clone();
            answer.headers_mut().insert("Sec-WebSocket-Protocol", protocol);
            Ok(answer)
        };
        Self { socket: tungstenite::accept_hdr(stream, choose).unwrap() }
    }

    /// The next frame; `None` once the client is gone.
    fn read(&mut self) -> Option<ClientFrame> {
        loop {
            match self.socket.read() {
                Ok(Message::Binary(bytes)) => return Some(ClientFrame::decode(bytes).unwrap()),
                Ok(Message::Close(_)) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    fn write(&mut self, request_id: u64, frame: Frame) {
        let bytes = ServerFrame { request_id, frame: Some(frame) }.encode_to_vec();
        // A client that is gone is for the next read to find out.
        let _ = self.socket.send(Message::Binary(bytes.into()));
    }

    fn welcome(&mut self, heartbeat_interval_ms: u32) -> client_frame::Frame {
        let hello = self.read().unwrap();
        let welcome = Welcome { heartbeat_interval_ms, ..Welcome::default() };
        self.write(hello.request_id, Frame::Welcome(welcome));
        hello.frame.unwrap()
    }

    fn push(&mut self, sequence_number: u64) {
        self.write(0, Frame::Event(event(sequence_number)));
    }

    /// Answers the next sync with these events.
    fn answer_sync(&mut self, numbers: &[u64]) -> Vec<proto::client::Cursor> {
        loop {
            let frame = self.read().unwrap();
            if let Some(client_frame::Frame::Sync(sync)) = frame.frame {
                let conversation_id = CHAT.as_bytes().to_vec();
                let events = numbers.iter().copied().map(event).collect();
                let page = SyncPage { conversation_id: conversation_id.clone(), events };
                self.write(frame.request_id, Frame::SyncPage(page));
                let cursor = sync.cursors[0].sequence_number;
                let verdict = Verdict {
                    conversation_id,
                    complete_to_sequence_number: numbers.last().copied().unwrap_or(cursor),
                    ..Verdict::default()
                };
                self.write(frame.request_id, Frame::Synced(Synced { verdicts: vec![verdict] }));
                return sync.cursors;
            }
        }
    }
}

fn event(sequence_number: u64) -> Event {
    Event {
        conversation_id: CHAT.as_bytes().to_vec(),
        sequence_number,
        kind: Some(Kind::Message(Text::default())),
        ..Event::default()
    }
}

/// A listener and the options of a session to it.
fn server() -> (TcpListener, Options) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/v1/connect", listener.local_addr().unwrap());
    let mut options = Options::new(vec![url], Options::fixed_token("token"));
    options.backoff_ms_min = 1;
    options.backoff_ms_max = 50;
    (listener, options)
}

/// Waits for `count` events of the log.
fn take(events: &Events, count: usize) -> Vec<(u64, Path)> {
    let until = Instant::now() + PATIENCE;
    let mut taken = Vec::new();
    while taken.len() < count {
        match events.recv_for(until.saturating_duration_since(Instant::now())) {
            Waited::Update(Update::Event(it)) => taken.push((it.sequence_number, it.path)),
            Waited::Update(Update::Notice(_)) => {}
            other => panic!("{other:?} after {taken:?}"),
        }
    }
    taken
}

fn wait_for(events: &Events, wanted: impl Fn(&Notice) -> bool) {
    let until = Instant::now() + PATIENCE;
    loop {
        match events.recv_for(until.saturating_duration_since(Instant::now())) {
            Waited::Update(Update::Notice(notice)) if wanted(&notice) => return,
            Waited::Update(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_cut_connection_is_replaced_and_what_was_missed_is_healed_once() {
    let (listener, mut options) = server();
    options.cursors = BTreeMap::from([(CHAT, 0)]);
    let duplicates = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&duplicates);
    options.hook = Some(Arc::new(move |notice| {
        if matches!(notice, Notice::Received { duplicate: true, .. }) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }));
    let server = thread::spawn(move || {
        let mut first = Peer::accept(&listener);
        first.welcome(0);
        first.answer_sync(&[]);
        for number in [1, 2, 2, 4] {
            first.push(number);
        }
        assert_eq!(first.answer_sync(&[3])[0].sequence_number, 2);
        first.push(5);
        // Cut without a word, as a killed process is.
        drop(first);
        let mut second = Peer::accept(&listener);
        second.welcome(0);
        second.push(5);
        assert_eq!(second.answer_sync(&[6, 7])[0].sequence_number, 5);
        second.push(8);
        second.read()
    });
    let (session, events) = Session::connect(options).unwrap();
    let (live, sync) = (Path::Live, Path::Sync);
    let expected =
        [(1, live), (2, live), (3, sync), (4, live), (5, live), (6, sync), (7, sync), (8, live)];
    assert_eq!(take(&events, 8), expected);
    assert_eq!(session.cursors(), BTreeMap::from([(CHAT, 8)]));
    session.close();
    server.join().unwrap();
    assert_eq!(duplicates.load(Ordering::Relaxed), 2);
    let rest: Vec<Update> = events.collect();
    assert!(matches!(rest.last(), Some(Update::Notice(Notice::Ended { .. }))), "{rest:?}");
}

#[test]
fn a_send_without_an_answer_is_written_again_with_the_same_key() {
    let (listener, options) = server();
    let server = thread::spawn(move || {
        let mut keys = Vec::new();
        for round in 0..3 {
            let mut peer = Peer::accept(&listener);
            peer.welcome(0);
            let frame = peer.read().unwrap();
            let Some(client_frame::Frame::Send(send)) = frame.frame else { panic!("no send") };
            keys.push(send.idempotency_key);
            if round == 2 {
                let sent = Sent { sequence_number: 9, ..Sent::default() };
                peer.write(frame.request_id, Frame::Sent(sent));
                assert!(peer.read().is_none());
            }
        }
        keys
    });
    let (session, events) = Session::connect(options).unwrap();
    drop(events);
    let sent = session.send(CHAT, "the key", "hello").wait().unwrap();
    assert_eq!(sent.sequence_number, 9);
    session.close();
    assert_eq!(server.join().unwrap(), ["the key"; 3]);
    let late = session.send(CHAT, "late", "hello").wait();
    assert!(matches!(late, Err(SendError::Ended { .. })));
}

#[test]
fn a_retry_goes_out_when_it_is_due() {
    let (listener, options) = server();
    let server = thread::spawn(move || {
        let mut peer = Peer::accept(&listener);
        peer.welcome(0);
        let busy = proto::error::ErrorCode::Unavailable.to_frame("busy");
        let first = peer.read().unwrap();
        peer.write(first.request_id, Frame::Error(busy));
        let began = Instant::now();
        let second = peer.read().unwrap();
        peer.write(second.request_id, Frame::Sent(Sent::default()));
        assert!(peer.read().is_none());
        began.elapsed()
    });
    let (session, events) = Session::connect(options).unwrap();
    drop(events);
    session.send(CHAT, "key", "hello").wait().unwrap();
    session.close();
    let waited = server.join().unwrap();
    assert!(waited < Duration::from_secs(5), "the retry came after {waited:?}");
}

#[test]
fn the_next_gateway_is_tried_when_one_is_away() {
    let (listener, mut options) = server();
    let away = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/v1/connect", away.local_addr().unwrap());
    drop(away);
    options.urls.insert(0, url);
    let server = thread::spawn(move || Peer::accept(&listener).welcome(0));
    let (session, events) = Session::connect(options).unwrap();
    wait_for(&events, |notice| matches!(notice, Notice::DialFailed { url: 0, .. }));
    wait_for(&events, |notice| matches!(notice, Notice::Live));
    server.join().unwrap();
    session.close();
}

#[test]
fn a_server_that_falls_silent_is_left() {
    let (listener, mut options) = server();
    options.silence_ms_max = Some(200);
    let server = thread::spawn(move || {
        let mut silent = Peer::accept(&listener);
        silent.welcome(0);
        // It still holds the connection, and answers nothing.
        let mut second = Peer::accept(&listener);
        second.welcome(0);
        (silent, second)
    });
    let (session, events) = Session::connect(options).unwrap();
    wait_for(&events, |notice| matches!(notice, Notice::Live));
    wait_for(&events, |notice| matches!(notice, Notice::Closed { by_us: true, .. }));
    wait_for(&events, |notice| matches!(notice, Notice::Live));
    drop(server.join().unwrap());
    session.close();
}

#[test]
fn a_slow_application_loses_nothing_and_fills_no_memory() {
    const EVENTS: u64 = 3 * crate::limits::UPDATES_WAITING_MAX as u64;
    let (listener, mut options) = server();
    options.acknowledge = false;
    let server = thread::spawn(move || {
        let mut peer = Peer::accept(&listener);
        peer.welcome(0);
        (1..=EVENTS).for_each(|number| peer.push(number));
        peer.read()
    });
    let (session, events) = Session::connect(options).unwrap();
    thread::sleep(Duration::from_millis(100));
    let count = usize::try_from(EVENTS).unwrap();
    let numbers: Vec<u64> = take(&events, count).into_iter().map(|(number, _)| number).collect();
    assert!(numbers.into_iter().eq(1..=EVENTS));
    session.close();
    server.join().unwrap();
}

#[test]
fn urls_are_looked_at_before_anything_is_begun() {
    let none = Options::new(Vec::new(), Options::fixed_token(""));
    assert!(Session::connect(none).is_err());
    let other = Options::new(vec!["ftp://host/x".into()], Options::fixed_token(""));
    assert!(Session::connect(other).is_err());
}
