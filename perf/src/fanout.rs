//! `perf fanout`: events produced straight to Kafka, so that the gateway alone is measured, beside
//! a bare epoll loop that writes the same bytes at the same rate to as many sockets.
//!
//! ```text
//! source --> Kafka --> gateway --+
//!                                +--> one receiving loop, in turns
//! source --> pipe --> floor -----+
//! ```

pub(crate) mod floor;
mod receive;
mod source;

use crate::clock::{self, Schedule};
use crate::failure::{Failure, Outcome};
use crate::latency::{median, per};
use crate::limits::{STRAGGLERS_MS_MAX, WARM_UP_MS};
use crate::load::{self, Driver, Spec};
use crate::options::{FanoutOptions, count, seconds, within};
use crate::process;
use crate::report::{self, progress, rounded};
use crate::stack::Stack;
use crate::tokens::Minter;
use floor::Floor;
use proto::Uuid;
use receive::{Receiver, Side};
use serde::Serialize;
use source::{KafkaSink, Sink, Source};
use std::time::Duration;

/// Largest audience that travels in a record's headers.
const MEMBERS_MAX: u64 = 1_024;

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
}

/// One side: who writes, whose CPU counts.
struct Contender {
    side: Side,
    source: Source,
    pids: Vec<i32>,
    cpu_us_per_event: Vec<f64>,
}

pub(crate) fn run(options: &FanoutOptions) -> Outcome {
    let most = process::connections_max()? / 2;
    let connections = within("--connections", options.connections, 1..=most)?;
    let conversations = within("--conversations", options.conversations, 1..=connections)?;
    let seconds = seconds(options.seconds)?;
    let rounds = within("--rounds", options.rounds, 1..=seconds)?;
    let rate = within("--rate", options.rate, 1..=1_000_000)?;
    let members = connections.div_ceil(conversations);
    within("--connections / --conversations", members, 1..=MEMBERS_MAX)?;
    let stack = Stack::of(&options.common, 1)?;
    let mut receiver = Receiver::new(count(connections), count(conversations));
    let mut driver = Driver::new()?;
    progress!("perf: opening {connections} sessions at the gateway and as many at the floor");
    let users: Vec<Uuid> = (0..connections).map(|_| proto::id::new()).collect();
    let minter = Minter::open(&stack.signing_key()?)?;
    let specs = load::specs(&stack.gateways()?, &minter, users.iter().copied())?;
    driver.open_all(specs, &mut receiver)?;
    let floor = Floor::start()?;
    driver.open_all(floor_specs(&floor, connections, conversations), &mut receiver)?;

    let kafka = KafkaSink::open(&stack.get("KAFKA_BROKERS")?, &receiver, &users)?;
    let mut contenders = [
        contender(Side::Gateway, &receiver, Sink::Kafka(kafka), stack.gateway_pids()?),
        contender(Side::Floor, &receiver, Sink::Pipe(floor.feed), vec![floor.child.pid()?]),
    ];
    // Both sides once, unmeasured: buffers, topics and caches come to life.
    let round_us = seconds * 1_000_000 / rounds;
    for contender in &mut contenders {
        contender.round(&mut driver, &mut receiver, rate, WARM_UP_MS * 1_000)?;
        contender.cpu_us_per_event.clear();
    }
    receiver.forget_latencies();
    for round in 1..=rounds {
        for contender in &mut contenders {
            contender.round(&mut driver, &mut receiver, rate, round_us)?;
        }
        let last = contenders.each_ref().map(|it| it.cpu_us_per_event.last().copied());
        progress!("perf: round {round} of {rounds}: CPU per event {last:.2?} us");
    }
    driver.close_all();
    let report = report(options, &receiver, &contenders);
    report::print(&report, options.common.json)?;
    let floor_lost = receiver.lost(Side::Floor, contenders[1].source.counts());
    if report.lost + floor_lost + report.reordered > 0 {
        return Err(Failure::Refused(format!(
            "{} lost, {} reordered, {floor_lost} lost by the floor",
            report.lost, report.reordered
        )));
    }
    Ok(())
}

fn floor_specs(floor: &Floor, connections: u64, conversations: u64) -> Vec<Spec> {
    let spec = |session: u64| Spec {
        address: floor.address,
        source: load::source(floor.address, count(session)),
        tls: None,
        path: format!("/{}", session % conversations),
        token: String::new(),
    };
    (0..connections).map(spec).collect()
}

fn contender(side: Side, receiver: &Receiver, sink: Sink, pids: Vec<i32>) -> Contender {
    let source = Source::new(receiver.conversations(side).to_vec(), sink);
    Contender { side, source, pids, cpu_us_per_event: Vec::new() }
}

impl Contender {
    /// Produces at the rate and receives, until all is there or the patience is over.
    fn round(
        &mut self,
        driver: &mut Driver,
        receiver: &mut Receiver,
        rate: u64,
        round_us: u64,
    ) -> Outcome {
        let before = receiver.events(self.side);
        let cpu_before = process::cpu_ns_sum(&self.pids)?;
        let start_us = clock::now_us() + 50_000;
        // A round need not be whole seconds: cut by count.
        let records = rate * round_us / 1_000_000;
        let schedule = Schedule::new(start_us, rate, round_us / 1_000_000 + 1);
        let source = &mut self.source;
        let side = self.side;
        std::thread::scope(|scope| -> Outcome {
            let producing = scope.spawn(|| source.produce(&schedule, records));
            while !producing.is_finished() {
                driver.run(Duration::from_millis(50), receiver)?;
            }
            let expected = match producing.join() {
                Ok(outcome) => outcome? * receiver.sessions() / receiver.conversation_count(),
                Err(_) => return Err(Failure::Refused("the producer ended".into())),
            };
            let until_us = clock::now_us() + STRAGGLERS_MS_MAX * 1_000;
            let done = |it: &Receiver| it.events(side) >= before + expected;
            driver.run_until(until_us, receiver, done)
        })?;
        let events = receiver.events(self.side) - before;
        let cpu_ns = process::cpu_ns_sum(&self.pids)? - cpu_before;
        self.cpu_us_per_event.push(per(cpu_ns, events) / 1_000.0);
        Ok(())
    }
}

fn report(options: &FanoutOptions, receiver: &Receiver, contenders: &[Contender; 2]) -> Report {
    let [gateway, floor] = contenders;
    let cpu = median(&gateway.cpu_us_per_event);
    let floor_cpu = median(&floor.cpu_us_per_event);
    let latencies = receiver.latencies(Side::Gateway);
    let floor_latencies = receiver.latencies(Side::Floor);
    let each = |values: &[f64]| values.iter().map(|it| rounded(*it)).collect();
    Report {
        events: receiver.events(Side::Gateway),
        lost: receiver.lost(Side::Gateway, gateway.source.counts()),
        cpu_us_per_event: rounded(cpu),
        floor_cpu_us_per_event: rounded(floor_cpu),
        ratio_to_floor: rounded(cpu / floor_cpu.max(f64::MIN_POSITIVE)),
        p50_ms: rounded(latencies.ms_at(0.5)),
        p99_ms: rounded(latencies.ms_at(0.99)),
        p999_ms: rounded(latencies.ms_at(0.999)),
        max_ms: rounded(latencies.ms_max()),
        duplicates: receiver.duplicates(),
        reordered: receiver.reordered(),
        deliveries_per_s: options.rate * options.connections / options.conversations,
        connections: options.connections,
        conversations: options.conversations,
        rate: options.rate,
        seconds: options.seconds,
        cpu_us_per_event_by_round: each(&gateway.cpu_us_per_event),
        floor_cpu_us_per_event_by_round: each(&floor.cpu_us_per_event),
        floor_events: receiver.events(Side::Floor),
        floor_p50_ms: rounded(floor_latencies.ms_at(0.5)),
        floor_p99_ms: rounded(floor_latencies.ms_at(0.99)),
        floor_max_ms: rounded(floor_latencies.ms_max()),
        event_bytes: crate::limits::FANOUT_EVENT_BYTES,
        sessions_closed: receiver.closed(),
    }
}
