//! Listens to PostgreSQL: chatd says that something was committed, other relays that they live.

use crate::config::Settings;
use crate::database::{Backoff, connect, explain};
use crate::limits::LISTEN_MS_MAX;
use crossbeam_channel::Sender;
use postgres::fallible_iterator::FallibleIterator;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Notified by chatd, once per commit that wrote to the outbox.
const COMMITTED: &str = "realchat_outbox";
/// Notified by every relay at every tick, with its name.
pub(crate) const ALIVE: &str = "realchat_relay";
/// Before the name of a relay that has given its leases back and ends.
pub(crate) const GONE: &str = "gone:";

/// When each relay, this one included, was last heard of.
#[derive(Debug, Clone, Default)]
pub(crate) struct Peers {
    heard: Arc<Mutex<HashMap<String, Instant>>>,
}

impl Peers {
    fn heard(&self, payload: &str) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        match payload.strip_prefix(GONE) {
            Some(name) => heard.remove(name),
            None => heard.insert(payload.to_owned(), Instant::now()),
        };
    }

    /// How many others were heard of within `within`; older ones are forgotten.
    pub(crate) fn others(&self, me: &str, within: Duration) -> usize {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.retain(|_, at| at.elapsed() < within);
        heard.keys().filter(|name| *name != me).count()
    }
}

/// Runs until the process stops.
pub(crate) fn listen(settings: &Settings, peers: &Peers, wake: &[Sender<()>], stop: &AtomicBool) {
    let mut backoff = Backoff::default();
    while !stop.load(Ordering::Acquire) {
        if let Err(error) = listen_once(settings, peers, wake, stop, &mut backoff) {
            tracing::warn!(error, "listening to postgres; polling meanwhile");
            std::thread::sleep(backoff.next());
        }
    }
}

fn listen_once(
    settings: &Settings,
    peers: &Peers,
    wake: &[Sender<()>],
    stop: &AtomicBool,
    backoff: &mut Backoff,
) -> Result<(), String> {
    let mut client = connect(&settings.postgres_url, "wake")?;
    client
        .batch_execute(&format!("LISTEN {COMMITTED}; LISTEN {ALIVE}"))
        .map_err(|error| explain(&error))?;
    backoff.reset();
    wake_all(wake);
    while !stop.load(Ordering::Acquire) {
        {
            let mut notifications = client.notifications();
            let mut waiting = notifications.timeout_iter(Duration::from_millis(LISTEN_MS_MAX));
            while let Some(notification) = waiting.next().map_err(|error| explain(&error))? {
                if notification.channel() == ALIVE {
                    peers.heard(notification.payload());
                } else {
                    wake_all(wake);
                }
            }
        }
        if client.is_closed() {
            return Err("the connection was closed".to_owned());
        }
    }
    Ok(())
}

/// A worker that was woken and has not looked yet needs no second wake-up.
pub(crate) fn wake_all(wake: &[Sender<()>]) {
    for worker in wake {
        let _ = worker.try_send(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_counts_until_it_says_that_it_goes() {
        let peers = Peers::default();
        for name in ["me", "other", "third"] {
            peers.heard(name);
        }
        let minute = Duration::from_secs(60);
        assert_eq!(peers.others("me", minute), 2);
        peers.heard("gone:other");
        peers.heard("gone:nobody");
        assert_eq!(peers.others("me", minute), 1);
        assert_eq!(peers.others("me", Duration::ZERO), 0);
    }
}
