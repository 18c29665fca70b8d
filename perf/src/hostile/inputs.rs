//! The inputs: noise, and things that were right before they were spoiled.

use crate::load::codec;
use crate::stack::Link;
use fastrand::Rng;
use proto::client::{
    Ack, ClientFrame, Cursor, Hello, PresenceSubscribe, Send, Sync, TokenRefresh, Typing,
    client_frame,
};
use proto::handshake::{self, NONCE_BYTES};
use proto::link::{Challenge, Request, request};
use proto::{Message, SUBPROTOCOL_JSON, SUBPROTOCOL_PROTO, framing};
use std::borrow::Cow;
use std::net::SocketAddr;

/// What an input was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    GatewayNoise,
    GatewayUpgrade,
    GatewayHttp,
    GatewayFrames,
    GatewayHeaders,
    LinkNoise,
    LinkLength,
    LinkProof,
    LinkRequest,
    AdminNoise,
    AdminHttp,
}

/// Whom inputs are for, and what opens the doors behind which some are thrown.
pub(super) struct Target {
    pub(super) gateways: Vec<SocketAddr>,
    pub(super) links: Vec<Link>,
    pub(super) admins: Vec<SocketAddr>,
    pub(super) token: String,
}

/// A piece of an input; one that proves the link's secret depends on what was read before.
pub(super) enum Part {
    Bytes(Vec<u8>),
    Proof(String),
}

pub(super) struct Input {
    pub(super) kind: Kind,
    pub(super) address: SocketAddr,
    pub(super) parts: Vec<Part>,
    /// Read between the parts.
    pub(super) waits: bool,
}

impl Kind {
    pub(super) const ALL: [Self; 11] = [
        Self::GatewayNoise,
        Self::GatewayUpgrade,
        Self::GatewayHttp,
        Self::GatewayFrames,
        Self::GatewayHeaders,
        Self::LinkNoise,
        Self::LinkLength,
        Self::LinkProof,
        Self::LinkRequest,
        Self::AdminNoise,
        Self::AdminHttp,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::GatewayNoise => "gateway_noise",
            Self::GatewayUpgrade => "gateway_upgrade",
            Self::GatewayHttp => "gateway_http",
            Self::GatewayFrames => "gateway_frames",
            Self::GatewayHeaders => "gateway_headers",
            Self::LinkNoise => "link_noise",
            Self::LinkLength => "link_length",
            Self::LinkProof => "link_proof",
            Self::LinkRequest => "link_request",
            Self::AdminNoise => "admin_noise",
            Self::AdminHttp => "admin_http",
        }
    }
}

impl Target {
    pub(super) fn ports(&self) -> usize {
        self.gateways.len() + self.links.len() + self.admins.len()
    }
}

impl Part {
    pub(super) fn bytes(&self, read: &[u8]) -> Cow<'_, [u8]> {
        match self {
            Self::Bytes(bytes) => Cow::Borrowed(bytes),
            Self::Proof(secret) => Cow::Owned(prove(secret, read).unwrap_or_default()),
        }
    }
}

/// The answer to a challenge, if one was read.
fn prove(secret: &str, read: &[u8]) -> Option<Vec<u8>> {
    let (length, rest) = read.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let challenge = Challenge::decode(rest.get(..length)?).ok()?;
    let proof =
        handshake::prove(secret.as_bytes(), &challenge, [7; NONCE_BYTES], "perf-hostile").ok()?;
    let mut bytes = Vec::new();
    framing::append(&proof, &mut bytes).ok()?;
    Some(bytes)
}

/// An input; two thirds are for the gateways, which face the world.
pub(super) fn make(target: &Target, random: &mut Rng) -> Input {
    let kind = match random.u8(..12) {
        0 => Kind::GatewayNoise,
        1 | 2 => Kind::GatewayUpgrade,
        3 => Kind::GatewayHttp,
        4..=6 => Kind::GatewayFrames,
        7 => Kind::GatewayHeaders,
        8 => random.choice([Kind::LinkNoise, Kind::LinkLength]).unwrap_or(Kind::LinkNoise),
        9 => Kind::LinkProof,
        10 => Kind::LinkRequest,
        _ => random.choice([Kind::AdminNoise, Kind::AdminHttp]).unwrap_or(Kind::AdminNoise),
    };
    let gateway = target.gateways[random.usize(..target.gateways.len())];
    let link = &target.links[random.usize(..target.links.len())];
    let link_address = link.address.parse().unwrap_or(gateway);
    let admin = random.choice(target.admins.iter().copied()).unwrap_or(gateway);
    let bytes = |bytes: Vec<u8>| vec![Part::Bytes(bytes)];
    let (address, parts) = match kind {
        Kind::GatewayNoise => (gateway, bytes(noise(random, 2_000))),
        Kind::GatewayUpgrade => {
            let mut upgrade = upgrade(&target.token, random).into_bytes();
            spoil(&mut upgrade, random);
            (gateway, bytes(upgrade))
        }
        Kind::GatewayHttp => (gateway, bytes(http(&target.token, random))),
        Kind::GatewayFrames => (gateway, frames(&target.token, random)),
        Kind::GatewayHeaders => (gateway, bytes(headers(random))),
        Kind::LinkNoise => (link_address, bytes(noise(random, 1_000))),
        Kind::LinkLength => {
            let length = random.u32(..).to_be_bytes();
            (link_address, bytes([length.to_vec(), noise(random, 300)].concat()))
        }
        Kind::LinkProof => (link_address, vec![Part::Bytes(Vec::new()), spoiled_proof(random)]),
        Kind::LinkRequest => (link_address, requests(&link.secret, random)),
        Kind::AdminNoise => (admin, bytes(noise(random, 500))),
        Kind::AdminHttp => {
            let mut request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".to_vec();
            spoil(&mut request, random);
            (admin, bytes(request))
        }
    };
    Input { kind, address, parts, waits: true }
}

fn noise(random: &mut Rng, most: usize) -> Vec<u8> {
    (0..random.usize(..most)).map(|_| random.u8(..)).collect()
}

/// Flips, removes, doubles, inserts or cuts, once to four times.
fn spoil(bytes: &mut Vec<u8>, random: &mut Rng) {
    for _ in 0..random.usize(1..5) {
        if bytes.is_empty() {
            return bytes.extend(noise(random, 50));
        }
        let at = random.usize(..bytes.len());
        let end = (at + random.usize(1..32)).min(bytes.len());
        match random.u8(..7) {
            0 => bytes[at] ^= 1 << random.u8(..8),
            1 => bytes[at] = random.u8(..),
            2 => drop(bytes.drain(at..end)),
            3 => bytes.extend_from_within(at..end),
            4 => bytes.truncate(at),
            5 => drop(bytes.splice(at..at, noise(random, 64))),
            _ => {
                let value = random.choice([b'\0', b'\r', b'\n', b':', b'%', 0x80, 0xff]);
                bytes.insert(at, value.unwrap_or_default());
            }
        }
    }
}

fn upgrade(token: &str, random: &mut Rng) -> String {
    let protocol = if random.bool() { SUBPROTOCOL_PROTO } else { SUBPROTOCOL_JSON };
    let key = tungstenite::handshake::client::generate_key();
    format!(
        "GET /v1/connect HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\
         Sec-WebSocket-Protocol: {protocol}\r\nAuthorization: Bearer {token}\r\n\r\n"
    )
}

/// More or longer headers than anybody needs, or none that ends.
fn headers(random: &mut Rng) -> Vec<u8> {
    let mut text = "GET /v1/connect HTTP/1.1\r\nHost: x\r\n".to_owned();
    for number in 0..random.usize(1..200) {
        text += &format!("X-{number}: {}\r\n", "a".repeat(random.usize(..400)));
    }
    if random.bool() {
        text += "\r\n";
    }
    text.into_bytes()
}

/// A request of the JSON API whose head or body is spoiled.
fn http(token: &str, random: &mut Rng) -> Vec<u8> {
    let paths = [
        "/v1/auth/register",
        "/v1/auth/login",
        "/v1/auth/refresh",
        "/v1/conversations",
        "/v1/users?query=a&limit=99999999999999999999",
        "/v1/users?ids=%ff",
        "/v1/me",
        "/",
        "/v1/conversations/00000000-0000-0000-0000-000000000000/events?before=-1",
        "/healthz",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/v1/messages/x/trace",
    ];
    let methods = ["GET", "POST", "PATCH", "DELETE", "OPTIONS", "PUT", "BREW"];
    let bodies = [
        r#"{"name":"a b","password":"x"}"#,
        r#"{"refresh_token":"x"}"#,
        "[1,2,3]",
        "{",
        r#"{"title":"t","members":["nobody"],"member_ids":["x"]}"#,
        "\u{0}",
        "null",
        r#"{"name":{"name":{"name":[[[[]]]]}}}"#,
    ];
    let path = random.choice(paths).unwrap_or("/");
    let method = random.choice(methods).unwrap_or("GET");
    let body = random.choice(bodies).unwrap_or_default();
    let length = match random.u8(..6) {
        0 => "18446744073709551616".to_owned(),
        1 => "-1".to_owned(),
        2 => random.u32(..).to_string(),
        _ => body.len().to_string(),
    };
    let chunked = if random.u8(..6) == 0 { "Transfer-Encoding: chunked\r\n" } else { "" };
    let mut request = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{chunked}\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes();
    if random.bool() {
        spoil(&mut request, random);
    }
    request
}

/// A whole upgrade and then frames, most of them spoiled in payload, header or both.
fn frames(token: &str, random: &mut Rng) -> Vec<Part> {
    let upgrade = upgrade(token, random);
    let is_json = upgrade.contains(SUBPROTOCOL_JSON);
    let mut parts = vec![Part::Bytes(upgrade.into_bytes())];
    if random.u8(..5) > 0 {
        let hello = ClientFrame {
            request_id: 1,
            frame: Some(client_frame::Frame::Hello(Hello::default())),
        };
        parts.push(Part::Bytes(framed(&encoded(&hello, is_json), is_json)));
    }
    let mut burst = Vec::new();
    for _ in 0..random.usize(1..8) {
        let mut payload = encoded(&client_frame(random), is_json);
        if random.bool() {
            spoil(&mut payload, random);
        }
        let mut frame = framed(&payload, is_json != (random.u8(..8) == 0));
        match random.u8(..8) {
            0 => spoil(&mut frame, random),
            1 => frame = announced(random),
            2 => frame = control(random),
            // Unmasked: the mask bit is cleared, the mask itself stays.
            3 => frame[1] &= 0x7f,
            4 => frame[0] &= 0x7f,
            _ => {}
        }
        burst.extend(frame);
    }
    parts.push(Part::Bytes(burst));
    parts
}

fn encoded(frame: &ClientFrame, is_json: bool) -> Vec<u8> {
    if is_json {
        return serde_json::to_vec(frame).unwrap_or_default();
    }
    frame.encode_to_vec()
}

fn framed(payload: &[u8], is_text: bool) -> Vec<u8> {
    let mut out = Vec::new();
    codec::append(if is_text { codec::TEXT } else { codec::BINARY }, payload, &mut out);
    out
}

/// A header that announces more than will come, up to 2^64 - 1 bytes.
fn announced(random: &mut Rng) -> Vec<u8> {
    let length = random.u64(..) >> random.u32(..64);
    let mut frame = vec![0x80 | random.u8(..16), 0xff];
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend(noise(random, 100));
    frame
}

/// A control frame: too long, fragmented, unknown, or a close with a forbidden code.
fn control(random: &mut Rng) -> Vec<u8> {
    let first = random.choice([0x88, 0x89, 0x8a, 0x08, 0x09, 0x8b, 0x8f, 0xf9]).unwrap_or(0x88);
    let length = random.u8(..126);
    let mut frame = vec![first, 0x80 | length, 0, 0, 0, 0];
    frame.extend((0..length).map(|_| random.u8(..)));
    frame
}

fn client_frame(random: &mut Rng) -> ClientFrame {
    let id = || proto::id::new().as_bytes().to_vec();
    let odd_id = noise(random, 40);
    let frame = match random.u8(..9) {
        0 => client_frame::Frame::Hello(Hello { resume: true, ..Hello::default() }),
        1 => client_frame::Frame::Send(Send {
            conversation_id: id(),
            idempotency_key: "k".repeat(random.usize(..300)),
            text: "\u{1f600}".repeat(random.usize(..2_000)),
        }),
        2 => client_frame::Frame::Ack(Ack {
            conversation_id: odd_id,
            delivered_sequence_number: random.u64(..),
            read_sequence_number: random.u64(..),
        }),
        3 => client_frame::Frame::Typing(Typing { conversation_id: id(), active: random.bool() }),
        4 => client_frame::Frame::PresenceSubscribe(PresenceSubscribe {
            user_ids: (0..random.usize(..40)).map(|_| id()).collect(),
        }),
        5 => client_frame::Frame::PresenceSubscribe(PresenceSubscribe { user_ids: vec![odd_id] }),
        6 => client_frame::Frame::Sync(Sync {
            cursors: vec![Cursor { conversation_id: odd_id, sequence_number: random.u64(..) }],
            limit: random.u32(..),
        }),
        7 => client_frame::Frame::TokenRefresh(TokenRefresh { token: "a.b.c".into() }),
        _ => return ClientFrame { request_id: random.u64(..), frame: None },
    };
    ClientFrame { request_id: random.u64(..), frame: Some(frame) }
}

/// A proof of the wrong secret, or a spoiled one.
fn spoiled_proof(random: &mut Rng) -> Part {
    let challenge = handshake::challenge([1; NONCE_BYTES]);
    let proof = handshake::prove(b"not the secret at all", &challenge, [2; NONCE_BYTES], "x");
    let mut bytes = Vec::new();
    if let Ok(proof) = proof {
        // It fits: it is a hundred bytes.
        let _ = framing::append(&proof, &mut bytes);
    }
    if random.bool() {
        spoil(&mut bytes, random);
    }
    Part::Bytes(bytes)
}

/// After a true proof: requests whose bytes or whose framing are spoiled.
fn requests(secret: &str, random: &mut Rng) -> Vec<Part> {
    let mut burst = Vec::new();
    for _ in 0..random.usize(1..6) {
        let request = Request {
            request_id: random.u64(..),
            deadline_ms: random.u32(..),
            traceparent: "00-x".into(),
            request: Some(link_request(random)),
        };
        let mut payload = request.encode_to_vec();
        spoil(&mut payload, random);
        let length = match random.u8(..10) {
            0 => random.u32(..),
            _ => u32::try_from(payload.len()).unwrap_or_default(),
        };
        burst.extend_from_slice(&length.to_be_bytes());
        burst.extend(payload);
    }
    vec![Part::Bytes(Vec::new()), Part::Proof(secret.to_owned()), Part::Bytes(burst)]
}

fn link_request(random: &mut Rng) -> request::Request {
    let id = noise(random, 33);
    match random.u8(..6) {
        0 => request::Request::Send(proto::link::Send {
            sender_id: id.clone(),
            device_id: id,
            send: Some(Send { text: "x".repeat(random.usize(..50_000)), ..Send::default() }),
        }),
        1 => request::Request::Sync(proto::link::Sync {
            user_id: proto::id::new().as_bytes().to_vec(),
            resume: random.bool(),
            cursors: vec![Cursor { conversation_id: id, sequence_number: random.u64(..) }],
            limit: random.u32(..),
        }),
        2 => request::Request::Http(proto::link::Http {
            method: "GET".into(),
            target: String::from_utf8_lossy(&noise(random, 200)).into_owned(),
            ..Default::default()
        }),
        3 => {
            request::Request::Audience(proto::link::Audience { user_id: id, ..Default::default() })
        }
        4 => request::Request::PresenceQuery(proto::link::PresenceQuery { user_ids: id }),
        _ => request::Request::PresenceAuthorize(proto::link::PresenceAuthorize {
            user_id: id.clone(),
            user_ids: id,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Target {
        let address = SocketAddr::from(([127, 0, 0, 1], 9));
        let link = Link { address: address.to_string(), secret: "secret".repeat(4) };
        Target {
            gateways: vec![address],
            links: vec![link],
            admins: vec![address],
            token: "token".into(),
        }
    }

    #[test]
    fn inputs_are_a_function_of_their_seed_and_every_kind_is_made() {
        let target = target();
        let mut seen = [0; Kind::ALL.len()];
        for seed in 0..5_000 {
            let input = make(&target, &mut Rng::with_seed(seed));
            seen[input.kind as usize] += 1;
            assert!(!input.parts.is_empty());
        }
        assert!(seen.iter().all(|count| *count > 50), "{seen:?}");
        for (index, kind) in Kind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, index);
        }
    }

    #[test]
    fn a_challenge_is_answered_with_the_true_proof() {
        let challenge = handshake::challenge([1; NONCE_BYTES]);
        let mut read = Vec::new();
        framing::append(&challenge, &mut read).unwrap();
        read.resize(4_096, 0);
        let bytes = prove("a secret of enough bytes", &read).unwrap();
        let proof = proto::link::Proof::decode(&bytes[4..]).unwrap();
        handshake::accept(b"a secret of enough bytes", &challenge, &proof, "chatd").unwrap();
    }
}
