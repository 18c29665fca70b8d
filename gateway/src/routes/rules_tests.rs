use super::*;
use crate::limits::ROUTES_MS_MAX;
use fastrand::Rng;
use proto::routes::CLAIM_MS;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

const SEEDS: u64 = 10_000;
const STEPS: usize = 400;
const USERS: u128 = 6;

type Epoch = u64;

/// Redis, as far as it matters: what it executes late it executes all the same.
#[derive(Clone, Default)]
struct Redis {
    run: u64,
    routes: BTreeSet<(Uuid, Epoch)>,
    /// The last epoch that was begun, and in which run.
    begun: Option<(Epoch, u64)>,
    /// Epoch, and when it ends; and in which run it was made.
    claim: Option<(Epoch, u64)>,
    claimed_in: u64,
    late: VecDeque<Command>,
}

#[derive(Clone)]
enum Command {
    Add(Uuid, Epoch),
    Remove(Uuid, Epoch),
    Begin(Epoch),
    Claim(Epoch, u64),
}

impl Redis {
    fn run(&mut self, now_ms: u64, command: &Command) -> Held {
        self.claim = self.claim.filter(|(_, until_ms)| *until_ms > now_ms);
        match *command {
            Command::Add(user, epoch) => {
                self.routes.insert((user, epoch));
            }
            Command::Remove(user, epoch) => {
                self.routes.remove(&(user, epoch));
            }
            Command::Begin(epoch) => {
                self.begun = Some((epoch, self.run));
                let was_here = self.claim.take().is_some() && self.claimed_in == self.run;
                return if was_here { Held::Yes } else { Held::Lost };
            }
            Command::Claim(epoch, _) if self.begun != Some((epoch, self.run)) => {
                self.claim = None;
                return Held::Lost;
            }
            // A time that has passed ends it.
            Command::Claim(epoch, until_ms) => {
                self.claim = Some((epoch, until_ms)).filter(|it| it.1 > now_ms);
                self.claimed_in = self.run;
            }
        }
        Held::Yes
    }

    /// Whether the relay sends a user's events.
    fn sends(&self, now_ms: u64, user: Uuid) -> bool {
        let claim = self.claim.filter(|(_, until_ms)| *until_ms > now_ms);
        match claim.filter(|_| self.claimed_in == self.run) {
            Some((epoch, _)) => self.routes.contains(&(user, epoch)),
            None => true,
        }
    }
}

struct World {
    random: Rng,
    now_ms: u64,
    redis: Redis,
    /// The Redis that the relay asks still, until then.
    before: Option<(Redis, u64)>,
    /// The connection was to another Redis.
    is_broken: bool,
    rules: Rules,
    epoch: Epoch,
    tickets: u64,
    /// Of who is there; and who of them is routed.
    entered: HashMap<Uuid, u64>,
    routed: HashSet<Uuid>,
    told: u64,
    left_out: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let redis = Redis { claim: Some((0, CLAIM_MS)), ..Redis::default() };
        Self {
            random: Rng::with_seed(seed),
            now_ms: 0,
            redis,
            before: None,
            is_broken: false,
            rules: Rules::new(CLAIM_MS),
            epoch: 0,
            tickets: 0,
            entered: HashMap::new(),
            routed: HashSet::new(),
            told: 0,
            left_out: 0,
        }
    }

    /// Redis executes them now, or later, or never; and answers, or not.
    fn ask(&mut self, commands: &[Command]) -> Result<Held, ()> {
        let mut held = Held::Yes;
        let fate = self.random.u8(0..12);
        self.now_ms += self.random.u64(0..20);
        if std::mem::take(&mut self.is_broken) {
            return Err(());
        }
        for command in commands {
            match fate {
                0 => self.redis.late.push_back(command.clone()),
                1 => {}
                _ => held = self.redis.run(self.now_ms, command),
            }
        }
        if fate <= 2 {
            self.now_ms += ROUTES_MS_MAX;
            return Err(());
        }
        Ok(held)
    }

    fn feed(&mut self, event: Event) {
        let mut actions: VecDeque<Action> = self.rules.step(self.now_ms, event).into();
        while let Some(action) = actions.pop_front() {
            let event = match action {
                Action::Confirm(entered) => {
                    for it in entered {
                        if self.entered.get(&it.user) == Some(&it.ticket) {
                            self.routed.insert(it.user);
                        }
                    }
                    continue;
                }
                Action::Say(notes) => {
                    let commands: Vec<_> = notes.iter().map(|it| self.command(it)).collect();
                    Event::Said(self.ask(&commands).map(drop))
                }
                Action::Begin => {
                    self.epoch += 1;
                    let begun = self.ask(&[Command::Begin(self.epoch)]);
                    Event::Begun(begun.map(|held| held == Held::Yes))
                }
                Action::SayAll(users) => Event::SaidAll(self.add(&users)),
                Action::SayAgain(users) => Event::SaidAgain(self.add(&users)),
                Action::Claim => self.claim(),
            };
            actions.extend(self.rules.step(self.now_ms, event));
        }
        self.told += u64::from(self.rules.is_told());
    }

    fn add(&mut self, users: &[Uuid]) -> Result<(), ()> {
        let commands: Vec<_> = users.iter().map(|it| Command::Add(*it, self.epoch)).collect();
        self.ask(&commands).map(drop)
    }

    fn claim(&mut self) -> Event {
        let until_ms = self.now_ms + CLAIM_MS;
        let outcome = self.ask(&[Command::Claim(self.epoch, until_ms)]);
        Event::Claimed { gone_by_ms: until_ms, outcome }
    }

    fn command(&self, note: &RouteNote) -> Command {
        match *note {
            RouteNote::Enter { user, .. } => Command::Add(user, self.epoch),
            RouteNote::Leave { user } => Command::Remove(user, self.epoch),
        }
    }

    fn step(&mut self) {
        self.now_ms += self.random.u64(0..200);
        match self.random.u8(0..40) {
            // Everything is lost, as with a restart; or the claim alone is.
            0 => {
                let (run, late) = (self.redis.run, std::mem::take(&mut self.redis.late));
                self.redis = Redis { run, late, ..Redis::default() };
            }
            // Another takes over that lacks some, and the relay comes to know of it later.
            3 => {
                let asked_ms = self.random.u64(0..2 * CLAIM_MS);
                self.before = Some((self.redis.clone(), self.now_ms + asked_ms));
                self.redis.run += 1;
                self.is_broken = true;
                self.redis.late.clear();
                let kept = self.random.bool();
                self.redis.routes.retain(|_| kept && self.random.bool());
            }
            1 => self.redis.claim = None,
            // We were held up.
            2 => self.now_ms += self.random.u64(0..2 * CLAIM_MS),
            4..=5 => {
                if let Some(command) = self.redis.late.pop_front() {
                    let _ = self.redis.run(self.now_ms, &command);
                }
            }
            6..=20 => {
                let count = self.random.usize(1..4);
                let notes = (0..count).map(|_| self.note()).collect();
                self.feed(Event::Notes(notes));
            }
            _ => self.feed(Event::Tick),
        }
    }

    fn note(&mut self) -> RouteNote {
        let user = Uuid::from_u128(self.random.u128(0..USERS));
        if self.entered.remove(&user).is_some() {
            self.routed.remove(&user);
            return RouteNote::Leave { user };
        }
        self.tickets += 1;
        self.entered.insert(user, self.tickets);
        RouteNote::Enter { user, ticket: self.tickets, shard: 0 }
    }

    fn check(&mut self, seed: u64) {
        self.before.take_if(|(_, until_ms)| *until_ms < self.now_ms);
        let asked = self.before.as_ref().map_or(&self.redis, |(redis, _)| redis);
        for user in &self.routed {
            assert!(asked.sends(self.now_ms, *user), "{user} is sent nothing, seed {seed}");
        }
        let others = (0..USERS).map(Uuid::from_u128).filter(|it| !self.entered.contains_key(it));
        self.left_out += others.filter(|it| !asked.sends(self.now_ms, *it)).count() as u64;
    }
}

/// Whatever Redis does, late or never: whoever is routed is sent everything; and mostly nobody else's is.
#[test]
fn whoever_is_routed_is_sent_everything_for_any_seed() {
    let (mut told, mut left_out, mut routed) = (0, 0, 0);
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step();
            world.check(seed);
        }
        told += world.told;
        left_out += world.left_out;
        routed += world.routed.len();
    }
    assert!(told > SEEDS * 20 && left_out > SEEDS * 20 && routed > 0, "{told} {left_out} {routed}");
}

#[test]
fn without_redis_users_wait_for_what_an_earlier_run_claimed_and_then_for_nothing() {
    let mut rules = Rules::new(CLAIM_MS);
    let (user, shard) = (Uuid::from_u128(1), 3);
    let enter = |ticket| Event::Notes(vec![RouteNote::Enter { user, ticket, shard }]);
    assert_eq!(rules.step(0, enter(1)), [Action::Begin]);
    assert_eq!(rules.step(0, Event::Begun(Err(()))), []);
    let first = Entered { user, ticket: 1, shard };
    assert_eq!(rules.step(CLAIM_MS, Event::Tick), [Action::Confirm(vec![first])]);
    assert_eq!(rules.step(CLAIM_MS, Event::Tick), [Action::Begin]);
    assert_eq!(rules.step(CLAIM_MS, Event::Begun(Err(()))), []);
    let second = Entered { ticket: 2, ..first };
    assert_eq!(rules.step(CLAIM_MS, enter(2)), [Action::Confirm(vec![second])]);
}

#[test]
fn who_waits_for_an_earlier_claim_waits_no_longer_once_the_same_redis_has_none() {
    let (user, shard) = (Uuid::from_u128(1), 3);
    let enter = || Event::Notes(vec![RouteNote::Enter { user, ticket: 1, shard }]);
    let confirm = || Action::Confirm(vec![Entered { user, ticket: 1, shard }]);
    let mut rules = Rules::new(CLAIM_MS);
    assert_eq!(rules.step(0, enter()), [Action::Begin]);
    assert_eq!(rules.step(0, Event::Begun(Ok(true))), [confirm(), Action::SayAll(vec![user])]);
    let mut rules = Rules::new(CLAIM_MS);
    assert_eq!(rules.step(0, enter()), [Action::Begin]);
    assert_eq!(rules.step(0, Event::Begun(Ok(false))), [], "it may hold in another");
    assert_eq!(rules.step(CLAIM_MS, Event::Tick), [confirm()]);
}

#[test]
fn who_left_while_waiting_is_not_confirmed_and_all_are_told_again_now_and_then() {
    let mut rules = Rules::new(0);
    let [user, other] = [1, 2].map(Uuid::from_u128);
    assert_eq!(rules.step(0, Event::Tick), []);
    assert_eq!(rules.step(0, Event::Tick), [Action::Begin]);
    assert_eq!(rules.step(0, Event::Begun(Ok(false))), [Action::SayAll(vec![])]);
    assert_eq!(rules.step(0, Event::SaidAll(Ok(()))), [Action::Claim]);
    let claimed = |held| Event::Claimed { gone_by_ms: CLAIM_MS, outcome: held };
    assert_eq!(rules.step(0, claimed(Ok(Held::Yes))), []);
    let notes = vec![
        RouteNote::Enter { user, ticket: 1, shard: 0 },
        RouteNote::Enter { user: other, ticket: 2, shard: 0 },
        RouteNote::Leave { user },
    ];
    assert_eq!(rules.step(0, Event::Notes(notes.clone())), [Action::Say(notes)]);
    let entered = Entered { user: other, ticket: 2, shard: 0 };
    assert_eq!(rules.step(0, Event::Said(Ok(()))), [Action::Confirm(vec![entered])]);
    assert_eq!(rules.step(ROUTES_RENEW_MS, Event::Tick), [Action::Claim]);
    assert_eq!(rules.step(ROUTES_AGAIN_MS, Event::Tick), [Action::SayAgain(vec![other])]);
    assert_eq!(rules.step(ROUTES_AGAIN_MS, Event::SaidAgain(Ok(()))), [Action::Claim]);
}
