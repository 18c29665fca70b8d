//! A real PostgreSQL in a temporary folder, chatd as its own process, and the link to it.
//!
//! Nothing of it outlives the test process, however that ends: PostgreSQL's keeper reads from a pipe
//! whose other end is here, and stops the server when it closes.

pub(crate) mod chatd;
pub(crate) mod people;
pub(crate) mod postgres;

pub(crate) use chatd::Chatd;
pub(crate) use people::Person;
pub(crate) use postgres::Database;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Longer than anything here takes, even on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `done` gives something.
pub(crate) fn wait_for<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What an admin endpoint answers; nothing if it does not.
pub(crate) fn admin_get(admin: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(admin).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// A metric without labels, from an admin endpoint; nothing if that does not answer.
pub(crate) fn metric(admin: &str, name: &str) -> Option<i64> {
    let answer = admin_get(admin, "/metrics")?;
    let line = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.parse().ok()
}
