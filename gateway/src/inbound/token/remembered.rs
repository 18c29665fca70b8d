//! Tokens whose signature was found good, so that a device that connects again soon costs no second
//! verification: most of what opening a connection costs. All shards share one table of a fixed size,
//! without a lock. A token is known by its SHA-256 alone; a newer one takes an older one's place.

use super::Claims;
use crate::limits::TOKENS_REMEMBERED;
use proto::Uuid;
use sha2::{Digest as _, Sha256};
use std::sync::atomic::{AtomicU64, Ordering, fence};

const DIGEST_WORDS: usize = 4;
/// The digest, user and device, and the time at which the token expires.
const WORDS: usize = DIGEST_WORDS + 2 + 2 + 1;

pub(super) type Digest = [u64; DIGEST_WORDS];

pub(super) fn digest(token: &str) -> Digest {
    let bytes: [u8; 32] = Sha256::digest(token).into();
    let (words, _) = bytes.as_chunks();
    std::array::from_fn(|index| u64::from_le_bytes(words[index]))
}

/// One token, behind a sequence lock: who writes makes the version odd meanwhile.
#[derive(Default)]
struct Cell {
    version: AtomicU64,
    words: [AtomicU64; WORDS],
}

pub(super) struct Remembered {
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

    /// What a token of this digest says, if its signature was found good before.
    pub(super) fn find(&self, digest: &Digest) -> Option<Claims> {
        self.places(digest).find_map(|cell| cell.read().filter(|it| it.0 == *digest)).map(|it| it.1)
    }

    /// Takes an empty place, or that of the token that expires first.
    pub(super) fn remember(&self, digest: &Digest, claims: &Claims) {
        let expiry = |cell: &&Cell| cell.words[WORDS - 1].load(Ordering::Relaxed);
        if let Some(cell) = self.places(digest).min_by_key(expiry) {
            cell.write(digest, claims);
        }
    }

    fn places(&self, digest: &Digest) -> impl Iterator<Item = &Cell> {
        let mask = self.cells.len().wrapping_sub(1);
        let index = usize::try_from(digest[0] & u64::from(u32::MAX)).unwrap_or_default() & mask;
        [index, index ^ 1].into_iter().filter_map(|index| self.cells.get(index))
    }
}

impl Cell {
    /// None while it is empty, and while another thread writes to it.
    fn read(&self) -> Option<(Digest, Claims)> {
        let version = self.version.load(Ordering::Acquire);
        if version == 0 || version % 2 == 1 {
            return None;
        }
        let words: [u64; WORDS] =
            std::array::from_fn(|index| self.words[index].load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        if self.version.load(Ordering::Relaxed) != version {
            return None;
        }
        let [a, b, c, d, user_high, user_low, device_high, device_low, expires_at_s] = words;
        let claims = Claims {
            user: Uuid::from_u64_pair(user_high, user_low),
            device: Uuid::from_u64_pair(device_high, device_low),
            expires_at_s,
        };
        Some(([a, b, c, d], claims))
    }

    /// Does nothing while another thread writes.
    fn write(&self, digest: &Digest, claims: &Claims) {
        let version = self.version.load(Ordering::Relaxed);
        let (taken, done) = (version.wrapping_add(1), version.wrapping_add(2));
        if version % 2 == 1
            || self
                .version
                .compare_exchange(version, taken, Ordering::Acquire, Ordering::Relaxed)
                .is_err()
        {
            return;
        }
        fence(Ordering::Release);
        let [a, b, c, d] = *digest;
        let (user_high, user_low) = claims.user.as_u64_pair();
        let (device_high, device_low) = claims.device.as_u64_pair();
        let words = [a, b, c, d, user_high, user_low, device_high, device_low, claims.expires_at_s];
        for (cell, word) in self.words.iter().zip(words) {
            cell.store(word, Ordering::Relaxed);
        }
        self.version.store(done, Ordering::Release);
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

    fn claims(number: u64) -> Claims {
        let id = |kind| Uuid::from_u64_pair(kind, number);
        Claims { user: id(1), device: id(2), expires_at_s: 1_000 + number }
    }

    #[test]
    fn a_token_is_found_again_and_no_other_in_its_place() {
        let remembered = Remembered::new();
        let [first, second] = ["first", "second"].map(digest);
        assert_eq!(remembered.find(&first), None);
        remembered.remember(&first, &claims(1));
        assert_eq!(remembered.find(&first), Some(claims(1)));
        assert_eq!(remembered.find(&second), None);
        let mut alike = first;
        alike[3] ^= 1;
        assert_eq!(remembered.find(&alike), None);
        remembered.remember(&alike, &claims(2));
        assert_eq!(
            [first, alike].map(|it| remembered.find(&it)),
            [1, 2].map(|it| Some(claims(it)))
        );
        assert_eq!(Remembered::empty().find(&first), None);
        Remembered::empty().remember(&first, &claims(1));
    }

    #[test]
    fn a_third_takes_the_place_of_the_one_that_expires_first() {
        let remembered = Remembered::new();
        let digests: [Digest; 3] = std::array::from_fn(|index| [7, 0, 0, index as u64]);
        for (number, digest) in (1..).zip(&digests) {
            remembered.remember(digest, &claims(number));
        }
        let found = digests.map(|digest| remembered.find(&digest));
        assert_eq!(found, [None, Some(claims(2)), Some(claims(3))]);
    }

    #[test]
    fn threads_that_write_and_read_one_place_never_mix_two_tokens() {
        let remembered = Remembered::new();
        let digest_of = |number: u64| [3, number, number, number];
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let remembered = &remembered;
                scope.spawn(move || {
                    for round in 0..20_000 {
                        let number = (round * 7 + thread) % 5;
                        remembered.remember(&digest_of(number), &claims(number));
                        let found = remembered.find(&digest_of(number));
                        assert!(found.is_none_or(|it| it == claims(number)));
                    }
                });
            }
        });
    }
}
