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
