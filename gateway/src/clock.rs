//! A shard's clock: read once in each phase of the loop and handed to everything as an argument.

#![allow(clippy::disallowed_methods, reason = "the one place where the shards' clock is read")]

use std::sync::OnceLock;
use std::time::Instant;

/// When the first shard started: all count from there, as they share the limits' tables.
static STARTED: OnceLock<Instant> = OnceLock::new();

/// One reading of the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Now {
    /// Milliseconds since the first shard's start; never goes back. Deadlines are in this.
    pub(crate) ms: u64,
    /// Microseconds since the Unix epoch. Timestamps and token lifetimes are in this.
    pub(crate) wall_us: u64,
}

impl Now {
    /// Microseconds since the first shard's start, to a millisecond. Rates are counted in this: whoever was let
    /// in while the wall clock was ahead would be locked out once it is set right.
    pub(crate) fn since_start_us(self) -> u64 {
        self.ms.saturating_mul(1_000)
    }

    pub(crate) fn wall_s(self) -> u64 {
        self.wall_us / 1_000_000
    }
}

pub(crate) struct Clock {
    started: Instant,
    /// What a simulation says the time is.
    #[cfg(test)]
    pub(crate) simulated: Option<Now>,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self {
            started: *STARTED.get_or_init(Instant::now),
            #[cfg(test)]
            simulated: None,
        }
    }

    pub(crate) fn now(&self) -> Now {
        #[cfg(test)]
        if let Some(now) = self.simulated {
            return now;
        }
        let ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Now { ms, wall_us: daemon::clock::now_us() }
    }
}
