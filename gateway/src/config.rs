//! The gateway's configuration: its keys, and the part of it that the shards need.

use crate::conn::Policy;
use crate::drain::DrainTimes;
use crate::inbound::frame::FrameLimits;
use crate::inbound::proxy::Proxies;
use crate::inbound::tls::Files;
use crate::limits::{ANSWER_MS_MAX, FRAGMENTS_MAX};
use crate::rate::{Allowed, Limits};
use daemon::{Config, Key, Kind};
use proto::limits::CLIENT_FRAME_BYTES_MAX;
use proto::topics;
use std::net::SocketAddr;
use std::sync::Arc;

pub(crate) const KEYS: &[Key] = &[
    Key {
        name: "listen",
        kind: Kind::List { items_max: 16 },
        default: "0.0.0.0:8080",
        doc: "Addresses (host:port, [v6]:port) for clients without TLS; every shard listens on each \
              with SO_REUSEPORT.",
    },
    Key {
        name: "tls.listen",
        kind: Kind::List { items_max: 16 },
        default: "",
        doc: "Addresses for clients with TLS (1.3 and 1.2).",
    },
    Key {
        name: "tls.certificate",
        kind: Kind::Text { bytes_max: 4_096 },
        default: "",
        doc: "PEM file: the certificate, then those that lead to a root; read again on SIGHUP.",
    },
    Key {
        name: "tls.key",
        kind: Kind::Text { bytes_max: 4_096 },
        default: "",
        doc: "PEM file: the certificate's private key; read again on SIGHUP.",
    },
    Key {
        name: "tls.handshake_ms",
        kind: Kind::Integer { min: 100, max: 60_000 },
        default: "5000",
        doc: "A TLS handshake must have ended within this time.",
    },
    Key {
        name: "tls.handshakes_max",
        kind: Kind::Integer { min: 1, max: 1_000_000 },
        default: "4096",
        doc: "TLS handshakes under way, all shards together; more wait in the kernel's queue.",
    },
    Key {
        name: "proxy.trusted",
        kind: Kind::List { items_max: 64 },
        default: "",
        doc: "Proxies (address or network, e.g. 10.0.0.0/8) whose X-Forwarded-For is believed; they \
              have no limit of connections themselves.",
    },
    Key {
        name: "proxy.protocol",
        kind: Kind::Boolean,
        default: "false",
        doc: "Connections of the proxies in proxy.trusted begin with a PROXY header (version 2).",
    },
    Key {
        name: "limits.connections_per_address",
        kind: Kind::Integer { min: 0, max: 10_000_000 },
        default: "2000",
        doc: "Open connections of one address (of one /64 in IPv6); one more is answered 429; 0: no \
              limit.",
    },
    Key {
        name: "limits.connects_per_address_per_s",
        kind: Kind::Integer { min: 0, max: 1_000_000 },
        default: "1000",
        doc: "New connections of one address a second, five seconds' worth in a burst; more are \
              answered 429; 0: no limit.",
    },
    Key {
        name: "limits.requests_per_address_per_s",
        kind: Kind::Integer { min: 0, max: 1_000_000 },
        default: "500",
        doc: "HTTP requests (also upgrades) of one address a second, five seconds' worth in a burst; \
              more are answered 429; 0: no limit.",
    },
    Key {
        name: "limits.frames_per_user_per_s",
        kind: Kind::Integer { min: 0, max: 1_000_000 },
        default: "200",
        doc: "Frames of one user a second, five seconds' worth in a burst; more are answered with \
              the error too_many_requests; 0: no limit.",
    },
    Key {
        name: "limits.sessions_per_user",
        kind: Kind::Integer { min: 0, max: 100_000 },
        default: "100",
        doc: "Open sessions of one user; one more is answered 429 or closed with 4029; 0: no limit.",
    },
    Key {
        name: "shards",
        kind: Kind::Integer { min: 0, max: 1_024 },
        default: "0",
        doc: "Shard threads; 0: one for each core.",
    },
    Key {
        name: "pin_shards",
        kind: Kind::Boolean,
        default: "true",
        doc: "Pin each shard's thread to its core.",
    },
    Key {
        name: "sessions_max",
        kind: Kind::Integer { min: 1, max: 10_000_000 },
        default: "100000",
        doc: "Connections of this gateway, all shards together, or fewer where the limit of open files is \
              lower; one more is answered 503.",
    },
    Key {
        name: "origins",
        kind: Kind::List { items_max: 64 },
        default: "",
        doc: "Foreign origins (scheme://host[:port]) from which browsers may connect; * allows all; \
              the gateway's own origin is always allowed.",
    },
    Key {
        name: "chatd.link",
        kind: Kind::LinkAddress,
        default: "127.0.0.1:7101",
        doc: "The link of chatd.",
    },
    Key {
        name: "presenced.link",
        kind: Kind::LinkAddress,
        default: "127.0.0.1:7102",
        doc: "The link of presenced.",
    },
    Key {
        name: "link.secret",
        kind: Kind::Secret { bytes_min: proto::limits::LINK_SECRET_BYTES_MIN },
        default: "",
        doc: "The secret that both ends of a link know.",
    },
    Key {
        name: "uplinks",
        kind: Kind::Integer { min: 1, max: 16 },
        default: "1",
        doc: "Connections to chatd, each with its own thread.",
    },
    Key {
        name: "kafka.brokers",
        kind: Kind::List { items_max: 64 },
        default: "127.0.0.1:9092",
        doc: "Kafka's bootstrap brokers.",
    },
    Key {
        name: "kafka.routing",
        kind: Kind::OneOf(&["broadcast", "routed"]),
        default: "broadcast",
        doc: "`broadcast`: this gateway tails the conversations' logs whole; `routed`: it has a topic of \
              its own, `chat.gateway.INSTANCE.v1`, to which the relay copies what is for its users, as \
              Redis knows them: for many gateways with many messages.",
    },
    Key {
        name: "redis.url",
        kind: Kind::Secret { bytes_min: 1 },
        default: "",
        doc: "The Redis that a gateway with `kafka.routing = \"routed\"` keeps its users in, and the \
              relay looks them up in.",
    },
    Key {
        name: "kafka.consumers",
        kind: Kind::Integer { min: 1, max: 64 },
        default: "1",
        doc: "Threads that tail the conversations' log, which divide its partitions; one more tails \
              everything else.",
    },
    Key {
        name: "heartbeat.ping_ms",
        kind: Kind::Integer { min: 100, max: 600_000 },
        default: "54000",
        doc: "A WebSocket session is pinged this often.",
    },
    Key {
        name: "heartbeat.pong_ms",
        kind: Kind::Integer { min: 100, max: 600_000 },
        default: "60000",
        doc: "A ping that is not answered for so long closes the session.",
    },
    Key {
        name: "events.heartbeat_ms",
        kind: Kind::Integer { min: 100, max: 600_000 },
        default: "15000",
        doc: "A stream of server-sent events gets a comment this often.",
    },
    Key {
        name: "permessage_deflate",
        kind: Kind::Boolean,
        default: "false",
        doc: "Compress messages of WebSocket clients that offer it (RFC 7692, without context \
              takeover): fewer bytes for more CPU time.",
    },
    Key {
        name: "write_ms",
        kind: Kind::Integer { min: 100, max: 600_000 },
        default: "10000",
        doc: "A connection whose peer takes no byte of what is queued for so long is closed.",
    },
    Key {
        name: "handshake_ms",
        kind: Kind::Integer { min: 100, max: 60_000 },
        default: "5000",
        doc: "A request's head must have come within this time.",
    },
    Key {
        name: "body_ms",
        kind: Kind::Integer { min: 100, max: 600_000 },
        default: "30000",
        doc: "A request's body must have come within this time after its head.",
    },
    Key {
        name: "keep_alive_ms",
        kind: Kind::Integer { min: 100, max: 3_600_000 },
        default: "60000",
        doc: "An HTTP connection without a request is closed after this time.",
    },
    Key {
        name: "hello_ms",
        kind: Kind::Integer { min: 100, max: 60_000 },
        default: "5000",
        doc: "A session's hello must have come this long after the upgrade.",
    },
    Key {
        name: "ring.entries",
        kind: Kind::Integer { min: 8, max: 32_768 },
        default: "256",
        doc: "Frames queued for one session at most.",
    },
    Key {
        name: "ring.bytes_max",
        kind: Kind::Integer { min: 65_536, max: 67_108_864 },
        default: "1048576",
        doc: "Bytes queued for one session at most.",
    },
    Key {
        name: "ring.overflow",
        kind: Kind::OneOf(&["close", "gap"]),
        default: "close",
        doc: "What happens when a ring is full: `close`: the session is closed with 4008; `gap`: what \
              waits of the conversations' logs is thrown away, and the session is told by one gap for \
              each conversation, which it heals by sync. Ephemeral events are left out of a ring that \
              is half full, and its last eighth is for high priority and answers.",
    },
    Key {
        name: "partial.bytes_max",
        kind: Kind::Integer { min: 1_048_576, max: 1_099_511_627_776 },
        default: "67108864",
        doc: "Bytes of messages, requests and TLS records that have come or gone in part, all connections \
              together; beyond, a connection that adds to them is closed with 1013.",
    },
    Key {
        name: "payload.bytes_max",
        kind: Kind::Integer { min: 16_777_216, max: 1_099_511_627_776 },
        default: "268435456",
        doc: "Bytes of the events that wait for sockets, all sessions together, each event counted \
              once for each shard; beyond, a session that has anything waiting counts as too slow.",
    },
    Key {
        name: "recovery.backlog_bytes",
        kind: Kind::Integer { min: 16_777_216, max: 1_099_511_627_776 },
        default: "268435456",
        doc: "Bytes of chatd's answers to resumes and syncs that wait for their sessions' sockets, all \
              sessions together; beyond, who resumes is told to sync later.",
    },
    Key {
        name: "recovery.cache_bytes",
        kind: Kind::Integer { min: 0, max: 68_719_476_736 },
        default: "67108864",
        doc: "Bytes of recent events that are kept, all shards together, so that devices that were \
              away briefly are caught up without chatd; 0: none.",
    },
    Key {
        name: "socket.unsent_bytes",
        kind: Kind::Integer { min: 4_096, max: 16_777_216 },
        default: "16384",
        doc: "Bytes that one connection's socket holds unsent (TCP_NOTSENT_LOWAT); what is more waits \
              in the ring, where it is counted and can be shed.",
    },
    Key {
        name: "mailbox.letters_max",
        kind: Kind::Integer { min: 64, max: 1_048_576 },
        default: "8192",
        doc: "Letters in one shard's mailbox; Kafka threads wait while it is full.",
    },
    Key {
        name: "conformance.echo",
        kind: Kind::Boolean,
        default: "false",
        doc: "For WebSocket conformance suites alone: sessions need no hello, messages of up to 64 MiB \
              are sent back as they came. Refused unless all listeners are on loopback addresses.",
    },
    Key {
        name: "drain_ms",
        kind: Kind::Integer { min: 100, max: 600_000 },
        default: "10000",
        doc: "Time from SIGTERM to the end; the clients' reconnects are spread over it.",
    },
];

/// What a client may send.
const FRAMES: FrameLimits = FrameLimits {
    message_bytes_max: CLIENT_FRAME_BYTES_MAX,
    fragments_max: FRAGMENTS_MAX,
    inflates: false,
};
/// What a conformance suite may send.
const ECHO_FRAMES: FrameLimits = FrameLimits {
    message_bytes_max: 64 * 1024 * 1024,
    fragments_max: 1024 * 1024,
    inflates: false,
};

/// What happens when a ring is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overflow {
    Close,
    Gap,
}

/// What the shards need of the configuration.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) instance: String,
    pub(crate) policy: Policy,
    pub(crate) limits: Arc<Limits>,
    /// 0: no limit.
    pub(crate) sessions_per_user_max: usize,
    pub(crate) tls_handshake_ms: u64,
    /// Of one shard.
    pub(crate) tls_handshakes_max: usize,
    /// Of all shards together.
    pub(crate) sessions_max: usize,
    pub(crate) ring_entries: u16,
    pub(crate) ring_bytes_max: u32,
    pub(crate) overflow: Overflow,
    /// Of one shard, as those that follow.
    pub(crate) partial_bytes_max: usize,
    pub(crate) payload_bytes_max: usize,
    pub(crate) recent_bytes_max: usize,
    /// Kafka has a topic for this gateway alone.
    pub(crate) is_routed: bool,
    pub(crate) backlog_bytes_max: usize,
    pub(crate) handshake_ms: u64,
    pub(crate) body_ms: u64,
    pub(crate) answer_ms: u64,
    pub(crate) keep_alive_ms: u64,
    pub(crate) hello_ms: u64,
    pub(crate) ping_ms: u64,
    pub(crate) pong_ms: u64,
    /// Between two comments in a stream of server-sent events.
    pub(crate) events_ms: u64,
    pub(crate) write_ms: u64,
    /// The clients' reconnects are spread over this.
    pub(crate) drain_ms: u64,
    /// What happens in it.
    pub(crate) drain: DrainTimes,
}

impl Settings {
    /// Slots of one shard: a quarter more than its share, since sessions do not spread evenly.
    pub(crate) fn slots(&self, shards: usize) -> usize {
        self.sessions_max.div_ceil(shards) * 5 / 4
    }

    /// An error names the key and what is wrong.
    pub(crate) fn new(config: &Config, instance: &str, shards: usize) -> Result<Self, String> {
        let echo = config.boolean("conformance.echo");
        if echo {
            check_loopback(config.list("listen"))?;
            check_loopback(config.list("tls.listen"))?;
        }
        let is_routed = is_routed(config, instance)?;
        let drain_ms = config.integer("drain_ms");
        let ring_bytes_max = config.integer("ring.bytes_max");
        let proxies = Proxies::new(config.list("proxy.trusted"), config.boolean("proxy.protocol"))?;
        let limits = Limits::new(Allowed {
            connections: config.integer("limits.connections_per_address"),
            connects_per_s: config.integer("limits.connects_per_address_per_s"),
            requests_per_s: config.integer("limits.requests_per_address_per_s"),
            frames_per_s: config.integer("limits.frames_per_user_per_s"),
        });
        Ok(Self {
            instance: instance.to_owned(),
            limits: Arc::new(limits),
            sessions_per_user_max: config.count("limits.sessions_per_user"),
            tls_handshake_ms: config.integer("tls.handshake_ms"),
            tls_handshakes_max: config.count("tls.handshakes_max").div_ceil(shards),
            policy: Policy {
                frames: if echo { ECHO_FRAMES } else { FRAMES },
                origins: config.list("origins").to_vec(),
                proxies,
                deflate: config.boolean("permessage_deflate"),
                echo,
            },
            sessions_max: config.count("sessions_max"),
            ring_entries: u16::try_from(config.integer("ring.entries")).unwrap_or(u16::MAX),
            ring_bytes_max: u32::try_from(ring_bytes_max).unwrap_or(u32::MAX),
            overflow: match config.text("ring.overflow") {
                "gap" => Overflow::Gap,
                _ => Overflow::Close,
            },
            partial_bytes_max: config.count("partial.bytes_max") / shards.max(1),
            payload_bytes_max: config.count("payload.bytes_max") / shards.max(1),
            // What came for a user says nothing of what came while the user was not here.
            recent_bytes_max: if is_routed {
                0
            } else {
                config.count("recovery.cache_bytes") / shards.max(1)
            },
            is_routed,
            backlog_bytes_max: config.count("recovery.backlog_bytes") / shards.max(1),
            handshake_ms: config.integer("handshake_ms"),
            body_ms: config.integer("body_ms"),
            answer_ms: ANSWER_MS_MAX,
            keep_alive_ms: config.integer("keep_alive_ms"),
            hello_ms: config.integer("hello_ms"),
            ping_ms: config.integer("heartbeat.ping_ms"),
            pong_ms: config.integer("heartbeat.pong_ms"),
            events_ms: config.integer("events.heartbeat_ms"),
            write_ms: config.integer("write_ms"),
            drain_ms,
            drain: DrainTimes::of(drain_ms),
        })
    }
}

/// Whether the gateway has a topic of its own. An error says what else that needs.
fn is_routed(config: &Config, instance: &str) -> Result<bool, String> {
    if config.text("kafka.routing") != "routed" {
        return Ok(false);
    }
    if config.text("redis.url").is_empty() {
        return Err(
            "kafka.routing = \"routed\" needs redis.url, where its users are kept".to_owned()
        );
    }
    if topics::of_gateway(instance).is_none() {
        return Err(format!(
            "instance: {instance:?} cannot be a part of a topic's name, which kafka.routing = \"routed\" \
             needs; letters, digits, -, _ and . are allowed, 1 to {} of them",
            topics::GATEWAY_NAME_BYTES_MAX
        ));
    }
    Ok(true)
}

/// Anybody who reaches a gateway with the echo profile may use it.
fn check_loopback(listen: &[String]) -> Result<(), String> {
    let is_loopback = |address: &str| {
        address.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_loopback())
    };
    match listen.iter().find(|address| !is_loopback(address)) {
        None => Ok(()),
        Some(address) => Err(format!(
            "conformance.echo: only for listeners on loopback addresses such as 127.0.0.1:8080; \
             {address} is none"
        )),
    }
}

/// The certificate's files; None without TLS listeners. An error says what is missing.
pub(crate) fn tls_files(config: &Config) -> Result<Option<Files>, String> {
    let (certificate, key) = (config.text("tls.certificate"), config.text("tls.key"));
    if config.list("tls.listen").is_empty() {
        return Ok(None);
    }
    for (name, value) in [("tls.certificate", certificate), ("tls.key", key)] {
        if value.is_empty() {
            return Err(format!("tls.listen needs {name}: the path of a PEM file"));
        }
    }
    Ok(Some(Files { certificate: certificate.into(), key: key.into() }))
}

/// Shards to start: as configured, else one for each core.
pub(crate) fn shards(config: &Config, cores: usize) -> usize {
    match config.count("shards") {
        0 => cores.max(1),
        count => count,
    }
}

#[cfg(test)]
mod tests;
