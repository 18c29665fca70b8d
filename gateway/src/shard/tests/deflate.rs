//! permessage-deflate with real sockets; the client's side by flate2 alone.

use super::harness::{Gateway, event, upgrade_request};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use proto::Uuid;
use proto::client::client_frame::Frame as Up;
use proto::client::event::Kind;
use proto::client::{ClientFrame, Event, Hello, Message as ChatMessage};
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;

const OFFER: &str = "Sec-WebSocket-Extensions: permessage-deflate\r\n";

fn start() -> Gateway {
    Gateway::start(2, |settings| settings.policy.deflate = true)
}

struct Peer {
    stream: TcpStream,
    head: String,
}

impl Peer {
    fn connect(gateway: &Gateway, more: &str) -> Self {
        let mut stream = gateway.stream();
        stream.write_all(upgrade_request(more).as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        Self { stream, head: String::from_utf8(head).unwrap() }
    }

    fn greeted(gateway: &Gateway, user: Uuid, more: &str) -> Self {
        let mut peer = Self::connect(gateway, more);
        let hello = Up::Hello(Hello { token: gateway.token(user, 600), ..Hello::default() });
        let hello = ClientFrame { request_id: 1, frame: Some(hello) };
        peer.send(0xc1, &deflated(&serde_json::to_vec(&hello).unwrap()));
        let (_, payload) = peer.next();
        assert!(String::from_utf8(payload).unwrap().contains("\"welcome\""));
        peer
    }

    fn send(&mut self, first: u8, payload: &[u8]) {
        let length = u16::try_from(payload.len()).unwrap();
        let mut frame = vec![first, 0x80 | 126];
        frame.extend(length.to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(payload);
        self.stream.write_all(&frame).unwrap();
    }

    /// The next frame: its first byte, and its payload inflated.
    fn next(&mut self) -> (u8, Vec<u8>) {
        let mut two = [0; 2];
        self.stream.read_exact(&mut two).unwrap();
        let mut length = usize::from(two[1]);
        if length == 126 {
            let mut more = [0; 2];
            self.stream.read_exact(&mut more).unwrap();
            length = usize::from(u16::from_be_bytes(more));
        }
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).unwrap();
        let payload = if two[0] & 0x40 == 0 { payload } else { inflated(&payload) };
        (two[0], payload)
    }

    fn close_code(&mut self) -> u16 {
        loop {
            let (first, payload) = self.next();
            if first == 0x88 {
                return u16::from_be_bytes([payload[0], payload[1]]);
            }
        }
    }
}

/// A machine of its own for each message: no context is taken over.
fn deflated(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + 100);
    let mut machine = Compress::new(Compression::best(), false);
    machine.compress_vec(message, &mut out, FlushCompress::Sync).unwrap();
    assert!(out.ends_with(&[0, 0, 0xff, 0xff]));
    out.truncate(out.len() - 4);
    out
}

fn inflated(bytes: &[u8]) -> Vec<u8> {
    let whole = [bytes, &[0, 0, 0xff, 0xff]].concat();
    let mut out = Vec::with_capacity(1 << 20);
    let mut machine = Decompress::new(false);
    machine.decompress_vec(&whole, &mut out, FlushDecompress::Sync).unwrap();
    out
}

fn wordy(number: u64) -> Event {
    let text = "the same words again and again, ".repeat(40);
    let message = ChatMessage { text, ..ChatMessage::default() };
    Event { kind: Some(Kind::Message(message)), ..event(Uuid::from_u128(7), number) }
}

#[test]
fn who_offers_it_gets_messages_compressed_and_others_as_they_are() {
    let gateway = start();
    let user = proto::id::new();
    let mut packed = Peer::greeted(&gateway, user, OFFER);
    assert!(
        packed.head.contains("sec-websocket-extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n"),
        "{}", packed.head
    );
    // Its window is too small for the copy that all share.
    let offer = "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=9\r\n";
    let mut small = Peer::greeted(&gateway, user, offer);
    assert!(small.head.contains("server_max_window_bits=9\r\n"), "{}", small.head);
    let mut plain = super::harness::Client::greeted(&gateway, user, false);
    for number in 1..=20 {
        gateway.deliver(user, wordy(number));
    }
    for number in 1..=20 {
        let (first, payload) = packed.next();
        assert_eq!(first, 0xc1, "final, text, compressed");
        let (small_first, small_payload) = small.next();
        assert_eq!((small_first, &small_payload), (0x81, &payload));
        let json: serde_json::Value = serde_json::from_slice(&payload).unwrap();
        assert_eq!(json["event"]["sequence_number"], number);
        assert_eq!(plain.next_sequence_number(), number);
    }
    gateway.stop();
}

#[test]
fn without_the_configuration_or_the_offer_nothing_is_compressed() {
    let gateway = Gateway::start(1, |_| {});
    let peer = Peer::connect(&gateway, OFFER);
    assert!(!peer.head.contains("extensions"), "{}", peer.head);
    let on = start();
    for offer in ["", "Sec-WebSocket-Extensions: permessage-deflate; speed=9\r\n"] {
        let mut peer = Peer::connect(&on, offer);
        assert!(!peer.head.contains("extensions"), "{}", peer.head);
        peer.send(0xc1, &deflated(b"{}"));
        assert_eq!(peer.close_code(), 1002);
    }
    on.stop();
    gateway.stop();
}

#[test]
fn compressed_messages_may_be_cut_anywhere_and_must_make_sense() {
    let gateway = start();
    let hello = json!({"request_id": 9, "hello": {"token": "no"}}).to_string();
    let packed = deflated(hello.as_bytes());
    for cut in 0..packed.len() {
        let mut peer = Peer::connect(&gateway, OFFER);
        peer.send(0x41, &packed[..cut]);
        peer.send(0x80, &packed[cut..]);
        let (_, payload) = peer.next();
        assert!(String::from_utf8(payload).unwrap().contains("token_invalid"));
        assert_eq!(peer.close_code(), 4001);
    }
    let bomb = deflated(&vec![b' '; 60_000]);
    assert!(bomb.len() < 200);
    for (frames, code) in [
        // A bomb, and one that is too large without being one.
        (vec![(0xc1, bomb)], 1009),
        (
            vec![(
                0xc1,
                deflated(
                    &(0..90_000_u32).flat_map(|it| it.to_string().into_bytes()).collect::<Vec<_>>()
                        [..70_000],
                ),
            )],
            1009,
        ),
        (vec![(0xc1, vec![0xff; 20])], 1002),
        (vec![(0xc1, deflated(b"\xff\xfe not UTF-8, though compressed"))], 1007),
        // RSV1 on a continuation, and on a control frame.
        (vec![(0x41, packed[..4].to_vec()), (0xc0, packed[4..].to_vec())], 1002),
        (vec![(0xc9, vec![])], 1002),
    ] {
        let mut peer = Peer::connect(&gateway, OFFER);
        for (first, payload) in &frames {
            peer.send(*first, payload);
        }
        assert_eq!(peer.close_code(), code, "{:x?}", frames[0].0);
    }
    gateway.stop();
}
