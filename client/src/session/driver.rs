//! The session's thread: waits for the socket, the mailbox or a timer, steps the core, performs
//! what it says.

use super::dial::{Socket, Target};
use super::queue::Queue;
use super::{Options, TokenSource};
use crate::core::{Action, Core, DialFailure, Input};
use crate::limits::{PENDING_SENDS_MAX, READS_PER_TURN_MAX, THREAD_STACK_BYTES, WRITE_MS_MAX};
use crate::trust::Trust;
use crate::update::{SendError, SendOutcome, Update};
use mio::unix::SourceFd;
use mio::{Events as Readiness, Interest, Poll, Token, Waker};
use prost::Message as _;
use proto::Uuid;
use proto::client::{ClientFrame, Send as SendFrame, ServerFrame};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;
use std::time::{Duration, Instant};
use tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
use tungstenite::{Error, Message};

const MAILBOX: Token = Token(0);
const SOCKET: Token = Token(1);

pub(super) type Settled = Box<dyn FnOnce(SendOutcome) + Send>;

/// What reaches the driver from other threads.
pub(super) enum Mail {
    Input(Input),
    Send { ticket: u64, send: SendFrame, then: Settled },
    Dialed { attempt: u64, outcome: Result<Box<Socket>, DialFailure> },
}

/// What the driver and the application's threads share.
pub(super) struct Shared {
    mailbox: Mutex<VecDeque<Mail>>,
    waker: Waker,
    /// Sends in the mailbox or in the core.
    sends: AtomicUsize,
    ended: AtomicBool,
    queue: Queue,
    cursors: Mutex<BTreeMap<Uuid, u64>>,
}

impl Shared {
    fn mailbox(&self) -> MutexGuard<'_, VecDeque<Mail>> {
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn post(&self, mail: Mail) {
        let mut mailbox = self.mailbox();
        let was_empty = mailbox.is_empty();
        mailbox.push_back(mail);
        drop(mailbox);
        if was_empty {
            self.wake();
        }
    }

    pub(super) fn send(&self, ticket: u64, send: SendFrame, then: Settled) {
        if self.ended.load(Ordering::Acquire) {
            return then(Err(SendError::Ended { reason: "it was closed".to_owned() }));
        }
        if self.sends.fetch_add(1, Ordering::AcqRel) >= PENDING_SENDS_MAX {
            self.sends.fetch_sub(1, Ordering::AcqRel);
            return then(Err(SendError::Overloaded));
        }
        self.post(Mail::Send { ticket, send, then });
    }

    pub(super) fn wake(&self) {
        // The event descriptor's counter is full: then a wake-up is under way already.
        let _ = self.waker.wake();
    }

    pub(super) fn queue(&self) -> &Queue {
        &self.queue
    }

    pub(super) fn cursors(&self) -> BTreeMap<Uuid, u64> {
        self.cursors.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The connection that is open.
struct Link {
    socket: Socket,
    /// There may be something to read.
    readable: bool,
    /// Since when the socket takes nothing more, if so.
    blocked_since: Option<Duration>,
}

pub(super) struct Driver {
    core: Core,
    shared: Arc<Shared>,
    poll: Poll,
    began: Instant,
    urls: Arc<Vec<String>>,
    trust: Trust,
    token: TokenSource,
    hook: Option<super::Hook>,
    link: Option<Link>,
    waiting: HashMap<u64, Settled>,
}

impl Driver {
    pub(super) fn new(core: Core, options: Options) -> io::Result<(Self, Arc<Shared>)> {
        let poll = Poll::new()?;
        let shared = Arc::new(Shared {
            mailbox: Mutex::default(),
            waker: Waker::new(poll.registry(), MAILBOX)?,
            sends: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
            queue: Queue::default(),
            cursors: Mutex::new(options.cursors),
        });
        let driver = Self {
            core,
            shared: Arc::clone(&shared),
            poll,
            began: Instant::now(),
            urls: Arc::new(options.urls),
            trust: options.trust,
            token: options.token,
            hook: options.hook,
            link: None,
            waiting: HashMap::new(),
        };
        Ok((driver, shared))
    }

    pub(super) fn run(mut self) {
        let mut readiness = Readiness::with_capacity(16);
        self.step(Input::Tick);
        while !self.core.ended() {
            let limit = self.time_left();
            if let Err(error) = self.poll.poll(&mut readiness, limit)
                && error.kind() != io::ErrorKind::Interrupted
            {
                break;
            }
            self.note_readiness(&readiness);
            self.take_mail();
            self.read();
            if self.core.deadline().is_some_and(|deadline| deadline <= self.began.elapsed()) {
                self.step(Input::Tick);
            }
            // Last: whatever any of these wrote must not wait for the next turn.
            self.flush();
        }
        self.shut_down();
    }

    /// How long to wait for readiness; nothing while there is something to do.
    fn time_left(&self) -> Option<Duration> {
        let now = self.began.elapsed();
        if let Some(link) = &self.link
            && link.readable
            && !self.shared.queue.is_full()
        {
            return Some(Duration::ZERO);
        }
        let write = Duration::from_millis(WRITE_MS_MAX);
        let blocked = self.link.as_ref().and_then(|link| link.blocked_since);
        let deadline = [self.core.deadline(), blocked.map(|since| since + write)];
        let next = deadline.into_iter().flatten().min()?;
        // A millisecond more than nothing: poll's clock is coarser than ours.
        Some(next.saturating_sub(now).max(Duration::from_millis(1)))
    }

    fn note_readiness(&mut self, readiness: &Readiness) {
        for event in readiness {
            if event.token() == SOCKET
                && let Some(link) = &mut self.link
            {
                // Also when it can be written: a read over TLS may have waited for that.
                link.readable = true;
            }
        }
    }

    fn take_mail(&mut self) {
        let mail = std::mem::take(&mut *self.shared.mailbox());
        for mail in mail {
            match mail {
                Mail::Input(input) => self.step(input),
                Mail::Send { ticket, send, then } => {
                    self.waiting.insert(ticket, then);
                    self.step(Input::Send { ticket, send });
                }
                Mail::Dialed { attempt, outcome: Ok(socket) } => self.dialed(attempt, *socket),
                Mail::Dialed { attempt, outcome: Err(failure) } => {
                    self.step(Input::DialFailed { attempt, failure });
                }
            }
        }
    }

    fn dialed(&mut self, attempt: u64, socket: Socket) {
        let descriptor = socket.get_ref().as_raw_fd();
        let interest = Interest::READABLE | Interest::WRITABLE;
        // A connection that nobody waits for any more is closed by dropping it.
        if self.link.is_some() || self.core.ended() || !self.core.awaits(attempt) {
            return;
        }
        match self.poll.registry().register(&mut SourceFd(&descriptor), SOCKET, interest) {
            Ok(()) => {
                self.link = Some(Link { socket, readable: true, blocked_since: None });
                self.step(Input::Dialed { attempt });
            }
            Err(error) => {
                let failure = DialFailure::Connect { problem: error.to_string(), status: None };
                self.step(Input::DialFailed { attempt, failure });
            }
        }
    }

    /// Reads what is there, a bounded number of frames, and nothing while the application is behind.
    fn read(&mut self) {
        for _ in 0..READS_PER_TURN_MAX {
            let Some(link) = self.link.as_mut().filter(|link| link.readable) else { return };
            if self.shared.queue.is_full() {
                // Not the server's silence, but ours.
                return self.step(Input::Bytes);
            }
            match link.socket.read() {
                Ok(Message::Binary(bytes)) => match ServerFrame::decode(bytes) {
                    Ok(frame) => self.step(Input::Frame(frame)),
                    Err(error) => return self.lost(None, format!("a frame of no sense: {error}")),
                },
                Ok(Message::Ping(_) | Message::Pong(_)) => self.step(Input::Bytes),
                Ok(Message::Close(close)) => {
                    let code = close.as_ref().map(|close| u16::from(close.code));
                    let reason = close.map(|close| close.reason.to_string()).unwrap_or_default();
                    return self.lost(code, reason);
                }
                Ok(_) => return self.lost(None, "a frame that is not binary".to_owned()),
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    link.readable = false;
                }
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.lost(None, error.to_string()),
            }
        }
    }

    /// The connection failed or was closed by the server.
    fn lost(&mut self, code: Option<u16>, reason: String) {
        if let Some(mut link) = self.link.take() {
            // The answer to a close; the connection is over either way.
            let _ = link.socket.flush();
        }
        self.step(Input::Closed { code, reason });
    }

    fn flush(&mut self) {
        let now = self.began.elapsed();
        let Some(link) = &mut self.link else { return };
        match link.socket.flush() {
            Ok(()) => link.blocked_since = None,
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                let since = *link.blocked_since.get_or_insert(now);
                if now.saturating_sub(since) >= Duration::from_millis(WRITE_MS_MAX) {
                    self.lost(None, "the server takes nothing any more".to_owned());
                }
            }
            Err(error) => self.lost(None, error.to_string()),
        }
    }

    fn step(&mut self, input: Input) {
        let actions = self.core.step(self.began.elapsed(), input);
        for action in actions {
            self.perform(action);
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Dial { attempt, url, fresh_token } => self.dial(attempt, url, fresh_token),
            Action::FetchToken => self.fetch_token(),
            Action::Write(frame) => self.write(&frame),
            Action::Ping => self.write_message(Message::Ping(Vec::new().into())),
            Action::Hangup { code } => self.hang_up(code),
            Action::Deliver(update) => self.deliver(update),
            Action::Settle { ticket, outcome } => {
                if let Some(then) = self.waiting.remove(&ticket) {
                    self.shared.sends.fetch_sub(1, Ordering::AcqRel);
                    then(outcome);
                }
            }
        }
    }

    fn write(&mut self, frame: &ClientFrame) {
        self.write_message(Message::Binary(frame.encode_to_vec().into()));
    }

    /// What cannot be written is found out by the next flush or read.
    fn write_message(&mut self, message: Message) {
        if let Some(link) = &mut self.link {
            let _ = link.socket.write(message);
        }
    }

    fn hang_up(&mut self, code: u16) {
        if let Some(mut link) = self.link.take() {
            let close = CloseFrame { code: CloseCode::from(code), reason: "".into() };
            // Whether it can still be told makes no difference.
            let _ = link.socket.close(Some(close));
            let _ = link.socket.flush();
        }
    }

    fn deliver(&mut self, update: Update) {
        match &update {
            Update::Notice(notice) => {
                if let Some(hook) = &self.hook {
                    hook(notice);
                }
                if !notice.is_status() {
                    return;
                }
            }
            Update::Event(delivery) if delivery.sequence_number > 0 => {
                let mut cursors =
                    self.shared.cursors.lock().unwrap_or_else(PoisonError::into_inner);
                cursors.insert(delivery.conversation, delivery.sequence_number);
            }
            Update::Event(_) => {}
        }
        self.shared.queue.push(update);
    }

    /// Token and connect may block, so they have a thread of their own.
    fn dial(&self, attempt: u64, url: usize, fresh_token: bool) {
        let (shared, token) = (Arc::clone(&self.shared), Arc::clone(&self.token));
        let (urls, trust) = (Arc::clone(&self.urls), self.trust.clone());
        let work = move || {
            let outcome = token(fresh_token).map_err(DialFailure::Token).and_then(|token| {
                let url = urls.get(url).map_or("", String::as_str);
                let target = Target::parse(url)
                    .map_err(|problem| DialFailure::Connect { problem, status: None })?;
                target.dial(&token, &trust).map(Box::new)
            });
            shared.post(Mail::Dialed { attempt, outcome });
        };
        if let Err(error) = spawn(work) {
            let failure = DialFailure::Connect { problem: error.to_string(), status: None };
            self.shared.post(Mail::Dialed { attempt, outcome: Err(failure) });
        }
    }

    fn fetch_token(&self) {
        let (shared, token) = (Arc::clone(&self.shared), Arc::clone(&self.token));
        // Without a thread the core asks again after a while.
        let _ = spawn(move || shared.post(Mail::Input(Input::Token(token(true)))));
    }

    /// Answers everybody who waits, now and later.
    fn shut_down(mut self) {
        self.shared.ended.store(true, Ordering::Release);
        if !self.core.ended() {
            self.step(Input::Close);
        }
        self.take_mail();
        let reason = "it was closed".to_owned();
        for (_, then) in self.waiting.drain() {
            then(Err(SendError::Ended { reason: reason.clone() }));
        }
        self.shared.queue.end();
    }
}

fn spawn(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let builder = Builder::new().name("realchat-dial".to_owned()).stack_size(THREAD_STACK_BYTES);
    builder.spawn(work).map(|_| ())
}
