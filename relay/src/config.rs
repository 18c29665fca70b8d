//! The relay's configuration.

use crate::limits::LEASE_MS_MAX;
use daemon::{Config, Key, Kind};
use std::time::Duration;

pub(crate) const KEYS: &[Key] = &[
    Key {
        name: "postgres.url",
        kind: Kind::Secret { bytes_min: 1 },
        default: "postgres://realchat@127.0.0.1:5432/realchat",
        doc: "The database with the outbox; the login must be a member of the role realchat_relay.",
    },
    Key {
        name: "kafka.brokers",
        kind: Kind::List { items_max: 16 },
        default: "127.0.0.1:9092",
        doc: "Brokers to begin with, host:port each.",
    },
    Key {
        name: "kafka.partitions",
        kind: Kind::Integer { min: 1, max: 1_024 },
        default: "8",
        doc: "Partitions of each topic that the relay creates.",
    },
    Key {
        name: "kafka.replication",
        kind: Kind::Integer { min: 1, max: 16 },
        default: "1",
        doc: "Replicas of each topic that the relay creates; 3 where there are three brokers.",
    },
    Key {
        name: "relay.shards",
        kind: Kind::Integer { min: 1, max: 1_024 },
        default: "16",
        doc: "Shards of the outbox; must be what chatd writes.",
    },
    Key {
        name: "relay.workers",
        kind: Kind::Integer { min: 1, max: 64 },
        default: "2",
        doc: "Threads that publish; each serves its own shards with its own connections.",
    },
    Key {
        name: "relay.batch_max",
        kind: Kind::Integer { min: 1, max: 16_384 },
        default: "2048",
        doc: "Rows of one shard that are read and published at once.",
    },
    Key {
        name: "relay.poll_ms",
        kind: Kind::Integer { min: 1, max: 60_000 },
        default: "200",
        doc: "How often the outbox is looked at when no notification comes, in ms.",
    },
    Key {
        name: "relay.lease_ms",
        kind: Kind::Integer { min: 500, max: LEASE_MS_MAX as u64 },
        default: "2500",
        doc: "How long a relay owns a shard after it last said so, in ms; a dead relay's shards \
              are taken over after about this long.",
    },
];

/// What the threads are given, checked.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) instance: String,
    pub(crate) postgres_url: String,
    /// As librdkafka's `bootstrap.servers`.
    pub(crate) brokers: String,
    pub(crate) partitions: i32,
    pub(crate) replication: i32,
    pub(crate) shards: i16,
    pub(crate) workers: usize,
    pub(crate) batch_max: i64,
    pub(crate) poll: Duration,
    pub(crate) lease: Duration,
}

impl Settings {
    pub(crate) fn new(config: &Config, instance: String) -> Result<Self, String> {
        if config.list("kafka.brokers").is_empty() {
            return Err("kafka.brokers is empty; at least one host:port is required".to_owned());
        }
        Ok(Self {
            instance,
            postgres_url: config.text("postgres.url").to_owned(),
            brokers: config.list("kafka.brokers").join(","),
            partitions: small(config, "kafka.partitions")?,
            replication: small(config, "kafka.replication")?,
            shards: small(config, "relay.shards")?,
            workers: config.count("relay.workers"),
            batch_max: small(config, "relay.batch_max")?,
            poll: config.duration_ms("relay.poll_ms"),
            lease: config.duration_ms("relay.lease_ms"),
        })
    }

    /// A part of the lease, see [`crate::limits::RENEW_PERCENT`] and its neighbours.
    pub(crate) fn lease_part(&self, percent: u64) -> Duration {
        let lease_ms = u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(lease_ms.saturating_mul(percent) / 100)
    }
}

fn small<T: TryFrom<u64>>(config: &Config, name: &str) -> Result<T, String> {
    T::try_from(config.integer(name)).map_err(|_| format!("{name} is too large"))
}
