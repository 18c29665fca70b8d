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

pub(super) struct Bench {
    rounds: mpsc::Sender<Round>,
    outcomes: mpsc::Receiver<Outcome<f64>>,
    thread: JoinHandle<Outcome<Tally>>,
}

struct Round {
    rate: u64,
    round_us: u64,
    measured: bool,
}

/// What a side came to.
pub(super) struct Tally {
    pub(super) cpu_us_per_event: Vec<f64>,
    pub(super) events: u64,
    pub(super) lost: u64,
    pub(super) duplicates: u64,
    pub(super) reordered: u64,
    pub(super) closed: u64,
    pub(super) latencies: Latencies,
}

struct Worker {
    side: Side,
    driver: Driver,
    receiver: Receiver,
    cpu_us_per_event: Vec<f64>,
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
        let body = move || {
            process::own_descriptors()?;
            let mut receiver = Receiver::new(sessions, conversations);
            let mut side = make(receiver.conversations())?;
            let mut driver = Driver::new()?;
            driver.open_all(std::mem::take(&mut side.specs), &mut receiver)?;
            let worker = Worker { side, driver, receiver, cpu_us_per_event: Vec::new() };
            // The other end waits for it.
            let _ = reports.send(Ok(0.0));
            worker.run(&orders, &reports)
        };
        let thread = std::thread::Builder::new().name(name.into()).spawn(body).doing("a thread")?;
        let bench = Self { rounds, outcomes, thread };
        match bench.outcomes.recv() {
            Ok(_) => Ok(bench),
            Err(_) => match bench.finish() {
                Ok(_) => Err(Failure::Refused("a side ended".into())),
                Err(failure) => Err(failure),
            },
        }
    }

    /// The CPU time of an event in the round.
    pub(super) fn round(&mut self, rate: u64, round_us: u64, measured: bool) -> Outcome<f64> {
        let ended = || Failure::Refused("a side ended".into());
        self.rounds.send(Round { rate, round_us, measured }).map_err(|_| ended())?;
        self.outcomes.recv().map_err(|_| ended())?
    }

    pub(super) fn finish(self) -> Outcome<Tally> {
        drop(self.rounds);
        self.thread.join().map_err(|_| Failure::Refused("a side's thread ended".into()))?
    }
}

impl Worker {
    fn run(
        mut self,
        orders: &mpsc::Receiver<Round>,
        reports: &mpsc::Sender<Outcome<f64>>,
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
            cpu_us_per_event: self.cpu_us_per_event,
            latencies: self.receiver.take_latencies(),
        })
    }

    /// Produces at the rate and receives, until all is there or the patience is over.
    fn round(&mut self, order: &Round) -> Outcome<f64> {
        let Self { side, driver, receiver, cpu_us_per_event } = self;
        let before = receiver.events();
        let cpu_before = process::cpu_ns_sum(&side.pids)?;
        let start_us = clock::now_us() + 50_000;
        // A round need not be whole seconds: cut by count.
        let records = order.rate * order.round_us / 1_000_000;
        let schedule = Schedule::new(start_us, order.rate, order.round_us / 1_000_000 + 1);
        let source = &mut side.source;
        std::thread::scope(|scope| -> Outcome {
            let producing = scope.spawn(|| source.produce(&schedule, records));
            while !producing.is_finished() {
                driver.run(Duration::from_millis(50), receiver)?;
            }
            let expected = match producing.join() {
                Ok(outcome) => outcome? * receiver.sessions() / receiver.conversation_count(),
                Err(_) => return Err(Failure::Refused("the producer ended".into())),
            };
            let until_us = clock::now_us() + STRAGGLERS_MS_MAX * 1_000;
            driver.run_until(until_us, receiver, |it| it.events() >= before + expected)
        })?;
        let events = receiver.events() - before;
        let cpu_us = per(process::cpu_ns_sum(&side.pids)? - cpu_before, events) / 1_000.0;
        if order.measured {
            cpu_us_per_event.push(cpu_us);
        } else {
            receiver.take_latencies();
        }
        Ok(cpu_us)
    }
}
