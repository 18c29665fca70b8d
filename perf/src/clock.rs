//! Time. Durations and due times use the machine's monotonic clock, which all processes share.

use std::time::Duration;

/// Microseconds of the machine's monotonic clock.
pub(crate) fn now_us() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place to write a timespec to; the clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    seconds * 1_000_000 + u64::try_from(time.tv_nsec).unwrap_or_default() / 1_000
}

pub(crate) fn sleep_until(at_us: u64) {
    let now = now_us();
    if at_us > now {
        std::thread::sleep(Duration::from_micros(at_us - now));
    }
}

/// An open-loop schedule: the k-th thing is due at a time that depends on nothing that happens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    start_us: u64,
    per_s: u64,
    count: u64,
}

impl Schedule {
    /// `per_s` things a second for `seconds`, from `start_us` on.
    pub(crate) fn new(start_us: u64, per_s: u64, seconds: u64) -> Self {
        Self { start_us, per_s: per_s.max(1), count: per_s * seconds }
    }

    /// When the `index`-th (from 0) is due; None when there are no more.
    pub(crate) fn due_us(&self, index: u64) -> Option<u64> {
        (index < self.count).then(|| self.start_us + index * 1_000_000 / self.per_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_keeps_its_rate_whatever_happens() {
        let schedule = Schedule::new(1_000, 3, 2);
        let due: Vec<_> = (0..7).map(|index| schedule.due_us(index)).collect();
        let expected = [1_000, 334_333, 667_666, 1_001_000, 1_334_333, 1_667_666];
        assert_eq!(due[..6], expected.map(Some));
        assert_eq!(due[6], None);
    }
}
