//! Defects that a run can be given, to see that it finds them.

/// One defect; it is in a model or in an actor, never in the code that runs in production.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A gateway commits offsets of records that its shards have not enqueued.
    CommitBeforeEnqueue,
    /// A relay deletes rows before the broker acknowledged them.
    MarkBeforeAcknowledgement,
    /// PostgreSQL acknowledges what it has not yet written, and is killed.
    AsynchronousCommit,
    /// A relay publishes without looking at its lease's end, and nobody compares its token.
    UnfencedLease,
    /// A relay reads what comes after the highest id that it published.
    HighWater,
    /// A client sends again with a new idempotency key.
    NewKeyOnRetry,
    /// A gateway answers a resume that its recent events do not reach back to as if nothing was missed.
    BlindResume,
    /// A gateway does not get past a record that it cannot read.
    StopsAtPoison,
    /// A writer takes those who left for members.
    NeverLeaves,
    /// A writer logs an edit and leaves the message as it is.
    LosesEdits,
    /// presenced announces nobody as offline.
    NeverOffline,
}

/// Every defect.
pub const ALL: [Bug; 11] = [
    Bug::CommitBeforeEnqueue,
    Bug::MarkBeforeAcknowledgement,
    Bug::AsynchronousCommit,
    Bug::UnfencedLease,
    Bug::HighWater,
    Bug::NewKeyOnRetry,
    Bug::BlindResume,
    Bug::StopsAtPoison,
    Bug::NeverLeaves,
    Bug::LosesEdits,
    Bug::NeverOffline,
];
