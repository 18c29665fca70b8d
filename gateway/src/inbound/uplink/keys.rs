//! The keys that tokens are verified with: fetched when the link comes up and every minute. Keys
//! that were fetched once stay in force when they cannot be fetched again.

use crate::inbound::token::Verifier;
use crate::limits::{KEYS_MS_MAX, KEYS_REFRESH_MS, KEYS_RETRY_MS};
use crate::mail::Mail;
use crate::mailbox::Mailboxes;
use daemon::Health;
use daemon::link::LinkError;
use proto::link::request::Request;
use proto::link::response::Response;
use proto::link::{Jwks, JwksResult};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub(super) const DEADLINE: Duration = Duration::from_millis(KEYS_MS_MAX);
/// The health condition: there are keys, so tokens can be verified.
const CONDITION: &str = "keys";

pub(super) fn request() -> Request {
    Request::Jwks(Jwks {})
}

pub(super) struct Keys {
    health: Health,
    mailboxes: Mailboxes,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// None: now.
    due_at: Option<Instant>,
    in_force: Option<JwksResult>,
}

impl Keys {
    pub(super) fn new(health: Health, mailboxes: Mailboxes) -> Self {
        health.require(CONDITION, "not fetched from chatd yet");
        Self { health, mailboxes, state: Mutex::default() }
    }

    /// They are due at once.
    pub(super) fn expire(&self) {
        self.state().due_at = None;
    }

    /// Whether they are to be fetched now; then not again before the answer or its deadline.
    pub(super) fn take_due(&self) -> bool {
        let mut state = self.state();
        let now = Instant::now();
        let is_due = state.due_at.is_none_or(|due_at| now >= due_at);
        if is_due {
            state.due_at = Some(now + DEADLINE + Duration::from_millis(KEYS_RETRY_MS));
        }
        is_due
    }

    pub(super) fn answered(&self, outcome: Result<Response, LinkError>) {
        match outcome {
            Ok(Response::Jwks(keys)) => self.install(keys),
            Ok(Response::Error(error)) => self.failed(&error.message),
            Ok(_) => self.failed("an answer of another kind"),
            Err(error) => self.failed(&error.to_string()),
        }
    }

    /// Keys that are in force stay in force.
    pub(super) fn failed(&self, reason: &str) {
        tracing::warn!(reason, "verification keys not fetched");
        self.state().due_at = Some(Instant::now() + Duration::from_millis(KEYS_RETRY_MS));
    }

    fn install(&self, keys: JwksResult) {
        if self.state().in_force.as_ref() != Some(&keys) {
            match Verifier::from_jwks(&keys.jwks, &keys.issuer, &keys.audience) {
                Ok(verifier) => self.spread(verifier),
                Err(reason) => return self.failed(&reason),
            }
            tracing::info!(issuer = keys.issuer, "verification keys in force");
        }
        let mut state = self.state();
        state.in_force = Some(keys);
        state.due_at = Some(Instant::now() + Duration::from_millis(KEYS_REFRESH_MS));
        self.health.ready(CONDITION);
    }

    fn spread(&self, verifier: Verifier) {
        let verifier = Arc::new(verifier);
        for mailbox in self.mailboxes.iter() {
            // A shard that has ended is one of a gateway that stops.
            let _ = mailbox.send(Mail::Keys(Arc::clone(&verifier)));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
