//! Places between two durable actions where a test lets a daemon crash, wait or fail.
//!
//! Only a build with the feature `failpoints` has them; in any other [`reach`] is empty. They are armed
//! by the environment variable `REALCHAT_FAILPOINTS` (at start) or by `GET /failpoint/ORDER` on the admin
//! port. An order is `NAME=ACTION`, or several with commas between them; the action is `exit` (as by
//! kill -9), `error`, or `sleep:MILLISECONDS`, and `@N` behind it means the N-th time that the place is
//! reached. What was triggered once is disarmed.
//!
//! The order `clock=MILLISECONDS`, with a sign or without, lets the wall clock of that daemon be off by so
//! much, until the next such order.
//!
//! The same build can be given a defect, by the environment variable `REALCHAT_PLANTED_BUG` at its start:
//! one of [`PLANTED`]. They are there to see that the history checker finds them.

#[cfg(feature = "failpoints")]
mod armed;

#[cfg(feature = "failpoints")]
pub(crate) use armed::shifted;
#[cfg(feature = "failpoints")]
pub use armed::{arm, arm_from_environment, is_planted, reach};

/// Whether this build has them.
pub const ENABLED: bool = cfg!(feature = "failpoints");

/// In a batch's transaction, before its rows are written.
pub const CHATD_BEFORE_INSERT: &str = "chatd.before_insert";
/// After the log's rows, before the outbox's.
pub const CHATD_AFTER_INSERT: &str = "chatd.after_insert";
/// After all rows.
pub const CHATD_BEFORE_COMMIT: &str = "chatd.before_commit";
/// Before anybody is answered, and before the relay is woken.
pub const CHATD_AFTER_COMMIT: &str = "chatd.after_commit";
/// After all of the batch are answered.
pub const CHATD_AFTER_ACK: &str = "chatd.after_ack";
/// Between the look at the lease and the hand-over to Kafka's client.
pub const RELAY_AFTER_LEASE_CHECK: &str = "relay.after_lease_check";
/// After the broker's acknowledgements, before the rows are marked.
pub const RELAY_AFTER_PUBLISH: &str = "relay.after_publish";
/// With a record in hand that no shard has yet.
pub const GATEWAY_AFTER_POLL: &str = "gateway.after_poll";
/// After a batch was mailed to the shards.
pub const GATEWAY_AFTER_ENQUEUE: &str = "gateway.after_enqueue";
/// Before the offsets of what the shards have are committed.
pub const GATEWAY_BEFORE_COMMIT: &str = "gateway.before_commit";

/// Every failpoint.
pub const ALL: [&str; 10] = [
    CHATD_BEFORE_INSERT,
    CHATD_AFTER_INSERT,
    CHATD_BEFORE_COMMIT,
    CHATD_AFTER_COMMIT,
    CHATD_AFTER_ACK,
    RELAY_AFTER_LEASE_CHECK,
    RELAY_AFTER_PUBLISH,
    GATEWAY_AFTER_POLL,
    GATEWAY_AFTER_ENQUEUE,
    GATEWAY_BEFORE_COMMIT,
];

/// The gateway commits offsets of records that no session has been given.
pub const COMMIT_BEFORE_ENQUEUE: &str = "commit-before-enqueue";
/// chatd acknowledges what PostgreSQL has not yet written.
pub const ASYNCHRONOUS_COMMIT: &str = "asynchronous-commit";
/// The relay deletes rows before the broker has acknowledged them.
pub const MARK_BEFORE_ACKNOWLEDGEMENT: &str = "mark-before-acknowledgement";

/// The relay takes the word of a partition's leader, which no other broker may have heard of (`acks=1`).
pub const ACKNOWLEDGED_BY_ONE: &str = "acknowledged-by-one";

/// The relay takes Redis' word for who is at no gateway, though no gateway says that Redis has all.
pub const BELIEVED_WITHOUT_CLAIM: &str = "believed-without-claim";

/// Every defect that can be planted.
pub const PLANTED: [&str; 5] = [
    COMMIT_BEFORE_ENQUEUE,
    ASYNCHRONOUS_COMMIT,
    MARK_BEFORE_ACKNOWLEDGEMENT,
    ACKNOWLEDGED_BY_ONE,
    BELIEVED_WITHOUT_CLAIM,
];

/// The failpoint of this name was told to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the failpoint {0} was told to fail")]
pub struct Injected(pub &'static str);

/// Passes the place `name`; fails only if a test wants it.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
#[allow(clippy::missing_errors_doc, reason = "this build has no failpoints")]
pub const fn reach(_name: &'static str) -> Result<(), Injected> {
    Ok(())
}

/// Was this defect planted? In this build none can be.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
#[must_use]
pub const fn is_planted(_name: &'static str) -> bool {
    false
}

/// The time as it is told: in this build, as it is.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub(crate) const fn shifted(now_us: u64) -> u64 {
    now_us
}
