//! When a user counts as routed, pure: `step(now, event) -> actions`.
//!
//! ```text
//!            claimed                     renewed, said
//!   Untold ----------> Told <-------------------------------+
//!     ^                  |  \-- said, renewed: Err --> Lapsing
//!     |  renewed: lost   |                                |
//!     +------------------+--------- its time is over -----+
//! ```
//!
//! *Untold*: there is no claim of ours in Redis, so that the relay sends everything: whoever enters is routed at
//! once. *Told*: there may be one, so that whoever enters is routed once Redis has the user. *Lapsing*: Redis did not
//! answer, and what it has of us is not known, but a claim that is not renewed ends; until then whoever enters
//! waits, or until Redis has begun a new epoch, if the last claim was there and so is nowhere else. All users are told
//! under a new epoch before the next claim, so that a command which Redis comes to see late changes nothing of it.

use crate::limits::{ROUTES_AGAIN_MS, ROUTES_AGAIN_USERS_MAX, ROUTES_RENEW_MS, ROUTES_RETRY_MS};
use crate::mail::RouteNote;
use proto::Uuid;
use std::collections::HashSet;

/// Whose entering it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entered {
    pub(crate) user: Uuid,
    pub(crate) ticket: u64,
    pub(crate) shard: u16,
}

#[derive(Debug)]
pub(crate) enum Event {
    /// Users came and went, in this order.
    Notes(Vec<RouteNote>),
    /// An epoch was begun, so that no claim of an earlier one is in this Redis; whether one was, so that there is
    /// none elsewhere.
    Begun(Result<bool, ()>),
    /// Redis has, or may not have, what [`Action::Say`] asked for.
    Said(Result<(), ()>),
    /// The same of [`Action::SayAll`].
    SaidAll(Result<(), ()>),
    /// The same of [`Action::SayAgain`].
    SaidAgain(Result<(), ()>),
    /// What became of [`Action::Claim`]. Whatever it was, a claim of ours is gone by then, on
    /// the clock of `now_ms`, unless it is renewed.
    Claimed { gone_by_ms: u64, outcome: Result<Held, ()> },
    /// Time has passed.
    Tick,
}

/// Whether Redis holds the claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    Yes,
    /// No: it has lost the users, too.
    Lost,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Add and remove these users, in this order, under the epoch in use.
    Say(Vec<RouteNote>),
    /// Begin a new epoch, which is the one in use from here on.
    Begin,
    /// Add all of these users under the epoch in use.
    SayAll(Vec<Uuid>),
    /// Add these users again, so that Redis does not forget them.
    SayAgain(Vec<Uuid>),
    /// Claim that all users were told under the epoch in use, or renew that.
    Claim,
    /// These are routed: their sessions may begin.
    Confirm(Vec<Entered>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Untold { begin_at_ms: u64 },
    Told { renew_at_ms: u64 },
    Lapsing { until_ms: u64, begin_at_ms: u64 },
}

pub(crate) struct Rules {
    phase: Phase,
    /// Everybody who entered and has not left.
    users: HashSet<Uuid>,
    /// Who is not routed yet.
    waiting: Vec<Entered>,
    /// A claim that was made or renewed is gone by then.
    gone_by_ms: u64,
    /// Who is to be told again, and when all are.
    again: Vec<Uuid>,
    again_at_ms: u64,
}

impl Rules {
    /// An earlier run's claim may hold until then.
    pub(crate) fn new(lapses_at_ms: u64) -> Self {
        Self {
            phase: Phase::Lapsing { until_ms: lapses_at_ms, begin_at_ms: 0 },
            users: HashSet::new(),
            waiting: Vec::new(),
            gone_by_ms: lapses_at_ms,
            again: Vec::new(),
            again_at_ms: 0,
        }
    }

    pub(crate) fn users(&self) -> usize {
        self.users.len()
    }

    pub(crate) fn is_told(&self) -> bool {
        matches!(self.phase, Phase::Told { .. })
    }

    /// When time alone makes a difference.
    pub(crate) fn next_ms(&self) -> u64 {
        match self.phase {
            Phase::Untold { begin_at_ms: at_ms } | Phase::Told { renew_at_ms: at_ms } => at_ms,
            Phase::Lapsing { until_ms, begin_at_ms } => until_ms.min(begin_at_ms),
        }
    }

    /// What is asked for is done in this order, and what came of each but confirming is told before the next note.
    pub(crate) fn step(&mut self, now_ms: u64, event: Event) -> Vec<Action> {
        match event {
            Event::Notes(notes) => self.take(now_ms, notes),
            Event::Begun(outcome) => self.begun(now_ms, outcome),
            Event::Said(Ok(())) => self.confirm(),
            Event::SaidAll(Ok(())) | Event::SaidAgain(Ok(())) => vec![Action::Claim],
            Event::SaidAll(Err(())) => {
                // No claim was made, so nothing has to end.
                self.phase = Phase::Untold { begin_at_ms: now_ms + ROUTES_RETRY_MS };
                Vec::new()
            }
            Event::Said(Err(())) | Event::SaidAgain(Err(())) => self.lapse(now_ms),
            Event::Claimed { gone_by_ms, outcome } => {
                self.gone_by_ms = self.gone_by_ms.max(gone_by_ms);
                match outcome {
                    Ok(Held::Yes) => self.held(now_ms),
                    Ok(Held::Lost) => self.untold(now_ms),
                    Err(()) => self.lapse(now_ms),
                }
            }
            Event::Tick => self.tick(now_ms),
        }
    }

    fn take(&mut self, now_ms: u64, notes: Vec<RouteNote>) -> Vec<Action> {
        for note in &notes {
            match *note {
                RouteNote::Enter { user, ticket, shard } => {
                    self.users.insert(user);
                    self.waiting.push(Entered { user, ticket, shard });
                }
                RouteNote::Leave { user } => {
                    self.users.remove(&user);
                    self.waiting.retain(|it| it.user != user);
                }
            }
        }
        match self.phase {
            Phase::Told { .. } => vec![Action::Say(notes)],
            Phase::Untold { .. } => self.confirm(),
            Phase::Lapsing { .. } => self.tick(now_ms),
        }
    }

    fn tick(&mut self, now_ms: u64) -> Vec<Action> {
        match self.phase {
            Phase::Lapsing { until_ms, .. } if now_ms >= until_ms => self.untold(now_ms),
            Phase::Lapsing { begin_at_ms, .. } | Phase::Untold { begin_at_ms }
                if now_ms >= begin_at_ms =>
            {
                vec![Action::Begin]
            }
            Phase::Told { renew_at_ms } if now_ms >= renew_at_ms => vec![self.renew(now_ms)],
            _ => Vec::new(),
        }
    }

    fn begun(&mut self, now_ms: u64, outcome: Result<bool, ()>) -> Vec<Action> {
        let later_ms = now_ms + ROUTES_RETRY_MS;
        match &mut self.phase {
            // Where another Redis is asked, what we claimed there may hold still.
            Phase::Lapsing { until_ms, begin_at_ms }
                if outcome != Ok(true) && now_ms < *until_ms =>
            {
                *begin_at_ms = later_ms;
                Vec::new()
            }
            _ if outcome.is_err() => {
                self.phase = Phase::Untold { begin_at_ms: later_ms };
                self.confirm()
            }
            _ => {
                let mut actions = self.untold(later_ms);
                self.again_at_ms = now_ms + ROUTES_AGAIN_MS;
                self.again.clear();
                actions.push(Action::SayAll(self.users.iter().copied().collect()));
                actions
            }
        }
    }

    /// With some of those whom Redis is to be told again before it forgets them.
    fn renew(&mut self, now_ms: u64) -> Action {
        if now_ms >= self.again_at_ms {
            self.again_at_ms = now_ms + ROUTES_AGAIN_MS;
            self.again = self.users.iter().copied().collect();
        }
        let rest = self.again.len().saturating_sub(ROUTES_AGAIN_USERS_MAX);
        let mut some = self.again.split_off(rest);
        some.retain(|user| self.users.contains(user));
        if some.is_empty() { Action::Claim } else { Action::SayAgain(some) }
    }

    fn held(&mut self, now_ms: u64) -> Vec<Action> {
        self.phase = Phase::Told { renew_at_ms: now_ms + ROUTES_RENEW_MS };
        self.confirm()
    }

    /// There is no claim of ours.
    fn untold(&mut self, begin_at_ms: u64) -> Vec<Action> {
        self.phase = Phase::Untold { begin_at_ms };
        self.confirm()
    }

    fn lapse(&mut self, now_ms: u64) -> Vec<Action> {
        let until_ms = self.gone_by_ms.max(now_ms);
        self.phase = Phase::Lapsing { until_ms, begin_at_ms: now_ms + ROUTES_RETRY_MS / 10 };
        Vec::new()
    }

    fn confirm(&mut self) -> Vec<Action> {
        if self.waiting.is_empty() {
            return Vec::new();
        }
        vec![Action::Confirm(std::mem::take(&mut self.waiting))]
    }
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
