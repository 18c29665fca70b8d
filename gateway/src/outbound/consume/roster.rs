//! The members of a large conversation, as they stand at one place of its log: by home shard, each
//! shard's sorted and shared by all events that go to the same members. Pure.

use crate::mail::Recipients;
use proto::Uuid;
use std::sync::Arc;

/// Which shard a user's sessions are in.
pub(super) type Home<'a> = &'a dyn Fn(&Uuid) -> u16;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Roster {
    by_shard: Box<[Arc<[Uuid]>]>,
}

/// Who comes and who goes with an event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) added: Vec<Uuid>,
    pub(super) removed: Vec<Uuid>,
}

impl Roster {
    pub(super) fn new(
        users: impl IntoIterator<Item = Uuid>,
        shards: usize,
        home: Home<'_>,
    ) -> Self {
        let mut by_shard = vec![Vec::new(); shards];
        for user in users {
            by_shard[usize::from(home(&user))].push(user);
        }
        let shared = by_shard.into_iter().map(|mut users| {
            users.sort_unstable();
            users.dedup();
            users.into()
        });
        Self { by_shard: shared.collect() }
    }

    pub(super) fn members(&self) -> usize {
        self.by_shard.iter().map(|users| users.len()).sum()
    }

    pub(super) fn bytes(&self) -> usize {
        const SHARD_BYTES: usize = 64;
        self.by_shard.iter().map(|users| SHARD_BYTES + size_of_val(&**users)).sum()
    }

    /// The lists of shards that nobody joins stay shared.
    pub(super) fn join(&mut self, users: &[Uuid], home: Home<'_>) {
        for (shard, list) in (0_u16..).zip(&mut self.by_shard) {
            let mut joined: Vec<Uuid> = users
                .iter()
                .filter(|user| home(user) == shard && list.binary_search(user).is_err())
                .copied()
                .collect();
            if joined.is_empty() {
                continue;
            }
            joined.extend_from_slice(list);
            joined.sort();
            joined.dedup();
            *list = joined.into();
        }
    }

    pub(super) fn leave(&mut self, users: &[Uuid], home: Home<'_>) {
        for (shard, list) in (0_u16..).zip(&mut self.by_shard) {
            let leaves = |user: &&Uuid| home(user) == shard && list.binary_search(user).is_ok();
            if users.iter().any(|user| leaves(&user)) {
                *list = list.iter().filter(|user| !users.contains(user)).copied().collect();
            }
        }
    }

    /// Each shard's members in parts of at most `part` users, in ascending order of the shards.
    pub(super) fn parts(&self, part: usize) -> impl Iterator<Item = (u16, Recipients)> {
        (0_u16..).zip(&self.by_shard).flat_map(move |(shard, all)| {
            (0..all.len()).step_by(part.max(1)).map(move |from| {
                let to = (from + part).min(all.len());
                (shard, Recipients::Shared { all: Arc::clone(all), from, to })
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(user: &Uuid) -> u16 {
        u16::try_from(user.as_u128() % 3).unwrap()
    }

    fn ids(range: std::ops::Range<u128>) -> Vec<Uuid> {
        range.rev().map(Uuid::from_u128).collect()
    }

    fn everybody(roster: &Roster, part: usize) -> Vec<Uuid> {
        let mut all = Vec::new();
        for (shard, users) in roster.parts(part) {
            assert!(!users.is_empty() && users.len() <= part);
            assert!(users.iter().all(|user| home(user) == shard));
            assert!(users.is_sorted());
            all.extend_from_slice(&users);
        }
        all.sort_unstable();
        all
    }

    #[test]
    fn everybody_is_in_one_part_of_the_home_shard() {
        for part in [1, 2, 7, 1_000] {
            let roster = Roster::new(ids(0..100), 3, &home);
            assert_eq!(roster.members(), 100);
            let mut expected = ids(0..100);
            expected.sort_unstable();
            assert_eq!(everybody(&roster, part), expected);
        }
        assert_eq!(Roster::new([], 3, &home).parts(4).count(), 0);
    }

    #[test]
    fn who_joins_and_leaves_changes_one_shards_list_alone() {
        let before = Roster::new(ids(0..9), 3, &home);
        let mut roster = before.clone();
        roster.join(&[Uuid::from_u128(10), Uuid::from_u128(1)], &home);
        assert_eq!(roster.members(), 10);
        let same = |shard: usize| Arc::ptr_eq(&roster.by_shard[shard], &before.by_shard[shard]);
        assert!(same(0) && !same(1) && same(2));
        roster.leave(&[Uuid::from_u128(10), Uuid::from_u128(50)], &home);
        assert_eq!(roster, before);
        assert!(roster.bytes() > 9 * 16);
    }
}
