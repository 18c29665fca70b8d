//! Tells relays that there is something in the outbox, on a thread and a connection of its own: a writer
//! that did it itself would begin its next batch a round trip later.

use super::statements::NOTIFY;
use crate::db::{Connection, Role, Settings};
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use std::thread::JoinHandle;

/// Asks for relays to be woken. The thread ends with the last of these.
#[derive(Debug, Clone)]
pub(crate) struct Waker(Sender<()>);

impl Waker {
    /// Starts the thread.
    pub(crate) fn start(settings: &Settings) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (asked, asks) = bounded(1);
        let settings = settings.clone();
        let thread = std::thread::Builder::new().name("waker".into());
        Ok((Self(asked), thread.spawn(move || run(&settings, &asks))?))
    }

    /// After the commit of what relays are to find.
    pub(crate) fn wake(&self) {
        // Full: somebody asked, and it is not yet done. Whoever is woken by that finds this, too.
        if let Err(TrySendError::Disconnected(())) = self.0.try_send(()) {
            tracing::error!(error_code = "internal", "the thread that wakes relays has ended");
        }
    }
}

fn run(settings: &Settings, asks: &Receiver<()>) {
    let mut connection = None;
    while asks.recv().is_ok() {
        if let Err(error) = notify(settings, &mut connection) {
            // It is committed already: a relay finds it by itself a little later.
            tracing::debug!(%error, "relays are not woken");
            connection = None;
        }
    }
}

fn notify(settings: &Settings, kept: &mut Option<Connection>) -> Result<(), postgres::Error> {
    let usable = kept.as_mut().is_some_and(Connection::is_usable);
    let connection = match kept.take() {
        Some(connection) if usable => kept.insert(connection),
        _ => kept.insert(Connection::open(settings, Role::Writer)?),
    };
    connection.batch("notify", NOTIFY)
}
