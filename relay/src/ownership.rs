//! What the lease thread tells the workers: which shards they may publish from, and until when; and what
//! the workers tell it: from which they are publishing.

use crate::lease::{Shard, Token};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The right to publish from a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) shard: Shard,
    pub(crate) token: Token,
    pub(crate) valid_until: Instant,
}

#[derive(Debug, Default)]
struct State {
    grants: BTreeMap<Shard, Grant>,
    busy: BTreeSet<Shard>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Ownership {
    state: Arc<Mutex<State>>,
}

impl Ownership {
    /// Replaces the grants.
    pub(crate) fn grant(&self, grants: impl IntoIterator<Item = Grant>) {
        self.state().grants = grants.into_iter().map(|grant| (grant.shard, grant)).collect();
    }

    /// Shards from which records are being published.
    pub(crate) fn busy(&self) -> BTreeSet<Shard> {
        self.state().busy.clone()
    }

    /// Begins a wave of the `worker`th of `workers`: the grants that hold for at least `at_least`
    /// from now. Their shards are busy until the wave is dropped.
    pub(crate) fn begin(&self, worker: usize, workers: usize, at_least: Duration) -> Wave {
        let enough = Instant::now() + at_least;
        let mut state = self.state();
        let mine = |grant: &&Grant| usize::from(grant.shard.unsigned_abs()) % workers == worker;
        let grants: Vec<Grant> = state.grants.values().filter(mine).copied().collect();
        let grants: Vec<Grant> = grants.into_iter().filter(|it| it.valid_until >= enough).collect();
        state.busy.extend(grants.iter().map(|grant| grant.shard));
        Wave { ownership: self.clone(), grants }
    }

    /// Until when all of the wave's grants hold, as they were renewed meanwhile; nothing if one is gone.
    fn valid_until(&self, grants: &[Grant]) -> Option<Instant> {
        let state = self.state();
        let now = |grant: &Grant| {
            state
                .grants
                .get(&grant.shard)
                .filter(|it| it.token == grant.token)
                .map(|it| it.valid_until)
        };
        grants.iter().map(now).min()?
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A worker's wave, while it lasts.
#[derive(Debug)]
pub(crate) struct Wave {
    ownership: Ownership,
    pub(crate) grants: Vec<Grant>,
}

impl Wave {
    /// A mark under these grants was refused: nothing is begun under them until the lease thread has
    /// looked again, or the same records would be published again and again meanwhile.
    pub(crate) fn doubt(&self) {
        let mut state = self.ownership.state();
        for grant in &self.grants {
            if state.grants.get(&grant.shard).is_some_and(|it| it.token == grant.token) {
                state.grants.remove(&grant.shard);
            }
        }
    }

    /// When the first of the grants ends, as they stand now; nothing if one has ended.
    pub(crate) fn valid_until(&self) -> Option<Instant> {
        self.ownership.valid_until(&self.grants)
    }
}

impl Drop for Wave {
    fn drop(&mut self) {
        let mut state = self.ownership.state();
        for grant in &self.grants {
            state.busy.remove(&grant.shard);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wave_takes_the_workers_own_shards_that_hold_long_enough() {
        let ownership = Ownership::default();
        let now = Instant::now();
        let until = |ms| now + Duration::from_millis(ms);
        let grant = |shard, valid_until| Grant { shard, token: 1, valid_until };
        ownership.grant([grant(0, until(60_000)), grant(1, until(60_000)), grant(2, until(10))]);
        let wave = ownership.begin(0, 2, Duration::from_secs(1));
        assert_eq!(wave.grants, [grant(0, until(60_000))]);
        assert_eq!(wave.valid_until(), Some(until(60_000)));
        ownership.grant([grant(0, until(70_000))]);
        assert_eq!(wave.valid_until(), Some(until(70_000)), "renewed meanwhile");
        ownership.grant([Grant { token: 2, ..grant(0, until(80_000)) }]);
        assert_eq!(wave.valid_until(), None, "another's meanwhile");
        assert_eq!(ownership.busy(), BTreeSet::from([0]));
        wave.doubt();
        assert_eq!(ownership.begin(0, 2, Duration::ZERO).grants.len(), 1, "another token's stays");
        ownership.grant([grant(0, until(60_000)), grant(1, until(60_000))]);
        wave.doubt();
        assert!(ownership.begin(0, 2, Duration::ZERO).grants.is_empty());
        assert_eq!(ownership.begin(1, 2, Duration::ZERO).grants, [grant(1, until(60_000))]);
        drop(wave);
        assert!(ownership.busy().is_empty());
    }
}
