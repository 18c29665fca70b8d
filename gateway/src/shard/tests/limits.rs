//! Limits by address and by user, and who an address is, with real sockets.

use super::harness::{self, Client, Gateway, read_to_end};
use crate::close::Reason;
use crate::inbound::listen::Bound;
use crate::inbound::proxy::{Proxies, tests as proxy_header};
use crate::limits::{IN_FLIGHT_MAX, LIMIT_BURST_S, REFUSED_FRAMES_MAX};
use crate::mail::{AskKind, Asked, Mail};
use crate::rate::{Allowed, Limits};
use proto::client::client_frame::Frame as Up;
use proto::client::server_frame::Frame as Down;
use proto::client::{self, Hello, Sent};
use proto::limits::{CLIENT_FRAME_BYTES_MAX, PRESENCE_USERS_MAX};
use proto::link::response::Response;
use proto::{Message, Uuid};
use rustls::version::TLS13;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn limited(allowed: Allowed) -> Gateway {
    Gateway::start(2, |settings| settings.limits = Arc::new(Limits::new(allowed)))
}

#[test]
fn connections_of_one_address_beyond_the_limit_are_answered_429_until_one_ends() {
    let gateway = limited(Allowed { connections: 2, ..Allowed::default() });
    let mut first = Client::greeted(&gateway, proto::id::new(), true);
    let _second = Client::greeted(&gateway, proto::id::new(), true);
    let text = read_to_end(&mut gateway.stream());
    assert!(text.starts_with("HTTP/1.1 429 Too Many Requests\r\n"), "{text}");
    assert!(text.contains("retry-after: 1\r\n") && text.contains("too_many_requests"), "{text}");
    let mut stream = TcpStream::connect(gateway.tls_address).unwrap();
    let mut bytes = Vec::new();
    // One over TLS is closed before the handshake.
    assert!(stream.read_to_end(&mut bytes).is_err() || bytes.is_empty());
    assert_eq!(gateway.closes(Reason::AddressLimited), 2);
    first.close();
    drop(first);
    let started = Instant::now();
    loop {
        let mut stream = gateway.stream();
        // Refused ones may be reset.
        let _ = stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n");
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        if text.starts_with("HTTP/1.1 200 OK") {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(5), "{text}");
    }
    gateway.stop();
}

#[test]
fn connecting_too_fast_is_answered_429() {
    let gateway = limited(Allowed { connects_per_s: 1, ..Allowed::default() });
    let answers: Vec<String> = (0..8)
        .map(|_| {
            let mut stream = gateway.stream();
            let _ = stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n");
            let mut text = String::new();
            let _ = stream.read_to_string(&mut text);
            text
        })
        .collect();
    let served = answers.iter().filter(|it| it.starts_with("HTTP/1.1 200")).count();
    assert!((5..8).contains(&served), "{answers:?}");
    assert!(gateway.closes(Reason::AddressLimited) >= 1);
    gateway.stop();
}

#[test]
fn requests_beyond_the_rate_are_answered_429_on_a_connection_that_stays() {
    let gateway = limited(Allowed { requests_per_s: 1, ..Allowed::default() });
    let mut stream = gateway.stream();
    let mut requests = "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n".repeat(6);
    requests += "GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    stream.write_all(requests.as_bytes()).unwrap();
    let text = read_to_end(&mut stream);
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 5, "{text}");
    assert_eq!(text.matches("HTTP/1.1 429 Too Many Requests").count(), 2, "{text}");
    assert!(text.contains("retry-after: 1\r\n"), "{text}");
    // An upgrade is a request, too.
    let mut stream = gateway.stream();
    stream.write_all(harness::upgrade_request("Connection: close\r\n").as_bytes()).unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 429");
    gateway.stop();
}

#[test]
fn frames_of_one_user_beyond_the_rate_are_refused_by_name_and_others_are_served() {
    let gateway = limited(Allowed { frames_per_s: 2, ..Allowed::default() });
    let user = proto::id::new();
    // Two sessions of one user share what it may.
    let mut devices = [true, false].map(|binary| Client::greeted(&gateway, user, binary));
    let subscribe = || Up::PresenceSubscribe(client::PresenceSubscribe { user_ids: vec![] });
    let refresh = || Up::TokenRefresh(client::TokenRefresh { token: "none".into() });
    for device in &mut devices {
        for _ in 0..5 {
            device.send(0, subscribe());
        }
        device.send(7, refresh());
    }
    let mut limited = 0;
    for device in &mut devices {
        loop {
            let (request_id, Down::Error(error)) = device.next() else { panic!("an error") };
            if error.code == "too_many_requests" {
                limited += 1;
                assert!(error.retryable && (1..=1_000).contains(&error.retry_after_ms));
            }
            if request_id == 7 {
                break;
            }
        }
    }
    assert!((1..=2).contains(&limited), "12 frames, 10 in a burst: {limited}");
    let mut other = Client::greeted(&gateway, proto::id::new(), true);
    other.send(7, refresh());
    assert!(matches!(other.next(), (7, Down::Error(error)) if error.code == "token_invalid"));
    gateway.stop();
}

#[test]
fn a_session_that_goes_on_beyond_its_users_rate_is_closed_with_1008() {
    let gateway = limited(Allowed { frames_per_s: 1, ..Allowed::default() });
    let mut client = Client::greeted(&gateway, proto::id::new(), true);
    let refresh = || Up::TokenRefresh(client::TokenRefresh { token: "none".into() });
    // Its burst, all that are told that they are too many, and some more.
    let frames = LIMIT_BURST_S + u64::from(REFUSED_FRAMES_MAX) + 20;
    for _ in 0..frames {
        client.send(7, refresh());
    }
    assert_eq!(client.close_code(), Some(1008));
    gateway.stop();
}

#[test]
fn one_session_of_a_user_too_many_is_closed_with_4029() {
    let gateway = Gateway::start(2, |settings| settings.sessions_per_user_max = 2);
    let user = proto::id::new();
    let mut first = Client::greeted(&gateway, user, true);
    let _second = Client::greeted(&gateway, user, true);
    let mut third = Client::connect(&gateway, false);
    third.send(1, Up::Hello(gateway.hello(user)));
    let (1, Down::Error(error)) = third.next() else { panic!("an error is awaited") };
    assert!(error.code == "too_many_requests" && error.message.contains("at most 2 sessions"));
    assert!(error.retry_after_ms > 0);
    assert_eq!(third.close_code(), Some(4029));
    let _other = Client::greeted(&gateway, proto::id::new(), true);
    first.close();
    let _again = Client::greeted(&gateway, user, true);
    gateway.stop();
}

#[test]
fn where_the_token_came_in_authorization_one_session_too_many_is_answered_429() {
    // Connections come to either shard, and the user lives in one.
    let gateway = Gateway::start(2, |settings| settings.sessions_per_user_max = 2);
    let user = proto::id::new();
    let answer = |path: &str, user: Uuid| {
        let mut stream = gateway.stream();
        let bearer = format!("Authorization: Bearer {}\r\n", gateway.token(user, 600));
        let request = harness::upgrade_request(&bearer).replace("/v1/connect", path);
        stream.write_all(request.as_bytes()).unwrap();
        let mut head = vec![0; 1_024];
        let bytes = stream.read(&mut head).unwrap();
        (stream, String::from_utf8_lossy(&head[..bytes]).into_owned())
    };
    let mut sessions: Vec<_> = (0..2).map(|_| Client::greeted(&gateway, user, true)).collect();
    for _ in 0..10 {
        for path in ["/v1/connect", "/v1/events"] {
            let (_stream, text) = answer(path, user);
            assert!(text.starts_with("HTTP/1.1 429 "), "{text}");
            assert!(
                text.contains("retry-after: ") && text.contains("at most 2 sessions"),
                "{text}"
            );
        }
        let (_stream, text) = answer("/v1/connect", proto::id::new());
        assert!(text.starts_with("HTTP/1.1 101 "), "{text}");
    }
    sessions.remove(0).close();
    // Of the one that is granted the hello needs no further token.
    let (stream, text) = answer("/v1/connect", user);
    assert!(text.starts_with("HTTP/1.1 101 "), "{text}");
    let mut client = Client::upgraded(stream);
    client.send(1, Up::Hello(Hello::default()));
    let (1, Down::Welcome(welcome)) = client.next() else { panic!("a welcome is awaited") };
    assert_eq!(welcome.user_id, user.as_bytes());
    gateway.stop();
}

fn behind_proxies(allowed: Allowed, protocol: bool) -> Gateway {
    Gateway::start(2, |settings| {
        settings.handshake_ms = 400;
        settings.policy.proxies = Proxies::new(&["127.0.0.0/8".to_owned()], protocol).unwrap();
        settings.limits = Arc::new(Limits::new(allowed));
    })
}

#[test]
fn a_proxys_header_says_who_the_client_is_before_tls_and_before_http() {
    let gateway = behind_proxies(Allowed { connections: 1, ..Allowed::default() }, true);
    let header = proxy_header::header([192, 0, 2, 7]);
    let mut stream = gateway.stream();
    for piece in header.chunks(5) {
        stream.write_all(piece).unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    stream.write_all(b"GET /v1/a HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let ask = gateway.next_ask();
    assert!(matches!(&ask.kind, AskKind::Http(http) if http.client_ip == "192.0.2.7"));
    // The client's second connection is one too many; the proxy's own are not limited.
    let mut second = gateway.stream();
    second.write_all(&header).unwrap();
    let text = read_to_end(&mut second);
    assert!(text.starts_with("HTTP/1.1 429 "), "{text}");
    let tls = TcpStream::connect(gateway.tls_address).unwrap();
    (&tls).write_all(&proxy_header::header([192, 0, 2, 8])).unwrap();
    let mut tls = rustls::StreamOwned::new(gateway.identity.client(&[&TLS13]), tls);
    tls.write_all(b"GET /v1/b HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let ask = gateway.next_ask();
    assert!(matches!(&ask.kind, AskKind::Http(http) if http.client_ip == "192.0.2.8"));
    gateway.stop();
}

#[test]
fn a_listed_proxy_without_its_header_is_refused() {
    let gateway = behind_proxies(Allowed::default(), true);
    let mut stream = gateway.stream();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let mut bytes = Vec::new();
    assert!(stream.read_to_end(&mut bytes).is_err() || bytes.is_empty());
    let started = Instant::now();
    let mut slow = gateway.stream();
    slow.write_all(&proxy_header::header([192, 0, 2, 7])[..20]).unwrap();
    assert!(slow.read_to_end(&mut bytes).is_err() || bytes.is_empty());
    assert!((300..5_000).contains(&started.elapsed().as_millis()));
    assert_eq!(gateway.closes(Reason::ProxyHeader), 2);
    gateway.stop();
}

#[test]
fn a_forwarded_address_has_its_own_limits_and_one_that_anybody_wrote_has_not() {
    let allowed = Allowed { requests_per_s: 1, connections: 1, ..Allowed::default() };
    let request = |address: &str| {
        format!(
            "GET /v1/a HTTP/1.0\r\nX-Forwarded-For: 6.6.6.6, {address}\r\nForwarded: for=7.7.7.7\r\n\r\n"
        )
    };
    let gateway = behind_proxies(allowed, false);
    let mut open = Vec::new();
    for (address, count) in [("192.0.2.7", 5), ("192.0.2.8", 5)] {
        for _ in 0..count {
            let mut stream = gateway.stream();
            stream.write_all(request(address).as_bytes()).unwrap();
            open.push(stream);
            let AskKind::Http(http) = gateway.next_ask().kind else { panic!("HTTP is asked") };
            assert_eq!(http.client_ip, address);
            let names = ["x-forwarded-for", "forwarded"];
            assert!(
                http.headers.iter().all(|it| !names.contains(&it.name.to_lowercase().as_str()))
            );
        }
        let mut stream = gateway.stream();
        stream.write_all(request(address).as_bytes()).unwrap();
        assert!(read_to_end(&mut stream).starts_with("HTTP/1.1 429 "));
    }
    gateway.stop();
    let gateway = limited(Allowed { requests_per_s: 1, ..Allowed::default() });
    let mut stream = gateway.stream();
    stream.write_all(request("192.0.2.7").as_bytes()).unwrap();
    let AskKind::Http(http) = gateway.next_ask().kind else { panic!("HTTP is asked") };
    assert_eq!(http.client_ip, "127.0.0.1");
    gateway.stop();
}

#[test]
fn ipv6_listeners_serve_beside_ipv4() {
    let gateway = Gateway::start(1, |_| {});
    let Ok(bound) = Bound::new(&["[::1]:0".to_owned()], &[], 1) else {
        // A machine without IPv6.
        return gateway.stop();
    };
    let address = bound.addresses[0].1;
    let listeners = bound.listen().unwrap().remove(0);
    gateway.mailboxes.get(0).send(Mail::Listen(listeners)).unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /v1/a HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let ask = gateway.next_ask();
    assert!(matches!(&ask.kind, AskKind::Http(http) if http.client_ip == "::1"));
    let mut client = Client::over(TcpStream::connect(address).unwrap(), true);
    client.send(1, Up::Hello(Hello { ..gateway.hello(proto::id::new()) }));
    assert!(matches!(client.next(), (1, Down::Welcome(_))));
    gateway.stop();
}

fn send(session: &mut Client, request_id: u64) {
    let send = client::Send {
        conversation_id: vec![1; 16],
        idempotency_key: request_id.to_string(),
        text: "hi".into(),
    };
    session.send(request_id, Up::Send(send));
}

#[test]
fn one_request_too_many_at_once_is_refused_and_the_next_answer_makes_room() {
    let gateway = Gateway::start(1, |_| {});
    let mut client = Client::greeted(&gateway, proto::id::new(), true);
    let most = u64::from(IN_FLIGHT_MAX);
    for request_id in 1..=most + 1 {
        send(&mut client, request_id);
    }
    let (refused, Down::Error(error)) = client.next() else { panic!("an error is awaited") };
    assert_eq!((refused, error.code.as_str()), (most + 1, "overloaded"));
    assert!(error.retryable && error.message.contains("at most 64 requests"), "{error:?}");
    let asks: Vec<_> = (0..most).map(|_| gateway.next_ask()).collect();
    assert!(gateway.no_ask());
    gateway.answer(&asks[0], Asked::Send, Ok(Response::Sent(Sent::default())));
    while !matches!(client.next(), (1, Down::Sent(_))) {}
    send(&mut client, most + 2);
    assert_eq!(gateway.next_ask().request_id, most + 2);
    gateway.stop();
}

#[test]
fn presence_is_asked_of_so_many_users_and_no_more() {
    let gateway = Gateway::start(1, |_| {});
    let mut client = Client::greeted(&gateway, proto::id::new(), true);
    let subscribe = |users: usize| {
        let user_ids = (0..users).map(|_| proto::id::new().as_bytes().to_vec()).collect();
        Up::PresenceSubscribe(client::PresenceSubscribe { user_ids })
    };
    client.send(2, subscribe(PRESENCE_USERS_MAX));
    let ask = gateway.next_ask();
    let AskKind::PresenceAuthorize(users) = &ask.kind else { panic!("presence is asked") };
    assert_eq!(users.len(), PRESENCE_USERS_MAX);
    client.send(3, subscribe(PRESENCE_USERS_MAX + 1));
    let (3, Down::Error(error)) = client.next() else { panic!("an error is awaited") };
    assert!(error.message.starts_with("1025 user_ids; at most 1024"), "{}", error.message);
    gateway.stop();
}

#[test]
fn a_frame_of_the_largest_size_is_read_and_one_byte_more_closes_with_1009() {
    let gateway = Gateway::start(1, |settings| {
        settings.policy.frames.message_bytes_max = CLIENT_FRAME_BYTES_MAX;
    });
    let frame = |bytes: usize| {
        let of_token = |bytes: usize| {
            let token = "x".repeat(bytes);
            let frame = Some(Up::TokenRefresh(client::TokenRefresh { token }));
            client::ClientFrame { request_id: 7, frame }.encode_to_vec()
        };
        let around = of_token(bytes).len() - bytes;
        let frame = of_token(bytes - around);
        assert_eq!(frame.len(), bytes);
        tungstenite::Message::binary(frame)
    };
    let mut client = Client::greeted(&gateway, proto::id::new(), true);
    client.socket.send(frame(CLIENT_FRAME_BYTES_MAX)).unwrap();
    assert!(matches!(client.next(), (7, Down::Error(error)) if error.code == "token_invalid"));
    client.socket.send(frame(CLIENT_FRAME_BYTES_MAX + 1)).unwrap();
    assert_eq!(client.close_code(), Some(1009));
    gateway.stop();
}
