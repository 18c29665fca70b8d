//! Limits of what the daemons share, with their units.

/// Admin connections served at once; more are closed at once.
pub const ADMIN_CONNECTIONS_MAX: usize = 16;
/// Head of an admin request.
pub const ADMIN_HEAD_BYTES_MAX: usize = 8 * 1024;
/// Time an admin client has to send its request.
pub const ADMIN_READ_MS_MAX: u64 = 2_000;
/// Connections to one link server.
pub const LINK_CONNECTIONS_MAX: usize = 256;
/// Requests of one link connection that are not yet answered; reading stops at that many.
pub const LINK_IN_FLIGHT_MAX: usize = 16_384;
/// Time a link peer has for the handshake.
pub const LINK_HANDSHAKE_MS_MAX: u64 = 5_000;
/// A link write that makes no progress for so long ends the connection.
pub const LINK_WRITE_MS_MAX: u64 = 10_000;
/// First and longest wait between attempts to connect a link.
pub const LINK_BACKOFF_MS_MIN: u64 = 50;
pub const LINK_BACKOFF_MS_MAX: u64 = 1_000;
/// How often a link client looks for requests that are past their deadline.
pub const LINK_DEADLINE_TICK_MS: u64 = 100;
/// Read from a link at once.
pub const LINK_READ_BYTES: usize = 256 * 1024;

const _: () = assert!(LINK_BACKOFF_MS_MIN <= LINK_BACKOFF_MS_MAX);
const _: () = assert!(LINK_READ_BYTES > proto::handshake::HANDSHAKE_FRAME_BYTES_MAX);
