use super::*;

/// One record as a test wants it.
pub(in super::super) struct Made<'a> {
    pub(in super::super) delta: i64,
    pub(in super::super) key: Option<&'a [u8]>,
    pub(in super::super) value: &'a [u8],
    pub(in super::super) headers: &'a [(&'a str, &'a [u8])],
}

fn varint(number: i64, out: &mut Vec<u8>) {
    let mut rest = ((number << 1) ^ (number >> 63)).cast_unsigned();
    while rest >= 0x80 {
        out.push(rest.to_le_bytes()[0] | 0x80);
        rest >>= 7;
    }
    out.push(rest.to_le_bytes()[0]);
}

fn bytes(value: Option<&[u8]>, out: &mut Vec<u8>) {
    varint(value.map_or(-1, |it| i64::try_from(it.len()).unwrap()), out);
    out.extend(value.unwrap_or_default());
}

/// A batch of format 2.
pub(in super::super) fn batch(base: i64, attributes: i16, records: &[Made<'_>]) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(7_i32.to_be_bytes());
    body.extend(FORMAT.to_be_bytes());
    body.extend(0_i32.to_be_bytes());
    body.extend(attributes.to_be_bytes());
    let last = records.last().map_or(0, |it| i32::try_from(it.delta).unwrap());
    body.extend(last.to_be_bytes());
    body.extend([0; 8 + 8 + 8 + 2 + 4]);
    body.extend(size(records.len()).to_be_bytes());
    for made in records {
        let mut record = vec![0];
        varint(-5, &mut record);
        varint(made.delta, &mut record);
        bytes(made.key, &mut record);
        bytes(Some(made.value), &mut record);
        varint(i64::try_from(made.headers.len()).unwrap(), &mut record);
        for (name, value) in made.headers {
            bytes(Some(name.as_bytes()), &mut record);
            bytes(Some(value), &mut record);
        }
        bytes(Some(&record), &mut body);
    }
    let mut batch = base.to_be_bytes().to_vec();
    batch.extend(size(body.len()).to_be_bytes());
    batch.extend(body);
    batch
}

/// An answer without its length; of each partition: its number, its error, its batches.
pub(in super::super) fn answer_of(
    correlation: i32,
    error: i16,
    session: i32,
    parts: &[(i32, i16, Vec<u8>)],
) -> Vec<u8> {
    let mut out = correlation.to_be_bytes().to_vec();
    out.extend(0_i32.to_be_bytes());
    out.extend(error.to_be_bytes());
    out.extend(session.to_be_bytes());
    out.extend(i32::from(!parts.is_empty()).to_be_bytes());
    if parts.is_empty() {
        return out;
    }
    string("topic", &mut out);
    out.extend(size(parts.len()).to_be_bytes());
    for (partition, error, batches) in parts {
        out.extend(partition.to_be_bytes());
        out.extend(error.to_be_bytes());
        for offset in [100_i64, 100, 0] {
            out.extend(offset.to_be_bytes());
        }
        // No list of aborted transactions, no preferred replica.
        out.extend((-1_i32).to_be_bytes());
        out.extend((-1_i32).to_be_bytes());
        out.extend(size(batches.len()).to_be_bytes());
        out.extend(batches);
    }
    out
}

fn made(delta: i64, value: &[u8]) -> Made<'_> {
    Made { delta, key: None, value, headers: &[] }
}

fn read(batches: &[u8], from: i64) -> (Vec<i64>, Result<i64, WireError>) {
    let mut offsets = Vec::new();
    let next = records(batches, from, |it| offsets.push(it.offset));
    (offsets, next)
}

#[test]
fn a_request_is_as_the_protocol_says() {
    let mut out = Vec::new();
    let session = Session { id: 5, epoch: 6 };
    request("me", 9, session, "log", [(3, 70)].into_iter(), &mut out);
    let expected = [
        [0, 0, 0, 84].as_slice(),
        &[0, 1, 0, 11, 0, 0, 0, 9, 0, 2, b'm', b'e'],
        &[255, 255, 255, 255, 0, 0, 1, 244, 0, 0, 0, 1, 0, 128, 0, 0, 1],
        &[0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0, 1, 0, 3, b'l', b'o', b'g', 0, 0, 0, 1],
        &[0, 0, 0, 3, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 70],
        &[255, 255, 255, 255, 255, 255, 255, 255, 0, 16, 0, 0],
        &[0, 0, 0, 0, 0, 0],
    ];
    assert_eq!(out, expected.concat());
    out.clear();
    request("me", 9, session, "log", [].into_iter(), &mut out);
    assert_eq!(out.len(), 88 - 9 - 28);
}

#[test]
fn sessions_go_on_wrap_and_end() {
    let begun = Session::default().after(8);
    assert_eq!(begun, Session { id: 8, epoch: 1 });
    assert_eq!(begun.after(8), Session { id: 8, epoch: 2 });
    assert_eq!(Session { id: 8, epoch: i32::MAX }.after(8), Session { id: 8, epoch: 1 });
    assert_eq!(begun.after(0), Session::default());
}

#[test]
fn records_come_with_their_keys_and_headers() {
    let headers: &[(&str, &[u8])] = &[("recipients", &[1, 2]), ("none", &[])];
    let long = vec![9; 300];
    let first = Made { delta: 0, key: Some(b"key"), value: &long, headers };
    let batches = batch(40, 0, &[first, made(2, b"second")]);
    let mut seen = Vec::new();
    let next = records(&batches, 0, |it| {
        let headers: Vec<_> =
            it.headers.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
        seen.push((it.offset, it.key.to_vec(), it.value.to_vec(), headers));
    });
    assert_eq!(next, Ok(43));
    let pairs = vec![(b"recipients".to_vec(), vec![1, 2]), (b"none".to_vec(), vec![])];
    assert_eq!(seen[0], (40, b"key".to_vec(), long.clone(), pairs));
    assert_eq!(seen[1], (42, vec![], b"second".to_vec(), vec![]));
}

#[test]
fn reading_goes_on_within_a_batch_and_a_cut_one_is_awaited() {
    let first = batch(10, 0, &[made(0, b"a"), made(1, b"b"), made(2, b"c")]);
    let second = batch(13, 0, &[made(0, b"d")]);
    let both = [first.clone(), second].concat();
    assert_eq!(read(&both, 12), (vec![12, 13], Ok(14)));
    for cut in first.len()..both.len() {
        assert_eq!(read(&both[..cut], 10), (vec![10, 11, 12], Ok(13)), "{cut}");
    }
    // Compaction may leave a batch without its records.
    assert_eq!(read(&batch(20, 0, &[]), 15), (vec![], Ok(21)));
}

#[test]
fn what_is_not_plain_is_left_to_the_library() {
    // gzip, a transaction's records, its end.
    for attributes in [1, 0b1_0000, 0b11_0000] {
        let batches = batch(0, attributes, &[made(0, b"x")]);
        assert_eq!(read(&batches, 0), (vec![], Err(WireError::NotPlain)), "{attributes}");
    }
    // The time of the broker's clock is plain.
    assert_eq!(read(&batch(0, 0b1000, &[made(0, b"x")]), 0).1, Ok(1));
    let mut old = batch(0, 0, &[made(0, b"x")]);
    old[16] = 1;
    assert_eq!(read(&old, 0).1, Err(WireError::NotPlain));
}

#[test]
fn answers_are_read_and_their_errors_named() {
    let parts = [(0, 0, vec![1]), (4, 0, vec![])];
    let bytes = answer_of(3, 0, 77, &parts);
    let mut seen = Vec::new();
    let session = answer(&bytes, 3, |part| {
        seen.push((part.partition, part.high_watermark, part.batches.to_vec()));
        Ok(())
    });
    assert_eq!(session, Ok(77));
    assert_eq!(seen, [(0, 100, vec![1]), (4, 100, vec![])]);
    let refused = |bytes: &[u8], correlation| answer(bytes, correlation, |_| Ok(())).unwrap_err();
    assert_eq!(refused(&bytes, 4), WireError::Correlation);
    assert_eq!(refused(&answer_of(3, 70, 0, &[]), 3), WireError::Refused(70));
    assert_eq!(refused(&answer_of(3, 0, 1, &[(2, 6, vec![])]), 3), WireError::Partition(6));
    for length in 0..bytes.len() {
        assert_eq!(refused(&bytes[..length], 3), WireError::Short, "{length}");
    }
}

#[test]
fn any_bytes_are_read_without_a_panic() {
    let mut random = fastrand::Rng::with_seed(7);
    let good = answer_of(1, 0, 2, &[(0, 0, batch(5, 0, &[made(0, b"abc"), made(1, b"d")]))]);
    for _ in 0..200_000 {
        let mut bytes = good.clone();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(4..bytes.len());
            bytes[at] = random.u8(..);
        }
        let _ = answer(&bytes, 1, |part| {
            let mut pairs = 0;
            records(part.batches, 0, |it| pairs += it.headers.iter().count()).map(|_| ())
        });
    }
}
