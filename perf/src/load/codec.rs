//! The client's side of RFC 6455: masked frames out, unmasked frames in.

use crate::limits::SERVER_FRAME_BYTES_MAX;
use std::io::Cursor;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

/// The server broke the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CodecError {
    #[error("the server sent a frame that is none: {0}")]
    Malformed(String),
    #[error("the server sent a masked, fragmented or compressed frame")]
    Unexpected,
    #[error("the server announced a frame of {0} bytes")]
    TooLarge(u64),
}

/// What a server's frame holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Incoming<'a> {
    Data(&'a [u8]),
    Ping(&'a [u8]),
    Pong,
    /// The close code; 1005 when there was none.
    Close(u16),
}

pub(crate) const BINARY: OpCode = OpCode::Data(Data::Binary);
pub(crate) const TEXT: OpCode = OpCode::Data(Data::Text);
pub(crate) const PONG: OpCode = OpCode::Control(Control::Pong);
pub(crate) const CLOSE: OpCode = OpCode::Control(Control::Close);

/// Appends one masked frame.
pub(crate) fn append(opcode: OpCode, payload: &[u8], out: &mut Vec<u8>) {
    let mask = fastrand::u32(..).to_be_bytes();
    let header = FrameHeader { opcode, mask: Some(mask), ..FrameHeader::default() };
    // Writing to a Vec cannot fail.
    let _ = header.format(payload.len() as u64, out);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

/// The first whole frame of `bytes` and how many bytes it takes; None if it is not all here.
pub(crate) fn next(bytes: &[u8]) -> Result<Option<(Incoming<'_>, usize)>, CodecError> {
    let mut cursor = Cursor::new(bytes);
    let parsed = FrameHeader::parse(&mut cursor)
        .map_err(|error| CodecError::Malformed(error.to_string()))?;
    let Some((header, length)) = parsed else { return Ok(None) };
    if length > SERVER_FRAME_BYTES_MAX {
        return Err(CodecError::TooLarge(length));
    }
    if header.mask.is_some() || header.rsv1 || !header.is_final {
        return Err(CodecError::Unexpected);
    }
    let start = usize::try_from(cursor.position()).unwrap_or(usize::MAX);
    let end = start.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
    let Some(payload) = bytes.get(start..end) else { return Ok(None) };
    let incoming = match header.opcode {
        OpCode::Data(Data::Binary | Data::Text) => Incoming::Data(payload),
        OpCode::Control(Control::Ping) => Incoming::Ping(payload),
        OpCode::Control(Control::Pong) => Incoming::Pong,
        OpCode::Control(Control::Close) => {
            let code = payload.first_chunk().map_or(1_005, |it| u16::from_be_bytes(*it));
            Incoming::Close(code)
        }
        _ => return Err(CodecError::Unexpected),
    };
    Ok(Some((incoming, end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server_frame(opcode: OpCode, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let header = FrameHeader { opcode, ..FrameHeader::default() };
        header.format(payload.len() as u64, &mut out).unwrap();
        out.extend_from_slice(payload);
        out
    }

    #[test]
    fn whole_frames_are_taken_and_torn_ones_awaited() {
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            let payload = vec![7; length];
            let bytes = server_frame(BINARY, &payload);
            let (incoming, taken) = next(&bytes).unwrap().unwrap();
            assert_eq!((incoming, taken), (Incoming::Data(&payload), bytes.len()));
            assert_eq!(next(&bytes[..bytes.len() - 1]).unwrap(), None);
        }
        let close = server_frame(CLOSE, &4_001_u16.to_be_bytes());
        assert_eq!(next(&close).unwrap().unwrap().0, Incoming::Close(4_001));
    }

    #[test]
    fn what_is_sent_is_masked_and_reads_back() {
        let mut out = Vec::new();
        append(BINARY, b"hello", &mut out);
        let (header, length) = FrameHeader::parse(&mut Cursor::new(&out)).unwrap().unwrap();
        let mask = header.mask.unwrap();
        assert_eq!((header.opcode, length, out.len()), (BINARY, 5, 11));
        let plain: Vec<u8> = out[6..].iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b).collect();
        assert_eq!(plain, b"hello");
        assert_eq!(next(&out), Err(CodecError::Unexpected));
    }

    #[test]
    fn any_bytes_are_an_answer_and_no_panic() {
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..100_000 {
            let bytes: Vec<u8> = (0..random.usize(..40)).map(|_| random.u8(..)).collect();
            if let Ok(Some((_, taken))) = next(&bytes) {
                assert!(taken <= bytes.len());
            }
        }
    }
}
