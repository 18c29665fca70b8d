//! Updates on their way to the application, and the application's end of that way.

use super::driver::Shared;
use crate::limits::UPDATES_WAITING_MAX;
use crate::update::Update;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    filled: Condvar,
}

#[derive(Debug, Default)]
struct State {
    updates: VecDeque<Update>,
    /// The application dropped its end.
    abandoned: bool,
    /// Nothing will come after what is here.
    ended: bool,
    /// The driver stopped reading and wants to be woken once there is room.
    stalled: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, update: Update) {
        let mut state = self.lock();
        if !state.abandoned {
            state.updates.push_back(update);
            drop(state);
            self.filled.notify_one();
        }
    }

    /// Is there no room? Then the driver will be woken once there is.
    pub(super) fn is_full(&self) -> bool {
        let mut state = self.lock();
        state.stalled = state.updates.len() >= UPDATES_WAITING_MAX;
        state.stalled
    }

    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.filled.notify_all();
    }

    fn abandon(&self) {
        let mut state = self.lock();
        state.abandoned = true;
        state.updates.clear();
    }
}

/// The updates of a session, in order. Iterating ends with the session.
pub struct Events {
    shared: Arc<Shared>,
}

/// What a wait with a limit came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Waited {
    Update(Update),
    /// The time is over.
    Nothing,
    /// The session has ended.
    Ended,
}

impl Events {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Waits for the next update; `None` once the session has ended.
    #[must_use]
    pub fn recv(&self) -> Option<Update> {
        match self.wait(None) {
            Waited::Update(update) => Some(update),
            Waited::Nothing | Waited::Ended => None,
        }
    }

    /// Waits for the next update for at most so long.
    #[must_use]
    pub fn recv_for(&self, time: Duration) -> Waited {
        self.wait(Instant::now().checked_add(time))
    }

    /// The next update if there is one.
    #[must_use]
    pub fn try_recv(&self) -> Option<Update> {
        match self.recv_for(Duration::ZERO) {
            Waited::Update(update) => Some(update),
            Waited::Nothing | Waited::Ended => None,
        }
    }

    fn wait(&self, until: Option<Instant>) -> Waited {
        let queue = self.shared.queue();
        let mut state = queue.lock();
        loop {
            if let Some(update) = state.updates.pop_front() {
                let room = state.stalled && state.updates.len() < UPDATES_WAITING_MAX / 2;
                if room {
                    state.stalled = false;
                }
                drop(state);
                if room {
                    self.shared.wake();
                }
                return Waited::Update(update);
            }
            if state.ended {
                return Waited::Ended;
            }
            let Some(until) = until else {
                state = queue.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Waited::Nothing;
            }
            let waited = queue.filled.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Iterator for Events {
    type Item = Update;

    fn next(&mut self) -> Option<Update> {
        self.recv()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.shared.queue().abandon();
        self.shared.wake();
    }
}
