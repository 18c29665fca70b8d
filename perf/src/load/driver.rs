//! The loop: opens sessions a few at a time, reads and writes them all.

use super::session::{Ended, Event, Pace, Session, Spec, State};
use crate::clock;
use crate::failure::{Context, Failure, Outcome};
use crate::limits::{OPENING_AT_ONCE, OPENING_MS_MAX, READ_BYTES, SLOW_BUFFER_BYTES};
use crate::process;
use crate::report::progress;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

/// Sessions that could not be opened before the run is given up.
const REFUSALS_MAX: usize = 20;

/// What to do with sessions; a session is named by its index among the specs.
pub(crate) trait Handler {
    /// The session is open; its encoded welcome.
    fn opened(&mut self, _session: usize, _welcome: &[u8]) {}
    /// A frame came.
    fn frame(&mut self, session: usize, payload: &[u8]);
    /// The session, which was open, is gone.
    fn closed(&mut self, session: usize, code: u16);
}

#[derive(Debug)]
pub(crate) struct Driver {
    poll: Poll,
    events: Events,
    chunk: Vec<u8>,
    sessions: Vec<Option<Session>>,
    waiting: VecDeque<(usize, Spec)>,
    opening: usize,
    opening_max: usize,
    open: usize,
}

impl Driver {
    /// To be run by the calling thread, which gives way to what it measures.
    pub(crate) fn new() -> Outcome<Self> {
        process::give_way()?;
        Ok(Self {
            poll: Poll::new().doing("epoll")?,
            events: Events::with_capacity(1_024),
            chunk: vec![0; READ_BYTES],
            sessions: Vec::new(),
            waiting: VecDeque::new(),
            opening: 0,
            opening_max: OPENING_AT_ONCE,
            open: 0,
        })
    }

    /// How many sessions may be on their way at once.
    pub(crate) fn open_at_once(&mut self, sessions: usize) {
        self.opening_max = sessions;
    }

    /// Sessions that are open now.
    pub(crate) fn open_count(&self) -> usize {
        self.open
    }

    /// Adds sessions and waits until all are open; gives back the index of the first.
    pub(crate) fn open_all(
        &mut self,
        specs: Vec<Spec>,
        handler: &mut impl Handler,
    ) -> Outcome<usize> {
        let first = self.sessions.len();
        let wanted = self.open + specs.len();
        for spec in specs {
            self.waiting.push_back((self.sessions.len(), spec));
            self.sessions.push(None);
        }
        let mut refusals = 0;
        let mut words = "they were closed".to_owned();
        let mut told = clock::now_us();
        while self.open < wanted {
            self.connect_waiting()?;
            for ended in self.turn(Duration::from_millis(100), handler)? {
                refusals += 1;
                words = ended.words;
            }
            let missing = wanted - self.open;
            let nobody_comes = self.opening == 0 && self.waiting.is_empty() && missing > 0;
            if refusals >= REFUSALS_MAX || nobody_comes {
                return Err(Failure::Unreachable(format!(
                    "{} of {wanted} sessions are open and {refusals} were refused: {words}",
                    self.open
                )));
            }
            if clock::now_us() - told > 2_000_000 {
                told = clock::now_us();
                progress!("perf: {} of {wanted} sessions are open", self.open);
            }
            self.check_overdue()?;
        }
        Ok(first)
    }

    /// Waits up to `patience` for something to happen, then deals with all that did.
    pub(crate) fn run(&mut self, patience: Duration, handler: &mut impl Handler) -> Outcome {
        self.connect_waiting()?;
        self.turn(patience, handler).map(|_| ())
    }

    /// Runs until the time, or until `done` says so.
    pub(crate) fn run_until<H: Handler>(
        &mut self,
        until_us: u64,
        handler: &mut H,
        done: impl Fn(&H) -> bool,
    ) -> Outcome {
        while !done(handler) {
            let left_us = until_us.saturating_sub(clock::now_us());
            if left_us == 0 {
                break;
            }
            self.run(Duration::from_micros(left_us.min(100_000)), handler)?;
        }
        Ok(())
    }

    /// Writes to a session that is open; one that is gone was reported.
    pub(crate) fn send(&mut self, session: usize, payload: &[u8], handler: &mut impl Handler) {
        if let Some(open) = self.sessions.get_mut(session).and_then(Option::as_mut)
            && open.state == State::Open
            && let Err(ended) = open.send(payload)
        {
            self.end(session, &ended, handler);
        }
    }

    /// Closes every session, with a close frame.
    pub(crate) fn close_all(&mut self) {
        for index in 0..self.sessions.len() {
            self.close(index);
        }
        (self.open, self.opening) = (0, 0);
        self.waiting.clear();
    }

    /// Closes a session, with a close frame; its handler does not hear of it.
    pub(crate) fn close(&mut self, index: usize) {
        let Some(mut session) = self.sessions.get_mut(index).and_then(Option::take) else { return };
        let mut frame = Vec::new();
        let code = 1_000_u16.to_be_bytes();
        super::codec::append(super::codec::CLOSE, &code, &mut frame);
        // It goes away either way.
        let _ = std::io::Write::write(&mut session.stream, &frame);
        match session.state {
            State::Open => self.open = self.open.saturating_sub(1),
            _ => self.opening = self.opening.saturating_sub(1),
        }
    }

    /// Opens a session again that is gone, in its turn; [`Self::run`] does it.
    pub(crate) fn reopen(&mut self, index: usize, spec: Spec) {
        self.waiting.push_back((index, spec));
    }

    /// Connects those whose turn it is.
    fn connect_waiting(&mut self) -> Outcome {
        while self.opening < self.opening_max
            && let Some((index, spec)) = self.waiting.pop_front()
        {
            self.connect(index, &spec)?;
        }
        Ok(())
    }

    /// The slow sessions' turn: each reads as much as its pace allows.
    pub(crate) fn read_slowly(&mut self, handler: &mut impl Handler) {
        for index in 0..self.sessions.len() {
            let Some(Some(session)) = self.sessions.get_mut(index) else { continue };
            let Pace::Slow(bytes) = session.pace else { continue };
            if session.state != State::Open || bytes == 0 {
                continue;
            }
            let bytes = bytes.min(self.chunk.len());
            let take = &mut |event: Event<'_>| match event {
                Event::Opened(_) => {}
                Event::Frame(payload) => handler.frame(index, payload),
            };
            if let Err(ended) = session.read(&mut self.chunk[..bytes], take) {
                self.end(index, &ended, handler);
            }
        }
    }

    fn connect(&mut self, index: usize, spec: &Spec) -> Outcome {
        let socket = connecting(spec).reaching(spec.address)?;
        let mut stream = TcpStream::from_std(socket.into());
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut stream, Token(index), interest).doing("epoll")?;
        let by_us = clock::now_us() + OPENING_MS_MAX * 1_000;
        self.sessions[index] = Some(Session::new(stream, spec, by_us).doing("TLS")?);
        self.opening += 1;
        Ok(())
    }

    fn check_overdue(&self) -> Outcome {
        let now = clock::now_us();
        let mut sessions = self.sessions.iter().flatten();
        let overdue = |it: &Session| it.state != State::Open && it.opened_by_us < now;
        match sessions.any(overdue) {
            true => Err(Failure::Unreachable(format!(
                "a session was not opened within {OPENING_MS_MAX} ms"
            ))),
            false => Ok(()),
        }
    }

    /// One turn of the loop; gives back the sessions that ended before they were open.
    fn turn(&mut self, patience: Duration, handler: &mut impl Handler) -> Outcome<Vec<Ended>> {
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        let polled = self.poll.poll(&mut events, Some(patience));
        if let Err(error) = polled
            && error.kind() != std::io::ErrorKind::Interrupted
        {
            return Err(error).doing("epoll");
        }
        let mut refused = Vec::new();
        for event in &events {
            let index = event.token().0;
            refused.extend(self.serve(index, event.is_writable(), event.is_readable(), handler));
        }
        self.events = events;
        Ok(refused)
    }

    fn serve(
        &mut self,
        index: usize,
        writable: bool,
        readable: bool,
        handler: &mut impl Handler,
    ) -> Option<Ended> {
        let session = self.sessions.get_mut(index)?.as_mut()?;
        let mut outcome = Ok(());
        if writable {
            outcome = match session.state {
                State::Connecting => session.connected(),
                _ => session.flush(),
            };
        }
        let reads = session.state != State::Connecting && !session.is_slow();
        if readable && outcome.is_ok() && reads {
            let (opening, open) = (&mut self.opening, &mut self.open);
            outcome = session.read(&mut self.chunk, &mut |event| match event {
                Event::Opened(welcome) => {
                    *opening -= 1;
                    *open += 1;
                    handler.opened(index, welcome);
                }
                Event::Frame(payload) => handler.frame(index, payload),
            });
        }
        match outcome {
            Ok(()) => None,
            Err(ended) => self.end(index, &ended, handler).then_some(ended),
        }
    }

    /// The session is gone; true if it never was open.
    fn end(&mut self, index: usize, ended: &Ended, handler: &mut impl Handler) -> bool {
        let Some(session) = self.sessions.get_mut(index).and_then(Option::take) else {
            return false;
        };
        if session.state == State::Open {
            self.open -= 1;
            handler.closed(index, ended.code);
            return false;
        }
        self.opening -= 1;
        true
    }
}

/// A socket on its way.
fn connecting(spec: &Spec) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(spec.address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if spec.pace != Pace::Full {
        // The kernel's buffer would read for it.
        socket.set_recv_buffer_size(SLOW_BUFFER_BYTES)?;
    }
    if let Some(source) = spec.source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    match socket.connect(&spec.address.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket),
    }
}
