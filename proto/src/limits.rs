//! Every limit of the contracts, with its unit. Daemons add their own in their `limits.rs`.

/// One frame from a client, as a WebSocket message.
pub const CLIENT_FRAME_BYTES_MAX: usize = 128 * 1024;
/// A message's text, in UTF-8.
pub const MESSAGE_TEXT_BYTES_MAX: usize = 16 * 1024;
/// An idempotency key, in UTF-8; it may not be empty.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 128;
/// A conversation's title, in UTF-8; it may be empty.
pub const TITLE_BYTES_MAX: usize = 256;
/// A reaction to a message, in UTF-8: one emoji with its modifiers, or a short word.
pub const REACTION_BYTES_MAX: usize = 64;
/// Cursors in one hello or sync.
pub const CURSORS_MAX: usize = 1_024;
/// Users in one presence subscription.
pub const PRESENCE_USERS_MAX: usize = 1_024;
/// Recipients that travel inside a record's headers.
pub const INLINE_RECIPIENTS_MAX: usize = 1_024;
/// Users in one page of a large conversation's audience.
pub const AUDIENCE_PAGE_USERS_MAX: usize = 8_192;
/// Events of one conversation in one sync answer, when the client does not say.
pub const SYNC_EVENTS_DEFAULT: u32 = 256;
/// Events of one conversation in one sync answer, at most.
pub const SYNC_EVENTS_MAX: u32 = 1_024;
/// Events in one sync page (one frame to the client).
pub const SYNC_PAGE_EVENTS_MAX: usize = 64;
/// One frame on the internal link, length prefix aside.
pub const LINK_FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The body of one HTTP request.
pub const HTTP_BODY_BYTES_MAX: usize = 256 * 1024;
/// The link's shared secret.
pub const LINK_SECRET_BYTES_MIN: usize = 16;
/// Shards of the outbox; chatd, which fills them, and the relay, which empties them, must agree.
pub const OUTBOX_SHARDS: u16 = 16;
/// How long a gateway whose own topic is new waits before it takes sessions, in milliseconds: until every relay
/// has seen the topic, or publishes nothing.
pub const NEW_TOPIC_MS: u64 = 20_000;
/// One Kafka record's value.
pub const RECORD_VALUE_BYTES_MAX: usize = 900 * 1024;

/// One cursor in the JSON form, with the largest number that it can hold.
const CURSOR_JSON_BYTES_MAX: usize =
    r#"{"conversation_id":"018f0000-0000-7000-8000-00000000000c","sequence_number":9007199254740991},"#
        .len();
/// What else a hello in JSON may hold: the token, the watermark, the client's name.
const HELLO_JSON_BYTES_MAX: usize = 16 * 1024;

const _: () = assert!(MESSAGE_TEXT_BYTES_MAX * 2 < CLIENT_FRAME_BYTES_MAX);
const _: () =
    assert!(CURSORS_MAX * CURSOR_JSON_BYTES_MAX + HELLO_JSON_BYTES_MAX <= CLIENT_FRAME_BYTES_MAX);
const _: () = assert!(HTTP_BODY_BYTES_MAX * 2 < LINK_FRAME_BYTES_MAX);
const _: () = assert!(SYNC_PAGE_EVENTS_MAX * MESSAGE_TEXT_BYTES_MAX < LINK_FRAME_BYTES_MAX);
const _: () = assert!(AUDIENCE_PAGE_USERS_MAX * 16 < LINK_FRAME_BYTES_MAX);
const _: () = assert!(SYNC_EVENTS_DEFAULT <= SYNC_EVENTS_MAX);
const _: () = assert!(OUTBOX_SHARDS.is_power_of_two());
