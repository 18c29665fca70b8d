//! A wave: the records that one worker publishes at once, and the verdict on them. Pure.

use crate::lease::Shard;
use crate::place::{Place, RowId};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// One row of the outbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    pub shard: Shard,
    pub id: i64,
    pub topic: String,
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    /// An encoded `RecordHeaders`.
    pub headers: Vec<u8>,
    pub attempts: i32,
    pub created_at_us: u64,
    pub place: Place,
    /// Gateways to whose own topics it is copied.
    pub gateways: Vec<Arc<str>>,
}

/// Records with one key are in order; this is a key, and the shard that it lives in.
pub type KeyOf = (Shard, Vec<u8>);

impl Record {
    pub fn key_of(&self) -> KeyOf {
        (self.shard, self.key.clone())
    }

    pub fn row(&self) -> RowId {
        RowId { id: self.id, place: self.place }
    }
}

/// What became of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The broker has it, in this partition, and all of its copies.
    Acked(i32),
    /// This record cannot be published, and why.
    Refused(String),
    /// The broker did not take it, and why; it says nothing about the record.
    Stalled(String),
    /// It was not tried, because one before it failed.
    Held,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Indices of the records that are published, and so is everything before them with their key; each
    /// with its partition.
    pub published: Vec<(usize, i32)>,
    /// First refused record of each key: its index and the last id of that key in the wave.
    pub refused: Vec<(usize, i64)>,
    /// Why the broker did not take something.
    pub stalled: Option<String>,
}

/// Judges a wave, in the order of its records.
///
/// A record that was acknowledged after one with the same key was not, is not published yet: it
/// goes again, after that one, so that what counts as published is always a prefix of the key's.
pub(crate) fn judge(records: &[Record], outcomes: &[Outcome]) -> Verdict {
    let mut verdict = Verdict::default();
    let mut broken: HashSet<(Shard, &[u8])> = HashSet::new();
    let mut refused: HashMap<(Shard, &[u8]), usize> = HashMap::new();
    for (index, (record, outcome)) in records.iter().zip(outcomes).enumerate() {
        let key = (record.shard, record.key.as_slice());
        if let Some(place) = refused.get(&key) {
            verdict.refused[*place].1 = record.id;
        }
        match outcome {
            Outcome::Acked(partition) if broken.is_empty() || !broken.contains(&key) => {
                verdict.published.push((index, *partition));
            }
            Outcome::Acked(_) => {}
            Outcome::Held => {
                broken.insert(key);
            }
            Outcome::Refused(_) => {
                if broken.insert(key) {
                    refused.insert(key, verdict.refused.len());
                    verdict.refused.push((index, record.id));
                }
            }
            Outcome::Stalled(reason) => {
                broken.insert(key);
                verdict.stalled.get_or_insert_with(|| reason.clone());
            }
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: i64, key: u8) -> Record {
        Record { id, key: vec![key; 16], ..Record::default() }
    }

    fn refused() -> Outcome {
        Outcome::Refused("too large".into())
    }

    fn stalled() -> Outcome {
        Outcome::Stalled("timed out".into())
    }

    #[test]
    fn what_was_acked_after_a_failure_of_its_key_is_not_published() {
        let records: Vec<_> = (1..=6).map(|id| record(id, u8::from(id % 2 == 1))).collect();
        let outcomes = [
            Outcome::Acked(7),
            Outcome::Acked(7),
            stalled(),
            Outcome::Acked(7),
            Outcome::Acked(7),
            Outcome::Acked(7),
        ];
        let verdict = judge(&records, &outcomes);
        assert_eq!(verdict.published, [0, 1, 3, 5].map(|index| (index, 7)));
        assert_eq!(verdict.stalled.as_deref(), Some("timed out"));
        assert!(verdict.refused.is_empty());
    }

    #[test]
    fn a_refused_record_holds_its_key_alone_and_the_keys_last_id_is_told() {
        let records = [record(1, 7), record(2, 7), record(3, 8), record(4, 7)];
        let outcomes = [refused(), Outcome::Held, Outcome::Acked(7), refused()];
        let verdict = judge(&records, &outcomes);
        assert_eq!(verdict.published, [(2, 7)]);
        assert_eq!(verdict.refused, [(0, 4)]);
    }

    #[test]
    fn in_any_mixture_the_published_records_of_a_key_are_a_prefix() {
        for seed in 0..2_000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let records: Vec<_> = (0..40).map(|id| record(id, random.u8(0..4))).collect();
            let outcome = |_: &Record| match random.u8(0..8) {
                0 => refused(),
                1 => stalled(),
                2 => Outcome::Held,
                _ => Outcome::Acked(7),
            };
            let outcomes: Vec<_> = records.iter().map(outcome).collect();
            let published = judge(&records, &outcomes).published;
            for key in 0..4 {
                let of_key = (0..40).filter(|index| records[*index].key[0] == key);
                let done: Vec<_> = of_key.map(|index| published.contains(&(index, 7))).collect();
                assert!(done.is_sorted_by(|a, b| a >= b), "seed {seed}: {done:?}");
            }
        }
    }
}
