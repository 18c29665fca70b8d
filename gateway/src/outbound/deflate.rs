//! Compression of messages (permessage-deflate, RFC 7692), each by itself: nothing is kept from one
//! message to the next, so that one compressed copy serves every session and one machine every
//! connection of a shard.

use crate::close::Reason;
use crate::limits::{
    DEFLATE_BYTES_MIN, DEFLATE_ROOM_BYTES, INFLATE_RATIO_FREE_BYTES, INFLATE_RATIO_MAX,
    INFLATE_STEP_BYTES,
};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// What a sync flush ends with; it is left out on the wire (RFC 7692 section 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// The machine is made when it is first needed: it takes a quarter of a megabyte.
#[derive(Default)]
pub(crate) struct Deflater {
    machine: Option<Box<Compress>>,
}

impl Deflater {
    /// Appends the compressed message; false, with `out` as it was, if that is no gain.
    pub(crate) fn append(&mut self, message: &[u8], out: &mut Vec<u8>) -> bool {
        if message.len() < DEFLATE_BYTES_MIN {
            return false;
        }
        let machine = self.machine();
        let before = out.len();
        // Room for whatever it grows to, so that one call takes it all.
        out.reserve(message.len() + message.len() / 8 + DEFLATE_ROOM_BYTES);
        let taken = machine.compress_vec(message, out, FlushCompress::Sync);
        let whole = taken.is_ok()
            && machine.total_in() == message.len() as u64
            && out.ends_with(&TAIL)
            && out.len() - before < message.len();
        let end = if whole { out.len() - TAIL.len() } else { before };
        out.truncate(end);
        whole
    }

    /// Appends the message compressed, gain or not, so that a window of so many bits can follow: no
    /// piece refers to one before it.
    pub(crate) fn append_always(&mut self, message: &[u8], window_bits: u8, out: &mut Vec<u8>) {
        let machine = self.machine();
        let mut pieces = message.chunks(1 << window_bits).peekable();
        loop {
            let piece = pieces.next().unwrap_or_default();
            out.reserve(piece.len() + piece.len() / 8 + DEFLATE_ROOM_BYTES);
            let is_last = pieces.peek().is_none();
            let flush = if is_last { FlushCompress::Sync } else { FlushCompress::Full };
            // There is room for all of it, so it takes all.
            let _ = machine.compress_vec(piece, out, flush);
            if is_last {
                break;
            }
        }
        if out.ends_with(&TAIL) {
            out.truncate(out.len() - TAIL.len());
        }
    }

    /// As if nothing had gone through it.
    fn machine(&mut self) -> &mut Compress {
        let new = || Box::new(Compress::new(Compression::fast(), false));
        let machine = self.machine.get_or_insert_with(new);
        machine.reset();
        machine
    }
}

/// The machine and its output, shared by all connections of a shard.
#[derive(Default)]
pub(crate) struct Inflater {
    machine: Option<Box<Decompress>>,
    message: Vec<u8>,
}

impl Inflater {
    /// The message of a compressed one; more than `bytes_max`, or a bomb, is too large.
    pub(crate) fn message(&mut self, deflated: &[u8], bytes_max: usize) -> Result<&[u8], Reason> {
        let machine = self.machine.get_or_insert_with(|| Box::new(Decompress::new(false)));
        machine.reset(false);
        self.message.clear();
        let most = deflated
            .len()
            .saturating_mul(INFLATE_RATIO_MAX)
            .max(INFLATE_RATIO_FREE_BYTES)
            .min(bytes_max);
        for (part, is_last) in [(deflated, false), (&TAIL[..], true)] {
            if inflate(machine, part, &mut self.message, most)? || is_last {
                break;
            }
        }
        Ok(&self.message)
    }

    /// Gives a large message's memory back.
    pub(crate) fn tidy(&mut self) {
        if self.message.capacity() > 4 * INFLATE_STEP_BYTES {
            self.message = Vec::new();
        }
    }
}

/// Appends what the bytes hold; says whether they hold the end of a stream.
fn inflate(
    machine: &mut Decompress,
    bytes: &[u8],
    out: &mut Vec<u8>,
    most: usize,
) -> Result<bool, Reason> {
    let start = machine.total_in();
    loop {
        let used = usize::try_from(machine.total_in() - start).unwrap_or(usize::MAX);
        let rest = bytes.get(used..).unwrap_or_default();
        // One byte more than is allowed shows that there is more.
        let room = (most + 1).saturating_sub(out.len()).min(INFLATE_STEP_BYTES);
        if room == 0 {
            return Err(Reason::MessageTooLarge);
        }
        out.reserve_exact(room);
        let (in_before, out_before) = (machine.total_in(), out.len());
        match machine.decompress_vec(rest, out, FlushDecompress::Sync) {
            Ok(Status::StreamEnd) if out.len() <= most => return Ok(true),
            Ok(_) if out.len() > most => return Err(Reason::MessageTooLarge),
            Ok(_) if machine.total_in() == in_before && out.len() == out_before => {
                return if rest.is_empty() { Ok(false) } else { Err(Reason::ProtocolViolation) };
            }
            Ok(_) => {}
            // All is taken and nothing is left to say.
            Err(_) if rest.is_empty() => return Ok(false),
            Err(_) => return Err(Reason::ProtocolViolation),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 70_000;

    fn deflated(message: &[u8]) -> Vec<u8> {
        let mut out = b"before".to_vec();
        assert!(Deflater::default().append(message, &mut out));
        out.split_off(6)
    }

    #[test]
    fn messages_come_back_as_they_were_whatever_came_before() {
        let (mut deflater, mut inflater) = (Deflater::default(), Inflater::default());
        let mut random = fastrand::Rng::with_seed(1);
        for length in [1_000, 2_000, 16_384, 65_536] {
            for _ in 0..20 {
                let message: Vec<u8> = (0..length).map(|_| random.u8(b'a'..b'h')).collect();
                let mut out = Vec::new();
                assert!(deflater.append(&message, &mut out) && out.len() < length);
                assert!(inflater.message(&out, MAX).unwrap() == message);
                // The same bytes again: nothing was kept.
                let mut again = Vec::new();
                deflater.append(&message, &mut again);
                assert_eq!(again, out);
            }
        }
    }

    #[test]
    fn small_windows_can_follow_what_is_compressed_for_them() {
        let (mut deflater, mut inflater) = (Deflater::default(), Inflater::default());
        let mut random = fastrand::Rng::with_seed(5);
        for round in 0..200 {
            let top = [2, 30, 255][round % 3];
            let message: Vec<u8> = (0..random.usize(..9_000)).map(|_| random.u8(..top)).collect();
            let bits = random.u8(9..=15);
            let mut out = Vec::new();
            deflater.append_always(&message, bits, &mut out);
            assert!(inflater.message(&out, 1 << 20).unwrap() == message);
        }
        let mut out = Vec::new();
        deflater.append_always(b"", 15, &mut out);
        assert_eq!(inflater.message(&out, 10), Ok(&b""[..]));
    }

    #[test]
    fn what_gains_nothing_is_left_alone() {
        let mut random = fastrand::Rng::with_seed(2);
        // Of every size and kind, long ones too: no machine may fail on what a client chose.
        let (mut deflater, mut inflater) = (Deflater::default(), Inflater::default());
        for round in 0..60 {
            let top = [2, 16, 200, 255][round % 4];
            let noise: Vec<u8> = (0..random.usize(1..300_000)).map(|_| random.u8(..top)).collect();
            let mut out = Vec::new();
            if deflater.append(&noise, &mut out) {
                assert!(inflater.message(&out, 1 << 20).unwrap() == noise);
            }
        }
        let noise: Vec<u8> = (0..5_000).map(|_| random.u8(..)).collect();
        let mut out = b"before".to_vec();
        assert!(!Deflater::default().append(&noise, &mut out));
        assert!(!Deflater::default().append(&[0; DEFLATE_BYTES_MIN - 1], &mut out));
        assert_eq!(out, b"before");
    }

    #[test]
    fn a_message_has_its_size_and_a_bomb_is_none() {
        let mut inflater = Inflater::default();
        let mut random = fastrand::Rng::with_seed(3);
        let varied: Vec<u8> = (0..MAX).map(|_| random.u8(b'a'..b'c')).collect();
        let packed = deflated(&varied);
        assert_eq!(inflater.message(&packed, MAX).map(<[u8]>::len), Ok(MAX));
        assert_eq!(inflater.message(&packed, MAX - 1), Err(Reason::MessageTooLarge));
        let zeros = vec![0; MAX];
        let bomb = deflated(&zeros);
        assert!(bomb.len() * INFLATE_RATIO_MAX < MAX);
        assert_eq!(inflater.message(&bomb, MAX), Err(Reason::MessageTooLarge));
        // A small message may be as uniform as it likes.
        let small = deflated(&zeros[..INFLATE_RATIO_FREE_BYTES]);
        assert_eq!(inflater.message(&small, MAX).map(<[u8]>::len), Ok(INFLATE_RATIO_FREE_BYTES));
        let mut more = Vec::with_capacity(1_000);
        let mut best = Compress::new(Compression::best(), false);
        let uniform = &zeros[..2 * INFLATE_RATIO_FREE_BYTES];
        best.compress_vec(uniform, &mut more, FlushCompress::Sync).unwrap();
        assert!(more.len() * INFLATE_RATIO_MAX < uniform.len(), "{}", more.len());
        assert_eq!(inflater.message(&more, MAX), Err(Reason::MessageTooLarge));
    }

    #[test]
    fn any_bytes_are_a_message_or_an_error() {
        let mut inflater = Inflater::default();
        let mut random = fastrand::Rng::with_seed(4);
        let good = deflated(&b"some text, some more text, and the same text again. ".repeat(9));
        for _ in 0..50_000 {
            let mut bytes = good.clone();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(..bytes.len());
                bytes[at] = random.u8(..);
            }
            bytes.truncate(random.usize(..=bytes.len()));
            if let Ok(message) = inflater.message(&bytes, 5_000) {
                assert!(message.len() <= 5_000);
            }
        }
        assert!(inflater.message(&good, MAX).is_ok());
        // RFC 7692 sections 7.2.3.1 and 7.2.3.4: "Hello", and with a final block.
        let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        assert_eq!(inflater.message(&hello, MAX), Ok(&b"Hello"[..]));
        let last = [0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00];
        assert_eq!(inflater.message(&last, MAX), Ok(&b"Hello"[..]));
        assert_eq!(inflater.message(&[0x00], MAX), Ok(&b""[..]));
    }
}
