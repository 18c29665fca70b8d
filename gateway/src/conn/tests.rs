use super::*;
use crate::inbound::upgrade::Upgrade;
use crate::limits::{
    CONTROL_FRAMES_MAX, HEAD_BYTES_MAX, REFUSED_FRAMES_MAX, TURN_WORK_BYTES, TURN_WORK_MAX,
};
use crate::outbound::deflate::Deflater;
use crate::rate::Allowed;
use proto::Message;
use proto::client::client_frame::Frame;
use proto::client::{Hello, Send};
use std::net::Ipv4Addr;

const UPGRADE: &str = "GET /v1/connect HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

fn policy() -> Policy {
    Policy {
        frames: FrameLimits { message_bytes_max: 70_000, fragments_max: 256, inflates: false },
        origins: Vec::new(),
        proxies: Proxies::default(),
        deflate: false,
        echo: false,
    }
}

fn upgrade(encoding: &str) -> Vec<u8> {
    format!("{UPGRADE}Sec-WebSocket-Protocol: realchat.v1+{encoding}, bearer.tok\r\n\r\n")
        .into_bytes()
}

/// A masked frame, as a client sends it.
fn frame(first_byte: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [1, 2, 3, 4];
    let mut bytes = vec![first_byte];
    match u8::try_from(payload.len()) {
        Ok(short) if short < 126 => bytes.push(0x80 | short),
        _ => {
            bytes.push(0x80 | 126);
            bytes.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

fn binary(request_id: u64, kind: Frame) -> Vec<u8> {
    frame(0x82, &ClientFrame { request_id, frame: Some(kind) }.encode_to_vec())
}

/// What came out, for people.
fn shown(effect: &Effect) -> String {
    match effect {
        Effect::Write(bytes) if bytes.starts_with(b"HTTP/1.1 ") => {
            format!("http {}", std::str::from_utf8(&bytes[9..12]).unwrap())
        }
        Effect::Write(bytes) if bytes.starts_with(&[0x8a]) => format!("pong {}", bytes.len() - 2),
        Effect::Write(_) => "body".to_owned(),
        Effect::Ask(http) => format!("ask {} {} {}", http.method, http.target, http.body.len()),
        Effect::Frame(frame) => format!("frame {}", frame.request_id),
        Effect::Refused(refused) => {
            format!("refused {} {}", refused.request_id, refused.code.as_str())
        }
        Effect::Upgrade(upgrade) => format!("upgrade {:?}", upgrade.token),
        Effect::Stream(request) => format!("stream {:?}", request.token),
        Effect::Alive => "alive".to_owned(),
        Effect::Close(reason, echoed) => format!("close {reason:?} {echoed:?}"),
    }
}

/// Drives a connection as a shard does, with input cut by `piece`.
fn drive(bytes: &[u8], policy: &Policy, mut piece: impl FnMut() -> usize) -> (Conn, Vec<String>) {
    let (limits, mut deflater) = (Limits::new(Allowed::default()), Deflater::default());
    let mut conn = Conn::new(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let (mut pool, mut seen, mut rest) = (Pool::default(), Vec::new(), bytes);
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(piece().clamp(1, rest.len()));
        rest = after;
        let mut input = chunk.to_vec();
        loop {
            let mut effects = Vec::new();
            let now = Now { ms: 5, wall_us: 0 };
            conn.receive(
                &mut input,
                &mut Lent {
                    work: TURN_WORK_MAX,
                    now,
                    policy,
                    limits: &limits,
                    pool: &mut pool,
                    deflater: &mut deflater,
                    effects: &mut effects,
                },
            );
            seen.extend(effects.iter().map(shown));
            input.clear();
            let was_paused = conn.is_paused();
            conn.respond(|_, _| ());
            if conn.written() {
                seen.push("done".to_owned());
                conn.close();
            }
            conn.go_on();
            if !(was_paused && conn.has_stash()) {
                break;
            }
        }
    }
    (conn, seen)
}

/// The same at once, and nothing that is asked is answered.
fn unanswered(bytes: &[u8]) -> (Conn, Vec<String>) {
    let (limits, mut deflater) = (Limits::new(Allowed::default()), Deflater::default());
    let mut conn = Conn::new(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let (mut pool, mut effects) = (Pool::default(), Vec::new());
    let mut lent = Lent {
        work: TURN_WORK_MAX,
        now: Now { ms: 5, wall_us: 0 },
        policy: &policy(),
        limits: &limits,
        pool: &mut pool,
        deflater: &mut deflater,
        effects: &mut effects,
    };
    conn.receive(&mut bytes.to_vec(), &mut lent);
    (conn, effects.iter().map(shown).collect())
}

fn same_however_cut(bytes: &[u8]) -> Vec<String> {
    let (_, whole) = drive(bytes, &policy(), || usize::MAX);
    assert_eq!(drive(bytes, &policy(), || 1).1, whole);
    for seed in 0..200 {
        let mut random = fastrand::Rng::with_seed(seed);
        assert_eq!(drive(bytes, &policy(), || random.usize(1..60)).1, whole, "seed {seed}");
    }
    whole
}

#[test]
fn requests_on_one_connection_are_answered_in_order() {
    let bytes = [
        "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n",
        "POST /v1/auth/login HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
        "GET /v1/me HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /none HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n",
    ]
    .concat();
    let seen = same_however_cut(bytes.as_bytes());
    let asks = ["ask POST /v1/auth/login 5", "ask GET /v1/me 0"];
    assert_eq!(seen[..4], ["http 200", "body", asks[0], asks[1]]);
    assert_eq!(seen[4..], ["http 404", "body", "done"]);
}

#[test]
fn a_session_from_upgrade_to_goodbye() {
    let send = |request_id| binary(request_id, Frame::Send(Send::default()));
    let bytes = [
        upgrade("proto"),
        send(1),
        binary(2, Frame::Hello(Hello::default())),
        send(3),
        frame(0x89, b"abc"),
        frame(0x8a, b""),
        binary(4, Frame::Hello(Hello::default())),
        frame(0x82, &[0xff; 3]),
        frame(0x82, &[8, 9]),
        frame(0x88, &1001_u16.to_be_bytes()),
        send(5),
    ]
    .concat();
    let seen = same_however_cut(&bytes);
    let expected = [
        "http 101",
        "refused 1 unexpected_frame",
        "frame 2",
        "frame 3",
        "pong 3",
        "alive",
        "refused 4 unexpected_frame",
        "refused 0 malformed_frame",
        "refused 9 unknown_frame",
        "close PeerClosed Some(1001)",
    ];
    assert_eq!(seen, expected);
}

#[test]
fn text_and_binary_belong_to_their_encodings() {
    let text = br#"{"request_id":7,"hello":{"token":"t"}}"#;
    let json = same_however_cut(&[upgrade("json"), frame(0x81, text)].concat());
    assert_eq!(json, ["http 101", "frame 7"]);
    let wrong = same_however_cut(&[upgrade("json"), frame(0x82, text)].concat());
    assert_eq!(wrong, ["http 101", "close UnsupportedData None"]);
    let bad =
        same_however_cut(&[upgrade("json"), frame(0x81, b"{\"request_id\":3,\"x\":{}}")].concat());
    assert_eq!(bad, ["http 101", "refused 3 unknown_frame"]);
}

#[test]
fn the_stages_follow_the_bytes() {
    let stage = |bytes: &[u8]| drive(bytes, &policy(), || usize::MAX).0.stage();
    assert_eq!(stage(b"GET / HT"), Stage::Head);
    assert_eq!(stage(b"POST /v1/x HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n1"), Stage::Body);
    assert_eq!(stage(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n"), Stage::KeepAlive);
    assert_eq!(stage(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\nGE"), Stage::Head);
    assert_eq!(stage(&upgrade("json")), Stage::Hello);
    assert_eq!(stage(&[upgrade("json"), frame(0x81, b"{\"hello\":{}}")].concat()), Stage::Session);
    assert_eq!(stage(&[upgrade("json"), frame(0x81, b"\xff")].concat()), Stage::Closing);
}

#[test]
fn the_token_of_the_upgrade_is_given_once() {
    let (mut conn, _) = drive(&upgrade("json"), &policy(), || usize::MAX);
    assert_eq!(conn.take_offer(), Some(Offer::Token("tok".into())));
    assert_eq!(conn.take_offer(), None);
}

#[test]
fn an_upgrade_with_authorization_waits_for_the_shard_and_goes_on_with_what_came_behind_it() {
    let head = format!("{UPGRADE}Sec-WebSocket-Protocol: realchat.v1+json\r\n");
    let head = format!("{head}Authorization: Bearer tok\r\n\r\n");
    let hello = frame(0x81, b"{\"hello\":{}}");
    let asked = "upgrade Some(\"tok\")";
    let (mut conn, seen) = unanswered(&[head.as_bytes(), &hello].concat());
    assert_eq!((seen, conn.stage(), conn.has_stash()), (vec![asked.into()], Stage::Answer, true));
    let granted = Upgrade {
        encoding: Encoding::Json,
        token: Some("tok".into()),
        reads_status: true,
        window_bits: None,
        response: "HTTP/1.1 101".into(),
    };
    assert_eq!(conn.upgrade(granted, None), "HTTP/1.1 101");
    assert_eq!((conn.stage(), conn.is_socket()), (Stage::Hello, true));
    assert_eq!(conn.take_offer(), Some(Offer::Token("tok".into())));
    // One that echoes asks nobody.
    let echo = Policy { echo: true, ..policy() };
    assert_eq!(drive(head.as_bytes(), &echo, || usize::MAX).1, ["http 101"]);
}

#[test]
fn floods_and_oversize_end_the_connection() {
    let pings = frame(0x89, b"").repeat(usize::from(CONTROL_FRAMES_MAX) + 1);
    let seen = same_however_cut(&[upgrade("json"), pings].concat());
    assert_eq!(seen.last().unwrap(), "close Flood None");
    assert_eq!(seen.len(), usize::from(CONTROL_FRAMES_MAX) + 2);
    let refused = frame(0x81, b"?").repeat(usize::from(REFUSED_FRAMES_MAX));
    let seen = same_however_cut(&[upgrade("json"), refused.clone()].concat());
    assert!(seen.last().unwrap().starts_with("refused"), "{seen:?}");
    let seen = same_however_cut(&[upgrade("json"), refused, frame(0x82, b"")].concat());
    assert_eq!(seen.last().unwrap(), "close UnsupportedData None");
    let one_more = frame(0x81, b"?").repeat(usize::from(REFUSED_FRAMES_MAX) + 1);
    let seen = same_however_cut(&[upgrade("json"), one_more].concat());
    assert_eq!(seen.last().unwrap(), "close Flood None");
    assert_eq!(seen.len(), usize::from(REFUSED_FRAMES_MAX) + 2);
    let head = format!("GET /{} HTTP/1.1\r\n", "x".repeat(HEAD_BYTES_MAX));
    let (_, seen) = drive(head.as_bytes(), &policy(), || 100);
    assert_eq!(seen, ["http 431", "body", "close HttpRefused None"]);
}

#[test]
fn a_body_that_waits_for_leave_gets_it_once() {
    let head =
        b"POST /v1/x HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
    let mut cuts = [head.len(), 2, 2].into_iter();
    let bytes = [&head[..], b"body"].concat();
    let (_, seen) = drive(&bytes, &policy(), || cuts.next().unwrap());
    assert_eq!(seen, ["http 100", "ask POST /v1/x 4"]);
}

#[test]
fn a_turn_ends_when_its_work_is_done_and_the_next_goes_on() {
    let (limits, mut deflater) = (Limits::new(Allowed::default()), Deflater::default());
    let policy = Policy { echo: true, ..policy() };
    let (mut conn, _) = drive(&upgrade("json"), &policy, || usize::MAX);
    let mut pool = Pool::default();
    let mut turn = |conn: &mut Conn, input: &[u8]| {
        let mut effects = Vec::new();
        let mut lent = Lent {
            work: 4,
            now: Now { ms: 5, wall_us: 0 },
            policy: &policy,
            limits: &limits,
            pool: &mut pool,
            deflater: &mut deflater,
            effects: &mut effects,
        };
        conn.receive(&mut input.to_vec(), &mut lent);
        effects.len()
    };
    // One for each, whatever it is.
    assert_eq!(turn(&mut conn, &frame(0x81, b"a").repeat(10)), 4);
    assert!(conn.awaits_turn() && conn.is_paused());
    assert_eq!((turn(&mut conn, b""), turn(&mut conn, b"")), (4, 2));
    assert!(!conn.awaits_turn() && !conn.has_stash());
    // Four are no more than a turn: nothing is left for the next.
    assert_eq!(turn(&mut conn, &frame(0x81, b"a").repeat(4)), 4);
    assert!(!conn.awaits_turn());
    let mut long = vec![0x82, 0x80 | 126];
    long.extend(u16::try_from(3 * TURN_WORK_BYTES).unwrap().to_be_bytes());
    long.extend(vec![0; 4 + 3 * TURN_WORK_BYTES]);
    assert_eq!(turn(&mut conn, &long.repeat(2)), 1);
    assert_eq!(turn(&mut conn, b""), 1);
}

#[test]
fn the_echo_profile_sends_messages_back() {
    let bytes = [upgrade("json"), frame(0x81, b"hi"), frame(0x82, b"ho")].concat();
    let policy = Policy { echo: true, ..policy() };
    let (conn, seen) = drive(&bytes, &policy, || 3);
    assert_eq!(seen, ["http 101", "body", "body"]);
    assert_eq!(conn.stage(), Stage::Session);
}
