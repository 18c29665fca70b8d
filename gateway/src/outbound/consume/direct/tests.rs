//! Against a broker that a thread of the test plays.

use super::super::wire::tests::{Made, answer_of, batch};
use super::*;
use std::net::TcpListener;
use std::thread::JoinHandle;

const SESSION: i32 = 12;

/// Of each partition in an answer: its number, its error, its batches.
type Parts = Vec<(i32, i16, Vec<u8>)>;

/// What a request says.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    session: (i32, i32),
    partitions: Vec<(i32, i64)>,
}

fn number(bytes: &[u8]) -> i64 {
    bytes.iter().fold(0, |number, byte| number << 8 | i64::from(*byte))
}

fn small(bytes: &[u8]) -> i32 {
    i32::from_be_bytes(bytes.try_into().unwrap())
}

/// Plays a broker: takes a request, sends the answer that comes next, and ends the connection behind
/// the last one. Gives back what it was asked.
fn broker(answers: Vec<(i16, Parts)>) -> (String, JoinHandle<Vec<Asked>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let name = listener.local_addr().unwrap().to_string();
    let body = move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut seen = Vec::new();
        for (error, parts) in answers {
            let mut length = [0; 4];
            stream.read_exact(&mut length).unwrap();
            let mut bytes = vec![0; usize::try_from(small(&length)).unwrap()];
            stream.read_exact(&mut bytes).unwrap();
            // Behind the header with the client's name of two bytes, and five numbers.
            let rest = &bytes[12 + 17..];
            let mut asked =
                Asked { session: (small(&rest[..4]), small(&rest[4..8])), partitions: vec![] };
            if small(&rest[8..12]) == 1 {
                // Behind the topic's name of three bytes.
                let list = &rest[17..];
                for part in list[4..].chunks(28).take(usize::try_from(small(&list[..4])).unwrap()) {
                    asked.partitions.push((small(&part[..4]), number(&part[8..16])));
                }
            }
            seen.push(asked);
            let answer =
                answer_of(small(&bytes[4..8]), error, if error == 0 { SESSION } else { 0 }, &parts);
            let length = i32::try_from(answer.len()).unwrap().to_be_bytes();
            // In two pieces, as brokers send them.
            stream.write_all(&[length.as_slice(), &answer[..9]].concat()).unwrap();
            std::thread::sleep(Duration::from_millis(5));
            stream.write_all(&answer[9..]).unwrap();
        }
        seen
    };
    (name, std::thread::spawn(body))
}

fn open(name: String, partitions: &[(i32, i64)]) -> Direct {
    Direct::open("me", "log", BTreeMap::from([(name, partitions.to_vec())])).unwrap()
}

/// Reads until the broker ends; partition, offset and value of what came, and the end.
fn read(direct: &mut Direct) -> (Vec<(i32, i64, Vec<u8>)>, DirectError) {
    let mut seen = Vec::new();
    let started = Instant::now();
    loop {
        let take = |partition, record: Record<'_>| {
            seen.push((partition, record.offset, record.value.to_vec()));
        };
        if let Err(error) = direct.poll(Duration::from_millis(100), take) {
            return (seen, error);
        }
        assert!(started.elapsed() < Duration::from_secs(20));
    }
}

fn one(base: i64, value: &[u8]) -> Vec<u8> {
    batch(base, 0, &[Made { delta: 0, key: None, value, headers: &[] }])
}

#[test]
fn an_answer_in_many_pieces_wakes_the_thread_a_few_times_at_most() {
    const PIECES: usize = 50;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let name = listener.local_addr().unwrap().to_string();
    let broker = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        let mut length = [0; 4];
        stream.read_exact(&mut length).unwrap();
        let mut bytes = vec![0; usize::try_from(small(&length)).unwrap()];
        stream.read_exact(&mut bytes).unwrap();
        let value = vec![7; 20_000];
        let answer = answer_of(small(&bytes[4..8]), 0, SESSION, &[(0, 0, one(10, &value))]);
        let length = i32::try_from(answer.len()).unwrap().to_be_bytes();
        let whole = [length.as_slice(), &answer].concat();
        for piece in whole.chunks(whole.len().div_ceil(PIECES)) {
            stream.write_all(piece).unwrap();
            std::thread::sleep(Duration::from_millis(2));
        }
        stream
    });
    let mut direct = open(name, &[(0, 10)]);
    let (mut polls, mut seen) = (0, Vec::new());
    while seen.is_empty() {
        let take = |_, record: Record<'_>| seen.push(record.offset);
        direct.poll(Duration::from_secs(20), take).unwrap();
        polls += 1;
    }
    assert_eq!(seen, [10]);
    // The socket's first readiness to write, the head, and all that is left.
    assert!(polls <= 5, "{polls}");
    drop(broker.join().unwrap());
}

#[test]
fn records_come_in_order_and_a_session_is_told_only_what_changed() {
    let large = vec![5; 3 * KAFKA_INPUT_BYTES];
    let (name, broker) = broker(vec![
        (0, vec![(0, 0, one(10, b"a")), (1, 0, vec![])]),
        (0, vec![]),
        (0, vec![(1, 0, [one(20, &large), one(21, b"c")].concat())]),
        (0, vec![(0, 0, one(11, b"d"))]),
    ]);
    let mut direct = open(name, &[(0, 10), (1, 20)]);
    let (seen, error) = read(&mut direct);
    let expected = vec![
        (0, 10, b"a".to_vec()),
        (1, 20, large),
        (1, 21, b"c".to_vec()),
        (0, 11, b"d".to_vec()),
    ];
    assert_eq!(seen, expected);
    assert!(matches!(error, DirectError::Connection(..)), "{error}");
    assert_eq!(direct.high_watermark(1), Some(100));
    let asked = broker.join().unwrap();
    let of = |id, epoch, partitions: &[(i32, i64)]| Asked {
        session: (id, epoch),
        partitions: partitions.to_vec(),
    };
    assert_eq!(
        asked,
        [
            of(0, 0, &[(0, 10), (1, 20)]),
            of(SESSION, 1, &[(0, 11)]),
            of(SESSION, 2, &[]),
            of(SESSION, 3, &[(1, 22)]),
        ]
    );
}

#[test]
fn a_session_that_the_broker_forgot_begins_anew() {
    let (name, broker) = broker(vec![
        (0, vec![(0, 0, one(10, b"a"))]),
        (70, vec![]),
        (0, vec![(0, 0, one(11, b"b"))]),
    ]);
    let (seen, _) = read(&mut open(name, &[(0, 10), (1, 20)]));
    assert_eq!(seen.iter().map(|it| it.1).collect::<Vec<_>>(), [10, 11]);
    let asked = broker.join().unwrap();
    assert_eq!(asked[2], Asked { session: (0, 0), partitions: vec![(0, 11), (1, 20)] });
}

#[test]
fn what_the_library_has_to_see_ends_it_behind_what_was_read() {
    let compressed = batch(11, 1, &[Made { delta: 0, key: None, value: b"x", headers: &[] }]);
    for (answer, expected) in [
        (vec![(0, 0, one(10, b"a")), (1, 1, vec![])], WireError::Partition(1)),
        (vec![(0, 0, [one(10, b"a"), compressed].concat())], WireError::NotPlain),
        (vec![(0, 0, one(10, b"a")), (1, 0, one(20, b"b")[..30].to_vec())], WireError::NotPlain),
    ] {
        let (name, broker) = broker(vec![(0, answer)]);
        let (seen, error) = read(&mut open(name, &[(0, 10), (1, 20)]));
        assert_eq!(seen, [(0, 10, b"a".to_vec())]);
        assert!(matches!(error, DirectError::Wire(it) if it == expected), "{error}");
        broker.join().unwrap();
    }
}

#[test]
fn a_busy_log_is_asked_at_a_pace() {
    const EACH: i64 = 50;
    let made = |delta| Made { delta, key: None, value: b"a", headers: &[] };
    let made: Vec<_> = (0..EACH).map(made).collect();
    let answers = 20;
    let answer = |at| (0, vec![(0, 0, batch(at * EACH, 0, &made))]);
    let (name, broker) = broker((0..answers).map(answer).collect());
    let mut direct = open(name, &[(0, 0)]);
    let (seen, _) = read(&mut direct);
    assert_eq!(seen.len(), usize::try_from(answers * EACH).unwrap());
    assert!(direct.leaders[0].pause() > Duration::ZERO);
    broker.join().unwrap();
}

#[test]
fn nobody_there_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let name = listener.local_addr().unwrap().to_string();
    drop(listener);
    let outcome = Direct::open("me", "log", BTreeMap::from([(name, vec![(0, 0)])]));
    assert!(matches!(outcome.err(), Some(DirectError::Connection(..))));
}
