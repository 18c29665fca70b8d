//! The logs of all conversations of the session, and what is to be asked for.

use super::backoff;
use super::log::{Log, Outcome};
use crate::limits::{
    HEAL_CONVERSATIONS_MAX, HEAL_FRUITLESS_MAX, HEAL_RETRY_MS_MAX, HEAL_RETRY_MS_MIN,
};
use fastrand::Rng;
use proto::Uuid;
use proto::client::{Event, Verdict};
use proto::limits::CURSORS_MAX;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A conversation and the last sequence number that the application has of it.
pub type CursorOf = (Uuid, u64);

#[derive(Debug, Default)]
pub(super) struct Logs {
    logs: BTreeMap<Uuid, Log>,
    /// The last event that the application has of conversations that are no longer this user's: a gateway that
    /// is behind may push it again.
    ended: BTreeMap<Uuid, u64>,
    /// Those with something to ask for.
    unwell: BTreeSet<Uuid>,
    /// Events of a conversation that is not known are the beginning of it (there is no resume that
    /// would tell what came before).
    live_only: bool,
}

impl Logs {
    pub(super) fn new(cursors: impl IntoIterator<Item = CursorOf>, live_only: bool) -> Self {
        let logs = cursors.into_iter().map(|(id, cursor)| (id, Log::at(cursor))).collect();
        Self { logs, ended: BTreeMap::new(), unwell: BTreeSet::new(), live_only }
    }

    /// The cursors for a hello or for the application; a conversation whose beginning is not known
    /// has none.
    pub(super) fn cursors(&self) -> impl Iterator<Item = CursorOf> {
        self.logs.iter().filter_map(|(id, log)| Some((*id, log.cursor()?)))
    }

    /// The cursors of a hello: a server takes [`CURSORS_MAX`] at most, and sends the conversations
    /// that are not named from their beginning.
    pub(super) fn hello_cursors(&self) -> Vec<CursorOf> {
        self.cursors().take(CURSORS_MAX).collect()
    }

    /// Conversations that are known, with a cursor or without.
    pub(super) fn len(&self) -> usize {
        self.logs.len()
    }

    /// Nothing is known of what happened since the last connection.
    pub(super) fn mark_all_stale(&mut self) {
        for (id, log) in &mut self.logs {
            log.mark_stale();
            log.not_before = Duration::ZERO;
            self.unwell.insert(*id);
        }
    }

    pub(super) fn is_well(&self) -> bool {
        self.unwell.is_empty()
    }

    /// A pushed event. `user` is this session's.
    pub(super) fn pushed(&mut self, id: Uuid, user: Uuid, event: Event) -> Outcome {
        let sequence_number = event.sequence_number;
        if self.ended.get(&id).is_some_and(|last| sequence_number <= *last) {
            return Outcome { duplicate: true, ..Outcome::default() };
        }
        self.ended.remove(&id);
        let begins = self.live_only || sequence_number == 1 || event.adds(&user);
        let log = self.logs.entry(id).or_default();
        if begins {
            log.begin_after(sequence_number - 1);
        }
        let outcome = log.pushed(sequence_number, event);
        self.examine(id);
        outcome
    }

    /// An event of a sync page.
    pub(super) fn synced(&mut self, id: Uuid, event: Event) -> Outcome {
        self.ended.remove(&id);
        let outcome = self.logs.entry(id).or_default().synced(event.sequence_number, event);
        self.examine(id);
        outcome
    }

    /// The server shed events of this conversation, `from` to `to`.
    pub(super) fn gap(&mut self, id: Uuid, from: u64, to: u64) {
        if self.ended.get(&id).is_some_and(|last| to <= *last) {
            return;
        }
        let log = self.logs.entry(id).or_default();
        if self.live_only {
            log.begin_after(from.saturating_sub(1));
        }
        log.exists_to(to);
        self.examine(id);
    }

    /// A verdict of a resume or a sync. `asked` is the cursor that the question held, if this
    /// conversation was named in it.
    pub(super) fn verdict(
        &mut self,
        now: Duration,
        verdict: &Verdict,
        id: Uuid,
        asked: Option<u64>,
        rng: &mut Rng,
    ) -> Outcome {
        let log = self.logs.entry(id).or_default();
        log.asked_and_answered();
        log.exists_to(verdict.complete_to_sequence_number.max(verdict.gap_to_sequence_number));
        if log.cursor().is_none() && verdict.gap_to_sequence_number == 0 {
            let complete = verdict.complete_to_sequence_number;
            let before_held = log.first_held().map_or(complete, |first| first - 1);
            log.begin_after(complete.min(before_held));
        }
        let mut outcome = log.begun();
        let fruitless = asked.is_some_and(|asked| log.cursor_or_start() <= asked);
        if log.is_unwell() && fruitless {
            log.fruitless = log.fruitless.saturating_add(1);
            let complete = verdict.complete_to_sequence_number;
            if log.fruitless >= HEAL_FRUITLESS_MAX && verdict.gap_to_sequence_number == 0 {
                let end = log.first_held().map_or(complete, |first| complete.max(first - 1));
                outcome = log.give_up_to(end);
            } else {
                log.not_before = now + retry_delay(rng, log.fruitless);
            }
        }
        self.examine(id);
        outcome
    }

    /// A question about these conversations was not answered, or not about all of them.
    pub(super) fn unanswered(&mut self, now: Duration, ids: &[Uuid], rng: &mut Rng) {
        for id in ids {
            if let Some(log) = self.logs.get_mut(id) {
                log.fruitless = log.fruitless.saturating_add(1);
                log.not_before = now + retry_delay(rng, log.fruitless);
            }
            self.examine(*id);
        }
    }

    /// The conversation ends at `to` and goes on from there. Returns the cursor that lay beyond it.
    pub(super) fn rewind(&mut self, id: Uuid, to: u64) -> Option<u64> {
        self.logs.get_mut(&id)?.rewind(to)
    }

    /// The conversation is no longer this user's. `None` if nothing was known of it anyway.
    pub(super) fn reset(&mut self, id: Uuid) -> Option<Outcome> {
        self.unwell.remove(&id);
        let mut log = self.logs.remove(&id)?;
        let outcome = log.reset();
        if let Some(last) = log.cursor() {
            self.ended.insert(id, last);
        }
        Some(outcome)
    }

    /// What to ask for next, at most [`HEAL_CONVERSATIONS_MAX`] conversations.
    pub(super) fn to_heal(&self, now: Duration) -> Vec<CursorOf> {
        let due = self.unwell.iter().filter_map(|id| Some((*id, self.logs.get(id)?)));
        due.filter(|(_, log)| log.not_before <= now)
            .map(|(id, log)| (id, log.cursor_or_start()))
            .take(HEAL_CONVERSATIONS_MAX)
            .collect()
    }

    /// When the next question is due.
    pub(super) fn heal_deadline(&self) -> Option<Duration> {
        self.unwell.iter().filter_map(|id| Some(self.logs.get(id)?.not_before)).min()
    }

    fn examine(&mut self, id: Uuid) {
        if self.logs.get(&id).is_some_and(Log::is_unwell) {
            self.unwell.insert(id);
        } else {
            self.unwell.remove(&id);
        }
    }
}

fn retry_delay(rng: &mut Rng, fruitless: u32) -> Duration {
    backoff::delay(rng, fruitless.saturating_sub(1), HEAL_RETRY_MS_MIN, HEAL_RETRY_MS_MAX)
}
