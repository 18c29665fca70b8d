//! The relay's metrics; each is named `realchat_relay_...`.

use daemon::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use proto::topics;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Topic {
    pub(crate) topic: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct TopicPartition {
    pub(crate) topic: &'static str,
    pub(crate) partition: i32,
}

/// A gateway's own topic, and a partition of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct CopyPartition {
    pub(crate) topic: String,
    pub(crate) partition: i32,
}

pub(crate) type Copied = Family<CopyPartition, Counter>;

#[derive(Clone)]
pub(crate) struct RelayMetrics {
    /// From handing a wave to Kafka's client until all of it is acknowledged.
    pub(crate) publish_latency_ms: Histogram,
    /// From the row's creation until it is acknowledged.
    pub(crate) outbox_age_ms: Histogram,
    pub(crate) oldest_age_ms: Gauge,
    /// The ledger's stage `relayed`: acknowledged by the broker and marked.
    pub(crate) relayed: Family<TopicPartition, Counter>,
    /// The same for copies in gateways' own topics: acknowledged, however often.
    pub(crate) copied: Copied,
    /// Refused for good and kept in the topic's dead letters.
    pub(crate) dead_lettered: Family<Topic, Counter>,
    pub(crate) refused: Family<Topic, Counter>,
    /// Waves that the broker did not acknowledge in time; their records go again.
    pub(crate) stalls: Counter,
    /// Records of such waves that the broker had all the same.
    pub(crate) found: Counter,
    /// Acknowledged but not marked, because the lease was gone: they are published again.
    pub(crate) unmarked: Counter,
    pub(crate) shards_held: Gauge,
}

impl RelayMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let ms = || Histogram::new(exponential_buckets(0.25, 2.0, 20));
        Self {
            publish_latency_ms: metrics.register(
                "kafka_publish_latency_ms",
                "From handing a wave to Kafka's client until the broker acknowledged it",
                ms(),
            ),
            outbox_age_ms: metrics.register(
                "outbox_age_ms",
                "Age of a record when the broker had acknowledged it",
                ms(),
            ),
            oldest_age_ms: metrics.register(
                "outbox_oldest_age_ms",
                "Age of the oldest record that is not published, in the shards held",
                Gauge::default(),
            ),
            relayed: metrics.register(
                "relayed",
                "Records acknowledged by the broker and marked as published",
                Family::default(),
            ),
            copied: metrics.register(
                "copied",
                "Copies in the topics of single gateways that the broker acknowledged",
                Family::default(),
            ),
            dead_lettered: metrics.register(
                "dead_lettered",
                "Records that could not be published and went to the topic's dead letters",
                from_zero(),
            ),
            refused: metrics.register(
                "refused",
                "Tries of single records that were refused",
                Family::default(),
            ),
            stalls: metrics.register(
                "stalls",
                "Waves that the broker did not acknowledge in time",
                Counter::default(),
            ),
            found: metrics.register(
                "found",
                "Records that were in the broker's log though it did not acknowledge them in time",
                Counter::default(),
            ),
            unmarked: metrics.register(
                "unmarked",
                "Records acknowledged by the broker after the lease was gone",
                Counter::default(),
            ),
            shards_held: metrics.register(
                "shards_held",
                "Shards of the outbox that this relay owns",
                Gauge::default(),
            ),
        }
    }
}

/// A counter for each topic: an alert sees the first increase only of what was there before.
fn from_zero() -> Family<Topic, Counter> {
    let family = Family::<Topic, Counter>::default();
    for topic in topics::ALL {
        let _ = family.get_or_create(&Topic { topic: topic.to_owned() });
    }
    family
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_letters_are_counted_from_zero() {
        let metrics = Metrics::new("relay");
        let _kept = RelayMetrics::new(&metrics);
        for topic in topics::ALL {
            let row = format!("realchat_relay_dead_lettered_total{{topic=\"{topic}\"}} 0");
            assert!(metrics.text().contains(&row), "{row}");
        }
    }
}
