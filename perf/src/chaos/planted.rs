//! `perf chaos --planted BUG`: are real defects found? Daemons with failpoints are given one, and
//! the faults that ought to bring it to light; it is a failure if nothing is noticed.

use super::faults::{self, Arena, Fault, NO_FAILPOINTS};
use super::trial::{Ended, Plan, Sizes};
use super::{CLUSTER, Wanted, history_folder, prepare, seconds_since};
use crate::clock;
use crate::failure::{Context, Failure, Outcome};
use crate::options::{ChaosOptions, Common};
use crate::report::{self, progress};
use crate::stack::Stack;
use daemon::failpoint::{
    ACKNOWLEDGED_BY_ONE, ASYNCHRONOUS_COMMIT, BELIEVED_WITHOUT_CLAIM, COMMIT_BEFORE_ENQUEUE,
    GATEWAY_AFTER_POLL, MARK_BEFORE_ACKNOWLEDGEMENT, PLANTED, RELAY_AFTER_LEASE_CHECK,
};
use fastrand::Rng;
use serde::Serialize;
use std::time::Duration;

const VARIABLE: &str = "REALCHAT_PLANTED_BUG";
/// Messages of one trial, at most: enough for a fault to come in between.
const MESSAGES_MAX: u64 = 1_000;
/// Waits of one trial. What was lost is waited for in vain.
const PROBE: Duration = Duration::from_secs(20);
const SETTLE_US: u64 = 20_000_000;
/// Violations that are told.
const TOLD_MAX: usize = 5;

#[derive(Serialize)]
struct Report {
    planted: &'static str,
    found: bool,
    /// Trials until then, each with one fault.
    cycles: u64,
    /// What the checker said; the first few.
    violations: Vec<String>,
    lost: u64,
    reordered: u64,
    phantom: u64,
    gaps: u64,
    conflicts: u64,
    offsets_committed_early: u64,
    silent_gaps: u64,
    seconds: f64,
}

pub(super) fn run(options: &ChaosOptions, wanted: Wanted, bug: &str) -> Outcome {
    let bug = PLANTED.into_iter().find(|it| *it == bug).ok_or_else(|| {
        Failure::Usage(format!("--planted is {bug:?}, but {} are allowed", PLANTED.join(", ")))
    })?;
    options.common.brings_up("--planted")?;
    let faults = match options.faults.as_slice() {
        [] => exposing(bug)?,
        _ => wanted.faults,
    };
    // Where there is one broker, its word is everybody's.
    let brokers = if bug == ACKNOWLEDGED_BY_ONE { CLUSTER } else { wanted.brokers };
    let routed = options.common.routed || bug == BELIEVED_WITHOUT_CLAIM;
    let common = Common { routed, ..options.common.clone() };
    let stack = Stack::prepared(&common, 2, brokers, |dir| {
        let mut environment = prepare(dir, &faults)?;
        environment.push((VARIABLE, bug.to_owned()));
        Ok(environment)
    })?;
    let arena = Arena::open(&stack, &faults)?;
    if !arena.has_failpoints() {
        return Err(Failure::Refused(format!("--planted: {NO_FAILPOINTS}")));
    }
    let faults = super::possible(&arena, faults, false)?;
    let start_us = clock::now_us();
    let sizes = Sizes { messages: wanted.sizes.messages.min(MESSAGES_MAX), ..wanted.sizes };
    let mut random = Rng::with_seed(options.common.seed);
    let mut last = None;
    let mut cycles = 0;
    while cycles < options.cycles {
        cycles += 1;
        let ended = trial(&stack, &arena, &faults, sizes, random.fork())?;
        let found = is_found(&ended);
        progress!("perf: trial {cycles}: {}", if found { "found" } else { "nothing found" });
        last = Some(ended);
        if found {
            break;
        }
    }
    let seconds = seconds_since(start_us);
    let report = Report { cycles, seconds, ..Report::of(bug, last.as_ref()) };
    report::print(&report, options.common.json)?;
    if report.found {
        return Ok(());
    }
    Err(Failure::Refused(format!("{bug} was planted and not found in {cycles} cycles")))
}

/// The faults after which the defect shows.
fn exposing(bug: &str) -> Outcome<Vec<Fault>> {
    let words: &[&str] = match bug {
        // The gateway itself notices; that one which crashes loses what it had committed.
        COMMIT_BEFORE_ENQUEUE => &["gateway", GATEWAY_AFTER_POLL],
        // What PostgreSQL has not yet written goes with it.
        ASYNCHRONOUS_COMMIT => &["postgres"],
        MARK_BEFORE_ACKNOWLEDGEMENT => &[RELAY_AFTER_LEASE_CHECK, "kafka"],
        ACKNOWLEDGED_BY_ONE => &["kafka-alone"],
        // It starts with nothing in it.
        BELIEVED_WITHOUT_CLAIM => &["redis"],
        _ => &[],
    };
    faults::parse(&words.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>())
}

/// New users, one fault, a verdict.
fn trial(
    stack: &Stack,
    arena: &Arena<'_>,
    faults: &[Fault],
    sizes: Sizes,
    random: Rng,
) -> Outcome<Ended> {
    let folder = history_folder(None)?;
    let plan = Plan {
        sizes,
        cycles: 1,
        at_once: 1,
        faults,
        end_us: u64::MAX,
        probe: PROBE,
        settle_us: SETTLE_US,
    };
    let ended = plan.run(stack, arena, &folder, random)?;
    std::fs::remove_dir_all(&folder).doing(folder.display())?;
    Ok(ended)
}

/// A broken promise: that something took long is none, and a history that is broken shows nothing.
fn is_found(ended: &Ended) -> bool {
    let it = &ended.verdict;
    let broken = it.lost + it.phantom + it.reordered + it.gaps + it.visible_duplicates;
    broken + it.conflicts + ended.tally.early + ended.silent_gaps > 0
}

impl Report {
    fn of(planted: &'static str, ended: Option<&Ended>) -> Self {
        let verdict = ended.map(|it| it.verdict.clone()).unwrap_or_default();
        let early = ended.map_or(0, |it| it.tally.early);
        let mut violations = verdict.violations;
        violations.truncate(TOLD_MAX);
        let silent_gaps = ended.map_or(0, |it| it.silent_gaps);
        if silent_gaps > 0 {
            violations
                .push(format!("Silence: {silent_gaps} times a live session missed something"));
        }
        if early > 0 {
            violations.push(format!("Offsets: {early} committed before all below was enqueued"));
        }
        Self {
            planted,
            found: ended.is_some_and(is_found),
            cycles: 0,
            violations,
            lost: verdict.lost,
            reordered: verdict.reordered,
            phantom: verdict.phantom,
            gaps: verdict.gaps,
            conflicts: verdict.conflicts,
            offsets_committed_early: early,
            silent_gaps,
            seconds: 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_defect_has_faults_that_expose_it() {
        for bug in PLANTED {
            assert!(exposing(bug).is_ok_and(|it| !it.is_empty()), "{bug}");
        }
    }
}
