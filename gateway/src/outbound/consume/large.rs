//! Who gets the events of conversations that have more members than a record can name. Pure.
//!
//! A conversation's log comes in order and without a hole, changes of membership included, so a
//! roster that is right for one event is right for the next one. Where there is none, the members at
//! that place of the log are asked for, and the conversation's records wait, in order; other
//! conversations' do not. What waits is bounded by number, bytes and time: beyond that it is given up,
//! and the members are told of the gap as soon as they are known.

use super::roster::{Change, Home, Roster};
use crate::limits::{
    HELD_BYTES_MAX, HELD_MS_MAX, HELD_RECORD_BYTES, HELD_RECORDS_MAX, ROSTER_BYTES_MAX,
    ROSTERS_ASKED_MAX,
};
use proto::Uuid;
use std::collections::{BTreeMap, HashMap, VecDeque};

/// One record of a log, as far as it matters who gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Incoming<R> {
    pub(super) conversation: Uuid,
    pub(super) sequence_number: u64,
    /// 0: the record names its recipients itself.
    pub(super) member_count: usize,
    pub(super) change: Option<Change>,
    pub(super) bytes: usize,
    pub(super) record: R,
}

/// What is to be done, in this order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action<R> {
    /// To these members.
    Deliver(R, Roster),
    /// To the recipients that it names.
    DeliverNamed(R),
    /// It waits.
    Hold(Place),
    /// Ask who receives the conversation's event of this number.
    Ask(Uuid, u64),
    /// It was delivered before.
    Skip(R),
    /// It is shed; its gap will be told.
    Shed(R),
    /// Tell these members that they were not pushed these events.
    Tell { conversation: Uuid, from: u64, to: u64, roster: Roster },
}

/// What is known of a record that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) conversation: Uuid,
    pub(super) sequence_number: u64,
}

/// Too many large conversations' members are being asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooMany;

struct Known {
    roster: Roster,
    bytes: usize,
    /// The last event that it was used for; its members receive the next one.
    through: u64,
    used: u64,
}

struct Asked<R> {
    /// Whose recipients are asked for.
    sequence_number: u64,
    since_ms: u64,
    held: VecDeque<Incoming<R>>,
    /// What was given up before, inclusive; always in front of what is held.
    lost: Option<(u64, u64)>,
}

/// The large conversations of one thread that reads the log. `R` is a record.
pub(super) struct Large<R> {
    shards: usize,
    known: HashMap<Uuid, Known>,
    /// By when they were used last: the first one makes way.
    by_use: BTreeMap<u64, Uuid>,
    uses: u64,
    bytes: usize,
    bytes_max: usize,
    asked: HashMap<Uuid, Asked<R>>,
    held_bytes: usize,
    held_records: usize,
}

impl<R> Large<R> {
    pub(super) fn new(shards: usize) -> Self {
        Self {
            shards,
            known: HashMap::new(),
            by_use: BTreeMap::new(),
            uses: 0,
            bytes: 0,
            bytes_max: ROSTER_BYTES_MAX,
            asked: HashMap::new(),
            held_bytes: 0,
            held_records: 0,
        }
    }

    /// Whether records of the conversation concern this, whoever their recipients are.
    pub(super) fn knows(&self, conversation: &Uuid) -> bool {
        // Mostly both are empty.
        (!self.known.is_empty() && self.known.contains_key(conversation))
            || (!self.asked.is_empty() && self.asked.contains_key(conversation))
    }

    /// The conversation's members after the last event of its log, if they are known.
    pub(super) fn roster(&self, conversation: &Uuid) -> Option<&Roster> {
        self.known.get(conversation).map(|it| &it.roster)
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.asked.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn held_records(&self) -> usize {
        self.held_records
    }

    /// A record of a large conversation, or of one that [`Self::knows`].
    pub(super) fn take(
        &mut self,
        incoming: Incoming<R>,
        home: Home<'_>,
        now_ms: u64,
        actions: &mut Vec<Action<R>>,
    ) -> Result<(), TooMany> {
        if self.asked.contains_key(&incoming.conversation) {
            self.hold(incoming, now_ms, actions);
            return Ok(());
        }
        if let Err(incoming) = self.deliver(incoming, false, home, actions) {
            if self.asked.len() >= ROSTERS_ASKED_MAX {
                return Err(TooMany);
            }
            self.ask(*incoming, now_ms, actions);
        }
        Ok(())
    }

    /// What chatd answered; answers to what is asked no more are left out.
    pub(super) fn answered(
        &mut self,
        conversation: Uuid,
        sequence_number: u64,
        users: Vec<Uuid>,
        home: Home<'_>,
        now_ms: u64,
        actions: &mut Vec<Action<R>>,
    ) {
        let awaited = self.asked.get(&conversation).map(|it| it.sequence_number);
        if awaited != Some(sequence_number) {
            return;
        }
        let Some(mut asked) = self.asked.remove(&conversation) else { return };
        let roster = Roster::new(users, self.shards, home);
        if let Some((from, to)) = asked.lost {
            actions.push(Action::Tell { conversation, from, to, roster: roster.clone() });
            let next = if sequence_number < to {
                // Who came in between is told, too.
                Some(to)
            } else {
                asked.lost = None;
                asked.held.front().map(|it| it.sequence_number)
            };
            if let Some(next) = next {
                actions.push(Action::Ask(conversation, next));
                self.asked.insert(conversation, Asked { sequence_number: next, ..asked });
            }
            return;
        }
        self.keep(conversation, roster, sequence_number.saturating_sub(1));
        let mut is_fresh = true;
        while let Some(incoming) = asked.held.pop_front() {
            self.held_records -= 1;
            self.held_bytes -= bytes_of(&incoming);
            if let Err(incoming) = self.deliver(incoming, is_fresh, home, actions) {
                self.ask(*incoming, now_ms, actions);
                if let Some(again) = self.asked.get_mut(&conversation) {
                    again.held.append(&mut asked.held);
                }
                return;
            }
            is_fresh = false;
        }
        self.shrink();
    }

    /// Gives up what has waited for too long.
    pub(super) fn tick(&mut self, now_ms: u64, actions: &mut Vec<Action<R>>) {
        let late: Vec<Uuid> = self
            .asked
            .iter()
            .filter(|(_, it)| !it.held.is_empty() && now_ms >= it.since_ms + HELD_MS_MAX)
            .map(|(conversation, _)| *conversation)
            .collect();
        for conversation in late {
            self.give_up(&conversation, now_ms, actions);
        }
    }

    /// Delivers a record if its recipients are known, else gives it back.
    fn deliver(
        &mut self,
        incoming: Incoming<R>,
        is_fresh: bool,
        home: Home<'_>,
        actions: &mut Vec<Action<R>>,
    ) -> Result<(), Box<Incoming<R>>> {
        let conversation = incoming.conversation;
        if incoming.member_count == 0 {
            // What it changes, a smaller conversation's records name themselves.
            self.forget(&conversation);
            actions.push(Action::DeliverNamed(incoming.record));
            return Ok(());
        }
        let Some(known) = self.known.get_mut(&conversation) else {
            return Err(Box::new(incoming));
        };
        if incoming.sequence_number <= known.through {
            actions.push(Action::Skip(incoming.record));
            return Ok(());
        }
        if let Some(change) = &incoming.change {
            known.roster.join(&change.added, home);
        }
        let is_next = incoming.sequence_number == known.through + 1;
        // Of members that came again meanwhile chatd knows the later time alone.
        let is_right = is_fresh || known.roster.members() == incoming.member_count;
        if !is_next || !is_right {
            self.forget(&conversation);
            return Err(Box::new(incoming));
        }
        known.through = incoming.sequence_number;
        let roster = known.roster.clone();
        if let Some(change) = &incoming.change {
            known.roster.leave(&change.removed, home);
        }
        self.touch(&conversation);
        actions.push(Action::Deliver(incoming.record, roster));
        Ok(())
    }

    fn ask(&mut self, incoming: Incoming<R>, now_ms: u64, actions: &mut Vec<Action<R>>) {
        let (conversation, sequence_number) = (incoming.conversation, incoming.sequence_number);
        actions.push(Action::Ask(conversation, sequence_number));
        let asked = Asked { sequence_number, since_ms: now_ms, held: VecDeque::new(), lost: None };
        self.asked.insert(conversation, asked);
        self.hold(incoming, now_ms, actions);
    }

    fn hold(&mut self, incoming: Incoming<R>, now_ms: u64, actions: &mut Vec<Action<R>>) {
        let conversation = incoming.conversation;
        let Some(asked) = self.asked.get_mut(&conversation) else { return };
        if asked.held.is_empty() {
            asked.since_ms = now_ms;
        }
        let sequence_number = incoming.sequence_number;
        actions.push(Action::Hold(Place { conversation, sequence_number }));
        self.held_records += 1;
        self.held_bytes += bytes_of(&incoming);
        asked.held.push_back(incoming);
        if asked.held.len() > HELD_RECORDS_MAX || self.held_bytes > HELD_BYTES_MAX {
            self.give_up(&conversation, now_ms, actions);
        }
    }

    /// What is held of the conversation becomes a gap, which is told once it is known to whom.
    fn give_up(&mut self, conversation: &Uuid, now_ms: u64, actions: &mut Vec<Action<R>>) {
        let Some(asked) = self.asked.get_mut(conversation) else { return };
        asked.since_ms = now_ms;
        for incoming in asked.held.drain(..) {
            self.held_records -= 1;
            self.held_bytes -= bytes_of(&incoming);
            let number = incoming.sequence_number;
            let from = asked.lost.map_or(number, |(from, _)| from);
            asked.lost = Some((from, number));
            actions.push(Action::Shed(incoming.record));
        }
    }

    fn keep(&mut self, conversation: Uuid, roster: Roster, through: u64) {
        let known = Known { bytes: 0, roster, through, used: 0 };
        self.known.insert(conversation, known);
        self.touch(&conversation);
    }

    /// It was used, and may have another size now.
    fn touch(&mut self, conversation: &Uuid) {
        let Some(known) = self.known.get_mut(conversation) else { return };
        self.uses += 1;
        self.by_use.remove(&known.used);
        self.by_use.insert(self.uses, *conversation);
        known.used = self.uses;
        let bytes = known.roster.bytes();
        self.bytes = self.bytes + bytes - std::mem::replace(&mut known.bytes, bytes);
        self.shrink();
    }

    /// The one that was used last stays.
    fn shrink(&mut self) {
        while self.bytes > self.bytes_max
            && self.by_use.len() > 1
            && let Some((_, first)) = self.by_use.first_key_value()
        {
            let first = *first;
            self.forget(&first);
        }
    }

    fn forget(&mut self, conversation: &Uuid) {
        if let Some(known) = self.known.remove(conversation) {
            self.by_use.remove(&known.used);
            self.bytes -= known.bytes;
        }
    }
}

fn bytes_of<R>(incoming: &Incoming<R>) -> usize {
    HELD_RECORD_BYTES + incoming.bytes
}

#[cfg(test)]
#[path = "large_tests.rs"]
mod tests;
