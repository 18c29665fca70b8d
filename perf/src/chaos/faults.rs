//! What can be done to a stack. Its supervisors start again whatever ends.

use super::failpoints;
use super::network::{Cut, Network};
use crate::clock;
use crate::failure::{Failure, Outcome};
use crate::process;
use crate::stack::Stack;
use daemon::failpoint;
use fastrand::Rng;
use std::fmt;
use std::time::Duration;

/// Wait for a part to end, and for its supervisor to start it again.
const RESTART_US_MAX: u64 = 90_000_000;
/// How long a part is stopped or cut off: up to beyond every lease and most time-outs.
const PAUSE_MS: std::ops::Range<u64> = 500..6_000;
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
const CLEAN: &str = "clean";
const PAUSE: &str = "pause";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// By kill -9.
    Kill,
    /// As an operator would.
    Clean,
    /// SIGSTOP, and SIGCONT a while later.
    Pause,
    Cut(Cut),
    Failpoint(&'static str),
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
            Kind::Cut(cut) => write!(formatter, "{}-{}", self.part, cut.name()),
            Kind::Failpoint(name) => write!(formatter, "{name}"),
        }
    }
}

/// Every fault that there is; daemons are restarted cleanly only if that is asked for.
fn all() -> Vec<Fault> {
    let of = |parts: &[&'static str], kind: Kind| -> Vec<Fault> {
        parts.iter().map(|part| Fault { part, kind }).collect()
    };
    let mut all = of(&PARTS, Kind::Kill);
    all.extend(of(&STORES, Kind::Clean));
    all.extend(of(&PARTS, Kind::Pause));
    for cut in Cut::ALL {
        all.extend(of(&REACHED, Kind::Cut(cut)));
    }
    all.extend(failpoint::ALL.into_iter().filter_map(|name| {
        let part = PARTS.into_iter().find(|part| name.split('.').next() == Some(part))?;
        Some(Fault { part, kind: Kind::Failpoint(name) })
    }));
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
        let mut known = all.iter().copied().chain(clean);
        known.find(|it| it.to_string() == word.trim()).ok_or_else(|| {
            let (parts, reached) = (PARTS.join(", "), REACHED.join(", "));
            let failpoints = failpoint::ALL.join(", ");
            let cuts = Cut::ALL.map(Cut::name).join(", -");
            Failure::Usage(format!(
                "--faults holds {word:?}, but {parts} are allowed (kill -9), each also with \
                 -{CLEAN} (an orderly restart) or -{PAUSE} (SIGSTOP for a while); {reached} with \
                 -{cuts} (the network); and the failpoints {failpoints}"
            ))
        })
    };
    words.iter().map(read).collect()
}

/// Where faults are inflicted, and with what.
pub(super) struct Arena<'a> {
    stack: &'a Stack,
    network: Option<Network>,
    has_failpoints: bool,
}

impl<'a> Arena<'a> {
    /// Opens what the faults need.
    pub(super) fn open(stack: &'a Stack, faults: &[Fault]) -> Outcome<Self> {
        let wants_network = faults.iter().any(|it| matches!(it.kind, Kind::Cut(_)));
        let network = if wants_network { Network::open() } else { None };
        let has_failpoints = failpoints::are_there(stack)?;
        Ok(Self { stack, network, has_failpoints })
    }

    /// Can this be done here? An error says why not.
    pub(super) fn check(&self, fault: &Fault) -> Outcome {
        let refused = |why: &str| Err(Failure::Refused(format!("{fault}: {why}")));
        match fault.kind {
            Kind::Cut(_) if self.network.is_none() => {
                refused("the packet filter cannot be used; that takes nft and root")
            }
            Kind::Failpoint(_) if !self.has_failpoints => refused(
                "the daemons have no failpoints; bring the stack up with REALCHAT_BINARIES set to \
                 what scripts/lib/build-failpoints prints",
            ),
            _ if self.parts(fault)?.is_empty() => refused("the stack runs no such part of its own"),
            _ => Ok(()),
        }
    }

    fn parts(&self, fault: &Fault) -> Outcome<Vec<String>> {
        self.stack.parts(&fault.part.to_uppercase())
    }

    /// Does it to the part (of several gateways one), waits until that is started again if it ended, and
    /// gives back since when the fault is over: since the part ended, goes on, or can be reached again.
    pub(super) fn inflict(&self, fault: &Fault, mut random: Rng) -> Outcome<u64> {
        let parts = self.parts(fault)?;
        let Some(part) = random.choice(parts) else {
            return Err(Failure::Refused(format!("the stack runs no {} of its own", fault.part)));
        };
        let time = Duration::from_millis(random.u64(PAUSE_MS));
        match fault.kind {
            Kind::Kill => self.end(&part, libc::SIGKILL),
            // PostgreSQL's fast shutdown; SIGTERM would wait for every client to leave.
            Kind::Clean if fault.part == "postgres" => self.end(&part, libc::SIGINT),
            Kind::Clean => self.end(&part, libc::SIGTERM),
            Kind::Pause => self.pause(&part, time),
            Kind::Cut(cut) => {
                self.check(fault)?;
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
        }
    }

    /// Ends it; over at once, for those who start it again.
    fn end(&self, part: &str, signal: i32) -> Outcome<u64> {
        let before = self.stack.pid(part)?;
        self.signal_unless_gone(part, before, signal)?;
        let over_us = clock::now_us();
        if wait_until(RESTART_US_MAX, || self.is_another(part, before)) {
            return Ok(over_us);
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
        assert_eq!(every.len(), 7 + 3 + 7 + 3 * 5 + failpoint::ALL.len());
        let names: Vec<String> = every.iter().map(Fault::to_string).collect();
        assert_eq!(parse(&names).unwrap(), every, "each is found by its name");
        for word in ["disk", "gateway-partition", "relay-clean-clean", "chatd.nowhere"] {
            let failure = parse(&[word.into()]).unwrap_err().to_string();
            assert!(failure.starts_with(&format!("--faults holds {word:?}, but gateway, ")));
            assert!(failure.contains("-partition, -reset, -lossy"), "{failure}");
        }
    }
}
