//! What can be done to a stack. Its supervisors start again whatever ends.

use super::CLUSTER;
use super::failpoints;
use super::memory;
use super::network::{Cut, Network};
use super::shim::Shim;
use crate::clock;
use crate::failure::{Failure, Outcome};
use crate::process;
use crate::stack::{SmallDisk, Stack};
use daemon::failpoint;
use fastrand::Rng;
use std::fmt;
use std::time::Duration;

/// Wait for a part to end, and for its supervisor to start it again.
const RESTART_US_MAX: u64 = 90_000_000;
/// How long a part is stopped or cut off: up to beyond every lease and most time-outs.
const PAUSE_MS: std::ops::Range<u64> = 500..6_000;
/// How long a broker is stopped: up to beyond its session with the controller (scripts/kafka), which
/// fences it then; for a moment it answers, and names no broker.
const BROKER_PAUSE_MS: std::ops::Range<u64> = 500..9_000;
/// Wait for a failpoint to be reached, once it is armed.
const FAILPOINT_US_MAX: u64 = 5_000_000;
/// A failpoint acts at one of its next so many turns.
const TURN_MAX: u64 = 20;
/// The parts that can be hit.
const PARTS: [&str; 7] = ["gateway", "chatd", "relay", "presenced", "redis", "kafka", "postgres"];
/// Those that are stores: they are restarted cleanly, too, unless a list says otherwise.
const STORES: [&str; 3] = ["redis", "kafka", "postgres"];
/// Those that others reach over the network.
const REACHED: [&str; 5] = ["chatd", "presenced", "redis", "kafka", "postgres"];
/// Those whose clock can be off.
const DAEMONS: [&str; 4] = ["gateway", "chatd", "relay", "presenced"];
/// How far a clock is off, either way: up to a day.
const CLOCK_MS: std::ops::Range<i64> = 1_000..86_400_001;
pub(super) const NO_FAILPOINTS: &str = "the daemons have no failpoints; bring the stack up with \
     REALCHAT_BINARIES set to what scripts/lib/build-failpoints prints";
const NO_CLUSTER: &str = "it takes three brokers; bring the stack up with --brokers 3";
/// How long one broker is alone: it must not be taken for lost meanwhile, nor the others.
const ALONE_MS: std::ops::Range<u64> = 500..3_000;
const CLEAN: &str = "clean";
const PAUSE: &str = "pause";
const MEMORY: &str = "memory";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// By kill -9.
    Kill,
    /// As an operator would.
    Clean,
    /// SIGSTOP, and SIGCONT a while later.
    Pause,
    /// No memory beyond what it has, for a while: it ends, or does without.
    Memory,
    /// One broker goes on alone while the others are stopped, and is killed before they go on.
    Alone,
    Cut(Cut),
    Failpoint(&'static str),
    /// PostgreSQL's file system has no room for a while.
    Full,
    /// PostgreSQL is told that its disk failed.
    FsyncError,
    /// The wall clock of a daemon is off for a while.
    ClockJump,
}

/// One thing that happens to one part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault {
    part: &'static str,
    kind: Kind,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Kill => write!(formatter, "{}", self.part),
            Kind::Clean => write!(formatter, "{}-{CLEAN}", self.part),
            Kind::Pause => write!(formatter, "{}-{PAUSE}", self.part),
            Kind::Memory => write!(formatter, "{}-{MEMORY}", self.part),
            Kind::Cut(cut) => write!(formatter, "{}-{}", self.part, cut.name()),
            Kind::Failpoint(name) => write!(formatter, "{name}"),
            Kind::Alone => write!(formatter, "{}-alone", self.part),
            Kind::Full => write!(formatter, "disk-full"),
            Kind::FsyncError => write!(formatter, "fsync-error"),
            Kind::ClockJump => write!(formatter, "clock-jump"),
        }
    }
}

const DISK_FULL: Fault = Fault { part: "postgres", kind: Kind::Full };

/// Every fault that is dealt unless a list says otherwise.
fn all() -> Vec<Fault> {
    let of = |parts: &[&'static str], kind: Kind| -> Vec<Fault> {
        parts.iter().map(|part| Fault { part, kind }).collect()
    };
    let mut all = of(&PARTS, Kind::Kill);
    all.extend(of(&STORES, Kind::Clean));
    all.extend(of(&PARTS, Kind::Pause));
    all.extend(of(&PARTS, Kind::Memory));
    for cut in Cut::ALL {
        all.extend(of(&REACHED, Kind::Cut(cut)));
    }
    all.extend(failpoint::ALL.into_iter().filter_map(|name| {
        let part = PARTS.into_iter().find(|part| name.split('.').next() == Some(part))?;
        Some(Fault { part, kind: Kind::Failpoint(name) })
    }));
    all.push(Fault { part: "postgres", kind: Kind::FsyncError });
    all.push(Fault { part: "", kind: Kind::ClockJump });
    all.push(Fault { part: "kafka", kind: Kind::Alone });
    all
}

/// Reads `--faults`; nothing: everything.
pub(super) fn parse(words: &[String]) -> Outcome<Vec<Fault>> {
    let all = all();
    if words.is_empty() {
        return Ok(all);
    }
    let read = |word: &String| {
        let clean = PARTS.into_iter().map(|part| Fault { part, kind: Kind::Clean });
        // A full disk is one in memory, on which PostgreSQL is not what it is elsewhere.
        let mut known = all.iter().copied().chain(clean).chain([DISK_FULL]);
        known.find(|it| it.to_string() == word.trim()).ok_or_else(|| {
            let (parts, reached) = (PARTS.join(", "), REACHED.join(", "));
            let failpoints = failpoint::ALL.join(", ");
            let others = "disk-full, fsync-error, clock-jump, kafka-alone";
            let cuts = Cut::ALL.map(Cut::name).join(", -");
            Failure::Usage(format!(
                "--faults holds {word:?}, but {parts} are allowed (kill -9), each also with \
                 -{CLEAN} (an orderly restart), -{PAUSE} (SIGSTOP for a while) or -{MEMORY} (no \
                 more memory for a while); {reached} with \
                 -{cuts} (the network); {others}; and the failpoints {failpoints}"
            ))
        })
    };
    words.iter().map(read).collect()
}

/// What a stack that is brought up for these faults must be given.
pub(super) struct Needs {
    pub(super) small_disk: bool,
    pub(super) shim: bool,
}

impl Needs {
    pub(super) fn of(faults: &[Fault]) -> Self {
        let any = |kind: Kind| faults.iter().any(|it| it.kind == kind);
        Self { small_disk: any(Kind::Full), shim: any(Kind::FsyncError) }
    }
}

/// Where faults are inflicted, and with what.
pub(super) struct Arena<'a> {
    stack: &'a Stack,
    network: Option<Network>,
    disk: Option<SmallDisk>,
    shim: Option<Shim>,
    has_failpoints: bool,
}

impl<'a> Arena<'a> {
    /// Opens what the faults need.
    pub(super) fn open(stack: &'a Stack, faults: &[Fault]) -> Outcome<Self> {
        let wants_network = faults.iter().any(|it| matches!(it.kind, Kind::Cut(_)));
        let network = if wants_network { Network::open() } else { None };
        let has_failpoints = failpoints::are_there(stack)?;
        let (disk, shim) = (SmallDisk::of(stack.dir()), Shim::of(stack));
        Ok(Self { stack, network, disk, shim, has_failpoints })
    }

    pub(super) fn stack(&self) -> &Stack {
        self.stack
    }

    pub(super) fn has_failpoints(&self) -> bool {
        self.has_failpoints
    }

    /// Can this be done here? An error says why not.
    pub(super) fn check(&self, fault: &Fault) -> Result<(), &'static str> {
        match fault.kind {
            Kind::Cut(_) if self.network.is_none() => {
                Err("the packet filter cannot be used; that takes nft and root")
            }
            Kind::Failpoint(_) | Kind::ClockJump if !self.has_failpoints => Err(NO_FAILPOINTS),
            Kind::Alone if self.parts(fault).is_ok_and(|it| (it.len() as u64) < CLUSTER) => {
                Err(NO_CLUSTER)
            }
            Kind::Memory if !memory::can_be_limited() => Err("there is no prlimit (util-linux)"),
            Kind::Full if self.disk.is_none() => Err("PostgreSQL's data are on no file system of \
                 their own; perf chaos gives them one in a stack that it brings up, as root"),
            Kind::FsyncError if self.shim.is_none() => Err("PostgreSQL runs without a shim; perf \
                 chaos gives it one in a stack that it brings up, where there is a C compiler"),
            _ if self.parts(fault).is_ok_and(|it| !it.is_empty()) => Ok(()),
            _ => Err("the stack runs no such part of its own"),
        }
    }

    fn parts(&self, fault: &Fault) -> Outcome<Vec<String>> {
        if fault.kind == Kind::ClockJump {
            let parts = DAEMONS.map(|part| self.stack.parts(&part.to_uppercase()));
            return Ok(parts.into_iter().collect::<Outcome<Vec<_>>>()?.concat());
        }
        self.stack.parts(&fault.part.to_uppercase())
    }

    /// Does it to the part (of several gateways one), waits until that is started again if it ended, and
    /// gives back since when the fault is over: since the part ended, goes on, or can be reached again.
    pub(super) fn inflict(&self, fault: &Fault, mut random: Rng) -> Outcome<u64> {
        let parts = self.parts(fault)?;
        let Some(part) = random.choice(parts) else {
            return Err(Failure::Refused(format!("the stack runs no {} of its own", fault.part)));
        };
        let is_broker_stopped = fault.kind == Kind::Pause && fault.part == "kafka";
        let range = if is_broker_stopped { BROKER_PAUSE_MS } else { PAUSE_MS };
        let time = Duration::from_millis(random.u64(range));
        match fault.kind {
            Kind::Kill => self.end(&part, libc::SIGKILL),
            // PostgreSQL's fast shutdown; SIGTERM would wait for every client to leave.
            Kind::Clean if fault.part == "postgres" => self.end(&part, libc::SIGINT),
            Kind::Clean => self.end(&part, libc::SIGTERM),
            Kind::Pause => self.pause(&part, time),
            Kind::Memory => self.starve(&part, time),
            Kind::Alone => {
                let time = Duration::from_millis(random.u64(ALONE_MS));
                let others = self.parts(fault)?.into_iter().filter(|it| *it != part);
                self.leave_alone(&part, &others.collect::<Vec<_>>(), time)
            }
            Kind::Cut(cut) => {
                let port = self.stack.port_of(fault.part)?;
                if let Some(network) = &self.network {
                    network.cut(port, cut, time)?;
                    std::thread::sleep(time);
                }
                Ok(clock::now_us())
            }
            Kind::Failpoint(name) => {
                let order = format!("{name}=exit@{}", random.u64(1..=TURN_MAX));
                self.crash_at(&part, &order)
            }
            Kind::Full => {
                for_a_while(self.disk.as_ref(), time, SmallDisk::fill, SmallDisk::make_room)
            }
            Kind::FsyncError => for_a_while(self.shim.as_ref(), time, Shim::fail, Shim::heal),
            Kind::ClockJump => {
                let off_ms = random.i64(CLOCK_MS) * if random.bool() { 1 } else { -1 };
                failpoints::arm(self.stack, &part, &format!("clock={off_ms}"))?;
                std::thread::sleep(time);
                failpoints::arm(self.stack, &part, "clock=0")?;
                Ok(clock::now_us())
            }
        }
    }

    /// Ends it; over at once, for those who start it again.
    fn end(&self, part: &str, signal: i32) -> Outcome<u64> {
        let before = self.stack.pid(part)?;
        self.signal_unless_gone(part, before, signal)?;
        let over_us = clock::now_us();
        self.wait_restarted(part, before)?;
        Ok(over_us)
    }

    fn wait_restarted(&self, part: &str, before: i32) -> Outcome {
        if wait_until(RESTART_US_MAX, || self.is_another(part, before)) {
            return Ok(());
        }
        Err(Failure::Unreachable(format!("{part} was not started again")))
    }

    /// It may not come to that place for as long as another fault holds it up.
    fn crash_at(&self, part: &str, order: &str) -> Outcome<u64> {
        let before = self.stack.pid(part)?;
        failpoints::arm(self.stack, part, order)?;
        wait_until(FAILPOINT_US_MAX, || !process::is_alive(before));
        let over_us = clock::now_us();
        if !process::is_alive(before) {
            wait_until(RESTART_US_MAX, || self.is_another(part, before));
        }
        Ok(over_us)
    }

    fn pause(&self, part: &str, time: Duration) -> Outcome<u64> {
        let pid = self.stack.pid(part)?;
        self.signal_unless_gone(part, pid, libc::SIGSTOP)?;
        std::thread::sleep(time);
        self.signal_unless_gone(part, pid, libc::SIGCONT)?;
        Ok(clock::now_us())
    }

    fn starve(&self, part: &str, time: Duration) -> Outcome<u64> {
        let before = self.stack.pid(part)?;
        let over_us =
            for_a_while(Some(&before), time, |it| memory::deny(*it), |it| memory::allow(*it))?;
        if !process::is_alive(before) {
            self.wait_restarted(part, before)?;
        }
        Ok(over_us)
    }

    /// What only this one has is gone for the others, which choose another leader.
    fn leave_alone(&self, part: &str, others: &[String], time: Duration) -> Outcome<u64> {
        let stopped = others.iter().map(|it| Ok((it, self.stack.pid(it)?)));
        let stopped = stopped.collect::<Outcome<Vec<_>>>()?;
        for (other, pid) in &stopped {
            self.signal_unless_gone(other, *pid, libc::SIGSTOP)?;
        }
        std::thread::sleep(time);
        let before = self.stack.pid(part)?;
        let killed = self.signal_unless_gone(part, before, libc::SIGKILL);
        for (other, pid) in &stopped {
            self.signal_unless_gone(other, *pid, libc::SIGCONT)?;
        }
        let over_us = clock::now_us();
        killed?;
        self.wait_restarted(part, before)?;
        Ok(over_us)
    }

    /// Another fault of the same cycle may have ended it first.
    fn signal_unless_gone(&self, part: &str, pid: i32, signal: i32) -> Outcome {
        process::signal(pid, signal).or_else(|failure| {
            let is_gone = !process::is_alive(pid) || self.is_another(part, pid);
            if is_gone { Ok(()) } else { Err(failure) }
        })
    }

    fn is_another(&self, part: &str, before: i32) -> bool {
        self.stack.pid(part).is_ok_and(|pid| pid != before)
    }
}

/// Breaks something that is there, and mends it, whatever happened in between.
fn for_a_while<T>(
    it: Option<&T>,
    time: Duration,
    break_it: impl Fn(&T) -> Outcome,
    mend_it: impl Fn(&T) -> Outcome,
) -> Outcome<u64> {
    let it = it.ok_or_else(|| Failure::Refused("there is nothing that could be broken".into()))?;
    let broken = break_it(it);
    std::thread::sleep(time);
    broken.and(mend_it(it)).map(|()| clock::now_us())
}

fn wait_until(patience_us: u64, is_so: impl Fn() -> bool) -> bool {
    let until_us = clock::now_us() + patience_us;
    while !is_so() {
        if clock::now_us() > until_us {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_unknown_names_refused() {
        let every = parse(&[]).unwrap();
        assert_eq!(every.len(), 7 + 3 + 7 + 7 + 4 * 5 + failpoint::ALL.len() + 3);
        let names: Vec<String> = every.iter().map(Fault::to_string).collect();
        assert_eq!(parse(&names).unwrap(), every, "each is found by its name");
        let disk = parse(&["disk-full".into()]).unwrap();
        assert!(disk == [DISK_FULL] && !every.contains(&DISK_FULL), "only if it is asked for");
        let needs = (Needs::of(&every).small_disk, Needs::of(&every).shim);
        assert_eq!((needs, Needs::of(&disk).small_disk), ((false, true), true));
        for word in ["disk", "gateway-partition", "relay-clean-clean", "chatd.nowhere"] {
            let failure = parse(&[word.into()]).unwrap_err().to_string();
            assert!(failure.starts_with(&format!("--faults holds {word:?}, but gateway, ")));
            assert!(failure.contains("-partition, -reset, -lossy, -slow"), "{failure}");
        }
    }
}
