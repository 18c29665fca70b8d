//! `perf relay`: the outbox's way into Kafka, without chatd and without clients: how fast a backlog
//! that appears at once is published, and how old rows get that come at a steady rate. What was
//! published is read back from Kafka, and judged: every row, once at least, in its key's order.

mod log;
mod outbox;

use crate::clock;
use crate::failure::Outcome;
use crate::latency::per;
use crate::options::{RelayOptions, count, seconds, within};
use crate::report::{self, progress, rounded};
use crate::stack::Stack;
use log::Log;
use outbox::Outbox;
use serde::Serialize;

#[derive(Serialize)]
struct Report {
    published_per_s: f64,
    reordered: u64,
    lost: u64,
    duplicates: u64,
    age_p50_ms: f64,
    age_p99_ms: f64,
    age_max_ms: f64,
    backlog: u64,
    conversations: u64,
    rate: u64,
    seconds: u64,
    age_is: &'static str,
}

pub(crate) fn run(options: &RelayOptions) -> Outcome {
    let backlog = within("--backlog", options.backlog, 1..=2_000_000)?;
    let conversations = within("--conversations", options.conversations, 1..=100_000)?;
    let rate = within("--rate", options.rate, 1..=100_000)?;
    let seconds = seconds(options.seconds)?;
    let stack = Stack::of(&options.common, 1)?;
    let mut log = Log::at_its_end(&stack.get("KAFKA_BROKERS")?)?;
    let mut outbox = Outbox::connect(&stack.database_url()?, count(conversations))?;

    progress!("perf: {backlog} rows are committed at once");
    outbox.commit_at_once(count(backlog))?;
    let begun_us = clock::now_us();
    log.read_until(backlog)?;
    let took_us = log.last_us().saturating_sub(begun_us);
    progress!("perf: {rate} rows a second for {seconds} s");
    log.forget_ages();
    let steady = rate * seconds;
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| outbox.commit_steadily(rate, steady));
        let read = log.read_until(backlog + steady);
        // It returns by itself: it is bounded in time, and panics nowhere.
        writing.join().unwrap_or(Ok(())).and(read)
    })?;
    let (ages, verdict) = (log.ages(), log.verdict(backlog + steady));
    let report = Report {
        published_per_s: rounded(per(backlog * 1_000_000, took_us)),
        reordered: verdict.reordered,
        lost: verdict.lost,
        duplicates: verdict.duplicates,
        age_p50_ms: rounded(ages.ms_at(0.5)),
        age_p99_ms: rounded(ages.ms_at(0.99)),
        age_max_ms: rounded(ages.ms_max()),
        backlog,
        conversations,
        rate,
        seconds,
        age_is: "from just before a row's commit until a consumer has it, at the steady rate",
    };
    report::print(&report, options.common.json)
}
