//! The relay's configuration.

use crate::limits::{LEASE_MS_MAX, WEBHOOK_SECRET_BYTES_MIN};
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
    Key {
        name: "redis.url",
        kind: Kind::Secret { bytes_min: 1 },
        default: "",
        doc: "The Redis that presenced keeps presence in, to know who is without a session, and gateways with \
              topics of their own keep their users in.",
    },
    Key {
        name: "push.enabled",
        kind: Kind::OneOf(&["auto", "on", "off"]),
        default: "auto",
        doc: "Whether push requests are made for members without a session; auto: if redis.url is set.",
    },
    Key {
        name: "push.window_ms",
        kind: Kind::Integer { min: 0, max: 600_000 },
        default: "5000",
        doc: "For how long a user's messages of one conversation are collected into one push request, \
              in ms; those of high priority wait for nothing.",
    },
    Key {
        name: "push.webhook_url",
        kind: Kind::Secret { bytes_min: 1 },
        default: "",
        doc: "Where push requests are delivered in batches, http:// or https://; empty: nowhere.",
    },
    Key {
        name: "push.webhook_secret",
        kind: Kind::Secret { bytes_min: WEBHOOK_SECRET_BYTES_MIN },
        default: "",
        doc: "The secret that deliveries are signed with; required where push.webhook_url is set.",
    },
    Key {
        name: "push.webhook_timeout_ms",
        kind: Kind::Integer { min: 10, max: 60_000 },
        default: "5000",
        doc: "How long the webhook may take to answer, in ms.",
    },
    Key {
        name: "push.webhook_batch_max",
        kind: Kind::Integer { min: 1, max: 1_000 },
        default: "100",
        doc: "Push requests in one delivery.",
    },
    Key {
        name: "push.webhook_retry_ms",
        kind: Kind::Integer { min: 1, max: 30_000 },
        default: "500",
        doc: "Wait before a delivery that failed is tried again, in ms; it doubles from try to try.",
    },
];

/// What the threads are given, checked.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) instance: String,
    pub(crate) postgres_url: String,
    /// Empty: there is none.
    pub(crate) redis_url: String,
    /// As librdkafka's `bootstrap.servers`.
    pub(crate) brokers: String,
    pub(crate) partitions: i32,
    pub(crate) replication: i32,
    pub(crate) shards: i16,
    pub(crate) workers: usize,
    pub(crate) batch_max: i64,
    pub(crate) poll: Duration,
    pub(crate) lease: Duration,
    /// Nothing: no push requests are made.
    pub(crate) push: Option<Push>,
    /// Nothing: they are delivered nowhere.
    pub(crate) webhook: Option<Webhook>,
}

/// How push requests are made.
#[derive(Debug, Clone)]
pub(crate) struct Push {
    pub(crate) redis_url: String,
    pub(crate) window: Duration,
}

/// Where and how push requests are delivered.
#[derive(Clone)]
pub(crate) struct Webhook {
    pub(crate) url: String,
    pub(crate) secret: String,
    pub(crate) timeout: Duration,
    pub(crate) batch_max: usize,
    pub(crate) retry: Duration,
}

/// Neither the secret nor the URL, which may hold one.
impl std::fmt::Debug for Webhook {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Webhook").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Settings {
    pub(crate) fn new(config: &Config, instance: String) -> Result<Self, String> {
        if config.list("kafka.brokers").is_empty() {
            return Err("kafka.brokers is empty; at least one host:port is required".to_owned());
        }
        Ok(Self {
            instance,
            postgres_url: config.text("postgres.url").to_owned(),
            redis_url: config.text("redis.url").to_owned(),
            brokers: config.list("kafka.brokers").join(","),
            partitions: small(config, "kafka.partitions")?,
            replication: small(config, "kafka.replication")?,
            shards: small(config, "relay.shards")?,
            workers: config.count("relay.workers"),
            batch_max: small(config, "relay.batch_max")?,
            poll: config.duration_ms("relay.poll_ms"),
            lease: config.duration_ms("relay.lease_ms"),
            push: push(config)?,
            webhook: webhook(config)?,
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

fn push(config: &Config) -> Result<Option<Push>, String> {
    let redis_url = config.text("redis.url").to_owned();
    let enabled = config.text("push.enabled");
    if enabled == "on" && redis_url.is_empty() {
        return Err(
            "push.enabled is on, but redis.url, which says who is online, is not set".into()
        );
    }
    if enabled == "off" || redis_url.is_empty() {
        return Ok(None);
    }
    Ok(Some(Push { redis_url, window: config.duration_ms("push.window_ms") }))
}

fn webhook(config: &Config) -> Result<Option<Webhook>, String> {
    let (url, secret) = (config.text("push.webhook_url"), config.text("push.webhook_secret"));
    if url.is_empty() {
        return Ok(None);
    }
    // The URL itself is not repeated: it may hold a secret.
    let is_http = url.parse::<ureq::http::Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some()
    });
    if !is_http {
        return Err("push.webhook_url must be http://HOST/PATH or https://HOST/PATH".to_owned());
    }
    if secret.is_empty() {
        return Err(format!(
            "push.webhook_url is set, but push.webhook_secret is not; a secret of at least \
             {WEBHOOK_SECRET_BYTES_MIN} bytes, which the receiver knows as well, is required"
        ));
    }
    Ok(Some(Webhook {
        url: url.to_owned(),
        secret: secret.to_owned(),
        timeout: config.duration_ms("push.webhook_timeout_ms"),
        batch_max: config.count("push.webhook_batch_max"),
        retry: config.duration_ms("push.webhook_retry_ms"),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use daemon::config::load_from;

    fn settings(pairs: &[(&str, &str)]) -> Result<Settings, String> {
        let variable =
            |(name, value): &(&str, &str)| (format!("REALCHAT_RELAY_{name}"), (*value).to_owned());
        let config = load_from("relay", KEYS, None, pairs.iter().map(variable));
        Settings::new(&config.map_err(|error| error.to_string())?, "relay-1".into())
    }

    #[test]
    fn push_is_on_where_redis_is_known_unless_told_otherwise() {
        let redis = ("REDIS_URL", "redis://127.0.0.1/");
        assert!(settings(&[]).unwrap().push.is_none());
        assert!(settings(&[redis]).unwrap().push.is_some());
        assert!(settings(&[redis, ("PUSH_ENABLED", "off")]).unwrap().push.is_none());
        let error = settings(&[("PUSH_ENABLED", "on")]).unwrap_err();
        assert!(error.contains("redis.url"), "{error}");
        assert!(settings(&[("PUSH_ENABLED", "yes")]).unwrap_err().contains("auto, on, off"));
    }

    #[test]
    fn a_webhook_needs_an_http_url_and_a_secret_and_tells_neither() {
        let (url, secret) = ("https://push.example/in?key=hidden", "0123456789abcdef");
        let settings = |url, secret: &str| {
            settings(&[("PUSH_WEBHOOK_URL", url), ("PUSH_WEBHOOK_SECRET", secret)])
        };
        let webhook = settings(url, secret).unwrap().webhook.unwrap();
        assert_eq!(webhook.url, url);
        let shown = format!("{webhook:?}");
        assert!(!shown.contains("hidden") && !shown.contains(secret), "{shown}");
        for wrong in ["ftp://push.example/", "push.example", "file:///etc/passwd", "http://"] {
            let error = settings(wrong, secret).unwrap_err();
            assert!(error.contains("push.webhook_url must be http://"), "{error}");
            assert!(!error.contains(wrong) || wrong == "http://", "{error}");
        }
        assert!(settings(url, "").unwrap_err().contains("push.webhook_secret is not"));
        assert!(settings(url, &secret[1..]).unwrap_err().contains("at least 16 bytes"));
    }
}
