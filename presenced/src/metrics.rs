//! presenced's metrics; each is named `realchat_presenced_...`.

use daemon::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct What {
    pub(crate) event: &'static str,
}

#[derive(Clone)]
pub(crate) struct PresenceMetrics {
    pub(crate) users_online: Gauge,
    pub(crate) sessions: Gauge,
    pub(crate) reports: Counter,
    /// Reports answered with an error because Redis did not have them.
    pub(crate) reports_failed: Counter,
    /// Changes that Kafka has, by event: online, offline.
    pub(crate) announced: Family<What, Counter>,
    pub(crate) redis_latency_ms: Histogram,
    /// How often Redis was lost, or lost what it had.
    pub(crate) redis_lost: Counter,
}

impl PresenceMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            users_online: metrics.register(
                "users_online",
                "Users announced as online",
                Gauge::default(),
            ),
            sessions: metrics.register(
                "sessions",
                "Sessions that gateways reported and that have not expired",
                Gauge::default(),
            ),
            reports: metrics.register("reports", "Reports from gateways", Counter::default()),
            reports_failed: metrics.register(
                "reports_failed",
                "Reports answered with an error because Redis did not have them",
                Counter::default(),
            ),
            announced: metrics.register(
                "announced",
                "Changes of presence that Kafka has",
                Family::default(),
            ),
            redis_latency_ms: metrics.register(
                "redis_latency_ms",
                "One pipeline to Redis and back",
                Histogram::new(exponential_buckets(0.125, 2.0, 16)),
            ),
            redis_lost: metrics.register(
                "redis_lost",
                "How often Redis was lost, or lost what it had",
                Counter::default(),
            ),
        }
    }
}
