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

mod bench;
pub(crate) mod floor;
pub(crate) mod receive;
pub(crate) mod source;

use crate::failure::{Failure, Outcome};
use crate::latency::median;
use crate::limits::WARM_UP_MS;
use crate::load;
use crate::options::{FanoutOptions, count, seconds, within};
use crate::process;
use crate::report::{self, progress, rounded};
use crate::scrape::{self, Buckets};
use crate::stack::Stack;
use crate::stolen::Stolen;
use crate::tokens::Minter;
use bench::{Bench, Tally};
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
    p50_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
    max_ms: f64,
    /// From an event's creation to its record's poll by a gateway.
    broker_p50_ms: f64,
    broker_p99_ms: f64,
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
    progress!("perf: opening {connections} sessions at the gateway and as many at the floor");
    let sizes = (count(connections), count(conversations));
    let mut benches = [
        Bench::start("gateway", sizes, {
            let stack = Arc::clone(&stack);
            move |ids| gateway_side(&stack, sizes, ids)
        })?,
        Bench::start("floor", sizes, move |ids| floor_side(sizes, ids))?,
    ];
    // Both sides once, unmeasured: buffers, topics and caches come to life.
    let round_us = seconds * 1_000_000 / rounds;
    for bench in &mut benches {
        bench.round(rate, WARM_UP_MS * 1_000, false)?;
    }
    let polled_before = scrape::histogram(&stack, POLL_LATENCY)?;
    let stolen = Stolen::start()?;
    for round in 1..=rounds {
        let mut last = [0.0; 2];
        for (bench, last) in benches.iter_mut().zip(&mut last) {
            *last = bench.round(rate, round_us, true)?;
        }
        progress!("perf: round {round} of {rounds}: CPU per event {last:.2?} us");
    }
    let stolen_percent = stolen.percent()?;
    let polled = (polled_before, scrape::histogram(&stack, POLL_LATENCY)?);
    let [gateway, floor] = benches.map(Bench::finish);
    let (gateway, floor) = (gateway?, floor?);
    let report = report(options, &gateway, &floor, &polled, stolen_percent);
    report::print(&report, options.common.json)?;
    if gateway.lost + floor.lost + gateway.reordered > 0 {
        return Err(Failure::Refused(format!(
            "{} lost, {} reordered, {} lost by the floor",
            gateway.lost, gateway.reordered, floor.lost
        )));
    }
    Ok(())
}

fn gateway_side(
    stack: &Stack,
    (connections, conversations): (usize, usize),
    ids: &[Uuid],
) -> Outcome<bench::Side> {
    let users: Vec<Uuid> = (0..connections).map(|_| proto::id::new()).collect();
    let minter = Minter::open(&stack.signing_key()?)?;
    let specs = load::specs(&stack.gateways()?, &minter, users.iter().copied())?;
    let kafka = KafkaSink::open(&stack.get("KAFKA_BROKERS")?, conversations, &users)?;
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
    gateway: &Tally,
    floor: &Tally,
    (before, after): &(Buckets, Buckets),
    stolen_percent: f64,
) -> Report {
    let cpu = median(&gateway.cpu_us_per_event);
    let floor_cpu = median(&floor.cpu_us_per_event);
    let (latencies, floor_latencies) = (&gateway.latencies, &floor.latencies);
    let each = |values: &[f64]| values.iter().map(|it| rounded(*it)).collect();
    Report {
        events: gateway.events,
        lost: gateway.lost,
        cpu_us_per_event: rounded(cpu),
        floor_cpu_us_per_event: rounded(floor_cpu),
        ratio_to_floor: rounded(cpu / floor_cpu.max(f64::MIN_POSITIVE)),
        p50_ms: rounded(latencies.ms_at(0.5)),
        p99_ms: rounded(latencies.ms_at(0.99)),
        p999_ms: rounded(latencies.ms_at(0.999)),
        max_ms: rounded(latencies.ms_max()),
        broker_p50_ms: rounded(scrape::quantile(before, after, 0.5)),
        broker_p99_ms: rounded(scrape::quantile(before, after, 0.99)),
        duplicates: gateway.duplicates,
        reordered: gateway.reordered,
        deliveries_per_s: options.rate * options.connections / options.conversations,
        connections: options.connections,
        conversations: options.conversations,
        rate: options.rate,
        seconds: options.seconds,
        cpu_us_per_event_by_round: each(&gateway.cpu_us_per_event),
        floor_cpu_us_per_event_by_round: each(&floor.cpu_us_per_event),
        floor_events: floor.events,
        floor_p50_ms: rounded(floor_latencies.ms_at(0.5)),
        floor_p99_ms: rounded(floor_latencies.ms_at(0.99)),
        floor_max_ms: rounded(floor_latencies.ms_max()),
        event_bytes: crate::limits::FANOUT_EVENT_BYTES,
        sessions_closed: gateway.closed,
        stolen_percent: rounded(stolen_percent),
    }
}
