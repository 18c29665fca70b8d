//! What the checker says.

use serde::Serialize;
use std::collections::BTreeMap;

/// Violations that are spelled out; all are counted.
const SPELLED_OUT_MAX: usize = 50;

/// Which promise was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Violation {
    /// An acknowledged message is missing where it must be.
    Lost,
    /// Something is visible that nobody sent, that was refused, or that has another body.
    Phantom,
    /// Two observers disagree on a place in the order, or the order contradicts real time.
    Reordered,
    /// A sequence number is missing.
    Gap,
    /// A user was shown one event twice.
    VisibleDuplicate,
    /// One idempotency key, two messages.
    Conflict,
    /// Somebody who watches a user was not told the truth, long after all faults were over.
    WrongPresence,
    /// The history contradicts itself: its writer is at fault, and nothing else can be believed.
    BrokenHistory,
}

/// The counts, and the first violations in words.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Verdict {
    pub ok: bool,
    pub operations: u64,
    pub conversations: usize,
    pub sessions: usize,
    pub acked: u64,
    pub lost: u64,
    pub phantom: u64,
    pub reordered: u64,
    pub gaps: u64,
    pub visible_duplicates: u64,
    pub conflicts: u64,
    pub wrong_presence: u64,
    pub broken_history: u64,
    /// Frames that repeated an event on one device's wire: allowed, counted.
    pub wire_duplicates: u64,
    pub violations: Vec<String>,
    #[serde(skip)]
    counts: BTreeMap<Violation, u64>,
}

impl Verdict {
    pub(crate) fn violate(&mut self, violation: Violation, words: impl FnOnce() -> String) {
        *self.counts.entry(violation).or_default() += 1;
        if self.violations.len() < SPELLED_OUT_MAX {
            self.violations.push(format!("{violation:?}: {}", words()));
        }
    }

    /// How often a promise was broken.
    pub fn count(&self, violation: Violation) -> u64 {
        self.counts.get(&violation).copied().unwrap_or_default()
    }

    pub(crate) fn close(mut self) -> Self {
        self.lost = self.count(Violation::Lost);
        self.phantom = self.count(Violation::Phantom);
        self.reordered = self.count(Violation::Reordered);
        self.gaps = self.count(Violation::Gap);
        self.visible_duplicates = self.count(Violation::VisibleDuplicate);
        self.conflicts = self.count(Violation::Conflict);
        self.wrong_presence = self.count(Violation::WrongPresence);
        self.broken_history = self.count(Violation::BrokenHistory);
        self.ok = self.counts.is_empty();
        self
    }
}
