//! How the time from SIGTERM to the end is divided. Pure.

use crate::limits::{KAFKA_RETRY_MS, KAFKA_SETTLE_MS_MAX, PRESENCE_STOP_MS_MAX};
use std::time::Duration;

/// Each from SIGTERM on, or from the end of what comes before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DrainTimes {
    /// Until the last offsets are committed.
    pub(crate) commit: Duration,
    /// Then, until the last records are produced.
    pub(crate) publish: Duration,
    /// From SIGTERM on: until the last connection is dropped.
    pub(crate) shards: Duration,
    /// Then, until presenced is told: to hand it over, and to hear of it.
    pub(crate) report: Duration,
}

impl DrainTimes {
    pub(crate) fn of(drain_ms: u64) -> Self {
        let ms = Duration::from_millis;
        Self {
            commit: ms((drain_ms * 4 / 10).min(2 * KAFKA_SETTLE_MS_MAX)),
            publish: ms((drain_ms / 10).min(KAFKA_RETRY_MS)),
            shards: ms(drain_ms * 7 / 10),
            report: ms((drain_ms / 10).min(PRESENCE_STOP_MS_MAX)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_it_ends_in_time_however_short_that_is() {
        for drain_ms in (100..20_000).chain([600_000]) {
            let DrainTimes { commit, publish, shards, report } = DrainTimes::of(drain_ms);
            // The shards take letters until the commits are done.
            assert!(commit + publish <= shards, "{drain_ms}");
            assert!(shards + 2 * report <= Duration::from_millis(drain_ms), "{drain_ms}");
        }
    }
}
