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

/// What is copied to the topics of gateways that are routed to ([`of_gateway`]): what names its recipients or
/// concerns a conversation, and is published through the outbox.
pub const ROUTED: [&str; 2] = [MESSAGE_CREATED, MESSAGE_ACKNOWLEDGED];

const OF_GATEWAY_BEGIN: &str = "chat.gateway.";
const OF_GATEWAY_END: &str = ".v1";
/// What Kafka allows for a whole topic's name, its dead letters' ending included, leaves so much for a gateway's.
pub const GATEWAY_NAME_BYTES_MAX: usize = 200;

/// The topic of a gateway that does not tail what is [`ROUTED`] but is sent what its users need of it. Key: as in
/// the topic that it is a copy of. None if the gateway's name cannot be a part of a topic's: letters, digits, `-`,
/// `_` and `.` of ASCII are allowed, 1 to [`GATEWAY_NAME_BYTES_MAX`] of them.
#[must_use]
pub fn of_gateway(gateway: &str) -> Option<String> {
    is_name(gateway).then(|| format!("{OF_GATEWAY_BEGIN}{gateway}{OF_GATEWAY_END}"))
}

/// Whose topic it is, if it is a gateway's.
#[must_use]
pub fn gateway_of(topic: &str) -> Option<&str> {
    let name = topic.strip_prefix(OF_GATEWAY_BEGIN)?.strip_suffix(OF_GATEWAY_END)?;
    is_name(name).then_some(name)
}

fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=GATEWAY_NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed)
}

/// Where records of `topic` go that cannot be published or processed.
#[must_use]
pub fn dead_letter(topic: &str) -> String {
    format!("{topic}.dlq")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_is_known_by_its_topic_and_no_other_topic_is_a_gateways() {
        let longest = "g".repeat(GATEWAY_NAME_BYTES_MAX);
        for gateway in ["gateway-1", "a", "eu.west_2", &longest] {
            assert_eq!(gateway_of(&of_gateway(gateway).unwrap()), Some(gateway));
        }
        for bad in ["", "a b", "a/b", "ü", &"g".repeat(GATEWAY_NAME_BYTES_MAX + 1)] {
            assert_eq!(of_gateway(bad), None, "{bad}");
        }
        assert!(ALL.into_iter().all(|topic| gateway_of(topic).is_none()));
        assert_eq!(gateway_of("chat.gateway.a.v1.dlq"), None);
    }
}
