//! A client of the simulation: what it has understood so far, and what it must never be shown.

use super::{HELLO, Met};
use fastrand::Rng;
use proto::Message;
use proto::client::server_frame::Frame as Down;
use proto::client::{ClientFrame, ServerFrame};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

/// What a client has understood so far.
pub(super) struct Client {
    pub(super) stream: TcpStream,
    pub(super) user: usize,
    pub(super) speaks_json: bool,
    pub(super) reads: bool,
    /// Bytes that it has yet to write.
    pub(super) unsent: VecDeque<u8>,
    /// Bytes that it has read and not understood.
    pub(super) unread: Vec<u8>,
    pub(super) upgraded: bool,
    /// The gateway has agreed to compress messages.
    pub(super) deflates: bool,
    /// It asked to resume from here; pages and verdict are awaited.
    pub(super) cursor: u64,
    pub(super) resuming: bool,
    /// The last event that it has seen without a hole; None until it knows where it stands.
    pub(super) seen: Option<u64>,
    /// It was told that something may be missing.
    pub(super) gap: bool,
}

impl Client {
    pub(super) fn write(&mut self, random: &mut Rng) {
        let piece = random.choice([1, 5, 60, 2_000]).unwrap().min(self.unsent.len());
        let bytes: Vec<u8> = self.unsent.iter().take(piece).copied().collect();
        if let Ok(count) = (&self.stream).write(&bytes) {
            self.unsent.drain(..count);
        }
    }

    /// Reads what is there; false if the connection is over.
    pub(super) fn read(&mut self, last: u64, met: &mut Met) -> bool {
        let mut chunk = [0; 16_384];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return false,
                Ok(count) => self.unread.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return false,
            }
        }
        if !self.upgraded {
            let Some(end) = self.unread.windows(4).position(|it| it == b"\r\n\r\n") else {
                return true;
            };
            assert!(self.unread.starts_with(b"HTTP/1.1 "), "no answer of HTTP");
            if !self.unread.starts_with(b"HTTP/1.1 101 ") {
                return false;
            }
            let head: Vec<u8> = self.unread.drain(..end + 4).collect();
            self.upgraded = true;
            self.deflates = String::from_utf8_lossy(&head).contains("permessage-deflate");
        }
        while let Some((opcode, mut payload)) = self.take_frame() {
            match opcode {
                0x81 | 0x82 | 0xc1 | 0xc2 => {
                    if opcode & 0x40 != 0 {
                        assert!(self.deflates, "it did not agree to that");
                        met.deflated += 1;
                        payload = inflate(&payload);
                    }
                    assert_eq!(opcode & 0x0f == 1, self.speaks_json);
                    let frame = if self.speaks_json {
                        serde_json::from_slice(&payload).unwrap()
                    } else {
                        ServerFrame::decode(&*payload).unwrap()
                    };
                    met.told += u64::from(matches!(frame.frame, Some(Down::Gap(_))));
                    met.events += u64::from(matches!(frame.frame, Some(Down::Event(_))));
                    met.resumes += u64::from(matches!(frame.frame, Some(Down::Synced(_))));
                    self.understand(frame, last);
                    met.gaps += u64::from(self.gap);
                }
                0x88 => return false,
                0x89 | 0x8a => {}
                other => panic!("a frame that begins with {other:#x}"),
            }
        }
        true
    }

    fn take_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let (start, length) = match *self.unread.get(1)? {
            126 => {
                let bytes = [*self.unread.get(2)?, *self.unread.get(3)?];
                (4, usize::from(u16::from_be_bytes(bytes)))
            }
            length => (2, usize::from(length)),
        };
        assert!(self.unread[1] < 127, "no frame of this simulation is that long");
        if self.unread.len() < start + length {
            return None;
        }
        let opcode = self.unread[0];
        let payload = self.unread[start..start + length].to_vec();
        self.unread.drain(..start + length);
        Some((opcode, payload))
    }

    fn understand(&mut self, frame: ServerFrame, last: u64) {
        let request_id = frame.request_id;
        match frame.frame {
            // Nobody's place in the log.
            Some(Down::Event(event)) if event.sequence_number == 0 => {}
            Some(Down::Event(event)) => self.event(event.sequence_number, last),
            Some(Down::Gap(gap)) => {
                self.gap(gap.from_sequence_number, gap.to_sequence_number, last)
            }
            Some(Down::SyncPage(page)) => {
                assert!(self.resuming && self.seen.is_none_or(|it| it >= self.cursor));
                for event in page.events {
                    let before = self.seen.unwrap_or(self.cursor);
                    assert_eq!(event.sequence_number, before + 1, "a page has a hole");
                    self.seen = Some(event.sequence_number);
                }
            }
            Some(Down::Synced(synced)) => {
                let verdict = &synced.verdicts[0];
                let complete = verdict.complete_to_sequence_number;
                assert!(complete <= last);
                self.gap = verdict.gap_to_sequence_number > 0;
                if !self.gap {
                    assert_eq!(self.seen.unwrap_or(self.cursor), complete, "the verdict is wrong");
                    self.seen = Some(complete);
                }
                self.resuming = false;
            }
            // The resume failed: it is live, and has to sync.
            Some(Down::Error(error)) if request_id == HELLO && error.code == "unavailable" => {
                (self.resuming, self.seen) = (false, None);
            }
            _ => {}
        }
    }

    /// It was too slow for these, which it has to sync; what follows is behind them.
    fn gap(&mut self, from: u64, to: u64, last: u64) {
        assert!(from <= to && to <= last, "a gap from {from} to {to} of {last}");
        if let Some(before) = self.seen {
            assert!(from > before, "a gap from {from} is told after {before}");
            assert!(self.gap || from == before + 1, "{before} and then a gap from {from}");
        }
        (self.seen, self.gap) = (Some(to), false);
    }

    fn event(&mut self, number: u64, last: u64) {
        assert!((1..=last).contains(&number), "event {number} of {last}");
        if self.resuming {
            // Behind the pages: in order, and a hole is what the verdict tells of.
            let before = self.seen.unwrap_or(self.cursor);
            assert!(number > before, "{number} comes after {before}");
        } else if let Some(before) = self.seen.filter(|_| !self.gap) {
            assert_eq!(number, before + 1, "user {} misses something", self.user);
        } else if let Some(before) = self.seen {
            assert!(number > before, "{number} comes after {before}");
            self.gap = false;
        }
        self.seen = Some(number);
    }
}

/// RFC 7692 section 7.2.2, without context takeover.
fn inflate(compressed: &[u8]) -> Vec<u8> {
    let tail = [0, 0, 0xff, 0xff].as_slice();
    let mut bytes = Vec::with_capacity(1 << 20);
    let mut inflater = flate2::Decompress::new(false);
    let whole = [compressed, tail].concat();
    inflater.decompress_vec(&whole, &mut bytes, flate2::FlushDecompress::Sync).unwrap();
    assert_eq!(inflater.total_in(), whole.len() as u64, "a message has more to it");
    bytes
}

pub(super) fn frame(frame: &ClientFrame, as_json: bool) -> Vec<u8> {
    let (opcode, payload) = if as_json {
        (0x81, serde_json::to_vec(frame).unwrap())
    } else {
        (0x82, frame.encode_to_vec())
    };
    let mut bytes = vec![opcode, 0x80 | 126];
    bytes.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}
