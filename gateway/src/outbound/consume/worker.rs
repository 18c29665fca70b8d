//! One Kafka thread: poll a batch, mail it to the shards, mail the batch's ticket, and now and then
//! commit what the shards have enqueued.

use super::client::{self, Commit, Consumer};
use super::direct::Direct;
use super::fetch::Fetcher;
use super::held::{self, Crowds};
use super::incoming::Incoming;
use super::ledger::Ledger;
use super::native;
use super::positions::Position;
use super::record::{self, Purpose, RecordError, Router};
use crate::audience::Audiences;
use crate::inbound::uplink::TypingSession;
use crate::limits::{
    HELD_POLL_MS, KAFKA_ASK_MS_MAX, KAFKA_BATCH_RECORDS_MAX, KAFKA_COMMIT_MS, KAFKA_COMMIT_MS_MAX,
    KAFKA_DIRECT_RETRY_MS, KAFKA_POLL_MS, KAFKA_RECOMMIT_MS, KAFKA_RING_RECORDS,
    KAFKA_SETTLE_MS_MAX, UNWANTED_LETTERS_MAX,
};
use crate::mail::{Delivery, Mail, Recipients, Skipped};
use crate::mailbox::Mailboxes;
use crate::outbound::offsets::{ShardSet, Tracker};
use crate::outbound::publish::{DeadLetter, Publisher};
use crate::outbound::witness::Witness;
use crate::progress::Progress;
use bytes::Bytes;
use crossbeam_channel::Receiver;
use daemon::failpoint;
use proto::Uuid;
use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(KAFKA_POLL_MS);
const HELD_POLL: Duration = Duration::from_millis(HELD_POLL_MS);
const COMMIT: Duration = Duration::from_millis(KAFKA_COMMIT_MS);
const COMMIT_PATIENCE: Duration = Duration::from_millis(KAFKA_COMMIT_MS_MAX);
const RECOMMIT: Duration = Duration::from_millis(KAFKA_RECOMMIT_MS);
const DIRECT_RETRY: Duration = Duration::from_millis(KAFKA_DIRECT_RETRY_MS);
/// How often shards and commits are looked at while the last batch settles.
const SETTLE_STEP: Duration = Duration::from_millis(2);

/// What all Kafka threads work with.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) mailboxes: Mailboxes,
    pub(super) progress: Arc<Progress>,
    pub(super) audiences: Audiences<TypingSession>,
    pub(super) publisher: Publisher,
    pub(super) stop: Arc<AtomicBool>,
    /// Which log it is: a number of the cluster's id.
    pub(super) log: u64,
}

pub(super) struct Worker {
    consumer: Arc<Consumer>,
    /// What reads instead of the consumer, and when that may be tried again.
    direct: Option<Direct>,
    direct_due_at: Instant,
    routing: Routing,
    /// Partitions that are to be read from now on, too.
    added: Receiver<Position>,
    out_of_range: bool,
    /// Events of the log were skipped that nobody was told of yet.
    skipped: bool,
    /// When the last commit was sent, and when everything was committed last.
    committed_at: Instant,
    recommitted_at: Instant,
}

/// Everything but the consumer, whose records are borrowed from it while they are routed.
pub(super) struct Routing {
    thread: u16,
    pub(super) shared: Shared,
    pub(super) ledger: Ledger,
    router: Router,
    /// Of a thread that reads the log.
    pub(super) crowds: Option<Crowds>,
    pub(super) partitions: Vec<Position>,
    pub(super) tracker: Tracker,
    /// Of a build with failpoints.
    witness: Witness,
    pub(super) ticket: u64,
    /// Shards that the batch in hand concerned so far, and those of them where a recipient may have
    /// a session.
    pub(super) concerned: ShardSet,
    pub(super) wanted: ShardSet,
    /// Shards that have letters and were not woken for them, and how many records those are of.
    unheard: ShardSet,
    unheard_records: usize,
    /// Positions of the log that the shards were last told.
    told: Vec<(u16, i64)>,
    /// Records of the batch in hand, and when the first of them was taken.
    records: usize,
    polled_at_us: u64,
}

impl Worker {
    pub(super) fn new(
        thread: u16,
        consumer: Arc<Consumer>,
        shared: Shared,
        ledger: Ledger,
        added: Receiver<Position>,
        fetcher: Option<Fetcher>,
    ) -> Self {
        let crowds = fetcher.map(|it| Crowds::new(shared.mailboxes.len(), it));
        let router = Router::new(shared.mailboxes.len());
        let routing = Routing {
            thread,
            shared,
            ledger,
            router,
            crowds,
            partitions: Vec::new(),
            tracker: Tracker::default(),
            witness: Witness::default(),
            ticket: 0,
            concerned: ShardSet::default(),
            wanted: ShardSet::default(),
            unheard: ShardSet::default(),
            unheard_records: 0,
            told: Vec::new(),
            records: 0,
            polled_at_us: 0,
        };
        let now = Instant::now();
        Self {
            consumer,
            direct: None,
            direct_due_at: now,
            routing,
            added,
            out_of_range: false,
            skipped: false,
            committed_at: now,
            recommitted_at: now,
        }
    }

    /// Reads these partitions, too, and the others from where they are; through the library.
    pub(super) fn assign(&mut self, positions: Vec<Position>) -> Result<(), String> {
        self.direct = None;
        for position in positions {
            self.routing.tracker.add_partition(position.start);
            self.routing.ledger.add_partition(position.topic, position.partition);
            self.routing.partitions.push(position);
        }
        let mut list = TopicPartitionList::new();
        for (index, Position { topic, partition, .. }) in self.routing.partitions.iter().enumerate()
        {
            let next = self.routing.tracker.next_offset(index);
            let offset = next.map_or(Offset::Beginning, Offset::Offset);
            list.add_partition_offset(topic, *partition, offset)
                .map_err(|error| format!("{topic} partition {partition}: {error}"))?;
        }
        self.consumer.assign(&list).map_err(|error| format!("assignment: {error}"))?;
        self.routing.tell_positions(Skipped::Nothing);
        Ok(())
    }

    /// Until it is told to stop.
    pub(super) fn run(mut self) {
        let mut kept_house_at = Instant::now();
        while !self.routing.shared.stop.load(Ordering::Acquire) {
            if self.direct.is_none() && Instant::now() >= self.direct_due_at {
                self.go_direct();
            }
            self.batch();
            if kept_house_at.elapsed() >= COMMIT {
                self.keep_house();
                kept_house_at = Instant::now();
            }
        }
        self.settle();
    }

    /// Reads no more, waits for the shards and for the commit that is in flight, and commits the rest.
    fn settle(&mut self) {
        self.direct = None;
        self.routing.ring_unheard();
        if let Err(error) = self.consumer.unassign() {
            tracing::warn!(%error, "kafka consumer");
        }
        let until = Instant::now() + Duration::from_millis(KAFKA_SETTLE_MS_MAX);
        loop {
            // Serves callbacks; nothing is assigned, so no record comes.
            let _ = self.consumer.poll(SETTLE_STEP);
            self.routing.advance();
            let in_flight = self.consumer.context().commit() == Commit::InFlight;
            if self.routing.tracker.is_settled() && !in_flight || Instant::now() >= until {
                break;
            }
        }
        self.commit(CommitMode::Sync);
    }

    /// Takes reading the log over from the library.
    fn go_direct(&mut self) {
        self.direct_due_at = Instant::now() + DIRECT_RETRY;
        let routing = &self.routing;
        let mut partitions = Vec::with_capacity(routing.partitions.len());
        for (index, Position { purpose, partition, .. }) in routing.partitions.iter().enumerate() {
            match routing.tracker.next_offset(index) {
                Some(next) if *purpose == Purpose::Log => partitions.push((*partition, next)),
                // Not the log, or a partition whose first offset only the library finds.
                _ => return,
            }
        }
        let Some(&Position { topic, .. }) = routing.partitions.first() else { return };
        let client = format!("realchat-{}", routing.thread);
        match Direct::connect(&self.consumer, &client, topic, &partitions) {
            Ok(direct) => match self.consumer.unassign() {
                Ok(()) => self.direct = Some(direct),
                Err(error) => tracing::warn!(%error, "kafka consumer"),
            },
            Err(error) => tracing::info!(%error, "the log is read through the library"),
        }
    }

    /// Gives reading the log back to the library.
    fn leave_direct(&mut self) {
        self.direct_due_at = Instant::now() + DIRECT_RETRY;
        if let Err(error) = self.assign(Vec::new()) {
            tracing::error!(error, "partitions are not read; trying again");
            self.out_of_range = true;
        }
    }

    fn batch(&mut self) {
        let Self { consumer, direct, routing, out_of_range, .. } = self;
        routing.take_answers();
        let awaits = routing.crowds.as_ref().is_some_and(Crowds::are_awaited);
        let mut patience = if awaits { HELD_POLL } else { POLL };
        if let Some(direct) = direct {
            let topic = direct.topic();
            let outcome = direct.poll(patience, |partition, record| {
                routing.take(&Incoming::fetched(topic, partition, record));
                if routing.records >= KAFKA_BATCH_RECORDS_MAX {
                    routing.end_batch();
                }
            });
            routing.end_batch();
            let _ = failpoint::reach(failpoint::GATEWAY_AFTER_ENQUEUE);
            if let Err(error) = outcome {
                tracing::info!(%error, "the log is read through the library");
                self.leave_direct();
            }
            return;
        }
        for _ in 0..KAFKA_BATCH_RECORDS_MAX {
            match consumer.poll(patience) {
                Some(Ok(message)) => routing.take(&Incoming::of_library(&message)),
                Some(Err(error)) => *out_of_range |= is_out_of_range(&error),
                None => break,
            }
            patience = Duration::ZERO;
        }
        routing.end_batch();
        let _ = failpoint::reach(failpoint::GATEWAY_AFTER_ENQUEUE);
    }

    fn keep_house(&mut self) {
        if self.direct.is_some() {
            // Serves callbacks; nothing is assigned, so no record comes.
            let _ = self.consumer.poll(Duration::ZERO);
        }
        let added: Vec<Position> = self.added.try_iter().collect();
        if !added.is_empty() {
            tracing::info!(?added, "new partitions");
            if let Err(error) = self.assign(added) {
                tracing::error!(error, "new partitions are not read");
            }
        }
        if self.out_of_range {
            self.reposition();
        }
        self.routing.ring_unheard();
        self.routing.advance();
        self.routing.tell_positions(Skipped::Nothing);
        self.commit(CommitMode::Async);
        self.measure_lag();
    }

    /// One commit at a time, so that a late one does not overwrite a later one; but one that gets no
    /// answer (its coordinator went down) is given up and done again. Now and then everything is
    /// committed again, which heals an overwritten offset and keeps idle partitions' from expiring.
    fn commit(&mut self, mode: CommitMode) {
        let (routing, callbacks) = (&mut self.routing, self.consumer.context());
        let is_last = matches!(mode, CommitMode::Sync);
        match callbacks.commit() {
            Commit::InFlight if !is_last && self.committed_at.elapsed() < COMMIT_PATIENCE => return,
            Commit::Done => {}
            Commit::InFlight | Commit::Failed => {
                callbacks.set_commit(Commit::Done);
                routing.ledger.commit_failures.inc();
                routing.tracker.commit_all();
            }
        }
        if self.recommitted_at.elapsed() >= RECOMMIT {
            self.recommitted_at = Instant::now();
            routing.tracker.commit_all();
        }
        let due = routing.tracker.take_due();
        if due.is_empty() {
            return;
        }
        let mut list = TopicPartitionList::with_capacity(due.len());
        for (index, offset) in due {
            routing.assert_enqueued(index, offset);
            let Position { topic, partition, .. } = &routing.partitions[index];
            // Fails only for offsets below zero, which no record has.
            let _ = list.add_partition_offset(topic, *partition, Offset::Offset(offset));
        }
        let _ = failpoint::reach(failpoint::GATEWAY_BEFORE_COMMIT);
        routing.ledger.commits.inc();
        if !is_last {
            callbacks.set_commit(Commit::InFlight);
            self.committed_at = Instant::now();
        }
        if let Err(error) = self.consumer.commit(&list, mode) {
            callbacks.set_commit(Commit::Done);
            routing.ledger.commit_failures.inc();
            routing.tracker.commit_all();
            tracing::warn!(%error, "offsets not committed");
        }
    }

    /// An offset was out of range, and librdkafka does not say which: a partition whose next record
    /// was deleted goes on at its first one, a partition that ends before it (its log was lost) at
    /// its end, and the others from where they are.
    fn reposition(&mut self) {
        let patience = Duration::from_millis(KAFKA_ASK_MS_MAX);
        for (index, position) in self.routing.partitions.iter().enumerate() {
            let Position { topic, purpose, partition, .. } = position;
            let Some(next) = self.routing.tracker.next_offset(index) else { continue };
            match self.consumer.fetch_watermarks(topic, *partition, patience) {
                Ok((low, high)) if !(low..=high).contains(&next) => {
                    let to = next.max(low).min(high);
                    tracing::error!(
                        topic,
                        partition,
                        from = next,
                        to,
                        "offset out of range: events are lost to this gateway, clients sync them"
                    );
                    self.routing.ledger.repositions.inc();
                    self.skipped |= *purpose == Purpose::Log;
                    self.routing.tracker.move_to(index, to);
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(topic, partition, %error, "watermarks not known; trying again");
                    return;
                }
            }
        }
        match self.assign(Vec::new()) {
            Ok(()) => {
                self.out_of_range = false;
                if std::mem::take(&mut self.skipped) {
                    self.routing.tell_positions(Skipped::Unknown);
                }
            }
            Err(error) => tracing::error!(error, "partitions not read; trying again"),
        }
    }

    fn measure_lag(&self) {
        let routing = &self.routing;
        let lags = routing.partitions.iter().enumerate().filter_map(|(index, it)| {
            let high = match &self.direct {
                Some(direct) => direct.high_watermark(it.partition)?,
                None => native::high_watermark(&self.consumer, it.topic, it.partition)?,
            };
            Some(high.saturating_sub(routing.tracker.next_offset(index)?).max(0))
        });
        routing.ledger.lag.set(lags.sum());
    }
}

impl Routing {
    fn take(&mut self, message: &Incoming<'_>) {
        let _ = failpoint::reach(failpoint::GATEWAY_AFTER_POLL);
        let (topic, partition) = (message.topic, message.partition);
        if self.records == 0 {
            self.polled_at_us = daemon::clock::now_us();
        }
        let at = |it: &Position| it.partition == partition && it.topic == topic;
        let Some(index) = self.partitions.iter().position(at) else { return };
        let purpose = self.partitions[index].purpose;
        self.ledger.partitions[index].consumed.inc();
        let mut unwanted = ShardSet::default();
        let shards = self.route(index, purpose, message, &mut unwanted).unwrap_or_else(|error| {
            self.ledger.partitions[index].skipped.inc();
            self.skip(message, &error.to_string());
            ShardSet::default()
        });
        self.concerned.union(&shards);
        self.wanted.union(&shards.without(&unwanted));
        if failpoint::ENABLED {
            let next = self.tracker.next_offset(index);
            self.witness.mailed(index, next, message.offset, self.ticket + 1, &shards);
        }
        // The batch's ticket is the next one; `end_batch` mails it.
        self.tracker.record(index, message.offset, self.ticket + 1, &shards);
        self.records += 1;
        if self.records.is_multiple_of(KAFKA_RING_RECORDS) {
            self.ring_wanted();
        }
    }

    /// Wakes the shards that have a letter for somebody who may be there.
    fn ring_wanted(&self) {
        for shard in self.wanted.iter() {
            self.shared.mailboxes.get(shard).ring();
        }
    }

    /// Wakes the shards that have letters for nobody who is there.
    fn ring_unheard(&mut self) {
        for shard in self.unheard.iter() {
            self.shared.mailboxes.get(shard).ring();
        }
        (self.unheard, self.unheard_records) = (ShardSet::default(), 0);
    }

    /// The shards that were mailed; of them, in `unwanted`, those that need not be woken.
    fn route(
        &mut self,
        index: usize,
        purpose: Purpose,
        message: &Incoming<'_>,
        unwanted: &mut ShardSet,
    ) -> Result<ShardSet, RecordError> {
        let key = message.key;
        let id = proto::id::from_field("the record's key", key)?;
        if purpose == Purpose::Membership {
            self.shared.audiences.lock().forget(&id);
            return Ok(ShardSet::default());
        }
        let value = message.value;
        record::check_value(value)?;
        let frame = Bytes::copy_from_slice(value);
        if purpose == Purpose::Presence {
            return Ok(self.present(id, &frame));
        }
        let headers = message.headers()?;
        let age_us = self.polled_at_us.saturating_sub(headers.created_at_us);
        self.ledger.poll_latency.observe(self.thread, age_us);
        let conversation = if purpose == Purpose::Users { Uuid::nil() } else { id };
        let (mailboxes, ledger) = (&self.shared.mailboxes, &self.ledger);
        let partition = u16::try_from(message.partition).unwrap_or(u16::MAX);
        let offset = message.offset;
        if purpose == Purpose::Log
            && self.crowds.as_ref().is_some_and(|it| it.concern(&id, &headers))
        {
            let lane = ledger.partitions[index].lane;
            let delivery = held::undirected(id, &headers, frame, (partition, offset), lane);
            return self.take_large(index, &headers, delivery);
        }
        let counts = &ledger.partitions[index];
        self.router.route(
            headers.recipients,
            |user| mailboxes.home(user),
            |shard, recipients| {
                ledger.deliveries.inc();
                counts.recipients.inc_by(recipients.len() as u64);
                let delivery = Delivery {
                    recipients: Recipients::Own(recipients),
                    frame: frame.clone(),
                    conversation,
                    sequence_number: headers.sequence_number,
                    priority: headers.priority,
                    lane: counts.lane,
                    partition,
                    offset,
                    membership: headers.membership,
                    created_at_us: headers.created_at_us,
                };
                // A shard that has ended is one of a gateway that stops.
                if mailboxes.get(shard).deliver(delivery) == Ok(false) {
                    unwanted.insert(shard);
                }
            },
        )
    }

    fn present(&self, user: Uuid, frame: &Bytes) -> ShardSet {
        let mut shards = ShardSet::default();
        for (shard, mailbox) in (0_u16..).zip(self.shared.mailboxes.iter()) {
            let _ = mailbox.post(Mail::Presence { user, frame: frame.clone() });
            shards.insert(shard);
        }
        shards
    }

    fn skip(&self, message: &Incoming<'_>, error: &str) {
        let (topic, partition, offset) = (message.topic, message.partition, message.offset);
        tracing::error!(topic, partition, offset, error, "record skipped: it is a dead letter now");
        self.shared.publisher.dead_letter(&DeadLetter {
            topic,
            partition,
            offset,
            key: message.key,
            value: message.value,
            headers: message.pairs(),
            error,
        });
    }

    fn end_batch(&mut self) {
        self.ticket += 1;
        for shard in self.concerned.iter() {
            let ticket = Mail::Ticket { consumer: self.thread, ticket: self.ticket };
            let _ = self.shared.mailboxes.get(shard).post(ticket);
        }
        self.ring_wanted();
        let unheard = self.concerned.without(&self.wanted);
        if !unheard.is_empty() {
            self.unheard.union(&unheard);
            self.unheard_records += self.records;
            if self.unheard_records >= UNWANTED_LETTERS_MAX {
                self.ring_unheard();
            }
        }
        self.records = 0;
        (self.concerned, self.wanted) = (ShardSet::default(), ShardSet::default());
    }

    /// Tells every shard how far the log was mailed to it, if that has changed.
    pub(super) fn tell_positions(&mut self, skipped: Skipped) {
        let log = self.partitions.iter().enumerate().filter(|it| it.1.purpose == Purpose::Log);
        let positions: Vec<(u16, i64)> = log
            .filter_map(|(index, it)| {
                Some((u16::try_from(it.partition).ok()?, self.tracker.next_offset(index)?))
            })
            .collect();
        if positions.is_empty() || (skipped == Skipped::Nothing && positions == self.told) {
            return;
        }
        let shared: Arc<[_]> = positions.as_slice().into();
        self.told = positions;
        for mailbox in self.shared.mailboxes.iter() {
            let positions = Arc::clone(&shared);
            let _ = mailbox.send(Mail::Tail { log: self.shared.log, positions, skipped });
        }
    }

    fn advance(&mut self) {
        let (thread, progress) = (self.thread, &self.shared.progress);
        let is_early = failpoint::is_planted(failpoint::COMMIT_BEFORE_ENQUEUE);
        self.tracker.advance(
            |shard| {
                if is_early { u64::MAX } else { progress.load(thread, shard) }
            },
        );
    }

    /// What is about to be committed, against a second opinion.
    fn assert_enqueued(&mut self, index: usize, offset: i64) {
        if !failpoint::ENABLED {
            return;
        }
        let (thread, progress) = (self.thread, &self.shared.progress);
        let first = self.witness.first_waiting(index, |shard| progress.load(thread, shard));
        if let Some(first) = first.filter(|first| *first < offset) {
            let Position { topic, partition, .. } = &self.partitions[index];
            tracing::error!(topic, partition, offset, first, "committed before it was enqueued");
            self.ledger.early_commits.inc();
        }
    }
}

/// Other errors heal by themselves: librdkafka goes on asking.
fn is_out_of_range(error: &KafkaError) -> bool {
    let code = error.rdkafka_error_code();
    let out_of_range = matches!(
        code,
        Some(
            RDKafkaErrorCode::AutoOffsetReset
                | RDKafkaErrorCode::OffsetOutOfRange
                | RDKafkaErrorCode::LogTruncation
        )
    );
    if out_of_range {
        tracing::error!(%error, "kafka consumer");
    } else {
        client::complain(error, "while reading");
    }
    out_of_range
}
