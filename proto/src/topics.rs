//! Kafka topics, what each is keyed by, and the names of record headers.
//!
//! A conversation's whole log (every event with a sequence number, whatever its kind) goes to
//! [`MESSAGE_CREATED`], keyed by the conversation, so that one partition holds it in order.
//! A change of membership is published a second time to [`MEMBERSHIP`], for consumers that keep
//! audiences; sessions are pushed from the log alone.
//! A large conversation's receipt summaries, which have no sequence number, are published beside its log:
//! a gateway knows at each place of the log who the members are.

/// The conversations' logs, and the receipt summaries of large ones. Key: conversation id.
pub const MESSAGE_CREATED: &str = "chat.message.created.v1";
/// Receipts (delivered and read cursors). Key: conversation id.
pub const MESSAGE_ACKNOWLEDGED: &str = "chat.message.acknowledged.v1";
/// Changes of membership. Key: conversation id.
pub const MEMBERSHIP: &str = "chat.conversation.membership.v1";
/// Changed profiles. Key: user id.
pub const PROFILE_UPDATED: &str = "chat.profile.updated.v1";
/// Typing: may be lost. Key: conversation id.
pub const EPHEMERAL: &str = "chat.ephemeral.v1";
/// A user's first device came. Key: user id.
pub const USER_ONLINE: &str = "presence.user.online.v1";
/// A user's last device went. Key: user id.
pub const USER_OFFLINE: &str = "presence.user.offline.v1";
/// Hand-off to push notifications. Key: user id.
pub const PUSH_REQUESTED: &str = "chat.push.requested.v1";

/// Every topic of version 1, dead-letter topics aside.
pub const ALL: [&str; 8] = [
    MESSAGE_CREATED,
    MESSAGE_ACKNOWLEDGED,
    MEMBERSHIP,
    PROFILE_UPDATED,
    EPHEMERAL,
    USER_ONLINE,
    USER_OFFLINE,
    PUSH_REQUESTED,
];

/// What a gateway tails and pushes to sessions.
pub const PUSHED: [&str; 6] =
    [MESSAGE_CREATED, MESSAGE_ACKNOWLEDGED, PROFILE_UPDATED, EPHEMERAL, USER_ONLINE, USER_OFFLINE];

/// Where records of `topic` go that cannot be published or processed.
#[must_use]
pub fn dead_letter(topic: &str) -> String {
    format!("{topic}.dlq")
}
