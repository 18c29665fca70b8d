//! A worker's rounds, without clock, database or broker: what is read, what is published, what is
//! marked, and what becomes of a wave that the broker did not acknowledge. `step(now, event) -> actions`.
//!
//! ```text
//! Begun --> [ReadLog] --> [Mark] --> Read --> Publish --> [Mark] --> Done
//! ```
//!
//! A round whose action failed is left where it is: the next one begins with [`Event::Begun`], and marks
//! first what this one could not.

use crate::doubt::Doubt;
use crate::envelope::known_topic;
use crate::lease::{Shard, Token};
use crate::limits::{DOUBT_TRIES_MAX, MESSAGE_PERCENT, WAVE_PERCENT, WAVE_ROWS_MAX};
use crate::place::RowId;
use crate::suspects::Suspects;
use crate::wave::{self, Outcome, Record};
use std::collections::BTreeMap;

/// Rows to delete, by shard, and the token under which that is allowed.
pub type Marks = BTreeMap<Shard, (Token, Vec<RowId>)>;

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// A round of these shards begins.
    Begun {
        /// What this relay holds and this worker serves.
        grants: Vec<(Shard, Token)>,
    },
    /// The log was read for what is in doubt, or could not be, and why.
    LogRead(Result<(), String>),
    /// So many of the rows to mark were still there, under the tokens.
    Marked {
        /// Rows that are gone now.
        deleted: u64,
    },
    /// What the outbox holds, in the order of shard and id.
    Read {
        /// The wave.
        records: Vec<Record>,
        /// Until when all of the grants hold, on the clock of `now_ms`; nothing if one has ended.
        valid_until_ms: Option<u64>,
        /// The wall clock, in milliseconds since the Unix epoch.
        wall_ms: u64,
    },
    /// What became of each record of the wave.
    Published {
        /// One for each of [`Rounds::records`].
        outcomes: Vec<Outcome>,
    },
}

/// What is to be done; all but what is told is answered with an event.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Look up in the log what the broker has of [`Rounds::doubt`].
    ReadLog,
    /// Delete these rows where the lease is still this relay's under the token.
    Mark(Marks),
    /// Read the outbox of the grants' shards, without the suspects' keys.
    Read {
        /// Rows of each shard at most.
        rows_max: i64,
    },
    /// Publish [`Rounds::records`].
    Publish {
        /// Nothing is handed over later; on the clock of `now_ms`.
        send_by_ms: u64,
        /// What is not acknowledged by then is taken back.
        acked_by_ms: u64,
    },
    /// Nothing may be begun under the grants until the leases were looked at again.
    DoubtGrants,
    /// For the metrics.
    Tell(Fact),
    /// The round is over.
    Done(Done),
}

/// How a round ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Done {
    /// There was nothing to publish.
    Idle,
    /// There may be more.
    Busy,
    /// The broker did not take something, and why.
    Stalled(String),
}

/// What the metrics are told.
#[derive(Debug, PartialEq, Eq)]
pub enum Fact {
    /// The broker has records made at these times, in microseconds since the Unix epoch.
    Acknowledged(Vec<u64>),
    /// So many records of a wave in doubt were found in the log.
    Found(u64),
    /// So many records of the topic and partition were published and marked.
    Relayed(&'static str, i32, u64),
    /// So many were published and could not be marked.
    Unmarked(u64),
    /// A wave was not acknowledged in time.
    Stall,
    /// The log could not be read: so many records go again unseen.
    Unseen(usize, String),
}

/// A record that the broker has; its topic is one of ours.
#[derive(Debug)]
struct Published {
    shard: Shard,
    row: RowId,
    topic: &'static str,
    partition: i32,
}

/// See the module.
#[derive(Debug)]
pub struct Rounds {
    lease_ms: u64,
    batch_max: i64,
    /// Rows of a shard to read at once: less than configured while the broker is slow.
    rows_max: i64,
    grants: Vec<(Shard, Token)>,
    /// Acknowledged by the broker and not yet deleted.
    unmarked: Vec<Published>,
    /// A wave of which it is not known what the broker has, and how often that was asked in vain.
    doubt: Option<(Doubt, u32)>,
    suspects: Suspects,
    records: Vec<Record>,
    wall_ms: u64,
    /// How the round ends once the wave is marked; nothing while it is not published.
    ending: Option<Done>,
}

impl Rounds {
    /// For leases of that length; `batch_max`: rows of a shard that are read at once.
    pub fn new(lease_ms: u64, batch_max: i64) -> Self {
        Self {
            lease_ms,
            batch_max,
            rows_max: batch_max,
            grants: Vec::new(),
            unmarked: Vec::new(),
            doubt: None,
            suspects: Suspects::default(),
            records: Vec::new(),
            wall_ms: 0,
            ending: None,
        }
    }

    /// The wave in hand.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// What [`Action::ReadLog`] asks for.
    pub fn doubt(&mut self) -> Option<&mut Doubt> {
        self.doubt.as_mut().map(|(doubt, _)| doubt)
    }

    /// Keys whose records are published one by one.
    pub fn suspects(&mut self) -> &mut Suspects {
        &mut self.suspects
    }

    /// Takes what happened and says what is to be done, in order.
    pub fn step(&mut self, now_ms: u64, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Begun { grants } => {
                self.suspects.retain(|shard| grants.iter().any(|grant| grant.0 == shard));
                self.grants = grants;
                self.ending = None;
                if self.doubt.is_some() {
                    actions.push(Action::ReadLog);
                } else {
                    self.mark_or_go_on(&mut actions);
                }
            }
            Event::LogRead(outcome) => self.log_read(outcome, &mut actions),
            Event::Marked { deleted } => {
                self.marked(deleted, &mut actions);
                self.go_on(&mut actions);
            }
            Event::Read { records, .. } if records.is_empty() => {
                actions.push(Action::Done(Done::Idle));
            }
            Event::Read { records, valid_until_ms, wall_ms } => {
                self.records = records;
                self.wall_ms = wall_ms;
                actions.push(match self.deadlines(now_ms, valid_until_ms) {
                    Some((send_by_ms, acked_by_ms)) => Action::Publish { send_by_ms, acked_by_ms },
                    None => Action::Done(Done::Busy),
                });
            }
            Event::Published { outcomes } => self.published(now_ms, &outcomes, &mut actions),
        }
        actions
    }

    /// By when a wave must be handed over, and by when acknowledged; nothing if the lease does not last
    /// long enough to begin.
    pub fn deadlines(&self, now_ms: u64, valid_until_ms: Option<u64>) -> Option<(u64, u64)> {
        let part = |percent: u64| self.lease_ms * percent / 100;
        let send_by_ms = valid_until_ms?.checked_sub(part(MESSAGE_PERCENT))?;
        // The last record handed over must have time to be acknowledged, too.
        let send_by_ms = send_by_ms.min(now_ms + part(WAVE_PERCENT) / 2);
        (send_by_ms > now_ms).then_some((send_by_ms, now_ms + part(WAVE_PERCENT)))
    }

    /// A record that was published alone; what follows is to be marked.
    pub fn acknowledge_alone(&mut self, record: &Record, partition: i32) -> Vec<Action> {
        let mut actions = Vec::new();
        self.acknowledged(std::iter::once((record, partition)), &mut actions);
        self.ending = Some(Done::Busy);
        self.mark_or_go_on(&mut actions);
        actions
    }

    fn log_read(&mut self, outcome: Result<(), String>, actions: &mut Vec<Action>) {
        let Some((doubt, tries)) = self.doubt.take() else { return };
        match outcome {
            Ok(()) => {
                let found = wave::judge(&doubt.records, doubt.outcomes()).published;
                actions.push(Action::Tell(Fact::Found(count(found.len()))));
                let found = found.iter().map(|(index, at)| (&doubt.records[*index], *at));
                self.acknowledged(found, actions);
            }
            // What it has goes again, and clients drop it.
            Err(reason) if tries + 1 >= DOUBT_TRIES_MAX => {
                actions.push(Action::Tell(Fact::Unseen(doubt.records.len(), reason)));
            }
            Err(reason) => {
                self.doubt = Some((doubt, tries + 1));
                return actions.push(Action::Done(Done::Stalled(reason)));
            }
        }
        self.mark_or_go_on(actions);
    }

    fn published(&mut self, now_ms: u64, outcomes: &[Outcome], actions: &mut Vec<Action>) {
        let records = std::mem::take(&mut self.records);
        let verdict = wave::judge(&records, outcomes);
        let published = verdict.published.iter().map(|(index, at)| (&records[*index], *at));
        self.acknowledged(published, actions);
        let mut too_many = false;
        for (index, until_id) in &verdict.refused {
            too_many |= !self.suspects.add(records[*index].key_of(), *until_id, now_ms);
        }
        self.ending = Some(match verdict.stalled {
            Some(reason) => {
                let unsure = unpublished(records, &verdict.published);
                self.doubt = Some((Doubt::new(self.wall_ms, unsure), 0));
                actions.push(Action::Tell(Fact::Stall));
                self.rows_max = (self.rows_max / 2).max(1);
                Done::Stalled(reason)
            }
            None if too_many => Done::Stalled("too many keys have refused records".into()),
            None => {
                self.rows_max = (self.rows_max * 2).min(self.batch_max);
                Done::Busy
            }
        });
        self.mark_or_go_on(actions);
    }

    /// Notes what the broker has, each with its partition.
    fn acknowledged<'a>(
        &mut self,
        records: impl Iterator<Item = (&'a Record, i32)>,
        actions: &mut Vec<Action>,
    ) {
        let mut created_at_us = Vec::with_capacity(records.size_hint().0);
        for (record, partition) in records {
            created_at_us.push(record.created_at_us);
            // Only records of known topics are published.
            if let Some(topic) = known_topic(&record.topic) {
                let (shard, row) = (record.shard, record.row());
                self.unmarked.push(Published { shard, row, topic, partition });
            }
        }
        actions.push(Action::Tell(Fact::Acknowledged(created_at_us)));
    }

    fn mark_or_go_on(&mut self, actions: &mut Vec<Action>) {
        let tokens: BTreeMap<Shard, Token> = self.grants.iter().copied().collect();
        let before = self.unmarked.len();
        // Of a shard that is another's now: it is published again, by that one.
        self.unmarked.retain(|it| tokens.contains_key(&it.shard));
        if self.unmarked.len() < before {
            let lost = count(before - self.unmarked.len());
            actions.push(Action::Tell(Fact::Unmarked(lost)));
        }
        if self.unmarked.is_empty() {
            return self.go_on(actions);
        }
        let mut marks = Marks::new();
        for it in &self.unmarked {
            marks.entry(it.shard).or_insert((tokens[&it.shard], Vec::new())).1.push(it.row);
        }
        actions.push(Action::Mark(marks));
    }

    fn marked(&mut self, deleted: u64, actions: &mut Vec<Action>) {
        let published = std::mem::take(&mut self.unmarked);
        let refused = count(published.len()).saturating_sub(deleted);
        if refused > 0 {
            actions.push(Action::Tell(Fact::Unmarked(refused)));
            actions.push(Action::DoubtGrants);
        }
        let mut by_place: BTreeMap<(&'static str, i32), u64> = BTreeMap::new();
        for it in &published {
            *by_place.entry((it.topic, it.partition)).or_default() += 1;
        }
        // Which ones were refused is not known: told of the partitions with most of them.
        let mut left = refused;
        let mut by_place: Vec<_> = by_place.into_iter().collect();
        by_place.sort_by_key(|(_, number)| std::cmp::Reverse(*number));
        for ((topic, partition), number) in by_place {
            let taken = left.min(number);
            left -= taken;
            actions.push(Action::Tell(Fact::Relayed(topic, partition, number - taken)));
        }
    }

    /// After the marks: reads, or ends the round.
    fn go_on(&mut self, actions: &mut Vec<Action>) {
        actions.push(match self.ending.take() {
            Some(done) => Action::Done(done),
            None => {
                let shards = i64::try_from(self.grants.len()).unwrap_or(i64::MAX).max(1);
                Action::Read { rows_max: self.rows_max.min(WAVE_ROWS_MAX / shards).max(1) }
            }
        });
    }
}

/// The records of a wave that do not count as published, in their order.
fn unpublished(records: Vec<Record>, published: &[(usize, i32)]) -> Vec<Record> {
    let mut published = published.iter().map(|(index, _)| *index).peekable();
    let is_published = |index: usize| published.next_if_eq(&index).is_some();
    let keep: Vec<bool> = (0..records.len()).map(is_published).map(|it| !it).collect();
    records.into_iter().zip(keep).filter_map(|(record, keep)| keep.then_some(record)).collect()
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "rounds_tests.rs"]
mod tests;
