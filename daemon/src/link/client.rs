//! The asking end: one thread that connects and writes, one that reads. Requests carry a context
//! of the asker's choice, which comes back with the answer, the error or the missed deadline.

use super::stream::{Stream, nonce};
use super::write_half::{WriteHalf, Written};
use crate::limits::{
    LINK_BACKOFF_MS_MAX, LINK_BACKOFF_MS_MIN, LINK_DEADLINE_TICK_MS, LINK_HANDSHAKE_MS_MAX,
    LINK_READ_BYTES, LINK_WRITE_MS_MAX,
};
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, select};
use proto::Message;
use proto::framing::{self, FrameReader};
use proto::handshake::{self, HANDSHAKE_FRAME_BYTES_MAX};
use proto::limits::LINK_FRAME_BYTES_MAX;
use proto::link::{Challenge, Ready, Request, Response, request, response};
use std::collections::HashMap;
use std::convert::Infallible;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Whom to ask, and as whom.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    /// `host:port` or `unix:/path`.
    pub address: String,
    pub secret: String,
    pub instance: String,
    /// Requests that are asked and not yet answered; one more is refused.
    pub in_flight_max: usize,
}

/// Why there is no answer. What was asked may or may not have been done, except when refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    #[error("the link is down")]
    Disconnected,
    #[error("too many requests are in flight on the link")]
    Full,
    #[error("no answer within the deadline")]
    Deadline,
}

struct Pending<T> {
    context: T,
    deadline: Instant,
}

type Callback<T> = dyn Fn(T, Result<response::Response, LinkError>) + Send + Sync;
type StateCallback = dyn Fn(bool) + Send + Sync;

struct Shared<T> {
    settings: ClientSettings,
    pending: Mutex<HashMap<u64, Pending<T>>>,
    connected: AtomicBool,
    /// Of the connection there is.
    half: Mutex<Option<Arc<WriteHalf>>>,
    /// The writing thread sleeps until it is told, though a deadline may pass meanwhile.
    asleep: AtomicBool,
    next_id: AtomicU64,
    on_answer: Box<Callback<T>>,
    on_state: Box<StateCallback>,
}

/// A link to one server; connects by itself, again and again.
pub struct Client<T> {
    shared: Arc<Shared<T>>,
    requests: Sender<Outgoing>,
}

enum Outgoing {
    Request(Request),
    /// Look at the [`WriteHalf`], which may have the rest of a request, and at the deadlines.
    Look,
}

impl<T> Clone for Client<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), requests: self.requests.clone() }
    }
}

impl<T: Send + 'static> Client<T> {
    /// Starts connecting. `on_answer` is called once for every request that was taken, on a thread
    /// of the link; `on_state` when the link comes up (`true`) and goes down.
    pub fn start(
        settings: ClientSettings,
        on_answer: impl Fn(T, Result<response::Response, LinkError>) + Send + Sync + 'static,
        on_state: impl Fn(bool) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let (requests, outgoing) = bounded(settings.in_flight_max);
        let shared = Arc::new(Shared {
            settings,
            pending: Mutex::new(HashMap::new()),
            connected: AtomicBool::new(false),
            half: Mutex::new(None),
            asleep: AtomicBool::new(false),
            next_id: AtomicU64::new(1),
            on_answer: Box::new(on_answer),
            on_state: Box::new(on_state),
        });
        let own = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("link".into())
            .spawn(move || keep_connected(&own, &outgoing))?;
        Ok(Self { shared, requests })
    }

    /// Asks. Never blocks: what cannot be taken comes back with the reason, and `on_answer` is
    /// not called for it.
    pub fn submit(
        &self,
        request: request::Request,
        traceparent: String,
        deadline: Duration,
        context: T,
    ) -> Result<(), (T, LinkError)> {
        if !self.is_connected() {
            return Err((context, LinkError::Disconnected));
        }
        let request_id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        let deadline_ms = u32::try_from(deadline.as_millis()).unwrap_or(u32::MAX);
        let mut pending = self.shared.pending();
        if pending.len() >= self.shared.settings.in_flight_max {
            return Err((context, LinkError::Full));
        }
        let entry = Pending { context, deadline: Instant::now() + deadline };
        pending.insert(request_id, entry);
        let is_lone = pending.len() == 1;
        drop(pending);
        let request = Request { request_id, deadline_ms, traceparent, request: Some(request) };
        // Without other requests there is nothing to write together with this one.
        if is_lone && self.is_written(&request) {
            return Ok(());
        }
        let refused = match self.requests.try_send(Outgoing::Request(request)) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Full(_)) => LinkError::Full,
            Err(TrySendError::Disconnected(_)) => LinkError::Disconnected,
        };
        match self.shared.pending().remove(&request_id) {
            Some(entry) => Err((entry.context, refused)),
            // The link went down in between and already told the asker.
            None => Ok(()),
        }
    }

    fn is_written(&self, request: &Request) -> bool {
        let written = self.shared.half().as_ref().map_or(Written::Not, |it| it.try_send(request));
        let must_look = written == Written::InPart
            || (written == Written::Whole && self.shared.asleep.swap(false, Ordering::AcqRel));
        if must_look {
            // A full queue is looked at anyway.
            let _ = self.requests.try_send(Outgoing::Look);
        }
        written != Written::Not
    }

    /// Whether a request would be written now.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.shared.connected.load(Ordering::Acquire)
    }
}

impl<T> Shared<T> {
    fn pending(&self) -> MutexGuard<'_, HashMap<u64, Pending<T>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn half(&self) -> MutexGuard<'_, Option<Arc<WriteHalf>>> {
        self.half.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, request_id: u64, outcome: Result<response::Response, LinkError>) {
        let entry = self.pending().remove(&request_id);
        if let Some(entry) = entry {
            (self.on_answer)(entry.context, outcome);
        }
    }

    fn fail_all(&self) {
        let entries: Vec<_> = self.pending().drain().collect();
        for (_, entry) in entries {
            (self.on_answer)(entry.context, Err(LinkError::Disconnected));
        }
    }

    fn expire(&self, now: Instant) {
        let late: Vec<u64> = {
            let pending = self.pending();
            pending.iter().filter(|(_, it)| it.deadline <= now).map(|(id, _)| *id).collect()
        };
        for request_id in late {
            self.answer(request_id, Err(LinkError::Deadline));
        }
    }
}

/// Runs until every [`Client`] is dropped.
fn keep_connected<T: Send + 'static>(shared: &Arc<Shared<T>>, outgoing: &Receiver<Outgoing>) {
    let mut backoff_ms = LINK_BACKOFF_MS_MIN;
    loop {
        match connect(&shared.settings) {
            Ok((stream, reader)) => {
                backoff_ms = LINK_BACKOFF_MS_MIN;
                if talk(shared, outgoing, stream, reader) == Ended::NobodyAsks {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(address = shared.settings.address, %error, "link not connected");
            }
        }
        let jitter = fastrand::u64(0..=backoff_ms / 2);
        std::thread::sleep(Duration::from_millis(backoff_ms + jitter));
        backoff_ms = (backoff_ms * 2).min(LINK_BACKOFF_MS_MAX);
    }
}

fn connect(settings: &ClientSettings) -> io::Result<(Stream, FrameReader)> {
    let mut stream = Stream::connect(&settings.address)?;
    let patience = Some(Duration::from_millis(LINK_HANDSHAKE_MS_MAX));
    stream.set_timeouts(patience, patience)?;
    let mut reader = FrameReader::new(HANDSHAKE_FRAME_BYTES_MAX);
    let challenge: Challenge = stream.read_frame(&mut reader)?;
    let secret = settings.secret.as_bytes();
    let proof = handshake::prove(secret, &challenge, nonce()?, &settings.instance)
        .map_err(io::Error::other)?;
    stream.write_frame(&proof)?;
    let ready: Ready = stream.read_frame(&mut reader)?;
    handshake::confirm(secret, &challenge, &proof, &ready).map_err(io::Error::other)?;
    stream.set_timeouts(None, Some(Duration::from_millis(LINK_WRITE_MS_MAX)))?;
    reader.set_frame_bytes_max(LINK_FRAME_BYTES_MAX);
    tracing::info!(peer = ready.instance, address = settings.address, "link connected");
    Ok((stream, reader))
}

#[derive(PartialEq, Eq)]
enum Ended {
    Lost,
    NobodyAsks,
}

fn talk<T: Send + 'static>(
    shared: &Arc<Shared<T>>,
    outgoing: &Receiver<Outgoing>,
    stream: Stream,
    reader: FrameReader,
) -> Ended {
    // Never written to: it ends with the reading thread.
    let (reads, lost) = bounded(0);
    let (Ok(read_stream), Ok(write_stream)) = (stream.try_clone(), stream.try_clone()) else {
        return Ended::Lost;
    };
    let half = Arc::new(WriteHalf::new(write_stream));
    let own = Arc::clone(shared);
    let spawned = std::thread::Builder::new().name("link-read".into()).spawn(move || {
        read_answers(&own, read_stream, reader);
        drop(reads);
    });
    let Ok(reading) = spawned else { return Ended::Lost };
    *shared.half() = Some(Arc::clone(&half));
    shared.connected.store(true, Ordering::Release);
    (shared.on_state)(true);
    let ended = write_requests(shared, outgoing, &half, &lost);
    shared.connected.store(false, Ordering::Release);
    *shared.half() = None;
    stream.shutdown();
    let _ = reading.join();
    // Requests of the lost connection must not be written on the next: their askers are told now.
    while outgoing.try_recv().is_ok() {}
    shared.fail_all();
    (shared.on_state)(false);
    ended
}

fn write_requests<T>(
    shared: &Shared<T>,
    outgoing: &Receiver<Outgoing>,
    half: &WriteHalf,
    lost: &Receiver<Infallible>,
) -> Ended {
    let tick = Duration::from_millis(LINK_DEADLINE_TICK_MS);
    let mut bytes = Vec::new();
    let mut expired_at = Instant::now();
    loop {
        // Without a request there is no deadline to wake for. Asleep before it looks: whoever asks after
        // that tells it.
        shared.asleep.store(true, Ordering::SeqCst);
        let patience = if shared.pending().is_empty() {
            Duration::MAX
        } else {
            shared.asleep.store(false, Ordering::SeqCst);
            tick
        };
        let first = select! {
            recv(outgoing) -> request => match request {
                Ok(request) => Some(request),
                Err(_) => return Ended::NobodyAsks,
            },
            recv(lost) -> _ => return Ended::Lost,
            default(patience) => None,
        };
        shared.asleep.store(false, Ordering::SeqCst);
        if expired_at.elapsed() >= tick {
            expired_at = Instant::now();
            shared.expire(expired_at);
        }
        bytes.clear();
        for outgoing in first.into_iter().chain(outgoing.try_iter()) {
            let Outgoing::Request(request) = outgoing else { continue };
            if let Err(error) = framing::append(&request, &mut bytes) {
                tracing::error!(%error, "a request does not fit the link");
                shared.answer(request.request_id, Err(LinkError::Full));
            }
            if bytes.len() >= LINK_READ_BYTES {
                break;
            }
        }
        if half.write_all(&bytes).is_err() {
            return Ended::Lost;
        }
    }
}

fn read_answers<T>(shared: &Shared<T>, mut stream: Stream, mut reader: FrameReader) {
    let mut chunk = vec![0; LINK_READ_BYTES];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return,
            Ok(count) => reader.push(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        }
        loop {
            let answer = match reader.next_frame() {
                Ok(Some(frame)) => Response::decode(frame),
                Ok(None) => break,
                Err(error) => {
                    tracing::error!(%error, "the link's peer broke the framing");
                    return;
                }
            };
            match answer {
                Ok(Response { request_id, response: Some(response) }) => {
                    shared.answer(request_id, Ok(response));
                }
                // A kind of answer that this build does not know: the asker's deadline ends it.
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(%error, "the link's peer sent no answer");
                    return;
                }
            }
        }
    }
}
