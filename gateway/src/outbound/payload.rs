//! What is queued to sessions: every payload is held once in a shard, however many rings refer to
//! it, with its WebSocket frame header already in front.

use crate::inbound::upgrade::Encoding;
use crate::limits::{PAYLOAD_BYTES_KEPT, PAYLOADS_KEPT};
use crate::mail::Priority;
use crate::metrics::Lane;
use crate::outbound::deflate::Deflater;
use crate::outbound::encode;
use bytes::Bytes;
use proto::Message;
use proto::Uuid;
use proto::client::ServerFrame;
use proto::client::server_frame::Frame;
use std::hash::{DefaultHasher, Hash, Hasher};

/// A reference to a payload of this shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Handle(pub(crate) u32);

/// What a payload is made of.
enum Source {
    /// The slot is free.
    Free,
    /// Bytes for the socket as they are: HTTP, control frames, a frame already encoded for one session.
    Raw(Bytes),
    /// An encoded `ServerFrame`; the frames are made when the first session wants them.
    Frame(Bytes),
}

/// What has to be known of an event when not all of it can be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(crate) conversation: Uuid,
    /// 0 for what is not in the conversation's log.
    pub(crate) sequence_number: u64,
    pub(crate) priority: Priority,
    /// What it is counted under.
    pub(crate) lane: Lane,
}

impl Tag {
    /// Of an ephemeral event of no conversation.
    pub(crate) const EPHEMERAL: Self = Self {
        conversation: Uuid::nil(),
        sequence_number: 0,
        priority: Priority::Ephemeral,
        lane: Lane::NONE,
    };
}

struct Payload {
    source: Source,
    /// None for what is no event: answers and control frames.
    tag: Option<Tag>,
    /// What an ephemeral event is about, once somebody asked.
    subject: Option<u64>,
    references: u32,
    /// For the delivery latency; 0: not measured.
    created_at_us: u64,
    /// The frame for binary sessions, header in front; empty until wanted.
    binary: Vec<u8>,
    /// The frame for JSON sessions, header in front; empty until wanted.
    text: Vec<u8>,
    /// What only some sessions want.
    rare: Option<Box<Rare>>,
}

/// Forms that most payloads are never wanted in; each is empty until it is.
#[derive(Default)]
struct Rare {
    binary_deflated: Vec<u8>,
    text_deflated: Vec<u8>,
    event: Vec<u8>,
}

impl Payload {
    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_with(Box::default)
    }

    /// One compressed copy for all sessions that want it.
    fn deflate(&mut self, encoding: Encoding, deflater: &mut Deflater) {
        if !encoding.is_deflated() {
            return;
        }
        let rare = self.rare.get_or_insert_with(Box::default);
        let (frame, out) = if encoding.is_text() {
            (&self.text, &mut rare.text_deflated)
        } else {
            (&self.binary, &mut rare.binary_deflated)
        };
        encode::deflated_frame(frame, deflater, out);
    }

    /// What it takes, in all its forms.
    fn size(&self) -> usize {
        let source = match &self.source {
            Source::Free => 0,
            Source::Raw(bytes) | Source::Frame(bytes) => bytes.len(),
        };
        let rare = self.rare.as_ref().map_or(0, |rare| {
            rare.binary_deflated.len() + rare.text_deflated.len() + rare.event.len()
        });
        source + self.binary.len() + self.text.len() + rare
    }

    fn form(&self, encoding: Encoding) -> &[u8] {
        let rare = self.rare.as_ref();
        match encoding {
            Encoding::Proto => &self.binary,
            Encoding::Json => &self.text,
            Encoding::ProtoDeflated => rare.map_or(&[], |it| &it.binary_deflated),
            Encoding::JsonDeflated => rare.map_or(&[], |it| &it.text_deflated),
            Encoding::Events => rare.map_or(&[], |it| &it.event),
        }
    }
}

/// The payloads of one shard.
pub(crate) struct Payloads {
    slots: Vec<Payload>,
    free: Vec<u32>,
    deflater: Deflater,
    /// Of all payloads that are referred to, in every form that was made of them.
    bytes: usize,
}

impl Payloads {
    pub(crate) fn new() -> Self {
        let (slots, free) = (Vec::new(), Vec::new());
        Self { slots, free, deflater: Deflater::default(), bytes: 0 }
    }

    /// Bytes for the socket as they are. The caller holds the one reference.
    pub(crate) fn add_raw(&mut self, bytes: Bytes) -> Handle {
        self.add(Source::Raw(bytes), 0)
    }

    /// An encoded event, for sessions of either encoding. The caller holds the one reference.
    pub(crate) fn add_event(&mut self, frame: Bytes, created_at_us: u64, tag: Tag) -> Handle {
        let handle = self.add(Source::Frame(frame), created_at_us);
        self.slots[handle.0 as usize].tag = Some(tag);
        handle
    }

    /// A frame for one session. The caller holds the one reference.
    pub(crate) fn add_reply(&mut self, frame: &ServerFrame, encoding: Encoding) -> Handle {
        let handle = self.add(Source::Frame(Bytes::new()), 0);
        let payload = &mut self.slots[handle.0 as usize];
        match encoding {
            Encoding::Proto | Encoding::ProtoDeflated => {
                encode::binary_message(frame, &mut payload.binary);
            }
            Encoding::Json | Encoding::JsonDeflated => encode::text(frame, &mut payload.text),
            Encoding::Events => encode::event(frame, &mut payload.rare().event),
        }
        self.bytes += payload.size();
        handle
    }

    fn add(&mut self, source: Source, created_at_us: u64) -> Handle {
        if let Source::Raw(bytes) | Source::Frame(bytes) = &source {
            self.bytes += bytes.len();
        }
        if let Some(index) = self.free.pop() {
            let payload = &mut self.slots[index as usize];
            payload.source = source;
            (payload.tag, payload.subject) = (None, None);
            payload.references = 1;
            payload.created_at_us = created_at_us;
            return Handle(index);
        }
        let index = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        let (binary, text) = (Vec::new(), Vec::new());
        self.slots.push(Payload {
            source,
            tag: None,
            subject: None,
            references: 1,
            created_at_us,
            binary,
            text,
            rare: None,
        });
        Handle(index)
    }

    /// Makes the encoding if it is not made yet; returns the bytes on the wire, or None if the
    /// payload cannot be shown in that encoding because it is no `ServerFrame`.
    pub(crate) fn prepare(&mut self, handle: Handle, encoding: Encoding) -> Option<usize> {
        let payload = &mut self.slots[handle.0 as usize];
        let source = match &payload.source {
            Source::Free => return None,
            Source::Raw(bytes) => return Some(bytes.len()),
            Source::Frame(bytes) => bytes,
        };
        if !payload.form(encoding).is_empty() {
            return Some(payload.form(encoding).len());
        }
        let before = payload.size();
        match encoding {
            Encoding::Proto | Encoding::ProtoDeflated => {
                if payload.binary.is_empty() {
                    encode::binary(source, &mut payload.binary);
                }
            }
            Encoding::Json | Encoding::JsonDeflated => {
                if payload.text.is_empty() {
                    let frame = ServerFrame::decode(source.as_ref()).ok()?;
                    encode::text(&frame, &mut payload.text);
                }
            }
            Encoding::Events => {
                let frame = ServerFrame::decode(source.as_ref()).ok()?;
                encode::event(&frame, &mut payload.rare().event);
            }
        }
        payload.deflate(encoding, &mut self.deflater);
        self.bytes += payload.size() - before;
        Some(payload.form(encoding).len())
    }

    /// The bytes on the wire; empty if they were not prepared.
    pub(crate) fn bytes(&self, handle: Handle, encoding: Encoding) -> &[u8] {
        let payload = &self.slots[handle.0 as usize];
        match &payload.source {
            Source::Free => &[],
            Source::Raw(bytes) => bytes,
            Source::Frame(_) => payload.form(encoding),
        }
    }

    pub(crate) fn tag(&self, handle: Handle) -> Option<Tag> {
        self.slots[handle.0 as usize].tag
    }

    /// What a payload is counted under.
    pub(crate) fn lane(&self, handle: Handle) -> Lane {
        self.tag(handle).map_or(Lane::NONE, |tag| tag.lane)
    }

    /// What an ephemeral event is about: of two about the same, the later one is enough. The event is
    /// decoded for it, once.
    pub(crate) fn subject(&mut self, handle: Handle) -> Option<u64> {
        let payload = &mut self.slots[handle.0 as usize];
        let Source::Frame(bytes) = &payload.source else { return None };
        if payload.tag.is_none_or(|tag| tag.priority != Priority::Ephemeral) {
            return None;
        }
        if payload.subject.is_none() {
            let frame = ServerFrame::decode(bytes.as_ref()).ok()?;
            let Some(Frame::Event(event)) = frame.frame else { return None };
            let kind = event.kind.as_ref().map(std::mem::discriminant);
            let mut hasher = DefaultHasher::new();
            (event.conversation_id, event.sender_id, kind).hash(&mut hasher);
            payload.subject = Some(hasher.finish());
        }
        payload.subject
    }

    /// The frame of an event, as it came.
    pub(crate) fn frame(&self, handle: Handle) -> Option<&[u8]> {
        match &self.slots[handle.0 as usize].source {
            Source::Frame(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The subject, if it was asked for before.
    pub(crate) fn known_subject(&self, handle: Handle) -> Option<u64> {
        self.slots[handle.0 as usize].subject
    }

    /// When the payload's event was created; 0 if that is not to be measured.
    pub(crate) fn created_at_us(&self, handle: Handle) -> u64 {
        self.slots[handle.0 as usize].created_at_us
    }

    pub(crate) fn retain(&mut self, handle: Handle) {
        self.slots[handle.0 as usize].references += 1;
    }

    /// Gives a reference back; the last one frees the payload.
    pub(crate) fn release(&mut self, handle: Handle) {
        let payload = &mut self.slots[handle.0 as usize];
        debug_assert!(payload.references > 0, "a payload is released once too often");
        payload.references = payload.references.saturating_sub(1);
        if payload.references > 0 {
            return;
        }
        self.bytes -= payload.size();
        payload.source = Source::Free;
        payload.rare = None;
        let kept = self.free.len() < PAYLOADS_KEPT;
        for buffer in [&mut payload.binary, &mut payload.text] {
            if kept && buffer.capacity() <= PAYLOAD_BYTES_KEPT {
                buffer.clear();
            } else {
                *buffer = Vec::new();
            }
        }
        self.free.push(handle.0);
    }

    /// Bytes of the payloads that are referred to, in every form that was made of them.
    pub(crate) fn bytes_held(&self) -> usize {
        self.bytes
    }

    /// Payloads that are referred to.
    pub(crate) fn live(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::client::Goaway;

    fn goaway() -> ServerFrame {
        let goaway = Goaway { reason: "test".into(), reconnect_delay_ms: 5 };
        ServerFrame { request_id: 0, frame: Some(Frame::Goaway(goaway)) }
    }

    #[test]
    fn both_encodings_come_of_one_payload_and_a_freed_slot_is_used_again() {
        let mut payloads = Payloads::new();
        let handle = payloads.add_event(goaway().encode_to_vec().into(), 9, Tag::EPHEMERAL);
        let binary = payloads.prepare(handle, Encoding::Proto).unwrap();
        assert_eq!(payloads.bytes(handle, Encoding::Proto).len(), binary);
        assert_eq!(
            payloads.bytes(handle, Encoding::Proto)[..2],
            [0x82, u8::try_from(binary - 2).unwrap()]
        );
        payloads.prepare(handle, Encoding::Json).unwrap();
        let text = payloads.bytes(handle, Encoding::Json)[2..].to_vec();
        assert_eq!(text, proto::json::encode_server_frame(&goaway()).as_bytes());
        let (once, held) = (goaway().encode_to_vec().len(), payloads.bytes_held());
        assert_eq!(held, once + binary + 2 + text.len());
        payloads.prepare(handle, Encoding::Json).unwrap();
        payloads.retain(handle);
        payloads.release(handle);
        assert_eq!((payloads.live(), payloads.bytes_held()), (1, held));
        payloads.release(handle);
        assert_eq!((payloads.live(), payloads.bytes_held()), (0, 0));
        let reply = payloads.add_reply(&goaway(), Encoding::Proto);
        assert_eq!(payloads.bytes_held(), binary);
        payloads.release(reply);
        assert_eq!(payloads.bytes_held(), 0);
        assert_eq!(payloads.add_raw(Bytes::from_static(b"x")), handle);
        assert_eq!(payloads.bytes(handle, Encoding::Json), b"x");
    }

    #[test]
    fn bytes_that_are_no_frame_have_no_text() {
        let mut payloads = Payloads::new();
        let handle = payloads.add_event(Bytes::from_static(&[0xff; 9]), 0, Tag::EPHEMERAL);
        assert_eq!(payloads.prepare(handle, Encoding::Json), None);
        assert_eq!(payloads.subject(handle), None);
    }
}
