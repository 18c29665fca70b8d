//! chatd's own limits, with their units; those of the contracts are in `proto::limits`.

use proto::limits::{
    INLINE_RECIPIENTS_MAX, LINK_FRAME_BYTES_MAX, MESSAGE_TEXT_BYTES_MAX, SYNC_PAGE_EVENTS_MAX,
};

/// Members of one conversation. Up to `INLINE_RECIPIENTS_MAX` travel in a record's headers; who
/// the members of a larger one are, gateways ask.
pub(crate) const MEMBERS_MAX: usize = 100_000;
/// Members that one request names, and that one page shows.
pub(crate) const MEMBERS_NAMED_MAX: usize = 1_024;
/// Members that a conversation's audience cache holds, over all conversations, a writer; the cache
/// has two generations of half of it.
pub(crate) const AUDIENCE_CACHE_MEMBERS_MAX: usize = 2_000_000;
/// Delivered cursors are stored, but not told to the members, in conversations larger than this:
/// n members would cause n x n events a message. Read cursors are told in those that a record's
/// headers can name; in larger ones the members are told how many have come how far.
pub(crate) const DELIVERED_TOLD_MEMBERS_MAX: usize = 32;
/// Sequence numbers of a large conversation up to which it is counted how many members have come.
pub(crate) const RECEIPT_COUNTS_MAX: usize = 8;
/// Between two tellings of one conversation's counts, in milliseconds, over all chatds; how often each
/// chatd looks whether there is something to tell; and conversations of which it tells at once.
pub(crate) const RECEIPT_SUMMARY_MS_MIN: u64 = 2_000;
pub(crate) const RECEIPT_SUMMARY_LOOK_MS: u64 = 250;
pub(crate) const RECEIPT_SUMMARIES_TOLD_MAX: i64 = 256;
/// A client that was refused because a queue is full may try again after this many milliseconds.
pub(crate) const RETRY_AFTER_MS: u32 = 200;
/// The part of a writer's queue that one conversation may take: the rest is for the others.
pub(crate) const CONVERSATION_QUEUE_PERCENT: usize = 50;
/// First and longest pause between attempts to commit a batch, in milliseconds.
pub(crate) const COMMIT_BACKOFF_MS_MIN: u64 = 5;
pub(crate) const COMMIT_BACKOFF_MS_MAX: u64 = 250;
/// Attempts to commit a batch that violates a unique key: another chatd was first with that key,
/// and the next attempt finds it.
pub(crate) const UNIQUE_ATTEMPTS_MAX: u32 = 3;

/// Batches whose keys are all looked up after one of them was found in use; until then only the
/// unique index looks, see `write::engine`.
pub(crate) const WARY_BATCHES: u32 = 64;
/// Batches for which nothing is remembered after a conversation was not as it was remembered.
pub(crate) const CAUTIOUS_BATCHES: u32 = 16;
/// Conversations that a writer remembers, in two generations of half of it: about 15 MiB.
pub(crate) const CONVERSATIONS_REMEMBERED_MAX: usize = 131_072;
/// A batch writes its rows by COPY from so many rows on; below, an INSERT is a round trip less.
pub(crate) const COPY_ROWS_MIN: usize = 16;

/// Bytes of text and details in one sync answer, past which the rest is a gap to ask for again.
pub(crate) const SYNC_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Events that a sync reads from PostgreSQL at once.
pub(crate) const SYNC_CHUNK_EVENTS: u64 = 256;
/// Events in one page of history, when the client does not say, and at most.
pub(crate) const HISTORY_EVENTS_DEFAULT: u64 = 50;
pub(crate) const HISTORY_EVENTS_MAX: u64 = 200;
/// Conversations in one page of the list, when the client does not say, and at most.
pub(crate) const LIST_CONVERSATIONS_DEFAULT: u64 = 50;
pub(crate) const LIST_CONVERSATIONS_MAX: u64 = 200;
/// Newest events beyond a read cursor that are looked through for the reader's own messages, which are
/// not unread; older ones of its own count as unread.
pub(crate) const OWN_UNREAD_EVENTS_MAX: i64 = 500;
/// Members shown with each conversation of the list.
pub(crate) const LIST_MEMBERS_MAX: i64 = 32;
/// Receipts of a conversation's devices in one answer.
pub(crate) const RECEIPTS_MAX: i64 = 16_384;
/// Users in one answer of the directory, when the client does not say, and at most.
pub(crate) const USERS_DEFAULT: u64 = 20;
pub(crate) const USERS_MAX: u64 = 200;
/// Rows of the outbox looked at to tell whether one message was relayed.
pub(crate) const TRACE_OUTBOX_ROWS_MAX: i64 = 10_000;

/// The largest whole number that every JSON reader has exactly: 2^53 - 1.
pub(crate) const JSON_NUMBER_MAX: u64 = 9_007_199_254_740_991;

/// A W3C trace context, in bytes; a longer one is not passed on.
pub(crate) const TRACEPARENT_BYTES_MAX: usize = 64;

/// A user's name, in characters of a-z 0-9 . _ -
pub(crate) const NAME_BYTES_MIN: usize = 2;
pub(crate) const NAME_BYTES_MAX: usize = 32;
/// A password, in bytes of UTF-8.
pub(crate) const PASSWORD_BYTES_MIN: usize = 8;
pub(crate) const PASSWORD_BYTES_MAX: usize = 256;
/// A display name, in bytes of UTF-8.
pub(crate) const DISPLAY_NAME_BYTES_MAX: usize = 128;
/// What a user tells of itself, in bytes of UTF-8.
pub(crate) const ABOUT_BYTES_MAX: usize = 1_024;
/// A device's name, in bytes of UTF-8.
pub(crate) const DEVICE_NAME_BYTES_MAX: usize = 128;
/// A user's devices that are not revoked.
pub(crate) const DEVICES_MAX: i64 = 100;
/// A refresh token or one-time code, in bytes of text.
pub(crate) const SECRET_TEXT_BYTES_MAX: usize = 256;
/// Randomness of a refresh token and of a one-time code, in bytes.
pub(crate) const REFRESH_TOKEN_BYTES: usize = 32;
pub(crate) const LOGIN_CODE_BYTES: usize = 20;
/// How long after its first use a refresh token may be used again, in seconds, because the answer may
/// have been lost; and how many tokens it may give in all.
pub(crate) const REFRESH_GRACE_S: u64 = 30;
pub(crate) const REFRESH_GRACE_USES_MAX: i64 = 8;
/// Argon2id: memory in KiB, passes, lanes (OWASP's second recommended choice).
pub(crate) const ARGON2_MEMORY_KIB: u32 = 19 * 1024;
pub(crate) const ARGON2_PASSES: u32 = 2;
pub(crate) const ARGON2_LANES: u32 = 1;
/// An access token, in bytes of text.
pub(crate) const ACCESS_TOKEN_BYTES_MAX: usize = 4_096;

/// A connection that was idle for longer is tried before it is used, in milliseconds.
pub(crate) const CONNECTION_IDLE_MS_MAX: u64 = 1_000;
/// A connection's try answers within so many milliseconds.
pub(crate) const CONNECTION_CHECK_MS_MAX: u64 = 2_000;
/// Without an acknowledgement from the server's host for so long, a connection is lost, in seconds.
pub(crate) const CONNECTION_SILENT_S_MAX: u64 = 15;
/// How often the monitor looks whether PostgreSQL is there, in milliseconds.
pub(crate) const MONITOR_MS: u64 = 1_000;
/// How often the monitor counts the outbox, in looks.
pub(crate) const MONITOR_OUTBOX_LOOKS: u64 = 3;
/// Rows of the outbox that it counts one by one, and how long that may take, in milliseconds; what lies
/// beyond is estimated.
pub(crate) const OUTBOX_COUNTED_MAX: i64 = 10_000;
pub(crate) const OUTBOX_COUNT_MS_MAX: u64 = 250;
/// How often expired tokens and codes are deleted, in looks; rows deleted at once.
pub(crate) const MONITOR_EXPIRY_LOOKS: u64 = 600;
/// Wait for PostgreSQL at start before giving up, in milliseconds, and between attempts.
pub(crate) const START_WAIT_MS_MAX: u64 = 10_000;
pub(crate) const START_PAUSE_MS: u64 = 250;
/// After the queues are finished at stop, the link's threads write the last answers, in milliseconds.
pub(crate) const STOP_FLUSH_MS: u64 = 150;
/// Work that is queued when the process is asked to stop has this long to finish, in milliseconds.
pub(crate) const STOP_WAIT_MS_MAX: u64 = 20_000;

const SYNC_CHUNK_BYTES_MAX: u64 = SYNC_CHUNK_EVENTS * MESSAGE_TEXT_BYTES_MAX as u64;
const _: () = assert!(
    SYNC_BYTES_MAX as u64 + SYNC_CHUNK_BYTES_MAX < LINK_FRAME_BYTES_MAX as u64 - 2 * 1024 * 1024
);
const _: () = assert!(SYNC_CHUNK_EVENTS >= SYNC_PAGE_EVENTS_MAX as u64);
const _: () = assert!(MEMBERS_NAMED_MAX <= INLINE_RECIPIENTS_MAX);
const _: () = assert!(DELIVERED_TOLD_MEMBERS_MAX < INLINE_RECIPIENTS_MAX);
const _: () = assert!(INLINE_RECIPIENTS_MAX < MEMBERS_MAX);
// The first, the last, and something between them.
const _: () = assert!(RECEIPT_COUNTS_MAX > 2);
const _: () = assert!(RECEIPT_SUMMARY_LOOK_MS < RECEIPT_SUMMARY_MS_MIN);
const _: () = assert!(2 * MEMBERS_MAX <= AUDIENCE_CACHE_MEMBERS_MAX);
const _: () = assert!(COMMIT_BACKOFF_MS_MIN <= COMMIT_BACKOFF_MS_MAX);
const _: () = assert!(NAME_BYTES_MIN <= NAME_BYTES_MAX && PASSWORD_BYTES_MIN <= PASSWORD_BYTES_MAX);
