//! A worker: reads its shards' rows, publishes them, marks them; again and again.
//!
//! ```text
//! wake or poll --> read --> publish --> judge --> mark (delete)
//!                                         |
//!                                     suspects: one record at a time --> retry ... --> dead letter
//! ```

use crate::config::Settings;
use crate::database::Backoff;
use crate::doubt::{self, Doubt};
use crate::envelope;
use crate::lease::{Shard, Token};
use crate::limits::{
    BEGIN_PERCENT, DEAD_LETTER_BYTES_MAX, DOUBT_TRIES_MAX, MESSAGE_PERCENT, RECORD_BYTES_MAX,
    RETRY_MS_MIN, SUSPECTS_MS_MAX, WAVE_PERCENT, WAVE_ROWS_MAX,
};
use crate::metrics::{RelayMetrics, Topic, TopicPartition};
use crate::outbox::Outbox;
use crate::ownership::{Ownership, Wave};
use crate::place::RowId;
use crate::publisher::{Deadlines, Publisher};
use crate::suspects::{Sentence, Suspects};
use crate::wave::{self, KeyOf, Outcome, Record};
use crossbeam_channel::Receiver;
use daemon::failpoint::{
    Injected, MARK_BEFORE_ACKNOWLEDGEMENT, RELAY_AFTER_LEASE_CHECK, RELAY_AFTER_PUBLISH,
    is_planted, reach,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What a worker is given.
pub(crate) struct Parts {
    pub(crate) index: usize,
    pub(crate) settings: Settings,
    pub(crate) ownership: Ownership,
    pub(crate) metrics: RelayMetrics,
    /// Something was committed, or the process stops.
    pub(crate) wake: Receiver<()>,
    pub(crate) stop: Arc<AtomicBool>,
}

pub(crate) struct Worker {
    parts: Parts,
    outbox: Option<Outbox>,
    backoff: Backoff,
    publisher: Publisher,
    dead_letters: Publisher,
    suspects: Suspects,
    /// Acknowledged by the broker and not yet deleted.
    unmarked: Vec<Published>,
    /// A wave of which it is not known what the broker has, and how often that was asked in vain.
    doubt: Option<(Doubt, u32)>,
    /// Rows of a shard to read at once: less than configured while the broker is slow.
    rows_max: i64,
    started: Instant,
}

/// A record that the broker has; its topic is one of ours.
struct Published {
    shard: Shard,
    row: RowId,
    topic: &'static str,
    partition: i32,
}

/// A part of the work that could not go on; the next round begins anew.
enum Trouble {
    Postgres(String),
    Kafka(String),
}

impl Worker {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            outbox: None,
            backoff: Backoff::default(),
            publisher: Publisher::new(&parts.settings, RECORD_BYTES_MAX),
            dead_letters: Publisher::new(&parts.settings, DEAD_LETTER_BYTES_MAX),
            suspects: Suspects::default(),
            unmarked: Vec::new(),
            doubt: None,
            rows_max: parts.settings.batch_max,
            started: Instant::now(),
            parts,
        }
    }

    /// Runs until the process stops; a wave that was begun is finished.
    pub(crate) fn run(mut self) {
        while !self.parts.stop.load(Ordering::Acquire) {
            match self.round() {
                Ok(true) => {}
                Ok(false) => {
                    let wait = self.idle_wait();
                    // Woken, polled or the end: all lead to the next look.
                    let _ = self.parts.wake.recv_timeout(wait);
                }
                Err(Trouble::Postgres(reason)) => {
                    tracing::warn!(worker = self.parts.index, reason, "postgres");
                    self.outbox = None;
                    std::thread::sleep(self.backoff.next());
                }
                Err(Trouble::Kafka(reason)) => {
                    tracing::debug!(worker = self.parts.index, reason, "kafka stalls");
                    std::thread::sleep(Duration::from_millis(RETRY_MS_MIN));
                }
            }
        }
    }

    /// One look at the shards; true if there was something to do.
    fn round(&mut self) -> Result<bool, Trouble> {
        self.connect()?;
        self.publisher.ensure().map_err(Trouble::Kafka)?;
        let at_least = self.parts.settings.lease_part(BEGIN_PERCENT);
        let wave =
            self.parts.ownership.begin(self.parts.index, self.parts.settings.workers, at_least);
        if wave.grants.is_empty() {
            return Ok(false);
        }
        self.suspects.retain(|shard| wave.grants.iter().any(|grant| grant.shard == shard));
        self.settle_doubt()?;
        self.mark(&wave)?;
        let records = {
            let keys = self.suspects.keys();
            let shards = i64::try_from(wave.grants.len()).unwrap_or(i64::MAX);
            let rows_max = self.rows_max.min(WAVE_ROWS_MAX / shards).max(1);
            let outbox = self.outbox.as_mut().ok_or_else(no_connection)?;
            outbox.read(&wave.grants, &keys, rows_max).map_err(Trouble::Postgres)?
        };
        let found_some = !records.is_empty();
        if found_some {
            self.publish_wave(&wave, records)?;
        }
        let tried_some = self.try_suspects(&wave)?;
        Ok(tried_some || found_some)
    }

    fn connect(&mut self) -> Result<(), Trouble> {
        if self.outbox.is_none() {
            let url = &self.parts.settings.postgres_url;
            self.outbox = Some(Outbox::connect(url).map_err(Trouble::Postgres)?);
            self.backoff.reset();
        }
        Ok(())
    }

    /// Publishes what was read, marks what the broker has, and suspects what it refused.
    fn publish_wave(&mut self, wave: &Wave, records: Vec<Record>) -> Result<(), Trouble> {
        let Some(deadlines) = self.deadlines(wave) else { return Ok(()) };
        let marks_early = is_planted(MARK_BEFORE_ACKNOWLEDGEMENT);
        if marks_early {
            // Nobody knows the partitions yet.
            self.acknowledged(records.iter().map(|record| (record, 0)));
            self.mark(wave)?;
        }
        reach(RELAY_AFTER_LEASE_CHECK).map_err(injected)?;
        let begun = Instant::now();
        let since_ms = daemon::clock::now_us() / 1_000;
        let outcomes = self.publisher.publish(&records, deadlines, envelope::record);
        let verdict = wave::judge(&records, &outcomes);
        if verdict.stalled.is_none() {
            self.parts.metrics.publish_latency_ms.observe(begun.elapsed().as_secs_f64() * 1e3);
        }
        if !marks_early {
            let published = verdict.published.iter();
            self.acknowledged(published.map(|(index, partition)| (&records[*index], *partition)));
        }
        let now_ms = self.now_ms();
        let mut too_many = false;
        for (index, until_id) in &verdict.refused {
            let record = &records[*index];
            too_many |= !self.suspects.add(record.key_of(), *until_id, now_ms);
            if let Outcome::Refused(reason) = &outcomes[*index] {
                tracing::warn!(topic = record.topic, id = record.id, reason, "record refused");
            }
        }
        if verdict.stalled.is_some() {
            let unsure = unpublished(records, &verdict.published);
            self.doubt = Some((Doubt::new(since_ms, unsure), 0));
        }
        reach(RELAY_AFTER_PUBLISH).map_err(injected)?;
        self.mark(wave)?;
        match verdict.stalled {
            Some(reason) => {
                self.parts.metrics.stalls.inc();
                self.rows_max = (self.rows_max / 2).max(1);
                Err(Trouble::Kafka(reason))
            }
            None if too_many => Err(Trouble::Kafka("too many keys have refused records".into())),
            None => {
                self.rows_max = (self.rows_max * 2).min(self.parts.settings.batch_max);
                Ok(())
            }
        }
    }

    /// Finds out what the broker has of a wave that it did not acknowledge in time.
    fn settle_doubt(&mut self) -> Result<(), Trouble> {
        let Some((mut doubt, tries)) = self.doubt.take() else { return Ok(()) };
        match doubt::read_log(&self.parts.settings, &mut doubt) {
            Ok(()) => {
                let found = wave::judge(&doubt.records, doubt.outcomes()).published;
                self.parts.metrics.found.inc_by(count(found.len()));
                let found = found.iter();
                self.acknowledged(
                    found.map(|(index, partition)| (&doubt.records[*index], *partition)),
                );
                Ok(())
            }
            // What it has goes again, and clients drop it.
            Err(reason) if tries + 1 >= DOUBT_TRIES_MAX => {
                tracing::warn!(reason, records = doubt.records.len(), "published again unseen");
                Ok(())
            }
            Err(reason) => {
                self.doubt = Some((doubt, tries + 1));
                Err(Trouble::Kafka(reason))
            }
        }
    }

    /// Notes what the broker has.
    fn acknowledged<'a>(&mut self, records: impl Iterator<Item = (&'a Record, i32)>) {
        let now_us = daemon::clock::now_us();
        for (record, partition) in records {
            let age_us = u32::try_from(now_us.saturating_sub(record.created_at_us));
            let age_ms = f64::from(age_us.unwrap_or(u32::MAX)) / 1e3;
            self.parts.metrics.outbox_age_ms.observe(age_ms);
            // Only records of known topics are published.
            if let Some(topic) = envelope::known_topic(&record.topic) {
                let (shard, row) = (record.shard, record.row());
                self.unmarked.push(Published { shard, row, topic, partition });
            }
        }
    }

    /// Deletes what the broker has, under the leases of this wave.
    fn mark(&mut self, wave: &Wave) -> Result<(), Trouble> {
        if self.unmarked.is_empty() {
            return Ok(());
        }
        let tokens: BTreeMap<Shard, Token> =
            wave.grants.iter().map(|grant| (grant.shard, grant.token)).collect();
        let metrics = &self.parts.metrics;
        let before = self.unmarked.len();
        // Of a shard that is another's now: it is published again, by that one.
        self.unmarked.retain(|it| tokens.contains_key(&it.shard));
        metrics.unmarked.inc_by(count(before - self.unmarked.len()));
        let mut rows: BTreeMap<Shard, (Token, Vec<RowId>)> = BTreeMap::new();
        for it in &self.unmarked {
            rows.entry(it.shard).or_insert((tokens[&it.shard], Vec::new())).1.push(it.row);
        }
        let outbox = self.outbox.as_mut().ok_or_else(no_connection)?;
        let deleted =
            outbox.delete(&self.parts.settings.instance, &rows).map_err(Trouble::Postgres)?;
        let published = std::mem::take(&mut self.unmarked);
        let refused = count(published.len()).saturating_sub(deleted);
        metrics.unmarked.inc_by(refused);
        if refused > 0 {
            wave.doubt();
        }
        let mut by_partition: BTreeMap<(&'static str, i32), u64> = BTreeMap::new();
        for it in &published {
            *by_partition.entry((it.topic, it.partition)).or_default() += 1;
        }
        // Which ones were refused is not known: told of the partitions with most of them.
        let mut left = refused;
        let mut by_partition: Vec<_> = by_partition.into_iter().collect();
        by_partition.sort_by_key(|(_, number)| std::cmp::Reverse(*number));
        for ((topic, partition), number) in by_partition {
            let taken = left.min(number);
            left -= taken;
            let place = TopicPartition { topic, partition };
            metrics.relayed.get_or_create(&place).inc_by(number - taken);
        }
        Ok(())
    }

    /// Tries the records of suspected keys that are due, one by one; true if there was one.
    fn try_suspects(&mut self, wave: &Wave) -> Result<bool, Trouble> {
        let until = Instant::now() + Duration::from_millis(SUSPECTS_MS_MAX);
        let mut tried_some = false;
        while Instant::now() < until {
            let Some(key) = self.suspects.due(self.now_ms()) else { break };
            tried_some = true;
            let outbox = self.outbox.as_mut().ok_or_else(no_connection)?;
            match outbox.read_first(key.0, &key.1).map_err(Trouble::Postgres)? {
                None => self.suspects.cleared(&key, None, self.now_ms()),
                Some(record) => {
                    let tried = self.try_alone(wave, &key, record);
                    if tried.is_err() {
                        let now_ms = self.now_ms();
                        self.suspects.postpone(&key, now_ms);
                    }
                    tried?;
                }
            }
        }
        Ok(tried_some)
    }

    fn try_alone(&mut self, wave: &Wave, key: &KeyOf, record: Record) -> Result<(), Trouble> {
        let Some(deadlines) = self.deadlines(wave) else {
            return Err(Trouble::Kafka("the lease ends too soon".into()));
        };
        self.publisher.ensure().map_err(Trouble::Kafka)?;
        let alone = [record];
        let outcome = self.publisher.publish(&alone, deadlines, envelope::record).pop();
        let [record] = alone;
        match outcome {
            Some(Outcome::Acked(partition)) => {
                self.acknowledged(std::iter::once((&record, partition)));
                self.mark(wave)?;
                self.suspects.cleared(key, Some(record.id), self.now_ms());
                Ok(())
            }
            Some(Outcome::Refused(reason)) => self.refused_alone(wave, key, record, &reason),
            Some(Outcome::Stalled(reason)) => Err(Trouble::Kafka(reason)),
            Some(Outcome::Held) | None => Err(Trouble::Kafka("not tried".into())),
        }
    }

    /// Counts the refusal; after the last try the record becomes a dead letter.
    fn refused_alone(
        &mut self,
        wave: &Wave,
        key: &KeyOf,
        mut record: Record,
        reason: &str,
    ) -> Result<(), Trouble> {
        let known = envelope::known_topic(&record.topic).unwrap_or("unknown");
        let topic = Topic { topic: known.to_owned() };
        self.parts.metrics.refused.get_or_create(&topic).inc();
        let outbox = self.outbox.as_mut().ok_or_else(no_connection)?;
        if !outbox.count_attempt(&mut record).map_err(Trouble::Postgres)? {
            return Ok(());
        }
        let attempts = record.attempts;
        let now_ms = self.now_ms();
        if self.suspects.refused(key, attempts, now_ms) == Sentence::Retry {
            return Ok(());
        }
        if let Err(error) = self.bury(wave, &record, reason) {
            // It stays where it is, with its key, and is tried again after the longest wait.
            tracing::error!(topic = record.topic, id = record.id, error, "no dead letter written");
            return Ok(());
        }
        tracing::error!(topic = record.topic, id = record.id, attempts, reason, "dead letter");
        self.parts.metrics.dead_lettered.get_or_create(&topic).inc();
        self.suspects.cleared(key, Some(record.id), self.now_ms());
        Ok(())
    }

    /// Writes the dead letter, then deletes the row.
    fn bury(&mut self, wave: &Wave, record: &Record, reason: &str) -> Result<(), String> {
        let deadlines = self.deadlines(wave).ok_or("the lease ends too soon")?;
        self.dead_letters.ensure()?;
        let now_us = daemon::clock::now_us();
        let letter = |record: &Record| Ok(envelope::dead_letter(record, reason, now_us));
        let outcome =
            self.dead_letters.publish(std::slice::from_ref(record), deadlines, letter).pop();
        match outcome {
            Some(Outcome::Acked(_)) => {}
            Some(Outcome::Refused(reason) | Outcome::Stalled(reason)) => return Err(reason),
            Some(Outcome::Held) | None => return Err("not tried".to_owned()),
        }
        let grant = wave.grants.iter().find(|grant| grant.shard == record.shard);
        let token = grant.ok_or("the shard is another relay's")?.token;
        let rows = BTreeMap::from([(record.shard, (token, vec![record.row()]))]);
        let outbox = self.outbox.as_mut().ok_or("no connection to PostgreSQL")?;
        outbox.delete(&self.parts.settings.instance, &rows).map(|_| ())
    }

    /// Nothing if the lease does not last long enough to begin.
    fn deadlines(&self, wave: &Wave) -> Option<Deadlines> {
        let now = Instant::now();
        let settings = &self.parts.settings;
        let send_by = wave.valid_until()?.checked_sub(settings.lease_part(MESSAGE_PERCENT))?;
        let acked_by = now + settings.lease_part(WAVE_PERCENT);
        // The last record handed over must have time to be acknowledged, too.
        let send_by = send_by.min(now + settings.lease_part(WAVE_PERCENT) / 2);
        (send_by > now).then_some(Deadlines { send_by, acked_by })
    }

    fn idle_wait(&self) -> Duration {
        let poll = self.parts.settings.poll;
        let next_ms = self.suspects.next_ms();
        next_ms.map_or(poll, |at_ms| {
            poll.min(Duration::from_millis(at_ms.saturating_sub(self.now_ms())))
        })
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

fn injected(error: Injected) -> Trouble {
    Trouble::Kafka(error.to_string())
}

fn no_connection() -> Trouble {
    Trouble::Postgres("no connection".to_owned())
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
