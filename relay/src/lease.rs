//! Which shards this relay owns: the rules, without clock or database.
//!
//! A lease is a row per shard: owner, fencing token (grows with every change of owner), expiry by the
//! database's clock. A relay takes its fair share of the shards, gives back what is more, and takes
//! what nobody renewed in time. What it holds is valid until the lease's length after it *asked* for it, by
//! its own monotonic clock, and so never longer than the database thinks.
//!
//! A lease that ends later than any relay asks for (the table was edited, or the database's clock was set
//! back) is taken once it stayed so for a lease's length: its relay, if it lives, has renewed it by then.

use crate::limits::LEASE_MS_MAX;
use std::collections::{BTreeMap, BTreeSet};

pub type Shard = i16;
pub type Token = i64;

/// A row of the lease table, as the database saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub shard: Shard,
    pub owner: String,
    /// Time until it expires; not positive: anybody may take it.
    pub remaining_ms: i64,
}

impl Row {
    /// It ends later than any relay asks for.
    pub fn is_endless(&self) -> bool {
        self.remaining_ms > i64::from(LEASE_MS_MAX)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Time to look; `busy` are the shards of which records are being published.
    Tick { busy: BTreeSet<Shard> },
    /// The whole table, and how many other relays are alive.
    Observed { rows: Vec<Row>, peers: usize },
    /// What a claim, asked at that time, was granted.
    Claimed { asked_ms: u64, granted: Vec<(Shard, Token)> },
    /// What a renewal, asked at that time, was granted; `asked` names all it was asked for.
    Renewed { asked_ms: u64, asked: Vec<(Shard, Token)>, granted: Vec<Shard> },
    /// The process ends: everything is given back as soon as it is idle.
    Stop,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Read the table.
    Observe,
    /// Take these, if they are still free, carry this relay's name, or are endless.
    Claim(Vec<Shard>),
    Renew(Vec<(Shard, Token)>),
    Release(Vec<(Shard, Token)>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    pub token: Token,
    /// On the clock of the events.
    pub valid_until_ms: u64,
    /// No longer published from; released once it is not busy.
    pub yielding: bool,
}

#[derive(Debug)]
pub struct Leases {
    instance: String,
    shards: Shard,
    lease_ms: u64,
    held: BTreeMap<Shard, Held>,
    /// Since when a shard was seen free.
    free_since_ms: BTreeMap<Shard, u64>,
    /// Since when a shard's lease was seen to end too late.
    endless_since_ms: BTreeMap<Shard, u64>,
    stopping: bool,
}

impl Leases {
    pub fn new(instance: String, shards: Shard, lease_ms: u64) -> Self {
        Self {
            instance,
            shards,
            lease_ms,
            held: BTreeMap::new(),
            free_since_ms: BTreeMap::new(),
            endless_since_ms: BTreeMap::new(),
            stopping: false,
        }
    }

    /// What may be published from, with its token and until when.
    pub fn usable(&self, now_ms: u64) -> impl Iterator<Item = (Shard, Held)> {
        self.held
            .iter()
            .filter(move |(_, held)| !held.yielding && held.valid_until_ms > now_ms)
            .map(|(shard, held)| (*shard, *held))
    }

    /// Nothing is held any more.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    pub fn step(&mut self, now_ms: u64, event: Event) -> Vec<Action> {
        match event {
            Event::Tick { busy } => self.tick(now_ms, &busy),
            Event::Observed { rows, peers } => self.observed(now_ms, &rows, peers),
            Event::Claimed { asked_ms, granted } => {
                let valid_until_ms = asked_ms + self.lease_ms;
                for (shard, token) in granted {
                    let held = Held { token, valid_until_ms, yielding: self.stopping };
                    self.held.insert(shard, held);
                    self.free_since_ms.remove(&shard);
                }
                Vec::new()
            }
            Event::Renewed { asked_ms, asked, granted } => {
                self.renewed(asked_ms, &asked, &granted);
                Vec::new()
            }
            Event::Stop => {
                self.stopping = true;
                self.held.values_mut().for_each(|held| held.yielding = true);
                Vec::new()
            }
        }
    }

    fn tick(&mut self, now_ms: u64, busy: &BTreeSet<Shard>) -> Vec<Action> {
        self.held.retain(|_, held| held.valid_until_ms > now_ms);
        let idle = |shard: &Shard, held: &Held| held.yielding && !busy.contains(shard);
        let release: Vec<_> = self.held.extract_if(.., |shard, held| idle(shard, held)).collect();
        let mut actions = Vec::new();
        if !release.is_empty() {
            actions
                .push(Action::Release(tokens(release.iter().map(|(shard, held)| (shard, held)))));
        }
        if !self.held.is_empty() {
            actions.push(Action::Renew(tokens(&self.held)));
        }
        if !self.stopping {
            actions.push(Action::Observe);
        }
        actions
    }

    fn renewed(&mut self, asked_ms: u64, asked: &[(Shard, Token)], granted: &[Shard]) {
        for (shard, token) in asked {
            let Some(held) = self.held.get_mut(shard).filter(|held| held.token == *token) else {
                continue;
            };
            if granted.contains(shard) {
                held.valid_until_ms = asked_ms + self.lease_ms;
            } else {
                self.held.remove(shard);
            }
        }
    }

    fn observed(&mut self, now_ms: u64, rows: &[Row], peers: usize) -> Vec<Action> {
        if self.stopping {
            return Vec::new();
        }
        let share = usize::from(self.shards.unsigned_abs()).div_ceil(peers + 1);
        self.level(share);
        self.note_endless(now_ms, rows);
        let (ours, free) = self.claimable(now_ms, rows);
        self.free_since_ms.retain(|shard, _| free.contains(shard));
        let mut wanted = share.saturating_sub(self.held.len());
        let mut claim = Vec::new();
        for shard in ours.into_iter().chain(free) {
            let since_ms = *self.free_since_ms.entry(shard).or_insert(now_ms);
            // What its relay does not take for so long is anybody's, whatever the share.
            let abandoned = now_ms.saturating_sub(since_ms) >= self.lease_ms / 2;
            if wanted > 0 || abandoned {
                wanted = wanted.saturating_sub(1);
                claim.push(shard);
            }
        }
        claim.sort_unstable();
        if claim.is_empty() { Vec::new() } else { vec![Action::Claim(claim)] }
    }

    /// Begins to yield what is more than the share, or keeps what was to be yielded and is not now.
    fn level(&mut self, share: usize) {
        for (index, held) in self.held.values_mut().enumerate() {
            held.yielding = index >= share;
        }
    }

    fn note_endless(&mut self, now_ms: u64, rows: &[Row]) {
        let endless: BTreeSet<Shard> =
            rows.iter().filter(|row| row.is_endless()).map(|row| row.shard).collect();
        self.endless_since_ms.retain(|shard, _| endless.contains(shard));
        for shard in endless {
            self.endless_since_ms.entry(shard).or_insert(now_ms);
        }
    }

    /// Shards that carry the name of this relay from an earlier run, and shards that nobody holds.
    fn claimable(&self, now_ms: u64, rows: &[Row]) -> (Vec<Shard>, Vec<Shard>) {
        let mut ours = Vec::new();
        let mut free = Vec::new();
        let rows: BTreeMap<Shard, &Row> = rows.iter().map(|row| (row.shard, row)).collect();
        for shard in (0..self.shards).filter(|shard| !self.held.contains_key(shard)) {
            match rows.get(&shard) {
                Some(row) if row.remaining_ms > 0 && row.owner == self.instance => ours.push(shard),
                Some(row) if row.remaining_ms > 0 => {
                    let since_ms = self.endless_since_ms.get(&shard);
                    if since_ms.is_some_and(|at_ms| now_ms - at_ms >= self.lease_ms) {
                        free.push(shard);
                    }
                }
                _ => free.push(shard),
            }
        }
        (ours, free)
    }
}

fn tokens<'a>(held: impl IntoIterator<Item = (&'a Shard, &'a Held)>) -> Vec<(Shard, Token)> {
    held.into_iter().map(|(shard, held)| (*shard, held.token)).collect()
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
