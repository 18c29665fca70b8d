//! The routes thread, of a gateway that is sent what its users need instead of tailing everything: tells Redis which
//! users are here (`proto::routes`), and the shards when the relay cannot but know it. Until then a session does not
//! begin, so that what is published after it has caught up reaches it.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the shell: this is the routes thread, not a shard"
)]

mod redis;
mod rules;

use crate::limits::{ROUTES_BATCH_MAX, ROUTES_QUEUE_MAX, ROUTES_SLACK_MS};
use crate::mail::{Mail, RouteNote};
use crate::mailbox::Mailboxes;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use daemon::{Config, Metrics};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use proto::Uuid;
use proto::routes::CLAIM_MS;
use redis::Store;
use rules::{Action, Entered, Event, Held, Rules};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// The shards' end; every shard has its own clone.
#[derive(Clone)]
pub(crate) struct Routes(Sender<RouteNote>);

impl Routes {
    /// False if it does not fit now.
    pub(crate) fn note(&self, note: RouteNote) -> bool {
        self.0.try_send(note).is_ok()
    }
}

struct Worker {
    notes: Receiver<RouteNote>,
    rules: Rules,
    store: Store,
    mailboxes: Mailboxes,
    started: Instant,
    was_told: bool,
    users: Gauge,
    told: Gauge,
    failures: Counter,
}

/// Starts the thread; Redis need not be there. An error names the key and what is wrong.
pub(crate) fn start(
    config: &Config,
    instance: &str,
    metrics: &Metrics,
    mailboxes: Mailboxes,
) -> Result<Routes, String> {
    let gauge = |name, help| metrics.register(name, help, Gauge::default());
    let (notes, receiver) = bounded(ROUTES_QUEUE_MAX);
    let worker = Worker {
        notes: receiver,
        rules: Rules::new(CLAIM_MS + ROUTES_SLACK_MS),
        store: Store::new(config.text("redis.url"), instance)?,
        mailboxes,
        started: Instant::now(),
        was_told: false,
        users: gauge("routed_users", "Users for whom events are sent to this gateway"),
        told: gauge(
            "routes_told",
            "1 if Redis has all users of this gateway; 0 if it is sent everything instead",
        ),
        failures: metrics.register(
            "routes_failures",
            "Commands about users of this gateway that Redis did not answer",
            Counter::default(),
        ),
    };
    std::thread::Builder::new()
        .name("routes".into())
        .spawn(move || worker.run())
        .map_err(|error| format!("thread routes: {error}"))?;
    Ok(Routes(notes))
}

impl Worker {
    /// Until the last shard has ended.
    fn run(mut self) {
        loop {
            let wait = self.rules.next_ms().saturating_sub(self.now_ms());
            match self.notes.recv_timeout(Duration::from_millis(wait)) {
                Ok(first) => {
                    let more = self.notes.try_iter().take(ROUTES_BATCH_MAX - 1);
                    let notes = std::iter::once(first).chain(more).collect();
                    self.feed(Event::Notes(notes));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            // However many notes there are.
            self.feed(Event::Tick);
            self.tell_how_it_stands();
        }
    }

    fn feed(&mut self, event: Event) {
        let now_ms = self.now_ms();
        let mut actions: VecDeque<Action> = self.rules.step(now_ms, event).into();
        while let Some(action) = actions.pop_front() {
            let Some(event) = self.perform(action) else { continue };
            let now_ms = self.now_ms();
            actions.extend(self.rules.step(now_ms, event));
        }
    }

    fn perform(&mut self, action: Action) -> Option<Event> {
        Some(match action {
            Action::Confirm(entered) => {
                self.confirm(&entered);
                return None;
            }
            Action::Say(notes) => {
                let said = self.store.say(&notes);
                Event::Said(self.heard(said))
            }
            Action::Begin => {
                let begun = self.store.begin();
                Event::Begun(self.heard(begun))
            }
            Action::SayAll(users) => {
                let said = self.store.add(&users);
                Event::SaidAll(self.heard(said))
            }
            Action::SayAgain(users) => {
                let said = self.store.add(&users);
                Event::SaidAgain(self.heard(said))
            }
            Action::Claim => self.claim(),
        })
    }

    fn claim(&mut self) -> Event {
        let (gone_by, outcome) = self.store.claim();
        let held = |is_held| if is_held { Held::Yes } else { Held::Lost };
        let outcome = self.heard(outcome).map(held);
        let gone_by_ms = gone_by.map_or(0, |at| self.since_start_ms(at));
        Event::Claimed { gone_by_ms, outcome }
    }

    fn heard<T>(&self, outcome: Result<T, String>) -> Result<T, ()> {
        outcome.map_err(|error| {
            self.failures.inc();
            tracing::warn!(error, "redis: users are not told");
        })
    }

    fn confirm(&self, entered: &[Entered]) {
        let mut by_shard: BTreeMap<u16, Vec<(Uuid, u64)>> = BTreeMap::new();
        for Entered { user, ticket, shard } in entered {
            by_shard.entry(*shard).or_default().push((*user, *ticket));
        }
        for (shard, users) in by_shard {
            // A shard that has ended is one of a gateway that stops.
            let _ = self.mailboxes.get(shard).send(Mail::Routed(users));
        }
    }

    fn tell_how_it_stands(&mut self) {
        let is_told = self.rules.is_told();
        self.users.set(i64::try_from(self.rules.users()).unwrap_or(i64::MAX));
        self.told.set(i64::from(is_told));
        if std::mem::replace(&mut self.was_told, is_told) != is_told {
            let users = self.rules.users();
            if is_told {
                tracing::info!(users, "redis has all users: their events alone are sent here");
            } else {
                tracing::warn!(users, "redis may not have all users: all events are sent here");
            }
        }
    }

    fn now_ms(&self) -> u64 {
        self.since_start_ms(Instant::now())
    }

    /// Rounded up, so that what ends then has ended.
    fn since_start_ms(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.started).as_micros().div_ceil(1_000);
        u64::try_from(since).unwrap_or(u64::MAX)
    }
}
