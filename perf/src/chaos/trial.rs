//! One run of load and faults, from the first session to the checker's verdict.

use super::attendance;
use super::canary::Canary;
use super::dumps;
use super::faults::{Arena, Fault};
use super::fleet::Fleet;
use super::pacer::Pacer;
use super::recovery::Recovery;
use crate::clock;
use crate::failure::{Context, Failure, Outcome};
use crate::latency::Latencies;
use crate::population::Population;
use crate::report::progress;
use crate::scrape;
use crate::stack::Stack;
use crate::tokens::Minter;
use checker::Verdict;
use checker::history::{DATABASE_FILE, Operation, Writer};
use fastrand::Rng;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// Members of each conversation, if there are as many users.
const MEMBERS: usize = 6;
/// Pause between the recovery from one fault and the next fault, in milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 300..2_000;

/// The load.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) users: usize,
    /// Of each user.
    pub(super) devices: usize,
    pub(super) conversations: usize,
    /// Messages a second.
    pub(super) rate: u64,
    /// At least so many.
    pub(super) messages: u64,
}

/// How much load, how many faults, and which.
pub(super) struct Plan<'a> {
    pub(super) sizes: Sizes,
    pub(super) cycles: u64,
    pub(super) at_once: usize,
    pub(super) faults: &'a [Fault],
    /// No cycle begins later.
    pub(super) end_us: u64,
    /// Wait for the probe message after a fault.
    pub(super) probe: Duration,
    /// Wait for all clients to have seen everything after the last fault.
    pub(super) settle_us: u64,
}

#[derive(Default)]
pub(super) struct Tally {
    pub(super) cycles: u64,
    pub(super) not_recovered: u64,
    pub(super) not_live: u64,
    pub(super) recoveries: BTreeMap<String, Latencies>,
    pub(super) counts: BTreeMap<String, u64>,
    /// Offsets that gateways committed too early.
    pub(super) early: u64,
}

/// What came of it.
pub(super) struct Ended {
    pub(super) verdict: Verdict,
    pub(super) tally: Tally,
    pub(super) sent: u64,
    pub(super) unanswered: u64,
    pub(super) unsettled_sessions: u64,
    /// What live sessions were neither pushed nor told of.
    pub(super) silent_gaps: u64,
}

impl Ended {
    pub(super) fn is_clean(&self) -> bool {
        let tally = &self.tally;
        let broken = tally.not_recovered + tally.not_live + self.unsettled_sessions + tally.early;
        self.verdict.ok && broken + self.silent_gaps == 0
    }
}

impl Plan<'_> {
    pub(super) fn run(
        &self,
        stack: &Stack,
        arena: &Arena<'_>,
        folder: &Path,
        mut random: Rng,
    ) -> Outcome<Ended> {
        let Sizes { users, devices, conversations, rate, messages } = self.sizes;
        let population = Population::plan(&mut random, users, conversations, MEMBERS);
        let database_url = stack.database_url()?;
        population.insert(&database_url)?;
        let minter = Minter::open(&stack.signing_key()?)?;
        progress!("perf: {users} users on {devices} devices; histories in {}", folder.display());
        let fleet = Fleet::start(stack, &minter, &population, devices, folder)?;
        let canary = Canary::start(stack, &minter, &mut random)?;
        canary.sing(Duration::from_secs(30)).ok_or_else(|| {
            Failure::Unreachable("no message was delivered within 30 s, before any fault".into())
        })?;
        let pacer = Pacer::start(&fleet, &population, rate, messages, random.fork());
        pacer.wait_begun();
        let mut tally = strike(self, arena, &canary, folder, random)?;
        let sent = pacer.finish(self.end_us);
        progress!("perf: {sent} messages sent; waiting for every client to have seen everything");
        let until_us = clock::now_us() + self.settle_us;
        let unsettled_sessions = fleet.settle(&database_url, &population, until_us)?;
        let unanswered = fleet.unanswered();
        let silent_gaps = fleet.silent_gaps();
        tally.notice_early(arena);
        attendance::check(stack, &minter, &population, &fleet, folder)?;
        fleet.finish()?;
        dumps::finals(stack, &minter, &population, folder)?;
        dumps::kafka(stack, &population, folder)?;
        let verdict = judge(&database_url, &population, folder)?;
        Ok(Ended { verdict, tally, sent, unanswered, unsettled_sessions, silent_gaps })
    }
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
        tally.cycle(&together, plan, arena, canary, &mut history, &mut random)?;
        tally.notice_early(arena);
    }
    history.flush().doing("the history")?;
    Ok(tally)
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
    /// Counters end with their process: what the gateways say together, at most, is kept.
    fn notice_early(&mut self, arena: &Arena<'_>) {
        // A gateway that does not answer says nothing.
        let early = scrape::gateways(arena.stack(), "offsets_committed_early_total", "");
        self.early = self.early.max(early.unwrap_or_default());
    }

    /// Some faults at once, followed until a message gets through again. Recovery counts from when the
    /// last one was over; that of several is told by their number.
    fn cycle(
        &mut self,
        faults: &[&Fault],
        plan: &Plan<'_>,
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
        let recovery = Recovery::follow(arena.stack(), canary, plan.probe, over_us)?;
        note(false)?;
        self.cycles += 1;
        self.not_recovered += u64::from(!recovery.is_recovered);
        self.not_live += u64::from(recovery.is_late);
        let name = match names.as_slice() {
            [name] => name.clone(),
            names => format!("{} at once", names.len()),
        };
        let (lasted, took) = (over_us - begun_us, recovery.at_us - over_us);
        let seconds = |us: u64| Duration::from_micros(us).as_secs_f64();
        let (together, lasted_s, took_s) = (names.join(" + "), seconds(lasted), seconds(took));
        let cycle = self.cycles;
        progress!(
            "perf: cycle {cycle}: {together}, {lasted_s:.2} s; {recovery} {took_s:.2} s later"
        );
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
    crate::check::dump(database_url, &ids, |row| dump.push(row))?;
    for row in &dump {
        writer.append(row).doing("the dump")?;
    }
    writer.flush().doing("the dump")?;
    checker::check(folder, dump).doing("the history")
}
