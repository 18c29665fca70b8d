//! The bus: it owns the clock, the order of events, all randomness, the network between the processes
//! and whether they run. Everything that happens in a run is an event on it.

use crate::Event;
use crate::limits::{BUS_EVENTS_MAX, DELAY_US, LOSS_PERCENT, SLOW_US_MAX, WALL_CLOCK_OFF_US_MAX};
use fastrand::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// Who an event is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Process {
    Postgres,
    Kafka,
    Redis,
    Chatd(usize),
    Relay(usize),
    Gateway(usize),
    Presenced,
    Client(usize),
    /// What inflicts faults and looks at the end: it never fails.
    World,
}

/// How a process is.
#[derive(Debug, Clone, Copy)]
struct State {
    up: bool,
    /// Grows with every start: what was meant for an earlier run is lost.
    run: u32,
    /// It takes no event before that.
    paused_until_us: u64,
    /// Its wall clock minus the bus's.
    off_us: i64,
}

struct Queued {
    to: Process,
    run: u32,
    event: Event,
}

pub(crate) struct Bus {
    now_us: u64,
    queue: BTreeMap<(u64, u64), Queued>,
    order: u64,
    pub(crate) random: Rng,
    states: BTreeMap<Process, State>,
    /// Pairs that cannot reach each other.
    cut: BTreeSet<(Process, Process)>,
    /// The network loses, delays and doubles.
    pub(crate) is_stormy: bool,
    /// The wall clock at the bus's beginning, in microseconds since the Unix epoch.
    epoch_us: u64,
    handled: u64,
    trace: Option<String>,
    /// Of all that happened, in order: two runs of one seed have the same.
    digest: u64,
}

impl Bus {
    pub(crate) fn new(seed: u64, traced: bool) -> Self {
        Self {
            now_us: 0,
            queue: BTreeMap::new(),
            order: 0,
            random: Rng::with_seed(seed),
            states: BTreeMap::new(),
            cut: BTreeSet::new(),
            is_stormy: true,
            epoch_us: 1_800_000_000_000_000,
            handled: 0,
            trace: traced.then(String::new),
            digest: 0xcbf2_9ce4_8422_2325,
        }
    }

    pub(crate) fn now_us(&self) -> u64 {
        self.now_us
    }

    /// The process's monotonic clock, which no fault turns back.
    pub(crate) fn now_ms(&self) -> u64 {
        self.now_us / 1_000
    }

    /// The process's wall clock, in microseconds since the Unix epoch.
    pub(crate) fn wall_us(&self, process: Process) -> u64 {
        let off_us = self.states.get(&process).map_or(0, |it| it.off_us);
        (self.epoch_us + self.now_us).saturating_add_signed(off_us)
    }

    /// A process begins, again perhaps; what was sent to its earlier run is lost.
    pub(crate) fn start(&mut self, process: Process) {
        let most = i64::try_from(WALL_CLOCK_OFF_US_MAX).unwrap_or(0);
        let off_us = self.random.i64(-most..=most);
        let run = self.states.get(&process).map_or(0, |it| it.run) + 1;
        let state = State { up: true, run, paused_until_us: 0, off_us };
        self.states.insert(process, state);
        self.note(|| format!("{process:?} starts, run {run}, its clock off by {off_us} us"));
    }

    pub(crate) fn stop(&mut self, process: Process) {
        if let Some(state) = self.states.get_mut(&process) {
            state.up = false;
        }
        self.note(|| format!("{process:?} is gone"));
    }

    pub(crate) fn is_up(&self, process: Process) -> bool {
        self.states.get(&process).is_some_and(|it| it.up)
    }

    pub(crate) fn run_of(&self, process: Process) -> u32 {
        self.states.get(&process).map_or(0, |it| it.run)
    }

    pub(crate) fn pause(&mut self, process: Process, for_us: u64) {
        let until_us = self.now_us + for_us;
        if let Some(state) = self.states.get_mut(&process) {
            state.paused_until_us = state.paused_until_us.max(until_us);
        }
        self.note(|| format!("{process:?} is paused for {for_us} us"));
    }

    /// The wall clock of the process jumps.
    pub(crate) fn jump(&mut self, process: Process) {
        let most = i64::try_from(WALL_CLOCK_OFF_US_MAX).unwrap_or(0);
        let off_us = self.random.i64(-most..=most);
        if let Some(state) = self.states.get_mut(&process) {
            state.off_us = off_us;
        }
        self.note(|| format!("the clock of {process:?} jumps: off by {off_us} us"));
    }

    pub(crate) fn cut(&mut self, a: Process, b: Process) {
        self.cut.extend([(a, b), (b, a)]);
        self.note(|| format!("{a:?} and {b:?} cannot reach each other"));
    }

    pub(crate) fn join(&mut self, a: Process, b: Process) {
        self.cut.remove(&(a, b));
        self.cut.remove(&(b, a));
        self.note(|| format!("{a:?} and {b:?} can reach each other"));
    }

    /// Can a request from one reach the other now?
    pub(crate) fn reaches(&self, from: Process, to: Process) -> bool {
        self.is_up(to) && !self.cut.contains(&(from, to))
    }

    /// The network does not carry what is sent now.
    pub(crate) fn loses(&mut self) -> bool {
        self.is_stormy && self.random.u64(..100) < LOSS_PERCENT
    }

    /// How long something takes, in microseconds.
    pub(crate) fn delay_us(&mut self) -> u64 {
        if self.is_stormy && self.random.u8(..40) == 0 {
            return self.random.u64(DELAY_US.end..SLOW_US_MAX);
        }
        self.random.u64(DELAY_US)
    }

    /// A number that nothing else of this run has.
    pub(crate) fn fresh(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    /// An event for the run that the process is in, at a time.
    pub(crate) fn at(&mut self, to: Process, at_us: u64, event: Event) {
        let (run, order) = (self.run_of(to), self.fresh());
        self.queue.insert((at_us.max(self.now_us), order), Queued { to, run, event });
    }

    /// A timer, or the end of something that takes so long.
    pub(crate) fn after(&mut self, to: Process, for_us: u64, event: Event) {
        self.at(to, self.now_us + for_us, event);
    }

    /// Something that goes over the network, and may not arrive.
    pub(crate) fn send(&mut self, from: Process, to: Process, event: Event) {
        let lost = self.loses();
        let delay_us = self.delay_us();
        if lost || !self.reaches(from, to) {
            return self.note(|| format!("lost from {from:?} to {to:?}: {event:?}"));
        }
        self.after(to, delay_us, event);
    }

    /// The next event that somebody is there for; nothing when all is over, or it takes too many.
    pub(crate) fn next(&mut self) -> Option<(Process, Event)> {
        while self.handled < BUS_EVENTS_MAX {
            let ((at_us, order), queued) = self.queue.pop_first()?;
            let Some(state) = self.states.get(&queued.to) else { continue };
            if !state.up || state.run != queued.run {
                continue;
            }
            if state.paused_until_us > at_us {
                self.queue.insert((state.paused_until_us, order), queued);
                continue;
            }
            self.now_us = at_us;
            self.handled += 1;
            let Queued { to, event, .. } = queued;
            self.note(|| format!("{to:?} <- {event:?}"));
            return Some((to, event));
        }
        None
    }

    /// How many events were handled.
    pub(crate) fn handled(&self) -> u64 {
        self.handled
    }

    /// Writes down what happens, if somebody reads it, and makes it part of the digest.
    pub(crate) fn note(&mut self, words: impl FnOnce() -> String) {
        // Enough to notice two runs that differ: words are costly, numbers are not.
        let numbers = self.now_us ^ self.order.rotate_left(32);
        self.digest = (self.digest ^ numbers).wrapping_mul(0x0000_0100_0000_01b3);
        if let Some(trace) = &mut self.trace {
            let at_us = self.now_us;
            let _ =
                writeln!(trace, "{:>6}.{:06} {}", at_us / 1_000_000, at_us % 1_000_000, words());
        }
    }

    pub(crate) fn digest(&self) -> u64 {
        self.digest
    }

    pub(crate) fn take_trace(&mut self) -> String {
        self.trace.take().unwrap_or_default()
    }
}
