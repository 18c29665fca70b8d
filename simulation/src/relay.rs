//! A relay: the real rules of its leases and of its worker's rounds, with time passing between each
//! question and its answer.

mod producer;

use crate::Outside;
use crate::broker::Produced;
use crate::bugs::Bug;
use crate::bus::Process;
use crate::limits::{
    DOUBT_SETTLE_US, LEASE_MS, RELAY_POLL_US, RELAY_ROWS_MAX, SHARDS, STATEMENT_US_MAX,
};
use ::relay::lease::{self, Leases, Shard, Token};
use ::relay::rounds::{self, Action, Done, Marks, Rounds};
use ::relay::rules::{BEGIN_PERCENT, Outcome, RENEW_PERCENT, RETRY_MS_MIN};
use producer::Wave;
use proto::topics;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

const LEASE_US: u64 = LEASE_MS * 1_000;

#[derive(Debug)]
pub(crate) enum Event {
    /// Something was committed.
    Wake,
    /// Time to look at the leases.
    Tick,
    /// A question about the leases, asked at that time, is at the database; of the tick so numbered.
    Ask { tick: u64, action: lease::Action, asked_ms: u64 },
    /// Its answer, or that there is none.
    Told { tick: u64, answer: Option<Option<lease::Event>> },
    /// The worker looks at its shards.
    Begin,
    /// A question of the round so numbered is at the database or at the broker.
    Do { round: u64, action: Action },
    /// Its answer; none: the round failed.
    Done { round: u64, event: Option<rounds::Event> },
    /// The wave is handed over to Kafka's client.
    HandOver { round: u64, send_by_ms: u64, acked_by_ms: u64 },
    /// A request of the producer goes out, for the first time or again.
    Produce { producer: u64, request: usize },
    /// The broker has answered it.
    Produced { producer: u64, request: usize, produced: Produced },
    /// What is not acknowledged is taken back.
    TakeBack { producer: u64, round: u64 },
}

/// A lease as the worker knows it: its token, and until when it holds.
type Grant = (Token, u64);

pub(crate) struct Relay {
    me: usize,
    leases: Leases,
    /// The tick that is being done, and what is left of it.
    tick: Option<u64>,
    left: VecDeque<lease::Action>,
    grants: BTreeMap<Shard, Grant>,
    rounds: Rounds,
    /// The round that is being done, the grants that it works with, and what is left to do.
    round: Option<u64>,
    wave: Vec<(Shard, Token)>,
    actions: VecDeque<Action>,
    /// A look is planned.
    begins: bool,
    producer: Option<Wave>,
    /// The highest id that was published, for the defect that goes by it.
    high: BTreeMap<Shard, i64>,
}

impl Relay {
    pub(crate) fn new(me: usize, outside: &mut Outside) -> Self {
        let this = Self {
            me,
            leases: Leases::new(me.to_string(), SHARDS, LEASE_MS),
            tick: None,
            left: VecDeque::new(),
            grants: BTreeMap::new(),
            rounds: Rounds::new(LEASE_MS, RELAY_ROWS_MAX),
            round: None,
            wave: Vec::new(),
            actions: VecDeque::new(),
            begins: false,
            producer: None,
            high: BTreeMap::new(),
        };
        let delay_us = outside.bus.delay_us();
        this.after(outside, delay_us, Event::Tick);
        this
    }

    pub(crate) fn step(&mut self, outside: &mut Outside, event: Event) {
        match event {
            Event::Wake => self.plan_begin(outside, 0),
            Event::Tick => self.tick(outside),
            Event::Ask { tick, action, asked_ms } => self.ask(outside, tick, action, asked_ms),
            Event::Told { tick, answer } => self.told(outside, tick, answer),
            Event::Begin => self.begin(outside),
            Event::Do { round, action } => self.perform(outside, round, action),
            Event::Done { round, event } => self.done(outside, round, event),
            Event::HandOver { round, send_by_ms, acked_by_ms } => {
                self.hand_over(outside, round, send_by_ms, acked_by_ms);
            }
            Event::Produce { producer, request } => self.produce(outside, producer, request),
            Event::Produced { producer, request, produced } => {
                self.produced(outside, producer, request, produced);
            }
            Event::TakeBack { producer, round } => self.take_back(outside, producer, round),
        }
    }

    fn process(&self) -> Process {
        Process::Relay(self.me)
    }

    fn after(&self, outside: &mut Outside, for_us: u64, event: Event) {
        outside.bus.after(self.process(), for_us, crate::Event::Relay(event));
    }

    /// A question reaches its server after a while.
    fn later(&self, outside: &mut Outside, event: Event) {
        let delay_us = outside.bus.delay_us();
        self.after(outside, delay_us, event);
    }

    /// The server answers, or the answer is waited for in vain.
    fn answered(&self, outside: &mut Outside, by: Process, event: Event, silence: Event) {
        let heard = outside.bus.reaches(self.process(), by) && !outside.bus.loses();
        if heard {
            self.later(outside, event);
        } else {
            self.after(outside, STATEMENT_US_MAX, silence);
        }
    }

    // ---- leases

    fn tick(&mut self, outside: &mut Outside) {
        let tick = outside.bus.fresh();
        self.tick = Some(tick);
        self.publish_grants(outside);
        let busy: BTreeSet<Shard> = match self.round {
            Some(_) => self.wave.iter().map(|grant| grant.0).collect(),
            None => BTreeSet::new(),
        };
        let actions = self.leases.step(outside.bus.now_ms(), lease::Event::Tick { busy });
        self.left = actions.into();
        self.ask_next(outside, tick);
    }

    fn ask_next(&mut self, outside: &mut Outside, tick: u64) {
        match self.left.pop_front() {
            Some(action) => {
                let asked_ms = outside.bus.now_ms();
                self.later(outside, Event::Ask { tick, action, asked_ms });
            }
            None => {
                self.publish_grants(outside);
                self.tick = None;
                self.after(outside, LEASE_US * RENEW_PERCENT / 100, Event::Tick);
            }
        }
    }

    /// At the database.
    fn ask(&mut self, outside: &mut Outside, tick: u64, action: lease::Action, asked_ms: u64) {
        let silence = Event::Told { tick, answer: None };
        if !outside.bus.reaches(self.process(), Process::Postgres) {
            return self.after(outside, STATEMENT_US_MAX / 4, silence);
        }
        let now_us = outside.bus.now_us();
        let database = Rc::clone(&outside.database);
        let mut database = database.borrow_mut();
        let answer = match action {
            lease::Action::Observe => {
                let (rows, peers) = database.observe_leases(self.me, LEASE_US, now_us);
                Some(lease::Event::Observed { rows, peers })
            }
            lease::Action::Claim(shards) => {
                let granted = database.claim(self.me, &shards, LEASE_US, now_us);
                Some(lease::Event::Claimed { asked_ms, granted })
            }
            lease::Action::Renew(asked) => {
                let granted = database.extend(self.me, &asked, now_us + LEASE_US);
                Some(lease::Event::Renewed { asked_ms, asked, granted })
            }
            lease::Action::Release(leases) => {
                database.extend(self.me, &leases, now_us);
                None
            }
        };
        self.answered(
            outside,
            Process::Postgres,
            Event::Told { tick, answer: Some(answer) },
            silence,
        );
    }

    fn told(&mut self, outside: &mut Outside, tick: u64, answer: Option<Option<lease::Event>>) {
        if self.tick != Some(tick) {
            return;
        }
        let Some(answer) = answer else {
            // The connection is made anew.
            self.left.clear();
            self.tick = None;
            self.publish_grants(outside);
            return self.later(outside, Event::Tick);
        };
        if let Some(event) = answer {
            self.left.extend(self.leases.step(outside.bus.now_ms(), event));
        }
        self.ask_next(outside, tick);
    }

    fn publish_grants(&mut self, outside: &mut Outside) {
        let usable = self.leases.usable(outside.bus.now_ms());
        let grants = usable.map(|(shard, held)| (shard, (held.token, held.valid_until_ms)));
        let before = self.grants.len();
        self.grants = grants.collect();
        if self.grants.len() > before {
            self.plan_begin(outside, 0);
        }
    }

    // ---- rounds

    fn plan_begin(&mut self, outside: &mut Outside, for_us: u64) {
        if self.round.is_none() && (!self.begins || for_us == 0) {
            self.begins = true;
            self.after(outside, for_us, Event::Begin);
        }
    }

    fn begin(&mut self, outside: &mut Outside) {
        self.begins = false;
        if self.round.is_some() {
            return;
        }
        let now_ms = outside.bus.now_ms();
        let enough_ms = now_ms + LEASE_MS * BEGIN_PERCENT / 100;
        let lasting = self.grants.iter().filter(|(_, grant)| grant.1 >= enough_ms);
        self.wave = lasting.map(|(shard, grant)| (*shard, grant.0)).collect();
        if self.wave.is_empty() {
            return self.plan_begin(outside, RELAY_POLL_US);
        }
        let round = outside.bus.fresh();
        self.round = Some(round);
        let grants = self.wave.clone();
        self.actions = self.rounds.step(now_ms, rounds::Event::Begun { grants }).into();
        self.next_action(outside, round);
    }

    fn next_action(&mut self, outside: &mut Outside, round: u64) {
        while let Some(action) = self.actions.pop_front() {
            match action {
                Action::Tell(_) => {}
                Action::DoubtGrants => {
                    for (shard, token) in &self.wave {
                        if self.grants.get(shard).is_some_and(|it| it.0 == *token) {
                            self.grants.remove(shard);
                        }
                    }
                }
                Action::Done(done) => return self.end_round(outside, &done),
                Action::Publish { send_by_ms, acked_by_ms } => {
                    let event = Event::HandOver { round, send_by_ms, acked_by_ms };
                    return self.later(outside, event);
                }
                Action::ReadLog => {
                    let event = Event::Do { round, action: Action::ReadLog };
                    return self.after(outside, DOUBT_SETTLE_US, event);
                }
                action => return self.later(outside, Event::Do { round, action }),
            }
        }
    }

    fn end_round(&mut self, outside: &mut Outside, done: &Done) {
        self.round = None;
        let wait_us = match done {
            Done::Idle => RELAY_POLL_US,
            Done::Busy => outside.bus.delay_us(),
            Done::Stalled(_) => RETRY_MS_MIN * 1_000,
        };
        self.plan_begin(outside, wait_us);
    }

    /// At the database, or at the broker.
    fn perform(&mut self, outside: &mut Outside, round: u64, action: Action) {
        if self.round != Some(round) {
            return;
        }
        let silence = Event::Done { round, event: None };
        let server = match action {
            Action::ReadLog => Process::Kafka,
            _ => Process::Postgres,
        };
        let reached = outside.bus.reaches(self.process(), server);
        let event = match action {
            Action::ReadLog if reached => {
                self.read_log(outside);
                rounds::Event::LogRead(Ok(()))
            }
            Action::ReadLog => rounds::Event::LogRead(Err("the broker is away".into())),
            _ if !reached => return self.after(outside, STATEMENT_US_MAX / 4, silence),
            Action::Mark(marks) => rounds::Event::Marked { deleted: self.mark(outside, &marks) },
            Action::Read { rows_max } => self.read(outside, rows_max),
            _ => return,
        };
        if matches!(event, rounds::Event::LogRead(_)) {
            return self.later(outside, Event::Done { round, event: Some(event) });
        }
        self.answered(outside, server, Event::Done { round, event: Some(event) }, silence);
    }

    fn done(&mut self, outside: &mut Outside, round: u64, event: Option<rounds::Event>) {
        if self.round != Some(round) {
            return;
        }
        let Some(mut event) = event else {
            self.round = None;
            return self.plan_begin(outside, RETRY_MS_MIN * 1_000);
        };
        if let rounds::Event::Read { valid_until_ms, wall_ms, .. } = &mut event {
            // As it is when the answer is there.
            *valid_until_ms = self.valid_until_ms();
            *wall_ms = outside.bus.wall_us(self.process()) / 1_000;
        }
        self.actions.extend(self.rounds.step(outside.bus.now_ms(), event));
        self.next_action(outside, round);
    }

    /// Until when all of the wave's grants hold, as they were renewed meanwhile.
    fn valid_until_ms(&self) -> Option<u64> {
        let now = |(shard, token): &(Shard, Token)| {
            self.grants.get(shard).filter(|it| it.0 == *token).map(|it| it.1)
        };
        self.wave.iter().map(now).min()?
    }

    fn mark(&mut self, outside: &mut Outside, marks: &Marks) -> u64 {
        for (shard, (_, rows)) in marks {
            let highest = rows.iter().map(|row| row.id).max().unwrap_or_default();
            let high = self.high.entry(*shard).or_default();
            *high = (*high).max(highest);
        }
        if outside.bug == Some(Bug::MarkBeforeAcknowledgement) {
            return marks.values().map(|(_, rows)| rows.len() as u64).sum();
        }
        let now_us = outside.bus.now_us();
        outside.database.borrow_mut().delete_outbox(self.me, marks, now_us)
    }

    fn read(&mut self, outside: &mut Outside, rows_max: i64) -> rounds::Event {
        let shards: Vec<Shard> = self.wave.iter().map(|grant| grant.0).collect();
        let mut records = outside.database.borrow().read_outbox(&shards, rows_max);
        if outside.bug == Some(Bug::HighWater) {
            let high = |shard| self.high.get(&shard).copied().unwrap_or_default();
            records.retain(|record| record.id > high(record.shard));
        }
        rounds::Event::Read { records, valid_until_ms: None, wall_ms: 0 }
    }

    fn read_log(&mut self, outside: &Outside) {
        let Some(doubt) = self.rounds.doubt() else { return };
        for topic in topics::ALL {
            for (_, record) in outside.broker.all(topic) {
                doubt.seen((topic, 0), &record.key, &record.value);
            }
        }
    }

    fn published(&mut self, outside: &mut Outside, round: u64, outcomes: Vec<Outcome>) {
        let event = Some(rounds::Event::Published { outcomes });
        self.done(outside, round, event);
    }
}
