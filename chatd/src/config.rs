//! chatd's configuration keys.

use daemon::{Key, Kind};
use proto::limits::LINK_SECRET_BYTES_MIN;

pub(crate) const KEYS: &[Key] = &[
    Key {
        name: "link.listen",
        kind: Kind::LinkAddress,
        default: "127.0.0.1:7101",
        doc: "Where gateways connect.",
    },
    Key {
        name: "link.secret",
        kind: Kind::Secret { bytes_min: LINK_SECRET_BYTES_MIN },
        default: "",
        doc: "The secret that gateways must know. Required.",
    },
    Key {
        name: "postgres.url",
        kind: Kind::Secret { bytes_min: 1 },
        default: "postgres://realchat@127.0.0.1:5432/realchat",
        doc: "The database, as its owner.",
    },
    Key {
        name: "postgres.pool_size",
        kind: Kind::Integer { min: 1, max: 256 },
        default: "4",
        doc: "Threads that answer queries; each holds up to three connections (one a schema).",
    },
    Key {
        name: "postgres.queue_max",
        kind: Kind::Integer { min: 1, max: 1_000_000 },
        default: "16384",
        doc: "Queries that wait for a thread; one more is refused as overloaded.",
    },
    Key {
        name: "postgres.connect_timeout_ms",
        kind: Kind::Integer { min: 100, max: 60_000 },
        default: "3000",
        doc: "How long to wait for a connection, in milliseconds.",
    },
    Key {
        name: "postgres.statement_timeout_ms",
        kind: Kind::Integer { min: 100, max: 600_000 },
        default: "10000",
        doc: "The server ends a statement that takes longer, in milliseconds.",
    },
    Key {
        name: "postgres.lock_timeout_ms",
        kind: Kind::Integer { min: 10, max: 600_000 },
        default: "5000",
        doc: "The server ends a statement that waits longer for a lock, in milliseconds.",
    },
    Key {
        name: "postgres.allow_data_loss",
        kind: Kind::Boolean,
        default: "false",
        doc: "Run although the server's fsync, full_page_writes or synchronous_commit is off: \
              acknowledged messages may be lost in a crash.",
    },
    Key {
        name: "writers.count",
        kind: Kind::Integer { min: 1, max: 64 },
        default: "2",
        doc: "Writer threads, each with its connection; conversations are spread over them.",
    },
    Key {
        name: "writers.batch_max",
        kind: Kind::Integer { min: 1, max: 4_096 },
        default: "2048",
        doc: "Requests that one transaction commits, at most.",
    },
    Key {
        name: "writers.queue_max",
        kind: Kind::Integer { min: 1, max: 1_000_000 },
        default: "16384",
        doc: "Requests that wait for one writer, half of them for one conversation; one more is refused \
              as overloaded.",
    },
    Key {
        name: "writers.retry_ms",
        kind: Kind::Integer { min: 0, max: 60_000 },
        default: "2000",
        doc: "How long a batch is tried again when PostgreSQL is away, in milliseconds; then its \
              requests are answered as unavailable.",
    },
    Key {
        name: "accounts.threads",
        kind: Kind::Integer { min: 1, max: 64 },
        default: "2",
        doc: "Threads for registration and login, and so how many passwords are hashed at once.",
    },
    Key {
        name: "accounts.queue_max",
        kind: Kind::Integer { min: 1, max: 100_000 },
        default: "512",
        doc: "Registrations and logins that wait; one more is refused as overloaded.",
    },
    Key {
        name: "tokens.signing_key",
        kind: Kind::Text { bytes_max: 4_096 },
        default: "signing-key.pem",
        doc: "Path of the Ed25519 key (PKCS#8 PEM) that signs access tokens; made if missing.",
    },
    Key {
        name: "tokens.issuer",
        kind: Kind::Text { bytes_max: 256 },
        default: "realchat",
        doc: "The access tokens' `iss`.",
    },
    Key {
        name: "tokens.audience",
        kind: Kind::Text { bytes_max: 256 },
        default: "realchat",
        doc: "The access tokens' `aud`.",
    },
    Key {
        name: "tokens.access_lifetime_s",
        kind: Kind::Integer { min: 5, max: 86_400 },
        default: "900",
        doc: "How long an access token is good for, in seconds.",
    },
    Key {
        name: "tokens.refresh_lifetime_s",
        kind: Kind::Integer { min: 60, max: 31_536_000 },
        default: "2592000",
        doc: "How long a refresh token is good for, in seconds.",
    },
    Key {
        name: "tokens.code_lifetime_s",
        kind: Kind::Integer { min: 1, max: 31_536_000 },
        default: "86400",
        doc: "How long a one-time sign-in code is good for, in seconds.",
    },
];
