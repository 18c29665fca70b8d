//! The outbox's size while rows go through it.

use crate::clock;
use crate::failure::Outcome;
use crate::limits::OUTBOX_LOOK;
use crate::outbox_size::OutboxSize;
use crate::population;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bloat {
    pub(super) start: OutboxSize,
    pub(super) max: OutboxSize,
    pub(super) end: OutboxSize,
    /// In the second half of the time.
    pub(super) late_max: OutboxSize,
}

/// Looks until it is told that all is done.
pub(super) fn watch(database_url: &str, is_done: &AtomicBool, seconds: u64) -> Outcome<Bloat> {
    let mut client = population::connect(database_url)?;
    let start = OutboxSize::look(&mut client)?;
    let mut bloat = Bloat { start, max: start, end: start, late_max: OutboxSize::default() };
    let half_us = clock::now_us() + seconds * 1_000_000 / 2;
    let mut next_us = clock::now_us();
    while !is_done.load(Ordering::Acquire) {
        if clock::now_us() >= next_us {
            next_us += u64::try_from(OUTBOX_LOOK.as_micros()).unwrap_or(u64::MAX);
            bloat.saw(OutboxSize::look(&mut client)?, half_us);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    bloat.saw(OutboxSize::look(&mut client)?, half_us);
    Ok(bloat)
}

impl Bloat {
    fn saw(&mut self, size: OutboxSize, half_us: u64) {
        (self.max, self.end) = (self.max.max(size), size);
        if clock::now_us() >= half_us {
            self.late_max = self.late_max.max(size);
        }
    }
}
