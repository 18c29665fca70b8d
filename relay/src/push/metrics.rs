//! The metrics of the push part; each is named `realchat_relay_push_...`.

use super::wishes::Unwanted;
use daemon::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Urgency {
    pub(crate) priority: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Reason {
    pub(crate) reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Class {
    pub(crate) class: &'static str,
}

#[derive(Clone)]
pub(crate) struct PushMetrics {
    pub(crate) requested: Family<Urgency, Counter>,
    pub(crate) coalesced: Counter,
    pub(crate) suppressed: Family<Reason, Counter>,
    pub(crate) unreadable: Counter,
    pub(crate) partitions: Gauge,
    pub(crate) pending: Gauge,
    pub(crate) stalled: Gauge,
    pub(crate) delivered: Counter,
    pub(crate) answers: Family<Class, Counter>,
    pub(crate) dead_lettered: Counter,
}

impl PushMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            requested: metrics.register(
                "push_requested",
                "Push requests that the broker acknowledged",
                Family::default(),
            ),
            coalesced: metrics.register(
                "push_coalesced",
                "Messages that joined others in the same push request",
                Counter::default(),
            ),
            suppressed: metrics.register(
                "push_suppressed",
                "Recipients and push requests that were left out, by reason",
                Family::default(),
            ),
            unreadable: metrics.register(
                "push_unreadable",
                "Records of the log that could not be read and so asked for nothing",
                Counter::default(),
            ),
            partitions: metrics.register(
                "push_partitions",
                "Partitions of the log whose messages this relay makes push requests of",
                Gauge::default(),
            ),
            pending: metrics.register(
                "push_pending",
                "Windows that collect messages, and push requests that are not settled",
                Gauge::default(),
            ),
            stalled: metrics.register(
                "push_stalled",
                "1 while push requests wait for Redis, PostgreSQL or the broker",
                Gauge::default(),
            ),
            delivered: metrics.register(
                "push_delivered",
                "Push requests that the webhook accepted",
                Counter::default(),
            ),
            answers: metrics.register(
                "push_webhook_answers",
                "Answers of the webhook by class; none: there was no answer",
                Family::default(),
            ),
            dead_lettered: metrics.register(
                "push_dead_lettered",
                "Push requests that could not be delivered and became dead letters",
                Counter::default(),
            ),
        }
    }

    pub(crate) fn suppress(&self, why: Unwanted, count: usize) {
        let reason = Reason { reason: why.word() };
        self.suppressed.get_or_create(&reason).inc_by(count as u64);
    }

    pub(crate) fn request(&self, is_high: bool) {
        let priority = if is_high { "high" } else { "normal" };
        self.requested.get_or_create(&Urgency { priority }).inc();
    }
}
