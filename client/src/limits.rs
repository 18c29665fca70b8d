//! Every limit of the client library, with its unit.

/// Sends that the library keeps until they are answered; more are refused at once.
pub const PENDING_SENDS_MAX: usize = 65_536;
/// Sends written to a gateway and not yet answered; the others wait in the library.
pub const SENDS_IN_FLIGHT_MAX: usize = 256;
/// A send without an answer for so long is written again, with the same key.
pub const SEND_ANSWER_MS_MAX: u64 = 15_000;
/// First and longest wait before a send that met a retryable error is written again.
pub const SEND_RETRY_MS_MIN: u64 = 50;
pub const SEND_RETRY_MS_MAX: u64 = 5_000;
/// Updates that wait for the application; beyond it the library stops reading from the socket.
pub const UPDATES_WAITING_MAX: usize = 8_192;
/// Events of one conversation that are kept while the hole before them is healed.
pub const HELD_EVENTS_MAX: usize = 1_024;
/// Conversations in one sync frame of ours.
pub const HEAL_CONVERSATIONS_MAX: usize = 64;
/// A sync without an answer for so long is asked again.
pub const HEAL_ANSWER_MS_MAX: u64 = 15_000;
/// First and longest wait before a sync that brought nothing is asked again.
pub const HEAL_RETRY_MS_MIN: u64 = 50;
pub const HEAL_RETRY_MS_MAX: u64 = 2_000;
/// Syncs that bring nothing although the server calls the conversation complete, before the
/// missing events are reported as skipped.
pub const HEAL_FRUITLESS_MAX: u32 = 3;
/// A TCP connect, and each read and write of the WebSocket handshake.
pub const CONNECT_MS_MAX: u64 = 5_000;
/// Token, connect and handshake together.
pub const DIAL_MS_MAX: u64 = 20_000;
/// From the hello to the welcome.
pub const WELCOME_MS_MAX: u64 = 10_000;
/// From an error in place of the welcome to the server's close.
pub const REFUSED_MS_MAX: u64 = 500;
/// From the welcome to the end of the resume.
pub const RESUME_MS_MAX: u64 = 30_000;
/// A write that makes no progress for so long ends the connection.
pub const WRITE_MS_MAX: u64 = 10_000;
/// First and longest wait between attempts to connect, unless the application says otherwise.
pub const BACKOFF_MS_MIN: u64 = 100;
pub const BACKOFF_MS_MAX: u64 = 5_000;
/// A connection that was live for so long was a good one: the backoff starts anew after it.
pub const STABLE_MS_MIN: u64 = 1_000;
/// The longest reconnect delay that a server may ask for.
pub const GOAWAY_MS_MAX: u64 = 60_000;
/// The heartbeat interval of a server that does not tell one.
pub const HEARTBEAT_MS_DEFAULT: u64 = 54_000;
/// A token is refreshed so long before it expires, or at 80 % of what is left if that is later.
pub const TOKEN_MARGIN_MS: u64 = 60_000;
/// Between attempts to fetch a fresh token while the old one still lives.
pub const TOKEN_RETRY_MS: u64 = 5_000;
/// Receipts are gathered for so long before they are written.
pub const ACK_DELAY_MS: u64 = 200;
/// One frame from a server, as a WebSocket message.
pub const SERVER_FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Encoded frames that wait for a slow socket.
pub const WRITE_BUFFER_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Frames read before the other work of a session has its turn.
pub const READS_PER_TURN_MAX: usize = 256;
/// Stack of a session's thread.
pub const THREAD_STACK_BYTES: usize = 512 * 1024;
/// One call of the HTTP API, retries aside.
pub const API_CALL_MS_MAX: u64 = 20_000;
/// Attempts of a call that may safely be repeated.
pub const API_ATTEMPTS_MAX: u32 = 4;
/// First wait between such attempts; it doubles.
pub const API_RETRY_MS_MIN: u64 = 200;
/// The body of one HTTP answer.
pub const API_BODY_BYTES_MAX: u64 = 64 * 1024 * 1024;

const _: () = assert!(SENDS_IN_FLIGHT_MAX <= PENDING_SENDS_MAX);
const _: () = assert!(HEAL_CONVERSATIONS_MAX <= proto::limits::CURSORS_MAX);
const _: () = assert!(BACKOFF_MS_MIN <= BACKOFF_MS_MAX && HEAL_RETRY_MS_MIN <= HEAL_RETRY_MS_MAX);
const _: () = assert!(CONNECT_MS_MAX < DIAL_MS_MAX);
const _: () =
    assert!(SENDS_IN_FLIGHT_MAX * proto::limits::CLIENT_FRAME_BYTES_MAX <= WRITE_BUFFER_BYTES_MAX);
