//! One side of the comparison: a thread with a descriptor table, a receiving loop and a source of
//! its own, which runs the rounds that it is told to.

use super::floor::Running;
use super::receive::Receiver;
use super::source::Source;
use crate::clock::{self, Schedule};
use crate::failure::{Context, Failure, Outcome};
use crate::latency::{Latencies, per};
use crate::limits::STRAGGLERS_MS_MAX;
use crate::load::{Driver, Spec};
use crate::process;
use proto::Uuid;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Who writes, whose CPU counts.
pub(super) struct Side {
    pub(super) specs: Vec<Spec>,
    pub(super) source: Source,
    pub(super) pids: Vec<i32>,
    /// Ends with the side.
    pub(super) floor: Option<Running>,
}

pub(crate) struct Bench {
    rounds: mpsc::Sender<Round>,
    outcomes: mpsc::Receiver<Outcome<Measured>>,
    thread: JoinHandle<Outcome<Tally>>,
}

struct Round {
    rate: u64,
    round_us: u64,
}

/// What one round came to.
pub(crate) struct Measured {
    /// CPU time of an event, and the kernel's part of it.
    pub(crate) cpu_us: f64,
    pub(crate) system_us: f64,
    /// CPU time by time.
    pub(crate) cores: f64,
    /// Events that did not come in time.
    pub(crate) missing: u64,
    pub(crate) latencies: Latencies,
}

/// What a side came to in all.
pub(crate) struct Tally {
    pub(crate) events: u64,
    pub(crate) lost: u64,
    pub(crate) duplicates: u64,
    pub(crate) reordered: u64,
    pub(crate) closed: u64,
}

struct Worker {
    side: Side,
    driver: Driver,
    receiver: Receiver,
}

impl Bench {
    /// Opens the sessions, on a thread of their own; returns once they are open. `make` is given the
    /// conversations' ids.
    pub(super) fn start(
        name: &str,
        (sessions, conversations): (usize, usize),
        make: impl FnOnce(&[Uuid]) -> Outcome<Side> + Send + 'static,
    ) -> Outcome<Self> {
        let (rounds, orders) = mpsc::channel();
        let (reports, outcomes) = mpsc::channel();
        let (opened, is_open) = mpsc::channel();
        let body = move || {
            process::own_descriptors()?;
            let mut receiver = Receiver::new(sessions, conversations);
            let mut side = make(receiver.conversations())?;
            let mut driver = Driver::new()?;
            driver.open_all(std::mem::take(&mut side.specs), &mut receiver)?;
            // The other end waits for it.
            let _ = opened.send(());
            Worker { side, driver, receiver }.run(&orders, &reports)
        };
        let thread = std::thread::Builder::new().name(name.into()).spawn(body).doing("a thread")?;
        let bench = Self { rounds, outcomes, thread };
        match is_open.recv() {
            Ok(()) => Ok(bench),
            Err(_) => match bench.finish() {
                Ok(_) => Err(Failure::Refused("a side ended".into())),
                Err(failure) => Err(failure),
            },
        }
    }

    /// Records at this rate for so long, and all that comes of them.
    pub(crate) fn round(&mut self, rate: u64, round_us: u64) -> Outcome<Measured> {
        let ended = || Failure::Refused("a side ended".into());
        self.rounds.send(Round { rate, round_us }).map_err(|_| ended())?;
        self.outcomes.recv().map_err(|_| ended())?
    }

    pub(crate) fn finish(self) -> Outcome<Tally> {
        drop(self.rounds);
        self.thread.join().map_err(|_| Failure::Refused("a side's thread ended".into()))?
    }
}

impl Worker {
    fn run(
        mut self,
        orders: &mpsc::Receiver<Round>,
        reports: &mpsc::Sender<Outcome<Measured>>,
    ) -> Outcome<Tally> {
        loop {
            // Between rounds pings are answered.
            match orders.try_recv() {
                Ok(round) => {
                    let outcome = self.round(&round);
                    let failed = outcome.is_err();
                    let _ = reports.send(outcome);
                    if failed {
                        break;
                    }
                }
                Err(mpsc::TryRecvError::Empty) => {
                    self.driver.run(Duration::from_millis(10), &mut self.receiver)?;
                }
                Err(mpsc::TryRecvError::Disconnected) => break,
            }
        }
        self.driver.close_all();
        drop(self.side.floor);
        Ok(Tally {
            events: self.receiver.events(),
            lost: self.receiver.lost(self.side.source.counts()),
            duplicates: self.receiver.duplicates(),
            reordered: self.receiver.reordered(),
            closed: self.receiver.closed(),
        })
    }

    /// Produces at the rate and receives, until all is there or the patience is over.
    fn round(&mut self, order: &Round) -> Outcome<Measured> {
        let Self { side, driver, receiver } = self;
        let before = receiver.events();
        let cpu_before = process::cpu_ns_sum(&side.pids)?;
        let system_before = process::system_ns_sum(&side.pids)?;
        let start_us = clock::now_us() + 50_000;
        // A round need not be whole seconds: cut by count.
        let records = order.rate * order.round_us / 1_000_000;
        let schedule = Schedule::new(start_us, order.rate, order.round_us / 1_000_000 + 1);
        let source = &mut side.source;
        let expected = std::thread::scope(|scope| -> Outcome<u64> {
            let producing = scope.spawn(|| source.produce(&schedule, records));
            while !producing.is_finished() {
                driver.run(Duration::from_millis(50), receiver)?;
            }
            let expected = match producing.join() {
                Ok(outcome) => outcome? * receiver.sessions() / receiver.conversation_count(),
                Err(_) => return Err(Failure::Refused("the producer ended".into())),
            };
            let until_us = clock::now_us() + STRAGGLERS_MS_MAX * 1_000;
            driver.run_until(until_us, receiver, |it| it.events() >= before + expected)?;
            Ok(expected)
        })?;
        let events = receiver.events() - before;
        let cpu_ns = process::cpu_ns_sum(&side.pids)? - cpu_before;
        let system_ns = process::system_ns_sum(&side.pids)? - system_before;
        Ok(Measured {
            cpu_us: per(cpu_ns, events) / 1_000.0,
            system_us: per(system_ns, events) / 1_000.0,
            cores: per(cpu_ns / 1_000, clock::now_us() - start_us),
            missing: expected.saturating_sub(events),
            latencies: receiver.take_latencies(),
        })
    }
}
