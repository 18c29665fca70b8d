//! The model of PostgreSQL: what is committed, what is about to be, and what a crash forgets.
//!
//! A transaction is planned by the engine at once and committed a while later ([`Database::complete`]);
//! in between its conversations are locked and nobody sees it. What became of a commit can be in doubt.

mod rows;
mod store;

pub(crate) use rows::{Change, Conversation, Logged, State};
pub(crate) use store::{Handle, Link};

use crate::bugs::Bug;
use crate::limits::{ASYNCHRONOUS_US_MAX, SHARDS};
use chatd::rules::Range;
use proto::Uuid;
use proto::client::Event;
use relay::lease::{Row, Shard, Token};
use relay::rounds::Marks;
use relay::rules::{Place, Record};
use std::collections::{BTreeMap, BTreeSet};

/// A transaction of which the commit was asked for.
#[derive(Debug)]
struct Pending {
    writes: Vec<Change>,
    locks: BTreeSet<Uuid>,
    /// It will not happen: the connection is lost before the server hears of it.
    is_lost: bool,
    /// By which chatd.
    owner: usize,
}

/// Who holds a shard of the outbox.
#[derive(Debug, Clone)]
struct Lease {
    owner: usize,
    token: Token,
    expires_us: u64,
}

#[derive(Debug)]
pub(crate) struct Database {
    /// Grows with every crash: connections of before are dead.
    epoch: u64,
    pub(crate) state: State,
    /// All that was committed, and when.
    journal: Vec<(u64, Change)>,
    /// So much of it is on the disk.
    flushed: usize,
    pending: BTreeMap<u64, Pending>,
    done: BTreeSet<u64>,
    next_transaction: u64,
    next_row: i64,
    leases: BTreeMap<Shard, Lease>,
    /// When each relay said last that it lives.
    alive_us: BTreeMap<usize, u64>,
    bug: Option<Bug>,
    /// What a query for the outbox gave, for the assertion on tokens.
    pub(crate) violations: Vec<String>,
}

/// The shard of a key's rows: few, so that conversations share one.
pub(crate) fn shard_of(key: &Uuid) -> Shard {
    let shard = proto::id::outbox_shard(key) % SHARDS.unsigned_abs();
    Shard::try_from(shard).unwrap_or(0)
}

impl Database {
    pub(crate) fn new(bug: Option<Bug>) -> Self {
        Self {
            epoch: 0,
            state: State::default(),
            journal: Vec::new(),
            flushed: 0,
            pending: BTreeMap::new(),
            done: BTreeSet::new(),
            next_transaction: 0,
            next_row: 0,
            leases: BTreeMap::new(),
            alive_us: BTreeMap::new(),
            bug,
            violations: Vec::new(),
        }
    }

    /// What is there before anything happens.
    pub(crate) fn seed(&mut self, changes: Vec<Change>) {
        for change in changes {
            self.state.apply(&change);
            self.journal.push((0, change));
        }
        self.flushed = self.journal.len();
    }

    /// The server is killed: transactions that were open are gone, and so is what was not flushed.
    pub(crate) fn crash(&mut self, now_us: u64, random: &mut fastrand::Rng) {
        self.epoch += 1;
        self.pending.clear();
        let since_us = now_us.saturating_sub(ASYNCHRONOUS_US_MAX);
        let written = self.journal.iter().filter(|(at_us, _)| *at_us <= since_us).count();
        let kept = random.usize(self.flushed.max(written)..=self.journal.len());
        self.journal.truncate(kept);
        self.flushed = kept;
        self.state = State::default();
        for (_, change) in &self.journal {
            self.state.apply(change);
        }
    }

    /// A chatd is killed: what it asked the server to commit is committed or not.
    pub(crate) fn abandoned(&mut self, chatd: usize, random: &mut fastrand::Rng) {
        self.pending.retain(|_, it| it.owner != chatd || random.bool());
    }

    /// Somebody is about to commit a change of one of these conversations.
    pub(crate) fn is_locked<'a>(&self, mut ids: impl Iterator<Item = &'a Uuid>) -> bool {
        ids.any(|id| self.pending.values().any(|it| it.locks.contains(id)))
    }

    /// A transaction's commit happens now, unless it never does.
    pub(crate) fn complete(&mut self, transaction: u64, now_us: u64) {
        let Some(pending) = self.pending.remove(&transaction) else { return };
        if pending.is_lost {
            return;
        }
        for change in pending.writes {
            self.state.apply(&change);
            self.journal.push((now_us, change));
        }
        if self.bug != Some(Bug::AsynchronousCommit) {
            self.flushed = self.journal.len();
        }
        self.done.insert(transaction);
    }

    /// Was it committed?
    pub(crate) fn is_done(&self, transaction: u64) -> bool {
        self.done.contains(&transaction)
    }

    /// Rows of these shards in the order of their ids, so many of each at most.
    pub(crate) fn read_outbox(&self, shards: &[Shard], rows_max: i64) -> Vec<Record> {
        let most = usize::try_from(rows_max).unwrap_or(usize::MAX);
        let of_shard = |shard: Shard| {
            let rows = self.state.outbox.range((shard, i64::MIN)..=(shard, i64::MAX));
            rows.take(most).map(|(_, record)| record.clone())
        };
        shards.iter().copied().flat_map(of_shard).collect()
    }

    /// Deletes rows where the relay holds the shard under the token; how many went. Nobody waits for
    /// the disk, as in production.
    pub(crate) fn delete_outbox(&mut self, relay: usize, marks: &Marks, now_us: u64) -> u64 {
        let mut deleted = 0;
        for (shard, (token, rows)) in marks {
            let held = self.leases.get(shard);
            let is_held = held.is_some_and(|it| it.owner == relay && it.token == *token);
            if !is_held && self.bug != Some(Bug::UnfencedLease) {
                continue;
            }
            for row in rows {
                if self.state.outbox.contains_key(&(*shard, row.id)) {
                    let change = Change::Published { shard: *shard, id: row.id };
                    self.state.apply(&change);
                    self.journal.push((now_us, change));
                    deleted += 1;
                }
            }
        }
        deleted
    }

    /// The lease table, and how many other relays were heard of within a lease's length.
    pub(crate) fn observe_leases(
        &mut self,
        relay: usize,
        lease_us: u64,
        now_us: u64,
    ) -> (Vec<Row>, usize) {
        self.alive_us.insert(relay, now_us);
        let row = |(shard, lease): (&Shard, &Lease)| Row {
            shard: *shard,
            owner: lease.owner.to_string(),
            remaining_ms: (i64::try_from(lease.expires_us).unwrap_or(i64::MAX)
                - i64::try_from(now_us).unwrap_or(i64::MAX))
                / 1_000,
        };
        let is_other = |(id, at_us): &(&usize, &u64)| **id != relay && **at_us + lease_us > now_us;
        (self.leases.iter().map(row).collect(), self.alive_us.iter().filter(is_other).count())
    }

    pub(crate) fn claim(
        &mut self,
        relay: usize,
        shards: &[Shard],
        lease_us: u64,
        now_us: u64,
    ) -> Vec<(Shard, Token)> {
        let mut granted = Vec::new();
        for shard in shards {
            let expires_us = now_us + lease_us;
            let token = match self.leases.get(shard) {
                None => 1,
                Some(held) if held.expires_us <= now_us || held.owner == relay => held.token + 1,
                Some(_) => continue,
            };
            self.leases.insert(*shard, Lease { owner: relay, token, expires_us });
            granted.push((*shard, token));
        }
        granted
    }

    /// Sets the end of leases that the relay holds under these tokens; which those were.
    pub(crate) fn extend(
        &mut self,
        relay: usize,
        leases: &[(Shard, Token)],
        expires_us: u64,
    ) -> Vec<Shard> {
        let mut granted = Vec::new();
        for (shard, token) in leases {
            let Some(held) = self.leases.get_mut(shard) else { continue };
            let is_held = held.owner == relay && held.token == *token;
            if is_held || self.bug == Some(Bug::UnfencedLease) {
                held.expires_us = expires_us;
                granted.push(*shard);
            }
        }
        granted
    }

    /// The relay hands records of a shard to the broker under this token: is it still the newest?
    pub(crate) fn check_token(&mut self, relay: usize, shard: Shard, token: Token) {
        let Some(held) = self.leases.get(&shard) else { return };
        if held.owner != relay || held.token != token {
            let Lease { owner, token: newest, .. } = held;
            self.violations.push(format!(
                "relay {relay} publishes from shard {shard} under token {token}, \
                 but relay {owner} has it under {newest}"
            ));
        }
    }

    /// What lies beyond a device's cursors.
    pub(crate) fn sync(
        &self,
        user: Uuid,
        cursors: &std::collections::HashMap<Uuid, u64>,
        resume: bool,
        limit: u32,
    ) -> proto::link::SyncResult {
        let memberships = self.state.memberships(user, cursors, resume);
        let read = |ranges: &[Range]| {
            let events = |range: &Range| -> Vec<Event> { self.state.events(range) };
            Ok::<_, std::convert::Infallible>(ranges.iter().map(events).collect())
        };
        match chatd::rules::answer(&memberships, cursors, limit, read) {
            Ok(result) => result,
            Err(never) => match never {},
        }
    }

    fn next_row(&mut self) -> i64 {
        self.next_row += 1;
        self.next_row
    }
}

/// A row of the outbox as the relay reads it.
fn record(row: &chatd::rules::OutboxRow, id: i64) -> Record {
    Record {
        shard: shard_of(&row.key),
        id,
        topic: row.topic.to_owned(),
        key: row.key.as_bytes().to_vec(),
        value: row.value.clone(),
        headers: row.headers.clone(),
        attempts: 0,
        created_at_us: row.created_at_us,
        place: Place::default(),
        gateways: Vec::new(),
    }
}
