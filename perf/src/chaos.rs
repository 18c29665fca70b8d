//! `perf chaos`: faults under load. Clients write down what they do and see; afterwards the
//! checker compares that with PostgreSQL, Kafka and what fresh clients sync.
//!
//! ```text
//! pacer --> fleet: users x devices on the client library --> histories --+
//! faults: kills, pauses, cut links, crashes at failpoints --> canary     +--> checker --> verdict
//! after healing: fresh clients' full syncs, dumps of PostgreSQL and Kafka +
//! ```

mod attendance;
mod canary;
mod dumps;
mod failpoints;
mod faults;
mod fleet;
mod holes;
mod memory;
mod network;
mod pacer;
mod planted;
mod recovery;
mod shim;
mod trial;

use crate::clock;
use crate::failure::{Context, Failure, Outcome};
use crate::limits::{LIVE_MS_MAX, PROBE_MS_MAX};
use crate::options::{ChaosOptions, count, within};
use crate::report::{self, progress, rounded};
use crate::stack::{Environment, SmallDisk, Stack};
use fastrand::Rng;
use faults::{Arena, Fault, Needs};
use serde::Serialize;
use shim::Shim;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use trial::{Ended, Plan, Sizes};

/// Wait for all clients to have seen everything after the last fault.
const SETTLE_US: u64 = 90_000_000;
/// Brokers of a Kafka that goes on without one of them.
const CLUSTER: u64 = 3;
/// Faults that come together, at most.
const AT_ONCE_MAX: u64 = 3;

#[derive(Serialize)]
struct Report {
    cycles: u64,
    acked: u64,
    lost: u64,
    phantom: u64,
    reordered: u64,
    gaps: u64,
    visible_duplicates: u64,
    wire_duplicates: u64,
    recovery_p99_s: BTreeMap<String, f64>,
    recovery_p50_s: BTreeMap<String, f64>,
    faults: BTreeMap<String, u64>,
    conflicts: u64,
    wrong_presence: u64,
    broken_history: u64,
    sent: u64,
    unanswered: u64,
    /// Faults after which a probe message was not delivered in time.
    not_recovered: u64,
    /// Faults after which it was delivered later than so many seconds after all daemons were ready.
    not_live: u64,
    live_within_s: u64,
    unsettled_sessions: u64,
    /// What sessions that were live were neither pushed nor told of; their clients found out and healed it.
    silent_gaps: u64,
    /// Offsets that a gateway committed before the sessions had all below; of daemons with failpoints.
    offsets_committed_early: u64,
    seconds: f64,
    violations: Vec<String>,
}

/// What a command line asks for, within its limits.
struct Wanted {
    sizes: Sizes,
    at_once: usize,
    faults: Vec<Fault>,
    /// Of a stack that is brought up.
    brokers: u64,
}

pub(crate) fn run(options: &ChaosOptions) -> Outcome {
    let wanted = wanted(options)?;
    if let Some(bug) = &options.planted {
        return planted::run(options, wanted, bug);
    }
    let folder = history_folder(options.history.as_deref())?;
    let stack =
        Stack::prepared(&options.common, 2, wanted.brokers, |dir| prepare(dir, &wanted.faults))?;
    let arena = Arena::open(&stack, &wanted.faults)?;
    let faults = possible(&arena, wanted.faults, options.faults.is_empty())?;
    let start_us = clock::now_us();
    let end_us = match options.minutes {
        0 => u64::MAX,
        minutes => clock::now_us() + minutes * 60_000_000,
    };
    let plan = Plan {
        sizes: wanted.sizes,
        cycles: options.cycles,
        at_once: wanted.at_once,
        faults: &faults,
        end_us,
        probe: Duration::from_millis(PROBE_MS_MAX),
        settle_us: SETTLE_US,
    };
    let ended = plan.run(&stack, &arena, &folder, Rng::with_seed(options.common.seed))?;
    let report = Report { seconds: seconds_since(start_us), ..Report::of(&ended) };
    report::print(&report, options.common.json)?;
    if ended.is_clean() && options.history.is_none() {
        return std::fs::remove_dir_all(&folder).doing(folder.display());
    }
    if ended.is_clean() {
        return Ok(());
    }
    Err(Failure::Refused(format!(
        "promises were broken; the histories are in {}",
        folder.display()
    )))
}

fn wanted(options: &ChaosOptions) -> Outcome<Wanted> {
    within("--cycles", options.cycles, 0..=1_000_000)?;
    within("--minutes", options.minutes, 0..=10_000)?;
    let sizes = Sizes {
        users: count(within("--users", options.users, 2..=2_000)?),
        devices: count(within("--devices", options.devices, 1..=10)?),
        conversations: count(within("--conversations", options.conversations, 1..=10_000)?),
        rate: within("--rate", options.rate, 1..=20_000)?,
        messages: within("--messages", options.messages, 1..=100_000_000)?,
    };
    let at_once = count(within("--at-once", options.at_once, 1..=AT_ONCE_MAX)?);
    Ok(Wanted {
        sizes,
        at_once,
        faults: faults::parse(&options.faults)?,
        brokers: brokers(options)?,
    })
}

fn brokers(options: &ChaosOptions) -> Outcome<u64> {
    let Some(brokers) = options.brokers else { return Ok(1) };
    options.common.brings_up(&format!("--brokers {brokers}"))?;
    if brokers == 1 || brokers == CLUSTER {
        return Ok(brokers);
    }
    Err(Failure::Usage(format!("--brokers is {brokers}, but 1 or {CLUSTER} is required")))
}

/// What some faults need of a stack that is about to be brought up, as far as this machine has it.
fn prepare(dir: &Path, faults: &[Fault]) -> Outcome<Environment> {
    let needs = Needs::of(faults);
    if needs.small_disk
        && let Err(failure) = SmallDisk::make(dir)
    {
        progress!("perf: no small disk for PostgreSQL: {failure}");
    }
    if !needs.shim {
        return Ok(Environment::new());
    }
    Shim::make(dir).or_else(|failure| {
        progress!("perf: no shim for PostgreSQL: {failure}");
        Ok(Environment::new())
    })
}

/// Seconds since then, to a millisecond.
fn seconds_since(start_us: u64) -> f64 {
    rounded(Duration::from_micros(clock::now_us().saturating_sub(start_us)).as_secs_f64())
}

fn history_folder(wanted: Option<&Path>) -> Outcome<PathBuf> {
    let folder = match wanted {
        Some(folder) => folder.to_owned(),
        None => std::env::temp_dir().join(format!("realchat-history-{}", proto::id::new())),
    };
    if folder.exists() {
        let words = format!("--history is {}, but it must not exist yet", folder.display());
        return Err(Failure::Usage(words));
    }
    std::fs::create_dir_all(&folder).doing(folder.display())?;
    Ok(folder)
}

/// The faults that can be done here. Of those that were asked for by name, all must be.
fn possible(arena: &Arena<'_>, faults: Vec<Fault>, is_default: bool) -> Outcome<Vec<Fault>> {
    let mut possible = Vec::new();
    let mut skipped: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
    for fault in faults {
        match arena.check(&fault) {
            Ok(()) => possible.push(fault),
            Err(why) if is_default => skipped.entry(why).or_default().push(fault.to_string()),
            Err(why) => return Err(Failure::Refused(format!("{fault}: {why}"))),
        }
    }
    for (why, faults) in skipped {
        progress!("perf: not done here: {}: {why}", faults.join(", "));
    }
    progress!("perf: {} kinds of faults", possible.len());
    Ok(possible)
}

impl Report {
    fn of(ended: &Ended) -> Self {
        let Ended { verdict, tally, .. } = ended;
        let at = |quantile| {
            let each = tally.recoveries.iter();
            each.map(|(name, it)| (name.clone(), rounded(it.ms_at(quantile) / 1_000.0))).collect()
        };
        Self {
            cycles: tally.cycles,
            acked: verdict.acked,
            lost: verdict.lost,
            phantom: verdict.phantom,
            reordered: verdict.reordered,
            gaps: verdict.gaps,
            visible_duplicates: verdict.visible_duplicates,
            wire_duplicates: verdict.wire_duplicates,
            recovery_p99_s: at(0.99),
            recovery_p50_s: at(0.5),
            faults: tally.counts.clone(),
            conflicts: verdict.conflicts,
            wrong_presence: verdict.wrong_presence,
            broken_history: verdict.broken_history,
            sent: ended.sent,
            unanswered: ended.unanswered,
            not_recovered: tally.not_recovered,
            not_live: tally.not_live,
            live_within_s: LIVE_MS_MAX / 1_000,
            unsettled_sessions: ended.unsettled_sessions,
            silent_gaps: ended.silent_gaps,
            offsets_committed_early: tally.early,
            seconds: 0.0,
            violations: verdict.violations.clone(),
        }
    }
}
