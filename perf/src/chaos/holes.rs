//! Events that a session which was live was neither pushed nor told of. Its client finds the hole and heals it, so that
//! nobody who chats notices; but nothing may be missing silently.

use client::Notice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Counts them, for all sessions.
#[derive(Debug, Clone, Default)]
pub(super) struct Holes(Arc<AtomicU64>);

/// Watches one session.
#[derive(Debug)]
pub(super) struct Watch {
    holes: Holes,
    /// Of the connection that it has: all gaps were healed once.
    was_live: AtomicBool,
    /// It is told of all that it is not pushed: whatever it finds missing now, nobody told it.
    is_whole: AtomicBool,
}

impl Holes {
    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn watch(&self) -> Watch {
        let holes = self.clone();
        Watch { holes, was_live: AtomicBool::new(false), is_whole: AtomicBool::new(false) }
    }
}

impl Watch {
    pub(super) fn take(&self, notice: &Notice) {
        match notice {
            Notice::Live => self.set(true, true),
            Notice::Closed { .. } => self.set(false, false),
            Notice::Gap { .. }
            | Notice::Trouble { .. }
            | Notice::Rewound { .. }
            | Notice::Reset { .. } => self.is_whole.store(false, Ordering::Relaxed),
            Notice::Synced { verdicts } => {
                let healed = verdicts.iter().all(|it| it.gap_to_sequence_number == 0);
                let is_whole = healed && self.was_live.load(Ordering::Relaxed);
                self.is_whole.store(is_whole, Ordering::Relaxed);
            }
            Notice::Healing { .. } => {
                let is_hole = self.is_whole.swap(false, Ordering::Relaxed);
                self.holes.0.fetch_add(u64::from(is_hole), Ordering::Relaxed);
            }
            _ => {}
        }
    }

    fn set(&self, was_live: bool, is_whole: bool) {
        self.was_live.store(was_live, Ordering::Relaxed);
        self.is_whole.store(is_whole, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::Uuid;

    fn healing() -> Notice {
        Notice::Healing { cursors: Vec::new() }
    }

    fn synced() -> Notice {
        Notice::Synced { verdicts: Vec::new() }
    }

    #[test]
    fn what_a_live_session_finds_missing_by_itself_is_a_hole_and_what_it_was_told_of_is_none() {
        let holes = Holes::default();
        let watch = holes.watch();
        let all = |notices: &[Notice]| notices.iter().for_each(|it| watch.take(it));
        // After connecting it asks for what it missed.
        all(&[healing(), synced(), Notice::Live]);
        assert_eq!(holes.count(), 0);
        all(&[healing(), healing()]);
        assert_eq!(holes.count(), 1, "once, however often it asks");
        all(&[synced(), healing(), synced()]);
        assert_eq!(holes.count(), 2);
        let (conversation, reason) = (Uuid::nil(), "slow".to_owned());
        all(&[Notice::Gap { conversation, from: 1, to: 2, reason }, healing(), synced()]);
        let closed = Notice::Closed { code: None, reason: String::new(), by_us: false };
        all(&[closed, healing(), synced(), healing()]);
        assert_eq!(holes.count(), 2);
    }
}
