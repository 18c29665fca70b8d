//! presenced's configuration.

use daemon::{Config, Key, Kind};
use proto::limits::LINK_SECRET_BYTES_MIN;

pub(crate) const KEYS: &[Key] = &[
    Key {
        name: "link.listen",
        kind: Kind::LinkAddress,
        default: "127.0.0.1:7102",
        doc: "Where gateways report: host:port or unix:/path.",
    },
    Key {
        name: "link.secret",
        kind: Kind::Secret { bytes_min: LINK_SECRET_BYTES_MIN },
        default: "",
        doc: "The secret that gateways and presenced share; required.",
    },
    Key {
        name: "redis.url",
        kind: Kind::Secret { bytes_min: 1 },
        default: "redis://127.0.0.1:6379/0",
        doc: "The Redis that holds sessions and presence; one presenced per database of it.",
    },
    Key {
        name: "kafka.brokers",
        kind: Kind::List { items_max: 16 },
        default: "127.0.0.1:9092",
        doc: "Brokers to begin with, host:port each.",
    },
    Key {
        name: "presence.expiry_ms",
        kind: Kind::Integer { min: 1_000, max: 3_600_000 },
        default: "60000",
        doc: "A session of which nothing was heard for so long is gone, in ms.",
    },
    Key {
        name: "presence.heartbeat_ms",
        kind: Kind::Integer { min: 100, max: 600_000 },
        default: "20000",
        doc: "How often gateways report every session, in ms; at most a third of the expiry.",
    },
    Key {
        name: "presence.gateway_lease_ms",
        kind: Kind::Integer { min: 500, max: 3_600_000 },
        default: "45000",
        doc: "A gateway of which nothing was heard for so long is dead, and its sessions are gone, in ms.",
    },
    Key {
        name: "presence.grace_ms",
        kind: Kind::Integer { min: 0, max: 600_000 },
        default: "3000",
        doc: "How long a user without a device is still called online, in ms.",
    },
    Key {
        name: "presence.restart_grace_ms",
        kind: Kind::Integer { min: 0, max: 600_000 },
        default: "15000",
        doc: "How long the users of a gateway that was restarted have to connect again, in ms.",
    },
];

/// The timings of the rules, in ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timings {
    /// A session that nothing was heard of for so long is gone.
    pub expiry_ms: u64,
    /// How often gateways say everything again.
    pub heartbeat_ms: u64,
    /// A gateway that nothing was heard of for so long is gone, and its sessions with it.
    pub gateway_lease_ms: u64,
    /// Between a user's last session and the announcement.
    pub grace_ms: u64,
    /// What the sessions of a gateway's earlier run have left.
    pub restart_grace_ms: u64,
}

/// What the threads are given, checked.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) instance: String,
    pub(crate) link_listen: String,
    pub(crate) link_secret: String,
    pub(crate) redis_url: String,
    /// As librdkafka's `bootstrap.servers`.
    pub(crate) brokers: String,
    pub(crate) timings: Timings,
}

impl Settings {
    pub(crate) fn new(config: &Config, instance: String) -> Result<Self, String> {
        if config.text("link.secret").is_empty() {
            return Err(format!(
                "link.secret is not set; the secret that the gateways have is required, of at \
                 least {LINK_SECRET_BYTES_MIN} bytes"
            ));
        }
        if config.list("kafka.brokers").is_empty() {
            return Err("kafka.brokers is empty; at least one host:port is required".to_owned());
        }
        let timings = Timings {
            expiry_ms: config.integer("presence.expiry_ms"),
            heartbeat_ms: config.integer("presence.heartbeat_ms"),
            gateway_lease_ms: config.integer("presence.gateway_lease_ms"),
            grace_ms: config.integer("presence.grace_ms"),
            restart_grace_ms: config.integer("presence.restart_grace_ms"),
        };
        timings.check()?;
        Ok(Self {
            instance,
            link_listen: config.text("link.listen").to_owned(),
            link_secret: config.text("link.secret").to_owned(),
            redis_url: config.text("redis.url").to_owned(),
            brokers: config.list("kafka.brokers").join(","),
            timings,
        })
    }
}

impl Timings {
    fn check(self) -> Result<(), String> {
        if self.heartbeat_ms * 3 > self.expiry_ms {
            return Err(format!(
                "presence.heartbeat_ms is {}, but at most a third of presence.expiry_ms ({}) is \
                 allowed, so that one lost heartbeat takes nobody offline",
                self.heartbeat_ms, self.expiry_ms
            ));
        }
        if self.gateway_lease_ms < self.heartbeat_ms * 2 || self.gateway_lease_ms > self.expiry_ms {
            return Err(format!(
                "presence.gateway_lease_ms is {}, but twice presence.heartbeat_ms ({}) to \
                 presence.expiry_ms ({}) is allowed",
                self.gateway_lease_ms, self.heartbeat_ms, self.expiry_ms
            ));
        }
        Ok(())
    }

    /// Within so long every living session has been heard of.
    pub(crate) fn full_period_ms(self) -> u64 {
        self.heartbeat_ms + self.heartbeat_ms / 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timings_that_would_take_living_sessions_offline_are_refused() {
        let good = Timings {
            expiry_ms: 60_000,
            heartbeat_ms: 20_000,
            gateway_lease_ms: 45_000,
            grace_ms: 3_000,
            restart_grace_ms: 15_000,
        };
        assert_eq!(good.check(), Ok(()));
        let error = Timings { heartbeat_ms: 30_000, ..good }.check().unwrap_err();
        assert!(error.contains("at most a third"), "{error}");
        let error = Timings { gateway_lease_ms: 30_000, ..good }.check().unwrap_err();
        assert!(error.contains("presence.gateway_lease_ms is 30000"), "{error}");
    }
}
