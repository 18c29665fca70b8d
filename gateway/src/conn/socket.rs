//! The WebSocket part of a connection: messages to frames of the client protocol, control frames
//! to their answers.

use super::{Effect, Lent, Next, Pause};
use crate::clock::Now;
use crate::close::Reason;
use crate::inbound::frame::{Decoder, FrameLimits, Incoming};
use crate::inbound::message::{self, Refused};
use crate::inbound::token::Claims;
use crate::inbound::upgrade::{Encoding, Upgrade};
use crate::limits::{CONTROL_FRAMES_MAX, FLOOD_WINDOW_MS, REFUSED_FRAMES_MAX, TURN_WORK_BYTES};
use crate::outbound::encode;
use proto::client::ClientFrame;
use proto::client::client_frame::Frame;
use proto::error::ErrorCode;

pub(super) struct Socket {
    decoder: Decoder,
    /// Only until the hello.
    offer: Option<Box<Offer>>,
    /// The window in which control frames and refused ones are being counted.
    window: u32,
    control_frames: u16,
    refused_frames: u16,
    encoding: Encoding,
    /// Compressed messages are agreed on: the client's window, as a power of two.
    window_bits: Option<u8>,
    greeted: bool,
}

/// Who a client is, as it said with its upgrade.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Offer {
    Token(String),
    /// Of a token that was verified before the upgrade.
    Claims(Claims),
}

impl Socket {
    /// `claims` are those of the upgrade's token, if that was verified. In the echo profile no hello is
    /// awaited.
    pub(super) fn new(upgrade: Upgrade, claims: Option<Claims>, echo: bool) -> Self {
        let Upgrade { encoding, token, window_bits, .. } = upgrade;
        let offer = claims.map(Offer::Claims).or_else(|| token.map(Offer::Token));
        Self {
            decoder: Decoder::default(),
            offer: offer.map(Box::new),
            window: 0,
            control_frames: 0,
            refused_frames: 0,
            encoding,
            window_bits,
            greeted: echo,
        }
    }

    pub(super) fn is_greeted(&self) -> bool {
        self.greeted
    }

    pub(super) fn kept_bytes(&self) -> usize {
        self.decoder.kept_bytes()
    }

    pub(super) fn take_offer(&mut self) -> Option<Offer> {
        self.offer.take().map(|offer| *offer)
    }

    pub(super) fn take(&mut self, bytes: &mut [u8], lent: &mut Lent<'_>) -> (usize, Next) {
        let mut used = 0;
        let limits = FrameLimits { inflates: self.window_bits.is_some(), ..lent.policy.frames };
        loop {
            if lent.work == 0 && used < bytes.len() {
                return (used, Next::Pause(Pause::Turn));
            }
            let incoming = match self.decoder.next(bytes, &mut used, limits, lent.pool) {
                Ok(Some(incoming)) => incoming,
                Ok(None) => return (used, Next::Stay),
                Err(reason) => return (bytes.len(), close(reason, None, lent)),
            };
            lent.work = lent.work.saturating_sub(work(&incoming));
            let deflater = self.window_bits.map(|bits| (&mut *lent.deflater, bits));
            let outcome = match incoming {
                Incoming::Text(text) if lent.policy.echo => {
                    Taken::Echo(encode::echo(true, text.as_bytes(), deflater))
                }
                Incoming::Binary(it) if lent.policy.echo => {
                    Taken::Echo(encode::echo(false, it, deflater))
                }
                Incoming::Text(text) => message::check_kind(true, self.encoding)
                    .map_or_else(Taken::Violation, |()| Taken::Frame(message::from_text(text))),
                Incoming::Binary(it) => message::check_kind(false, self.encoding)
                    .map_or_else(Taken::Violation, |()| Taken::Frame(message::from_binary(it))),
                Incoming::Ping(payload) => Taken::Ping(encode::pong(payload)),
                Incoming::Pong => Taken::Pong,
                Incoming::Close(code) => {
                    return (bytes.len(), close(Reason::PeerClosed, code, lent));
                }
            };
            match self.deal(outcome, lent) {
                Next::Stay => {}
                Next::Close => return (bytes.len(), Next::Close),
                next => return (used, next),
            }
        }
    }

    fn deal(&mut self, taken: Taken, lent: &mut Lent<'_>) -> Next {
        match taken {
            Taken::Echo(bytes) => lent.effects.push(Effect::Write(bytes.into())),
            Taken::Violation(reason) => return close(reason, None, lent),
            Taken::Frame(Ok(frame)) => return self.frame(frame, lent),
            Taken::Frame(Err(refused)) => return self.refuse(refused, lent),
            Taken::Ping(_) | Taken::Pong if self.controls_flood(lent.now) => {
                return close(Reason::Flood, None, lent);
            }
            Taken::Ping(pong) => lent.effects.push(Effect::Write(pong.into())),
            Taken::Pong => lent.effects.push(Effect::Alive),
        }
        Next::Stay
    }

    /// The first frame is a hello, and only the first.
    fn frame(&mut self, frame: ClientFrame, lent: &mut Lent<'_>) -> Next {
        let is_hello = matches!(frame.frame, Some(Frame::Hello(_)));
        if is_hello == self.greeted {
            let message = if is_hello {
                "the hello was said already"
            } else {
                "the first frame must be hello"
            };
            let refused = Refused {
                request_id: frame.request_id,
                code: ErrorCode::UnexpectedFrame,
                message: message.to_owned(),
            };
            return self.refuse(refused, lent);
        }
        self.greeted = true;
        lent.effects.push(Effect::Frame(frame));
        if is_hello { Next::Pause(Pause::Hello) } else { Next::Stay }
    }

    fn refuse(&mut self, refused: Refused, lent: &mut Lent<'_>) -> Next {
        if self.refusals_flood(lent.now) {
            return close(Reason::Flood, None, lent);
        }
        lent.effects.push(Effect::Refused(refused));
        Next::Stay
    }

    /// Counts one more control frame.
    fn controls_flood(&mut self, now: Now) -> bool {
        self.turn_window(now);
        self.control_frames += 1;
        self.control_frames > CONTROL_FRAMES_MAX
    }

    /// Counts one more frame that is refused.
    pub(super) fn refusals_flood(&mut self, now: Now) -> bool {
        self.turn_window(now);
        self.refused_frames = self.refused_frames.saturating_add(1);
        self.refused_frames > REFUSED_FRAMES_MAX
    }

    fn turn_window(&mut self, now: Now) {
        // Only whether it is the same window matters: the number may wrap.
        #[allow(clippy::cast_possible_truncation, reason = "the window's number may wrap")]
        let window = (now.ms / FLOOD_WINDOW_MS) as u32;
        if self.window != window {
            (self.window, self.control_frames, self.refused_frames) = (window, 0, 0);
        }
    }
}

/// A message or control frame, no longer borrowed from the decoder.
enum Taken {
    Echo(Vec<u8>),
    Violation(Reason),
    Frame(Result<ClientFrame, Refused>),
    Ping(Vec<u8>),
    Pong,
}

/// What it costs of a turn.
fn work(incoming: &Incoming<'_>) -> u32 {
    let bytes = match incoming {
        Incoming::Text(text) => text.len(),
        Incoming::Binary(bytes) | Incoming::Ping(bytes) => bytes.len(),
        Incoming::Pong | Incoming::Close(_) => 0,
    };
    u32::try_from(bytes / TURN_WORK_BYTES).unwrap_or(u32::MAX).saturating_add(1)
}

fn close(reason: Reason, echoed: Option<u16>, lent: &mut Lent<'_>) -> Next {
    lent.effects.push(Effect::Close(reason, echoed));
    Next::Close
}
