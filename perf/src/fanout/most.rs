//! `perf fanout --find-most`: a rate that rises until events are late or missing.

use super::bench::Measured;
use super::gateway_bench;
use crate::failure::{Failure, Outcome};
use crate::limits::{MOST_P99_MS_MAX, MOST_STEP_PERCENT, WARM_UP_MS};
use crate::options::FanoutOptions;
use crate::report::{self, progress, rounded};
use crate::stack::Stack;
use crate::stolen::Stolen;
use serde::Serialize;
use std::sync::Arc;

#[derive(Serialize)]
struct Report {
    most_deliveries_per_s: u64,
    /// Of the gateways together, at that rate.
    gateway_cores: f64,
    /// What one core of gateways would deliver, of nothing else.
    deliveries_per_core_s: f64,
    cpu_us_per_event: f64,
    system_us_per_event: f64,
    p50_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
    lost: u64,
    reordered: u64,
    /// The first rate that was too much, and why.
    too_many_deliveries_per_s: u64,
    too_many_p99_ms: f64,
    too_many_missing: u64,
    connections: u64,
    conversations: u64,
    stolen_percent: f64,
}

/// The best step so far, or the one that was too much.
struct Step {
    deliveries_per_s: u64,
    measured: Measured,
}

pub(super) fn run(options: &FanoutOptions, stack: &Arc<Stack>, sizes: (usize, usize)) -> Outcome {
    progress!("perf: opening {} sessions", sizes.0);
    let mut bench = gateway_bench(stack, sizes)?;
    let step_us = options.seconds * 1_000_000 / options.rounds;
    let members = options.connections / options.conversations;
    let mut rate = options.rate;
    bench.round(rate, WARM_UP_MS * 1_000)?;
    let stolen = Stolen::start()?;
    let mut best: Option<Step> = None;
    let too_many = loop {
        let measured = bench.round(rate, step_us)?;
        let step = Step { deliveries_per_s: rate * members, measured };
        let p99_ms = step.measured.latencies.ms_at(0.99);
        progress!(
            "perf: {} deliveries/s: p99 {p99_ms:.1} ms, {} missing, {:.2} us each",
            step.deliveries_per_s,
            step.measured.missing,
            step.measured.cpu_us
        );
        if step.measured.missing > 0 || p99_ms >= MOST_P99_MS_MAX {
            break step;
        }
        best = Some(step);
        rate = (rate * (100 + MOST_STEP_PERCENT) / 100).max(rate + 1);
    };
    let stolen_percent = stolen.percent()?;
    let tally = bench.finish()?;
    let Some(Step { deliveries_per_s, measured }) = best else {
        return Err(Failure::Refused(format!(
            "{} deliveries a second were too many: begin lower (--rate)",
            too_many.deliveries_per_s
        )));
    };
    let report = Report {
        most_deliveries_per_s: deliveries_per_s,
        gateway_cores: rounded(measured.cores),
        deliveries_per_core_s: rounded(1e6 / measured.cpu_us.max(f64::MIN_POSITIVE)),
        cpu_us_per_event: rounded(measured.cpu_us),
        system_us_per_event: rounded(measured.system_us),
        p50_ms: rounded(measured.latencies.ms_at(0.5)),
        p99_ms: rounded(measured.latencies.ms_at(0.99)),
        p999_ms: rounded(measured.latencies.ms_at(0.999)),
        lost: tally.lost,
        reordered: tally.reordered,
        too_many_deliveries_per_s: too_many.deliveries_per_s,
        too_many_p99_ms: rounded(too_many.measured.latencies.ms_at(0.99)),
        too_many_missing: too_many.measured.missing,
        connections: options.connections,
        conversations: options.conversations,
        stolen_percent: rounded(stolen_percent),
    };
    report::print(&report, options.common.json)
}
