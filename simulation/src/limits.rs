//! Sizes and times of a run. They are short, so that much happens in few events; where production has a
//! timing of its own that is configuration, this is the configuration.

use presenced::Timings;
use std::ops::Range;

/// Events of one run; more means that something goes round in circles.
pub(crate) const BUS_EVENTS_MAX: u64 = 400_000;
/// How long a message or a disk takes, in microseconds.
pub(crate) const DELAY_US: Range<u64> = 100..3_000;
/// Now and then, in a storm.
pub(crate) const SLOW_US_MAX: u64 = 600_000;
/// Messages that a storm's network loses, in percent.
pub(crate) const LOSS_PERCENT: u64 = 2;
/// Statements that a storm's connection does not survive, in a thousand.
pub(crate) const STATEMENT_FAULT_PERMILLE: u64 = 4;
/// Commits that were asked for so long ago are on the disk even if nobody waited for it.
pub(crate) const ASYNCHRONOUS_US_MAX: u64 = 200_000;
/// How far a wall clock may be off, in microseconds.
pub(crate) const WALL_CLOCK_OFF_US_MAX: u64 = 3_000_000;

/// Processes of each kind.
pub(crate) const CHATDS: usize = 2;
pub(crate) const RELAYS: usize = 2;
pub(crate) const GATEWAYS: usize = 2;
/// Shards of a gateway.
pub(crate) const GATEWAY_SHARDS: u16 = 2;
/// Shards of the outbox, and partitions of each topic.
pub(crate) const SHARDS: i16 = 2;
pub(crate) const PARTITIONS: usize = 2;
/// Users, devices of all of them together, conversations, and messages.
pub(crate) const USERS: usize = 3;
pub(crate) const DEVICES: Range<usize> = 3..6;
pub(crate) const CONVERSATIONS: Range<usize> = 2..4;
pub(crate) const MESSAGES: Range<usize> = 12..30;
/// Requests to join, to remove and to leave.
pub(crate) const MEMBERSHIP_CHANGES: Range<usize> = 2..10;
/// Requests to edit, to delete and to react.
pub(crate) const EDITS: Range<usize> = 0..8;
pub(crate) const FAULTS: Range<usize> = 1..7;

/// Faults and sends come until then; then everything is healed.
pub(crate) const STORM_US: u64 = 4_000_000;
/// One fault, at most.
pub(crate) const FAULT_US_MAX: u64 = 3_000_000;
/// From the healing to the delivery of a probe message.
pub(crate) const PROBE_US_MAX: u64 = 10_000_000;
/// From the healing until everybody has seen everything; later it is missing.
pub(crate) const SETTLE_US_MAX: u64 = 120_000_000;
/// How often the world looks whether all is over.
pub(crate) const LOOK_US: u64 = 100_000;

/// chatd: requests of one batch, the wait for an answer, and how long a batch is tried again.
pub(crate) const BATCH_MAX: usize = 4;
pub(crate) const ASK_US_MAX: u64 = 3_000_000;
pub(crate) const COMMIT_RETRY_US_MAX: u64 = 2_000_000;
/// relay: the lease, rows of a shard at once, looks at an idle outbox, and the wait for PostgreSQL.
pub(crate) const LEASE_MS: u64 = 1_500;
pub(crate) const RELAY_ROWS_MAX: i64 = 6;
pub(crate) const RELAY_POLL_US: u64 = 150_000;
pub(crate) const STATEMENT_US_MAX: u64 = 400_000;
/// Records of one request to produce, and the wait for its acknowledgement.
pub(crate) const PRODUCE_RECORDS_MAX: usize = 2;
pub(crate) const PRODUCE_AGAIN_US: u64 = 150_000;
/// Before a log is read for what is in doubt.
pub(crate) const DOUBT_SETTLE_US: u64 = 300_000;
/// gateway: records of one fetch, a fetch that got no answer, and how often offsets are committed.
pub(crate) const FETCH_RECORDS_MAX: usize = 4;
pub(crate) const FETCH_AGAIN_US: u64 = 200_000;
pub(crate) const HOUSE_US: u64 = 250_000;
/// Of this many looks, one commits everything again.
pub(crate) const RECOMMIT_HOUSES: u64 = 5;
/// Bytes of a shard's recent events: little, so that they are forgotten.
pub(crate) const RECENT_BYTES_MAX: Range<usize> = 1_000..12_000;
/// A client that is not heard of for so long is gone.
pub(crate) const HEARTBEAT_MS: u32 = 2_000;
/// presenced's look at its deadlines.
pub(crate) const PRESENCE_TICK_US: u64 = 300_000;
pub(crate) const REDIS_RETRY_US: u64 = 200_000;
pub(crate) const ANNOUNCE_AGAIN_US: u64 = 200_000;

/// presenced's timings.
pub(crate) const TIMINGS: Timings = Timings {
    expiry_ms: 3_000,
    heartbeat_ms: 1_000,
    gateway_lease_ms: 2_000,
    grace_ms: 300,
    restart_grace_ms: 600,
};
