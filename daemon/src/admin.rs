//! The admin endpoint: `/healthz`, `/readyz` and `/metrics` over HTTP/1.1, one request a connection.

use crate::health::Health;
use crate::limits::{ADMIN_CONNECTIONS_MAX, ADMIN_HEAD_BYTES_MAX, ADMIN_READ_MS_MAX};
use crate::metrics::{CONTENT_TYPE, Metrics};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Serves on its own thread until the process ends; returns the address, with the port it got.
pub fn serve(address: &str, health: Health, metrics: Metrics) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(address)?;
    let local = listener.local_addr()?;
    tracing::info!(address = %local, "admin endpoint");
    let open = Arc::new(AtomicUsize::new(0));
    std::thread::Builder::new().name("admin".into()).spawn(move || {
        for stream in listener.incoming().flatten() {
            if open.fetch_add(1, Ordering::Relaxed) >= ADMIN_CONNECTIONS_MAX {
                open.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            let (health, metrics, open) = (health.clone(), metrics.clone(), Arc::clone(&open));
            let _ = std::thread::Builder::new().name("admin-request".into()).spawn(move || {
                // A client that hangs up early has itself to blame.
                let _ = answer(stream, &health, &metrics);
                open.fetch_sub(1, Ordering::Relaxed);
            });
        }
    })?;
    Ok(local)
}

fn answer(mut stream: TcpStream, health: &Health, metrics: &Metrics) -> io::Result<()> {
    let timeout = Some(Duration::from_millis(ADMIN_READ_MS_MAX));
    stream.set_read_timeout(timeout)?;
    stream.set_write_timeout(timeout)?;
    let (status, content_type, body) = match read_target(&mut stream)?.as_deref() {
        Some("/healthz") => ("200 OK", "text/plain", "ok\n".to_owned()),
        Some("/readyz") => ready(health),
        Some("/metrics") => ("200 OK", CONTENT_TYPE, metrics.text()),
        #[cfg(feature = "failpoints")]
        Some(path) if path.starts_with(FAILPOINT) => arm_failpoint(path),
        Some(_) => ("404 Not Found", "text/plain", "try /healthz, /readyz or /metrics\n".into()),
        None => ("400 Bad Request", "text/plain", "send a GET request\n".into()),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(feature = "failpoints")]
const FAILPOINT: &str = "/failpoint/";

#[cfg(feature = "failpoints")]
fn arm_failpoint(path: &str) -> (&'static str, &'static str, String) {
    match crate::failpoint::arm(&path[FAILPOINT.len()..]) {
        Ok(()) => ("200 OK", "text/plain", "armed\n".to_owned()),
        Err(error) => ("400 Bad Request", "text/plain", format!("{error}\n")),
    }
}

fn ready(health: &Health) -> (&'static str, &'static str, String) {
    let missing = health.missing();
    if missing.is_empty() {
        return ("200 OK", "text/plain", "ready\n".to_owned());
    }
    let lines = missing.iter().map(|(condition, reason)| format!("{condition}: {reason}\n"));
    ("503 Service Unavailable", "text/plain", lines.collect())
}

/// The path of a GET request; nothing if the bytes are no such request.
fn read_target(stream: &mut TcpStream) -> io::Result<Option<String>> {
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    while head.len() < ADMIN_HEAD_BYTES_MAX {
        let count = stream.read(&mut chunk)?;
        head.extend_from_slice(&chunk[..count]);
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(&head) {
            Ok(httparse::Status::Complete(_)) => {
                let is_get = request.method == Some("GET");
                let path = request.path.map(|path| path.split('?').next().unwrap_or(path));
                return Ok(path.filter(|_| is_get).map(str::to_owned));
            }
            Ok(httparse::Status::Partial) if count > 0 => {}
            _ => return Ok(None),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn readiness_follows_health_and_bad_requests_are_told_so() {
        let health = Health::default();
        health.require("postgres", "connection refused");
        let address = serve("127.0.0.1:0", health.clone(), Metrics::new("test")).unwrap();
        let answer = get(address, "GET /readyz HTTP/1.1\r\n\r\n");
        assert!(
            answer.starts_with("HTTP/1.1 503") && answer.contains("postgres: connection refused")
        );
        health.ready("postgres");
        assert!(get(address, "GET /readyz HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200"));
        assert!(get(address, "GET /metrics HTTP/1.1\r\n\r\n").contains("# EOF"));
        assert!(get(address, "GET /other HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404"));
        assert!(get(address, "\u{0}\r\n\r\n").starts_with("HTTP/1.1 400"));
    }
}
