//! When a leader may be asked again: a quiet log at once, so that a record waits for nothing; a busy one
//! at a pace, so that an answer carries many records for what one costs.

use crate::limits::{KAFKA_BUSY_RECORDS, KAFKA_BUSY_WINDOW_MS, KAFKA_FETCH_PACE_US};
use std::time::{Duration, Instant};

pub(super) const PACE: Duration = Duration::from_micros(KAFKA_FETCH_PACE_US);
const WINDOW: Duration = Duration::from_millis(KAFKA_BUSY_WINDOW_MS);

#[derive(Debug)]
pub(super) struct Pace {
    window_began: Instant,
    /// Records in this window so far.
    records: usize,
    is_busy: bool,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { window_began: now, records: 0, is_busy: false }
    }

    /// An answer carried so many records.
    pub(super) fn count(&mut self, records: usize, now: Instant) {
        if now.saturating_duration_since(self.window_began) >= WINDOW {
            self.is_busy = self.records >= KAFKA_BUSY_RECORDS;
            (self.window_began, self.records) = (now, 0);
        }
        self.records += records;
        self.is_busy |= self.records >= KAFKA_BUSY_RECORDS;
    }

    /// Until the next request may be sent, if the last was sent then.
    pub(super) fn pause(&self, asked_at: Option<Instant>, now: Instant) -> Duration {
        match asked_at {
            Some(at) if self.is_busy => PACE.saturating_sub(now.saturating_duration_since(at)),
            _ => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pause behind so many records at each of these milliseconds.
    fn paused(answers: &[(u64, usize)]) -> bool {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let mut now = start;
        for (at, records) in answers {
            now = start + Duration::from_millis(*at);
            pace.count(*records, now);
        }
        pace.pause(Some(now), now) == PACE
    }

    #[test]
    fn a_log_is_busy_from_the_limit_on() {
        assert!(!paused(&[(1, KAFKA_BUSY_RECORDS - 1)]));
        assert!(paused(&[(1, KAFKA_BUSY_RECORDS - 1), (2, 1)]));
        // One record in each millisecond.
        let steady: Vec<_> = (0..500).map(|at| (at, 1)).collect();
        assert!(paused(&steady));
        let half: Vec<_> = (0..500).map(|at| (at * 2, 1)).collect();
        assert!(!paused(&half));
    }

    #[test]
    fn a_busy_log_stays_so_over_the_turn_of_a_window_and_is_quiet_again_behind_one() {
        let burst = (1, KAFKA_BUSY_RECORDS);
        assert!(paused(&[burst, (KAFKA_BUSY_WINDOW_MS, 1)]));
        assert!(!paused(&[burst, (KAFKA_BUSY_WINDOW_MS, 1), (2 * KAFKA_BUSY_WINDOW_MS, 1)]));
    }

    #[test]
    fn the_pause_is_what_is_left_since_the_last_request() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        pace.count(KAFKA_BUSY_RECORDS, start);
        assert_eq!(pace.pause(None, start), Duration::ZERO);
        assert_eq!(pace.pause(Some(start), start + PACE / 3), PACE - PACE / 3);
        assert_eq!(pace.pause(Some(start), start + PACE * 2), Duration::ZERO);
    }
}
