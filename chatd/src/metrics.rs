//! chatd's metrics; Prometheus sees them as `realchat_chatd_<name>`.

use daemon::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use proto::Uuid;
use proto::error::ErrorCode;
use proto::id::outbox_shard;
use std::collections::HashMap;
use std::time::Duration;

pub(crate) const DB_QUERY_LATENCY: &str = "db_query_latency_seconds";
pub(crate) const OUTBOX_PENDING_COUNT: &str = "outbox_pending_count";
pub(crate) const WRITE_BATCH_SIZE: &str = "write_batch_size";
pub(crate) const WRITE_COMMIT_LATENCY: &str = "write_commit_latency_seconds";
pub(crate) const WRITE_QUEUE_DEPTH: &str = "write_queue_depth";
pub(crate) const WRITE_RETRIES: &str = "write_retries";
pub(crate) const LEDGER_COMMITTED: &str = "ledger_committed";
pub(crate) const EVENTS_COMMITTED: &str = "events_committed";
pub(crate) const REPEATED: &str = "repeated_requests";
pub(crate) const SYNC_REWOUND: &str = "sync_rewound_conversations";
pub(crate) const ERRORS: &str = "errors";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct StatementLabel {
    pub(crate) statement: &'static str,
}

/// The outbox shard stands for the partition, which the relay finds out: both are taken from one hash.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ShardLabel {
    topic: &'static str,
    shard: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct KindLabel {
    pub(crate) kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ErrorLabel {
    pub(crate) error_code: &'static str,
}

type Latency = Family<StatementLabel, Histogram, fn() -> Histogram>;

/// Shared by all threads.
#[derive(Clone)]
pub(crate) struct ChatdMetrics {
    db_query_latency: Latency,
    pub(crate) outbox_pending_count: Gauge,
    pub(crate) write_batch_size: Histogram,
    pub(crate) write_commit_latency: Histogram,
    pub(crate) write_queue_depth: Gauge,
    pub(crate) write_retries: Counter,
    /// Records committed to the outbox: the first stage of the loss ledger.
    ledger_committed: Family<ShardLabel, Counter>,
    pub(crate) events_committed: Family<KindLabel, Counter>,
    pub(crate) repeated: Counter,
    pub(crate) sync_rewound: Counter,
    errors: Family<ErrorLabel, Counter>,
}

/// 50 microseconds to 13 seconds.
fn latency_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.000_05, 2.0, 19))
}

impl ChatdMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let m = metrics;
        let latency: Latency = Family::new_with_constructor(latency_histogram);
        let sizes = || Histogram::new(exponential_buckets(1.0, 2.0, 13));
        Self {
            db_query_latency: m.register(
                DB_QUERY_LATENCY,
                "Time a statement took, as chatd saw it",
                latency,
            ),
            outbox_pending_count: m.register(
                OUTBOX_PENDING_COUNT,
                "Outbox rows that are not published yet, sampled",
                Gauge::default(),
            ),
            write_batch_size: m.register(WRITE_BATCH_SIZE, "Requests in one transaction", sizes()),
            write_commit_latency: m.register(
                WRITE_COMMIT_LATENCY,
                "Time from taking a batch to its commit",
                latency_histogram(),
            ),
            write_queue_depth: m.register(
                WRITE_QUEUE_DEPTH,
                "Requests that wait for a writer, sampled",
                Gauge::default(),
            ),
            write_retries: m.register(
                WRITE_RETRIES,
                "Batches that were tried again",
                Counter::default(),
            ),
            ledger_committed: m.register(
                LEDGER_COMMITTED,
                "Records committed to the outbox",
                Family::default(),
            ),
            events_committed: m.register(
                EVENTS_COMMITTED,
                "Events committed to conversations' logs",
                Family::default(),
            ),
            repeated: m.register(
                REPEATED,
                "Requests answered again from their idempotency key",
                Counter::default(),
            ),
            sync_rewound: m.register(
                SYNC_REWOUND,
                "Cursors of syncs that lay beyond their conversation's last event",
                Counter::default(),
            ),
            errors: m.register(ERRORS, "Requests refused, by error code", Family::default()),
        }
    }

    pub(crate) fn statement(&self, statement: &'static str, took: Duration) {
        let label = StatementLabel { statement };
        self.db_query_latency.get_or_create(&label).observe(took.as_secs_f64());
    }

    /// Records of a transaction that was committed: topic and key of each.
    pub(crate) fn committed<'a>(&self, rows: impl Iterator<Item = (&'static str, &'a Uuid)>) {
        let mut counts: HashMap<(&'static str, u16), u64> = HashMap::new();
        for (topic, key) in rows {
            *counts.entry((topic, outbox_shard(key))).or_default() += 1;
        }
        for ((topic, shard), count) in counts {
            self.ledger_committed.get_or_create(&ShardLabel { topic, shard }).inc_by(count);
        }
    }

    pub(crate) fn error(&self, code: ErrorCode) {
        self.errors.get_or_create(&ErrorLabel { error_code: code.as_str() }).inc();
    }
}
