//! The shards' metrics: each shard counts in its own atomics, without a lock; a scrape adds them up.
//! All names of this file begin with `realchat_gateway_`.

mod histogram;
mod lanes;

pub use lanes::Lane;
pub(crate) use lanes::Lanes;

use crate::close::{self, Reason};
use daemon::Metrics;
use histogram::Histogram;
use lanes::{LaneCounts, LaneSum, LaneTable};
use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) const ACTIVE_CONNECTIONS: &str = "active_connections";
pub(crate) const ACTIVE_SESSIONS: &str = "active_sessions";
pub(crate) const SEND_QUEUE_DEPTH: &str = "send_queue_depth";
pub(crate) const PAYLOADS_LIVE: &str = "payloads_live";
pub(crate) const RECENT_BYTES: &str = "recent_bytes";
pub(crate) const PARTIAL_BYTES: &str = "partial_bytes";
pub(crate) const RINGS_BORROWED: &str = "rings_borrowed";
pub(crate) const CONNECTIONS_ACCEPTED: &str = "connections_accepted";
pub(crate) const CONNECTIONS_REFUSED: &str = "connections_refused";
pub(crate) const TLS_HANDSHAKES: &str = "tls_handshakes";
pub(crate) const TLS_SESSIONS: &str = "tls_sessions";
pub(crate) const FRAMES_LIMITED: &str = "frames_limited";
pub(crate) const CONNECTIONS_CLOSED: &str = "connections_closed";
pub(crate) const SESSIONS_MOVED: &str = "sessions_moved";
pub(crate) const FRAMES_RECEIVED: &str = "frames_received";
pub(crate) const HTTP_REQUESTS: &str = "http_requests";
pub(crate) const ASKS_REFUSED: &str = "asks_refused";
pub(crate) const EVENTS_ENQUEUED: &str = "events_enqueued";
pub(crate) const EVENTS_HELD: &str = "events_held";
pub(crate) const EVENTS_SHED: &str = "events_shed";
pub(crate) const EVENTS_OVERFLOWED: &str = "events_overflowed";
pub(crate) const EVENTS_COALESCED: &str = "events_coalesced";
pub(crate) const RINGS_SHED: &str = "rings_shed";
pub(crate) const GAPS_TOLD: &str = "gaps_told";
pub(crate) const RESUMES_FROM_CACHE: &str = "resumes_from_cache";
pub(crate) const RESUMES_FROM_CHATD: &str = "resumes_from_chatd";
pub(crate) const EVENTS_NO_SESSION: &str = "events_no_session";
pub(crate) const RECIPIENTS_REACHED: &str = "recipients_reached";
pub(crate) const EVENTS_UNREADABLE: &str = "events_unreadable";
pub(crate) const EVENTS_WRITTEN: &str = "events_written";
pub(crate) const BYTES_WRITTEN: &str = "bytes_written";
pub(crate) const WRITES: &str = "writes";
pub(crate) const DELIVERY_LATENCY_MS: &str = "delivery_latency_ms";
pub(crate) const POLL_LATENCY_MS: &str = "poll_latency_ms";

/// A number that one thread changes and others read.
#[derive(Debug, Default)]
pub(crate) struct Cell(AtomicU64);

impl Cell {
    pub(crate) fn add(&self, count: u64) {
        // One writer: a plain load and store are enough, and cheaper than an atomic addition.
        self.0.store(self.get().wrapping_add(count), Ordering::Relaxed);
    }

    pub(crate) fn increment(&self) {
        self.add(1);
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one shard counts. Only its own thread writes.
#[derive(Debug, Default)]
pub(crate) struct ShardMetrics {
    pub(crate) active_connections: Cell,
    pub(crate) active_sessions: Cell,
    pub(crate) send_queue_depth: Cell,
    pub(crate) payloads_live: Cell,
    pub(crate) recent_bytes: Cell,
    pub(crate) partial_bytes: Cell,
    pub(crate) rings_borrowed: Cell,
    pub(crate) connections_accepted: Cell,
    pub(crate) connections_refused: Cell,
    pub(crate) tls_handshakes: Cell,
    pub(crate) tls_sessions: Cell,
    pub(crate) frames_limited: Cell,
    pub(crate) closes: [Cell; close::ALL.len()],
    pub(crate) sessions_moved: Cell,
    pub(crate) frames_received: Cell,
    pub(crate) http_requests: Cell,
    pub(crate) asks_refused: Cell,
    pub(crate) events_held: Cell,
    pub(crate) events_overflowed: Cell,
    pub(crate) events_coalesced: Cell,
    pub(crate) rings_shed: Cell,
    pub(crate) gaps_told: Cell,
    pub(crate) resumes_from_cache: Cell,
    pub(crate) resumes_from_chatd: Cell,
    pub(crate) events_unreadable: Cell,
    pub(crate) bytes_written: Cell,
    pub(crate) writes: Cell,
    pub(crate) delivery_latency: Histogram,
    lanes: LaneTable,
}

impl ShardMetrics {
    /// What is counted by partition.
    pub(crate) fn lane(&self, lane: Lane) -> &LaneCounts {
        self.lanes.of(lane)
    }

    pub(crate) fn closed(&self, reason: Reason) {
        self.closes[reason.index()].increment();
    }
}

/// The metrics of every shard.
#[derive(Debug, Clone)]
pub(crate) struct GatewayMetrics {
    shards: Arc<[Arc<ShardMetrics>]>,
    lanes: Lanes,
}

impl GatewayMetrics {
    /// For so many shards, and registered.
    pub(crate) fn register(shards: usize, metrics: &Metrics) -> Self {
        let shards: Arc<[_]> = (0..shards).map(|_| Arc::new(ShardMetrics::default())).collect();
        let all = Self { shards, lanes: Lanes::default() };
        for (name, help, read) in GAUGES {
            metrics.register(name, help, all.sum(MetricType::Gauge, *read));
        }
        for (name, help, read) in COUNTERS {
            metrics.register(name, help, all.sum(MetricType::Counter, *read));
        }
        for (name, help, read) in LANE_COUNTERS {
            let (shards, lanes) = (Arc::clone(&all.shards), all.lanes.clone());
            metrics.register(name, help, LaneSum { shards, lanes, read: *read });
        }
        let closes = Closes { shards: Arc::clone(&all.shards) };
        metrics.register(CONNECTIONS_CLOSED, "Connections that ended, by reason", closes);
        let latency = Latency { shards: Arc::clone(&all.shards) };
        let help = "Milliseconds from an event's creation to its last byte's write to a session";
        metrics.register(DELIVERY_LATENCY_MS, help, latency);
        all
    }

    pub(crate) fn shard(&self, index: u16) -> Arc<ShardMetrics> {
        Arc::clone(&self.shards[usize::from(index)])
    }

    /// The numbers of the partitions.
    pub(crate) fn lanes(&self) -> Lanes {
        self.lanes.clone()
    }

    /// Open connections of all shards.
    pub(crate) fn connections(&self) -> u64 {
        self.shards.iter().map(|shard| shard.active_connections.get()).sum()
    }

    fn sum(&self, kind: MetricType, read: fn(&ShardMetrics) -> &Cell) -> Sum {
        Sum { shards: Arc::clone(&self.shards), kind, read }
    }
}

type Row = (&'static str, &'static str, fn(&ShardMetrics) -> &Cell);

const GAUGES: &[Row] = &[
    (ACTIVE_CONNECTIONS, "Open connections", |it| &it.active_connections),
    (ACTIVE_SESSIONS, "Authenticated sessions", |it| &it.active_sessions),
    (TLS_HANDSHAKES, "TLS handshakes under way", |it| &it.tls_handshakes),
    (SEND_QUEUE_DEPTH, "Frames that wait in rings", |it| &it.send_queue_depth),
    (PAYLOADS_LIVE, "Payloads that are held", |it| &it.payloads_live),
    (RECENT_BYTES, "Bytes of recent events that are kept", |it| &it.recent_bytes),
    (PARTIAL_BYTES, "Bytes of messages, requests and TLS records that are not whole", |it| {
        &it.partial_bytes
    }),
    (RINGS_BORROWED, "Rings that are not empty", |it| &it.rings_borrowed),
];

const COUNTERS: &[Row] = &[
    (CONNECTIONS_ACCEPTED, "Connections accepted", |it| &it.connections_accepted),
    (CONNECTIONS_REFUSED, "Connections answered 503 because sessions_max was reached", |it| {
        &it.connections_refused
    }),
    (TLS_SESSIONS, "TLS handshakes that came to their end", |it| &it.tls_sessions),
    (FRAMES_LIMITED, "Frames refused because their user sent too many", |it| &it.frames_limited),
    (SESSIONS_MOVED, "Connections moved to their user's home shard", |it| &it.sessions_moved),
    (FRAMES_RECEIVED, "Frames of the client protocol received", |it| &it.frames_received),
    (HTTP_REQUESTS, "API requests passed to chatd", |it| &it.http_requests),
    (ASKS_REFUSED, "Requests refused because a queue was full", |it| &it.asks_refused),
    (EVENTS_HELD, "Events that waited for the end of a resume", |it| &it.events_held),
    (EVENTS_OVERFLOWED, "Events that closed a session because its ring was full", |it| {
        &it.events_overflowed
    }),
    (
        EVENTS_COALESCED,
        "Ephemeral events that took the place of an earlier one about the same",
        |it| &it.events_coalesced,
    ),
    (RINGS_SHED, "Rings that were full and thrown away instead of closing the session", |it| {
        &it.rings_shed
    }),
    (GAPS_TOLD, "Gaps that slow sessions were told of", |it| &it.gaps_told),
    (RESUMES_FROM_CACHE, "Resumes answered from the cache of recent events", |it| {
        &it.resumes_from_cache
    }),
    (RESUMES_FROM_CHATD, "Resumes that were asked of chatd", |it| &it.resumes_from_chatd),
    (EVENTS_UNREADABLE, "Events that could not be shown to a session", |it| &it.events_unreadable),
    (BYTES_WRITTEN, "Bytes written to sockets", |it| &it.bytes_written),
    (WRITES, "Writes to sockets", |it| &it.writes),
];

type LaneRow = (&'static str, &'static str, fn(&LaneCounts) -> &Cell);

/// By topic and partition.
const LANE_COUNTERS: &[LaneRow] = &[
    (EVENTS_NO_SESSION, "Recipients of events without a session here", |it| &it.no_session),
    (RECIPIENTS_REACHED, "Recipients of events with a session here", |it| &it.reached),
    (EVENTS_ENQUEUED, "Events put into a session's ring", |it| &it.enqueued),
    (
        EVENTS_SHED,
        "Events left out: ephemeral ones of slow sessions, and those that a resume names as a gap or has already",
        |it| &it.shed,
    ),
    (EVENTS_WRITTEN, "Events written to a session", |it| &it.written),
];

/// One number of every shard, added up.
#[derive(Debug, Clone)]
struct Sum {
    shards: Arc<[Arc<ShardMetrics>]>,
    kind: MetricType,
    read: fn(&ShardMetrics) -> &Cell,
}

impl EncodeMetric for Sum {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let sum: u64 = self.shards.iter().map(|shard| (self.read)(shard).get()).sum();
        match self.kind {
            MetricType::Counter => encoder.encode_counter::<NoLabelSet, _, u64>(&sum, None),
            _ => encoder.encode_gauge(&i64::try_from(sum).unwrap_or(i64::MAX)),
        }
    }

    fn metric_type(&self) -> MetricType {
        self.kind
    }
}

#[derive(Debug, Clone)]
struct Closes {
    shards: Arc<[Arc<ShardMetrics>]>,
}

impl EncodeMetric for Closes {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for reason in close::ALL {
            let sum: u64 = self.shards.iter().map(|it| it.closes[reason.index()].get()).sum();
            let code = reason.code().map_or_else(|| "none".to_owned(), |code| code.to_string());
            let labels = [("reason", reason.label()), ("code", code.as_str())];
            encoder.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&sum, None)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}

#[derive(Debug, Clone)]
struct Latency {
    shards: Arc<[Arc<ShardMetrics>]>,
}

impl EncodeMetric for Latency {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let (sum_ms, count, buckets) =
            histogram::added_up(self.shards.iter().map(|shard| &shard.delivery_latency));
        encoder.encode_histogram::<NoLabelSet>(sum_ms, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

/// How old records are when the Kafka threads take them: each thread fills its own.
#[derive(Debug, Clone)]
pub(crate) struct PollLatency {
    threads: Arc<[Histogram]>,
}

impl PollLatency {
    /// For so many threads, and registered.
    pub(crate) fn register(threads: usize, metrics: &Metrics) -> Self {
        let all = Self { threads: (0..threads).map(|_| Histogram::default()).collect() };
        let help = "Milliseconds from an event's creation to its record's poll from Kafka";
        metrics.register(POLL_LATENCY_MS, help, all.clone());
        all
    }

    pub(crate) fn observe(&self, thread: u16, us: u64) {
        self.threads[usize::from(thread)].observe(us);
    }
}

impl EncodeMetric for PollLatency {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let (sum_ms, count, buckets) = histogram::added_up(self.threads.iter());
        encoder.encode_histogram::<NoLabelSet>(sum_ms, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_adds_the_shards_up() {
        let registry = Metrics::new("gateway");
        let all = GatewayMetrics::register(2, &registry);
        all.shard(0).active_connections.set(3);
        all.shard(1).active_connections.set(4);
        all.shard(1).closed(Reason::BackpressureOverflow);
        all.shard(0).delivery_latency.observe(1_500);
        all.shard(1).delivery_latency.observe(70_000);
        let lane = all.lanes().of("t", 3);
        all.shard(0).lane(lane).enqueued.add(2);
        all.shard(1).lane(lane).enqueued.add(3);
        assert_eq!(all.connections(), 7);
        let text = registry.text();
        for line in [
            "realchat_gateway_active_connections 7",
            "realchat_gateway_connections_closed_total{reason=\"backpressure_overflow\",code=\"4008\"} 1",
            "realchat_gateway_delivery_latency_ms_count 2",
            "realchat_gateway_delivery_latency_ms_sum 71.5",
            "realchat_gateway_delivery_latency_ms_bucket{le=\"2.0\"} 1",
            "realchat_gateway_events_enqueued_total{topic=\"\",partition=\"\"} 0",
            "realchat_gateway_events_enqueued_total{topic=\"t\",partition=\"3\"} 5",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn a_scrape_adds_the_kafka_threads_up() {
        let registry = Metrics::new("gateway");
        let all = PollLatency::register(2, &registry);
        all.observe(0, 400);
        all.observe(1, 1_600);
        let text = registry.text();
        for line in [
            "realchat_gateway_poll_latency_ms_sum 2.0",
            "realchat_gateway_poll_latency_ms_bucket{le=\"0.5\"} 1",
            "realchat_gateway_poll_latency_ms_bucket{le=\"2.0\"} 2",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} is missing in\n{text}");
        }
    }
}
