//! One conversation's log as this device has it: what was given to the application, and what came
//! too early and is held back until the hole before it is healed.

use crate::limits::HELD_EVENTS_MAX;
use crate::update::Path;
use proto::client::Event;
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Debug, Default)]
pub(super) struct Log {
    /// The last sequence number given to the application; `None` until the first is known.
    cursor: Option<u64>,
    /// Events beyond a hole, by sequence number; at most [`HELD_EVENTS_MAX`].
    held: BTreeMap<u64, (Event, Path)>,
    /// The highest sequence number that is known to exist.
    known_to: u64,
    /// The connection changed: what lies beyond the cursor must be asked for.
    stale: bool,
    /// Syncs in a row that brought nothing.
    pub(super) fruitless: u32,
    /// No sync is asked before this.
    pub(super) not_before: Duration,
}

/// What an offered event led to.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Ready for the application, in order.
    pub(super) ready: Vec<(Event, Path)>,
    /// It was known already.
    pub(super) duplicate: bool,
    /// What was passed over because the server says that this user cannot see it, inclusive.
    pub(super) skipped: Option<(u64, u64)>,
}

impl Log {
    /// A log whose events up to `cursor` the application has.
    pub(super) fn at(cursor: u64) -> Self {
        Self { cursor: Some(cursor), known_to: cursor, ..Self::default() }
    }

    pub(super) fn cursor(&self) -> Option<u64> {
        self.cursor
    }

    /// The cursor to tell a server: 0 asks for everything that the user may see.
    pub(super) fn cursor_or_start(&self) -> u64 {
        self.cursor.unwrap_or(0)
    }

    /// Is there something to ask for?
    pub(super) fn is_unwell(&self) -> bool {
        self.stale || !self.held.is_empty() || self.known_to > self.cursor_or_start()
    }

    pub(super) fn mark_stale(&mut self) {
        self.stale = true;
    }

    pub(super) fn asked_and_answered(&mut self) {
        self.stale = false;
    }

    /// The server knows of events up to here.
    pub(super) fn exists_to(&mut self, sequence_number: u64) {
        self.known_to = self.known_to.max(sequence_number);
    }

    /// The log begins for this user after `cursor`, unless that is known already.
    pub(super) fn begin_after(&mut self, cursor: u64) {
        if self.cursor.is_none() {
            self.cursor = Some(cursor);
            self.known_to = self.known_to.max(cursor);
        }
    }

    /// A pushed event: given out if it is the next one, held if there is a hole before it.
    pub(super) fn pushed(&mut self, sequence_number: u64, event: Event) -> Outcome {
        let mut outcome = Outcome::default();
        self.take(sequence_number, event, Path::Live, &mut outcome);
        outcome
    }

    /// An event of a sync page. A page begins at the first event beyond the cursor that this user
    /// may see, so what it passes over is not missing but invisible.
    pub(super) fn synced(&mut self, sequence_number: u64, event: Event) -> Outcome {
        let mut outcome = Outcome::default();
        let first = self.first_held().map_or(sequence_number, |held| held.min(sequence_number));
        self.begin_after(first.saturating_sub(1));
        if sequence_number > self.cursor_or_start() + 1 {
            self.pass_over(sequence_number - 1, &mut outcome);
        }
        self.take(sequence_number, event, Path::Sync, &mut outcome);
        outcome
    }

    fn take(&mut self, sequence_number: u64, event: Event, path: Path, outcome: &mut Outcome) {
        self.exists_to(sequence_number);
        let known = self.cursor.is_some_and(|cursor| sequence_number <= cursor)
            || self.held.contains_key(&sequence_number);
        if known {
            outcome.duplicate = true;
        } else {
            self.held.insert(sequence_number, (event, path));
        }
        self.release(outcome);
        // What does not fit is asked for again: `known_to` remembers that it exists.
        while self.held.len() > HELD_EVENTS_MAX {
            self.held.pop_last();
        }
    }

    /// Gives out what follows the cursor without a hole.
    fn release(&mut self, outcome: &mut Outcome) {
        let Some(mut cursor) = self.cursor else { return };
        while let Some(entry) = self.held.first_entry() {
            if *entry.key() > cursor + 1 {
                break;
            }
            let (sequence_number, item) = entry.remove_entry();
            if sequence_number == cursor + 1 {
                cursor = sequence_number;
                outcome.ready.push(item);
            }
        }
        if self.cursor != Some(cursor) {
            self.cursor = Some(cursor);
            self.fruitless = 0;
        }
        self.known_to = self.known_to.max(cursor);
    }

    /// Moves the cursor to `to`, giving out what is held on the way.
    fn pass_over(&mut self, to: u64, outcome: &mut Outcome) {
        let from = self.cursor_or_start() + 1;
        let later = self.held.split_off(&(to + 1));
        let between = std::mem::replace(&mut self.held, later);
        let missing = to + 1 - from != u64::try_from(between.len()).unwrap_or(u64::MAX);
        // A log that begins beyond its first event is no loss: the user joined there.
        if missing && from > 1 {
            outcome.skipped = Some((from, to));
        }
        outcome.ready.extend(between.into_values());
        self.cursor = Some(to);
        self.fruitless = 0;
        self.release(outcome);
    }

    /// Gives out what became the next after [`Log::begin_after`].
    pub(super) fn begun(&mut self) -> Outcome {
        let mut outcome = Outcome::default();
        self.release(&mut outcome);
        outcome
    }

    /// The server calls the log complete up to here, and asking again brought nothing.
    pub(super) fn give_up_to(&mut self, sequence_number: u64) -> Outcome {
        let mut outcome = Outcome::default();
        if sequence_number > self.cursor_or_start() {
            self.pass_over(sequence_number, &mut outcome);
        }
        outcome
    }

    /// The server has nothing beyond `to`: sequence numbers from there on will be given again, to
    /// other events. Returns the cursor that lay beyond it.
    pub(super) fn rewind(&mut self, to: u64) -> Option<u64> {
        let from = self.cursor.filter(|cursor| *cursor > to)?;
        *self = Self::at(to);
        Some(from)
    }

    /// The conversation is no longer this user's: what is held is all that will ever come.
    pub(super) fn reset(&mut self) -> Outcome {
        match self.held.last_key_value() {
            Some((&last, _)) => self.give_up_to(last),
            None => Outcome::default(),
        }
    }

    /// The first sequence number that is held, if any.
    pub(super) fn first_held(&self) -> Option<u64> {
        self.held.first_key_value().map(|(&first, _)| first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(sequence_number: u64) -> Event {
        Event { sequence_number, ..Event::default() }
    }

    fn given(outcome: &Outcome) -> Vec<u64> {
        outcome.ready.iter().map(|(event, _)| event.sequence_number).collect()
    }

    #[test]
    fn a_hole_holds_back_what_follows_until_it_is_filled() {
        let mut log = Log::at(3);
        assert_eq!(given(&log.pushed(4, event(4))), [4]);
        assert!(given(&log.pushed(6, event(6))).is_empty() && log.is_unwell());
        assert!(log.pushed(6, event(6)).duplicate && log.pushed(4, event(4)).duplicate);
        let healed = log.synced(5, event(5));
        assert_eq!(given(&healed), [5, 6]);
        assert_eq!(healed.ready[0].1, Path::Sync);
        assert_eq!(healed.ready[1].1, Path::Live);
        assert!(!log.is_unwell() && log.cursor() == Some(6));
    }

    #[test]
    fn the_first_page_tells_where_the_log_begins_and_a_later_jump_is_told() {
        let mut log = Log::default();
        assert!(given(&log.pushed(9, event(9))).is_empty());
        assert_eq!(given(&log.synced(7, event(7))), [7]);
        let jump = log.synced(20, event(20));
        assert_eq!((given(&jump), jump.skipped), (vec![9, 20], Some((8, 19))));
        let from_zero = Log::at(0).synced(5, event(5));
        assert_eq!((given(&from_zero), from_zero.skipped), (vec![5], None));
    }

    #[test]
    fn a_log_that_was_set_back_takes_what_its_numbers_mean_from_then_on() {
        let mut log = Log::at(9);
        log.pushed(12, event(12));
        assert_eq!((log.rewind(9), log.cursor()), (None, Some(9)));
        assert_eq!((log.rewind(5), log.cursor()), (Some(9), Some(5)));
        assert!(!log.is_unwell(), "what was held is of a log that is no more");
        assert_eq!(given(&log.pushed(6, event(6))), [6]);
        assert_eq!(Log::default().rewind(5), None);
    }

    #[test]
    fn what_is_held_is_bounded_and_remembered_as_existing() {
        let mut log = Log::at(0);
        let last = u64::try_from(HELD_EVENTS_MAX).unwrap() + 50;
        for number in 2..=last {
            log.pushed(number, event(number));
        }
        assert_eq!(log.held.len(), HELD_EVENTS_MAX);
        let healed = log.synced(1, event(1));
        assert_eq!(given(&healed).len(), HELD_EVENTS_MAX + 1);
        assert!(log.is_unwell(), "the rest must still be asked for");
    }
}
