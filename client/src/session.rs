//! A session: the core driven over a WebSocket by one thread of its own.

mod dial;
mod driver;
mod queue;
#[cfg(test)]
mod tests;

pub use dial::websocket_url;
pub use queue::{Events, Waited};

use crate::core::{Config, Core, Input, TokenFailure};
use crate::limits::{BACKOFF_MS_MAX, BACKOFF_MS_MIN, PENDING_SENDS_MAX, THREAD_STACK_BYTES};
use crate::trust::Trust;
use crate::update::{Notice, SendError, SendOutcome};
use driver::{Driver, Mail, Shared};
use proto::Uuid;
use proto::client::Send as SendFrame;
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

/// Gives an access token. `true` asks for another one than was given last: it was refused, or is
/// about to expire. May block; it is called on a thread of its own.
pub type TokenSource = Arc<dyn Fn(bool) -> Result<String, TokenFailure> + Send + Sync>;

/// Sees every notice, on the session's thread: keep it short.
pub type Hook = Arc<dyn Fn(&Notice) + Send + Sync>;

/// How a session is to run.
#[derive(Clone)]
pub struct Options {
    /// `ws://HOST:PORT/v1/connect` or `wss://...`, one a gateway. The first is tried first, and every reconnect
    /// goes to the next one.
    pub urls: Vec<String>,
    /// Whose certificates are believed, for `wss://`.
    pub trust: Trust,
    pub token: TokenSource,
    /// What the application has already: the last sequence number of each conversation.
    pub cursors: BTreeMap<Uuid, u64>,
    /// Deliver what happened in every conversation of the user since its cursor (and everything of
    /// those without one). Otherwise only the conversations of `cursors` are healed from there, and
    /// any other begins with the first event that is pushed.
    pub resume: bool,
    /// Name and version of the application, for the server's logs.
    pub client: String,
    /// Tell the server what was delivered to this device.
    pub acknowledge: bool,
    /// Sees every notice, also those of single events as they came.
    pub hook: Option<Hook>,
    /// Milliseconds between attempts to connect, before jitter: first and longest.
    pub backoff_ms_min: u64,
    pub backoff_ms_max: u64,
    /// Milliseconds after which a silent server counts as dead; `None`: twice its heartbeat interval.
    pub silence_ms_max: Option<u64>,
    /// Seed of the jitter; `None`: random.
    pub seed: Option<u64>,
}

impl Options {
    /// Live events from now on, of one gateway or several.
    #[must_use]
    pub fn new(urls: Vec<String>, token: TokenSource) -> Self {
        Self {
            urls,
            trust: Trust::default(),
            token,
            cursors: BTreeMap::new(),
            resume: false,
            client: Config::default().client,
            acknowledge: true,
            hook: None,
            backoff_ms_min: BACKOFF_MS_MIN,
            backoff_ms_max: BACKOFF_MS_MAX,
            silence_ms_max: None,
            seed: None,
        }
    }

    /// The same token always, for tests and measurements.
    #[must_use]
    pub fn fixed_token(token: impl Into<String>) -> TokenSource {
        let token = token.into();
        Arc::new(move |_| Ok(token.clone()))
    }

    fn config(&self) -> Config {
        Config {
            urls: self.urls.len(),
            resume: self.resume,
            cursors: self.cursors.clone(),
            client: self.client.clone(),
            backoff_ms_min: self.backoff_ms_min,
            backoff_ms_max: self.backoff_ms_max,
            silence_ms_max: self.silence_ms_max,
            acknowledge: self.acknowledge,
            trace: self.hook.is_some(),
            seed: self.seed.unwrap_or_else(|| fastrand::u64(..)),
        }
    }
}

/// A session that connects, and connects again, until it is closed or dropped.
pub struct Session {
    shared: Arc<Shared>,
    tickets: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Session {
    /// Begins to connect, and returns at once. Events come from [`Events`]; dropping it means that
    /// nobody is interested in them.
    ///
    /// # Errors
    /// A URL that is no `ws://` or `wss://` URL, no URL at all, or no thread.
    pub fn connect(options: Options) -> io::Result<(Self, Events)> {
        if options.urls.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no URL to connect to"));
        }
        for url in &options.urls {
            dial::Target::parse(url)
                .map_err(|problem| io::Error::new(io::ErrorKind::InvalidInput, problem))?;
        }
        let core = Core::new(options.config());
        let (driver, shared) = Driver::new(core, options)?;
        let events = Events::new(Arc::clone(&shared));
        let thread = Builder::new()
            .name("realchat-session".to_owned())
            .stack_size(THREAD_STACK_BYTES)
            .spawn(move || driver.run())?;
        let session = Self { shared, tickets: AtomicU64::new(0), thread: Mutex::new(Some(thread)) };
        Ok((session, events))
    }

    /// Sends a message. It is written again, with the same key, over as many connections as it takes
    /// until the server answers; the same key in the same conversation never makes two messages.
    /// Sends that are under way together may be stored in another order after a retry.
    pub fn send(&self, conversation: Uuid, key: &str, text: &str) -> Pending {
        let (answer, receiver) = sync_channel(1);
        self.send_then(conversation, key, text, move |outcome| {
            // Nobody waits any more: then nobody misses it.
            let _ = answer.send(outcome);
        });
        Pending { receiver }
    }

    /// Sends a message and calls `then` with the outcome, on the session's thread (or at once on
    /// this one, if the session has ended or takes no more).
    pub fn send_then(
        &self,
        conversation: Uuid,
        key: &str,
        text: &str,
        then: impl FnOnce(SendOutcome) + Send + 'static,
    ) {
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed) + 1;
        let send = SendFrame {
            conversation_id: conversation.as_bytes().to_vec(),
            idempotency_key: key.to_owned(),
            text: text.to_owned(),
        };
        self.shared.send(ticket, send, Box::new(then));
    }

    /// Tells how far this user has come. Cursors only move forward; the newest is what counts.
    pub fn acknowledge(&self, conversation: Uuid, delivered: u64, read: u64) {
        self.input(Input::Acknowledge { conversation, delivered, read });
    }

    /// Tells the others that this user types, or stopped; lost without a connection.
    pub fn typing(&self, conversation: Uuid, active: bool) {
        self.input(Input::Typing { conversation, active });
    }

    /// Replaces the users whose presence is told; also over reconnects.
    pub fn watch(&self, users: Vec<Uuid>) {
        self.input(Input::Watch { users });
    }

    /// What was given to the event queue so far: the cursors to begin the next session with.
    #[must_use]
    pub fn cursors(&self) -> BTreeMap<Uuid, u64> {
        self.shared.cursors()
    }

    /// Closes the connection and ends the session. Sends without an answer fail.
    pub fn close(&self) {
        self.input(Input::Close);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // It ends by itself, and what it may have panicked with was printed.
            let _ = thread.join();
        }
    }

    fn input(&self, input: Input) {
        self.shared.post(Mail::Input(input));
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.close();
    }
}

/// A send whose answer is on its way.
pub struct Pending {
    receiver: Receiver<SendOutcome>,
}

impl Pending {
    /// Waits for the answer, for as long as it takes.
    ///
    /// # Errors
    /// The server's refusal, or the end of the session.
    pub fn wait(self) -> SendOutcome {
        self.receiver.recv().unwrap_or_else(|_| Err(gone()))
    }

    /// Waits for the answer for at most so long; `None`: none yet, the send goes on.
    #[must_use]
    pub fn wait_for(&self, time: Duration) -> Option<SendOutcome> {
        match self.receiver.recv_timeout(time) {
            Ok(outcome) => Some(outcome),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Err(gone())),
        }
    }
}

fn gone() -> SendError {
    SendError::Ended { reason: format!("it is gone, or has {PENDING_SENDS_MAX} sends waiting") }
}
