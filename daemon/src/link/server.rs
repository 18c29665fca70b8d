//! The answering end: one reading and one writing thread per connection. A gateway holds a few
//! connections, so threads are cheap here; requests are handed to the daemon's own threads.

use super::stream::{Listener, Stream, nonce};
use super::write_half::{WriteHalf, Written};
use crate::limits::{
    LINK_CONNECTIONS_MAX, LINK_HANDSHAKE_MS_MAX, LINK_IN_FLIGHT_MAX, LINK_READ_BYTES,
    LINK_WRITE_MS_MAX,
};
use crossbeam_channel::{Receiver, Sender, bounded};
use proto::Message;
use proto::error::ErrorCode;
use proto::framing::{self, FrameReader};
use proto::handshake::{self, HANDSHAKE_FRAME_BYTES_MAX};
use proto::limits::LINK_FRAME_BYTES_MAX;
use proto::link::{Pong, Proof, Request, Response, request, response};
use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Where to listen, and as whom.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// `host:port` or `unix:/path`.
    pub address: String,
    pub secret: String,
    pub instance: String,
}

/// One request, as it came.
#[derive(Debug)]
pub struct Incoming {
    pub request: request::Request,
    pub traceparent: String,
    /// After this nobody waits for the answer any more.
    pub deadline: Instant,
    /// The peer's instance name.
    pub peer: Arc<str>,
}

/// The daemon's side of the link. Called on the connection's reading thread: hand the work on,
/// do not do it here.
pub trait Handler: Send + Sync + 'static {
    fn handle(&self, incoming: Incoming, reply: Reply);
}

/// The way back for one answer; may be sent from any thread. Dropped unsent it answers `internal`.
pub struct Reply {
    request_id: u64,
    answers: Option<Arc<Answers>>,
}

/// The way back of one connection.
struct Answers {
    /// Ends the writing thread when the reader and every open [`Reply`] are gone.
    queue: Sender<Outgoing>,
    half: Arc<WriteHalf>,
    /// Requests whose answer is not written yet.
    in_flight: Arc<AtomicUsize>,
}

enum Outgoing {
    Answer(Response),
    /// The [`WriteHalf`] has the rest of an answer.
    Rest,
}

impl Reply {
    /// Answers. If the peer is gone, so is the answer: the client asks again with the same key.
    pub fn send(mut self, response: response::Response) {
        self.deliver(response);
    }

    /// Answers with an error.
    pub fn refuse(self, code: ErrorCode, message: impl Into<String>) {
        self.send(response::Response::Error(code.to_frame(message)));
    }

    fn deliver(&mut self, response: response::Response) {
        if let Some(answers) = self.answers.take() {
            answers.send(Response { request_id: self.request_id, response: Some(response) });
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("request_id", &self.request_id).finish_non_exhaustive()
    }
}

impl Answers {
    /// Never waits. Without other requests there is nothing to write together with this answer.
    fn send(&self, answer: Response) {
        let is_lone = self.in_flight.load(Ordering::Acquire) == 1;
        let written = if is_lone { self.try_write(&answer) } else { Written::Not };
        let outgoing = match written {
            Written::Whole => return,
            Written::InPart => Outgoing::Rest,
            Written::Not => Outgoing::Answer(answer),
        };
        // Never full: it holds as many as may be in flight. Closed when the peer is gone.
        let _ = self.queue.try_send(outgoing);
    }

    fn try_write(&self, answer: &Response) -> Written {
        let written = self.half.try_send(answer);
        if written != Written::Not {
            self.in_flight.fetch_sub(1, Ordering::AcqRel);
        }
        written
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if self.answers.is_some() {
            let error = ErrorCode::Internal.to_frame("the request was dropped unanswered");
            self.deliver(response::Response::Error(error));
        }
    }
}

/// A listening server; it serves until the process ends.
#[derive(Debug)]
pub struct Server {
    address: String,
}

impl Server {
    /// What to connect to, with the port that was really bound.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }
}

/// Binds and serves on threads of its own.
pub fn serve(settings: ServerSettings, handler: Arc<dyn Handler>) -> io::Result<Server> {
    let listener = Listener::bind(&settings.address)?;
    let address = listener.address(&settings.address)?;
    tracing::info!(address, "link listening");
    let settings = Arc::new(settings);
    let open = Arc::new(AtomicUsize::new(0));
    std::thread::Builder::new().name("link-accept".into()).spawn(move || {
        loop {
            let Ok(stream) = listener.accept() else {
                // Out of descriptors, most likely: do not spin.
                std::thread::sleep(Duration::from_millis(100));
                continue;
            };
            if open.fetch_add(1, Ordering::Relaxed) >= LINK_CONNECTIONS_MAX {
                open.fetch_sub(1, Ordering::Relaxed);
                tracing::warn!(allowed = LINK_CONNECTIONS_MAX, "link connection refused: too many");
                continue;
            }
            let (settings, handler, open) =
                (Arc::clone(&settings), Arc::clone(&handler), Arc::clone(&open));
            let _ = std::thread::Builder::new().name("link-read".into()).spawn(move || {
                if let Err(error) = connection(stream, &settings, handler.as_ref()) {
                    tracing::warn!(%error, "link connection ended");
                }
                open.fetch_sub(1, Ordering::Relaxed);
            });
        }
    })?;
    Ok(Server { address })
}

fn connection(
    mut stream: Stream,
    settings: &ServerSettings,
    handler: &dyn Handler,
) -> io::Result<()> {
    let mut reader = FrameReader::new(HANDSHAKE_FRAME_BYTES_MAX);
    let peer: Arc<str> = greet(&mut stream, settings, &mut reader)?.into();
    reader.set_frame_bytes_max(LINK_FRAME_BYTES_MAX);
    tracing::info!(peer = %peer, "link peer connected");
    let (queue, outgoing) = bounded(LINK_IN_FLIGHT_MAX);
    let in_flight = Arc::new(AtomicUsize::new(0));
    let half = Arc::new(WriteHalf::new(stream.try_clone()?));
    let answers = Answers { queue, half: Arc::clone(&half), in_flight: Arc::clone(&in_flight) };
    let answers = Arc::new(answers);
    let writer_stream = stream.try_clone()?;
    let writer = std::thread::Builder::new().name("link-write".into()).spawn(move || {
        if write_answers(&half, &outgoing, &in_flight).is_err() {
            writer_stream.shutdown();
        }
    })?;
    let outcome = read_requests(&mut stream, &mut reader, &peer, &answers, handler);
    drop(answers);
    stream.shutdown();
    let _ = writer.join();
    outcome
}

fn greet(
    stream: &mut Stream,
    settings: &ServerSettings,
    reader: &mut FrameReader,
) -> io::Result<String> {
    let patience = Some(Duration::from_millis(LINK_HANDSHAKE_MS_MAX));
    stream.set_timeouts(patience, patience)?;
    let challenge = handshake::challenge(nonce()?);
    stream.write_frame(&challenge)?;
    let proof: Proof = stream.read_frame(reader)?;
    let ready =
        handshake::accept(settings.secret.as_bytes(), &challenge, &proof, &settings.instance)
            .map_err(io::Error::other)?;
    stream.write_frame(&ready)?;
    stream.set_timeouts(None, Some(Duration::from_millis(LINK_WRITE_MS_MAX)))?;
    Ok(proof.instance)
}

fn read_requests(
    stream: &mut Stream,
    reader: &mut FrameReader,
    peer: &Arc<str>,
    answers: &Arc<Answers>,
    handler: &dyn Handler,
) -> io::Result<()> {
    let mut chunk = vec![0; LINK_READ_BYTES];
    loop {
        let count = match stream.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        reader.push(&chunk[..count]);
        while let Some(frame) = reader.next_frame().map_err(io::Error::other)? {
            let request = Request::decode(frame).map_err(io::Error::other)?;
            while answers.in_flight.load(Ordering::Acquire) >= LINK_IN_FLIGHT_MAX {
                // The peer is bounded lower than this; one that is not waits in its own socket.
                std::thread::sleep(Duration::from_millis(1));
            }
            answers.in_flight.fetch_add(1, Ordering::AcqRel);
            dispatch(request, peer, answers, handler);
        }
    }
}

fn dispatch(request: Request, peer: &Arc<str>, answers: &Arc<Answers>, handler: &dyn Handler) {
    let reply = Reply { request_id: request.request_id, answers: Some(Arc::clone(answers)) };
    match request.request {
        None => reply.refuse(ErrorCode::UnknownFrame, "this build does not know the request"),
        Some(request::Request::Ping(_)) => reply.send(response::Response::Pong(Pong {})),
        Some(kind) => {
            let deadline = Instant::now() + Duration::from_millis(u64::from(request.deadline_ms));
            let traceparent = request.traceparent;
            let peer = Arc::clone(peer);
            handler.handle(Incoming { request: kind, traceparent, deadline, peer }, reply);
        }
    }
}

/// Writes all answers that wait in one system call. Ends when the reader and every open
/// [`Reply`] are gone, or when the peer no longer reads.
fn write_answers(
    half: &WriteHalf,
    outgoing: &Receiver<Outgoing>,
    in_flight: &AtomicUsize,
) -> io::Result<()> {
    let mut bytes = Vec::new();
    while let Ok(first) = outgoing.recv() {
        bytes.clear();
        let mut count = 0;
        for outgoing in std::iter::once(first).chain(outgoing.try_iter()) {
            let Outgoing::Answer(answer) = outgoing else { continue };
            count += 1;
            append(answer, &mut bytes);
            if bytes.len() >= LINK_READ_BYTES {
                break;
            }
        }
        in_flight.fetch_sub(count, Ordering::AcqRel);
        half.write_all(&bytes)?;
    }
    Ok(())
}

/// An answer that does not fit the link is an error instead.
fn append(answer: Response, bytes: &mut Vec<u8>) {
    if let Err(error) = framing::append(&answer, bytes) {
        let error = ErrorCode::Internal.to_frame(error.to_string());
        let response = Some(response::Response::Error(error));
        // An error of a few words always fits.
        let _ = framing::append(&Response { request_id: answer.request_id, response }, bytes);
    }
}
