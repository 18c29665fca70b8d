//! Exponential backoff with jitter.

use fastrand::Rng;
use std::time::Duration;

/// The `attempt`-th wait (from 0): doubling from `min_ms` to `max_ms`, of which a random half is
/// taken off, so that many clients that lost the same server do not come back at once.
pub(super) fn delay(rng: &mut Rng, attempt: u32, min_ms: u64, max_ms: u64) -> Duration {
    let doubled = min_ms.checked_shl(attempt.min(32)).unwrap_or(max_ms);
    let longest = doubled.clamp(min_ms.min(max_ms), max_ms).max(1);
    Duration::from_millis(rng.u64(longest / 2..=longest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_with_jitter_up_to_its_cap() {
        let mut rng = Rng::with_seed(1);
        for attempt in 0..100 {
            let longest = 100_u64.saturating_mul(1 << attempt.min(20)).min(5_000);
            let got = u64::try_from(delay(&mut rng, attempt, 100, 5_000).as_millis()).unwrap();
            assert!((longest / 2..=longest).contains(&got), "attempt {attempt}: {got} ms");
        }
    }
}
