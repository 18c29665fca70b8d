//! Frames to sessions, as bytes on the wire: WebSocket header (RFC 6455 section 5.2) and payload.

use crate::close::Reason;
use crate::inbound::events;
use crate::limits::CONTROL_BYTES_MAX;
use crate::outbound::deflate::Deflater;
use proto::client::{ServerFrame, Verdict, server_frame};
use proto::{Message, Uuid};
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

/// Appends the header of an unmasked, final frame.
fn header(opcode: OpCode, payload_bytes: usize, out: &mut Vec<u8>) {
    header_of(opcode, false, payload_bytes, out);
}

/// RSV1 says that the message is compressed (RFC 7692 section 6).
fn header_of(opcode: OpCode, deflated: bool, payload_bytes: usize, out: &mut Vec<u8>) {
    let header = FrameHeader { opcode, rsv1: deflated, ..FrameHeader::default() };
    // Writing to a Vec cannot fail.
    let _ = header.format(payload_bytes as u64, out);
}

/// A binary message of an encoded `ServerFrame`.
pub(crate) fn binary(frame: &[u8], out: &mut Vec<u8>) {
    out.clear();
    header(OpCode::Data(Data::Binary), frame.len(), out);
    out.extend_from_slice(frame);
}

/// A binary message of `frame`.
pub(crate) fn binary_message(frame: &ServerFrame, out: &mut Vec<u8>) {
    out.clear();
    header(OpCode::Data(Data::Binary), frame.encoded_len(), out);
    // A Vec grows as needed.
    let _ = frame.encode(out);
}

/// A text message of `frame`.
pub(crate) fn text(frame: &ServerFrame, out: &mut Vec<u8>) {
    out.clear();
    let text = proto::json::encode_server_frame(frame);
    header(OpCode::Data(Data::Text), text.len(), out);
    out.extend_from_slice(text.as_bytes());
}

/// A data message as it came, for the conformance profile; compressed whether that is a gain or not,
/// if it was agreed on, so that the suites see compression.
pub(crate) fn echo(
    is_text: bool,
    payload: &[u8],
    deflater: Option<(&mut Deflater, u8)>,
) -> Vec<u8> {
    let opcode = OpCode::Data(if is_text { Data::Text } else { Data::Binary });
    let mut out = Vec::with_capacity(payload.len() + 10);
    if let Some((deflater, window_bits)) = deflater {
        let mut message = Vec::new();
        deflater.append_always(payload, window_bits, &mut message);
        header_of(opcode, true, message.len(), &mut out);
        out.extend_from_slice(&message);
    } else {
        header(opcode, payload.len(), &mut out);
        out.extend_from_slice(payload);
    }
    out
}

/// The message of an uncompressed frame, which begins with its header, in a compressed frame.
pub(crate) fn deflated_frame(frame: &[u8], deflater: &mut Deflater, out: &mut Vec<u8>) {
    out.clear();
    let is_text = frame.first().is_some_and(|byte| byte & 0xf == 1);
    let start = match frame.get(1) {
        Some(127) => 10,
        Some(126) => 4,
        _ => 2,
    };
    let opcode = OpCode::Data(if is_text { Data::Text } else { Data::Binary });
    deflated(opcode, frame.get(start..).unwrap_or_default(), deflater, out);
}

/// Appends a message, compressed where that is a gain.
fn deflated(opcode: OpCode, payload: &[u8], deflater: &mut Deflater, out: &mut Vec<u8>) {
    let mut message = Vec::new();
    let gains = deflater.append(payload, &mut message);
    let message = if gains { &message } else { payload };
    header_of(opcode, gains, message.len(), out);
    out.extend_from_slice(message);
}

/// A frame as a server-sent event: one line of data, since JSON needs no line break. What the
/// client has by then is the event's id; when it may come again, its `retry`.
pub(crate) fn event(frame: &ServerFrame, out: &mut Vec<u8>) {
    out.clear();
    match &frame.frame {
        Some(server_frame::Frame::Synced(synced)) => {
            out.extend_from_slice(cursor_lines(&synced.verdicts).as_bytes());
        }
        Some(server_frame::Frame::Goaway(goaway)) => {
            out.extend_from_slice(format!("retry: {}\n", goaway.reconnect_delay_ms).as_bytes());
        }
        _ => {}
    }
    out.extend_from_slice(b"data: ");
    out.extend_from_slice(proto::json::encode_server_frame(frame).as_bytes());
    out.extend_from_slice(b"\n\n");
}

fn cursor_lines(verdicts: &[Verdict]) -> String {
    let cursors = verdicts.iter().filter(|verdict| !verdict.reset).map(|verdict| {
        let conversation = Uuid::from_slice(&verdict.conversation_id).unwrap_or_default();
        (conversation, verdict.complete_to_sequence_number)
    });
    let cursors: Vec<_> = cursors.collect();
    format!("id: {}\n", events::id(cursors.into_iter()))
}

/// The end of a stream of server-sent events.
pub(crate) fn end_of_events(reason: Reason) -> Vec<u8> {
    let (code, text) = (reason.code().unwrap_or(1000), reason.text());
    format!("event: close\ndata: {{\"code\":{code},\"reason\":\"{text}\"}}\n\n").into_bytes()
}

pub(crate) fn ping() -> Vec<u8> {
    control(Control::Ping, &[])
}

/// The answer to a ping, with its payload (RFC 6455 section 5.5.3).
pub(crate) fn pong(payload: &[u8]) -> Vec<u8> {
    control(Control::Pong, payload)
}

/// The close frame of a reason; `code` in its place when the peer closed first and is echoed.
/// Nothing for reasons that have no close frame.
pub(crate) fn close(reason: Reason, echoed: Option<u16>) -> Vec<u8> {
    if reason == Reason::PeerClosed && echoed.is_none() {
        return control(Control::Close, &[]);
    }
    let Some(code) = echoed.or(reason.code()) else { return Vec::new() };
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(reason.text().as_bytes());
    control(Control::Close, &payload)
}

fn control(opcode: Control, payload: &[u8]) -> Vec<u8> {
    debug_assert!(payload.len() <= CONTROL_BYTES_MAX);
    let mut out = Vec::with_capacity(payload.len() + 2);
    header(OpCode::Control(opcode), payload.len(), &mut out);
    out.extend_from_slice(payload);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_frames_are_what_the_rfc_shows() {
        assert_eq!(ping(), [0x89, 0]);
        assert_eq!(pong(b"Hello"), *b"\x8a\x05Hello");
        assert_eq!(close(Reason::PeerClosed, None), [0x88, 0]);
        assert_eq!(close(Reason::PeerClosed, Some(1000)), [0x88, 2, 0x03, 0xe8]);
        assert_eq!(close(Reason::Draining, None)[..4], [0x88, 25, 0x03, 0xf4]);
        assert!(close(Reason::WriteDeadline, None).is_empty());
    }
}
