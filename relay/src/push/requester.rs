//! The thread that makes push requests: carries the rules of [`super::windows`] to Kafka, Redis and
//! PostgreSQL and back.
//!
//! ```text
//! log --take--> Redis: who is without a session? --> windows --end--> Redis, PostgreSQL: still wanted?
//!                                                                       |
//!      offsets <-- settled <-- acknowledged <-- chat.push.requested <---+
//! ```
//!
//! Whatever does not answer, everything waits, and nothing is lost: the log keeps what was not taken.

use super::group::Group;
use super::metrics::PushMetrics;
use super::record::{Asked, Read, write};
use super::sessions::Sessions;
use super::windows::{Action, Audience, Bounds, Event, Message, Need, Place, Request, Windows};
use super::wishes::{Unwanted, Wishes};
use crate::config::{Push, Settings};
use crate::database::Backoff;
use crate::envelope;
use crate::limits::{
    DEAD_LETTER_BYTES_MAX, GROUP_POLL_MS, PUSH_MEMBERS_MAX, PUSH_PUBLISH_MS_MAX,
    PUSH_RECIPIENTS_MAX, PUSH_RECORDS_MAX, PUSH_REQUESTS_MAX, PUSH_REST_FACTOR, PUSH_REST_MS_MAX,
    PUSH_SENDERS_MAX, PUSH_WINDOWS_MAX, RECORD_BYTES_MAX,
};
use crate::publisher::{Deadlines, Publisher};
use crate::wave::{Outcome, Record, judge};
use daemon::clock::now_us;
use proto::Uuid;
use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub(crate) struct Requester {
    group: Group<Read>,
    metrics: PushMetrics,
    stop: Arc<AtomicBool>,
    windows: Windows,
    sessions: Sessions,
    wishes: Wishes,
    publisher: Publisher,
    dead_letters: Publisher,
    /// Taken from the log, and not yet known who of the recipients is without a session.
    taken: Vec<(Place, Asked)>,
    /// Windows that ended, in their order, until they are settled.
    ended: VecDeque<Request>,
    /// The same for large conversations, with the last member that was asked about.
    walks: VecDeque<(Request, Uuid)>,
    started: Instant,
    coalesced: u64,
    /// Until when records are only collected, so that this takes a small share of the machine's time
    /// alone: many that are looked at together cost little more than one.
    rests_until: Instant,
    /// Why nothing goes on.
    stalled: Option<String>,
}

/// A user and what it would be told.
type Wanted<'a> = (Uuid, &'a Request);

impl Requester {
    pub(crate) fn new(
        settings: &Settings,
        push: &Push,
        group: Group<Read>,
        metrics: PushMetrics,
        stop: Arc<AtomicBool>,
    ) -> Result<Self, String> {
        let bounds = Bounds {
            window_ms: u64::try_from(push.window.as_millis()).unwrap_or(u64::MAX),
            windows_max: PUSH_WINDOWS_MAX,
            senders_max: PUSH_SENDERS_MAX,
        };
        Ok(Self {
            group,
            metrics,
            stop,
            windows: Windows::new(bounds),
            sessions: Sessions::new(&push.redis_url)?,
            wishes: Wishes::new(&settings.postgres_url),
            publisher: Publisher::new(settings, RECORD_BYTES_MAX),
            dead_letters: Publisher::new(settings, DEAD_LETTER_BYTES_MAX),
            taken: Vec::new(),
            ended: VecDeque::new(),
            walks: VecDeque::new(),
            started: Instant::now(),
            coalesced: 0,
            rests_until: Instant::now(),
            stalled: None,
        })
    }

    /// Runs until the process stops; then open windows end early.
    pub(crate) fn run(mut self) {
        let mut backoff = Backoff::default();
        while !self.stop.load(Ordering::Acquire) {
            match self.round() {
                Ok(()) => {
                    backoff.reset();
                    self.go_on();
                }
                Err(reason) => {
                    self.stall(reason);
                    self.group.wait(backoff.next(), &self.stop);
                }
            }
        }
        self.apply(Event::Flush);
        if let Err(reason) = self.settle() {
            // It was not committed, and is taken again.
            tracing::warn!(reason, "push requests are left for the next start");
        }
        self.group.leave(self.windows.offsets());
    }

    fn round(&mut self) -> Result<(), String> {
        let settling = Instant::now();
        self.settle()?;
        self.walk()?;
        let settled = settling.elapsed();
        self.take();
        self.forget_lost();
        let looking = Instant::now();
        self.look()?;
        self.apply(Event::Tick);
        let busy = settled + looking.elapsed();
        let rest = (busy * PUSH_REST_FACTOR).min(Duration::from_millis(PUSH_REST_MS_MAX));
        self.rests_until = Instant::now() + rest;
        if let Some(partitions) = self.group.commit(self.windows.offsets()) {
            self.metrics.partitions.set(partitions);
        }
        self.metrics.pending.set(i64::try_from(self.windows.pending()).unwrap_or(i64::MAX));
        let coalesced = self.windows.coalesced();
        self.metrics.coalesced.inc_by(coalesced - self.coalesced);
        self.coalesced = coalesced;
        Ok(())
    }

    fn stall(&mut self, reason: String) {
        self.metrics.stalled.set(1);
        if self.stalled.is_none() {
            tracing::warn!(reason, "push requests wait");
        }
        self.stalled = Some(reason);
    }

    fn go_on(&mut self) {
        if let Some(reason) = self.stalled.take() {
            self.metrics.stalled.set(0);
            tracing::info!(waited_for = reason, "push requests go on");
        }
    }

    /// Takes what is there, or waits for the first record, no longer than until a window ends. Of a log
    /// that is busy many records are taken at once.
    fn take(&mut self) {
        let mut wait = self.wait();
        let mut recipients = 0;
        // Not before an earlier large conversation is done with, if windows had to end early.
        while self.walks.len() < 2
            && self.taken.len() < PUSH_RECORDS_MAX
            && recipients < PUSH_RECIPIENTS_MAX
        {
            let Some(Read { place, asked }) = self.group.take(wait) else { break };
            wait = self.rests_until.saturating_duration_since(Instant::now());
            let asked = asked.unwrap_or_else(|error| self.unreadable(place, &error));
            if let Asked::Users(_, users) = &asked {
                recipients += users.len();
            }
            self.taken.push((place, asked));
        }
    }

    /// A record that cannot be read asks for nothing: every gateway makes a dead letter of it, and tells
    /// why.
    fn unreadable(&self, place: Place, error: &str) -> Asked {
        self.metrics.unreadable.inc();
        tracing::debug!(error, ?place, "a record of the log cannot be read");
        Asked::Nothing
    }

    fn wait(&self) -> Duration {
        if !self.taken.is_empty() || !self.walks.is_empty() {
            return Duration::ZERO;
        }
        let due_ms = self.windows.next_due_ms().unwrap_or(u64::MAX);
        Duration::from_millis(due_ms.saturating_sub(self.now_ms()).min(GROUP_POLL_MS))
    }

    /// Forgets what another relay takes again.
    fn forget_lost(&mut self) {
        let lost = self.group.lost();
        if lost.is_empty() {
            return;
        }
        self.taken.retain(|(place, _)| !lost.contains(&place.partition));
        self.apply(Event::Lost(lost));
        let windows = &self.windows;
        self.ended.retain(|it| windows.is_awaited(it.ticket));
        self.walks.retain(|(it, _)| windows.is_awaited(it.ticket));
    }

    /// Asks who is without a session, and hands what was taken to the windows.
    fn look(&mut self) -> Result<(), String> {
        if self.taken.is_empty() {
            return Ok(());
        }
        let mut users = BTreeSet::new();
        for (_, asked) in &self.taken {
            if let Asked::Users(_, recipients) = asked {
                let is_asked = |it: &&Uuid| !self.sessions.were_present(it);
                users.extend(recipients.iter().filter(is_asked).copied());
            }
        }
        let users: Vec<Uuid> = users.into_iter().collect();
        let absent = self.sessions.absent(&users)?;
        for (place, asked) in std::mem::take(&mut self.taken) {
            let message = self.needs(asked, &users, &absent);
            self.apply(Event::Read { place, message });
        }
        Ok(())
    }

    /// Who needs a window: those without a session, and those who had one a moment ago and were not
    /// asked about again.
    fn needs(
        &self,
        asked: Asked,
        users: &[Uuid],
        absent: &HashSet<Uuid>,
    ) -> Option<(Message, Vec<Need>)> {
        match asked {
            Asked::Nothing => None,
            Asked::Members(message) => {
                // No more urgent for any message: direct messages have two members.
                Some((message, vec![Need { audience: Audience::Members, may_hurry: false }]))
            }
            Asked::Users(message, recipients) => {
                let count = recipients.len();
                let need = |user: Uuid| {
                    let may_hurry = absent.contains(&user);
                    let is_needed = may_hurry || users.binary_search(&user).is_err();
                    is_needed.then_some(Need { audience: Audience::User(user), may_hurry })
                };
                let needs: Vec<Need> = recipients.into_iter().filter_map(need).collect();
                self.metrics.suppress(Unwanted::Online, count - needs.len());
                Some((message, needs))
            }
        }
    }

    fn apply(&mut self, event: Event) {
        let now_ms = self.now_ms();
        for Action::Request(request) in self.windows.step(now_ms, event) {
            match request.audience {
                Audience::User(_) => self.ended.push_back(request),
                Audience::Members => self.walks.push_back((request, Uuid::nil())),
            }
        }
    }

    /// Publishes what ended and is still wanted, in its order.
    fn settle(&mut self) -> Result<(), String> {
        while !self.ended.is_empty() {
            let count = self.ended.len().min(PUSH_REQUESTS_MAX);
            let batch: Vec<Request> = self.ended.drain(..count).collect();
            let outcome = self.settle_batch(&batch);
            let (Ok(settled) | Err((settled, _))) = &outcome;
            let tickets = settled.iter().map(|index| batch[*index].ticket).collect();
            for (index, request) in batch.into_iter().enumerate().rev() {
                if !settled.contains(&index) {
                    self.ended.push_front(request);
                }
            }
            self.windows.step(0, Event::Settled(tickets));
            outcome.map_err(|(_, reason)| reason)?;
        }
        Ok(())
    }

    /// Indices of the requests that are settled; with an error, not all of them are.
    fn settle_batch(
        &mut self,
        batch: &[Request],
    ) -> Result<BTreeSet<usize>, (BTreeSet<usize>, String)> {
        let asked: Vec<Wanted<'_>> = batch.iter().filter_map(wanted).collect();
        let unwanted = self.unwanted(&asked).map_err(|reason| (BTreeSet::new(), reason))?;
        let mut settled = BTreeSet::new();
        let (mut wanted, mut places) = (Vec::new(), Vec::new());
        for (index, why) in unwanted.iter().enumerate() {
            match why {
                Some(why) => {
                    self.metrics.suppress(*why, 1);
                    settled.insert(index);
                }
                None => {
                    wanted.push(asked[index]);
                    places.push(index);
                }
            }
        }
        let (published, stalled) = self.publish(&wanted);
        settled.extend(published.into_iter().map(|index| places[index]));
        match stalled {
            Some(reason) => Err((settled, reason)),
            None => Ok(settled),
        }
    }

    /// For each: why it is not to be published, if it is not.
    fn unwanted(&mut self, asked: &[Wanted<'_>]) -> Result<Vec<Option<Unwanted>>, String> {
        let users: BTreeSet<Uuid> = asked.iter().map(|(user, _)| *user).collect();
        let users: Vec<Uuid> = users.into_iter().collect();
        let absent = self.sessions.absent(&users)?;
        let is_absent = |it: &&Wanted<'_>| absent.contains(&it.0);
        let asked_about: Vec<Wanted<'_>> = asked.iter().filter(is_absent).copied().collect();
        let mut wishes = self.wishes.ask(&asked_about, now_us())?.into_iter();
        let verdict = |it: &Wanted<'_>| {
            if is_absent(&it) { wishes.next().flatten() } else { Some(Unwanted::Online) }
        };
        Ok(asked.iter().map(verdict).collect())
    }

    /// One page of the members of a large conversation.
    fn walk(&mut self) -> Result<(), String> {
        let Some((request, after)) = self.walks.pop_front() else { return Ok(()) };
        match self.page(&request, after) {
            Ok(Some(last)) => self.walks.push_front((request, last)),
            Ok(None) => {
                self.windows.step(0, Event::Settled(vec![request.ticket]));
            }
            Err(reason) => {
                self.walks.push_front((request, after));
                return Err(reason);
            }
        }
        Ok(())
    }

    /// The last member of the page, if there may be more.
    fn page(&mut self, request: &Request, after: Uuid) -> Result<Option<Uuid>, String> {
        let members = self.wishes.page(request, after, now_us(), PUSH_MEMBERS_MAX)?;
        let is_asked = |(user, why): &&(Uuid, Option<Unwanted>)| {
            why.is_none() && !request.senders.contains(user)
        };
        let users: Vec<Uuid> = members.iter().filter(is_asked).map(|(user, _)| *user).collect();
        let absent = self.sessions.absent(&users)?;
        let wanted: Vec<Wanted<'_>> =
            users.iter().filter(|it| absent.contains(it)).map(|user| (*user, request)).collect();
        for part in wanted.chunks(PUSH_REQUESTS_MAX) {
            if let (_, Some(reason)) = self.publish(part) {
                return Err(reason);
            }
        }
        for why in members.iter().filter_map(|(_, why)| *why) {
            self.metrics.suppress(why, 1);
        }
        self.metrics.suppress(Unwanted::Online, users.len() - wanted.len());
        let is_full = members.len() == PUSH_MEMBERS_MAX;
        Ok(members.last().map(|(user, _)| *user).filter(|_| is_full))
    }

    /// Indices of what the broker has, or has as a dead letter; and why it does not have the others.
    fn publish(&mut self, wanted: &[Wanted<'_>]) -> (Vec<usize>, Option<String>) {
        if wanted.is_empty() {
            return (Vec::new(), None);
        }
        let now_us = now_us();
        let records: Vec<Record> =
            wanted.iter().map(|(user, request)| write(request, *user, now_us)).collect();
        if let Err(error) = self.publisher.ensure() {
            return (Vec::new(), Some(format!("kafka: {error}")));
        }
        let outcomes = self.publisher.publish(&records, deadlines(), envelope::record);
        let verdict = judge(&records, &outcomes);
        let mut done: Vec<usize> = verdict.published.iter().map(|(index, _)| *index).collect();
        for index in &done {
            self.metrics.request(wanted[*index].1.latest.is_high);
        }
        for (index, _) in verdict.refused {
            let Outcome::Refused(error) = &outcomes[index] else { continue };
            if self.bury(&records[index], error) {
                done.push(index);
            }
        }
        let is_all = done.len() == records.len();
        let reason = verdict.stalled.unwrap_or_else(|| "it did not take all in time".to_owned());
        (done, (!is_all).then(|| format!("kafka: {reason}")))
    }

    /// A request that the broker refuses for good; whether it has it as a dead letter.
    fn bury(&mut self, record: &Record, error: &str) -> bool {
        tracing::error!(error, "a push request cannot be published and becomes a dead letter");
        if self.dead_letters.ensure().is_err() {
            return false;
        }
        let records = std::slice::from_ref(record);
        let letter = |it: &Record| Ok(envelope::dead_letter(it, error, now_us()));
        let outcomes = self.dead_letters.publish(records, deadlines(), letter);
        let buried = matches!(outcomes[..], [Outcome::Acked(_)]);
        if buried {
            self.metrics.dead_lettered.inc();
        }
        buried
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

fn wanted(request: &Request) -> Option<Wanted<'_>> {
    match request.audience {
        Audience::User(user) => Some((user, request)),
        Audience::Members => None,
    }
}

fn deadlines() -> Deadlines {
    let acked_by = Instant::now() + Duration::from_millis(PUSH_PUBLISH_MS_MAX);
    Deadlines { send_by: acked_by, acked_by }
}
