//! The wall clock, for timestamps that leave the process. Durations use `Instant`.

use std::time::{SystemTime, UNIX_EPOCH};

/// Microseconds since the Unix epoch; 0 if the clock stands before it.
#[must_use]
pub fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    crate::failpoint::shifted(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}
