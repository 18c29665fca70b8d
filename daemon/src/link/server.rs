//! The answering end: one reading and one writing thread per connection. A gateway holds a few
//! connections, so threads are cheap here; requests are handed to the daemon's own threads.

use super::stream::{Listener, Stream, nonce};
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
use std::io::{self, Read, Write};
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
#[derive(Debug)]
pub struct Reply {
    request_id: u64,
    answers: Option<Sender<Response>>,
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
            // Never full: it holds as many as may be in flight. Closed when the peer is gone.
            let _ = answers
                .try_send(Response { request_id: self.request_id, response: Some(response) });
        }
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
    let (answers, outgoing) = bounded(LINK_IN_FLIGHT_MAX);
    let in_flight = Arc::new(AtomicUsize::new(0));
    let writer_stream = stream.try_clone()?;
    let counter = Arc::clone(&in_flight);
    let writer = std::thread::Builder::new()
        .name("link-write".into())
        .spawn(move || write_answers(writer_stream, &outgoing, &counter))?;
    let outcome = read_requests(&mut stream, &mut reader, &peer, &answers, &in_flight, handler);
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
    answers: &Sender<Response>,
    in_flight: &AtomicUsize,
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
            while in_flight.load(Ordering::Acquire) >= LINK_IN_FLIGHT_MAX {
                // The peer is bounded lower than this; one that is not waits in its own socket.
                std::thread::sleep(Duration::from_millis(1));
            }
            in_flight.fetch_add(1, Ordering::AcqRel);
            dispatch(request, peer, answers, handler);
        }
    }
}

fn dispatch(request: Request, peer: &Arc<str>, answers: &Sender<Response>, handler: &dyn Handler) {
    let reply = Reply { request_id: request.request_id, answers: Some(answers.clone()) };
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
fn write_answers(mut stream: Stream, outgoing: &Receiver<Response>, in_flight: &AtomicUsize) {
    let mut bytes = Vec::new();
    while let Ok(first) = outgoing.recv() {
        bytes.clear();
        let mut count = 0;
        for response in std::iter::once(first).chain(outgoing.try_iter()) {
            count += 1;
            if let Err(error) = framing::append(&response, &mut bytes) {
                let error = ErrorCode::Internal.to_frame(error.to_string());
                let request_id = response.request_id;
                let response = Some(response::Response::Error(error));
                // An error of a few words always fits.
                let _ = framing::append(&Response { request_id, response }, &mut bytes);
            }
            if bytes.len() >= LINK_READ_BYTES {
                break;
            }
        }
        in_flight.fetch_sub(count, Ordering::AcqRel);
        if stream.write_all(&bytes).is_err() {
            stream.shutdown();
            return;
        }
    }
}
