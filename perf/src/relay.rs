//! `perf relay`: the outbox's way into Kafka, without chatd and without clients: how fast a backlog
//! that appears at once is published, and how old rows get that come at a steady rate. What was
//! published is read back from Kafka, and judged: every row, once at least, in its key's order.

mod bloat;
mod log;
mod outbox;

use crate::clock;
use crate::failure::Outcome;
use crate::latency::per;
use crate::options::{RelayOptions, count, seconds, within};
use crate::report::{self, progress, rounded};
use crate::stack::Stack;
use bloat::Bloat;
use log::Log;
use outbox::Outbox;
use serde::Serialize;
use std::sync::atomic::{AtomicBool, Ordering};

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
    /// Of the table and of its indexes, from the beginning of the steady rate on; and the most in its
    /// second half, which is no more than in its first if nothing grows.
    outbox_bytes_start: i64,
    outbox_bytes_max: i64,
    outbox_bytes_late_max: i64,
    outbox_bytes_end: i64,
    outbox_index_bytes_start: i64,
    outbox_index_bytes_max: i64,
    outbox_index_bytes_late_max: i64,
    outbox_index_bytes_end: i64,
    age_is: &'static str,
}

pub(crate) fn run(options: &RelayOptions) -> Outcome {
    let backlog = within("--backlog", options.backlog, 1..=2_000_000)?;
    let conversations = within("--conversations", options.conversations, 1..=100_000)?;
    let rate = within("--rate", options.rate, 1..=100_000)?;
    let seconds = seconds(options.seconds)?;
    let stack = Stack::of(&options.common, 1)?;
    let mut log = Log::at_its_end(&stack.get("KAFKA_BROKERS")?)?;
    let database_url = stack.database_url()?;
    let mut outbox = Outbox::connect(&database_url, count(conversations))?;

    progress!("perf: {backlog} rows are committed at once");
    outbox.commit_at_once(count(backlog))?;
    let begun_us = clock::now_us();
    log.read_until(backlog)?;
    let took_us = log.last_us().saturating_sub(begun_us);
    progress!("perf: {rate} rows a second for {seconds} s");
    log.forget_ages();
    let steady = rate * seconds;
    let is_done = AtomicBool::new(false);
    let bloat = std::thread::scope(|scope| {
        let writing = scope.spawn(|| outbox.commit_steadily(rate, steady));
        let looking = scope.spawn(|| bloat::watch(&database_url, &is_done, seconds));
        let read = log.read_until(backlog + steady);
        is_done.store(true, Ordering::Release);
        // They return by themselves: they are bounded in time, and panic nowhere.
        let written = writing.join().unwrap_or(Ok(()));
        let bloat = looking.join().unwrap_or(Ok(Bloat::default()));
        written.and(read).and(bloat)
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
        outbox_bytes_start: bloat.start.table,
        outbox_bytes_max: bloat.max.table,
        outbox_bytes_late_max: bloat.late_max.table,
        outbox_bytes_end: bloat.end.table,
        outbox_index_bytes_start: bloat.start.indexes,
        outbox_index_bytes_max: bloat.max.indexes,
        outbox_index_bytes_late_max: bloat.late_max.indexes,
        outbox_index_bytes_end: bloat.end.indexes,
        age_is: "from just before a row's commit until a consumer has it, at the steady rate",
    };
    report::print(&report, options.common.json)
}
