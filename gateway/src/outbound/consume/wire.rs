//! Kafka's fetch request and its answer (version 11, with fetch sessions of KIP-227), and the records
//! in it (record batches of format 2), as bytes. Pure.
//!
//! Only what is plain is read: batches that are compressed or transactional, and answers with an
//! error, are left to the library.

use crate::limits::{KAFKA_FETCH_BYTES_MAX, KAFKA_FETCH_MS_MAX, KAFKA_PARTITION_BYTES_MAX};

const FETCH: i16 = 1;
const VERSION: i16 = 11;
const READ_COMMITTED: i8 = 1;
/// Of a batch: offset and length, which the length does not count.
const BATCH_PREFIX_BYTES: usize = 12;
/// Of a batch, behind the prefix and in front of its records.
const BATCH_HEAD_BYTES: usize = 49;
const FORMAT: i8 = 2;
/// Compression, transaction and control bits of a batch's attributes.
const NOT_PLAIN: i16 = 0b11_0111;

/// Why an answer is not read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum WireError {
    #[error("the answer ends too early")]
    Short,
    #[error("the answer is to another request")]
    Correlation,
    #[error("the broker answers with error {0}")]
    Refused(i16),
    #[error("a partition's answer has error {0}")]
    Partition(i16),
    #[error("a batch is compressed, transactional or of another format")]
    NotPlain,
    #[error("a record is malformed")]
    Malformed,
}

/// A fetch session's id and the next request's place in it; all zero begins one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) id: i32,
    pub(super) epoch: i32,
}

impl Session {
    /// After an answer that named this session.
    pub(super) fn after(self, id: i32) -> Self {
        match (id, self.epoch) {
            (0, _) => Self::default(),
            (_, i32::MAX) => Self { id, epoch: 1 },
            (_, epoch) => Self { id, epoch: epoch + 1 },
        }
    }
}

/// Appends a request with its length in front; `partitions`: each with the offset that is wanted. In
/// a session, only what has changed since the last request.
pub(super) fn request(
    client: &str,
    correlation: i32,
    session: Session,
    topic: &str,
    partitions: impl ExactSizeIterator<Item = (i32, i64)>,
    out: &mut Vec<u8>,
) {
    let start = out.len();
    out.extend([0; 4]);
    out.extend(FETCH.to_be_bytes());
    out.extend(VERSION.to_be_bytes());
    out.extend(correlation.to_be_bytes());
    string(client, out);
    let (replica, min_bytes) = (-1_i32, 1_i32);
    out.extend(replica.to_be_bytes());
    out.extend(size(KAFKA_FETCH_MS_MAX).to_be_bytes());
    out.extend(min_bytes.to_be_bytes());
    out.extend(size(KAFKA_FETCH_BYTES_MAX).to_be_bytes());
    out.extend(READ_COMMITTED.to_be_bytes());
    out.extend(session.id.to_be_bytes());
    out.extend(session.epoch.to_be_bytes());
    let topics = i32::from(partitions.len() > 0);
    out.extend(topics.to_be_bytes());
    if topics > 0 {
        string(topic, out);
        out.extend(size(partitions.len()).to_be_bytes());
        for (partition, offset) in partitions {
            let (leader_epoch, log_start) = (-1_i32, -1_i64);
            out.extend(partition.to_be_bytes());
            out.extend(leader_epoch.to_be_bytes());
            out.extend(offset.to_be_bytes());
            out.extend(log_start.to_be_bytes());
            out.extend(size(KAFKA_PARTITION_BYTES_MAX).to_be_bytes());
        }
    }
    let forgotten = 0_i32;
    out.extend(forgotten.to_be_bytes());
    string("", out);
    let length = size(out.len() - start - 4).to_be_bytes();
    out[start..start + 4].copy_from_slice(&length);
}

fn string(text: &str, out: &mut Vec<u8>) {
    let length = i16::try_from(text.len()).unwrap_or(i16::MAX);
    out.extend(length.to_be_bytes());
    out.extend(text.bytes().take(usize::try_from(length).unwrap_or_default()));
}

fn size(bytes: usize) -> i32 {
    i32::try_from(bytes).unwrap_or(i32::MAX)
}

/// What one partition's part of an answer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part<'a> {
    pub(super) partition: i32,
    /// The offset of the record that will be produced next.
    pub(super) high_watermark: i64,
    pub(super) batches: &'a [u8],
}

/// Reads an answer, without its length; hands on each partition's part and gives back the session.
pub(super) fn answer<'a>(
    bytes: &'a [u8],
    correlation: i32,
    mut part: impl FnMut(Part<'a>) -> Result<(), WireError>,
) -> Result<i32, WireError> {
    let mut reader = Reader(bytes);
    if reader.i32()? != correlation {
        return Err(WireError::Correlation);
    }
    let _throttle_ms = reader.i32()?;
    match reader.i16()? {
        0 => {}
        error => return Err(WireError::Refused(error)),
    }
    let session = reader.i32()?;
    for _ in 0..reader.i32()?.max(0) {
        let _topic = reader.string()?;
        for _ in 0..reader.i32()?.max(0) {
            let partition = reader.i32()?;
            let error = reader.i16()?;
            let high_watermark = reader.i64()?;
            let (_last_stable, _log_start) = (reader.i64()?, reader.i64()?);
            let aborted = reader.i32()?;
            let _preferred_replica = match aborted {
                ..=0 => reader.i32()?,
                _ => return Err(WireError::NotPlain),
            };
            let length = reader.i32()?;
            let batches = reader.take(usize::try_from(length).unwrap_or_default())?;
            match error {
                0 => part(Part { partition, high_watermark, batches })?,
                error => return Err(WireError::Partition(error)),
            }
        }
    }
    Ok(session)
}

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) offset: i64,
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
    pub(super) headers: Pairs<'a>,
}

/// A record's headers, which were looked through once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pairs<'a> {
    count: usize,
    bytes: &'a [u8],
}

impl<'a> Pairs<'a> {
    /// Names and values in their order; a header without a value has an empty one.
    pub(super) fn iter(self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        let mut reader = Reader(self.bytes);
        (0..self.count).map_while(move |_| Some((reader.bytes().ok()?, reader.bytes().ok()?)))
    }
}

/// Hands on the records of whole batches from `from` on; gives back the offset to go on with. A batch
/// that is cut off at the end comes again with the next answer.
pub(super) fn records<'a>(
    mut batches: &'a [u8],
    from: i64,
    mut take: impl FnMut(Record<'a>),
) -> Result<i64, WireError> {
    let mut next = from;
    while batches.len() >= BATCH_PREFIX_BYTES {
        let mut reader = Reader(batches);
        let base = reader.i64()?;
        let length = usize::try_from(reader.i32()?).map_err(|_| WireError::Malformed)?;
        if reader.0.len() < length {
            break;
        }
        let mut batch = Reader(reader.take(length)?);
        batches = reader.0;
        let _leader_epoch = batch.i32()?;
        if batch.i8()? != FORMAT {
            return Err(WireError::NotPlain);
        }
        let _checksum = batch.i32()?;
        if batch.i16()? & NOT_PLAIN != 0 {
            return Err(WireError::NotPlain);
        }
        let last = base + i64::from(batch.i32()?);
        // Two timestamps, the producer's id, epoch and first number.
        batch.take(8 + 8 + 8 + 2 + 4)?;
        for _ in 0..batch.i32()?.max(0) {
            let record = record(&mut batch, base)?;
            if record.offset >= next {
                take(record);
            }
        }
        next = next.max(last + 1);
    }
    Ok(next)
}

fn record<'a>(batch: &mut Reader<'a>, base: i64) -> Result<Record<'a>, WireError> {
    let mut reader = Reader(batch.bytes()?);
    let _attributes = reader.i8()?;
    let _timestamp = reader.varint()?;
    let offset = base.checked_add(reader.varint()?).ok_or(WireError::Malformed)?;
    let (key, value) = (reader.bytes()?, reader.bytes()?);
    let count = usize::try_from(reader.varint()?).map_err(|_| WireError::Malformed)?;
    let headers = Pairs { count, bytes: reader.0 };
    for _ in 0..count {
        let (_name, _value) = (reader.bytes()?, reader.bytes()?);
    }
    Ok(Record { offset, key, value, headers })
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.0.split_at_checked(bytes).ok_or(WireError::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(WireError::Short)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn i8(&mut self) -> Result<i8, WireError> {
        self.array().map(i8::from_be_bytes)
    }

    fn i16(&mut self) -> Result<i16, WireError> {
        self.array().map(i16::from_be_bytes)
    }

    fn i32(&mut self) -> Result<i32, WireError> {
        self.array().map(i32::from_be_bytes)
    }

    fn i64(&mut self) -> Result<i64, WireError> {
        self.array().map(i64::from_be_bytes)
    }

    fn string(&mut self) -> Result<&'a [u8], WireError> {
        let length = self.i16()?;
        self.take(usize::try_from(length).unwrap_or_default())
    }

    /// A zigzag number of base 128.
    fn varint(&mut self) -> Result<i64, WireError> {
        const DIGITS_MAX: u32 = 10;
        let mut number = 0_u64;
        for digit in 0..DIGITS_MAX {
            let [byte] = self.array()?;
            number |= u64::from(byte & 0x7f).checked_shl(7 * digit).unwrap_or_default();
            if byte & 0x80 == 0 {
                let sign = if number & 1 == 1 { -1 } else { 0 };
                return Ok((number >> 1).cast_signed() ^ sign);
            }
        }
        Err(WireError::Malformed)
    }

    /// Bytes behind their length; none where it is negative.
    fn bytes(&mut self) -> Result<&'a [u8], WireError> {
        let length = self.varint()?;
        if length < 0 {
            return Ok(&[]);
        }
        self.take(usize::try_from(length).map_err(|_| WireError::Malformed)?)
    }
}

const _: () = assert!(BATCH_HEAD_BYTES == 4 + 1 + 4 + 2 + 4 + 8 + 8 + 8 + 2 + 4 + 4);

#[cfg(test)]
pub(super) mod tests;
