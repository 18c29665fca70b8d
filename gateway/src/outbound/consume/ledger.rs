//! The Kafka stage of the loss ledger, by partition: consumed = routed + skipped, and every routed record
//! is so many deliveries to shards, whose own ledger goes on from there.

use crate::metrics::{Lane, Lanes, PollLatency};
use daemon::{Metrics, failpoint};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use std::sync::Arc;

type Label = [(&'static str, String); 1];
type PartitionLabel = [(&'static str, String); 2];

/// One partition's.
pub(super) struct PartitionCounts {
    pub(super) lane: Lane,
    pub(super) consumed: Counter,
    pub(super) skipped: Counter,
    /// (record, recipient) pairs mailed.
    pub(super) recipients: Counter,
}

/// Counters that a Kafka thread holds ready, so that counting looks nothing up.
pub(super) struct Ledger {
    registered: Arc<Registered>,
    /// In the order of the thread's partitions.
    pub(super) partitions: Vec<PartitionCounts>,
    /// (record, shard) pairs mailed.
    pub(super) deliveries: Counter,
    pub(super) commits: Counter,
    pub(super) commit_failures: Counter,
    pub(super) repositions: Counter,
    /// Of a build with failpoints.
    pub(super) early_commits: Counter,
    pub(super) lag: Gauge,
    pub(super) rosters_fetched: Counter,
    pub(super) records_shed: Counter,
    pub(super) summaries_shed: Counter,
    pub(super) roster_bytes: Gauge,
    pub(super) records_held: Gauge,
    pub(super) poll_latency: PollLatency,
}

impl Ledger {
    /// The next of the thread's partitions.
    pub(super) fn add_partition(&mut self, topic: &'static str, partition: i32) {
        let it = &self.registered;
        let labels = [("topic", topic.to_owned()), ("partition", partition.to_string())];
        let counter = |of: &Family<PartitionLabel, Counter>| of.get_or_create(&labels).clone();
        self.partitions.push(PartitionCounts {
            lane: it.lanes.of(topic, partition),
            consumed: counter(&it.consumed),
            skipped: counter(&it.skipped),
            recipients: counter(&it.recipients),
        });
    }
}

/// The metrics that the threads share.
pub(super) struct Registered {
    lanes: Lanes,
    consumed: Family<PartitionLabel, Counter>,
    skipped: Family<PartitionLabel, Counter>,
    recipients: Family<PartitionLabel, Counter>,
    deliveries: Counter,
    commits: Counter,
    commit_failures: Counter,
    repositions: Counter,
    early_commits: Counter,
    lag: Family<Label, Gauge>,
    rosters_fetched: Counter,
    records_shed: Counter,
    summaries_shed: Counter,
    roster_bytes: Family<Label, Gauge>,
    records_held: Family<Label, Gauge>,
    pub(super) roster_failures: Counter,
    poll_latency: PollLatency,
}

impl Registered {
    pub(super) fn new(threads: usize, metrics: &Metrics, lanes: Lanes) -> Self {
        let counter = |name, help| metrics.register(name, help, Counter::default());
        Self {
            poll_latency: PollLatency::register(threads, metrics),
            consumed: metrics.register(
                "records_consumed",
                "Records taken from Kafka",
                Family::default(),
            ),
            skipped: metrics.register(
                "records_skipped",
                "Records that could not be read and went to the dead letters",
                Family::default(),
            ),
            deliveries: counter(
                "deliveries_mailed",
                "Records mailed to shards, once for each shard",
            ),
            recipients: metrics.register(
                "recipients_mailed",
                "Recipients of the records mailed to shards, whether they have a session or not",
                Family::default(),
            ),
            lanes,
            commits: counter("offset_commits", "Commits of offsets that were sent"),
            commit_failures: counter("offset_commit_failures", "Commits of offsets that failed"),
            repositions: counter(
                "offset_repositions",
                "Partitions that were gone on with elsewhere because their offset was out of range",
            ),
            early_commits: if failpoint::ENABLED {
                counter("offsets_committed_early", "Offsets committed before all was enqueued")
            } else {
                Counter::default()
            },
            rosters_fetched: counter(
                "rosters_fetched",
                "Lists of a large conversation's members that chatd gave",
            ),
            records_shed: counter(
                "records_shed",
                "Records of large conversations that became a gap because the members were not known in time",
            ),
            summaries_shed: counter(
                "receipt_summaries_shed",
                "Receipt summaries of large conversations whose members were not known",
            ),
            roster_failures: counter(
                "roster_failures",
                "Pages of a large conversation's members that were asked for and not given",
            ),
            roster_bytes: metrics.register(
                "roster_bytes",
                "Bytes of the members of large conversations that are remembered",
                Family::default(),
            ),
            records_held: metrics.register(
                "records_held",
                "Records of large conversations that wait for the members",
                Family::default(),
            ),
            lag: metrics.register(
                "kafka_lag",
                "Records that are in Kafka and not yet consumed",
                Family::default(),
            ),
        }
    }

    pub(super) fn ledger(self: &Arc<Self>, thread: usize) -> Ledger {
        let consumer = [("consumer", thread.to_string())];
        Ledger {
            registered: Arc::clone(self),
            partitions: Vec::new(),
            deliveries: self.deliveries.clone(),
            commits: self.commits.clone(),
            commit_failures: self.commit_failures.clone(),
            repositions: self.repositions.clone(),
            early_commits: self.early_commits.clone(),
            lag: self.lag.get_or_create(&consumer).clone(),
            rosters_fetched: self.rosters_fetched.clone(),
            records_shed: self.records_shed.clone(),
            summaries_shed: self.summaries_shed.clone(),
            roster_bytes: self.roster_bytes.get_or_create(&consumer).clone(),
            records_held: self.records_held.get_or_create(&consumer).clone(),
            poll_latency: self.poll_latency.clone(),
        }
    }
}
