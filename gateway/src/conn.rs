//! One connection's state machine, from HTTP to WebSocket to the end. Pure: bytes and a clock
//! reading go in, effects come out; the shard carries them out.

mod http;
mod socket;

use crate::clock::Now;
use crate::close::Reason;
use crate::inbound::events;
use crate::inbound::frame::{FrameLimits, Pool};
use crate::inbound::message::Refused;
use crate::inbound::proxy::Proxies;
use crate::inbound::token::Claims;
use crate::inbound::upgrade::{Encoding, Upgrade};
use crate::outbound::deflate::Deflater;
use crate::rate::Limits;
use bytes::Bytes;
use http::Http;
use proto::client::ClientFrame;
pub(crate) use socket::Offer;
use socket::Socket;
use std::net::IpAddr;

/// What the operator allows, as far as a connection's bytes are concerned.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    pub(crate) frames: FrameLimits,
    /// Foreign origins that may connect.
    pub(crate) origins: Vec<String>,
    pub(crate) proxies: Proxies,
    /// Compress messages of those who offer it.
    pub(crate) deflate: bool,
    /// Messages are sent back as they came, without a hello: the conformance profile.
    pub(crate) echo: bool,
}

/// What the shard is to do, in this order.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Queue these bytes.
    Write(Bytes),
    /// Ask chatd; [`Conn::respond`] brings the answer.
    Ask(Box<proto::link::Http>),
    /// Upgrade, or say with a status why not: [`Conn::upgrade`] or [`Conn::respond`] follows.
    Upgrade(Box<Upgrade>),
    /// Begin a stream of server-sent events; [`Conn::begin_stream`] or [`Conn::respond`] follows.
    Stream(Box<events::Request>),
    /// A frame of the client protocol. The first one is a hello: nothing more is taken from the
    /// bytes until [`Conn::go_on`].
    Frame(ClientFrame),
    /// Tell the client what is wrong with its frame.
    Refused(Refused),
    /// A pong came.
    Alive,
    /// Close; with the code that the peer gave, if it closed first.
    Close(Reason, Option<u16>),
}

/// How far the connection has come; each stage has its own deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// A listed proxy's header is awaited.
    Proxy,
    /// The TLS handshake is under way.
    Tls,
    /// The head of a request is awaited, or under way.
    Head,
    /// The body of a request is under way.
    Body,
    /// A request is being answered.
    Answer,
    /// Between two requests.
    KeepAlive,
    /// Upgraded; the hello is awaited, or dealt with.
    Hello,
    /// A session.
    Session,
    /// Whatever comes is thrown away.
    Closing,
}

/// Why no bytes are taken at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pause {
    None,
    /// Until the shard has dealt with the hello.
    Hello,
    /// Until chatd has answered.
    Answer,
    /// Until the response is written.
    Written,
    /// Until the others have had their turn.
    Turn,
}

enum Phase {
    Http(Box<Http>),
    Socket(Socket),
    /// Server-sent events: what comes in is thrown away.
    Stream,
    Closing,
}

pub(crate) struct Conn {
    phase: Phase,
    pause: Pause,
    /// Since the upgrade; stays when the connection is closing, for what is still queued.
    encoding: Option<Encoding>,
    /// Bytes that came and could not be used yet.
    stash: Option<Box<Stash>>,
}

struct Stash {
    bytes: Vec<u8>,
}

/// What the shard lends while bytes are taken.
pub(crate) struct Lent<'a> {
    pub(crate) now: Now,
    pub(crate) policy: &'a Policy,
    pub(crate) limits: &'a Limits,
    pub(crate) pool: &'a mut Pool,
    pub(crate) deflater: &'a mut Deflater,
    pub(crate) effects: &'a mut Vec<Effect>,
    /// What may still be done in this turn; see [`crate::limits::TURN_WORK_MAX`].
    pub(crate) work: u32,
}

impl Conn {
    pub(crate) fn new(peer: IpAddr) -> Self {
        let phase = Phase::Http(Box::new(Http::new(peer)));
        Self { phase, pause: Pause::None, encoding: None, stash: None }
    }

    /// Takes what came (and what was left before), as far as that is possible now. `input` is used
    /// as working space.
    pub(crate) fn receive(&mut self, input: &mut [u8], lent: &mut Lent<'_>) {
        if self.pause == Pause::Turn {
            self.pause = Pause::None;
        }
        let Some(mut stash) = self.stash.take() else {
            let used = self.take(input, lent);
            if used < input.len() && !self.is_closing() {
                self.stash = Some(Box::new(Stash { bytes: input[used..].to_vec() }));
            }
            return;
        };
        stash.bytes.extend_from_slice(input);
        let used = self.take(&mut stash.bytes, lent);
        if used < stash.bytes.len() && !self.is_closing() {
            stash.bytes.drain(..used);
            self.stash = Some(stash);
        }
    }

    fn take(&mut self, bytes: &mut [u8], lent: &mut Lent<'_>) -> usize {
        let mut used = 0;
        while self.pause == Pause::None && used < bytes.len() {
            let rest = &mut bytes[used..];
            let (taken, next) = match &mut self.phase {
                Phase::Http(http) => http.take(rest, lent),
                Phase::Socket(socket) => socket.take(rest, lent),
                Phase::Stream | Phase::Closing => (rest.len(), Next::Stay),
            };
            match next {
                Next::Stay => {}
                Next::Pause(pause) => self.pause = pause,
                Next::Upgrade(encoding, socket) => {
                    self.encoding = Some(encoding);
                    self.phase = Phase::Socket(socket);
                }
                Next::Close => self.phase = Phase::Closing,
            }
            if taken == 0 {
                break;
            }
            used += taken;
        }
        used
    }

    /// Whether bytes are taken at the moment; if not, they had better stay in the socket.
    pub(crate) fn is_paused(&self) -> bool {
        self.pause != Pause::None
    }

    /// Whether bytes were left for its next turn, which [`Self::receive`] begins.
    pub(crate) fn awaits_turn(&self) -> bool {
        self.pause == Pause::Turn
    }

    /// A frame is refused that looked fine here: whether there were too many of them.
    pub(crate) fn refusals_flood(&mut self, now: Now) -> bool {
        match &mut self.phase {
            Phase::Socket(socket) => socket.refusals_flood(now),
            _ => false,
        }
    }

    /// Bytes of what has come in part.
    pub(crate) fn kept_bytes(&self) -> usize {
        let unframed = self.stash.as_ref().map_or(0, |it| it.bytes.len());
        match &self.phase {
            Phase::Socket(socket) => unframed + socket.kept_bytes(),
            _ => unframed,
        }
    }

    /// Whether bytes wait that [`Self::receive`] has not used.
    pub(crate) fn has_stash(&self) -> bool {
        self.stash.is_some()
    }

    pub(crate) fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closing)
    }

    /// The shard has dealt with the hello.
    pub(crate) fn go_on(&mut self) {
        if self.pause == Pause::Hello {
            self.pause = Pause::None;
        }
    }

    /// The upgrade that was asked for is granted: gives back the response. `claims` are those of its
    /// token, if that is good.
    pub(crate) fn upgrade(&mut self, mut upgrade: Upgrade, claims: Option<Claims>) -> Bytes {
        let response = std::mem::take(&mut upgrade.response);
        self.encoding = Some(upgrade.encoding);
        self.phase = Phase::Socket(Socket::new(upgrade, claims, false));
        self.pause = Pause::None;
        response.into()
    }

    /// The stream that was asked for begins.
    pub(crate) fn begin_stream(&mut self) {
        self.phase = Phase::Stream;
        self.pause = Pause::None;
        self.encoding = Some(Encoding::Events);
        self.stash = None;
    }

    /// chatd's answer came, and `response` makes the bytes of it: whether the request was HEAD and
    /// whether the connection is kept. None if no answer is awaited.
    pub(crate) fn respond<T>(&mut self, response: impl FnOnce(bool, bool) -> T) -> Option<T> {
        let Phase::Http(http) = &self.phase else { return None };
        if self.pause != Pause::Answer {
            return None;
        }
        self.pause = Pause::Written;
        Some(response(http.is_head(), http.keeps_alive()))
    }

    /// Everything queued is written. Says whether the connection has come to its end with it.
    pub(crate) fn written(&mut self) -> bool {
        if self.pause == Pause::Written {
            self.pause = Pause::None;
            if let Phase::Http(http) = &mut self.phase
                && !http.finish()
            {
                self.phase = Phase::Closing;
                return true;
            }
        }
        false
    }

    /// From here on whatever comes is thrown away.
    pub(crate) fn close(&mut self) {
        self.phase = Phase::Closing;
        self.pause = Pause::None;
        self.stash = None;
    }

    /// What came with the upgrade, once.
    pub(crate) fn take_offer(&mut self) -> Option<Offer> {
        match &mut self.phase {
            Phase::Socket(socket) => socket.take_offer(),
            _ => None,
        }
    }

    /// Whether this is, or was until it began to close, a WebSocket connection.
    pub(crate) fn is_socket(&self) -> bool {
        self.encoding.is_some_and(Encoding::is_socket)
    }

    /// Whether this is, or was until it began to close, a stream of server-sent events.
    pub(crate) fn is_stream(&self) -> bool {
        self.encoding == Some(Encoding::Events)
    }

    /// How frames are written; of no meaning before the upgrade.
    pub(crate) fn encoding(&self) -> Encoding {
        self.encoding.unwrap_or(Encoding::Json)
    }

    pub(crate) fn stage(&self) -> Stage {
        match (&self.phase, self.pause) {
            (Phase::Closing, _) => Stage::Closing,
            (Phase::Stream, _) => Stage::Session,
            (Phase::Socket(socket), pause) if socket.is_greeted() && pause != Pause::Hello => {
                Stage::Session
            }
            (Phase::Socket(_), _) => Stage::Hello,
            (Phase::Http(_), Pause::Answer | Pause::Written) => Stage::Answer,
            (Phase::Http(http), _) => http.stage(self.stash.is_some()),
        }
    }
}

/// What follows from what was taken.
enum Next {
    Stay,
    Pause(Pause),
    Upgrade(Encoding, Socket),
    Close,
}

#[cfg(test)]
mod tests;
