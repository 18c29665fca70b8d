//! Whether a message gets through again after a fault, and how long after it. A fault counts as healed once
//! every daemon says that it can do its job, however long a store took to start again.

use super::canary::Canary;
use crate::clock;
use crate::failure::Outcome;
use crate::limits::LIVE_MS_MAX;
use crate::scrape;
use crate::stack::Stack;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Between two looks at who is ready.
const LOOK: Duration = Duration::from_millis(200);

pub(super) struct Recovery {
    /// When the probe message had been delivered, or was given up.
    pub(super) at_us: u64,
    pub(super) is_recovered: bool,
    /// It came later than it may once all are ready.
    pub(super) is_late: bool,
}

impl Recovery {
    /// Follows the probe message; the fault was over at `over_us`.
    pub(super) fn follow(
        stack: &Stack,
        canary: &Canary,
        patience: Duration,
        over_us: u64,
    ) -> Outcome<Self> {
        let is_done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let looking = scope.spawn(|| ready_since_us(stack, &is_done));
            let is_recovered = canary.sing(patience).is_some();
            let at_us = clock::now_us();
            is_done.store(true, Ordering::Release);
            // It returns by itself, and panics nowhere.
            let ready_us = looking.join().unwrap_or(Ok(None))?;
            Ok(Self { at_us, is_recovered, is_late: is_late(at_us, ready_us, over_us) })
        })
    }
}

fn is_late(at_us: u64, ready_us: Option<u64>, over_us: u64) -> bool {
    ready_us.is_some_and(|it| at_us > it.max(over_us) + LIVE_MS_MAX * 1_000)
}

/// Looks until it is told that all is done; since when all have been ready without a break, if they are.
fn ready_since_us(stack: &Stack, is_done: &AtomicBool) -> Outcome<Option<u64>> {
    let admins = stack.admins()?;
    let mut since_us = None;
    while !is_done.load(Ordering::Acquire) {
        let now_us = clock::now_us();
        let all = admins.iter().all(|admin| scrape::is_ready(*admin));
        since_us = if all { since_us.or(Some(now_us)) } else { None };
        std::thread::sleep(LOOK);
    }
    Ok(since_us)
}

impl fmt::Display for Recovery {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match (self.is_recovered, self.is_late) {
            (false, _) => "NOT recovered",
            (true, true) => "all were ready, and it recovered TOO LATE",
            (true, false) => "recovered",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_late_so_long_after_all_are_ready_and_the_fault_is_over() {
        let ms = |ms: u64| ms * 1_000;
        assert!(!is_late(ms(60_000), None, 0), "nobody is ready yet");
        assert!(
            !is_late(ms(20_000), Some(ms(10_000)), 0) && is_late(ms(20_001), Some(ms(10_000)), 0)
        );
        assert!(!is_late(ms(20_001), Some(ms(1)), ms(10_001)), "the fault went on");
    }
}
