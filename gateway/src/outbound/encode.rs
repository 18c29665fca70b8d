//! Frames to sessions, as bytes on the wire: WebSocket header (RFC 6455 section 5.2) and payload.

use crate::close::Reason;
use crate::limits::CONTROL_BYTES_MAX;
use proto::Message;
use proto::client::ServerFrame;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

/// Appends the header of an unmasked, final frame.
fn header(opcode: OpCode, payload_bytes: usize, out: &mut Vec<u8>) {
    let header = FrameHeader { opcode, ..FrameHeader::default() };
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

/// A data message as it came, for the conformance profile.
pub(crate) fn echo(is_text: bool, payload: &[u8]) -> Vec<u8> {
    let opcode = if is_text { Data::Text } else { Data::Binary };
    let mut out = Vec::with_capacity(payload.len() + 10);
    header(OpCode::Data(opcode), payload.len(), &mut out);
    out.extend_from_slice(payload);
    out
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
