//! What becomes of a batch that was not committed: tried again, halved, or given up. Pure.

use super::engine::CommitError;
use crate::limits::{COMMIT_BACKOFF_MS_MAX, COMMIT_BACKOFF_MS_MIN, UNIQUE_ATTEMPTS_MAX};
use std::time::Duration;

/// The attempts at one batch.
#[derive(Debug)]
pub struct Attempts {
    backoff_ms: u64,
    unique: u32,
}

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The same batch, after a wait.
    Retry {
        /// In milliseconds.
        after_ms: u64,
    },
    /// Something in it cannot be committed: its halves, each by itself; a lone request is refused.
    Split,
    /// The database is away for longer than a batch waits.
    GiveUp,
}

impl Default for Attempts {
    fn default() -> Self {
        Self { backoff_ms: COMMIT_BACKOFF_MS_MIN, unique: 0 }
    }
}

impl Attempts {
    /// An attempt failed, so long after the batch was begun; `random(n)` gives a number from 0 to n.
    pub fn failed(
        &mut self,
        error: &CommitError,
        waited: Duration,
        retry: Duration,
        random: impl FnOnce(u64) -> u64,
    ) -> Next {
        let is_data = match error {
            CommitError::Temporary(_) => false,
            CommitError::Unique(_) => {
                self.unique += 1;
                self.unique >= UNIQUE_ATTEMPTS_MAX
            }
            CommitError::Data(_) => true,
        };
        if is_data {
            return Next::Split;
        }
        if waited >= retry {
            return Next::GiveUp;
        }
        let after_ms = self.backoff_ms + random(self.backoff_ms);
        self.backoff_ms = (self.backoff_ms * 2).min(COMMIT_BACKOFF_MS_MAX);
        Next::Retry { after_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETRY: Duration = Duration::from_secs(5);

    fn failed(attempts: &mut Attempts, error: &CommitError, waited_ms: u64) -> Next {
        attempts.failed(error, Duration::from_millis(waited_ms), RETRY, |most| most)
    }

    #[test]
    fn waits_double_to_their_limit_until_the_time_is_up() {
        let mut attempts = Attempts::default();
        let away = CommitError::Temporary("away".into());
        let mut backoff_ms = COMMIT_BACKOFF_MS_MIN;
        for _ in 0..20 {
            let next = Next::Retry { after_ms: 2 * backoff_ms };
            assert_eq!(failed(&mut attempts, &away, 4_999), next);
            backoff_ms = (2 * backoff_ms).min(COMMIT_BACKOFF_MS_MAX);
        }
        assert_eq!(failed(&mut attempts, &away, 5_000), Next::GiveUp);
    }

    #[test]
    fn bad_data_is_split_at_once_and_a_key_that_is_taken_after_some_tries() {
        let data = CommitError::Data("bad".into());
        assert_eq!(failed(&mut Attempts::default(), &data, 9_000), Next::Split);
        let mut attempts = Attempts::default();
        let unique = CommitError::Unique("taken".into());
        for _ in 1..UNIQUE_ATTEMPTS_MAX {
            assert!(matches!(failed(&mut attempts, &unique, 0), Next::Retry { .. }));
        }
        assert_eq!(failed(&mut attempts, &unique, 0), Next::Split);
    }
}
