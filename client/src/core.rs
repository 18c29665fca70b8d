//! The client's mind, without a socket, a thread or a clock: `step(now, input) -> actions`.
//!
//! ```text
//!            Dial ok          hello              welcome, synced, healed
//!  Waiting ----------> Dialing ------> Greeting ------------------------> Open (live)
//!     ^                   |                |                                |
//!     +---- backoff ------+----------------+---- closed, silent, goaway ----+
//! ```
//!
//! Who drives it must: perform the actions in order, say nothing more of a connection after it
//! performed [`Action::Hangup`] or reported [`Input::Closed`], and step with [`Input::Tick`] no later
//! than [`Core::deadline`].

mod backoff;
mod frames;
mod log;
mod logs;
mod outbox;
mod timers;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

pub use logs::CursorOf;

use crate::limits::{
    BACKOFF_MS_MAX, BACKOFF_MS_MIN, DIAL_MS_MAX, PENDING_SENDS_MAX, WELCOME_MS_MAX,
};
use crate::update::{Notice, SendError, SendOutcome, Update};
use fastrand::Rng;
use logs::Logs;
use outbox::{Outbox, Receipts};
use prost::Message as _;
use proto::Uuid;
use proto::client::{
    ClientFrame, Cursor, Hello, PresenceSubscribe, Send, ServerFrame, Typing, client_frame::Frame,
};
use proto::error::ErrorCode;
use proto::limits::{CLIENT_FRAME_BYTES_MAX, MESSAGE_TEXT_BYTES_MAX};
use std::collections::BTreeMap;
use std::time::Duration;

/// What a frame adds to a send: the request id, tags and lengths.
const FRAME_OVERHEAD_BYTES: usize = 32;

/// What a session is to do; all of it is fixed when it begins.
#[derive(Debug, Clone)]
pub struct Config {
    /// How many gateways there are; attempts go round them.
    pub urls: usize,
    /// Resume: whatever happened in any conversation since its cursor is delivered, and everything
    /// of conversations without a cursor. Otherwise only the conversations of `cursors` are healed
    /// from there, and others begin with their first pushed event.
    pub resume: bool,
    /// What the application has already: the last sequence number of each conversation.
    pub cursors: BTreeMap<Uuid, u64>,
    /// Name and version of the application, for the server's logs.
    pub client: String,
    /// Between attempts to connect.
    pub backoff_ms_min: u64,
    pub backoff_ms_max: u64,
    /// A server that is silent for so long is dead; `None`: twice its heartbeat interval.
    pub silence_ms_max: Option<u64>,
    /// Tell the server what was delivered to this device.
    pub acknowledge: bool,
    /// Report every event as it came ([`Notice::Received`]).
    pub trace: bool,
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            urls: 1,
            resume: false,
            cursors: BTreeMap::new(),
            client: concat!("realchat-rust/", env!("CARGO_PKG_VERSION")).to_owned(),
            backoff_ms_min: BACKOFF_MS_MIN,
            backoff_ms_max: BACKOFF_MS_MAX,
            silence_ms_max: None,
            acknowledge: true,
            trace: false,
            seed: 0,
        }
    }
}

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// Nothing but time.
    Tick,
    /// The attempt succeeded: the WebSocket is open.
    Dialed {
        attempt: u64,
    },
    DialFailed {
        attempt: u64,
        failure: DialFailure,
    },
    Frame(ServerFrame),
    /// Bytes came that are no frame: a ping or a pong.
    Bytes,
    /// The other side closed, or the socket failed.
    Closed {
        code: Option<u16>,
        reason: String,
    },
    /// The answer to [`Action::FetchToken`].
    Token(Result<String, TokenFailure>),
    /// The application sends. Tickets grow.
    Send {
        ticket: u64,
        send: Send,
    },
    Acknowledge {
        conversation: Uuid,
        delivered: u64,
        read: u64,
    },
    Typing {
        conversation: Uuid,
        active: bool,
    },
    /// Replaces the users whose presence is told.
    Watch {
        users: Vec<Uuid>,
    },
    /// The application closes the session.
    Close,
}

/// What to do about it.
#[derive(Debug)]
pub enum Action {
    /// Get a token (a fresh one: the last was refused or is about to expire) and connect.
    Dial {
        attempt: u64,
        url: usize,
        fresh_token: bool,
    },
    /// Get a fresh token for the connection that is open.
    FetchToken,
    Write(ClientFrame),
    Ping,
    /// Close the connection.
    Hangup {
        code: u16,
    },
    Deliver(Update),
    /// A send's final answer.
    Settle {
        ticket: u64,
        outcome: SendOutcome,
    },
}

/// Why an attempt to connect failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DialFailure {
    /// Refused, unreachable, timed out, or no WebSocket; `status` is the HTTP status if there was one.
    Connect {
        problem: String,
        status: Option<u16>,
    },
    Token(TokenFailure),
}

/// Why there is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenFailure {
    /// It may work later; the session tries again.
    #[error("{0}")]
    Temporary(String),
    /// Signed out: the session ends.
    #[error("{0}")]
    Final(String),
}

#[derive(Debug)]
enum Phase {
    Waiting { until: Duration },
    Dialing { until: Duration },
    Greeting { until: Duration },
    Open(Box<Open>),
    Ended,
}

/// A connection that was welcomed.
#[derive(Debug)]
struct Open {
    user: Uuid,
    /// The hello's resume is not finished; and until when it must be.
    resuming: Option<Duration>,
    heal: Option<Heal>,
    live_since: Option<Duration>,
    goaway_at: Option<Duration>,
    /// Silence allowed, and whether a ping was already sent into it.
    silence: Duration,
    pinged: bool,
    /// Microseconds of the server's clock minus microseconds of ours.
    clock_offset_us: i128,
    refresh_at: Option<Duration>,
    /// The request id of the token refresh, or of the presence subscription, in flight.
    refresh: Option<u64>,
}

/// A sync frame that is not yet answered.
#[derive(Debug)]
struct Heal {
    request_id: u64,
    until: Duration,
    asked: Vec<CursorOf>,
}

/// See the module.
#[derive(Debug)]
pub struct Core {
    config: Config,
    now: Duration,
    rng: Rng,
    phase: Phase,
    /// Number of the newest attempt; answers of older ones are stale.
    attempt: u64,
    /// Attempts and short-lived connections in a row without success.
    failures: u32,
    next_url: usize,
    fresh_token: bool,
    /// The earliest next attempt, as a server asked for it.
    not_before: Duration,
    request_id: u64,
    /// Request id of the newest hello and of the newest presence subscription.
    hello: u64,
    watching: Option<(u64, Vec<Uuid>)>,
    watch_again_at: Option<Duration>,
    last_bytes: Duration,
    logs: Logs,
    outbox: Outbox,
    receipts: Receipts,
    /// The watermark to bring, and the one that is valid once this connection is live.
    watermark: Vec<u8>,
    watermark_next: Vec<u8>,
    actions: Vec<Action>,
}

impl Core {
    /// A session that dials at its first step.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let logs = Logs::new(config.cursors.iter().map(|(id, it)| (*id, *it)), !config.resume);
        Self {
            rng: Rng::with_seed(config.seed),
            now: Duration::ZERO,
            phase: Phase::Waiting { until: Duration::ZERO },
            attempt: 0,
            failures: 0,
            next_url: 0,
            fresh_token: false,
            not_before: Duration::ZERO,
            request_id: 0,
            hello: 0,
            watching: None,
            watch_again_at: None,
            last_bytes: Duration::ZERO,
            logs,
            outbox: Outbox::default(),
            receipts: Receipts::default(),
            watermark: Vec::new(),
            watermark_next: Vec::new(),
            actions: Vec::new(),
            config,
        }
    }

    /// Takes what happened at `now` (time since the session began; it never goes back) and says
    /// what to do about it.
    pub fn step(&mut self, now: Duration, input: Input) -> Vec<Action> {
        self.now = self.now.max(now);
        if !matches!(self.phase, Phase::Ended) {
            self.take(input);
            self.fire_timers();
            self.write_what_waits();
        } else if let Input::Send { ticket, .. } = input {
            let reason = "it was closed".to_owned();
            self.settle(ticket, Err(SendError::Ended { reason }));
        }
        std::mem::take(&mut self.actions)
    }

    /// Has the session ended for good?
    #[must_use]
    pub fn ended(&self) -> bool {
        matches!(self.phase, Phase::Ended)
    }

    /// Is this attempt the one whose outcome is waited for?
    #[must_use]
    pub fn awaits(&self, attempt: u64) -> bool {
        attempt == self.attempt && matches!(self.phase, Phase::Dialing { .. })
    }

    /// What the application has: the last delivered sequence number of each conversation.
    #[must_use]
    pub fn cursors(&self) -> BTreeMap<Uuid, u64> {
        self.logs.cursors().collect()
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Tick => {}
            Input::Dialed { attempt } => self.dialed(attempt),
            Input::DialFailed { attempt, failure } => self.dial_failed(attempt, failure),
            Input::Frame(frame) => {
                self.bytes_came();
                self.frame(frame);
            }
            Input::Bytes => self.bytes_came(),
            Input::Closed { code, reason } => self.closed(code, reason),
            Input::Token(token) => self.token(token),
            Input::Send { ticket, send } => self.accept_send(ticket, send),
            Input::Acknowledge { conversation, delivered, read } => {
                self.receipts.add(self.now, conversation, delivered, read);
            }
            Input::Typing { conversation, active } => self.typing(conversation, active),
            Input::Watch { users } => self.watch(users),
            Input::Close => {
                if matches!(self.phase, Phase::Greeting { .. } | Phase::Open(_)) {
                    self.flush_before_close();
                    self.actions.push(Action::Hangup { code: 1000 });
                }
                self.end("it was closed");
            }
        }
    }

    fn accept_send(&mut self, ticket: u64, send: Send) {
        if self.outbox.len() >= PENDING_SENDS_MAX {
            self.settle(ticket, Err(SendError::Overloaded));
        } else if send.encoded_len() + FRAME_OVERHEAD_BYTES > CLIENT_FRAME_BYTES_MAX {
            // A server closes the connection on such a frame, and would again and again.
            let code = ErrorCode::MessageTooLong.as_str().to_owned();
            let message = format!("at most {MESSAGE_TEXT_BYTES_MAX} bytes of text are allowed");
            self.settle(ticket, Err(SendError::Refused { code, message }));
        } else {
            self.outbox.push(ticket, send);
        }
    }

    fn typing(&mut self, conversation: Uuid, active: bool) {
        if matches!(self.phase, Phase::Open(_)) {
            let conversation_id = conversation.as_bytes().to_vec();
            self.write(0, Frame::Typing(Typing { conversation_id, active }));
        }
    }

    fn watch(&mut self, users: Vec<Uuid>) {
        self.watching = Some((0, users));
        self.subscribe();
    }

    /// Tells the server whom to watch, if there is a server and somebody to watch.
    fn subscribe(&mut self) {
        self.watch_again_at = None;
        if !matches!(self.phase, Phase::Open(_)) || self.watching.is_none() {
            return;
        }
        let request_id = self.next_request_id();
        if let Some((request, users)) = &mut self.watching {
            *request = request_id;
            let user_ids = users.iter().map(|id| id.as_bytes().to_vec()).collect();
            self.write(request_id, Frame::PresenceSubscribe(PresenceSubscribe { user_ids }));
        }
    }

    fn dial(&mut self) {
        self.attempt += 1;
        let url = self.next_url % self.config.urls.max(1);
        let until = self.now + Duration::from_millis(DIAL_MS_MAX);
        self.phase = Phase::Dialing { until };
        self.notice(Notice::Dialing { url });
        let fresh_token = std::mem::take(&mut self.fresh_token);
        self.actions.push(Action::Dial { attempt: self.attempt, url, fresh_token });
    }

    fn dialed(&mut self, attempt: u64) {
        if !self.awaits(attempt) {
            return;
        }
        self.notice(Notice::Opened { url: self.next_url % self.config.urls.max(1) });
        self.last_bytes = self.now;
        let until = self.now + Duration::from_millis(WELCOME_MS_MAX);
        self.phase = Phase::Greeting { until };
        let cursors = if self.config.resume { self.logs.hello_cursors() } else { Vec::new() };
        // With a watermark nothing is said of conversations that are not named.
        let is_whole = cursors.len() == self.logs.len();
        let hello = Hello {
            token: String::new(),
            resume: self.config.resume,
            cursors: cursors.into_iter().map(to_cursor).collect(),
            watermark: if is_whole { self.watermark.clone() } else { Vec::new() },
            client: self.config.client.clone(),
        };
        self.hello = self.next_request_id();
        self.write(self.hello, Frame::Hello(hello));
    }

    fn dial_failed(&mut self, attempt: u64, failure: DialFailure) {
        if !self.awaits(attempt) {
            return;
        }
        let (problem, status) = match failure {
            DialFailure::Connect { problem, status } => (problem, status),
            DialFailure::Token(TokenFailure::Temporary(problem)) => (problem, None),
            DialFailure::Token(TokenFailure::Final(problem)) => return self.end(&problem),
        };
        self.fresh_token = status == Some(401);
        let url = self.next_url % self.config.urls.max(1);
        self.notice(Notice::DialFailed { url, problem, status });
        self.wait_to_dial(true);
    }

    /// The connection is gone, by the other side's doing or by the network's.
    fn closed(&mut self, code: Option<u16>, reason: String) {
        if matches!(self.phase, Phase::Greeting { .. } | Phase::Open(_)) {
            self.disconnected(code, reason, false);
        }
    }

    /// Ends the connection from this side, and connects again.
    fn hangup(&mut self, code: u16, reason: &str) {
        self.actions.push(Action::Hangup { code });
        self.disconnected(Some(code), reason.to_owned(), true);
    }

    fn disconnected(&mut self, code: Option<u16>, reason: String, by_us: bool) {
        // 4001 and 4002: the token was refused, or expired.
        self.fresh_token |= !by_us && matches!(code, Some(4001 | 4002));
        self.notice(Notice::Closed { code, reason, by_us });
        let mut failed = true;
        if let Phase::Open(open) = &self.phase {
            if let Some(at) = open.goaway_at {
                self.not_before = self.not_before.max(at);
                failed = false;
            }
            let stable = Duration::from_millis(crate::limits::STABLE_MS_MIN);
            if open.live_since.is_some_and(|since| self.now >= since + stable) {
                failed = false;
            }
        }
        if !failed {
            self.failures = 0;
        }
        self.outbox.disconnected();
        self.receipts.disconnected(self.now);
        self.wait_to_dial(failed);
    }

    /// The next attempt goes to the next gateway; the backoff grows with every round of them.
    fn wait_to_dial(&mut self, failed: bool) {
        self.next_url = self.next_url.wrapping_add(1);
        let urls = u32::try_from(self.config.urls.max(1)).unwrap_or(u32::MAX);
        let (min, max) = (self.config.backoff_ms_min, self.config.backoff_ms_max);
        let wait = backoff::delay(&mut self.rng, self.failures / urls, min, max);
        self.failures = if failed { self.failures.saturating_add(1) } else { 0 };
        let until = (self.now + wait).max(self.not_before);
        self.phase = Phase::Waiting { until };
    }

    fn end(&mut self, reason: &str) {
        self.phase = Phase::Ended;
        for ticket in self.outbox.drain() {
            self.settle(ticket, Err(SendError::Ended { reason: reason.to_owned() }));
        }
        self.notice(Notice::Ended { reason: reason.to_owned() });
    }

    fn next_request_id(&mut self) -> u64 {
        self.request_id += 1;
        self.request_id
    }

    fn write(&mut self, request_id: u64, frame: Frame) {
        self.actions.push(Action::Write(ClientFrame { request_id, frame: Some(frame) }));
    }

    fn notice(&mut self, notice: Notice) {
        self.actions.push(Action::Deliver(Update::Notice(notice)));
    }

    fn settle(&mut self, ticket: u64, outcome: SendOutcome) {
        self.actions.push(Action::Settle { ticket, outcome });
    }
}

fn to_cursor((conversation, sequence_number): CursorOf) -> Cursor {
    Cursor { conversation_id: conversation.as_bytes().to_vec(), sequence_number }
}
