//! Kafka's client as a relay uses it: an idempotent producer that sends what it was handed in order,
//! sends again what is not acknowledged, and drops what has become too old.

use super::{Event, Relay};
use crate::Outside;
use crate::broker::{LogRecord, Produced, partition};
use crate::bugs::Bug;
use crate::bus::Process;
use crate::kafka;
use crate::limits::{LEASE_MS, PRODUCE_AGAIN_US, PRODUCE_RECORDS_MAX};
use ::relay::lease::{Shard, Token};
use ::relay::rounds::Marks;
use ::relay::rules::{MESSAGE_PERCENT, Outcome, Record};
use proto::Message;
use proto::record::RecordHeaders;
use std::collections::BTreeMap;
use std::rc::Rc;

/// What waits for the broker: some records of one partition.
struct Request {
    partition: usize,
    number: u64,
    /// Places in the wave.
    places: Vec<usize>,
    records: Vec<LogRecord>,
    /// The shards that they are of, and under which token.
    tokens: Vec<(Shard, Token)>,
    is_acked: bool,
}

/// A wave in the hands of a producer.
pub(super) struct Wave {
    /// The producer; another one numbers its requests anew.
    producer: u64,
    next_number: BTreeMap<usize, u64>,
    round: u64,
    handed_ms: u64,
    count: usize,
    requests: Vec<Request>,
    /// Numbers of requests grow over waves; these are the first of this one.
    first: usize,
}

impl Relay {
    pub(super) fn hand_over(
        &mut self,
        outside: &mut Outside,
        round: u64,
        send_by_ms: u64,
        acked_by_ms: u64,
    ) {
        if self.round != Some(round) {
            return;
        }
        let now_ms = outside.bus.now_ms();
        let records = self.rounds.records().to_vec();
        if now_ms >= send_by_ms && outside.bug != Some(Bug::UnfencedLease) {
            let outcomes = vec![Outcome::Held; records.len()];
            return self.published(outside, round, outcomes);
        }
        if outside.bug == Some(Bug::MarkBeforeAcknowledgement) {
            self.mark_early(outside, &records);
        }
        let (producer, next_number, first) = match self.producer.take() {
            Some(it) => (it.producer, it.next_number, it.first + it.requests.len()),
            None => (outside.bus.fresh(), BTreeMap::new(), 0),
        };
        let count = records.len();
        let mut wave = Wave {
            producer,
            next_number,
            round,
            handed_ms: now_ms,
            count,
            requests: Vec::new(),
            first,
        };
        for (place, record) in records.iter().enumerate() {
            wave.add(place, record, &self.wave);
        }
        for request in first..first + wave.requests.len() {
            let event = Event::Produce { producer, request };
            let delay_us = outside.bus.delay_us() * (request - first + 1) as u64;
            self.after(outside, delay_us, event);
        }
        self.producer = Some(wave);
        let left_us = acked_by_ms.saturating_sub(now_ms) * 1_000;
        self.after(outside, left_us, Event::TakeBack { producer, round });
    }

    /// A request leaves this process.
    pub(super) fn produce(&mut self, outside: &mut Outside, producer: u64, request: usize) {
        let Some(wave) = self.producer.as_ref().filter(|it| it.producer == producer) else {
            return;
        };
        let Some(it) = request.checked_sub(wave.first).and_then(|at| wave.requests.get(at)) else {
            return;
        };
        let too_old_ms = wave.handed_ms + LEASE_MS * MESSAGE_PERCENT / 100;
        let is_too_old = outside.bus.now_ms() >= too_old_ms;
        if it.is_acked || (is_too_old && outside.bug != Some(Bug::UnfencedLease)) {
            return;
        }
        let database = Rc::clone(&outside.database);
        for (shard, token) in &it.tokens {
            database.borrow_mut().check_token(self.me, *shard, *token);
        }
        let event = crate::Event::Kafka(kafka::Event::Produce {
            from: self.process(),
            producer,
            request,
            partition: it.partition,
            number: it.number,
            records: it.records.clone(),
        });
        outside.bus.send(self.process(), Process::Kafka, event);
        self.after(outside, PRODUCE_AGAIN_US, Event::Produce { producer, request });
    }

    pub(super) fn produced(
        &mut self,
        outside: &mut Outside,
        producer: u64,
        request: usize,
        produced: Produced,
    ) {
        let Some(wave) = self.producer.as_mut().filter(|it| it.producer == producer) else {
            return;
        };
        let Some(it) = request.checked_sub(wave.first).and_then(|at| wave.requests.get_mut(at))
        else {
            return;
        };
        if produced == Produced::OutOfOrder {
            // It goes again, behind the one that is missing.
            return;
        }
        it.is_acked = true;
        let round = wave.round;
        if wave.requests.iter().all(|it| it.is_acked) && self.round == Some(round) {
            let outcomes = vec![Outcome::Acked(0); wave.count];
            wave.round = 0;
            self.published(outside, round, outcomes);
        }
    }

    /// What is not acknowledged is taken back, and the producer is not used again.
    pub(super) fn take_back(&mut self, outside: &mut Outside, producer: u64, round: u64) {
        let is_it = |it: &&mut Wave| it.producer == producer && it.round == round;
        let Some(wave) = self.producer.as_mut().filter(is_it) else { return };
        let mut outcomes = vec![Outcome::Acked(0); wave.count];
        for request in wave.requests.iter().filter(|it| !it.is_acked) {
            for place in &request.places {
                outcomes[*place] = Outcome::Stalled("not acknowledged in time".into());
            }
        }
        self.producer = None;
        if self.round == Some(round) {
            self.published(outside, round, outcomes);
        }
    }

    fn mark_early(&mut self, outside: &mut Outside, records: &[Record]) {
        let mut marks = Marks::new();
        for record in records {
            let grant = self.wave.iter().find(|grant| grant.0 == record.shard);
            let token = grant.map_or(0, |grant| grant.1);
            marks.entry(record.shard).or_insert((token, Vec::new())).1.push(record.row());
        }
        let now_us = outside.bus.now_us();
        outside.database.borrow_mut().delete_outbox(self.me, &marks, now_us);
    }
}

impl Wave {
    fn add(&mut self, place: usize, record: &Record, grants: &[(Shard, Token)]) {
        let Some(topic) = proto::topics::ALL.into_iter().find(|it| *it == record.topic) else {
            return;
        };
        let headers = RecordHeaders::decode(record.headers.as_slice()).unwrap_or_default();
        let token = grants.iter().find(|grant| grant.0 == record.shard).copied();
        let partition = partition(&record.key);
        let last = self.requests.iter_mut().rfind(|it| it.partition == partition);
        let request = match last.filter(|it| it.places.len() < PRODUCE_RECORDS_MAX) {
            Some(request) => request,
            None => {
                let number = self.next_number.entry(partition).or_default();
                self.requests.push(Request {
                    partition,
                    number: *number,
                    places: Vec::new(),
                    records: Vec::new(),
                    tokens: Vec::new(),
                    is_acked: false,
                });
                *number += 1;
                let added = self.requests.len() - 1;
                &mut self.requests[added]
            }
        };
        request.places.push(place);
        request.records.push(LogRecord::new(topic, &record.key, &record.value, &headers));
        request.tokens.extend(token);
    }
}
