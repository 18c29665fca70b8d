//! Every limit of presenced that is not configuration, with its unit.

/// Reports and queries that wait for the core thread; one more is refused.
pub(crate) const QUEUE_MAX: usize = 4_096;
/// Requests that the core takes at once; their Redis commands travel together.
pub(crate) const BATCH_MAX: usize = 256;
/// Sessions named in one report.
pub(crate) const REPORT_SESSIONS_MAX: usize = 100_000;
/// Users asked for in one query.
pub(crate) const QUERY_USERS_MAX: usize = 4_096;
/// A gateway's name.
pub(crate) const GATEWAY_ID_BYTES_MAX: usize = 64;
/// Sessions of one user at once; beyond that the oldest is forgotten.
pub(crate) const USER_SESSIONS_MAX: usize = 64;
/// Announcements that wait for the announcer, which takes them at once.
pub(crate) const ANNOUNCE_MAX: usize = 65_536;
/// How often sessions and users are counted for the metrics.
pub(crate) const METRICS_MS: u64 = 2_000;
/// How long a stopping presenced waits for what was begun.
pub(crate) const STOP_MS_MAX: u64 = 3_000;
/// How often the core looks at its deadlines.
pub(crate) const TICK_MS: u64 = 100;
/// A core that did not run for so long was paused, and reports may be waiting: it hears them, for
/// [`SETTLE_MS`], before it concludes anything.
pub(crate) const PAUSE_MS_MIN: u64 = 500;
pub(crate) const SETTLE_MS: u64 = 1_000;
/// After so long a pause reports may have been lost: it waits for a whole heartbeat period.
pub(crate) const LONG_PAUSE_MS_MIN: u64 = 5_000;
/// How long Redis may take to connect, to read or to write.
pub(crate) const REDIS_MS_MAX: u64 = 1_000;
/// Wait between attempts to connect to Redis.
pub(crate) const REDIS_RETRY_MS: u64 = 200;
/// How often Redis is asked whether it still has what it was given.
pub(crate) const REDIS_CHECK_MS: u64 = 1_000;
/// Commands in one pipeline.
pub(crate) const REDIS_PIPELINE_MAX: usize = 10_000;
/// How long Redis keeps when a user was last seen.
pub(crate) const LAST_SEEN_S: u64 = 90 * 24 * 3_600;
/// How long Kafka's client tries to publish a change before it is given back and tried again.
pub(crate) const PUBLISH_MS_MAX: u64 = 5_000;
/// Changes handed to Kafka's client that are not yet acknowledged.
pub(crate) const PUBLISH_IN_FLIGHT_MAX: usize = 10_000;
/// How long a producer's thread waits for reports at once; reports that come end no wait.
pub(crate) const REPORTS_POLL_MS: u64 = 1_000;
/// Wait before a change that was not taken is tried again.
pub(crate) const PUBLISH_RETRY_MS: u64 = 200;
/// How often the broker is asked whether it is there, and how long the answer may take.
pub(crate) const BROKER_WATCH_MS: u64 = 1_000;
pub(crate) const BROKER_PROBE_MS_MAX: u64 = 1_000;

const _: () = assert!(BATCH_MAX <= QUEUE_MAX);
const _: () = assert!(TICK_MS * 3 < PAUSE_MS_MIN && PAUSE_MS_MIN < LONG_PAUSE_MS_MIN);
