//! The thread that delivers push requests to the webhook, batch after batch.
//!
//! One batch is under way at a time, and the next begins when it was accepted or is all dead letters:
//! so a user's requests come in their order. Its offsets are committed then. A webhook that does not answer
//! holds up this thread alone.

mod answer;
mod batch;
mod client;

use super::group::Group;
use super::metrics::{Class, PushMetrics};
use super::record::Taken;
use crate::config::{Settings, Webhook};
use crate::database::Backoff;
use crate::envelope::owned_headers;
use crate::limits::{DEAD_LETTER_BYTES_MAX, GROUP_POLL_MS, PUSH_PUBLISH_MS_MAX, WEBHOOK_GATHER_MS};
use crate::publisher::{Deadlines, Prepared, Publisher};
use crate::wave::{Outcome, Record};
use answer::Verdict;
use batch::{Batch, Item};
use client::Client;
use daemon::clock::now_us;
use proto::headers::dead_letter as header;
use proto::topics;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub(crate) struct Deliverer {
    instance: String,
    client: Client,
    batch_max: usize,
    retry_ms: u64,
    group: Group<Taken>,
    metrics: PushMetrics,
    stop: Arc<AtomicBool>,
    dead_letters: Publisher,
    batch: Batch,
    /// Of the batch.
    tries: u32,
    /// Of each partition: the first record that is not done with.
    offsets: BTreeMap<i32, i64>,
}

impl Deliverer {
    pub(crate) fn new(
        settings: &Settings,
        webhook: Webhook,
        group: Group<Taken>,
        metrics: PushMetrics,
        stop: Arc<AtomicBool>,
    ) -> Self {
        Self {
            instance: settings.instance.clone(),
            batch_max: webhook.batch_max,
            retry_ms: u64::try_from(webhook.retry.as_millis()).unwrap_or(u64::MAX),
            client: Client::new(webhook),
            group,
            metrics,
            stop,
            dead_letters: Publisher::new(settings, DEAD_LETTER_BYTES_MAX),
            batch: Batch::default(),
            tries: 0,
            offsets: BTreeMap::new(),
        }
    }

    /// Runs until the process stops; what is not delivered by then is delivered after the next start.
    pub(crate) fn run(mut self) {
        while !self.stop.load(Ordering::Acquire) {
            self.forget_lost();
            if self.batch.is_empty() {
                self.tries = 0;
                self.gather();
                self.forget_lost();
            }
            if !self.batch.is_empty() {
                self.deliver();
            }
            self.forget_lost();
            self.group.commit(self.offsets.iter().map(|(partition, offset)| (*partition, *offset)));
        }
        self.group.leave(self.offsets.into_iter());
    }

    /// Another relay delivers what is left of these partitions.
    fn forget_lost(&mut self) {
        let lost = self.group.lost();
        if !lost.is_empty() {
            self.batch.retain(|it| !lost.contains(&it.partition));
            self.offsets.retain(|partition, _| !lost.contains(partition));
        }
    }

    /// Waits for a first request, and a moment for more.
    fn gather(&mut self) {
        let mut until = Instant::now() + Duration::from_millis(GROUP_POLL_MS);
        while self.batch.len() < self.batch_max {
            let wait = until.saturating_duration_since(Instant::now());
            let Some(taken) = self.group.take(wait) else { return };
            if self.batch.is_empty() {
                until = Instant::now() + Duration::from_millis(WEBHOOK_GATHER_MS);
            }
            match Item::new(taken) {
                Ok(item) => {
                    if let Err(item) = self.batch.add(item) {
                        self.group.put_back(item.taken);
                        return;
                    }
                }
                Err((taken, error)) => {
                    // What came before it must be done with first.
                    if !self.batch.is_empty() {
                        self.group.put_back(taken);
                        return;
                    }
                    self.bury(vec![taken], &error, 1);
                }
            }
        }
    }

    /// Tries once.
    fn deliver(&mut self) {
        let answer = self.client.post(&self.batch.body());
        self.tries += 1;
        self.metrics.answers.get_or_create(&Class { class: answer.class() }).inc();
        match answer.judge(self.tries, self.retry_ms, fastrand::u8(..)) {
            Verdict::Done => {
                self.metrics.delivered.inc_by(self.batch.len() as u64);
                let batch = self.batch.take();
                self.done(&batch);
            }
            Verdict::Again(wait_ms, reason) => {
                let (tries, requests) = (self.tries, self.batch.len());
                tracing::warn!(reason, tries, requests, wait_ms, "not delivered yet");
                self.group.wait(Duration::from_millis(wait_ms), &self.stop);
            }
            Verdict::Dead(reason) => {
                let batch = self.batch.take();
                self.bury(batch, &reason, self.tries);
            }
        }
    }

    fn done(&mut self, batch: &[Taken]) {
        for taken in batch {
            self.offsets.insert(taken.partition, taken.offset + 1);
        }
    }

    /// Makes dead letters of them, and waits until the broker has them all.
    fn bury(&mut self, batch: Vec<Taken>, error: &str, tries: u32) {
        let requests = batch.len();
        tracing::error!(error, tries, requests, "push requests become dead letters");
        let mut left: Vec<&Taken> = batch.iter().collect();
        let mut backoff = Backoff::default();
        while !left.is_empty() {
            left = self.publish(left, error, tries);
            if left.is_empty() {
                break;
            }
            if self.stop.load(Ordering::Acquire) {
                // Nothing of it is committed: all of it is tried again after the next start.
                return;
            }
            self.group.wait(backoff.next(), &self.stop);
        }
        self.metrics.dead_lettered.inc_by(requests as u64);
        self.done(&batch);
    }

    /// Those that the broker does not have.
    fn publish<'a>(&mut self, batch: Vec<&'a Taken>, error: &str, tries: u32) -> Vec<&'a Taken> {
        if let Err(reason) = self.dead_letters.ensure() {
            tracing::warn!(reason, "no dead letter written");
            return batch;
        }
        // The record's id is its place in the batch.
        let record = |(id, taken): (i64, &&Taken)| Record {
            id,
            topic: topics::PUSH_REQUESTED.to_owned(),
            key: taken.key.clone(),
            value: taken.value.clone(),
            ..Record::default()
        };
        let records: Vec<Record> = (0..).zip(&batch).map(record).collect();
        let acked_by = Instant::now() + Duration::from_millis(PUSH_PUBLISH_MS_MAX);
        let deadlines = Deadlines { send_by: acked_by, acked_by };
        let outcomes = self.dead_letters.publish(&records, deadlines, |record| {
            let place = usize::try_from(record.id).unwrap_or_default();
            Ok(letter(&self.instance, batch[place], error, tries))
        });
        let outcomes = batch.into_iter().zip(outcomes);
        outcomes
            .filter(|(_, outcome)| !matches!(outcome, Outcome::Acked(_)))
            .map(|(it, _)| it)
            .collect()
    }
}

fn letter(instance: &str, taken: &Taken, error: &str, tries: u32) -> Prepared {
    let more = [
        (header::ERROR, error.to_owned()),
        (header::TOPIC, topics::PUSH_REQUESTED.to_owned()),
        (header::ATTEMPTS, tries.to_string()),
        (header::FAILED_AT_US, now_us().to_string()),
        (header::CONSUMER, instance.to_owned()),
        (header::PARTITION, taken.partition.to_string()),
        (header::OFFSET, taken.offset.to_string()),
    ];
    let more = more.iter().map(|(name, value)| (*name, value.as_bytes()));
    Prepared {
        topic: topics::dead_letter(topics::PUSH_REQUESTED),
        copies: Vec::new(),
        headers: owned_headers(taken.pairs().chain(more)),
    }
}
