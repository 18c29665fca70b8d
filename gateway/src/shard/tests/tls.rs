//! TLS with real sockets, and rustls's own client at the other end.

use super::harness::{Client, Gateway, TlsStream, event, narrow, read_bytes};
use crate::close::Reason;
use crate::mail::Mail;
use proto::Uuid;
use rustls::version::{TLS12, TLS13};
use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

fn await_closes(gateway: &Gateway, reason: Reason, count: u64) {
    let started = Instant::now();
    while gateway.closes(reason) < count {
        assert!(started.elapsed() < Duration::from_secs(10), "{reason:?}");
        std::thread::yield_now();
    }
}

#[test]
fn sessions_over_tls_live_in_their_home_shard_beside_plain_ones() {
    // More than is sent at once: neither reader is slow, but a machine may be.
    let gateway = Gateway::start(3, |settings| settings.ring_entries = 1_000);
    for version in [&TLS13, &TLS12] {
        for binary in [true, false] {
            let user = proto::id::new();
            let mut plain = Client::greeted(&gateway, user, binary);
            let mut client = Client::over(gateway.tls_stream(version), binary);
            client.greet(&gateway, user);
            for number in 1..=500 {
                gateway.deliver(user, event(Uuid::from_u128(7), number));
            }
            for number in 1..=500 {
                assert_eq!(client.next_sequence_number(), number);
                assert_eq!(plain.next_sequence_number(), number);
            }
            assert_eq!(client.socket.get_ref().conn.alpn_protocol(), Some(&b"http/1.1"[..]));
            client.close();
        }
    }
    gateway.stop();
}

#[test]
fn a_reader_over_tls_that_is_slow_gets_every_byte_in_order() {
    let gateway = Gateway::start(1, |settings| {
        settings.ring_entries = 1_000;
        settings.ring_bytes_max = 64 << 20;
    });
    let user = proto::id::new();
    let mut client = Client::over(gateway.tls_stream(&TLS13), true);
    client.greet(&gateway, user);
    // More than the socket's buffers take.
    for number in 1..=400 {
        let mut big = super::harness::big_event(20_000);
        big.sequence_number = number;
        gateway.deliver(user, big);
    }
    std::thread::sleep(Duration::from_millis(200));
    for number in 1..=400 {
        assert_eq!(client.next_sequence_number(), number);
    }
    client.close();
    gateway.stop();
}

#[test]
fn requests_over_tls_are_answered_and_the_end_is_told() {
    let gateway = Gateway::start(1, |_| {});
    let mut stream = gateway.tls_stream(&TLS13);
    let request = "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    stream.write_all(request.replace("Host", "Connection: close\r\nHost").as_bytes()).unwrap();
    let mut text = String::new();
    // Without a close_notify this would be an error.
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 2, "{text}");
    gateway.stop();
}

#[test]
fn a_new_certificate_is_for_new_handshakes_and_drops_nobody() {
    let mut gateway = Gateway::start(2, |_| {});
    let user = proto::id::new();
    let mut before = Client::over(gateway.tls_stream(&TLS13), true);
    before.greet(&gateway, user);
    let old = gateway.identity.certificate.clone();
    gateway.identity.renew();
    for mailbox in gateway.mailboxes.iter() {
        mailbox.send(Mail::Certificate(gateway.identity.config())).unwrap();
    }
    // The letters lie in the mailboxes before what comes now.
    let shown = |stream: &TlsStream| stream.conn.peer_certificates().unwrap()[0].clone();
    let started = Instant::now();
    let mut after = loop {
        // A shard may not have looked into its mailbox yet: then its certificate is not trusted.
        let stream = narrow(gateway.tls_address);
        let mut stream = rustls::StreamOwned::new(gateway.identity.client(&[&TLS13]), stream);
        if stream.conn.complete_io(&mut stream.sock).is_ok() {
            break stream;
        }
        assert!(started.elapsed() < Duration::from_secs(5));
    };
    assert_ne!(shown(&after), old);
    after.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    after.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK"), "{text}");
    assert_eq!(shown(before.socket.get_ref()), old);
    gateway.deliver(user, event(Uuid::from_u128(7), 1));
    assert_eq!(before.next_sequence_number(), 1);
    gateway.stop();
}

#[test]
fn handshakes_that_stall_end_in_time_and_hold_up_no_more_than_their_number() {
    let gateway = Gateway::start(1, |settings| {
        settings.tls_handshake_ms = 400;
        settings.tls_handshakes_max = 2;
    });
    let started = Instant::now();
    let connect = || {
        let stream = narrow(gateway.tls_address);
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    };
    let mut silent = connect();
    let mut slow = connect();
    slow.write_all(&[22, 3, 1, 2, 0, 1]).unwrap();
    // Those without TLS are served meanwhile, and those who wait are when there is room.
    let mut plain = gateway.stream();
    plain.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").unwrap();
    assert!(read_bytes(&mut plain).starts_with(b"HTTP/1.1 200 OK"));
    assert!(started.elapsed() < Duration::from_millis(300));
    let mut waiting = gateway.tls_stream(&TLS13);
    assert!(started.elapsed() >= Duration::from_millis(350), "it had to wait");
    waiting.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    waiting.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK"), "{text}");
    for stalled in [&mut silent, &mut slow] {
        let mut byte = [0];
        match stalled.read(&mut byte) {
            Ok(count) => assert_eq!(count, 0),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    }
    assert_eq!(gateway.closes(Reason::TlsDeadline), 2);
    gateway.stop();
}

#[test]
fn what_is_no_tls_is_answered_with_an_alert() {
    let gateway = Gateway::start(1, |_| {});
    let mut stream = narrow(gateway.tls_address);
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let mut record = [0; 7];
    stream.read_exact(&mut record).unwrap();
    assert_eq!(record[..3], [21, 3, 3], "an alert");
    await_closes(&gateway, Reason::TlsFailed, 1);
    gateway.stop();
}

/// Bytes that no key has touched, in the middle of a session.
#[test]
fn a_record_that_was_tampered_with_ends_the_session() {
    let gateway = Gateway::start(1, |_| {});
    let mut client = Client::over(gateway.tls_stream(&TLS13), true);
    client.greet(&gateway, proto::id::new());
    client.socket.get_mut().sock.write_all(&[23, 3, 3, 0, 17]).unwrap();
    client.socket.get_mut().sock.write_all(&[7; 17]).unwrap();
    await_closes(&gateway, Reason::TlsFailed, 1);
    assert!(client.socket.read().is_err());
    gateway.stop();
}
