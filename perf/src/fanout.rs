//! `perf fanout`: events produced straight to Kafka, so that the gateway alone is measured, beside
//! a bare epoll loop that writes the same bytes at the same rate to as many sockets.
//!
//! ```text
//! source --> Kafka --> gateway --> receiving loop --+
//!                                                   +--> in turns
//! source --> pipe --> floor -----> receiving loop --+
//! ```
//! Each receiving loop is a thread with a descriptor table of its own, so that the limit of open
//! files is the limit of one side's sessions.

pub(crate) mod bench;
pub(crate) mod floor;
mod most;
pub(crate) mod receive;
pub(crate) mod source;

use crate::failure::{Failure, Outcome};
use crate::latency::{Latencies, median};
use crate::limits::WARM_UP_MS;
use crate::load;
use crate::options::{FanoutOptions, count, seconds, within};
use crate::process;
use crate::report::{self, progress, rounded};
use crate::scrape::{self, Buckets};
use crate::stack::Stack;
use crate::stolen::Stolen;
use crate::tokens::Minter;
use bench::{Bench, Measured, Tally};
use floor::Floor;
use proto::Uuid;
use serde::Serialize;
use source::{KafkaSink, Sink, Source};
use std::sync::Arc;

/// Largest audience that travels in a record's headers.
const MEMBERS_MAX: u64 = 1_024;
/// The gateways' metric of the broker's share.
const POLL_LATENCY: &str = "poll_latency_ms";

#[derive(Serialize)]
struct Report {
    events: u64,
    lost: u64,
    cpu_us_per_event: f64,
    floor_cpu_us_per_event: f64,
    ratio_to_floor: f64,
    /// The kernel's part of both.
    system_us_per_event: f64,
    floor_system_us_per_event: f64,
    p50_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
    max_ms: f64,
    /// From an event's creation to its record's poll by a gateway.
    broker_p50_ms: f64,
    broker_p99_ms: f64,
    broker_p999_ms: f64,
    duplicates: u64,
    reordered: u64,
    deliveries_per_s: u64,
    connections: u64,
    conversations: u64,
    rate: u64,
    seconds: u64,
    cpu_us_per_event_by_round: Vec<f64>,
    floor_cpu_us_per_event_by_round: Vec<f64>,
    floor_events: u64,
    floor_p50_ms: f64,
    floor_p99_ms: f64,
    floor_max_ms: f64,
    event_bytes: usize,
    sessions_closed: u64,
    /// Time that the machine's host gave to others while it was wanted here.
    stolen_percent: f64,
}

pub(crate) fn run(options: &FanoutOptions) -> Outcome {
    let most = process::connections_max()?;
    let connections = within("--connections", options.connections, 1..=most)?;
    let conversations = within("--conversations", options.conversations, 1..=connections)?;
    let seconds = seconds(options.seconds)?;
    let rounds = within("--rounds", options.rounds, 1..=seconds)?;
    let rate = within("--rate", options.rate, 1..=1_000_000)?;
    let members = connections.div_ceil(conversations);
    within("--connections / --conversations", members, 1..=MEMBERS_MAX)?;
    let stack = Arc::new(Stack::of(&options.common, 1)?);
    let sizes = (count(connections), count(conversations));
    if options.find_most {
        return most::run(options, &stack, sizes);
    }
    progress!("perf: opening {connections} sessions at the gateway and as many at the floor");
    let mut benches = [
        gateway_bench(&stack, sizes)?,
        Bench::start("floor", sizes, move |ids| floor_side(sizes, ids))?,
    ];
    // Both sides once, unmeasured: buffers, topics and caches come to life.
    let round_us = seconds * 1_000_000 / rounds;
    for bench in &mut benches {
        bench.round(rate, WARM_UP_MS * 1_000)?;
    }
    let polled_before = scrape::histogram(&stack, POLL_LATENCY)?;
    let stolen = Stolen::start()?;
    let mut sides = [Rounds::new(), Rounds::new()];
    for round in 1..=rounds {
        let mut last = [0.0; 2];
        for ((bench, side), last) in benches.iter_mut().zip(&mut sides).zip(&mut last) {
            let measured = bench.round(rate, round_us)?;
            *last = measured.cpu_us;
            side.add(&measured);
        }
        progress!("perf: round {round} of {rounds}: CPU per event {last:.2?} us");
    }
    let stolen_percent = stolen.percent()?;
    let polled = (polled_before, scrape::histogram(&stack, POLL_LATENCY)?);
    let [gateway, floor] = benches.map(Bench::finish);
    let (gateway, floor) = (gateway?, floor?);
    let [gateway_rounds, floor_rounds] = &sides;
    let report = report(
        options,
        (&gateway, gateway_rounds),
        (&floor, floor_rounds),
        &polled,
        stolen_percent,
    );
    report::print(&report, options.common.json)?;
    if gateway.lost + floor.lost + gateway.reordered > 0 {
        return Err(Failure::Refused(format!(
            "{} lost, {} reordered, {} lost by the floor",
            gateway.lost, gateway.reordered, floor.lost
        )));
    }
    Ok(())
}

/// A side's rounds together.
struct Rounds {
    cpu_us: Vec<f64>,
    system_us: Vec<f64>,
    latencies: Latencies,
}

impl Rounds {
    fn new() -> Self {
        Self { cpu_us: Vec::new(), system_us: Vec::new(), latencies: Latencies::new() }
    }

    fn add(&mut self, round: &Measured) {
        self.cpu_us.push(round.cpu_us);
        self.system_us.push(round.system_us);
        self.latencies.add(&round.latencies);
    }
}

/// The gateways, with sessions and events for them.
pub(crate) fn gateway_bench(stack: &Arc<Stack>, sizes: (usize, usize)) -> Outcome<Bench> {
    let stack = Arc::clone(stack);
    Bench::start("gateway", sizes, move |ids| gateway_side(&stack, sizes, ids))
}

fn gateway_side(
    stack: &Stack,
    (connections, conversations): (usize, usize),
    ids: &[Uuid],
) -> Outcome<bench::Side> {
    let users: Vec<Uuid> = (0..connections).map(|_| proto::id::new()).collect();
    let minter = Minter::open(&stack.signing_key()?)?;
    let specs = load::specs(&stack.gateways()?, &minter, users.iter().copied())?;
    let kafka = KafkaSink::open(stack, conversations, &users, 0)?;
    let source = Source::new(ids.to_vec(), Sink::Kafka(kafka));
    Ok(bench::Side { specs, source, pids: stack.gateway_pids()?, floor: None })
}

fn floor_side((connections, conversations): (usize, usize), ids: &[Uuid]) -> Outcome<bench::Side> {
    let Floor { address, feed, child } = Floor::start()?;
    let spec = |session: usize| load::Spec {
        address,
        source: load::source(address, session),
        tls: None,
        path: format!("/{}", session % conversations),
        token: String::new(),
        hello: load::live(),
        pace: load::Pace::Full,
    };
    let specs = (0..connections).map(spec).collect();
    let source = Source::new(ids.to_vec(), Sink::Pipe(feed));
    Ok(bench::Side { specs, source, pids: vec![child.pid()?], floor: Some(child) })
}

fn report(
    options: &FanoutOptions,
    (gateway, rounds): (&Tally, &Rounds),
    (floor, floor_rounds): (&Tally, &Rounds),
    (before, after): &(Buckets, Buckets),
    stolen_percent: f64,
) -> Report {
    let cpu = median(&rounds.cpu_us);
    let floor_cpu = median(&floor_rounds.cpu_us);
    let (latencies, floor_latencies) = (&rounds.latencies, &floor_rounds.latencies);
    let each = |values: &[f64]| values.iter().map(|it| rounded(*it)).collect();
    Report {
        events: gateway.events,
        lost: gateway.lost,
        cpu_us_per_event: rounded(cpu),
        floor_cpu_us_per_event: rounded(floor_cpu),
        ratio_to_floor: rounded(cpu / floor_cpu.max(f64::MIN_POSITIVE)),
        system_us_per_event: rounded(median(&rounds.system_us)),
        floor_system_us_per_event: rounded(median(&floor_rounds.system_us)),
        p50_ms: rounded(latencies.ms_at(0.5)),
        p99_ms: rounded(latencies.ms_at(0.99)),
        p999_ms: rounded(latencies.ms_at(0.999)),
        max_ms: rounded(latencies.ms_max()),
        broker_p50_ms: rounded(scrape::quantile(before, after, 0.5)),
        broker_p99_ms: rounded(scrape::quantile(before, after, 0.99)),
        broker_p999_ms: rounded(scrape::quantile(before, after, 0.999)),
        duplicates: gateway.duplicates,
        reordered: gateway.reordered,
        deliveries_per_s: options.rate * options.connections / options.conversations,
        connections: options.connections,
        conversations: options.conversations,
        rate: options.rate,
        seconds: options.seconds,
        cpu_us_per_event_by_round: each(&rounds.cpu_us),
        floor_cpu_us_per_event_by_round: each(&floor_rounds.cpu_us),
        floor_events: floor.events,
        floor_p50_ms: rounded(floor_latencies.ms_at(0.5)),
        floor_p99_ms: rounded(floor_latencies.ms_at(0.99)),
        floor_max_ms: rounded(floor_latencies.ms_max()),
        event_bytes: crate::limits::FANOUT_EVENT_BYTES,
        sessions_closed: gateway.closed,
        stolen_percent: rounded(stolen_percent),
    }
}
