//! Every limit of the relay that is not configuration, with its unit.

use proto::limits::{INLINE_RECIPIENTS_MAX, RECORD_VALUE_BYTES_MAX};

/// Values and headers that one worker reads and publishes at once.
pub(crate) const WAVE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Rows that one worker reads and publishes at once; each shard has its share of them.
pub(crate) const WAVE_ROWS_MAX: i64 = 8_192;
/// One record on Kafka: value, key and headers. Kafka's own default for a batch is 1,048,588.
pub(crate) const RECORD_BYTES_MAX: usize = 1_000_000;
/// One dead letter: whatever did not fit must fit here.
pub(crate) const DEAD_LETTER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long `relay dlq` waits for the broker to answer, in milliseconds.
pub(crate) const DEAD_LETTERS_MS_MAX: u64 = 10_000;
/// Dead letters, settled ones included, that `relay dlq` looks through.
pub(crate) const DEAD_LETTERS_SHOWN_MAX: usize = 1_000_000;
/// Dead letters that are held whole at once, to be published again.
pub(crate) const DEAD_LETTERS_HELD_MAX: usize = 256;
/// Tries of a record that cannot be published, before it becomes a dead letter.
pub(crate) const ATTEMPTS_MAX: i32 = 10;
/// Waits between those tries; they double from the first to the second.
pub const RETRY_MS_MIN: u64 = 50;
pub(crate) const RETRY_MS_MAX: u64 = 10_000;
/// Keys of one worker that are published one record at a time because one of theirs was refused.
pub(crate) const SUSPECTS_MAX: usize = 1_024;
/// Time that a worker spends on suspects before it turns to the others again.
pub(crate) const SUSPECTS_MS_MAX: u64 = 100;
/// Waits between attempts to connect to PostgreSQL.
pub(crate) const POSTGRES_BACKOFF_MS_MIN: u64 = 50;
pub(crate) const POSTGRES_BACKOFF_MS_MAX: u64 = 1_000;
/// One attempt to connect to PostgreSQL.
pub(crate) const POSTGRES_CONNECT_MS_MAX: u64 = 2_000;
/// A statement that takes longer is given up.
pub(crate) const STATEMENT_MS_MAX: u64 = 10_000;
/// One that waits longer for another's lock is given up, and tried again.
pub(crate) const LOCK_MS_MAX: u64 = 2_000;
const _: () = assert!(LOCK_MS_MAX < STATEMENT_MS_MAX);
/// Sent data that PostgreSQL's host does not acknowledge for so long ends the connection.
pub(crate) const POSTGRES_UNACKNOWLEDGED_MS_MAX: u64 = 5_000;
/// How often the broker is asked whether it is there, and how long the answer may take.
pub(crate) const BROKER_WATCH_MS: u64 = 1_000;
pub(crate) const BROKER_PROBE_MS_MAX: u64 = 1_000;
/// How long the creation of topics may take before it is tried again.
pub(crate) const TOPICS_MS_MAX: u64 = 10_000;
/// How long a producer's thread waits for reports at once; reports that come end no wait.
pub(crate) const REPORTS_POLL_MS: u64 = 1_000;
/// How long a purged producer may take to give its messages back.
pub(crate) const PURGE_MS_MAX: u64 = 1_000;
/// One answer of a broker whose log is read again, in milliseconds.
pub(crate) const DOUBT_STEP_MS_MAX: u64 = 2_000;
/// Before its log is read again, a broker that came back gets so long to take what it was sent.
pub(crate) const DOUBT_SETTLE_MS: u64 = 300;
/// Tries to read the log again before its wave simply goes again.
pub(crate) const DOUBT_TRIES_MAX: u32 = 5;
/// So much earlier than a wave's beginning is looked: a broker's clock may stamp the records.
pub(crate) const DOUBT_SLACK_MS: u64 = 1_000;
/// How long the listener waits for a notification before it looks at its connection.
pub(crate) const LISTEN_MS_MAX: u64 = 1_000;
/// Windows that collect messages for users without a session; one more, and the oldest ends early.
pub(crate) const PUSH_WINDOWS_MAX: usize = 131_072;
/// Senders that the window of a large conversation remembers, to leave them out.
pub(crate) const PUSH_SENDERS_MAX: usize = 64;
/// Records that are taken from the log at once, and recipients at which no further one is.
pub(crate) const PUSH_RECORDS_MAX: usize = 32_768;
pub(crate) const PUSH_RECIPIENTS_MAX: usize = 131_072;
/// Between two looks at what was taken: so many times as long as the last one took, and at most this
/// long in milliseconds. That is the longest that it keeps a message of high priority waiting.
pub(crate) const PUSH_REST_FACTOR: u32 = 9;
pub(crate) const PUSH_REST_MS_MAX: u64 = 1_000;
/// How long a user is remembered to have a session, in milliseconds, and how many users are.
pub(crate) const PRESENT_MS_MAX: u64 = 10_000;
pub(crate) const PRESENT_USERS_MAX: usize = 262_144;
/// Requests that are asked about and published at once.
pub(crate) const PUSH_REQUESTS_MAX: usize = 512;
/// Members of a large conversation that are asked about at once.
pub(crate) const PUSH_MEMBERS_MAX: usize = 1_024;
/// How long the broker may take to acknowledge requests before they go again, in milliseconds.
pub(crate) const PUSH_PUBLISH_MS_MAX: u64 = 3_000;
/// Keys in one command to Redis, and how long Redis may take to connect, to read or to write.
pub(crate) const REDIS_KEYS_MAX: usize = 1_024;
pub(crate) const REDIS_MS_MAX: u64 = 1_000;
/// How long a list of the gateways that have topics of their own may be used, in milliseconds. A gateway whose
/// topic is new waits for longer before it takes sessions.
pub(crate) const DIRECTORY_MS_MAX: u64 = proto::limits::NEW_TOPIC_MS - 5_000;
/// How long Redis may take to say which gateways have a user, and how long it is left alone once it did not, in
/// milliseconds; meanwhile every gateway that has a topic of its own is sent everything.
pub(crate) const ROUTES_MS_MAX: u64 = 200;
pub(crate) const ROUTES_RETRY_MS: u64 = 500;
/// How often the offsets of a consumer group are committed, and how long it waits for a record.
pub(crate) const GROUP_COMMIT_MS: u64 = 500;
pub(crate) const GROUP_POLL_MS: u64 = 100;
/// A consumer of which the broker heard nothing for so long is replaced.
pub(crate) const GROUP_SESSION_MS: u64 = 10_000;
/// What a consumer holds that was not taken yet, in KiB.
pub(crate) const GROUP_FETCHED_KIB_MAX: usize = 4_096;
/// The broker answers a fetch once it has so much for it, in bytes, or after so long, in milliseconds: an
/// answer for each record would cost the broker as much as a gateway does, and a notification's way to a
/// phone takes longer than this.
pub(crate) const GROUP_FETCH_BYTES_MIN: usize = 262_144;
pub(crate) const GROUP_FETCH_MS_MAX: u64 = 100;
/// How long a question to the group's broker may take, in milliseconds.
pub(crate) const GROUP_ANSWER_MS_MAX: u64 = 5_000;
/// The body of one webhook request.
pub(crate) const WEBHOOK_BODY_BYTES_MAX: usize = 256 * 1024;
/// How long a batch waits for more once it has a first request, in milliseconds.
pub(crate) const WEBHOOK_GATHER_MS: u64 = 50;
/// Tries of one batch before its requests become dead letters.
pub(crate) const WEBHOOK_TRIES_MAX: u32 = 10;
/// The longest wait between two tries, and the longest that `Retry-After` can ask for.
pub(crate) const WEBHOOK_RETRY_MS_MAX: u64 = 30_000;
pub(crate) const WEBHOOK_RETRY_AFTER_MS_MAX: u64 = 60_000;
/// Of an answer's body, which nobody reads, so much is taken for the sake of the connection.
pub(crate) const WEBHOOK_ANSWER_BYTES_MAX: u64 = 16 * 1024;
/// The secret that webhook requests are signed with.
pub(crate) const WEBHOOK_SECRET_BYTES_MIN: usize = 16;

/// How long a stopping relay waits for its waves before it goes without releasing its leases.
pub(crate) const STOP_MS_MAX: u64 = 5_000;

/// The longest lease that a relay can be configured to take, in milliseconds; one that ends later was not
/// written by a relay, or before the database's clock was set back.
pub(crate) const LEASE_MS_MAX: u32 = 60_000;

/// Parts of the lease, in percent of `relay.lease_ms`, that keep a relay from publishing after its
/// lease was taken, see [`crate::publisher`].
///
/// The lease is renewed after so long.
pub const RENEW_PERCENT: u64 = 10;
/// A wave that is not acknowledged after so long is taken back, and goes again with another producer:
/// what the broker had of it is then there twice. So it is as late as the lease allows.
pub(crate) const WAVE_PERCENT: u64 = 65;
/// Kafka's client drops a message that it could not send for so long.
pub const MESSAGE_PERCENT: u64 = 72;
/// A wave is begun only if the lease holds for at least so long.
pub const BEGIN_PERCENT: u64 = 80;

const _: () = assert!(RECORD_VALUE_BYTES_MAX + 20 * 1024 < RECORD_BYTES_MAX);
const _: () = assert!(RECORD_BYTES_MAX * 2 < DEAD_LETTER_BYTES_MAX);
const _: () = assert!(WAVE_PERCENT < MESSAGE_PERCENT && MESSAGE_PERCENT < BEGIN_PERCENT);
const _: () = assert!(BEGIN_PERCENT + RENEW_PERCENT < 100);
const _: () = assert!(RETRY_MS_MIN < RETRY_MS_MAX);
const _: () = assert!(PUSH_RECIPIENTS_MAX >= INLINE_RECIPIENTS_MAX);
const _: () = assert!(GROUP_COMMIT_MS < GROUP_SESSION_MS);
const _: () = assert!(GROUP_FETCH_BYTES_MIN < GROUP_FETCHED_KIB_MAX * 1_024);
