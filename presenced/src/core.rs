//! The core thread: owns the rules and the connection to Redis.
//!
//! Whatever waits is taken at once; what it leads to goes to Redis in one pipeline, and only then are the
//! reports answered. Redis being away costs its callers an error, never a wait: connecting is another thread's.

use crate::announcer::Announcement;
use crate::config::Settings;
use crate::limits::{BATCH_MAX, METRICS_MS, REDIS_CHECK_MS, REDIS_RETRY_MS, TICK_MS};
use crate::metrics::PresenceMetrics;
use crate::requests::Asked;
use crate::rules::{Action, Event, Known, Now, Rules, Store};
use crate::store;
use crossbeam_channel::{Receiver, Sender, tick};
use daemon::Health;
use daemon::link::Reply;
use proto::Uuid;
use proto::client::{Accepted, PresenceChanged};
use proto::error::ErrorCode;
use proto::link::{PresenceQueryResult, response};
use redis::{Connection, RedisError, RedisResult};
use std::time::{Duration, Instant};

/// A fresh connection, and who Redis says is online.
pub(crate) struct Connected {
    connection: Connection,
    known: Known,
}

/// Connects whenever it is asked to, trying until it is done; ends when the core is gone.
pub(crate) fn keep_connecting(
    client: &redis::Client,
    asked: &Receiver<()>,
    connected: &Sender<Connected>,
    health: &Health,
) {
    while asked.recv().is_ok() {
        loop {
            let attempt = store::connect(client).and_then(|mut connection| {
                let known = store::known(&mut connection)?;
                Ok(Connected { connection, known })
            });
            match attempt {
                Ok(done) => {
                    if connected.send(done).is_err() {
                        return;
                    }
                    break;
                }
                Err(error) => health.not_ready("redis", error.to_string()),
            }
            std::thread::sleep(Duration::from_millis(REDIS_RETRY_MS));
        }
    }
}

/// What the core is given.
pub(crate) struct Parts {
    pub(crate) settings: Settings,
    pub(crate) health: Health,
    pub(crate) metrics: PresenceMetrics,
    pub(crate) requests: Receiver<(Asked, Reply)>,
    pub(crate) connect: Sender<()>,
    pub(crate) connected: Receiver<Connected>,
    pub(crate) announce: Sender<Announcement>,
    pub(crate) announced: Receiver<Announcement>,
    /// Sent to when the process stops.
    pub(crate) stop: Receiver<()>,
}

pub(crate) struct Core {
    parts: Parts,
    rules: Rules,
    redis: Option<Connection>,
    /// For Redis, of what is being handled.
    stores: Vec<Store>,
    /// For Kafka, once Redis has what is noted of them.
    announcements: Vec<Announcement>,
    /// Had Redis forgotten who was announced as online when this run first read it? None before that.
    began_blank: Option<bool>,
    run_id: Uuid,
    started: Instant,
    checked_at: Instant,
    counted_at: Instant,
}

impl Core {
    pub(crate) fn new(parts: Parts) -> Self {
        let started = Instant::now();
        let rules = Rules::new(parts.settings.timings, now(started));
        Self {
            parts,
            rules,
            redis: None,
            stores: Vec::new(),
            announcements: Vec::new(),
            began_blank: None,
            run_id: proto::id::new(),
            started,
            checked_at: started,
            counted_at: started,
        }
    }

    /// Runs until the process stops.
    pub(crate) fn run(mut self) {
        self.ask_for_redis();
        let ticks = tick(Duration::from_millis(TICK_MS));
        let parts = &self.parts;
        let (requests, connected) = (parts.requests.clone(), parts.connected.clone());
        let (announced, stop) = (parts.announced.clone(), parts.stop.clone());
        loop {
            crossbeam_channel::select! {
                recv(requests) -> first => {
                    let more = requests.try_iter().take(BATCH_MAX - 1);
                    self.answer(first.into_iter().chain(more).collect());
                }
                recv(announced) -> first => {
                    let more = announced.try_iter().take(BATCH_MAX - 1);
                    for it in first.into_iter().chain(more) {
                        let Announcement { user, online, at_us } = it;
                        // Refused only for reports.
                        let _ = self.step(Event::Announced { user, online, at_us });
                    }
                    self.write();
                }
                recv(connected) -> it => if let Ok(it) = it {
                    self.redis_is_back(it);
                },
                recv(ticks) -> _ => self.tick(),
                recv(stop) -> _ => return,
            }
        }
    }

    fn tick(&mut self) {
        let _ = self.step(Event::Tick);
        self.write();
        if self.checked_at.elapsed() >= Duration::from_millis(REDIS_CHECK_MS) {
            self.checked_at = Instant::now();
            self.check_redis();
        }
        if self.counted_at.elapsed() >= Duration::from_millis(METRICS_MS) {
            self.counted_at = Instant::now();
            self.parts.metrics.users_online.set(gauge(self.rules.online()));
            self.parts.metrics.sessions.set(gauge(self.rules.sessions()));
        }
    }

    /// Answers what waits: reports once Redis has them, then queries.
    fn answer(&mut self, batch: Vec<(Asked, Reply)>) {
        let mut reported = Vec::new();
        let mut queries = Vec::new();
        for (asked, reply) in batch {
            match asked {
                Asked::Query(users) => queries.push((users, reply)),
                Asked::Report(report) => {
                    self.parts.metrics.reports.inc();
                    match self.step(Event::Report(report)) {
                        Ok(()) => reported.push(reply),
                        Err(message) => reply.refuse(ErrorCode::InvalidArgument, message),
                    }
                }
            }
        }
        let written = self.write();
        for reply in reported {
            if written {
                reply.send(response::Response::Accepted(Accepted {}));
            } else {
                self.parts.metrics.reports_failed.inc();
                let message = "Redis does not answer; report these sessions again as heartbeats";
                reply.refuse(ErrorCode::Unavailable, message);
            }
        }
        for (users, reply) in queries {
            let states = self.states(&users);
            let result = PresenceQueryResult { states, blank_run_id: self.blank_run_id() };
            reply.send(response::Response::PresenceQuery(result));
        }
    }

    /// One state for each user. Left out is who is not known while sessions may be unheard of: that one
    /// is announced as soon as it is.
    fn states(&mut self, users: &[Uuid]) -> Vec<PresenceChanged> {
        let now = now(self.started);
        let is_learning = self.rules.is_learning(now);
        let unknown = |user: &&Uuid| self.rules.state(user).is_none();
        let unknown: Vec<Uuid> = users.iter().filter(unknown).copied().collect();
        let mut states = Vec::with_capacity(users.len());
        for user in users {
            if let Some((online, since_us)) = self.rules.state(user) {
                states.push(changed(*user, online, if online { now.us } else { since_us }));
            }
        }
        if !is_learning {
            let seen = self.with_redis(|redis| store::last_seen(redis, &unknown));
            let seen = seen.unwrap_or_else(|| vec![0; unknown.len()]);
            states.extend(unknown.iter().zip(seen).map(|(user, us)| changed(*user, false, us)));
        }
        states
    }

    /// Once nobody is unheard of any more, so that whoever asks then gets it right.
    fn blank_run_id(&self) -> Vec<u8> {
        if self.began_blank == Some(true) && !self.rules.is_learning(now(self.started)) {
            self.run_id.as_bytes().to_vec()
        } else {
            Vec::new()
        }
    }

    /// Applies the rules; what follows waits for [`Self::write`].
    fn step(&mut self, event: Event) -> Result<(), String> {
        let actions = self.rules.step(now(self.started), event);
        for action in actions.map_err(|error| error.to_string())? {
            match action {
                Action::Store(store) => self.stores.push(store),
                Action::Announce { user, online, at_us } => {
                    tracing::debug!(user_id = %user, online, "presence changed");
                    self.announcements.push(Announcement { user, online, at_us });
                }
            }
        }
        Ok(())
    }

    /// Writes what waits for Redis, then announces; false if Redis does not have it.
    fn write(&mut self) -> bool {
        let written = self.write_stores();
        for announcement in std::mem::take(&mut self.announcements) {
            let Announcement { user, online, at_us } = announcement;
            if !written && !online {
                // Refused only for reports; nothing follows from it before Redis is back.
                let _ = self.step(Event::Withheld { user, at_us });
                continue;
            }
            // The announcer is gone only when the process ends.
            let _ = self.parts.announce.send(announcement);
        }
        written
    }

    fn write_stores(&mut self) -> bool {
        let stores = std::mem::take(&mut self.stores);
        if stores.is_empty() {
            return self.redis.is_some();
        }
        let timings = self.parts.settings.timings;
        let latency_ms = self.parts.metrics.redis_latency_ms.clone();
        let written = self.with_redis(|redis| {
            let begun = Instant::now();
            store::write(redis, timings, &stores)?;
            latency_ms.observe(begun.elapsed().as_secs_f64() * 1e3);
            Ok(())
        });
        written.is_some()
    }

    /// Does it with Redis; nothing if Redis is away, or was just lost by it.
    fn with_redis<T>(&mut self, work: impl FnOnce(&mut Connection) -> RedisResult<T>) -> Option<T> {
        match work(self.redis.as_mut()?) {
            Ok(value) => Some(value),
            Err(error) => {
                self.redis_is_lost(&error);
                None
            }
        }
    }

    fn redis_is_lost(&mut self, error: &RedisError) {
        self.redis = None;
        self.parts.metrics.redis_lost.inc();
        self.parts.health.not_ready("redis", error.to_string());
        // Refused only for reports.
        let _ = self.step(Event::RedisLost);
        self.ask_for_redis();
    }

    fn ask_for_redis(&self) {
        // Full: it was asked already.
        let _ = self.parts.connect.try_send(());
    }

    fn redis_is_back(&mut self, connected: Connected) {
        tracing::info!(known_online = connected.known.online.len(), "redis connected");
        self.redis = Some(connected.connection);
        if self.began_blank.is_none() {
            self.began_blank = self.with_redis(store::is_complete).map(|is_complete| !is_complete);
        }
        // Refused only for reports.
        let _ = self.step(Event::Known(connected.known));
        self.fill_redis();
    }

    /// Gives Redis everything, and notes there that it has it.
    fn fill_redis(&mut self) {
        let _ = self.step(Event::RedisBack);
        if self.write() && self.with_redis(store::mark_complete).is_some() {
            self.parts.health.ready("redis");
        }
    }

    fn check_redis(&mut self) {
        if self.with_redis(store::is_complete) == Some(false) {
            tracing::warn!("redis lost what it had; it is given everything again");
            self.parts.metrics.redis_lost.inc();
            self.fill_redis();
        }
    }
}

fn changed(user: Uuid, online: bool, last_seen_at_us: u64) -> PresenceChanged {
    PresenceChanged { user_id: user.as_bytes().to_vec(), online, last_seen_at_us }
}

fn now(started: Instant) -> Now {
    let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    Now { ms, us: daemon::clock::now_us() }
}

fn gauge(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
