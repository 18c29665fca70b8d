//! A seeded simulation: several relays, one table, lost answers, pauses and crashes.

use super::*;

const SHARDS: Shard = 16;
const LEASE_MS: u64 = 2_000;
const TICK_MS: u64 = 500;

#[derive(Clone)]
struct Stored {
    owner: String,
    token: Token,
    expires_ms: u64,
}

#[derive(Default)]
struct Table {
    rows: BTreeMap<Shard, Stored>,
}

impl Table {
    fn rows(&self, now_ms: u64) -> Vec<Row> {
        let row = |(shard, stored): (&Shard, &Stored)| Row {
            shard: *shard,
            owner: stored.owner.clone(),
            remaining_ms: stored.expires_ms.cast_signed() - now_ms.cast_signed(),
        };
        self.rows.iter().map(row).collect()
    }

    fn claim(&mut self, now_ms: u64, me: &str, shards: &[Shard]) -> Vec<(Shard, Token)> {
        let mut granted = Vec::new();
        for shard in shards {
            let stored = self.rows.entry(*shard).or_insert(Stored {
                owner: String::new(),
                token: 0,
                expires_ms: 0,
            });
            let is_endless = stored.expires_ms > now_ms + u64::from(LEASE_MS_MAX);
            if stored.expires_ms <= now_ms || stored.owner == me || is_endless {
                stored.owner = me.to_owned();
                stored.token += 1;
                stored.expires_ms = now_ms + LEASE_MS;
                granted.push((*shard, stored.token));
            }
        }
        granted
    }

    fn mine(&mut self, me: &str, leases: &[(Shard, Token)], expires_ms: u64) -> Vec<Shard> {
        let mut granted = Vec::new();
        for (shard, token) in leases {
            let Some(stored) = self.rows.get_mut(shard) else { continue };
            if stored.owner == me && stored.token == *token {
                stored.expires_ms = expires_ms;
                granted.push(*shard);
            }
        }
        granted
    }
}

struct Relay {
    leases: Leases,
    alive: bool,
    /// Stopped by a signal: neither acts nor knows.
    paused_until_ms: u64,
    next_tick_ms: u64,
}

struct World {
    random: fastrand::Rng,
    table: Table,
    relays: Vec<Relay>,
    now_ms: u64,
    lossy: bool,
}

impl World {
    fn new(seed: u64, relays: usize) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let relay = |index: usize| Relay {
            leases: Leases::new(format!("relay-{index}"), SHARDS, LEASE_MS),
            alive: true,
            paused_until_ms: 0,
            next_tick_ms: 1 + index as u64 * 37,
        };
        let now_ms = random.u64(1..1_000_000);
        World {
            random,
            table: Table::default(),
            relays: (0..relays).map(relay).collect(),
            now_ms,
            lossy: true,
        }
    }

    fn peers(&self, me: usize) -> usize {
        let live = |(index, relay): &(usize, &Relay)| {
            *index != me && relay.alive && relay.paused_until_ms <= self.now_ms
        };
        self.relays.iter().enumerate().filter(live).count()
    }

    fn run(&mut self, for_ms: u64) {
        let end_ms = self.now_ms + for_ms;
        while self.now_ms < end_ms {
            self.now_ms += self.random.u64(1..50);
            for index in 0..self.relays.len() {
                let relay = &self.relays[index];
                if relay.alive
                    && relay.paused_until_ms <= self.now_ms
                    && relay.next_tick_ms <= self.now_ms
                {
                    self.relays[index].next_tick_ms = self.now_ms + TICK_MS;
                    self.tick(index);
                }
            }
            self.check_single_owner();
        }
    }

    /// As [`Self::run`], without looking at who owns what.
    fn settle(&mut self, for_ms: u64) {
        let end_ms = self.now_ms + for_ms;
        while self.now_ms < end_ms {
            self.now_ms += self.random.u64(1..50);
            for index in 0..self.relays.len() {
                if self.relays[index].next_tick_ms <= self.now_ms {
                    self.relays[index].next_tick_ms = self.now_ms + TICK_MS;
                    self.tick(index);
                }
            }
        }
    }

    fn tick(&mut self, index: usize) {
        let now_ms = self.now_ms;
        let busy = (0..SHARDS).filter(|_| self.random.u8(..) < 64).collect();
        let mut actions = self.relays[index].leases.step(now_ms, Event::Tick { busy });
        while let Some(action) = actions.pop() {
            let peers = self.peers(index);
            let me = format!("relay-{index}");
            // The database was asked a while ago and does it now; or its answer is lost.
            let asked_ms = now_ms.saturating_sub(self.random.u64(0..20));
            let event = match action {
                Action::Observe => Event::Observed { rows: self.table.rows(now_ms), peers },
                Action::Claim(shards) => {
                    Event::Claimed { asked_ms, granted: self.table.claim(now_ms, &me, &shards) }
                }
                Action::Renew(asked) => {
                    let granted = self.table.mine(&me, &asked, now_ms + LEASE_MS);
                    Event::Renewed { asked_ms, asked, granted }
                }
                Action::Release(leases) => {
                    self.table.mine(&me, &leases, 0);
                    continue;
                }
            };
            if self.lossy && self.random.u8(..) < 20 {
                return;
            }
            actions.extend(self.relays[index].leases.step(now_ms, event));
        }
    }

    fn check_single_owner(&self) {
        let mut owners: BTreeMap<Shard, usize> = BTreeMap::new();
        for (index, relay) in self.relays.iter().enumerate() {
            for (shard, held) in relay.leases.usable(self.now_ms) {
                let other = owners.insert(shard, index);
                assert_eq!(other, None, "shard {shard} has two owners at {}", self.now_ms);
                assert!(held.token <= self.table.rows[&shard].token);
            }
        }
    }

    fn shares(&self) -> Vec<usize> {
        self.relays.iter().map(|relay| relay.leases.usable(self.now_ms).count()).collect()
    }
}

fn seeds() -> impl Iterator<Item = u64> {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let all = 0..number("REALCHAT_SEEDS").unwrap_or(500);
    number("REALCHAT_SEED").map_or(all, |seed| seed..seed + 1)
}

fn with_seeds(test: impl Fn(u64) + std::panic::RefUnwindSafe) {
    for seed in seeds() {
        let outcome = std::panic::catch_unwind(|| test(seed));
        if let Err(panic) = outcome {
            eprintln!("failed with REALCHAT_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn a_shard_never_has_two_owners_and_all_are_owned_when_quiet() {
    with_seeds(|seed| {
        let mut world = World::new(seed, 3);
        for _ in 0..10 {
            world.run(world.now_ms % 700 + 200);
            let victim = world.random.usize(0..3);
            if world.random.bool() {
                world.relays[victim].paused_until_ms = world.now_ms + world.random.u64(100..6_000);
            } else {
                // A crash: the next run has the same name and knows nothing.
                let name = format!("relay-{victim}");
                world.relays[victim].leases = Leases::new(name, SHARDS, LEASE_MS);
            }
        }
        world.lossy = false;
        world.run(15_000);
        let shares = world.shares();
        assert_eq!(shares.iter().sum::<usize>(), 16, "{shares:?}");
        assert!(shares.iter().all(|share| (4..=6).contains(share)), "{shares:?}");
    });
}

#[test]
fn a_dead_relay_is_taken_over_within_its_lease_and_two_ticks() {
    with_seeds(|seed| {
        let mut world = World::new(seed, 2);
        world.lossy = false;
        world.run(10_000);
        assert_eq!(world.shares(), [8, 8]);
        world.relays[0].alive = false;
        world.relays[0].leases = Leases::new("relay-0".into(), SHARDS, LEASE_MS);
        world.run(LEASE_MS + 2 * TICK_MS);
        assert_eq!(world.shares(), [0, 16]);
    });
}

#[test]
fn a_restart_under_the_same_name_owns_again_at_once() {
    let mut world = World::new(1, 1);
    world.lossy = false;
    world.run(2 * TICK_MS);
    assert_eq!(world.shares(), [16]);
    world.relays[0].leases = Leases::new("relay-0".into(), SHARDS, LEASE_MS);
    world.run(TICK_MS + 100);
    assert_eq!(world.shares(), [16]);
}

#[test]
fn a_stopping_relay_gives_back_what_is_idle_and_takes_nothing() {
    let mut leases = Leases::new("relay".into(), 2, LEASE_MS);
    leases.step(0, Event::Claimed { asked_ms: 0, granted: vec![(0, 5), (1, 6)] });
    leases.step(1, Event::Stop);
    assert_eq!(leases.usable(1).count(), 0);
    let busy = BTreeSet::from([1]);
    let actions = leases.step(2, Event::Tick { busy });
    assert_eq!(actions, [Action::Release(vec![(0, 5)]), Action::Renew(vec![(1, 6)])]);
    assert!(leases.step(3, Event::Observed { rows: Vec::new(), peers: 0 }).is_empty());
    let actions = leases.step(4, Event::Tick { busy: BTreeSet::new() });
    assert_eq!(actions, [Action::Release(vec![(1, 6)])]);
    assert!(leases.is_empty());
}

#[test]
fn a_lease_that_was_taken_by_another_is_let_go() {
    let mut leases = Leases::new("relay".into(), 2, LEASE_MS);
    leases.step(0, Event::Claimed { asked_ms: 0, granted: vec![(0, 5), (1, 6)] });
    let asked = vec![(0, 5), (1, 6)];
    leases.step(10, Event::Renewed { asked_ms: 9, asked, granted: vec![1] });
    let usable: Vec<_> = leases.usable(10).collect();
    assert_eq!(usable, [(1, Held { token: 6, valid_until_ms: 9 + LEASE_MS, yielding: false })]);
    assert_eq!(leases.usable(9 + LEASE_MS).count(), 0);
}

#[test]
fn a_table_edited_by_hand_has_one_owner_a_shard_again_soon() {
    with_seeds(|seed| {
        let mut world = World::new(seed, 3);
        world.lossy = false;
        world.run(10_000);
        for shard in 0..SHARDS {
            let (now_ms, kind) = (world.now_ms, world.random.u8(0..6));
            if kind == 0 {
                world.table.rows.remove(&shard);
                continue;
            }
            let stored = world.table.rows.get_mut(&shard).unwrap();
            match kind {
                1 => stored.owner = "nobody".to_owned(),
                2 => stored.expires_ms = now_ms + 86_400_000,
                3 => stored.token += 7,
                4 => {
                    stored.owner = "nobody".to_owned();
                    stored.expires_ms = now_ms + 86_400_000;
                }
                _ => stored.expires_ms = 0,
            }
        }
        // What the table said until each relay's next look is not its own doing.
        world.settle(TICK_MS + 50);
        world.run(4 * LEASE_MS);
        assert_eq!(world.shares().iter().sum::<usize>(), 16, "{:?}", world.shares());
    });
}

#[test]
fn an_endless_lease_is_taken_after_a_leases_length_and_not_before() {
    let mut leases = Leases::new("relay".into(), 1, LEASE_MS);
    let row = |remaining_ms| Row { shard: 0, owner: "nobody".into(), remaining_ms };
    let seen = |remaining_ms| Event::Observed { rows: vec![row(remaining_ms)], peers: 0 };
    let longest = i64::from(LEASE_MS_MAX);
    assert!(leases.step(0, seen(longest + 1)).is_empty());
    assert!(leases.step(LEASE_MS - 1, seen(longest + 1)).is_empty());
    // Renewed by a relay that lives: the time begins anew.
    assert!(leases.step(LEASE_MS, seen(longest)).is_empty());
    assert!(leases.step(LEASE_MS + 1, seen(i64::MAX)).is_empty());
    assert!(leases.step(2 * LEASE_MS, seen(i64::MAX)).is_empty());
    let claimed = leases.step(2 * LEASE_MS + 1, seen(i64::MAX));
    assert_eq!(claimed, [Action::Claim(vec![0])]);
}
