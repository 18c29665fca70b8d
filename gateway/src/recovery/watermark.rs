//! The watermark: how far into the conversations' log a session was pushed everything. Opaque to
//! clients, which bring it back with a resume. Pure.

/// The first byte of a watermark of this form.
const VERSION: u8 = 1;
/// Bytes of one offset at most: 64 bits, 7 to a byte.
const VARINT_BYTES_MAX: usize = 10;

/// A position in every partition of the log: everything below it was pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Watermark {
    /// Which log it is of: one that was made anew counts from 0 again.
    pub log: u64,
    pub offsets: Vec<i64>,
}

impl Watermark {
    pub(crate) fn encode(log: u64, offsets: &[i64]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(9 + 4 * offsets.len());
        bytes.push(VERSION);
        bytes.extend_from_slice(&log.to_be_bytes());
        for offset in offsets {
            let mut rest = u64::try_from(*offset).unwrap_or_default();
            while rest >= 0x80 {
                bytes.push(u8::try_from(rest & 0x7f).unwrap_or_default() | 0x80);
                rest >>= 7;
            }
            bytes.push(u8::try_from(rest).unwrap_or_default());
        }
        bytes
    }

    /// None for what is no watermark of this form with so many partitions.
    pub(crate) fn decode(bytes: &[u8], partitions: usize) -> Option<Self> {
        let (version, rest) = bytes.split_first()?;
        let (log, mut rest) = rest.split_first_chunk::<8>()?;
        if *version != VERSION || rest.len() > partitions * VARINT_BYTES_MAX {
            return None;
        }
        let mut offsets = Vec::with_capacity(partitions);
        while !rest.is_empty() {
            let mut offset = 0_u64;
            for digit in 0.. {
                let (byte, after) = rest.split_first()?;
                rest = after;
                offset |= u64::from(byte & 0x7f).checked_shl(7 * digit)?;
                if byte & 0x80 == 0 {
                    break;
                }
            }
            offsets.push(i64::try_from(offset).ok()?);
        }
        (offsets.len() == partitions).then(|| Self { log: u64::from_be_bytes(*log), offsets })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watermark_comes_back_as_it_went_and_nothing_else_is_one() {
        let offsets = vec![0, 1, 127, 128, 300_000, i64::MAX];
        let bytes = Watermark::encode(7, &offsets);
        assert_eq!(Watermark::decode(&bytes, 6), Some(Watermark { log: 7, offsets }));
        assert_eq!(Watermark::decode(&bytes, 5), None);
        assert_eq!(Watermark::decode(&bytes[..bytes.len() - 1], 6), None);
        assert_eq!(Watermark::decode(&[], 0), None);
        assert_eq!(Watermark::decode(&[&bytes[..9], &[0xff; 12]].concat(), 6), None);
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..20_000 {
            let any: Vec<u8> = (0..random.usize(..40)).map(|_| random.u8(..)).collect();
            let _ = Watermark::decode(&any, 8);
        }
    }
}
