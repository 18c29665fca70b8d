//! WebSocket frames from a client (RFC 6455 section 5), from bytes in arbitrary pieces to messages.
//!
//! A message that lies whole in the read buffer is unmasked and handed out in place. Only what is
//! cut borrows a [`Partial`], which goes back as soon as the message is complete.

use crate::close::{self, Reason};
use crate::limits::{CONTROL_BYTES_MAX, FRAME_HEADER_BYTES_MAX, PARTIAL_BYTES_KEPT, PARTIALS_KEPT};
use crate::outbound::deflate::Inflater;
use std::io::Cursor;
use std::ops::Range;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

/// What came, whole.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Incoming<'a> {
    Text(&'a str),
    Binary(&'a [u8]),
    Ping(&'a [u8]),
    Pong,
    /// With the peer's code, if it gave one.
    Close(Option<u16>),
}

/// How much of a message a client may send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FrameLimits {
    pub(crate) message_bytes_max: usize,
    /// Frames of one message.
    pub(crate) fragments_max: u32,
    /// Compressed messages are agreed on.
    pub(crate) inflates: bool,
}

/// Idle between frames it is one pointer.
#[derive(Default)]
pub(crate) struct Decoder {
    partial: Option<Box<Partial>>,
}

/// Buffers for partial frames that nobody uses at the moment.
#[derive(Default)]
pub(crate) struct Pool {
    #[allow(clippy::vec_box, reason = "they are lent and come back without being moved")]
    free: Vec<Box<Partial>>,
    inflater: Inflater,
}

struct Partial {
    header: [u8; FRAME_HEADER_BYTES_MAX],
    header_bytes: usize,
    /// The frame whose payload is under way.
    frame: Option<Frame>,
    control: [u8; CONTROL_BYTES_MAX],
    control_bytes: usize,
    message: Vec<u8>,
    /// The kind of the message under way.
    message_kind: Option<Kind>,
    /// That message is compressed.
    deflated: bool,
    /// So much of a text message is known to be UTF-8.
    valid_to: usize,
    fragments: u32,
    /// The message was handed out: the next step forgets it.
    delivered: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Binary,
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    opcode: OpCode,
    is_final: bool,
    deflated: bool,
    mask: [u8; 4],
    bytes: usize,
    /// Payload bytes that have come.
    seen: usize,
}

/// Where a whole message or control frame lies.
enum Ready {
    Input { opcode: OpCode, deflated: bool, range: Range<usize> },
    Control(Control),
    Message { kind: Kind, deflated: bool },
}

impl Decoder {
    /// Bytes of the message under way.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.partial.as_ref().map_or(0, |it| it.message.len())
    }

    /// Takes from `input`, notes in `used` how much, and returns what is whole; None when the input
    /// is used up. An error ends the connection for that reason.
    pub(crate) fn next<'a>(
        &'a mut self,
        input: &'a mut [u8],
        used: &mut usize,
        limits: FrameLimits,
        pool: &'a mut Pool,
    ) -> Result<Option<Incoming<'a>>, Reason> {
        self.settle(pool);
        let Some(ready) = self.step(input, used, limits, pool)? else {
            return Ok(None);
        };
        let payload: &[u8] = match (&ready, &self.partial) {
            (Ready::Input { range, .. }, _) => &input[range.clone()],
            (Ready::Control(_), Some(partial)) => &partial.control[..partial.control_bytes],
            (Ready::Message { .. }, Some(partial)) => &partial.message,
            (_, None) => &[],
        };
        let (opcode, deflated) = match ready {
            Ready::Input { opcode, deflated, .. } => (opcode, deflated),
            Ready::Control(control) => (OpCode::Control(control), false),
            Ready::Message { kind: Kind::Text, deflated } => (OpCode::Data(Data::Text), deflated),
            Ready::Message { kind: Kind::Binary, deflated } => {
                (OpCode::Data(Data::Binary), deflated)
            }
        };
        let payload = if deflated {
            pool.inflater.message(payload, limits.message_bytes_max)?
        } else {
            payload
        };
        incoming(opcode, payload).map(Some)
    }

    /// Forgets a message that was handed out, and gives the buffers back if nothing is under way.
    fn settle(&mut self, pool: &mut Pool) {
        pool.inflater.tidy();
        let Some(partial) = &mut self.partial else { return };
        if partial.delivered {
            partial.delivered = false;
            partial.message.clear();
            partial.message_kind = None;
            partial.deflated = false;
            partial.valid_to = 0;
            partial.fragments = 0;
        }
        let idle = partial.header_bytes == 0 && partial.frame.is_none();
        if idle && partial.message_kind.is_none() {
            pool.give(self.partial.take());
        }
    }

    fn step(
        &mut self,
        input: &mut [u8],
        used: &mut usize,
        limits: FrameLimits,
        pool: &mut Pool,
    ) -> Result<Option<Ready>, Reason> {
        loop {
            let under_way = self.partial.as_mut().and_then(|partial| partial.frame.take());
            let frame = match under_way {
                Some(frame) => frame,
                None => match self.header(input, used, limits, pool)? {
                    Some(frame) => frame,
                    None => return Ok(None),
                },
            };
            if let Some(ready) = self.payload(frame, input, used, limits, pool)? {
                return Ok(Some(ready));
            }
            if *used == input.len() {
                return Ok(None);
            }
        }
    }

    fn header(
        &mut self,
        input: &[u8],
        used: &mut usize,
        limits: FrameLimits,
        pool: &mut Pool,
    ) -> Result<Option<Frame>, Reason> {
        let rest = &input[*used..];
        let before = self.partial.as_ref().map_or(0, |partial| partial.header_bytes);
        let parsed = if before == 0 {
            parse_header(rest)?
        } else {
            let partial = pool.borrowed(&mut self.partial);
            let more = rest.len().min(FRAME_HEADER_BYTES_MAX - before);
            partial.header[before..before + more].copy_from_slice(&rest[..more]);
            parse_header(&partial.header[..before + more])?
        };
        let Some((header, bytes, header_bytes)) = parsed else {
            if !rest.is_empty() {
                let partial = pool.borrowed(&mut self.partial);
                partial.header[before..before + rest.len()].copy_from_slice(rest);
                partial.header_bytes = before + rest.len();
                *used = input.len();
            }
            return Ok(None);
        };
        *used += header_bytes - before;
        if let Some(partial) = &mut self.partial {
            partial.header_bytes = 0;
        }
        self.check(&header, bytes, limits).map(Some)
    }

    /// What the RFC and our limits demand of a header, before any byte of payload is kept.
    fn check(
        &self,
        header: &FrameHeader,
        bytes: u64,
        limits: FrameLimits,
    ) -> Result<Frame, Reason> {
        let Some(mask) = header.mask else { return Err(Reason::ProtocolViolation) };
        // RSV1 is on the first frame of a compressed message alone (RFC 7692 section 6).
        let may_be_deflated =
            limits.inflates && matches!(header.opcode, OpCode::Data(Data::Text | Data::Binary));
        if (header.rsv1 && !may_be_deflated) || header.rsv2 || header.rsv3 {
            return Err(Reason::ProtocolViolation);
        }
        let (started, so_far) = self
            .partial
            .as_ref()
            .map_or((false, 0), |it| (it.message_kind.is_some(), it.message.len()));
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        match header.opcode {
            OpCode::Control(_) if !header.is_final || bytes > CONTROL_BYTES_MAX => {
                return Err(Reason::ProtocolViolation);
            }
            OpCode::Control(_) => {}
            OpCode::Data(data) => {
                if (data == Data::Continue) != started {
                    return Err(Reason::ProtocolViolation);
                }
                if so_far.saturating_add(bytes) > limits.message_bytes_max {
                    return Err(Reason::MessageTooLarge);
                }
            }
        }
        let (opcode, is_final, deflated) = (header.opcode, header.is_final, header.rsv1);
        Ok(Frame { opcode, is_final, deflated, mask, bytes, seen: 0 })
    }

    fn payload(
        &mut self,
        mut frame: Frame,
        input: &mut [u8],
        used: &mut usize,
        limits: FrameLimits,
        pool: &mut Pool,
    ) -> Result<Option<Ready>, Reason> {
        let start = *used;
        let taken = (frame.bytes - frame.seen).min(input.len() - start);
        let range = start..start + taken;
        unmask(&mut input[range.clone()], frame.mask, frame.seen);
        *used += taken;
        let whole = frame.seen == 0 && taken == frame.bytes;
        let single = frame.is_final && !matches!(frame.opcode, OpCode::Data(Data::Continue));
        if whole && single {
            let Frame { opcode, deflated, .. } = frame;
            return Ok(Some(Ready::Input { opcode, deflated, range }));
        }
        let partial = pool.borrowed(&mut self.partial);
        if taken == 0 && frame.bytes > 0 {
            // The header alone has come: the payload may yet lie whole in the next input.
            partial.frame = Some(frame);
            return Ok(None);
        }
        let ready = match frame.opcode {
            OpCode::Control(control) => {
                partial.control[frame.seen..frame.seen + taken].copy_from_slice(&input[range]);
                partial.control_bytes = frame.seen + taken;
                Ready::Control(control)
            }
            OpCode::Data(data) => {
                partial.deflated |= frame.deflated;
                partial.append(data, frame.seen == 0, &input[range], limits.fragments_max)?;
                let kind = partial.message_kind.unwrap_or(Kind::Binary);
                Ready::Message { kind, deflated: partial.deflated }
            }
        };
        frame.seen += taken;
        if frame.seen < frame.bytes {
            partial.frame = Some(frame);
            return Ok(None);
        }
        if !frame.is_final {
            return Ok(None);
        }
        partial.delivered = matches!(ready, Ready::Message { .. });
        Ok(Some(ready))
    }
}

impl Partial {
    fn new() -> Self {
        Self {
            header: [0; FRAME_HEADER_BYTES_MAX],
            header_bytes: 0,
            frame: None,
            control: [0; CONTROL_BYTES_MAX],
            control_bytes: 0,
            message: Vec::new(),
            message_kind: None,
            deflated: false,
            valid_to: 0,
            fragments: 0,
            delivered: false,
        }
    }

    fn append(
        &mut self,
        data: Data,
        first_of_frame: bool,
        bytes: &[u8],
        fragments_max: u32,
    ) -> Result<(), Reason> {
        match data {
            Data::Text if first_of_frame => self.message_kind = Some(Kind::Text),
            Data::Binary if first_of_frame => self.message_kind = Some(Kind::Binary),
            _ => {}
        }
        if first_of_frame {
            self.fragments += 1;
            if self.fragments > fragments_max {
                return Err(Reason::Flood);
            }
        }
        self.message.extend_from_slice(bytes);
        if self.message_kind != Some(Kind::Text) || self.deflated {
            return Ok(());
        }
        // A character that is cut is not wrong yet; it is found at the end of the message.
        match std::str::from_utf8(&self.message[self.valid_to..]) {
            Ok(_) => self.valid_to = self.message.len(),
            Err(error) if error.error_len().is_none() => self.valid_to += error.valid_up_to(),
            Err(_) => return Err(Reason::InvalidUtf8),
        }
        Ok(())
    }
}

impl Pool {
    fn borrowed<'a>(&mut self, place: &'a mut Option<Box<Partial>>) -> &'a mut Partial {
        place.get_or_insert_with(|| self.free.pop().unwrap_or_else(|| Box::new(Partial::new())))
    }

    fn give(&mut self, partial: Option<Box<Partial>>) {
        if let Some(partial) = partial
            && self.free.len() < PARTIALS_KEPT
            && partial.message.capacity() <= PARTIAL_BYTES_KEPT
        {
            self.free.push(partial);
        }
    }
}

/// The header at the start of `bytes`, the payload's length and the header's own; None if cut.
fn parse_header(bytes: &[u8]) -> Result<Option<(FrameHeader, u64, usize)>, Reason> {
    let mut cursor = Cursor::new(bytes);
    let parsed = FrameHeader::parse(&mut cursor).map_err(|_| Reason::ProtocolViolation)?;
    let header_bytes = usize::try_from(cursor.position()).unwrap_or(usize::MAX);
    Ok(parsed.map(|(header, payload_bytes)| (header, payload_bytes, header_bytes)))
}

fn incoming(opcode: OpCode, payload: &[u8]) -> Result<Incoming<'_>, Reason> {
    match opcode {
        OpCode::Data(Data::Text) => match std::str::from_utf8(payload) {
            Ok(text) => Ok(Incoming::Text(text)),
            Err(_) => Err(Reason::InvalidUtf8),
        },
        OpCode::Data(_) => Ok(Incoming::Binary(payload)),
        OpCode::Control(Control::Ping) => Ok(Incoming::Ping(payload)),
        OpCode::Control(Control::Pong) => Ok(Incoming::Pong),
        OpCode::Control(_) => match payload {
            [] => Ok(Incoming::Close(None)),
            [high, low, reason @ ..] => {
                let code = u16::from_be_bytes([*high, *low]);
                if !close::is_valid_on_the_wire(code) {
                    return Err(Reason::ProtocolViolation);
                }
                match std::str::from_utf8(reason) {
                    Ok(_) => Ok(Incoming::Close(Some(code))),
                    Err(_) => Err(Reason::InvalidUtf8),
                }
            }
            [_] => Err(Reason::ProtocolViolation),
        },
    }
}

/// Takes the mask off (RFC 6455 section 5.3) bytes that begin `seen` bytes into the payload.
fn unmask(bytes: &mut [u8], mask: [u8; 4], seen: usize) {
    let mut key = mask;
    key.rotate_left(seen % 4);
    let [a, b, c, d] = key;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests;
