//! Cases one by one, and a seeded simulation of gateways, devices, Redis and presenced itself.

use super::*;
use std::collections::{BTreeMap, VecDeque};

const TIMINGS: Timings = Timings {
    expiry_ms: 60_000,
    heartbeat_ms: 20_000,
    gateway_lease_ms: 45_000,
    grace_ms: 3_000,
    restart_grace_ms: 15_000,
};

fn at(ms: u64) -> Now {
    Now { ms, us: 1_700_000_000_000_000 + ms * 1_000 }
}

fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

fn named(user: u128, device: u128, connection: u64) -> Named {
    Named { user: id(user), device: id(device), connection }
}

fn report(gateway: &str, run: u128) -> Report {
    Report {
        gateway: gateway.into(),
        run: id(run),
        connected: Vec::new(),
        disconnected: Vec::new(),
        heartbeats: Vec::new(),
    }
}

fn connected(gateway: &str, run: u128, session: Named) -> Event {
    Event::Report(Report { connected: vec![session], ..report(gateway, run) })
}

fn disconnected(gateway: &str, run: u128, session: Named) -> Event {
    Event::Report(Report { disconnected: vec![session], ..report(gateway, run) })
}

fn heartbeat(gateway: &str, run: u128, session: Named) -> Event {
    Event::Report(Report { heartbeats: vec![session], ..report(gateway, run) })
}

/// Rules whose first heartbeat period is over, at 100,000 ms.
fn settled() -> Rules {
    let mut rules = Rules::new(TIMINGS, at(0));
    rules.step(at(0), Event::RedisBack).unwrap();
    // In steps, so that it does not look like a pause.
    for ms in (0..=100_000).step_by(100) {
        rules.step(at(ms), Event::Tick).unwrap();
    }
    rules
}

fn announced(actions: &[Action]) -> Vec<(Uuid, bool)> {
    let told = actions.iter().filter_map(|action| match action {
        Action::Announce { user, online, .. } => Some((*user, *online)),
        Action::Store(_) => None,
    });
    told.collect()
}

/// Ticks from one time to another; who was announced, and when.
fn run(rules: &mut Rules, from_ms: u64, to_ms: u64) -> Vec<(u64, bool)> {
    let mut told = Vec::new();
    for ms in (from_ms..=to_ms).step_by(100) {
        let actions = rules.step(at(ms), Event::Tick).unwrap();
        told.extend(announced(&actions).into_iter().map(|(_, online)| (ms, online)));
    }
    told
}

#[test]
fn only_the_first_and_the_last_device_are_announced() {
    let mut rules = settled();
    let step = |rules: &mut Rules, ms, event| announced(&rules.step(at(ms), event).unwrap());
    assert_eq!(step(&mut rules, 100_100, connected("g1", 1, named(1, 1, 1))), [(id(1), true)]);
    assert_eq!(step(&mut rules, 100_200, connected("g1", 1, named(1, 2, 2))), []);
    assert_eq!(step(&mut rules, 100_300, disconnected("g1", 1, named(1, 1, 1))), []);
    assert_eq!(run(&mut rules, 100_400, 110_000), []);
    assert_eq!(step(&mut rules, 110_000, disconnected("g1", 1, named(1, 2, 2))), []);
    assert_eq!(run(&mut rules, 110_100, 120_000), [(113_000, false)]);
}

#[test]
fn a_reconnect_within_the_grace_period_is_no_flicker() {
    let mut rules = settled();
    rules.step(at(100_100), connected("g1", 1, named(1, 1, 1))).unwrap();
    rules.step(at(100_200), disconnected("g1", 1, named(1, 1, 1))).unwrap();
    assert_eq!(run(&mut rules, 100_300, 103_100), []);
    let actions = rules.step(at(103_150), connected("g2", 7, named(1, 1, 1))).unwrap();
    assert_eq!(announced(&actions), []);
    assert_eq!(run(&mut rules, 103_200, 120_000), []);
}

#[test]
fn a_late_goodbye_of_an_old_connection_does_not_end_the_new_one() {
    let mut rules = settled();
    rules.step(at(100_100), connected("g1", 1, named(1, 1, 5))).unwrap();
    rules.step(at(100_200), connected("g2", 2, named(1, 1, 5))).unwrap();
    let actions = rules.step(at(100_300), disconnected("g1", 1, named(1, 1, 5))).unwrap();
    let newest = Store::Session { named: named(1, 1, 5), gateway: "g2".into(), run: id(2) };
    assert!(actions.contains(&Action::Store(newest)), "{actions:?}");
    // Another run of the same gateway, with the same connection number, is another session, too.
    rules.step(at(100_400), disconnected("g2", 3, named(1, 1, 5))).unwrap();
    assert_eq!(run(&mut rules, 100_500, 110_000), []);
    assert_eq!(rules.state(&id(1)).map(|state| state.0), Some(true));
}

#[test]
fn users_of_a_gateway_that_dies_without_a_word_are_offline_within_a_minute() {
    let mut rules = settled();
    rules.step(at(100_000), connected("g1", 1, named(1, 1, 1))).unwrap();
    rules.step(at(100_000), connected("g2", 2, named(2, 2, 1))).unwrap();
    let mut told = Vec::new();
    for ms in (100_100..=170_000).step_by(100) {
        if ms % 20_000 == 0 {
            rules.step(at(ms), heartbeat("g2", 2, named(2, 2, 1))).unwrap();
        }
        let actions = rules.step(at(ms), Event::Tick).unwrap();
        told.extend(announced(&actions).into_iter().map(|it| (ms, it)));
    }
    assert_eq!(told, [(148_000, (id(1), false))]);
}

#[test]
fn a_restarted_gateway_is_told_from_its_dead_run() {
    let mut rules = settled();
    rules.step(at(100_000), connected("g1", 1, named(1, 1, 1))).unwrap();
    rules.step(at(100_000), connected("g1", 1, named(2, 2, 2))).unwrap();
    // One of two users comes back.
    rules.step(at(101_000), connected("g1", 9, named(1, 1, 1))).unwrap();
    let late = rules.step(at(101_100), heartbeat("g1", 1, named(2, 2, 2)));
    assert!(late.unwrap_err().to_string().contains("a newer run"));
    assert_eq!(run(&mut rules, 101_200, 125_000), [(119_000, false)]);
    assert_eq!(rules.state(&id(1)).map(|state| state.0), Some(true));
}

fn known_online() -> Event {
    Event::Known(Known { online: vec![id(1), id(2)], changing: Vec::new() })
}

#[test]
fn what_an_earlier_run_may_not_have_announced_is_announced_again() {
    let mut rules = Rules::new(TIMINGS, at(0));
    let known = Known { online: vec![id(1)], changing: vec![id(1), id(2)] };
    rules.step(at(0), Event::Known(known)).unwrap();
    rules.step(at(0), Event::RedisBack).unwrap();
    let actions = rules.step(at(100), heartbeat("g1", 1, named(1, 1, 1))).unwrap();
    assert_eq!(announced(&actions), [(id(1), true)]);
    assert!(actions.contains(&Action::Store(Store::Changing { user: id(1) })));
    let at_us = rules.state(&id(1)).unwrap().1;
    let ack = Event::Announced { user: id(1), online: true, at_us };
    let actions = rules.step(at(200), ack).unwrap();
    assert_eq!(actions, [Action::Store(Store::Online { user: id(1) })]);
    let mut told = Vec::new();
    for ms in (300..35_000).step_by(100) {
        if ms % 20_000 == 0 {
            rules.step(at(ms), heartbeat("g1", 1, named(1, 1, 1))).unwrap();
        }
        told.extend(announced(&rules.step(at(ms), Event::Tick).unwrap()));
    }
    assert_eq!(told, [(id(2), false)]);
}

#[test]
fn of_whom_redis_missed_the_goodbye_the_return_is_announced() {
    let mut rules = settled();
    rules.step(at(100_000), Event::Known(Known::default())).unwrap();
    rules.step(at(100_100), connected("g1", 1, named(1, 1, 1))).unwrap();
    rules.step(at(100_200), disconnected("g1", 1, named(1, 1, 1))).unwrap();
    let goodbye = run(&mut rules, 100_300, 103_200);
    assert_eq!(goodbye, [(103_200, false)]);
    let (_, at_us) = rules.state(&id(1)).unwrap();
    // Kafka has it; that Redis was lost shows only now.
    rules.step(at(103_300), Event::Announced { user: id(1), online: false, at_us }).unwrap();
    rules.step(at(103_300), Event::RedisLost).unwrap();
    rules.step(at(103_400), known_online()).unwrap();
    rules.step(at(103_400), Event::RedisBack).unwrap();
    let actions = rules.step(at(103_500), connected("g1", 1, named(1, 1, 2))).unwrap();
    assert_eq!(announced(&actions), [(id(1), true)]);
}

#[test]
fn a_goodbye_of_which_redis_was_not_told_is_announced_once_it_is_back_unless_the_user_is() {
    for is_back in [false, true] {
        let mut rules = settled();
        rules.step(at(100_000), Event::Known(Known::default())).unwrap();
        rules.step(at(100_100), connected("g1", 1, named(1, 1, 1))).unwrap();
        let (_, at_us) = rules.state(&id(1)).unwrap();
        rules.step(at(100_150), Event::Announced { user: id(1), online: true, at_us }).unwrap();
        rules.step(at(100_200), disconnected("g1", 1, named(1, 1, 1))).unwrap();
        assert_eq!(run(&mut rules, 100_300, 103_200), [(103_200, false)]);
        let (_, at_us) = rules.state(&id(1)).unwrap();
        rules.step(at(103_200), Event::RedisLost).unwrap();
        rules.step(at(103_200), Event::Withheld { user: id(1), at_us }).unwrap();
        let actions = rules.step(at(104_000), Event::RedisBack).unwrap();
        assert!(actions.contains(&Action::Store(Store::Online { user: id(1) })));
        if is_back {
            let actions = rules.step(at(105_000), connected("g1", 1, named(1, 1, 2))).unwrap();
            assert_eq!(announced(&actions), [], "nobody was told that it had gone");
        }
        let told = run(&mut rules, 104_000, 150_000).iter().map(|it| it.1).collect::<Vec<_>>();
        assert_eq!(told, if is_back { vec![] } else { vec![false] });
    }
}

#[test]
fn after_a_restart_of_presenced_nobody_is_offline_before_a_heartbeat_could_come() {
    let mut rules = Rules::new(TIMINGS, at(0));
    rules.step(at(0), known_online()).unwrap();
    let actions = rules.step(at(0), Event::RedisBack).unwrap();
    assert!(actions.contains(&Action::Store(Store::Online { user: id(1) })));
    let actions = rules.step(at(19_900), heartbeat("g1", 1, named(1, 1, 1))).unwrap();
    assert_eq!(announced(&actions), []);
    let mut again = Rules::new(TIMINGS, at(0));
    again.step(at(0), known_online()).unwrap();
    again.step(at(0), Event::RedisBack).unwrap();
    let mut told = run(&mut again, 0, 19_900);
    again.step(at(20_000), heartbeat("g1", 1, named(1, 1, 1))).unwrap();
    told.extend(run(&mut again, 20_000, 40_000));
    assert_eq!(told, [(28_000, false)], "the one that did not come back, after the grace period");
}

#[test]
fn while_redis_is_away_and_until_all_were_heard_nobody_is_called_offline() {
    let mut rules = settled();
    rules.step(at(100_000), connected("g1", 1, named(1, 1, 1))).unwrap();
    rules.step(at(100_100), Event::RedisLost).unwrap();
    rules.step(at(100_200), disconnected("g1", 1, named(1, 1, 1))).unwrap();
    assert_eq!(run(&mut rules, 100_300, 300_000), []);
    let actions = rules.step(at(300_000), Event::RedisBack).unwrap();
    assert!(actions.contains(&Action::Store(Store::Changing { user: id(1) })));
    assert_eq!(run(&mut rules, 300_100, 340_000), [(325_000, false)]);
}

#[test]
fn a_pause_of_this_process_takes_nobody_offline() {
    let mut rules = settled();
    rules.step(at(100_000), connected("g1", 1, named(1, 1, 1))).unwrap();
    let actions = rules.step(at(200_000), Event::Tick).unwrap();
    assert_eq!(announced(&actions), []);
    rules.step(at(200_100), heartbeat("g1", 1, named(1, 1, 1))).unwrap();
    assert_eq!(run(&mut rules, 200_200, 230_000), []);
}

/// A device's connection, as it really is.
#[derive(Clone, Copy)]
struct Live {
    session: Named,
    gateway: usize,
    since_ms: u64,
}

struct World {
    random: fastrand::Rng,
    now_ms: u64,
    rules: Rules,
    runs: [u128; 3],
    alive: [bool; 3],
    live: Vec<Live>,
    next: u64,
    /// Reports on their way, in order for each gateway.
    wire: VecDeque<(u64, Event)>,
    redis_online: BTreeSet<Uuid>,
    redis_changing: BTreeSet<Uuid>,
    redis_up: bool,
    acks: VecDeque<(u64, Event)>,
    told: BTreeMap<Uuid, bool>,
    paused_until_ms: u64,
    trace: Vec<String>,
}

const GATEWAYS: [&str; 3] = ["g0", "g1", "g2"];

impl World {
    fn new(seed: u64) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            now_ms: 0,
            rules: Rules::new(TIMINGS, at(0)),
            runs: [1, 2, 3],
            alive: [true; 3],
            live: Vec::new(),
            next: 10,
            wire: VecDeque::new(),
            redis_online: BTreeSet::new(),
            redis_changing: BTreeSet::new(),
            redis_up: false,
            acks: VecDeque::new(),
            told: BTreeMap::new(),
            paused_until_ms: 0,
            trace: Vec::new(),
        }
    }

    fn note(&mut self, what: String) {
        self.trace.push(format!("{} {what}", self.now_ms));
    }

    fn send(&mut self, event: Event) {
        let at_ms = self.now_ms + self.random.u64(0..100);
        let after = self.wire.back().map_or(0, |it| it.0);
        self.wire.push_back((at_ms.max(after), event));
    }

    fn step(&mut self, event: Event) {
        let actions = self.rules.step(at(self.now_ms), event).unwrap_or_default();
        for action in actions {
            match action {
                Action::Announce { user, online, at_us } => {
                    self.check_announcement(user, online);
                    let ack_ms = self.now_ms + self.random.u64(0..1_000);
                    self.acks.push_back((ack_ms, Event::Announced { user, online, at_us }));
                }
                Action::Store(Store::Changing { user }) if self.redis_up => {
                    self.redis_changing.insert(user);
                }
                Action::Store(Store::Online { user }) if self.redis_up => {
                    self.redis_online.insert(user);
                    self.redis_changing.remove(&user);
                }
                Action::Store(Store::Offline { user, .. }) if self.redis_up => {
                    self.redis_online.remove(&user);
                    self.redis_changing.remove(&user);
                }
                Action::Store(_) => {}
            }
        }
    }

    fn check_announcement(&mut self, user: Uuid, online: bool) {
        self.note(format!("told {user} {online}"));
        let lives =
            self.live.iter().find(|it| it.session.user == user && it.since_ms + 500 < self.now_ms);
        if let (false, Some(live)) = (online, lives) {
            panic!("{user} is connected since {}\n{}", live.since_ms, self.trace.join("\n"));
        }
    }

    fn connect(&mut self) {
        let gateway = self.random.usize(0..3);
        let user = self.random.u128(1..6);
        if !self.alive[gateway] {
            return;
        }
        self.next += 1;
        let session = named(user, user * 10 + self.random.u128(0..2), self.next);
        self.live.push(Live { session, gateway, since_ms: self.now_ms });
        self.note(format!("connect {user} {gateway}"));
        self.send(connected(GATEWAYS[gateway], self.runs[gateway], session));
    }

    fn disconnect(&mut self) {
        if self.live.is_empty() {
            return;
        }
        let gone = self.live.swap_remove(self.random.usize(0..self.live.len()));
        self.note(format!("disconnect {} {}", gone.session.user, gone.gateway));
        self.send(disconnected(GATEWAYS[gone.gateway], self.runs[gone.gateway], gone.session));
    }

    fn crash_gateway(&mut self) {
        let gateway = self.random.usize(0..3);
        self.live.retain(|it| it.gateway != gateway);
        self.next += 1;
        self.runs[gateway] = u128::from(self.next);
        self.alive[gateway] = self.random.bool();
        self.note(format!("crash {gateway}"));
    }

    fn kafka_has(&mut self, event: &Event) {
        if let Event::Announced { user, online, .. } = event {
            self.told.insert(*user, *online);
        }
    }

    fn known(&self) -> Event {
        Event::Known(Known {
            online: self.redis_online.iter().copied().collect(),
            changing: self.redis_changing.iter().copied().collect(),
        })
    }

    fn restart_presenced(&mut self) {
        self.note("presenced restarts".into());
        self.rules = Rules::new(TIMINGS, at(self.now_ms));
        self.wire.clear();
        // Of what was on its way to Kafka some arrived, and nobody knows what.
        for (_, event) in std::mem::take(&mut self.acks) {
            if self.random.bool() {
                self.kafka_has(&event);
            }
        }
        if self.redis_up {
            self.step(self.known());
            self.step(Event::RedisBack);
        }
    }

    fn redis(&mut self, up: bool) {
        self.note(format!("redis {up}"));
        self.redis_up = up;
        if up {
            if self.random.bool() {
                self.redis_online.clear();
                self.redis_changing.clear();
            }
            self.step(self.known());
        }
        self.step(if up { Event::RedisBack } else { Event::RedisLost });
    }

    fn fault(&mut self) {
        match self.random.u32(0..1_000) {
            0..400 => self.connect(),
            400..800 => self.disconnect(),
            800..805 => self.crash_gateway(),
            805..807 => self.restart_presenced(),
            807..812 => self.redis(false),
            812..830 => self.redis(true),
            830..832 => self.paused_until_ms = self.now_ms + self.random.u64(1_000..90_000),
            832..840 => self.alive = [true; 3],
            _ => {}
        }
    }

    /// Lets 100 ms go by.
    fn advance(&mut self) {
        self.now_ms += 100;
        for (gateway, name) in GATEWAYS.iter().enumerate() {
            let offset = gateway as u64 * 7_000;
            if self.alive[gateway] && (self.now_ms + offset).is_multiple_of(TIMINGS.heartbeat_ms) {
                let own = self.live.iter().filter(|it| it.gateway == gateway);
                let heartbeats = own.map(|it| it.session).collect();
                let report = report(name, self.runs[gateway]);
                self.send(Event::Report(Report { heartbeats, ..report }));
            }
        }
        if self.paused_until_ms > self.now_ms {
            return;
        }
        while let Some((_, event)) = self.wire.pop_front_if(|it| it.0 <= self.now_ms) {
            self.step(event);
        }
        while let Some((_, event)) = self.acks.pop_front_if(|it| it.0 <= self.now_ms) {
            self.kafka_has(&event);
            self.step(event);
        }
        self.step(Event::Tick);
    }
}

fn simulate(seed: u64) {
    let mut world = World::new(seed);
    world.redis(true);
    for _ in 0..6_000 {
        if world.random.u8(0..10) == 0 {
            world.fault();
        }
        world.advance();
    }
    world.paused_until_ms = 0;
    world.redis(true);
    world.alive = [true; 3];
    for _ in 0..1_300 {
        world.advance();
    }
    for user in 1..6 {
        let really = world.live.iter().any(|it| it.session.user == id(user));
        let known = world.rules.state(&id(user)).is_some_and(|state| state.0);
        assert_eq!(known, really, "user {user}");
        assert_eq!(world.redis_online.contains(&id(user)), really, "user {user} in Redis");
        // What a forgotten run announced, with Redis emptied as well, nobody can take back.
        if really {
            assert_eq!(world.told.get(&id(user)), Some(&true), "user {user}");
        }
    }
}

#[test]
fn whatever_happens_nobody_connected_is_called_offline_and_in_the_end_all_is_right() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let all = 0..number("REALCHAT_SEEDS").unwrap_or(300);
    for seed in number("REALCHAT_SEED").map_or(all, |seed| seed..seed + 1) {
        if let Err(panic) = std::panic::catch_unwind(|| simulate(seed)) {
            eprintln!("failed with REALCHAT_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
