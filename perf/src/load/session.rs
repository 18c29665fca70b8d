//! One session: what is to be written, what was read in part, and how far the opening has come.

use super::codec::{self, Incoming};
use super::transport::Transport;
use mio::net::TcpStream;
use proto::client::{ClientFrame, Hello, ServerFrame, client_frame, server_frame};
use proto::{Message, SUBPROTOCOL_PROTO};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The close code of a connection that ended without one (RFC 6455 section 7.4.1).
pub(crate) const CLOSED_WITHOUT_CODE: u16 = 1_006;

/// Whom to connect to, and as whom.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    pub(crate) address: SocketAddr,
    /// The address to connect from, if it matters.
    pub(crate) source: Option<IpAddr>,
    /// The TLS client's side, if TLS is spoken; each session begins its own.
    pub(crate) tls: Option<Arc<ClientConfig>>,
    pub(crate) path: String,
    pub(crate) token: String,
    /// What the session says first.
    pub(crate) hello: Hello,
    /// How fast it reads, once it is open.
    pub(crate) pace: Pace,
}

/// How fast a session reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Whatever comes, at once.
    Full,
    /// So many bytes whenever the driver's turn for slow sessions comes; 0: never.
    Slow(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Connecting,
    Upgrading,
    /// Hello is written.
    Greeting,
    Open,
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) stream: Transport,
    pub(super) state: State,
    pub(super) opened_by_us: u64,
    pub(super) pace: Pace,
    upgrade: Vec<u8>,
    /// Until it is said.
    hello: Hello,
    /// A frame that is not all here yet.
    partial: Vec<u8>,
    output: Vec<u8>,
    written: usize,
}

/// Why a session ended: a close code, and words if it never opened.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) code: u16,
    pub(super) words: String,
}

impl Ended {
    pub(super) fn new(code: u16, words: impl Into<String>) -> Self {
        Self { code, words: words.into() }
    }
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::new(CLOSED_WITHOUT_CODE, error.to_string())
    }
}

/// What a session hands on.
pub(super) enum Event<'a> {
    /// The encoded welcome.
    Opened(&'a [u8]),
    Frame(&'a [u8]),
}

impl Session {
    pub(super) fn new(
        stream: TcpStream,
        spec: &Spec,
        opened_by_us: u64,
    ) -> Result<Self, rustls::Error> {
        let machine = match &spec.tls {
            None => None,
            Some(config) => {
                let name = ServerName::try_from("localhost")
                    .map_err(|error| rustls::Error::General(error.to_string()))?;
                Some(ClientConnection::new(Arc::clone(config), name)?)
            }
        };
        let upgrade = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {}\r\n\
             Sec-WebSocket-Protocol: {SUBPROTOCOL_PROTO}\r\nAuthorization: Bearer {}\r\n\r\n",
            spec.path,
            spec.address,
            tungstenite::handshake::client::generate_key(),
            spec.token,
        );
        Ok(Self {
            stream: Transport::new(stream, machine),
            state: State::Connecting,
            opened_by_us,
            pace: spec.pace,
            hello: spec.hello.clone(),
            upgrade: upgrade.into_bytes(),
            partial: Vec::new(),
            output: Vec::new(),
            written: 0,
        })
    }

    /// The connection is there: the upgrade can be written.
    pub(super) fn connected(&mut self) -> Result<(), Ended> {
        if let Some(error) = self.stream.socket().take_error()? {
            return Err(error.into());
        }
        self.state = State::Upgrading;
        self.output = std::mem::take(&mut self.upgrade);
        self.flush()
    }

    pub(super) fn send(&mut self, payload: &[u8]) -> Result<(), Ended> {
        codec::append(codec::BINARY, payload, &mut self.output);
        self.flush()
    }

    /// Whether it reads only when its turn comes.
    pub(super) fn is_slow(&self) -> bool {
        self.state == State::Open && self.pace != Pace::Full
    }

    /// Writes what the socket takes; the rest goes when it is writable again.
    pub(super) fn flush(&mut self) -> Result<(), Ended> {
        self.stream.flush()?;
        while self.written < self.output.len() {
            match self.stream.write(&self.output[self.written..]) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.written = 0;
        // An idle session keeps no buffer.
        self.output = Vec::new();
        Ok(())
    }

    /// Reads all there is and hands on what it holds; a slow session reads one `chunk`.
    pub(super) fn read(
        &mut self,
        chunk: &mut [u8],
        take: &mut impl FnMut(Event<'_>),
    ) -> Result<(), Ended> {
        let mut reads = 0;
        loop {
            if self.is_slow() && reads > 0 {
                return Ok(());
            }
            reads += 1;
            match self.stream.read(chunk) {
                Ok(0) => return Err(Ended::new(CLOSED_WITHOUT_CODE, "the server closed")),
                Ok(count) if self.partial.is_empty() => {
                    let taken = self.parse(&chunk[..count], take)?;
                    self.partial = chunk[taken..count].to_vec();
                }
                Ok(count) => {
                    let mut bytes = std::mem::take(&mut self.partial);
                    bytes.extend_from_slice(&chunk[..count]);
                    let taken = self.parse(&bytes, take)?;
                    bytes.drain(..taken);
                    self.partial = bytes;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Hands on what is whole; gives back how many bytes that took.
    fn parse(&mut self, bytes: &[u8], take: &mut impl FnMut(Event<'_>)) -> Result<usize, Ended> {
        let mut start = 0;
        if self.state == State::Upgrading {
            match upgraded(bytes)? {
                Some(taken) => start = taken,
                None => return Ok(0),
            }
            self.state = State::Greeting;
            let hello = std::mem::take(&mut self.hello);
            let frame =
                ClientFrame { request_id: 1, frame: Some(client_frame::Frame::Hello(hello)) };
            self.send(&frame.encode_to_vec())?;
        }
        loop {
            let next = codec::next(&bytes[start..])
                .map_err(|error| Ended::new(CLOSED_WITHOUT_CODE, error.to_string()))?;
            let Some((incoming, taken)) = next else { return Ok(start) };
            start += taken;
            match incoming {
                Incoming::Data(payload) if self.state == State::Open => take(Event::Frame(payload)),
                Incoming::Data(payload) => {
                    welcomed(payload)?;
                    self.state = State::Open;
                    take(Event::Opened(payload));
                }
                Incoming::Ping(payload) => {
                    codec::append(codec::PONG, payload, &mut self.output);
                    self.flush()?;
                }
                Incoming::Pong => {}
                Incoming::Close(code) => return Err(Ended::new(code, "the server closed")),
            }
        }
    }
}

/// The bytes of the answer to the upgrade, once it is whole.
fn upgraded(bytes: &[u8]) -> Result<Option<usize>, Ended> {
    let Some(end) = bytes.windows(4).position(|it| it == b"\r\n\r\n") else { return Ok(None) };
    let head = String::from_utf8_lossy(&bytes[..end]);
    let status = head.lines().next().unwrap_or_default();
    if status.split_whitespace().nth(1) != Some("101") {
        let body = String::from_utf8_lossy(&bytes[end + 4..]);
        return Err(Ended::new(CLOSED_WITHOUT_CODE, format!("{status}: {body}")));
    }
    Ok(Some(end + 4))
}

fn welcomed(payload: &[u8]) -> Result<(), Ended> {
    let words = match ServerFrame::decode(payload) {
        Ok(ServerFrame { frame: Some(server_frame::Frame::Welcome(_)), .. }) => return Ok(()),
        Ok(ServerFrame { frame: Some(server_frame::Frame::Error(error)), .. }) => {
            format!("{}: {}", error.code, error.message)
        }
        Ok(_) => "a frame came before the welcome".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(Ended::new(CLOSED_WITHOUT_CODE, words))
}
