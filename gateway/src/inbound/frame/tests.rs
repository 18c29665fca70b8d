use super::*;

const MESSAGE_BYTES_MAX: usize = 1_000;
const LIMITS: FrameLimits =
    FrameLimits { message_bytes_max: MESSAGE_BYTES_MAX, fragments_max: 256, inflates: false };

/// A frame as a client sends it.
fn frame(first_byte: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut bytes = vec![first_byte];
    match payload.len() {
        len @ 0..126 => bytes.push(0x80 | u8::try_from(len).unwrap()),
        len @ 126..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend(u16::try_from(len).unwrap().to_be_bytes());
        }
        len => {
            bytes.push(0x80 | 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

fn shown(incoming: &Incoming<'_>) -> String {
    match incoming {
        Incoming::Binary(bytes) => format!("binary {}", bytes.len()),
        other => format!("{other:?}"),
    }
}

/// What a decoder makes of `bytes` cut at the given pieces, and why it stopped.
fn decode(bytes: &[u8], mut piece: impl FnMut() -> usize) -> (Vec<String>, Option<Reason>) {
    let (mut decoder, mut pool, mut seen) = (Decoder::default(), Pool::default(), Vec::new());
    let mut rest = bytes;
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(piece().clamp(1, rest.len()));
        rest = after;
        let mut chunk = chunk.to_vec();
        let mut used = 0;
        loop {
            match decoder.next(&mut chunk, &mut used, LIMITS, &mut pool) {
                Ok(Some(incoming)) => seen.push(shown(&incoming)),
                Ok(None) => break,
                Err(reason) => return (seen, Some(reason)),
            }
        }
        assert_eq!(used, chunk.len());
    }
    (seen, None)
}

#[test]
fn however_the_bytes_are_cut_the_same_messages_come_out() {
    let bytes: Vec<u8> = [
        frame(0x81, "héllo wörld".as_bytes()),
        frame(0x89, b"p1"),
        frame(0x01, &"añb".as_bytes()[..2]),
        frame(0x89, &[7; 125]),
        frame(0x00, &"añb".as_bytes()[2..]),
        frame(0x8a, b""),
        frame(0x80, b" end"),
        frame(0x82, &[0xfe; 300]),
        frame(0x02, b""),
        frame(0x80, b""),
        frame(0x88, b"\x03\xe8bye"),
    ]
    .concat();
    let (whole, reason) = decode(&bytes, || usize::MAX);
    assert_eq!(reason, None);
    assert_eq!(whole.len(), 8, "{whole:?}");
    assert_eq!(whole[0], r#"Text("héllo wörld")"#);
    assert_eq!(whole[4], r#"Text("añb end")"#);
    assert_eq!(whole[7], "Close(Some(1000))");
    assert_eq!(decode(&bytes, || 1).0, whole);
    for seed in 0..500 {
        let mut random = fastrand::Rng::with_seed(seed);
        assert_eq!(decode(&bytes, || random.usize(1..20)), (whole.clone(), None), "seed {seed}");
    }
}

#[test]
fn violations_end_with_the_right_reason_however_they_are_cut() {
    let mut unmasked = frame(0x81, b"hi");
    unmasked[1] &= 0x7f;
    let fragments = [vec![frame(0x02, b"")], vec![frame(0x00, b""); 300]].concat().concat();
    let huge = [&[0x82, 0xff][..], &(1_u64 << 63).to_be_bytes(), &[0; 4]].concat();
    let cases: Vec<(&str, Vec<u8>, Reason)> = vec![
        ("unmasked", unmasked, Reason::ProtocolViolation),
        ("reserved bit", frame(0xc1, b"hi"), Reason::ProtocolViolation),
        ("data opcode 3", frame(0x83, b""), Reason::ProtocolViolation),
        ("control opcode 11", frame(0x8b, b""), Reason::ProtocolViolation),
        ("fragmented ping", frame(0x09, b""), Reason::ProtocolViolation),
        ("long ping", frame(0x89, &[0; 126]), Reason::ProtocolViolation),
        ("continuation of nothing", frame(0x80, b""), Reason::ProtocolViolation),
        (
            "new message inside one",
            [frame(1, b"a"), frame(1, b"b")].concat(),
            Reason::ProtocolViolation,
        ),
        ("close of one byte", frame(0x88, b"\x03"), Reason::ProtocolViolation),
        ("close code 1005", frame(0x88, b"\x03\xed"), Reason::ProtocolViolation),
        ("close reason not UTF-8", frame(0x88, b"\x03\xe8\xff"), Reason::InvalidUtf8),
        ("text not UTF-8", frame(0x81, b"a\xff"), Reason::InvalidUtf8),
        ("text cut within a character", frame(0x81, b"a\xc3"), Reason::InvalidUtf8),
        ("surrogate", frame(0x81, b"\xed\xa0\x80"), Reason::InvalidUtf8),
        ("length of 2^63", huge, Reason::MessageTooLarge),
        ("message too long", frame(0x82, &[0; MESSAGE_BYTES_MAX + 1]), Reason::MessageTooLarge),
        (
            "fragments too long together",
            [frame(0x02, &[0; MESSAGE_BYTES_MAX]), frame(0x80, b"x")].concat(),
            Reason::MessageTooLarge,
        ),
        ("too many fragments", fragments, Reason::Flood),
    ];
    for (name, bytes, reason) in cases {
        assert_eq!(decode(&bytes, || usize::MAX).1, Some(reason), "{name}");
        assert_eq!(decode(&bytes, || 1).1, Some(reason), "{name}, byte by byte");
    }
}

#[test]
fn text_that_is_not_utf8_is_refused_before_its_frame_is_whole() {
    let bytes = frame(0x81, b"abc\xff and much more that never comes");
    assert_eq!(decode(&bytes[..12], || 1).1, Some(Reason::InvalidUtf8));
}

#[test]
fn arbitrary_bytes_never_panic() {
    for seed in 0..3_000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let bytes: Vec<u8> = (0..random.usize(1..200))
            .map(|at| {
                if at % 7 < 2 {
                    random.choice([0x81, 0x02, 0x80, 0x89]).unwrap()
                } else {
                    random.u8(..)
                }
            })
            .collect();
        let one = decode(&bytes, || usize::MAX);
        let other = decode(&bytes, || random.usize(1..5));
        // A bad text is found earlier when it comes in pieces; all else is the same.
        if one.1 != Some(Reason::InvalidUtf8) && other.1 != Some(Reason::InvalidUtf8) {
            assert_eq!(one, other, "seed {seed}");
        }
    }
}
