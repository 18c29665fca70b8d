//! `perf chaos`: faults under load. Clients write down what they do and see; afterwards the
//! checker compares that with PostgreSQL, Kafka and what fresh clients sync.
//!
//! ```text
//! pacer --> fleet: users x devices on the client library --> histories --+
//! faults: kills, pauses, cut links, crashes at failpoints --> canary     +--> checker --> verdict
//! after healing: fresh clients' full syncs, dumps of PostgreSQL and Kafka +
//! ```

mod canary;
mod dumps;
mod failpoints;
mod faults;
mod fleet;
mod network;
mod pacer;

use crate::checker::history::{DATABASE_FILE, Operation, Writer};
use crate::checker::{self, Verdict};
use crate::clock;
use crate::failure::{Context, Failure, Outcome};
use crate::latency::Latencies;
use crate::limits::PROBE_MS_MAX;
use crate::options::{ChaosOptions, count, within};
use crate::population::Population;
use crate::report::{self, progress, rounded};
use crate::stack::Stack;
use crate::tokens::Minter;
use canary::Canary;
use fastrand::Rng;
use faults::{Arena, Fault};
use fleet::Fleet;
use pacer::Pacer;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Members of each conversation, if there are as many users.
const MEMBERS: usize = 6;
/// Wait for all clients to have seen everything after the last fault.
const SETTLE_US: u64 = 90_000_000;
/// Faults that come together, at most.
const AT_ONCE_MAX: u64 = 3;
/// Pause between the recovery from one fault and the next fault, in milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 300..2_000;

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
    broken_history: u64,
    sent: u64,
    unanswered: u64,
    /// Faults after which a probe message was not delivered in time.
    not_recovered: u64,
    unsettled_sessions: u64,
    seconds: f64,
    violations: Vec<String>,
}

/// How many faults, and which.
struct Plan<'a> {
    cycles: u64,
    at_once: usize,
    faults: &'a [Fault],
    /// No cycle begins later.
    end_us: u64,
}

#[derive(Default)]
struct Tally {
    cycles: u64,
    not_recovered: u64,
    recoveries: BTreeMap<String, Latencies>,
    counts: BTreeMap<String, u64>,
}

pub(crate) fn run(options: &ChaosOptions) -> Outcome {
    let users = within("--users", options.users, 2..=2_000)?;
    let devices = within("--devices", options.devices, 1..=10)?;
    let conversations = within("--conversations", options.conversations, 1..=10_000)?;
    let rate = within("--rate", options.rate, 1..=20_000)?;
    within("--messages", options.messages, 1..=100_000_000)?;
    within("--cycles", options.cycles, 0..=1_000_000)?;
    within("--minutes", options.minutes, 0..=10_000)?;
    let at_once = count(within("--at-once", options.at_once, 1..=AT_ONCE_MAX)?);
    let faults = faults::parse(&options.faults)?;
    let folder = history_folder(options.history.as_deref())?;
    let stack = Stack::of(&options.common, 2)?;
    let arena = Arena::open(&stack, &faults)?;
    let faults = possible(&arena, faults, options.faults.is_empty())?;
    let mut random = Rng::with_seed(options.common.seed);
    let population = Population::plan(&mut random, count(users), count(conversations), MEMBERS);
    let database_url = stack.database_url()?;
    population.insert(&database_url)?;
    let minter = Minter::open(&stack.signing_key()?)?;
    let start_us = clock::now_us();
    progress!("perf: {users} users on {devices} devices each; histories in {}", folder.display());
    let fleet = Fleet::start(&stack, &minter, &population, count(devices), &folder)?;
    let canary = Canary::start(&stack, &minter, &mut random)?;
    canary.sing(Duration::from_secs(30)).ok_or_else(|| {
        Failure::Unreachable("no message was delivered within 30 s, before any fault".into())
    })?;
    let pacer = Pacer::start(&fleet, &population, rate, options.messages, random.fork());
    let end_us = match options.minutes {
        0 => u64::MAX,
        minutes => clock::now_us() + minutes * 60_000_000,
    };
    pacer.wait_begun();
    let plan = Plan { cycles: options.cycles, at_once, faults: &faults, end_us };
    let tally = strike(&plan, &arena, &canary, &folder, random)?;
    let sent = pacer.finish(end_us);
    progress!("perf: {sent} messages sent; waiting for every client to have seen everything");
    let unsettled_sessions =
        fleet.settle(&database_url, &population, clock::now_us() + SETTLE_US)?;
    let unanswered = fleet.unanswered();
    fleet.finish()?;
    dumps::finals(&stack, &minter, &population, &folder)?;
    dumps::kafka(&stack, &population, &folder)?;
    let verdict = judge(&database_url, &population, &folder)?;
    let clean = verdict.ok && tally.not_recovered + unsettled_sessions == 0;
    let report = Report {
        unsettled_sessions,
        unanswered,
        sent,
        seconds: seconds_since(start_us),
        ..Report::of(&verdict, &tally)
    };
    report::print(&report, options.common.json)?;
    if clean && options.history.is_none() {
        return std::fs::remove_dir_all(&folder).doing(folder.display());
    }
    if clean {
        return Ok(());
    }
    Err(Failure::Refused(format!(
        "promises were broken; the histories are in {}",
        folder.display()
    )))
}

/// One cycle of faults after the other.
fn strike(
    plan: &Plan<'_>,
    arena: &Arena<'_>,
    canary: &Canary,
    folder: &Path,
    mut random: Rng,
) -> Outcome<Tally> {
    let mut history = Writer::create(&folder.join("faults.jsonl")).doing("the history")?;
    let mut tally = Tally::default();
    // A shuffled deck, so that every fault has its turn however few cycles there are.
    let mut deck: Vec<&Fault> = Vec::new();
    while tally.cycles < plan.cycles && clock::now_us() < plan.end_us {
        std::thread::sleep(Duration::from_millis(random.u64(PAUSE_MS)));
        let mut together: Vec<&Fault> = Vec::new();
        for _ in 0..number_at_once(&mut random, plan.at_once) {
            if deck.is_empty() {
                deck.extend(plan.faults);
                random.shuffle(&mut deck);
            }
            together.extend(deck.pop());
        }
        tally.cycle(&together, arena, canary, &mut history, &mut random)?;
    }
    history.flush().doing("the history")?;
    Ok(tally)
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
    for fault in faults {
        match arena.check(&fault) {
            Ok(()) => possible.push(fault),
            Err(_) if is_default => {}
            Err(failure) => return Err(failure),
        }
    }
    progress!("perf: {} kinds of faults", possible.len());
    Ok(possible)
}

/// How many faults come together: mostly one.
fn number_at_once(random: &mut Rng, most: usize) -> usize {
    match random.u8(0..10) {
        0..6 => 1,
        6..9 => most.min(2),
        _ => most.min(3),
    }
}

impl Tally {
    /// Some faults at once, followed until a message gets through again. Recovery counts from when the
    /// last one was over; that of several is told by their number.
    fn cycle(
        &mut self,
        faults: &[&Fault],
        arena: &Arena<'_>,
        canary: &Canary,
        history: &mut Writer,
        random: &mut Rng,
    ) -> Outcome {
        let names: Vec<String> = faults.iter().map(ToString::to_string).collect();
        let mut note = |begin: bool| -> Outcome {
            for name in &names {
                let at_us = clock::now_us();
                let operation = Operation::Fault { at_us, fault: name.clone(), begin };
                history.append(&operation).doing("the history")?;
            }
            Ok(())
        };
        note(true)?;
        let begun_us = clock::now_us();
        let randoms: Vec<Rng> = faults.iter().map(|_| random.fork()).collect();
        let outcomes: Vec<Outcome<u64>> = std::thread::scope(|scope| {
            let inflicted = faults.iter().zip(randoms);
            let threads: Vec<_> = inflicted
                .map(|(fault, random)| scope.spawn(move || arena.inflict(fault, random)))
                .collect();
            let panicked = || Err(Failure::Refused("a fault's thread ended".into()));
            threads.into_iter().map(|it| it.join().unwrap_or_else(|_| panicked())).collect()
        });
        let over_us = outcomes.into_iter().collect::<Outcome<Vec<u64>>>()?;
        let over_us = over_us.into_iter().max().unwrap_or(begun_us);
        let recovered = canary.sing(Duration::from_millis(PROBE_MS_MAX)).is_some();
        let recovered_us = clock::now_us();
        note(false)?;
        self.cycles += 1;
        self.not_recovered += u64::from(!recovered);
        let name = match names.as_slice() {
            [name] => name.clone(),
            names => format!("{} at once", names.len()),
        };
        let told = if recovered { "recovered" } else { "NOT recovered" };
        let (lasted, took) = (over_us - begun_us, recovered_us - over_us);
        let seconds = |us: u64| Duration::from_micros(us).as_secs_f64();
        let (together, lasted_s, took_s) = (names.join(" + "), seconds(lasted), seconds(took));
        let cycle = self.cycles;
        progress!("perf: cycle {cycle}: {together}, {lasted_s:.2} s; {told} {took_s:.2} s later");
        for name in names {
            *self.counts.entry(name).or_default() += 1;
        }
        self.recoveries.entry(name).or_insert_with(Latencies::new).record_us(took);
        Ok(())
    }
}

/// The database's word, then the checker's.
fn judge(database_url: &str, population: &Population, folder: &Path) -> Outcome<Verdict> {
    let ids: Vec<String> = population.conversations.iter().map(|it| it.id.to_string()).collect();
    let mut writer = Writer::create(&folder.join(DATABASE_FILE)).doing("the dump")?;
    let mut dump = Vec::new();
    checker::database::dump(database_url, &ids, |row| dump.push(row))?;
    for row in &dump {
        writer.append(row).doing("the dump")?;
    }
    writer.flush().doing("the dump")?;
    checker::check(folder, dump).doing("the history")
}

impl Report {
    fn of(verdict: &Verdict, tally: &Tally) -> Self {
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
            broken_history: verdict.broken_history,
            sent: 0,
            unanswered: 0,
            not_recovered: tally.not_recovered,
            unsettled_sessions: 0,
            seconds: 0.0,
            violations: verdict.violations.clone(),
        }
    }
}
