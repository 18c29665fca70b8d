//! The rows of the security table that concern the edge, with real sockets.

use super::harness::{
    Client, Gateway, big_event, event, read_bytes, read_to_end, signed, upgrade_request,
};
use crate::close::Reason;
use crate::limits::{CONTROL_FRAMES_MAX, FRAGMENTS_MAX, REFUSED_FRAMES_MAX};
use crate::mail::AskKind;
use proto::Uuid;
use proto::client::client_frame::Frame as Up;
use proto::client::server_frame::Frame as Down;
use proto::client::{Hello, TokenRefresh};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

/// The code of the close frame that ends what came.
fn close_code(bytes: &[u8]) -> Option<u16> {
    let at = bytes.windows(2).rposition(|it| it[0] == 0x88 && usize::from(it[1]) < 126)?;
    let code = bytes.get(at + 2..at + 4)?;
    (at + 2 + usize::from(bytes[at + 1]) == bytes.len())
        .then(|| u16::from_be_bytes([code[0], code[1]]))
}

fn upgraded(gateway: &Gateway) -> TcpStream {
    let mut stream = gateway.stream();
    stream.write_all(upgrade_request("").as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    stream
}

fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first, 0x80 | u8::try_from(payload.len()).unwrap(), 0, 0, 0, 0];
    frame.extend(payload);
    frame
}

/// While somebody misbehaves, another session gets its events.
fn neighbour_is_served(gateway: &Gateway, client: &mut Client, user: Uuid) {
    gateway.deliver(user, event(Uuid::from_u128(7), 1));
    assert_eq!(client.next_sequence_number(), 1);
}

#[test]
fn a_head_that_dribbles_in_is_closed_in_time_and_others_are_served() {
    let gateway = Gateway::start(1, |settings| settings.handshake_ms = 500);
    let user = proto::id::new();
    let mut neighbour = Client::greeted(&gateway, user, true);
    let started = Instant::now();
    let mut slow: Vec<TcpStream> = (0..50).map(|_| gateway.stream()).collect();
    let head = upgrade_request("");
    // A byte at a time: bytes do not extend the deadline.
    'all: for byte in head.as_bytes().chunks(1) {
        for stream in &mut slow {
            if stream.write_all(byte).is_err() || started.elapsed() > Duration::from_secs(5) {
                break 'all;
            }
        }
        neighbour_is_served(&gateway, &mut neighbour, user);
        std::thread::sleep(Duration::from_millis(10));
    }
    let elapsed = started.elapsed().as_millis();
    assert!((400..4_000).contains(&elapsed), "{elapsed} ms");
    let begun = Instant::now();
    while gateway.closes(Reason::HandshakeDeadline) < 50 {
        assert!(begun.elapsed() < Duration::from_secs(5));
        slow.retain_mut(|stream| {
            stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
            !matches!(stream.read(&mut [0]), Ok(0) | Err(_))
        });
    }
    gateway.stop();
}

#[test]
fn floods_of_fragments_and_of_control_and_refused_frames_are_closed_with_1008() {
    let gateway = Gateway::start(1, |_| {});
    let user = proto::id::new();
    let mut neighbour = Client::greeted(&gateway, user, true);
    let fragments = {
        let mut bytes = masked(0x01, b"a");
        for _ in 0..FRAGMENTS_MAX {
            bytes.extend(masked(0x00, b"b"));
        }
        bytes
    };
    let empty_fragments = masked(0x00, b"").repeat(FRAGMENTS_MAX as usize);
    let controls = usize::from(CONTROL_FRAMES_MAX) + 1;
    let refused = usize::from(REFUSED_FRAMES_MAX) + 1;
    for (flood, code) in [
        (fragments, 1008),
        ([masked(0x02, b""), empty_fragments].concat(), 1008),
        (masked(0x89, b"ping").repeat(controls), 1008),
        (masked(0x8a, b"pong").repeat(controls), 1008),
        // Frames that say nothing, before any hello.
        (masked(0x81, b"?").repeat(refused), 1008),
        (masked(0x81, b"").repeat(50_000), 1008),
        // Fragments that are too much together.
        (
            [masked(0x02, &[0; 125]), masked(0x00, &[0; 125]).repeat(100), {
                let mut long = vec![0x80, 0x80 | 126];
                long.extend(60_000_u16.to_be_bytes());
                long.extend([0; 4]);
                long
            }]
            .concat(),
            1009,
        ),
    ] {
        let mut stream = upgraded(&gateway);
        stream.write_all(&flood).unwrap();
        let answer = read_bytes(&mut stream);
        assert_eq!(
            close_code(&answer),
            Some(code),
            "{:x?}",
            &answer[answer.len().saturating_sub(80)..]
        );
        neighbour_is_served(&gateway, &mut neighbour, user);
    }
    // One fewer is no flood.
    let mut stream = upgraded(&gateway);
    stream.write_all(&masked(0x8a, b"").repeat(controls - 1)).unwrap();
    stream.write_all(&masked(0x88, &1000_u16.to_be_bytes())).unwrap();
    assert_eq!(close_code(&read_bytes(&mut stream)), Some(1000));
    gateway.stop();
}

#[test]
fn requests_that_are_smuggled_are_none() {
    let gateway = Gateway::start(1, |_| {});
    let inner = "GET /v1/smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
    let bytes = inner.len();
    let ask = |request: String| {
        let mut stream = gateway.stream();
        stream.write_all(request.as_bytes()).unwrap();
        stream
    };
    // A body is a body, whatever it looks like.
    let _stream =
        ask(format!("POST /v1/a HTTP/1.1\r\nHost: h\r\nContent-Length: {bytes}\r\n\r\n{inner}"));
    let AskKind::Http(http) = gateway.next_ask().kind else { panic!("HTTP is asked") };
    assert_eq!((http.target.as_str(), http.body.len()), ("/v1/a", bytes));
    for (headers, status) in [
        (format!("Content-Length: {bytes}\r\nTransfer-Encoding: chunked"), "411"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 0".to_owned(), "411"),
        ("Transfer-Encoding: identity".to_owned(), "411"),
        ("Transfer-Encoding : chunked".to_owned(), "400"),
        ("Transfer-Encoding\t: chunked".to_owned(), "400"),
        (" Transfer-Encoding: chunked".to_owned(), "400"),
        ("X: a\r\n Transfer-Encoding: chunked".to_owned(), "400"),
        ("Content-Length : 0".to_owned(), "400"),
        (format!("Content-Length: 0\r\nContent-Length: {bytes}"), "400"),
        (format!("Content-Length: 0, {bytes}"), "400"),
        (format!("Content-Length: {bytes}x"), "400"),
        (format!("Content-Length: 0x{bytes:x}"), "400"),
        ("Content-Length: -1".to_owned(), "400"),
        ("Content-Length:".to_owned(), "400"),
        ("Host: other".to_owned(), "400"),
        ("X: a\rTransfer-Encoding: chunked".to_owned(), "400"),
        ("X: a\0b".to_owned(), "400"),
    ] {
        let mut stream = ask(format!("POST /v1/a HTTP/1.1\r\nHost: h\r\n{headers}\r\n\r\n{inner}"));
        let text = read_to_end(&mut stream);
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{headers:?}: {text}");
        assert_eq!(text.matches("HTTP/1.1 4").count(), 1, "nothing after it is answered: {text}");
    }
    for line in ["GET  /v1/a HTTP/1.1", "GET /v1/a HTTP/2.0", "GET /v1/a", "GET /v1/a HTTP/1.1 x"] {
        let text = read_to_end(&mut ask(format!("{line}\r\nHost: h\r\n\r\n{inner}")));
        assert!(text.starts_with("HTTP/1.1 400 "), "{line}: {text}");
    }
    // What was pipelined behind an upgrade is no request.
    let mut stream = ask(upgrade_request("") + inner);
    let answer = read_bytes(&mut stream);
    assert!(answer.starts_with(b"HTTP/1.1 101 "));
    assert_eq!(close_code(&answer), Some(1002));
    gateway.stop();
    // Nothing but the first request was ever asked.
}

#[test]
fn a_token_in_a_url_is_refused_by_name() {
    let gateway = Gateway::start(1, |_| {});
    let token = gateway.token(proto::id::new(), 600);
    for target in ["/v1/connect", "/v1/events", "/v1/me"] {
        for name in ["token", "access_token", "bearer", "Authorization"] {
            let request = upgrade_request("")
                .replace("GET /v1/connect ", &format!("GET {target}?x=1&{name}={token} "));
            let mut stream = gateway.stream();
            stream.write_all(request.as_bytes()).unwrap();
            let text = read_to_end(&mut stream);
            assert!(text.starts_with("HTTP/1.1 400 "), "{target} {name}: {text}");
            assert!(text.contains("never in the URL"), "{text}");
            assert!(!text.contains(&token), "{text}");
        }
    }
    gateway.stop();
}

/// `base` with one member set.
fn with(base: &Value, name: &str, value: Value) -> Value {
    let mut base = base.clone();
    base[name] = value;
    base
}

fn tokens_with_bad_headers(header: &Value, claims: &Value) -> Vec<String> {
    let good = signed(header, claims);
    let mut bad = vec![good.rsplit_once('.').unwrap().0.to_owned() + "."];
    for alg in ["none", "None", "nOnE", "HS256", "HS512", "RS256", "ES256", "PS256", "eddsa"] {
        bad.push(signed(&with(header, "alg", json!(alg)), claims));
    }
    // The public key's bytes as the secret of an HMAC, and an empty signature under "none".
    bad.push(super::harness::hmac_confused(claims));
    bad.push(
        signed(&with(header, "alg", json!("none")), claims).rsplit_once('.').unwrap().0.to_owned()
            + ".",
    );
    for (name, value) in [
        ("kid", json!("../../dev/null")),
        ("kid", json!("k' OR '1'='1")),
        ("kid", json!(null)),
        ("kid", json!(1)),
        ("typ", json!("JWT")),
        ("typ", json!(null)),
        ("crit", json!(["exp"])),
        ("zip", json!("DEF")),
        ("enc", json!("A128GCM")),
    ] {
        bad.push(signed(&with(header, name, value), claims));
    }
    // Keys that come with the token, or from where it says.
    for (name, value) in [
        ("jku", json!("http://127.0.0.1:1/keys")),
        ("x5u", json!("http://127.0.0.1:1/cert")),
        ("jwk", json!({"kty": "OKP", "crv": "Ed25519", "x": "AAAA"})),
    ] {
        bad.push(signed(&with(&with(header, "kid", json!("other")), name, value), claims));
    }
    bad
}

fn tokens_with_bad_claims(header: &Value, claims: &Value, now_s: u64) -> Vec<String> {
    let mut bad = Vec::new();
    for (name, value) in [
        ("iss", json!("somebody")),
        ("aud", json!("somebody")),
        ("exp", json!((now_s + 600).to_string())),
        ("exp", json!(null)),
        ("exp", json!(now_s - 10)),
        ("exp", json!(0)),
        ("exp", json!(-1)),
        ("exp", json!((now_s + 600) as f64 + 0.5)),
        ("iss", json!(["realchat"])),
        ("iss", json!(null)),
        ("aud", json!([])),
        ("aud", json!(null)),
        ("sub", json!("")),
        ("sub", json!(null)),
        ("did", json!(7)),
        ("did", json!(null)),
        ("nbf", json!(now_s + 3_600)),
    ] {
        bad.push(signed(header, &with(claims, name, value)));
    }
    bad
}

/// What is no token, or another's signature under this body.
fn no_tokens(header: &Value, claims: &Value) -> Vec<String> {
    let good = signed(header, claims);
    let parts: Vec<&str> = good.split('.').collect();
    let (head, body, signature) = (parts[0], parts[1], parts[2]);
    let other = signed(header, &with(claims, "jti", json!("2")));
    let other_body = other.split('.').nth(1).unwrap();
    vec![
        "..".to_owned(),
        head.to_owned(),
        format!("{head}.{body}"),
        format!("{good}.{signature}"),
        format!("{good}=="),
        format!("{head}.{other_body}.{signature}"),
        format!("{head}.{body}.{}", "A".repeat(86)),
        good[..good.len() - 1].to_owned(),
    ]
}

#[test]
fn tokens_of_every_wrong_kind_are_refused() {
    let gateway = Gateway::start(2, |_| {});
    let user = proto::id::new();
    let header = json!({"alg": "EdDSA", "typ": "at+jwt", "kid": "k"});
    let now_s = daemon::clock::now_us() / 1_000_000;
    let claims = json!({"iss": "realchat", "aud": "realchat", "sub": user.to_string(),
        "did": user.to_string(), "iat": now_s, "exp": now_s + 600, "jti": "1"});
    let bad = [
        tokens_with_bad_headers(&header, &claims),
        tokens_with_bad_claims(&header, &claims, now_s),
        no_tokens(&header, &claims),
    ]
    .concat();
    for token in &bad {
        let mut client = Client::connect(&gateway, true);
        client.send(1, Up::Hello(Hello { token: token.clone(), ..Hello::default() }));
        let (1, Down::Error(error)) = client.next() else { panic!("{token} was taken") };
        assert!(error.code.starts_with("token_"), "{error:?}");
        assert!(matches!(client.close_code(), Some(4001 | 4002)));
    }
    assert!(bad.len() >= 40, "{}", bad.len());
    let mut client = Client::connect(&gateway, true);
    client.send(1, Up::Hello(Hello { token: signed(&header, &claims), ..Hello::default() }));
    assert!(matches!(client.next(), (1, Down::Welcome(_))));
    gateway.stop();
}

#[test]
fn a_session_ends_with_its_token_and_lives_on_with_a_fresh_one() {
    const LIFETIME_S: i64 = 2;
    let gateway = Gateway::start(1, |_| {});
    let connect = || {
        let user = proto::id::new();
        let mut client = Client::connect(&gateway, true);
        let token = gateway.token(user, LIFETIME_S);
        client.send(1, Up::Hello(Hello { token, ..Hello::default() }));
        assert!(matches!(client.next(), (1, Down::Welcome(_))));
        (user, client)
    };
    let started = Instant::now();
    let (_, mut expiring) = connect();
    let (user, mut refreshed) = connect();
    let token = gateway.token(user, 600);
    refreshed.send(2, Up::TokenRefresh(TokenRefresh { token }));
    assert!(matches!(refreshed.next(), (2, Down::TokenAccepted(_))));
    assert!(
        matches!(expiring.next(), (0, Down::Error(error)) if error.code == "token_expired"),
        "it is told why"
    );
    assert_eq!(expiring.close_code(), Some(4002));
    // Expiry is told in whole seconds.
    let elapsed_s = started.elapsed().as_secs_f64();
    assert!((LIFETIME_S as f64 - 1.0..LIFETIME_S as f64 + 5.0).contains(&elapsed_s), "{elapsed_s}");
    while started.elapsed() < Duration::from_secs(LIFETIME_S as u64 + 2) {
        std::thread::sleep(Duration::from_millis(50));
    }
    gateway.deliver(user, event(Uuid::from_u128(7), 1));
    assert_eq!(refreshed.next_sequence_number(), 1);
    gateway.stop();
}

#[test]
fn who_takes_nothing_and_who_does_not_hang_up_are_dropped_in_time() {
    let gateway = Gateway::start(1, |settings| {
        settings.write_ms = 300;
        settings.ring_entries = 4_096;
        settings.ring_bytes_max = 64 << 20;
    });
    let user = proto::id::new();
    let mut deaf = Client::greeted(&gateway, user, true);
    // The deadline may pass before all is delivered.
    let started = Instant::now();
    for _ in 0..400 {
        gateway.deliver(user, big_event(60_000));
    }
    while gateway.closes(Reason::WriteDeadline) == 0 {
        assert!(started.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(started.elapsed() > Duration::from_millis(250));
    drop(deaf.socket.get_mut().shutdown(Shutdown::Both));
    // It was told to go and stays: its slot is free two seconds later.
    let mut stays = upgraded(&gateway);
    stays.write_all(&[0x81, 2, b'h', b'i']).unwrap();
    assert_eq!(close_code(&read_bytes(&mut stays)), Some(1002));
    let started = Instant::now();
    while gateway.connections() > 0 {
        assert!(started.elapsed() < Duration::from_secs(5));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(gateway.closes(Reason::ProtocolViolation), 1);
    drop(stays);
    gateway.stop();
}

#[test]
fn unfinished_messages_take_no_more_than_their_share() {
    let gateway = Gateway::start(1, |settings| settings.partial_bytes_max = 100_000);
    let user = proto::id::new();
    let mut neighbour = Client::greeted(&gateway, user, true);
    let head = {
        let mut head = vec![0x82, 0x80 | 127];
        head.extend(60_000_u64.to_be_bytes());
        head.extend([0; 4]);
        head
    };
    let unfinished = || {
        let mut stream = upgraded(&gateway);
        stream.write_all(&[head.as_slice(), &[0; 40_000]].concat()).unwrap();
        stream
    };
    let wait_for = |bytes: u64| {
        let started = Instant::now();
        while gateway.counts(0).partial_bytes.get() != bytes {
            let seen = gateway.counts(0).partial_bytes.get();
            assert!(
                started.elapsed() < Duration::from_secs(5),
                "{bytes} bytes are awaited: {seen}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let mut first = unfinished();
    let _second = unfinished();
    wait_for(80_000);
    // One more is too much, and gives back what it took; the others go on.
    let mut third = unfinished();
    assert_eq!(close_code(&read_bytes(&mut third)), Some(1013));
    wait_for(80_000);
    first.write_all(&[0; 20_000]).unwrap();
    wait_for(40_000);
    neighbour_is_served(&gateway, &mut neighbour, user);
    gateway.stop();
}
