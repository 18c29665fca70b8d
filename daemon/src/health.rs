//! Whether a daemon can do its job: a set of named conditions, all of which must hold.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Shared by the parts that know and the admin endpoint that tells.
#[derive(Debug, Clone, Default)]
pub struct Health {
    conditions: Arc<Mutex<BTreeMap<&'static str, Option<String>>>>,
}

impl Health {
    /// Declares a condition that does not hold yet, with the reason why.
    pub fn require(&self, condition: &'static str, reason: &str) {
        self.set(condition, Some(reason.to_owned()));
    }

    /// The condition holds.
    pub fn ready(&self, condition: &'static str) {
        self.set(condition, None);
    }

    /// The condition does not hold, and why.
    pub fn not_ready(&self, condition: &'static str, reason: impl Into<String>) {
        self.set(condition, Some(reason.into()));
    }

    /// Nothing if ready, else each condition that does not hold with its reason.
    #[must_use]
    pub fn missing(&self) -> Vec<(&'static str, String)> {
        let conditions = self.conditions.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = conditions.iter().filter_map(|(name, reason)| Some((*name, reason.clone()?)));
        missing.collect()
    }

    fn set(&self, condition: &'static str, reason: Option<String>) {
        let mut conditions = self.conditions.lock().unwrap_or_else(PoisonError::into_inner);
        let before = conditions.insert(condition, reason.clone());
        if before.as_ref() != Some(&reason) {
            match reason {
                None => tracing::info!(condition, "ready"),
                Some(reason) => tracing::warn!(condition, reason, "not ready"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_only_when_every_condition_holds() {
        let health = Health::default();
        health.require("postgres", "not connected yet");
        health.require("link", "not listening yet");
        health.ready("postgres");
        assert_eq!(health.missing(), [("link", "not listening yet".to_owned())]);
        health.ready("link");
        assert!(health.missing().is_empty());
        health.not_ready("postgres", "connection lost");
        assert_eq!(health.missing(), [("postgres", "connection lost".to_owned())]);
    }
}
