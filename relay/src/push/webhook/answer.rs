//! What an answer of the webhook leads to. Pure.

use crate::limits::{WEBHOOK_RETRY_AFTER_MS_MAX, WEBHOOK_RETRY_MS_MAX, WEBHOOK_TRIES_MAX};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Status {
        code: u16,
        /// The header, if there is one.
        retry_after: Option<String>,
    },
    /// There was none, and why.
    Nothing(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Done,
    /// Try again after so many milliseconds, and why.
    Again(u64, String),
    /// It will not be delivered, and why.
    Dead(String),
}

impl Answer {
    /// Its class in the metrics.
    pub(super) const fn class(&self) -> &'static str {
        match self {
            Self::Nothing(_) => "none",
            Self::Status { code: 200..=299, .. } => "2xx",
            Self::Status { code: 300..=399, .. } => "3xx",
            Self::Status { code: 429, .. } => "429",
            Self::Status { code: 400..=499, .. } => "4xx",
            Self::Status { code: 500..=599, .. } => "5xx",
            Self::Status { .. } => "other",
        }
    }

    /// After the `tries`th try. `first_ms` is the wait after the first; up to a quarter is added to each,
    /// `jitter` of 256 parts of it.
    pub(super) fn judge(&self, tries: u32, first_ms: u64, jitter: u8) -> Verdict {
        let (reason, asked_ms) = match self {
            Self::Status { code: 200..=299, .. } => return Verdict::Done,
            Self::Status { code: code @ (429 | 500..=599), retry_after } => {
                let asked_ms = retry_after.as_deref().and_then(seconds);
                (format!("the webhook answered {code}"), asked_ms.unwrap_or(0))
            }
            Self::Status { code: code @ 300..=399, .. } => {
                return Verdict::Dead(format!(
                    "the webhook answered {code}; redirects are not followed"
                ));
            }
            Self::Status { code, .. } => {
                return Verdict::Dead(format!("the webhook answered {code}"));
            }
            Self::Nothing(error) => (format!("the webhook did not answer: {error}"), 0),
        };
        if tries >= WEBHOOK_TRIES_MAX {
            return Verdict::Dead(reason);
        }
        let doubled = first_ms.saturating_mul(1 << tries.saturating_sub(1).min(32));
        let wait_ms = doubled.min(WEBHOOK_RETRY_MS_MAX);
        let wait_ms = wait_ms + wait_ms / 4 * u64::from(jitter) / 256;
        Verdict::Again(wait_ms.max(asked_ms), reason)
    }
}

/// `Retry-After` in seconds (RFC 9110 section 10.2.3); a date there is not understood. In milliseconds.
fn seconds(text: &str) -> Option<u64> {
    let seconds: u64 = text.trim().parse().ok()?;
    Some(seconds.saturating_mul(1_000).min(WEBHOOK_RETRY_AFTER_MS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16) -> Answer {
        Answer::Status { code, retry_after: None }
    }

    fn asks(seconds: &str) -> Answer {
        Answer::Status { code: 503, retry_after: Some(seconds.to_owned()) }
    }

    fn wait_ms(answer: &Answer, tries: u32, jitter: u8) -> u64 {
        match answer.judge(tries, 500, jitter) {
            Verdict::Again(wait_ms, _) => wait_ms,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_answer_has_its_verdict() {
        for code in [200, 204, 299] {
            assert_eq!(status(code).judge(1, 500, 0), Verdict::Done);
        }
        for code in [301, 308, 400, 401, 404, 410, 422, 100] {
            assert!(matches!(status(code).judge(1, 500, 0), Verdict::Dead(_)), "{code}");
        }
        for code in [429, 500, 502, 599] {
            assert!(matches!(status(code).judge(1, 500, 0), Verdict::Again(..)), "{code}");
        }
        assert!(matches!(Answer::Nothing("timed out".into()).judge(1, 500, 0), Verdict::Again(..)));
        let classes = [200, 301, 404, 429, 503, 100].map(|code| status(code).class());
        assert_eq!(classes, ["2xx", "3xx", "4xx", "429", "5xx", "other"]);
    }

    #[test]
    fn waits_double_up_to_a_bound_and_jitter_adds_up_to_a_quarter() {
        let waits = [1, 2, 3, 7, 9].map(|tries| wait_ms(&status(500), tries, 0));
        assert_eq!(waits, [500, 1_000, 2_000, WEBHOOK_RETRY_MS_MAX, WEBHOOK_RETRY_MS_MAX]);
        assert_eq!(wait_ms(&status(500), 1, 128), 562);
        assert!(wait_ms(&status(500), 9, 255) < WEBHOOK_RETRY_MS_MAX * 5 / 4);
    }

    #[test]
    fn the_last_try_is_followed_by_none() {
        let last_but_one = status(500).judge(WEBHOOK_TRIES_MAX - 1, 500, 0);
        assert!(matches!(last_but_one, Verdict::Again(..)));
        let last = status(500).judge(WEBHOOK_TRIES_MAX, 500, 0);
        assert_eq!(last, Verdict::Dead("the webhook answered 500".into()));
    }

    #[test]
    fn retry_after_is_kept_to_within_its_bound() {
        assert_eq!(wait_ms(&asks("7"), 1, 0), 7_000);
        assert_eq!(wait_ms(&asks("0"), 1, 0), 500, "never sooner than the backoff");
        assert_eq!(wait_ms(&asks("60"), 1, 0), WEBHOOK_RETRY_AFTER_MS_MAX);
        assert_eq!(wait_ms(&asks("61"), 1, 0), WEBHOOK_RETRY_AFTER_MS_MAX);
        assert_eq!(wait_ms(&asks("99999999999999999"), 1, 0), WEBHOOK_RETRY_AFTER_MS_MAX);
        assert_eq!(wait_ms(&asks("Wed, 21 Oct 2026 07:28:00 GMT"), 1, 0), 500);
    }
}
