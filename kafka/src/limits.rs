//! Every limit of this crate, with its unit.

/// How often a client is asked whether it has a broker, in milliseconds: each time is a request, and wakes
/// four threads.
pub const PROBE_MS: u64 = 5_000;
/// The same after a time that it had none, or none that answered.
pub(crate) const ANXIOUS_PROBE_MS: u64 = 1_000;
const _: () = assert!(ANXIOUS_PROBE_MS < PROBE_MS);
/// How long it may look for one, in milliseconds.
pub const PROBE_MS_MAX: u64 = 1_000;
/// Connecting to a broker's address, to see whether there is one, in milliseconds.
pub(crate) const CONNECT_MS_MAX: u64 = 500;
/// A client without brokers is told them again at once, and then after waits that double up to this,
/// in probes: librdkafka keeps what it is told.
pub(crate) const REMIND_PROBES_MAX: u32 = 32;
/// Stack of a guard's thread, in bytes.
pub(crate) const STACK_BYTES: usize = 128 * 1024;
