//! RealChat's whole path on one seeded bus: the rules that run in production, over models of what lies
//! outside of them, judged by the checker that judges `perf chaos`.
//!
//! ```text
//!           client core     gateway rules            engine            model of PostgreSQL
//! clients <------------> gateways <--------> chatds <------> database --outbox--> relays
//!    ^                     |  ^                                                     | lease, rounds
//!    |                     |  +------------- broker <------ producer ---------------+
//! history                  +--> presenced (rules) --> Redis, broker
//!    |
//!    +--> checker <-- dumps of database and broker
//! ```
//!
//! The bus ([`bus`](crate)) owns clock, order, randomness, loss, delay and crashes; a process is told one
//! event at a time. Everything follows from the seed: two runs of one seed are the same to the event.
//! What is real and what is modelled is told in `docs/simulation.md`.

mod broker;
mod bugs;
mod bus;
mod chatd;
mod client;
mod database;
mod edits;
mod faults;
mod gateway;
mod kafka;
mod limits;
mod membership;
mod poison;
mod presence;
mod relay;
mod verdict;
mod world;

pub use bugs::{ALL, Bug};
pub use verdict::{Met, Run};

use broker::Broker;
use bus::{Bus, Process};
use checker::history::Operation;
use database::Database;
use presence::Redis;
use proto::Uuid;
use proto::client::event::Kind;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// What a process is told.
#[derive(Debug)]
enum Event {
    /// The commit of this transaction happens.
    Postgres(u64),
    Kafka(kafka::Event),
    Chatd(chatd::Event),
    Relay(relay::Event),
    Gateway(gateway::Event),
    Presence(presence::Event),
    Client(client::Event),
    World(world::Event),
}

/// A message that must be delivered soon after everything was healed.
#[derive(Debug)]
struct Probe {
    text: String,
    /// The session that waits for it.
    session: String,
    sent_us: u64,
    came_us: Option<u64>,
}

impl Probe {
    fn awaits(&self, event: &proto::client::Event, session: &str) -> bool {
        let is_it = |kind: &Kind| matches!(kind, Kind::Message(it) if it.text == self.text);
        self.session == session && event.kind.as_ref().is_some_and(is_it)
    }
}

/// All that lies between and behind the processes.
struct Outside {
    bus: Bus,
    database: Rc<RefCell<Database>>,
    broker: Broker,
    redis: Redis,
    history: Vec<Operation>,
    /// The conversation whose members come and go, and what applications were shown of it.
    revolving: Uuid,
    shown: Vec<membership::Shown>,
    /// What the checker does not look for.
    violations: Vec<String>,
    /// Connections that are open at their clients.
    open: BTreeSet<u64>,
    /// When the last thing of an ordered stream arrives.
    streams: BTreeMap<(Process, Process, u64), u64>,
    probe: Option<Probe>,
    /// Clients tell what was delivered to them.
    acknowledges: bool,
    bug: Option<Bug>,
    met: Met,
}

impl Outside {
    fn record(&mut self, operation: Operation) {
        self.bus.note(|| format!("recorded {operation:?}"));
        self.history.push(operation);
    }

    fn violate(&mut self, words: String) {
        self.bus.note(|| format!("VIOLATION {words}"));
        self.violations.push(words);
    }

    fn probe_came(&mut self) {
        let now_us = self.bus.now_us();
        if let Some(probe) = &mut self.probe {
            probe.came_us.get_or_insert(now_us);
        }
    }

    /// Like [`Bus::send`], but what is sent later arrives later.
    fn send_in_order(&mut self, from: Process, to: Process, stream: u64, event: Event) {
        if self.bus.loses() || !self.bus.reaches(from, to) {
            return;
        }
        let at_us = self.bus.now_us() + self.bus.delay_us();
        let last_us = self.streams.entry((from, to, stream)).or_default();
        *last_us = at_us.max(*last_us + 1);
        self.bus.at(to, *last_us, event);
    }
}

/// Runs one seed; with a defect, if one is given. `traced`: the run tells everything that happened.
#[must_use]
pub fn run(seed: u64, bug: Option<Bug>, traced: bool) -> Run {
    // Tables that are hashed with a random seed of their own take it from here.
    fastrand::seed(seed);
    world::World::new(seed, bug, traced).run(seed)
}
