//! A worker: carries the rules of [`crate::rounds`] to outbox and broker and back; again and again.
//!
//! ```text
//! wake or poll --> a round (read, publish, mark) --> suspects: one record at a time
//!                                                      retry ... --> dead letter
//! ```

use crate::config::Settings;
use crate::database::Backoff;
use crate::directory::Directory;
use crate::doubt;
use crate::envelope;
use crate::limits::{
    BEGIN_PERCENT, DEAD_LETTER_BYTES_MAX, RECORD_BYTES_MAX, RETRY_MS_MIN, SUSPECTS_MS_MAX,
};
use crate::metrics::{RelayMetrics, Topic, TopicPartition};
use crate::outbox::Outbox;
use crate::ownership::{Ownership, Wave};
use crate::publisher::{Deadlines, Publisher};
use crate::rounds::{Action, Done, Event, Fact, Marks, Rounds};
use crate::routes::Routes;
use crate::suspects::Sentence;
use crate::wave::{KeyOf, Outcome, Record};
use crossbeam_channel::Receiver;
use daemon::failpoint::{
    Injected, MARK_BEFORE_ACKNOWLEDGEMENT, RELAY_AFTER_LEASE_CHECK, RELAY_AFTER_PUBLISH,
    is_planted, reach,
};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What a worker is given.
pub(crate) struct Parts {
    pub(crate) index: usize,
    pub(crate) settings: Settings,
    pub(crate) ownership: Ownership,
    pub(crate) directory: Directory,
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
    routes: Routes,
    rounds: Rounds,
    started: Instant,
}

/// A part of the work that could not go on; the next round begins anew.
enum Trouble {
    Postgres(String),
    Kafka(String),
}

impl Worker {
    /// An error names the key and what is wrong.
    pub(crate) fn new(parts: Parts) -> Result<Self, String> {
        let lease_ms = u64::try_from(parts.settings.lease.as_millis()).unwrap_or(u64::MAX);
        Ok(Self {
            routes: Routes::new(&parts.settings.redis_url)?,
            outbox: None,
            backoff: Backoff::default(),
            publisher: Publisher::with_copies(
                &parts.settings,
                RECORD_BYTES_MAX,
                parts.metrics.copied.clone(),
            ),
            dead_letters: Publisher::new(&parts.settings, DEAD_LETTER_BYTES_MAX),
            rounds: Rounds::new(lease_ms, parts.settings.batch_max),
            started: Instant::now(),
            parts,
        })
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
        let grants = wave.grants.iter().map(|grant| (grant.shard, grant.token)).collect();
        let actions = self.rounds.step(self.now_ms(), Event::Begun { grants });
        let found_some = match self.perform(&wave, actions)? {
            Done::Idle => false,
            Done::Busy => true,
            Done::Stalled(reason) => return Err(Trouble::Kafka(reason)),
        };
        let tried_some = self.try_suspects(&wave)?;
        Ok(tried_some || found_some)
    }

    /// Does what the rounds ask for, to the round's end.
    fn perform(&mut self, wave: &Wave, actions: Vec<Action>) -> Result<Done, Trouble> {
        let mut actions: VecDeque<Action> = actions.into();
        while let Some(action) = actions.pop_front() {
            let event = match action {
                Action::ReadLog => self.read_log(),
                Action::Mark(marks) => {
                    reach(RELAY_AFTER_PUBLISH).map_err(injected)?;
                    Event::Marked { deleted: self.mark(&marks).map_err(Trouble::Postgres)? }
                }
                Action::Read { rows_max } => self.read(wave, rows_max)?,
                Action::Publish { send_by_ms, acked_by_ms } => {
                    self.publish(wave, send_by_ms, acked_by_ms)?
                }
                Action::DoubtGrants => {
                    wave.doubt();
                    continue;
                }
                Action::Tell(fact) => {
                    self.tell(fact);
                    continue;
                }
                Action::Done(done) => return Ok(done),
            };
            actions.extend(self.rounds.step(self.now_ms(), event));
        }
        Ok(Done::Busy)
    }

    fn read(&mut self, wave: &Wave, rows_max: i64) -> Result<Event, Trouble> {
        let keys = self.rounds.suspects().keys();
        let outbox = self.outbox.as_mut().ok_or_else(no_connection)?;
        let mut records = outbox.read(&wave.grants, &keys, rows_max).map_err(Trouble::Postgres)?;
        self.direct(&mut records)?;
        let valid_until_ms = self.valid_until_ms(wave);
        Ok(Event::Read { records, valid_until_ms, wall_ms: daemon::clock::now_us() / 1_000 })
    }

    /// Notes whose gateways' topics get copies. After they were read, and so after they were committed: a user who
    /// comes later finds them by sync.
    fn direct(&mut self, records: &mut [Record]) -> Result<(), Trouble> {
        if !records.is_empty() {
            let gateways = self.parts.directory.gateways().map_err(Trouble::Kafka)?;
            self.routes.direct(&gateways, records);
        }
        Ok(())
    }

    fn connect(&mut self) -> Result<(), Trouble> {
        if self.outbox.is_none() {
            let url = &self.parts.settings.postgres_url;
            self.outbox = Some(Outbox::connect(url).map_err(Trouble::Postgres)?);
            self.backoff.reset();
        }
        Ok(())
    }

    /// Publishes the wave in hand.
    fn publish(
        &mut self,
        wave: &Wave,
        send_by_ms: u64,
        acked_by_ms: u64,
    ) -> Result<Event, Trouble> {
        if is_planted(MARK_BEFORE_ACKNOWLEDGEMENT) {
            self.mark_early(wave).map_err(Trouble::Postgres)?;
        }
        reach(RELAY_AFTER_LEASE_CHECK).map_err(injected)?;
        let begun = Instant::now();
        let at = |ms| self.started + Duration::from_millis(ms);
        let deadlines = Deadlines { send_by: at(send_by_ms), acked_by: at(acked_by_ms) };
        let records = self.rounds.records();
        let outcomes = self.publisher.publish(records, deadlines, envelope::record);
        if !outcomes.iter().any(|it| matches!(it, Outcome::Stalled(_))) {
            self.parts.metrics.publish_latency_ms.observe(begun.elapsed().as_secs_f64() * 1e3);
        }
        for (record, outcome) in records.iter().zip(&outcomes) {
            if let Outcome::Refused(reason) = outcome {
                tracing::warn!(topic = record.topic, id = record.id, reason, "record refused");
            }
        }
        Ok(Event::Published { outcomes })
    }

    /// Finds out what the broker has of a wave that it did not acknowledge in time.
    fn read_log(&mut self) -> Event {
        let settings = &self.parts.settings;
        let outcome = self.rounds.doubt().map_or(Ok(()), |it| doubt::read_log(settings, it));
        Event::LogRead(outcome)
    }

    fn tell(&self, fact: Fact) {
        let metrics = &self.parts.metrics;
        match fact {
            Fact::Acknowledged(created_at_us) => {
                let now_us = daemon::clock::now_us();
                for made_us in created_at_us {
                    let age_us = u32::try_from(now_us.saturating_sub(made_us));
                    let age_ms = f64::from(age_us.unwrap_or(u32::MAX)) / 1e3;
                    metrics.outbox_age_ms.observe(age_ms);
                }
            }
            Fact::Found(number) => {
                let _ = metrics.found.inc_by(number);
            }
            Fact::Relayed(topic, partition, number) => {
                let place = TopicPartition { topic, partition };
                metrics.relayed.get_or_create(&place).inc_by(number);
            }
            Fact::Unmarked(number) => {
                let _ = metrics.unmarked.inc_by(number);
            }
            Fact::Stall => {
                let _ = metrics.stalls.inc();
            }
            Fact::Unseen(records, reason) => {
                tracing::warn!(reason, records, "published again unseen");
            }
        }
    }

    /// Deletes what the broker has, under the leases of the round; how many went.
    fn mark(&mut self, marks: &Marks) -> Result<u64, String> {
        if is_planted(MARK_BEFORE_ACKNOWLEDGEMENT) {
            return Ok(marks.values().map(|(_, rows)| rows.len() as u64).sum());
        }
        self.delete(marks)
    }

    /// The defect that a test can plant.
    fn mark_early(&mut self, wave: &Wave) -> Result<(), String> {
        let mut marks = Marks::new();
        for record in self.rounds.records() {
            let grant = wave.grants.iter().find(|grant| grant.shard == record.shard);
            let token = grant.map(|it| it.token).unwrap_or_default();
            marks.entry(record.shard).or_insert((token, Vec::new())).1.push(record.row());
        }
        self.delete(&marks).map(drop)
    }

    fn delete(&mut self, marks: &Marks) -> Result<u64, String> {
        let outbox = self.outbox.as_mut().ok_or("no connection to PostgreSQL")?;
        outbox.delete(&self.parts.settings.instance, marks)
    }

    /// Tries the records of suspected keys that are due, one by one; true if there was one.
    fn try_suspects(&mut self, wave: &Wave) -> Result<bool, Trouble> {
        let until = Instant::now() + Duration::from_millis(SUSPECTS_MS_MAX);
        let mut tried_some = false;
        while Instant::now() < until {
            let now_ms = self.now_ms();
            let Some(key) = self.rounds.suspects().due(now_ms) else { break };
            tried_some = true;
            let outbox = self.outbox.as_mut().ok_or_else(no_connection)?;
            match outbox.read_first(key.0, &key.1).map_err(Trouble::Postgres)? {
                None => {
                    let now_ms = self.now_ms();
                    self.rounds.suspects().cleared(&key, None, now_ms);
                }
                Some(record) => {
                    let tried = self.try_alone(wave, &key, record);
                    if tried.is_err() {
                        let now_ms = self.now_ms();
                        self.rounds.suspects().postpone(&key, now_ms);
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
        let mut alone = [record];
        self.direct(&mut alone)?;
        let outcome = self.publisher.publish(&alone, deadlines, envelope::record).pop();
        let [record] = alone;
        match outcome {
            Some(Outcome::Acked(partition)) => {
                let actions = self.rounds.acknowledge_alone(&record, partition);
                self.perform(wave, actions)?;
                let now_ms = self.now_ms();
                self.rounds.suspects().cleared(key, Some(record.id), now_ms);
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
        if self.rounds.suspects().refused(key, attempts, now_ms) == Sentence::Retry {
            return Ok(());
        }
        if let Err(error) = self.bury(wave, &record, reason) {
            // It stays where it is, with its key, and is tried again after the longest wait.
            tracing::error!(topic = record.topic, id = record.id, error, "no dead letter written");
            return Ok(());
        }
        tracing::error!(topic = record.topic, id = record.id, attempts, reason, "dead letter");
        self.parts.metrics.dead_lettered.get_or_create(&topic).inc();
        let now_ms = self.now_ms();
        self.rounds.suspects().cleared(key, Some(record.id), now_ms);
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
        self.delete(&Marks::from([(record.shard, (token, vec![record.row()]))])).map(drop)
    }

    /// Nothing if the lease does not last long enough to begin.
    fn deadlines(&self, wave: &Wave) -> Option<Deadlines> {
        let valid_until_ms = self.valid_until_ms(wave);
        let (send_by_ms, acked_by_ms) = self.rounds.deadlines(self.now_ms(), valid_until_ms)?;
        let at = |ms| self.started + Duration::from_millis(ms);
        Some(Deadlines { send_by: at(send_by_ms), acked_by: at(acked_by_ms) })
    }

    /// On this worker's clock, as the grants stand now.
    fn valid_until_ms(&self, wave: &Wave) -> Option<u64> {
        let since = wave.valid_until()?.saturating_duration_since(self.started);
        Some(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn idle_wait(&mut self) -> Duration {
        let poll = self.parts.settings.poll;
        let (next_ms, now_ms) = (self.rounds.suspects().next_ms(), self.now_ms());
        next_ms.map_or(poll, |at_ms| poll.min(Duration::from_millis(at_ms.saturating_sub(now_ms))))
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
