//! What gateways that are routed to keep in Redis, and the relay reads: which of them has sessions of a user.
//!
//! | key | value | expires |
//! |---|---|---|
//! | `route:{user}` | set: `{gateway}/{epoch}` for each gateway that has the user | [`ROUTE_EXPIRY_S`] |
//! | `routes-begun:{gateway}` | the [`Claim`] to be made, from before the first user is told | [`ROUTE_EXPIRY_S`] |
//! | `routes:{gateway}` | [`Claim`]: as long as it is there, the gateway has told all of its users | [`CLAIM_MS`] |
//!
//! An epoch is one telling of all users. What an earlier one left, or a command of it that Redis comes to see late,
//! says nothing about this one. A claim is made only where the epoch's beginning is there still: a Redis that was
//! emptied meanwhile has lost that, too. Whoever looks users up reads the claim before and after: unless it is the same and
//! of the Redis that was asked, nothing is known of that gateway, and it gets everything.

use std::fmt;
use uuid::Uuid;

/// How long a claim lasts that is not renewed, in milliseconds, on Redis's clock.
pub const CLAIM_MS: u64 = 3_000;
/// How long a user's gateways are kept; gateways tell theirs again well before.
pub const ROUTE_EXPIRY_S: u64 = 3_600;

/// What a gateway says of its routes: that it has told all users under this epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub epoch: String,
    /// The run of Redis (`run_id` of `INFO server`) that was told: one that was restarted, or a replica that took
    /// over, may have lost some of it.
    pub run_id: String,
}

impl Claim {
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (epoch, run_id) = text.split_once(' ')?;
        Some(Self { epoch: epoch.to_owned(), run_id: run_id.to_owned() })
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.epoch, self.run_id)
    }
}

/// Key of the set of gateways that have sessions of the user.
#[must_use]
pub fn user_key(user: Uuid) -> String {
    format!("route:{user}")
}

/// A gateway's member of such a set.
#[must_use]
pub fn member(gateway: &str, epoch: &str) -> String {
    format!("{gateway}/{epoch}")
}

/// Key of a gateway's [`Claim`].
#[must_use]
pub fn claim_key(gateway: &str) -> String {
    format!("routes:{gateway}")
}

/// Key of the claim that a gateway has begun to tell its users for.
#[must_use]
pub fn begun_key(gateway: &str) -> String {
    format!("routes-begun:{gateway}")
}

/// `run_id` out of what `INFO server` answers.
#[must_use]
pub fn run_id(info: &str) -> Option<&str> {
    info.lines().find_map(|line| line.trim_end().strip_prefix("run_id:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_comes_back_as_it_went_and_the_run_is_found() {
        let claim = Claim { epoch: "e".into(), run_id: "r".into() };
        assert_eq!(Claim::parse(&claim.to_string()), Some(claim));
        assert_eq!(Claim::parse("nonsense"), None);
        assert_eq!(run_id("# Server\r\nredis_version:7\r\nrun_id:abc\r\n"), Some("abc"));
        assert_eq!(run_id(""), None);
    }
}
