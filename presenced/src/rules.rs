//! Who is online: the rules, without clock, Redis or Kafka.
//!
//! What a gateway reports is believed until it expires. A user is online while any device has a session; that is
//! announced once, and its end is announced once, after a grace period in which a reconnect goes unnoticed.
//!
//! Nothing is concluded from silence that may be our own: for a whole heartbeat period after the start,
//! after Redis was away or lost its contents, and after this process was paused, nobody is called offline;
//! by then every living session was heard of again.

use crate::config::Timings;
use crate::limits::{LONG_PAUSE_MS_MIN, PAUSE_MS_MIN, SETTLE_MS, USER_SESSIONS_MAX};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use uuid::Uuid;

/// A reading of both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Monotonic, from any origin.
    pub ms: u64,
    /// Since the Unix epoch.
    pub us: u64,
}

/// A session as a gateway names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named {
    pub user: Uuid,
    pub device: Uuid,
    pub connection: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub gateway: Arc<str>,
    pub run: Uuid,
    pub connected: Vec<Named>,
    pub disconnected: Vec<Named>,
    pub heartbeats: Vec<Named>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Report(Report),
    /// What Redis says was announced, by this run or an earlier one.
    Known(Known),
    RedisLost,
    /// Redis is there, perhaps empty: it is given everything again.
    RedisBack,
    /// Kafka has the announcement made at that time.
    Announced {
        user: Uuid,
        online: bool,
        at_us: u64,
    },
    /// The goodbye of that time was not announced, since Redis could not be told of it first: a later run would
    /// believe that everybody takes the user for online.
    Withheld {
        user: Uuid,
        at_us: u64,
    },
    Tick,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Store(Store),
    Announce { user: Uuid, online: bool, at_us: u64 },
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// Announced as online, and Kafka has it.
    pub online: Vec<Uuid>,
    /// Announced as one or the other; nobody knows whether Kafka has it.
    pub changing: Vec<Uuid>,
}

/// What Redis is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Store {
    /// The device's newest session; expires.
    Session { named: Named, gateway: Arc<str>, run: Uuid },
    /// The device has none any more.
    Gone { user: Uuid, device: Uuid },
    /// Which gateways hold the user; expires.
    Gateways { user: Uuid, gateways: Vec<Arc<str>> },
    /// The gateway's lease; expires.
    Gateway { gateway: Arc<str>, run: Uuid },
    /// About to be announced as one or the other. Redis has this before Kafka has the announcement, so
    /// that a run after a crash knows whom to announce again.
    Changing { user: Uuid },
    /// Announced as online, and Kafka has it.
    Online { user: Uuid },
    /// Announced as offline, and Kafka has it.
    Offline { user: Uuid, last_seen_us: u64 },
}

/// A report that cannot be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("gateway {gateway} reported as run {run}, but a newer run of it has reported since")]
pub struct Superseded {
    gateway: Arc<str>,
    run: Uuid,
}

#[derive(Debug)]
struct Session {
    device: Uuid,
    connection: u64,
    gateway: Arc<str>,
    run: Uuid,
    expires_ms: u64,
}

#[derive(Debug, Default)]
struct User {
    /// Oldest first.
    sessions: Vec<Session>,
    /// What was last announced.
    online: bool,
    announced_us: u64,
    /// Kafka has the last announcement.
    confirmed: bool,
    /// It had the one before that.
    was_confirmed: bool,
    /// An earlier run announced something, and nobody knows what Kafka has.
    unsure: bool,
    /// Since when there is no session, while that is not announced.
    empty_since_ms: Option<u64>,
    /// When to look again; the user's entry in the deadlines.
    look_ms: u64,
}

#[derive(Debug)]
struct Gateway {
    run: Uuid,
    before: Option<Uuid>,
    lease_until_ms: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Rules {
    timings: Timings,
    users: HashMap<Uuid, User>,
    gateways: HashMap<Arc<str>, Gateway>,
    /// (when, user): who is to be looked at again. Never later than something can change by time alone.
    deadlines: BTreeSet<(u64, Uuid)>,
    /// Until then there may be sessions of which nothing was heard yet.
    learned_ms: u64,
    /// Until then nothing is concluded from silence.
    hold_until_ms: u64,
    redis_away: bool,
    /// It was read what Redis holds.
    has_known: bool,
    last_ms: u64,
}

impl Rules {
    /// At the start nothing is known, and Redis is not there yet.
    pub fn new(timings: Timings, now: Now) -> Self {
        Self {
            timings,
            users: HashMap::new(),
            gateways: HashMap::new(),
            deadlines: BTreeSet::new(),
            learned_ms: now.ms + timings.full_period_ms(),
            hold_until_ms: now.ms + timings.full_period_ms(),
            redis_away: true,
            has_known: false,
            last_ms: now.ms,
        }
    }

    /// An error only for a report that is not believed; it changes nothing.
    pub fn step(&mut self, now: Now, event: Event) -> Result<Vec<Action>, Superseded> {
        let paused_ms = now.ms.saturating_sub(self.last_ms);
        if paused_ms >= LONG_PAUSE_MS_MIN {
            self.hold(now, self.timings.full_period_ms());
        } else if paused_ms >= PAUSE_MS_MIN {
            self.hold(now, SETTLE_MS);
        }
        self.last_ms = now.ms;
        let mut actions = Vec::new();
        match event {
            Event::Report(report) => self.report(now, report, &mut actions)?,
            Event::Known(known) => self.known(&known),
            Event::RedisLost => self.redis_away = true,
            Event::RedisBack => {
                self.redis_away = false;
                self.hold(now, self.timings.full_period_ms());
                self.store_all(&mut actions);
            }
            Event::Announced { user, online, at_us } => {
                self.announced(user, online, at_us, &mut actions);
            }
            Event::Withheld { user, at_us } => self.withheld(now, user, at_us),
            Event::Tick => {}
        }
        self.look_at_due(now, &mut actions);
        Ok(actions)
    }

    /// Whether the user is announced as online, and since or until when; nothing: not known here.
    pub fn state(&self, user: &Uuid) -> Option<(bool, u64)> {
        self.users.get(user).map(|it| (it.online, it.announced_us))
    }

    /// Somebody may be online of whom nothing was heard yet.
    pub fn is_learning(&self, now: Now) -> bool {
        now.ms < self.learned_ms
    }

    pub fn online(&self) -> usize {
        self.users.values().filter(|user| user.online).count()
    }

    pub fn sessions(&self) -> usize {
        self.users.values().map(|user| user.sessions.len()).sum()
    }

    fn hold(&mut self, now: Now, for_ms: u64) {
        self.hold_until_ms = self.hold_until_ms.max(now.ms + for_ms);
    }

    fn is_holding(&self, now: Now) -> bool {
        self.redis_away || now.ms < self.hold_until_ms
    }

    fn report(
        &mut self,
        now: Now,
        report: Report,
        actions: &mut Vec<Action>,
    ) -> Result<(), Superseded> {
        let Report { gateway, run, connected, disconnected, heartbeats } = report;
        self.renew(now, &gateway, run)?;
        actions.push(Action::Store(Store::Gateway { gateway: Arc::clone(&gateway), run }));
        for named in heartbeats {
            self.heard(now, named, &gateway, run, actions);
        }
        for named in connected {
            self.heard(now, named, &gateway, run, actions);
            self.forget_earlier_runs(&named, actions);
        }
        for named in disconnected {
            self.disconnected(now, named, &gateway, run, actions);
        }
        Ok(())
    }

    /// Renews a gateway's lease; the sessions of an earlier run have little time left.
    fn renew(&mut self, now: Now, gateway: &Arc<str>, run: Uuid) -> Result<(), Superseded> {
        let lease_until_ms = now.ms + self.timings.gateway_lease_ms;
        let Some(known) = self.gateways.get_mut(gateway) else {
            let fresh = Gateway { run, before: None, lease_until_ms };
            self.gateways.insert(Arc::clone(gateway), fresh);
            return Ok(());
        };
        if known.before == Some(run) {
            return Err(Superseded { gateway: Arc::clone(gateway), run });
        }
        known.lease_until_ms = lease_until_ms;
        if known.run == run {
            return Ok(());
        }
        known.before = Some(std::mem::replace(&mut known.run, run));
        let ends_ms = now.ms + self.timings.restart_grace_ms;
        let mut touched = Vec::new();
        for (id, user) in &mut self.users {
            let mut old =
                user.sessions.iter_mut().filter(|it| it.gateway == *gateway && it.run != run);
            if old.by_ref().map(|it| it.expires_ms = it.expires_ms.min(ends_ms)).count() > 0 {
                touched.push(*id);
            }
        }
        for user in touched {
            self.look_by(user, ends_ms);
        }
        Ok(())
    }

    /// A session is there: new, or still.
    fn heard(
        &mut self,
        now: Now,
        named: Named,
        gateway: &Arc<str>,
        run: Uuid,
        actions: &mut Vec<Action>,
    ) {
        let expires_ms = now.ms + self.timings.expiry_ms;
        let user = self.users.entry(named.user).or_default();
        let same = |it: &&mut Session| is_session(it, &named, gateway, run);
        if let Some(session) = user.sessions.iter_mut().find(same) {
            session.expires_ms = expires_ms;
        } else {
            if user.sessions.len() >= USER_SESSIONS_MAX {
                user.sessions.remove(0);
            }
            user.sessions.push(Session {
                device: named.device,
                connection: named.connection,
                gateway: Arc::clone(gateway),
                run,
                expires_ms,
            });
        }
        user.empty_since_ms = None;
        let is_newest = user
            .sessions
            .iter()
            .rfind(|it| it.device == named.device)
            .is_some_and(|it| is_session(it, &named, gateway, run));
        if is_newest {
            let gateway = Arc::clone(gateway);
            actions.push(Action::Store(Store::Session { named, gateway, run }));
        }
        actions.push(store_gateways(named.user, user));
        if !user.online || user.unsure {
            announce(now, named.user, user, true, actions);
        }
        self.look_by(
            named.user,
            now.ms + self.timings.gateway_lease_ms.min(self.timings.expiry_ms),
        );
    }

    /// A device that connects anew has lost its session with a gateway's earlier run.
    fn forget_earlier_runs(&mut self, named: &Named, actions: &mut Vec<Action>) {
        let (gateways, Some(user)) = (&self.gateways, self.users.get_mut(&named.user)) else {
            return;
        };
        let before = user.sessions.len();
        user.sessions.retain(|it| {
            it.device != named.device || gateways.get(&it.gateway).is_some_and(|g| g.run == it.run)
        });
        if user.sessions.len() < before {
            actions.push(store_gateways(named.user, user));
        }
    }

    /// Only this very connection is gone; a newer one of the device is not.
    fn disconnected(
        &mut self,
        now: Now,
        named: Named,
        gateway: &Arc<str>,
        run: Uuid,
        actions: &mut Vec<Action>,
    ) {
        let Some(user) = self.users.get_mut(&named.user) else { return };
        let before = user.sessions.len();
        user.sessions.retain(|it| !is_session(it, &named, gateway, run));
        if user.sessions.len() == before {
            return;
        }
        store_device(named.user, named.device, user, actions);
        actions.push(store_gateways(named.user, user));
        if user.sessions.is_empty() {
            user.empty_since_ms = Some(now.ms);
            self.look_by(named.user, now.ms + self.timings.grace_ms);
        }
    }

    /// Takes over what earlier runs announced; what this run announced it knows better. Of whom it knows
    /// nothing any more although Redis was there before, the last announcement may be missing in Redis.
    fn known(&mut self, known: &Known) {
        let may_be_old = std::mem::replace(&mut self.has_known, true);
        let sure = known.online.iter().map(|id| (*id, may_be_old));
        for (id, unsure) in known.changing.iter().map(|id| (*id, true)).chain(sure) {
            let user = self.users.entry(id).or_default();
            if user.announced_us == 0 && !user.online {
                user.online = true;
                user.unsure = unsure;
                user.confirmed = !unsure;
                self.look_by(id, self.hold_until_ms);
            }
        }
    }

    fn announced(&mut self, id: Uuid, online: bool, at_us: u64, actions: &mut Vec<Action>) {
        let Some(user) = self.users.get_mut(&id) else { return };
        if user.announced_us != at_us {
            return;
        }
        user.confirmed = true;
        if online {
            actions.push(Action::Store(Store::Online { user: id }));
            return;
        }
        actions.push(Action::Store(Store::Offline { user: id, last_seen_us: at_us }));
        if user.sessions.is_empty() {
            self.deadlines.remove(&(user.look_ms, id));
            self.users.remove(&id);
        }
    }

    /// As if it had not come to that yet; it does once Redis is back, unless the user is by then.
    fn withheld(&mut self, now: Now, id: Uuid, at_us: u64) {
        let Some(user) = self.users.get_mut(&id) else { return };
        if user.announced_us == at_us && !user.online {
            user.online = true;
            user.confirmed = user.was_confirmed;
            user.unsure = !user.confirmed;
            user.empty_since_ms = Some(now.ms);
            self.look_by(id, now.ms + self.timings.heartbeat_ms);
        }
    }

    fn store_all(&self, actions: &mut Vec<Action>) {
        for (gateway, state) in &self.gateways {
            let gateway = Arc::clone(gateway);
            actions.push(Action::Store(Store::Gateway { gateway, run: state.run }));
        }
        for (id, user) in &self.users {
            let confirmed = user.confirmed && user.online;
            actions.push(Action::Store(match confirmed {
                true => Store::Online { user: *id },
                false => Store::Changing { user: *id },
            }));
            for session in &user.sessions {
                store_device(*id, session.device, user, actions);
            }
            if !user.sessions.is_empty() {
                actions.push(store_gateways(*id, user));
            }
        }
    }

    /// Looks at the user again at that time, or earlier if that was planned already.
    fn look_by(&mut self, id: Uuid, at_ms: u64) {
        let Some(user) = self.users.get_mut(&id) else { return };
        if user.look_ms != 0 && user.look_ms <= at_ms {
            return;
        }
        self.deadlines.remove(&(user.look_ms, id));
        user.look_ms = at_ms;
        self.deadlines.insert((at_ms, id));
    }

    fn look_at_due(&mut self, now: Now, actions: &mut Vec<Action>) {
        while let Some((at_ms, id)) = self.deadlines.first().copied().filter(|it| it.0 <= now.ms) {
            self.deadlines.remove(&(at_ms, id));
            if let Some(next_ms) = self.look(now, id, actions) {
                self.look_by(id, next_ms.max(now.ms + 1));
            }
        }
        self.gateways.retain(|_, it| it.lease_until_ms + self.timings.expiry_ms > now.ms);
    }

    /// Looks at a user: drops what has expired and announces what follows. Returns when to look again.
    fn look(&mut self, now: Now, id: Uuid, actions: &mut Vec<Action>) -> Option<u64> {
        let holding = self.is_holding(now);
        let user = self.users.get_mut(&id)?;
        user.look_ms = 0;
        if holding {
            // Redis's return makes the hold longer than a heartbeat, so that this is early enough.
            let early_ms = now.ms + self.timings.heartbeat_ms;
            return Some(if self.redis_away { early_ms } else { self.hold_until_ms });
        }
        let gateways = &self.gateways;
        let ends_ms = |it: &Session| match gateways.get(&it.gateway) {
            Some(gateway) if gateway.run == it.run => it.expires_ms.min(gateway.lease_until_ms),
            Some(_) => it.expires_ms,
            None => 0,
        };
        let gone: Vec<Uuid> = user
            .sessions
            .extract_if(.., |it| ends_ms(it) <= now.ms)
            .map(|session| session.device)
            .collect();
        for device in &gone {
            store_device(id, *device, user, actions);
        }
        if !gone.is_empty() {
            actions.push(store_gateways(id, user));
        }
        if let Some(next_ms) = user.sessions.iter().map(ends_ms).min() {
            return Some(next_ms);
        }
        if !user.online {
            return None;
        }
        let offline_ms = *user.empty_since_ms.get_or_insert(now.ms) + self.timings.grace_ms;
        if offline_ms > now.ms {
            return Some(offline_ms);
        }
        announce(now, id, user, false, actions);
        None
    }
}

fn is_session(session: &Session, named: &Named, gateway: &Arc<str>, run: Uuid) -> bool {
    session.connection == named.connection
        && session.device == named.device
        && session.run == run
        && session.gateway == *gateway
}

/// Later than any announcement of this user before, whatever the wall clock did.
fn announce(now: Now, id: Uuid, user: &mut User, online: bool, actions: &mut Vec<Action>) {
    user.online = online;
    user.announced_us = now.us.max(user.announced_us + 1);
    user.empty_since_ms = None;
    user.was_confirmed = std::mem::replace(&mut user.confirmed, false);
    user.unsure = false;
    actions.push(Action::Store(Store::Changing { user: id }));
    actions.push(Action::Announce { user: id, online, at_us: user.announced_us });
}

/// The device's newest session, or that it has none.
fn store_device(id: Uuid, device: Uuid, user: &User, actions: &mut Vec<Action>) {
    let newest = user.sessions.iter().rfind(|it| it.device == device);
    actions.push(Action::Store(match newest {
        None => Store::Gone { user: id, device },
        Some(it) => Store::Session {
            named: Named { user: id, device, connection: it.connection },
            gateway: Arc::clone(&it.gateway),
            run: it.run,
        },
    }));
}

fn store_gateways(id: Uuid, user: &User) -> Action {
    let mut gateways: Vec<Arc<str>> = Vec::new();
    for session in &user.sessions {
        if !gateways.contains(&session.gateway) {
            gateways.push(Arc::clone(&session.gateway));
        }
    }
    Action::Store(Store::Gateways { user: id, gateways })
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
