//! Tokens whose signature was found good, so that a device that connects again soon costs no second
//! verification: most of what opening a connection costs. All shards share one table of a fixed size,
//! without a lock. A token is known by half of its SHA-256 alone, 128 bits: nobody can make another
//! token of the same (a second preimage), and what it says is read from the token itself.

use crate::limits::TOKENS_REMEMBERED;
use sha2::{Digest as _, Sha256};
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Digest(u64, u64);

pub(super) fn digest(token: &str) -> Digest {
    let bytes: [u8; 32] = Sha256::digest(token).into();
    let (words, _) = bytes.as_chunks();
    Digest(u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1]))
}

/// One token. Both halves are read and written one after the other: halves of two tokens that meet so
/// are no token's, but by a second preimage.
#[derive(Default)]
struct Cell(AtomicU64, AtomicU64);

impl Cell {
    fn get(&self) -> Digest {
        Digest(self.0.load(Ordering::Relaxed), self.1.load(Ordering::Relaxed))
    }

    fn set(&self, digest: Digest) {
        self.0.store(digest.0, Ordering::Relaxed);
        self.1.store(digest.1, Ordering::Relaxed);
    }
}

pub(super) struct Remembered {
    /// Pairs: a token is in either cell of its pair.
    cells: Box<[Cell]>,
}

impl Remembered {
    pub(super) fn new() -> Self {
        Self { cells: (0..TOKENS_REMEMBERED).map(|_| Cell::default()).collect() }
    }

    /// Remembers nothing.
    pub(super) fn empty() -> Self {
        Self { cells: Box::default() }
    }

    /// Whether a token of this digest was remembered.
    pub(super) fn has(&self, digest: Digest) -> bool {
        self.pair(digest).is_some_and(|pair| pair.iter().any(|cell| cell.get() == digest))
    }

    /// Takes the place of the older one of two.
    pub(super) fn remember(&self, digest: Digest) {
        let Some([newer, older]) = self.pair(digest) else { return };
        let moved = newer.get();
        if moved != digest {
            older.set(moved);
            newer.set(digest);
        }
    }

    fn pair(&self, digest: Digest) -> Option<&[Cell; 2]> {
        let (pairs, _) = self.cells.as_chunks();
        let mask = u64::try_from(pairs.len()).unwrap_or_default().wrapping_sub(1);
        usize::try_from(digest.0 & mask).ok().and_then(|index| pairs.get(index))
    }
}

impl std::fmt::Debug for Remembered {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Remembered").field("places", &self.cells.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_again_and_no_other_in_its_place() {
        let remembered = Remembered::new();
        let [first, second] = ["first", "second"].map(digest);
        assert!(!remembered.has(first));
        remembered.remember(first);
        assert!(remembered.has(first) && !remembered.has(second));
        let alike = Digest(first.0, first.1 ^ 1);
        assert!(!remembered.has(alike));
        remembered.remember(alike);
        assert!(remembered.has(first) && remembered.has(alike));
        assert!(!Remembered::empty().has(first));
        Remembered::empty().remember(first);
    }

    #[test]
    fn a_third_takes_the_place_of_the_oldest() {
        let remembered = Remembered::new();
        let digests: [Digest; 3] = std::array::from_fn(|index| Digest(7, index as u64));
        digests.iter().for_each(|digest| remembered.remember(*digest));
        assert_eq!(digests.map(|digest| remembered.has(digest)), [false, true, true]);
        remembered.remember(digests[2]);
        assert_eq!(digests.map(|digest| remembered.has(digest)), [false, true, true]);
    }

    #[test]
    fn threads_that_write_one_place_make_no_token_that_none_wrote() {
        let remembered = Remembered::new();
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let remembered = &remembered;
                scope.spawn(move || {
                    for round in 0..20_000 {
                        remembered.remember(Digest(3, (round * 7 + thread) % 5));
                        assert!(!remembered.has(Digest(3, 5)) && !remembered.has(Digest(4, 0)));
                    }
                });
            }
        });
    }
}
