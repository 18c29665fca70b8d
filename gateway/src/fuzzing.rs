//! Seeded mutation of the committed inputs in `gateway/fuzz/`, one folder a target.
//!
//! A failure names its target and seed. `REALCHAT_FUZZ_SEED=N` runs that seed alone. `REALCHAT_FUZZ_SECONDS=N`
//! goes on for so long: with the seeds that follow, so that a change is judged by the same inputs as the one
//! before it, or with others from `REALCHAT_FUZZ_FROM=N` on.

#![allow(clippy::disallowed_methods, reason = "the tests' own clock")]

use fastrand::Rng;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Seeds of a plain test run.
const RUNS: u64 = 20_000;
/// The committed inputs of a target.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(target);
    let mut files: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    // The order of a folder is nobody's promise, and seeds choose by number.
    files.sort();
    assert!(!files.is_empty(), "{target} has no corpus");
    files.into_iter().map(|file| std::fs::read(file).unwrap()).collect()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// Runs a target with inputs made of its corpus.
pub(crate) fn fuzz(target: &str, try_one: impl Fn(&[u8], &mut Rng)) {
    let corpus = corpus(target);
    let run = |seed: u64| {
        let mut random = Rng::with_seed(seed);
        let input = mutated(&corpus, &mut random);
        let outcome =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| try_one(&input, &mut random)));
        assert!(outcome.is_ok(), "{target} failed: REALCHAT_FUZZ_SEED={seed}, input {input:02x?}");
    };
    if let Some(seed) = number("REALCHAT_FUZZ_SEED") {
        return run(seed);
    }
    // As they are, too.
    for input in &corpus {
        try_one(input, &mut Rng::with_seed(0));
    }
    (0..RUNS).for_each(run);
    if let Some(seconds) = number("REALCHAT_FUZZ_SECONDS") {
        let until = Instant::now() + Duration::from_secs(seconds);
        let from = number("REALCHAT_FUZZ_FROM").unwrap_or(RUNS);
        (from..).take_while(|_| Instant::now() < until).for_each(run);
    }
}

/// One of the inputs, or two spliced, with a few bytes changed, removed, doubled or added.
fn mutated(corpus: &[Vec<u8>], random: &mut Rng) -> Vec<u8> {
    let mut bytes = corpus[random.usize(..corpus.len())].clone();
    if random.u8(..4) == 0 {
        let other = &corpus[random.usize(..corpus.len())];
        bytes.truncate(random.usize(..=bytes.len()));
        bytes.extend_from_slice(&other[random.usize(..=other.len())..]);
    }
    for _ in 0..random.usize(..5) {
        if bytes.is_empty() {
            break;
        }
        let at = random.usize(..bytes.len());
        let end = (at + random.usize(1..24)).min(bytes.len());
        match random.u8(..7) {
            0 => bytes[at] ^= 1 << random.u8(..8),
            1 => bytes[at] = random.u8(..),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let copy = bytes[at..end].to_vec();
                drop(bytes.splice(at..at, copy));
            }
            4 => bytes.truncate(at),
            5 => {
                bytes[at] = random.choice([0, 0x7e, 0x7f, 0x80, 0xfe, 0xff, b'\r', b'\n']).unwrap()
            }
            _ => bytes.insert(at, random.u8(..)),
        }
    }
    bytes
}

/// The input in pieces of random lengths.
pub(crate) fn pieces<'a>(mut input: &'a [u8], random: &mut Rng) -> Vec<&'a [u8]> {
    let longest = random.choice([1, 3, 20, 1_000]).unwrap();
    let mut pieces = Vec::new();
    while !input.is_empty() {
        let (piece, rest) = input.split_at(random.usize(1..=longest).min(input.len()));
        pieces.push(piece);
        input = rest;
    }
    pieces
}
