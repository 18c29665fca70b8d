//! Keys of which a record was refused: they are published one record at a time, so that the culprit
//! is found, tried again with growing waits, and at last dead-lettered, while all other keys go on.
//! Pure: the clock is an argument.

use crate::lease::Shard;
use crate::limits::{ATTEMPTS_MAX, RETRY_MS_MAX, RETRY_MS_MIN, SUSPECTS_MAX};
use crate::wave::KeyOf;
use std::collections::HashMap;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Suspect {
    /// Once this record is gone the key is like any other again.
    until_id: i64,
    retry_at_ms: u64,
}

#[derive(Debug, Default)]
pub struct Suspects {
    keys: HashMap<KeyOf, Suspect>,
}

/// What to do with a record that was tried alone and refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sentence {
    Retry,
    DeadLetter,
}

impl Suspects {
    /// Suspects a key. False: there are too many, which points at the broker, not at records.
    pub fn add(&mut self, key: KeyOf, until_id: i64, now_ms: u64) -> bool {
        if self.keys.len() >= SUSPECTS_MAX && !self.keys.contains_key(&key) {
            return false;
        }
        self.keys.insert(key, Suspect { until_id, retry_at_ms: now_ms });
        true
    }

    /// Forgets keys of shards that this worker no longer serves.
    pub fn retain(&mut self, serves: impl Fn(Shard) -> bool) {
        self.keys.retain(|(shard, _), _| serves(*shard));
    }

    pub fn keys(&self) -> Vec<&[u8]> {
        self.keys.keys().map(|(_, key)| key.as_slice()).collect()
    }

    /// A key whose next record is to be tried now.
    pub fn due(&self, now_ms: u64) -> Option<KeyOf> {
        let due = self.keys.iter().filter(|(_, it)| it.retry_at_ms <= now_ms);
        due.min_by_key(|(_, it)| it.retry_at_ms).map(|(key, _)| key.clone())
    }

    /// When the next key is due.
    pub fn next_ms(&self) -> Option<u64> {
        self.keys.values().map(|it| it.retry_at_ms).min()
    }

    /// The key's record `id` is gone: published, or a dead letter; the next one is due at once.
    /// Without an id: the key has none left.
    pub fn cleared(&mut self, key: &KeyOf, id: Option<i64>, now_ms: u64) {
        let Some(suspect) = self.keys.get_mut(key) else { return };
        if id.is_none_or(|id| id >= suspect.until_id) {
            self.keys.remove(key);
        } else {
            suspect.retry_at_ms = now_ms;
        }
    }

    /// The key's record was refused, now for the `attempts`th time.
    pub fn refused(&mut self, key: &KeyOf, attempts: i32, now_ms: u64) -> Sentence {
        if let Some(suspect) = self.keys.get_mut(key) {
            suspect.retry_at_ms = now_ms + backoff_ms(attempts);
        }
        if attempts >= ATTEMPTS_MAX { Sentence::DeadLetter } else { Sentence::Retry }
    }

    /// The broker did not take the key's record: it is tried again when the broker is back.
    pub fn postpone(&mut self, key: &KeyOf, now_ms: u64) {
        if let Some(suspect) = self.keys.get_mut(key) {
            suspect.retry_at_ms = now_ms + RETRY_MS_MIN;
        }
    }
}

/// The wait after the `attempts`th refusal.
fn backoff_ms(attempts: i32) -> u64 {
    let doublings = u32::try_from(attempts.clamp(1, 30) - 1).unwrap_or(0);
    (RETRY_MS_MIN << doublings).min(RETRY_MS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_tried_ten_times_with_growing_waits_and_then_given_up() {
        let key = (3, vec![1; 16]);
        let mut suspects = Suspects::default();
        assert!(suspects.add(key.clone(), 7, 0));
        let mut now_ms = 0;
        let mut waits = Vec::new();
        for attempts in 1..=10 {
            assert_eq!(suspects.due(now_ms), Some(key.clone()));
            let sentence = suspects.refused(&key, attempts, now_ms);
            assert_eq!(sentence == Sentence::DeadLetter, attempts == 10);
            let next_ms = suspects.next_ms().unwrap();
            assert_eq!(suspects.due(next_ms - 1), None);
            waits.push(next_ms - now_ms);
            now_ms = next_ms;
        }
        assert_eq!(waits, [50, 100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000]);
        suspects.refused(&key, 10, now_ms);
        suspects.cleared(&key, Some(5), now_ms);
        assert_eq!(suspects.due(now_ms), Some(key.clone()), "there are more up to id 7");
        suspects.cleared(&key, Some(7), now_ms);
        assert_eq!(suspects.next_ms(), None);
    }

    #[test]
    fn keys_of_lost_shards_are_forgotten_and_their_number_is_bounded() {
        let mut suspects = Suspects::default();
        for index in 0..SUSPECTS_MAX {
            assert!(suspects.add((0, index.to_be_bytes().to_vec()), 1, 0));
        }
        assert!(!suspects.add((1, vec![0; 16]), 1, 0));
        suspects.retain(|shard| shard != 0);
        assert!(suspects.keys().is_empty());
        assert!(suspects.add((1, vec![0; 16]), 1, 0));
        suspects.cleared(&(1, vec![0; 16]), None, 0);
        assert!(suspects.keys().is_empty());
    }
}
