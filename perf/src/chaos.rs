//! `perf chaos`: faults under load. Clients write down what they do and see; afterwards the
//! checker compares that with PostgreSQL, Kafka and what fresh clients sync.
//!
//! ```text
//! pacer --> fleet: users x devices on the client library --> histories --+
//! faults: kill -9 and clean restarts, one at a time --> canary           +--> checker --> verdict
//! after healing: fresh clients' full syncs, dumps of PostgreSQL and Kafka +
//! ```

mod canary;
mod dumps;
mod faults;
mod fleet;
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
use faults::Fault;
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
    let faults = faults::parse(&options.faults)?;
    let folder = history_folder(options.history.as_deref())?;
    let stack = Stack::of(&options.common, 2)?;
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
    let mut history = Writer::create(&folder.join("faults.jsonl")).doing("the history")?;
    let mut tally = Tally::default();
    // A shuffled deck, so that every fault has its turn however few cycles there are.
    let mut deck: Vec<&Fault> = Vec::new();
    while tally.cycles < options.cycles && clock::now_us() < end_us {
        std::thread::sleep(Duration::from_millis(random.u64(PAUSE_MS)));
        if deck.is_empty() {
            deck.extend(&faults);
            random.shuffle(&mut deck);
        }
        if let Some(fault) = deck.pop() {
            tally.cycle(fault, &stack, &canary, &mut history, &mut random)?;
        }
    }
    history.flush().doing("the history")?;
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

impl Tally {
    /// One fault, followed until a message gets through again.
    fn cycle(
        &mut self,
        fault: &Fault,
        stack: &Stack,
        canary: &Canary,
        history: &mut Writer,
        random: &mut Rng,
    ) -> Outcome {
        let name = fault.name();
        let begun_us = clock::now_us();
        let begin = Operation::Fault { at_us: begun_us, fault: name.clone(), begin: true };
        history.append(&begin).doing("the history")?;
        fault.inflict(stack, random)?;
        let recovered = canary.sing(Duration::from_millis(PROBE_MS_MAX)).is_some();
        let now_us = clock::now_us();
        let end = Operation::Fault { at_us: now_us, fault: name.clone(), begin: false };
        history.append(&end).doing("the history")?;
        self.cycles += 1;
        *self.counts.entry(name.clone()).or_default() += 1;
        self.not_recovered += u64::from(!recovered);
        let told = if recovered { "recovered" } else { "NOT recovered" };
        let seconds = seconds_since(begun_us);
        progress!("perf: cycle {}: {name}, {told} after {seconds:.2} s", self.cycles);
        let latencies = self.recoveries.entry(name).or_insert_with(Latencies::new);
        latencies.record_us(now_us - begun_us);
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
