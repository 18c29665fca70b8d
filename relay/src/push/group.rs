//! A consumer group of one topic, with offsets that are committed by hand.
//!
//! Several relays share a topic's partitions by their group. What was taken and not committed when a
//! partition goes to another relay, that one takes again.

use crate::config::Settings;
use crate::limits::{
    GROUP_ANSWER_MS_MAX, GROUP_COMMIT_MS, GROUP_FETCH_BYTES_MIN, GROUP_FETCH_MS_MAX,
    GROUP_FETCHED_KIB_MAX, GROUP_POLL_MS, GROUP_SESSION_MS, RECORD_BYTES_MAX,
};
use crate::publisher::client_config;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::BorrowedMessage;
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_millis(GROUP_ANSWER_MS_MAX);

/// What Kafka's client tells while it is polled.
#[derive(Default)]
struct Told {
    lost: Mutex<BTreeSet<i32>>,
    commit_failed: AtomicBool,
}

impl ClientContext for Told {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, message, "kafka client");
    }
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "kafka client");
    }
}

impl ConsumerContext for Told {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Revoke(list) => {
                let partitions: Vec<i32> = partitions(list).collect();
                tracing::info!(?partitions, "partitions given up");
                self.lost.lock().unwrap_or_else(PoisonError::into_inner).extend(partitions);
            }
            Rebalance::Assign(list) => {
                let partitions: Vec<i32> = partitions(list).collect();
                tracing::info!(?partitions, "partitions taken");
            }
            Rebalance::Error(error) => tracing::warn!(%error, "consumer group"),
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        if let Err(error) = result {
            tracing::debug!(%error, "offsets not committed");
            self.commit_failed.store(true, Ordering::Release);
        }
    }
}

fn partitions(list: &TopicPartitionList) -> impl Iterator<Item = i32> {
    list.elements().into_iter().map(|it| it.partition())
}

/// What is made of a record before Kafka's client has its memory back.
pub(crate) trait Take {
    fn take(record: &BorrowedMessage<'_>) -> Self;
    fn partition(&self) -> i32;
}

pub(crate) struct Group<T> {
    consumer: Arc<BaseConsumer<Told>>,
    topic: &'static str,
    /// Taken while the group was waiting, or put back.
    kept: VecDeque<T>,
    lost: BTreeSet<i32>,
    committed: BTreeMap<i32, i64>,
    committed_at: Instant,
}

impl<T: Take> Group<T> {
    /// Joins the group. One that nobody ever joined begins at the topic's end: what was published
    /// before push requests, or their delivery, were wanted is not pushed.
    pub(crate) fn join(
        settings: &Settings,
        name: &str,
        topic: &'static str,
    ) -> Result<Self, String> {
        let wrong = |error: KafkaError| format!("kafka: joining the group {name}: {error}");
        let mut config = client_config(settings);
        config
            .set("group.id", name)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // Of a partition that was added to the topic since.
            .set("auto.offset.reset", "earliest")
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", GROUP_SESSION_MS.to_string())
            .set("heartbeat.interval.ms", (GROUP_SESSION_MS / 5).to_string())
            .set("fetch.min.bytes", GROUP_FETCH_BYTES_MIN.to_string())
            .set("fetch.wait.max.ms", GROUP_FETCH_MS_MAX.to_string())
            .set("queued.max.messages.kbytes", GROUP_FETCHED_KIB_MAX.to_string())
            .set("fetch.message.max.bytes", RECORD_BYTES_MAX.to_string());
        let consumer: BaseConsumer<Told> =
            config.create_with_context(Told::default()).map_err(wrong)?;
        let consumer = kafka::guard(consumer, &settings.brokers)?;
        fix_beginning(&consumer, topic).map_err(wrong)?;
        consumer.subscribe(&[topic]).map_err(wrong)?;
        Ok(Self {
            consumer,
            topic,
            kept: VecDeque::new(),
            lost: BTreeSet::new(),
            committed: BTreeMap::new(),
            committed_at: Instant::now(),
        })
    }

    /// The next record, if there is one within `wait`. There is none before [`Self::lost`] was asked: a
    /// partition that was lost may have come back, and its records with it.
    pub(crate) fn take(&mut self, wait: Duration) -> Option<T> {
        if self.kept.is_empty() && self.lost.is_empty() {
            let taken = self.poll(wait)?;
            self.kept.push_back(taken);
        }
        if self.lost.is_empty() { self.kept.pop_front() } else { None }
    }

    /// Makes it the next record again.
    pub(crate) fn put_back(&mut self, taken: T) {
        self.kept.push_front(taken);
    }

    /// Waits, taking no further records and staying in the group; not longer than until `stop` is set.
    pub(crate) fn wait(&mut self, wait: Duration, stop: &AtomicBool) {
        let until = Instant::now() + wait;
        while !stop.load(Ordering::Acquire) {
            // Again and again: partitions may have come meanwhile.
            if let Ok(assigned) = self.consumer.assignment() {
                let _ = self.consumer.pause(&assigned);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            if let Some(taken) = self.poll(left.min(Duration::from_millis(GROUP_POLL_MS))) {
                self.kept.push_back(taken);
            }
        }
        if let Ok(assigned) = self.consumer.assignment() {
            let _ = self.consumer.resume(&assigned);
        }
    }

    /// Partitions that went to another relay since this was asked last. What was taken of them and is
    /// not committed is the other's.
    pub(crate) fn lost(&mut self) -> BTreeSet<i32> {
        std::mem::take(&mut self.lost)
    }

    /// Commits now and then, and only what has changed. Of each partition: the first record that is
    /// not done with. When it did: how many partitions are this relay's.
    pub(crate) fn commit(&mut self, offsets: impl Iterator<Item = (i32, i64)>) -> Option<i64> {
        if self.committed_at.elapsed() < Duration::from_millis(GROUP_COMMIT_MS) {
            return None;
        }
        self.commit_as(CommitMode::Async, offsets);
        i64::try_from(self.consumer.assignment().ok()?.count()).ok()
    }

    /// Commits, waits for it, and leaves the group.
    pub(crate) fn leave(mut self, offsets: impl Iterator<Item = (i32, i64)>) {
        self.commit_as(CommitMode::Sync, offsets);
        self.consumer.unsubscribe();
    }

    fn commit_as(&mut self, mode: CommitMode, offsets: impl Iterator<Item = (i32, i64)>) {
        self.committed_at = Instant::now();
        if self.consumer.context().commit_failed.swap(false, Ordering::AcqRel) {
            self.committed.clear();
        }
        let mut list = TopicPartitionList::new();
        for (partition, offset) in offsets {
            if self.committed.insert(partition, offset) != Some(offset) {
                // Refused only if it were there twice.
                let _ = list.add_partition_offset(self.topic, partition, Offset::Offset(offset));
            }
        }
        if list.count() > 0
            && let Err(error) = self.consumer.commit(&list, mode)
        {
            tracing::debug!(%error, "offsets not committed");
            self.committed.clear();
        }
    }

    fn poll(&mut self, wait: Duration) -> Option<T> {
        let polled = self.consumer.poll(wait).map(|it| it.map(|record| T::take(&record)));
        // Told before the record was, which is therefore none of those that are lost.
        let told = &self.consumer.context().lost;
        let lost = std::mem::take(&mut *told.lock().unwrap_or_else(PoisonError::into_inner));
        if !lost.is_empty() {
            self.kept.retain(|it| !lost.contains(&it.partition()));
            self.committed.retain(|partition, _| !lost.contains(partition));
            self.lost.extend(lost);
        }
        match polled? {
            Ok(taken) => Some(taken),
            Err(error) => {
                tracing::debug!(%error, topic = self.topic, "consumer");
                None
            }
        }
    }
}

/// Commits the topic's end for a group that has committed nothing yet: otherwise what comes before its first
/// commit would be lost with a crash. If this relay is not the first, its commit is refused, or is the
/// same: it comes before it joins.
fn fix_beginning(consumer: &BaseConsumer<Told>, topic: &str) -> Result<(), KafkaError> {
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE)?;
    let mut list = TopicPartitionList::new();
    for partition in metadata.topics().iter().flat_map(|it| it.partitions()) {
        list.add_partition(topic, partition.id());
    }
    if list.count() == 0 {
        use rdkafka::error::RDKafkaErrorCode::UnknownTopicOrPartition as Unknown;
        return Err(KafkaError::MetadataFetch(Unknown));
    }
    let committed = consumer.committed_offsets(list.clone(), PATIENCE)?;
    if committed.elements().iter().any(|it| matches!(it.offset(), Offset::Offset(_))) {
        return Ok(());
    }
    let mut ends = TopicPartitionList::new();
    for partition in partitions(&list) {
        let (_, end) = consumer.fetch_watermarks(topic, partition, PATIENCE)?;
        ends.add_partition_offset(topic, partition, Offset::Offset(end))?;
    }
    consumer.commit(&ends, CommitMode::Sync)
}
