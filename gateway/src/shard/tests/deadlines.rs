//! Every state of a connection has its deadline and its reason; a byte now and then is no way around it.

use super::harness::{Client, Gateway, big_event, narrow, upgrade_request};
use crate::close::Reason;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const DEADLINE_MS: u64 = 500;
const UPGRADED: &str = "\r\n\r\n";

fn start() -> Gateway {
    Gateway::start(1, |settings| {
        settings.tls_handshake_ms = DEADLINE_MS;
        settings.handshake_ms = DEADLINE_MS;
        settings.body_ms = DEADLINE_MS;
        settings.answer_ms = DEADLINE_MS;
        settings.keep_alive_ms = DEADLINE_MS;
        settings.hello_ms = DEADLINE_MS;
        settings.write_ms = DEADLINE_MS;
        settings.ping_ms = DEADLINE_MS / 2;
        settings.pong_ms = DEADLINE_MS / 2;
    })
}

/// Says `first` and then `dribble`, a byte every now and then, until the gateway ends the connection:
/// in time, for this reason. Returns what it said.
fn ends(
    mut stream: TcpStream,
    gateway: &Gateway,
    first: &str,
    dribble: &str,
    reason: Reason,
) -> String {
    stream.write_all(first.as_bytes()).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let (started, mut said) = (Instant::now(), Vec::new());
    let mut rest = dribble.bytes();
    loop {
        let mut bytes = [0; 4_096];
        match stream.read(&mut bytes) {
            Ok(0) => break,
            Ok(count) => said.extend(&bytes[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(_) => {}
        }
        if let Some(byte) = rest.next() {
            let _ = stream.write_all(&[byte]);
        }
        assert!(started.elapsed() < Duration::from_secs(8), "{reason:?} did not come");
    }
    let elapsed_ms = started.elapsed().as_millis();
    assert!(elapsed_ms + 20 >= u128::from(DEADLINE_MS), "{reason:?} came after {elapsed_ms} ms");
    drop(stream);
    await_closes(gateway, reason, 1);
    String::from_utf8_lossy(&said).into_owned()
}

fn await_closes(gateway: &Gateway, reason: Reason, count: u64) {
    let started = Instant::now();
    while gateway.closes(reason) < count {
        assert!(started.elapsed() < Duration::from_secs(8), "{reason:?} is not counted");
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(gateway.closes(reason), count, "{reason:?}");
}

#[test]
fn handshake_head_body_answer_and_keep_alive_have_their_deadlines() {
    let gateway = start();
    let tls = narrow(gateway.tls_address);
    // A ClientHello that does not end.
    let hello = "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}";
    ends(tls, &gateway, hello, &"\0".repeat(400), Reason::TlsDeadline);
    let forever = "x".repeat(4_000);
    ends(
        gateway.stream(),
        &gateway,
        "GET /healthz HTTP/1.1\r\nA: ",
        &forever,
        Reason::HandshakeDeadline,
    );
    let post = "POST /v1/auth/login HTTP/1.1\r\nHost: h\r\nContent-Length: 5000\r\n\r\n";
    ends(gateway.stream(), &gateway, post, &forever, Reason::BodyDeadline);
    assert!(gateway.no_ask(), "half a body is no request");
    let idle = ends(
        gateway.stream(),
        &gateway,
        "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n",
        "",
        Reason::KeepAliveIdle,
    );
    assert!(idle.starts_with("HTTP/1.1 200 OK"), "{idle}");
    // Nobody behind the gateway answers.
    let get = "GET /v1/me HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    let late = ends(gateway.stream(), &gateway, get, "", Reason::HttpDone);
    assert!(late.starts_with("HTTP/1.1 504 "), "{late}");
    gateway.stop();
}

#[test]
fn upgrade_authentication_idle_write_and_close_have_their_deadlines() {
    let gateway = start();
    let request = upgrade_request("");
    let half = &request[..request.len() - UPGRADED.len()];
    ends(gateway.stream(), &gateway, half, "\r\nX: x", Reason::HandshakeDeadline);
    // Upgraded, and nothing is said: the beginning of a frame does not help.
    let said = ends(gateway.stream(), &gateway, &request, "\u{2}", Reason::HelloDeadline);
    assert!(said.starts_with("HTTP/1.1 101 ") && said.contains("no hello"), "{said:?}");
    // A session that does not answer pings; it may read.
    let mut silent = Client::greeted(&gateway, proto::id::new(), true);
    let started = Instant::now();
    while gateway.closes(Reason::HeartbeatMissed) == 0 {
        assert!(started.elapsed() < Duration::from_secs(8));
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(started.elapsed() + Duration::from_millis(50) >= Duration::from_millis(DEADLINE_MS));
    assert_eq!(silent.close_code(), Some(4009));
    gateway.stop();
    let gateway = Gateway::start(1, |settings| {
        settings.write_ms = DEADLINE_MS;
        settings.ring_entries = 4_096;
        settings.ring_bytes_max = 64 << 20;
    });
    let user = proto::id::new();
    let deaf = Client::greeted(&gateway, user, true);
    for _ in 0..400 {
        gateway.deliver(user, big_event(60_000));
    }
    await_closes(&gateway, Reason::WriteDeadline, 1);
    drop(deaf);
    // Told to go, it stays: its slot is free all the same.
    let mut stays = gateway.stream();
    stays.write_all(format!("{request}\u{1}\u{1}").as_bytes()).unwrap();
    await_closes(&gateway, Reason::ProtocolViolation, 1);
    let started = Instant::now();
    while gateway.connections() > 0 {
        assert!(started.elapsed() < Duration::from_secs(8), "its slot is still taken");
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(stays);
    gateway.stop();
}
