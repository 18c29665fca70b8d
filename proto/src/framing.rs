//! The internal link's framing: a 4-byte big-endian length, then that many bytes of protobuf.

use crate::limits::LINK_FRAME_BYTES_MAX;
use prost::Message;

/// Bytes of the length prefix.
pub const PREFIX_BYTES: usize = 4;

/// The peer does not speak the link's framing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a link frame of {announced} bytes was announced; at most {allowed} are allowed")]
pub struct FrameTooLarge {
    pub announced: usize,
    pub allowed: usize,
}

/// Appends one frame to `out`; nothing is appended if it is too large.
pub fn append(message: &impl Message, out: &mut Vec<u8>) -> Result<(), FrameTooLarge> {
    let length = message.encoded_len();
    let too_large = FrameTooLarge { announced: length, allowed: LINK_FRAME_BYTES_MAX };
    if length > LINK_FRAME_BYTES_MAX {
        return Err(too_large);
    }
    let prefix = u32::try_from(length).map_err(|_| too_large)?;
    out.reserve(PREFIX_BYTES + length);
    out.extend_from_slice(&prefix.to_be_bytes());
    message.encode_raw(out);
    Ok(())
}

/// Cuts a byte stream into frames, however it is chunked. Memory grows with bytes that arrived,
/// never with bytes that were only announced.
#[derive(Debug)]
pub struct FrameReader {
    buffer: Vec<u8>,
    start: usize,
    frame_bytes_max: usize,
}

impl Default for FrameReader {
    fn default() -> Self {
        Self::new(LINK_FRAME_BYTES_MAX)
    }
}

impl FrameReader {
    /// A reader that refuses frames over `frame_bytes_max` (before the handshake: a small one).
    #[must_use]
    pub fn new(frame_bytes_max: usize) -> Self {
        Self { buffer: Vec::new(), start: 0, frame_bytes_max }
    }

    /// From here on frames of up to `frame_bytes_max` are taken.
    pub fn set_frame_bytes_max(&mut self, frame_bytes_max: usize) {
        self.frame_bytes_max = frame_bytes_max;
    }

    /// Takes what was read from the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame's bytes, if it is all here.
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, FrameTooLarge> {
        let pending = &self.buffer[self.start..];
        let Some((prefix, rest)) = pending.split_first_chunk::<PREFIX_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*prefix) as usize;
        if length > self.frame_bytes_max {
            return Err(FrameTooLarge { announced: length, allowed: self.frame_bytes_max });
        }
        if rest.len() < length {
            return Ok(None);
        }
        let frame_start = self.start + PREFIX_BYTES;
        self.start = frame_start + length;
        Ok(Some(&self.buffer[frame_start..self.start]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Error;

    fn message(text: &str) -> Error {
        Error { message: text.into(), ..Default::default() }
    }

    #[test]
    fn frames_survive_any_chunking() {
        let mut stream = Vec::new();
        let texts = ["", "a", &"b".repeat(1000)];
        for text in texts {
            append(&message(text), &mut stream).unwrap();
        }
        for chunk in 1..40 {
            let mut reader = FrameReader::default();
            let mut seen = Vec::new();
            for bytes in stream.chunks(chunk) {
                reader.push(bytes);
                while let Some(frame) = reader.next_frame().unwrap() {
                    seen.push(Error::decode(frame).unwrap().message);
                }
            }
            assert_eq!(seen, texts);
        }
    }

    #[test]
    fn a_frame_at_the_limit_passes_and_one_past_it_is_refused_before_its_bytes_arrive() {
        let mut reader = FrameReader::new(8);
        reader.push(&[0, 0, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 9]);
        assert_eq!(reader.next_frame().unwrap().map(<[u8]>::len), Some(8));
        assert_eq!(reader.next_frame(), Err(FrameTooLarge { announced: 9, allowed: 8 }));
    }
}
