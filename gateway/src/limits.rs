//! Every capacity and time of the gateway that is not configuration, with its unit.

use proto::limits::{CLIENT_FRAME_BYTES_MAX, PRESENCE_USERS_MAX, RECORD_VALUE_BYTES_MAX};

/// Head of an HTTP request: request line and headers. More is answered 431.
pub(crate) const HEAD_BYTES_MAX: usize = 8 * 1024;
/// Headers of an HTTP request. More is answered 431.
pub(crate) const HEADERS_MAX: usize = 64;
/// Time for chatd's answer to an HTTP request; the uplink's own deadline is shorter.
pub(crate) const ANSWER_MS_MAX: u64 = 30_000;
/// After our close frame or last response, the peer has this long to hang up.
pub(crate) const CLOSE_MS_MAX: u64 = 2_000;

/// Plain text encrypted at once, before the socket is asked to take it.
pub(crate) const TLS_CHUNK_BYTES: usize = 64 * 1024;
/// Ciphertext of a record, or of a handshake message in several records, that is kept until its end
/// comes.
pub(crate) const TLS_PARTIAL_BYTES_MAX: usize = 32 * 1024;
/// Ciphertext that a peer makes us send (handshake, key updates) and does not read.
pub(crate) const TLS_UNSENT_BYTES_MAX: usize = 128 * 1024;
/// A certificate's or key's file.
pub(crate) const TLS_FILE_BYTES_MAX: u64 = 1024 * 1024;
/// A PROXY header (version 2) with all that it may carry besides the addresses.
pub(crate) const PROXY_HEADER_BYTES_MAX: usize = 2 * 1024;

/// What a user with too many sessions is told to wait.
pub(crate) const SESSION_RETRY_MS: u32 = 5_000;
/// Cells of one row of a limit's table. A peer shares a cell with others by chance alone.
pub(crate) const LIMIT_CELLS: usize = 16 * 1024;
/// Unused allowance is kept for so many seconds: a burst.
pub(crate) const LIMIT_BURST_S: u64 = 5;

/// Payload of a WebSocket control frame (RFC 6455 section 5.5).
pub(crate) const CONTROL_BYTES_MAX: usize = 125;
/// Header of a WebSocket frame from a client: 2, 8 of length, 4 of mask.
pub(crate) const FRAME_HEADER_BYTES_MAX: usize = 14;
/// Frames of one message; more is a flood.
pub(crate) const FRAGMENTS_MAX: u32 = 256;
/// Control frames of one connection in one window; more is a flood.
pub(crate) const CONTROL_FRAMES_MAX: u16 = 200;
/// Frames of one connection that are refused, in one window: malformed, out of turn, or beyond the
/// user's rate. More is a flood.
pub(crate) const REFUSED_FRAMES_MAX: u16 = 200;
/// The window in which these are counted.
pub(crate) const FLOOD_WINDOW_MS: u64 = 10_000;
/// What is done for one connection before the others have their turn: a message or control frame costs
/// one, and one more for each of these bytes of its payload, inflated.
pub(crate) const TURN_WORK_MAX: u32 = 256;
pub(crate) const TURN_WORK_BYTES: usize = 1_024;

/// A message of fewer bytes is not compressed.
pub(crate) const DEFLATE_BYTES_MIN: usize = 64;
/// Room for what compressing adds to a message that cannot be compressed, besides an eighth of it.
pub(crate) const DEFLATE_ROOM_BYTES: usize = 256;
/// A client's message grows by no more than this when it is inflated...
pub(crate) const INFLATE_RATIO_MAX: usize = 100;
/// ...except up to this size.
pub(crate) const INFLATE_RATIO_FREE_BYTES: usize = 8 * 1024;
/// Output of one step of inflating.
pub(crate) const INFLATE_STEP_BYTES: usize = 16 * 1024;

/// Conversations that the id of a stream of server-sent events can name; it comes back in a header.
pub(crate) const EVENTS_CURSORS_MAX: usize = 160;
/// Live events of such a stream between two ids.
pub(crate) const EVENTS_PER_ID: u32 = 32;

/// Requests of one session that chatd or presenced has not yet answered.
pub(crate) const IN_FLIGHT_MAX: u8 = 64;
/// Events that wait for one session while it resumes.
pub const GAP_BUFFER_EVENTS_MAX: usize = 256;
/// Conversations of one resume whose events did not fit the gap buffer; one more ends the session.
pub(crate) const GAP_OVERFLOWS_MAX: usize = 1_024;

/// Counted for each event in the cache of recent events, besides its bytes and its recipients.
pub(crate) const RECENT_ENTRY_BYTES: usize = 192;
/// Changes of membership in one shard's cache of recent events.
pub(crate) const RECENT_MEMBERSHIPS_MAX: usize = 4_096;
/// Conversations of one session of which it has still to be told that it has a gap.
pub(crate) const GAPS_MAX: usize = 1_024;

/// Read from one socket at once; the buffer is shared by all connections of a shard.
pub(crate) const READ_BYTES: usize = 128 * 1024;
/// Reads from one socket in a row before the others have their turn.
pub(crate) const READS_IN_A_ROW_MAX: usize = 4;
/// Events of one poll.
pub(crate) const POLL_EVENTS_MAX: usize = 1_024;
/// Connections accepted from one listener before the others have their turn.
pub(crate) const ACCEPTS_IN_A_ROW_MAX: usize = 64;
/// Wait after accept failed for want of descriptors or memory.
pub(crate) const ACCEPT_RETRY_MS: u64 = 100;
/// Connections refused at once that a shard keeps until their answers are read, and for how long.
pub(crate) const REFUSALS_KEPT_MAX: usize = 64;
pub(crate) const REFUSAL_MS: u64 = 1_000;
/// Length of a listener's queue of connections that are not yet accepted.
pub(crate) const BACKLOG: i32 = 4_096;
/// Letters taken from the mailbox before the sockets have their turn.
pub(crate) const LETTERS_IN_A_ROW_MAX: usize = 1_024;
/// Recipients of the letters taken before the sockets have their turn, and of one letter.
pub(crate) const RECIPIENTS_IN_A_ROW_MAX: usize = 16 * 1024;
pub(crate) const RECIPIENTS_PER_LETTER_MAX: usize = 4 * 1024;
/// Frames of one vectored write (IOV_MAX is 1,024).
pub(crate) const WRITE_FRAMES_MAX: usize = 64;
/// Writes to one socket in a row before the others have their turn.
pub(crate) const WRITES_IN_A_ROW_MAX: usize = 4;
/// A payload's buffer of up to this many bytes is kept for the next payload.
pub(crate) const PAYLOAD_BYTES_KEPT: usize = 4 * 1024;
/// Free payload slots whose buffers are kept.
pub(crate) const PAYLOADS_KEPT: usize = 4_096;
/// Partial frames' buffers that are kept for the next partial frame.
pub(crate) const PARTIALS_KEPT: usize = 64;
/// Such a buffer is kept if it holds no more than this.
pub(crate) const PARTIAL_BYTES_KEPT: usize = 16 * 1024;
/// Segments of rings made at once.
pub(crate) const SEGMENTS_PER_CHUNK: usize = 128;

/// A timer fires up to this long after its time.
pub(crate) const TIMER_TICK_MS: u64 = 16;
/// Heartbeats of one interval go out in so many groups: one comes up to that part of it late.
pub(crate) const HEARTBEAT_GROUPS: u64 = 128;
/// How often the opening thread looks whether the gateway may listen.
pub(crate) const OPENING_TICK_MS: u64 = 20;
/// The longest a shard sleeps.
pub(crate) const POLL_MS_MAX: u64 = 1_000;
/// An event written longer ago than this is a catch-up, and left out of the latency.
pub(crate) const LATENCY_US_MAX: u64 = 60_000_000;

const _: () = assert!(HEAD_BYTES_MAX <= READ_BYTES);
const _: () = assert!(TOKENS_REMEMBERED.is_power_of_two() && TOKENS_REMEMBERED >= 2);
const _: () = assert!(PROXY_HEADER_BYTES_MAX <= READ_BYTES);
const _: () = assert!(LIMIT_CELLS.is_power_of_two());
const _: () = assert!(CLIENT_FRAME_BYTES_MAX <= READ_BYTES);
const _: () = assert!(CLIENT_FRAME_BYTES_MAX / TURN_WORK_BYTES < TURN_WORK_MAX as usize);
const _: () = assert!(WRITE_FRAMES_MAX <= 1_024);
const _: () = assert!(RECIPIENTS_PER_LETTER_MAX <= RECIPIENTS_IN_A_ROW_MAX);
const _: () = assert!(ROSTER_USERS_MAX * 16 <= ROSTER_BYTES_MAX);
const _: () = assert!(RECORD_VALUE_BYTES_MAX + HELD_RECORD_BYTES <= HELD_BYTES_MAX);
const _: () = assert!(ROSTER_RETRY_MS_MAX < HELD_MS_MAX);
const _: () = assert!(PRESENCE_USERS_MAX <= u16::MAX as usize);
const _: () = assert!(POLL_MS_MAX >= TIMER_TICK_MS);

// Edge threads: tokens, uplink, presence, Kafka.

/// Shards of one gateway; `shards` in the configuration allows no more.
pub(crate) const SHARDS_MAX: usize = 1_024;

/// An access token, as it came.
pub(crate) const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Keys in an issuer's key set.
pub(crate) const TOKEN_KEYS_MAX: usize = 64;
/// Tokens whose signature was found good and is not verified again. A power of two.
pub(crate) const TOKENS_REMEMBERED: usize = 32 * 1024;
/// A token's subject, in UTF-8.
pub(crate) const TOKEN_SUBJECT_BYTES_MAX: usize = 256;
/// How far an issuer's clock may run ahead of ours, for `nbf`.
pub(crate) const TOKEN_NOT_BEFORE_LEEWAY_S: u64 = 30;
/// How often the verification keys are fetched.
pub(crate) const KEYS_REFRESH_MS: u64 = 60_000;
/// Wait after the verification keys could not be fetched.
pub(crate) const KEYS_RETRY_MS: u64 = 1_000;

/// Users who came and went and whom the routes thread has not taken; a shard whose own do not fit refuses
/// sessions as overloaded once it keeps so many.
pub(crate) const ROUTES_QUEUE_MAX: usize = 65_536;
pub(crate) const ROUTES_KEPT_MAX: usize = 65_536;
/// Of these, so many are told to Redis at once.
pub(crate) const ROUTES_BATCH_MAX: usize = 4_096;
/// How long Redis may take to connect, to read or to write, in milliseconds.
pub(crate) const ROUTES_MS_MAX: u64 = 500;
/// How often the claim that Redis has all users is renewed, and when it is tried again after a failure.
pub(crate) const ROUTES_RENEW_MS: u64 = 500;
pub(crate) const ROUTES_RETRY_MS: u64 = 500;
/// How often all users are told again, and how many of them with one renewal.
pub(crate) const ROUTES_AGAIN_MS: u64 = 600_000;
pub(crate) const ROUTES_AGAIN_USERS_MAX: usize = 16_384;
/// What Redis's clock and ours may differ by while a claim lasts, in milliseconds.
pub(crate) const ROUTES_SLACK_MS: u64 = 500;

const _: () = assert!(ROUTES_RENEW_MS + 2 * ROUTES_MS_MAX < proto::routes::CLAIM_MS);
const _: () = assert!(ROUTES_AGAIN_MS * 3 < proto::routes::ROUTE_EXPIRY_S * 1_000);

/// How long what is in a gateway's own topic is kept, in milliseconds: longer than a gateway is held up without
/// telling its sessions to begin anew.
pub(crate) const OWN_TOPIC_RETENTION_MS: u64 = 3_600_000;

/// Requests that wait for one uplink thread; one more is refused as overloaded.
pub(crate) const UPLINK_QUEUE_MAX: usize = 8_192;
/// Requests on one link that are asked and not yet answered; one more is refused as overloaded.
pub(crate) const UPLINK_IN_FLIGHT_MAX: usize = 8_192;
/// What a client is told to wait after such a refusal.
pub(crate) const UPLINK_RETRY_AFTER_MS: u32 = 250;
/// How long an idle uplink thread sleeps before it looks at the keys' age.
pub(crate) const UPLINK_TICK_MS: u64 = 250;
/// Deadlines of requests to chatd and presenced, by kind.
pub(crate) const SEND_MS_MAX: u64 = 5_000;
pub(crate) const SYNC_MS_MAX: u64 = 10_000;
pub(crate) const ACK_MS_MAX: u64 = 5_000;
pub(crate) const HTTP_MS_MAX: u64 = 15_000;
pub(crate) const AUDIENCE_LOOKUP_MS_MAX: u64 = 3_000;
pub(crate) const PRESENCE_LOOKUP_MS_MAX: u64 = 3_000;
pub(crate) const KEYS_MS_MAX: u64 = 3_000;

/// Members of large conversations that are remembered, by each thread that reads the log.
pub(crate) const ROSTER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Large conversations of one such thread whose members are being asked for; a record of one more is
/// a dead letter.
pub(crate) const ROSTERS_ASKED_MAX: usize = 1_024;
/// Records that wait for a conversation's members, of one conversation and of one thread; with one
/// more, what waits becomes a gap.
pub(crate) const HELD_RECORDS_MAX: usize = 1_024;
pub(crate) const HELD_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Counted for each of them besides its bytes.
pub(crate) const HELD_RECORD_BYTES: usize = 256;
/// What has waited for so long becomes a gap.
pub(crate) const HELD_MS_MAX: u64 = 30_000;
/// How long a Kafka thread waits for a record while others wait for members.
pub(crate) const HELD_POLL_MS: u64 = 2;
/// Lists of members that are asked for at the same time.
pub(crate) const ROSTER_FETCHES_MAX: usize = 4;
/// Wait before a page of members is asked for again: the first time, and at most.
pub(crate) const ROSTER_RETRY_MS_MIN: u64 = 100;
pub(crate) const ROSTER_RETRY_MS_MAX: u64 = 5_000;
/// Members of one conversation: more are not asked for.
pub(crate) const ROSTER_USERS_MAX: usize = 1_000_000;
/// How long a conversation's audience is remembered; a change of membership ends it earlier.
pub(crate) const AUDIENCE_MS_MAX: u64 = 10_000;
/// Audiences remembered, all conversations together.
pub(crate) const AUDIENCE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Typing notices that wait for an audience; one more is refused as overloaded.
pub(crate) const AUDIENCE_LOOKUPS_MAX: usize = 4_096;
/// Typing notices of one session in one window; one more is refused.
pub(crate) const TYPING_PER_WINDOW_MAX: u32 = 20;
/// The window in which typing notices are counted.
pub(crate) const TYPING_WINDOW_MS: u64 = 5_000;
/// Sessions of one uplink thread that type in one window; those of one more are refused.
pub(crate) const TYPING_SESSIONS_MAX: usize = 65_536;

/// Connects, disconnects and answered censuses that wait for the presence thread; one more is left
/// out, and the next census makes up for it.
pub(crate) const PRESENCE_QUEUE_MAX: usize = 65_536;
/// Changes in one report.
pub(crate) const PRESENCE_CHANGES_MAX: usize = 512;
/// Heartbeats in one report.
pub(crate) const PRESENCE_HEARTBEATS_MAX: usize = 4_096;
/// A change waits no longer than this for others to be reported with.
pub(crate) const PRESENCE_BATCH_MS: u64 = 100;
/// How often every session is reported as still there; presenced forgets after 60 s.
pub(crate) const PRESENCE_CENSUS_MS: u64 = 20_000;
/// presenced has this long to take a report.
pub(crate) const PRESENCE_REPORT_MS_MAX: u64 = 5_000;
/// Within this time after presenced forgot who was online all sessions that watch are told anew.
pub(crate) const PRESENCE_REFRESH_MS: u64 = 10_000;
/// Time to report the last disconnects when the gateway stops.
pub(crate) const PRESENCE_STOP_MS_MAX: u64 = 1_000;

/// Time to find Kafka, its topics and the start positions before the gateway gives up starting.
pub(crate) const KAFKA_START_MS_MAX: u64 = 30_000;
/// One question to the brokers.
pub(crate) const KAFKA_ASK_MS_MAX: u64 = 5_000;
/// Wait between attempts to get start positions, and between looks at a broker that is down.
pub(crate) const KAFKA_RETRY_MS: u64 = 500;
/// How often the topics' partitions are looked at.
pub(crate) const KAFKA_WATCH_MS: u64 = 2_000;
/// A committed offset is gone on from if records since are not older than this, else the end is.
pub(crate) const KAFKA_RECENT_MS: u64 = 600_000;
/// Records of one batch (one ticket).
pub(crate) const KAFKA_BATCH_RECORDS_MAX: usize = 256;
/// Records of a batch after which the shards concerned are woken; the batch's end wakes them, too.
pub(crate) const KAFKA_RING_RECORDS: usize = 32;
/// How long a Kafka thread waits for a record before it does its housekeeping.
pub(crate) const KAFKA_POLL_MS: u64 = 500;
/// How often offsets are committed.
pub(crate) const KAFKA_COMMIT_MS: u64 = 1_000;
/// A commit without an answer is given up after this time.
pub(crate) const KAFKA_COMMIT_MS_MAX: u64 = 5_000;
/// How often offsets are committed again that have not changed.
pub(crate) const KAFKA_RECOMMIT_MS: u64 = 60_000;
/// Records fetched ahead by one Kafka thread.
pub(crate) const KAFKA_FETCHED_KB_MAX: usize = 16 * 1024;
/// One answer of a broker, all partitions together.
pub(crate) const KAFKA_FETCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Letters for users without a session that may lie in a mailbox before its shard is woken for them.
pub(crate) const UNWANTED_LETTERS_MAX: usize = 512;
/// Cells that a shard's filter of the users who are there has for each session that it may have...
pub(crate) const ATTENDANCE_CELLS_PER_SESSION: usize = 16;
/// ...and at least.
pub(crate) const ATTENDANCE_CELLS_MIN: usize = 1_024;
/// Cells of one session.
pub(crate) const ATTENDANCE_PROBES: u32 = 3;
/// How long a fetch without records waits at the broker.
pub(crate) const KAFKA_FETCH_MS_MAX: usize = 500;
/// From one fetch to the next of a log that is busy, at least: one answer carries many records, and none
/// waits longer for it than this.
pub(crate) const KAFKA_FETCH_PACE_US: u64 = 3_000;
/// A log is busy that has so many records...
pub(crate) const KAFKA_BUSY_RECORDS: usize = 100;
/// ...in this time. With fewer, a pause would gather none that an answer does not carry anyway.
pub(crate) const KAFKA_BUSY_WINDOW_MS: u64 = 100;
/// Of one partition in one answer; a batch that is larger comes alone.
pub(crate) const KAFKA_PARTITION_BYTES_MAX: usize = 1024 * 1024;
/// More than an answer's head, which comes before its first records; the least that records take is
/// more again.
pub(crate) const KAFKA_HEAD_BYTES: usize = 160;
/// The most of an answer that a Kafka thread waits for before it reads any of it.
pub(crate) const KAFKA_LOW_WATER_BYTES_MAX: usize = 64 * 1024;
/// When an answer that is too short to wake a Kafka thread is looked for.
pub(crate) const KAFKA_OVERDUE_MS: u64 = KAFKA_FETCH_MS_MAX as u64 + 5;
/// An answer to a fetch: what was asked for, or one batch that is larger.
pub(crate) const KAFKA_ANSWER_BYTES_MAX: usize = 2 * KAFKA_FETCH_BYTES_MAX;
/// Room for an answer that is kept between answers.
pub(crate) const KAFKA_INPUT_BYTES: usize = 64 * 1024;
/// Time to find the leaders of the log, and to connect to one.
pub(crate) const KAFKA_CONNECT_MS_MAX: u64 = 1_000;
/// After fetching the log directly ended, the library reads it for so long.
pub(crate) const KAFKA_DIRECT_RETRY_MS: u64 = 30_000;
/// When the gateway stops, shards have this long to enqueue what was mailed to them.
pub(crate) const KAFKA_SETTLE_MS_MAX: u64 = 2_000;
/// Partitions that have counts of their own, over all topics, and one more for what has none: 40 bytes
/// each, a shard.
pub(crate) const LANES_MAX: usize = 1_024;
/// Records waiting to be produced (typing, dead letters).
pub(crate) const PUBLISH_RECORDS_MAX: usize = 10_000;
pub(crate) const PUBLISH_KB_MAX: usize = 32 * 1024;
/// A record that could not be produced for so long is given up.
pub(crate) const PUBLISH_MS_MAX: u64 = 5_000;

/// How long the producer's thread waits for a report at once; reports that come end no wait.
pub(crate) const PUBLISH_POLL_MS: u64 = 10_000;

const _: () = assert!(KAFKA_FETCH_BYTES_MAX > RECORD_VALUE_BYTES_MAX);
const _: () = assert!(KAFKA_RING_RECORDS <= KAFKA_BATCH_RECORDS_MAX);
const _: () = assert!(KAFKA_FETCHED_KB_MAX * 1024 >= KAFKA_FETCH_BYTES_MAX);
const _: () = assert!(LANES_MAX > 1 && LANES_MAX <= u16::MAX as usize);
const _: () = assert!(HTTP_MS_MAX < ANSWER_MS_MAX);
const _: () = assert!(PRESENCE_CHANGES_MAX <= PRESENCE_HEARTBEATS_MAX);

/// User-space memory of an idle session: what the estimate at start counts with.
pub(crate) const SESSION_BYTES: usize = 512;
/// A user of a gateway that is routed to, in its shard and in the routes thread; one who is new to the latter.
pub(crate) const ROUTE_BYTES: usize = 256;
pub(crate) const NOTE_BYTES: usize = 48;
/// The same of its encryption.
pub(crate) const TLS_SESSION_BYTES: usize = 8 * 1024;
/// What a request that waits for chatd or presenced holds on the average.
pub(crate) const ASK_BYTES: usize = 1024;
/// What a letter holds on the average: most are one event for many.
pub(crate) const LETTER_BYTES: usize = 2 * 1024;
/// The program, its threads' stacks as far as they are used, metrics, links, logs, and the tables of
/// limits and remembered tokens.
pub(crate) const MEMORY_BASE_BYTES: usize = 48 * 1024 * 1024;
/// Heaps of the C library.
pub(crate) const HEAPS_MAX: i32 = 2;
/// Descriptors for listeners, links, Kafka, logs and refused connections; where a process may have few,
/// a quarter of them.
pub(crate) const DESCRIPTORS_BESIDE_SESSIONS: usize = 1_024;
