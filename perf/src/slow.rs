//! `perf slow`: what clients that read slowly or not at all, and clients that come and go, do to the
//! others. First without them, then beside them, then without them again, on the same sessions. What
//! is published is the same in all parts, so that the broker's load is no part of the difference.

mod clients;

use crate::clock::{self, Schedule};
use crate::failure::{Failure, Outcome};
use crate::fanout::source::{KafkaSink, Sink, Source};
use crate::limits::{SLOW_BUSY_EVENTS, SLOW_READ_BYTES_PER_S, STRAGGLERS_MS_MAX, WARM_UP_MS};
use crate::load::{self, Driver, Pace, Spec};
use crate::options::{SlowOptions, count, seconds, within};
use crate::process;
use crate::report::{self, progress, rounded};
use crate::scrape;
use crate::stack::Stack;
use crate::tokens::Minter;
use clients::Clients;
use proto::Uuid;
use proto::limits::INLINE_RECIPIENTS_MAX;
use serde::Serialize;
use std::time::Duration;

const CODE_OVERFLOW: &str = "code=\"4008\"";

#[derive(Serialize)]
struct Report {
    others_p99_ms_alone: f64,
    others_p99_ms_beside: f64,
    slow_closed: u64,
    slow_gapped: u64,
    lost: u64,
    rss_growth_bytes: u64,
    recent_events_growth_bytes: u64,
    others_p50_ms_alone: f64,
    others_p50_ms_beside: f64,
    others_max_ms_alone: f64,
    others_max_ms_beside: f64,
    reordered: u64,
    others_closed: u64,
    reconnects: u64,
    events_coalesced: u64,
    connections: u64,
    slow: usize,
    rate: u64,
    members: u64,
    seconds: u64,
    lost_is: &'static str,
    rss_growth_is: &'static str,
}

/// One part of the run.
struct Part {
    us: u64,
    /// With the slow ones, and with churn.
    beside: bool,
}

struct Run {
    driver: Driver,
    clients: Clients,
    specs: Vec<Spec>,
    others: Source,
    /// Conversations of the slow ones alone, busy enough to fill their rings. As few as there can be:
    /// many records would make the broker slow, and so everybody.
    busy: Source,
    rate: u64,
    busy_rate: u64,
    /// Time between two reconnects; None without churn.
    churn_us: Option<u64>,
    reconnects: u64,
    pids: Vec<i32>,
    bytes_most: u64,
}

pub(crate) fn run(options: &SlowOptions) -> Outcome {
    let connections =
        within("--connections", options.connections, 10..=process::connections_max()?)?;
    let slow_percent = within("--slow-percent", options.slow_percent, 1..=90)?;
    within("--churn-percent", options.churn_percent, 0..=1_000)?;
    let seconds = seconds(options.seconds)?.max(4);
    within("--rate", options.rate, 1..=100_000)?;
    let members = within("--members", options.members, 1..=1_024)?;
    let stack = Stack::of(&options.common, 1)?;
    let mut run = Run::prepare(options, &stack, slow_percent, members)?;
    let counter = |name: &str, label: &str| scrape::gateways(&stack, name, label);

    run.part(&Part { us: WARM_UP_MS * 2_000, beside: false })?;
    run.clients.take_latencies();
    let quarter_us = seconds * 250_000;
    progress!("perf: {} others alone", run.clients.others());
    run.part(&Part { us: quarter_us, beside: false })?;
    let mut alone = run.clients.take_latencies();
    let slow = run.open_slow()?;
    progress!("perf: the same beside {slow} slow ones");
    let closed_before = counter("connections_closed_total", CODE_OVERFLOW)?;
    let gapped_before = counter("gaps_told_total", "")?;
    let coalesced_before = counter("events_coalesced_total", "")?;
    let recent_before = counter("recent_bytes", "")?;
    let bytes_before = process::anonymous_bytes_sum(&run.pids)?;
    run.bytes_most = bytes_before;
    run.part(&Part { us: 2 * quarter_us, beside: true })?;
    let beside = run.clients.take_latencies();
    let closed = counter("connections_closed_total", CODE_OVERFLOW)? - closed_before;
    let gapped = counter("gaps_told_total", "")? - gapped_before;
    let coalesced = counter("events_coalesced_total", "")? - coalesced_before;
    let recent = counter("recent_bytes", "")?;
    run.close_slow();
    progress!("perf: alone again");
    run.part(&Part { us: quarter_us, beside: false })?;
    alone.add(&run.clients.take_latencies());

    let report = Report {
        others_p99_ms_alone: rounded(alone.ms_at(0.99)),
        others_p99_ms_beside: rounded(beside.ms_at(0.99)),
        slow_closed: closed,
        slow_gapped: gapped,
        lost: run.clients.lost(run.others.counts()),
        rss_growth_bytes: run.bytes_most - bytes_before,
        recent_events_growth_bytes: recent.saturating_sub(recent_before),
        others_p50_ms_alone: rounded(alone.ms_at(0.5)),
        others_p50_ms_beside: rounded(beside.ms_at(0.5)),
        others_max_ms_alone: rounded(alone.ms_max()),
        others_max_ms_beside: rounded(beside.ms_max()),
        reordered: run.clients.reordered(),
        others_closed: run.clients.closed(),
        reconnects: run.reconnects,
        events_coalesced: coalesced,
        connections,
        slow,
        rate: options.rate,
        members,
        seconds,
        lost_is: "events that one of the others did not get while it was connected; for one that \
                  reconnected, from the first event after it on",
        rss_growth_is: "the most private anonymous memory of the gateways beside the slow ones, less \
                        what it was before; recent events are kept until recovery.cache_bytes are \
                        taken, and are part of it",
    };
    run.driver.close_all();
    report::print(&report, options.common.json)?;
    if report.lost + report.reordered + report.others_closed > 0 {
        return Err(Failure::Refused(format!(
            "{} lost, {} reordered, {} of the others closed",
            report.lost, report.reordered, report.others_closed
        )));
    }
    Ok(())
}

impl Run {
    fn prepare(options: &SlowOptions, stack: &Stack, percent: u64, members: u64) -> Outcome<Self> {
        let connections = count(options.connections);
        let conversations = count(options.connections.div_ceil(members));
        let slow = count(options.connections * percent / 100).max(1);
        let others = connections - slow;
        let users: Vec<Uuid> = (0..connections).map(|_| proto::id::new()).collect();
        let minter = Minter::open(&stack.signing_key()?)?;
        let mut specs = load::specs(&stack.gateways()?, &minter, users.iter().copied())?;
        for (index, spec) in specs.iter_mut().enumerate().skip(others) {
            let bytes = if index % 2 == 0 { 0 } else { SLOW_READ_BYTES_PER_S };
            spec.pace = Pace::Slow(bytes);
        }
        let ids = |count: usize| (0..count).map(|_| proto::id::new()).collect::<Vec<Uuid>>();
        let conversation_ids = ids(conversations);
        let all = KafkaSink::open(stack, conversations, &users, 0)?;
        let busy_conversations = slow.div_ceil(INLINE_RECIPIENTS_MAX);
        let busy = KafkaSink::open(stack, busy_conversations, &users[others..], others)?;
        // Rings are full after three quarters of the part in which the slow ones are there, and before
        // their sockets have taken nothing for as long as the gateway's write deadline.
        let busy_per_s = (8 * SLOW_BUSY_EVENTS / 3 / options.seconds.max(4)).clamp(32, 64);
        let churned_per_minute = others as u64 * options.churn_percent / 100;
        let mut run = Self {
            driver: Driver::new()?,
            clients: Clients::new(others, connections, &conversation_ids),
            specs,
            others: Source::new(conversation_ids, Sink::Kafka(all)),
            busy: Source::new(ids(busy_conversations), Sink::Kafka(busy)),
            rate: options.rate,
            busy_rate: busy_conversations as u64 * busy_per_s,
            churn_us: 60_000_000_u64.checked_div(churned_per_minute),
            reconnects: 0,
            pids: stack.gateway_pids()?,
            bytes_most: 0,
        };
        run.driver.open_all(run.specs[..others].to_vec(), &mut run.clients)?;
        Ok(run)
    }

    fn open_slow(&mut self) -> Outcome<usize> {
        let specs = self.specs[self.clients.others()..].to_vec();
        let slow = specs.len();
        self.driver.open_all(specs, &mut self.clients)?;
        Ok(slow)
    }

    fn close_slow(&mut self) {
        for index in self.clients.others()..self.specs.len() {
            self.driver.close(index);
        }
    }

    /// Produces and receives for so long, until all is there or the patience is over.
    fn part(&mut self, part: &Part) -> Outcome {
        let start_us = clock::now_us() + 50_000;
        let seconds = part.us / 1_000_000 + 1;
        let schedule = Schedule::new(start_us, self.rate, seconds);
        let busy_schedule = Schedule::new(start_us, self.busy_rate, seconds);
        let (records, busy_records) =
            (self.rate * part.us / 1_000_000, self.busy_rate * part.us / 1_000_000);
        let (mut slow_at_us, mut churn_at_us) = (start_us, start_us);
        let Self { driver, clients, specs, others, busy, churn_us, reconnects, pids, .. } = self;
        let bytes_most = &mut self.bytes_most;
        std::thread::scope(|scope| -> Outcome {
            let producing = scope.spawn(|| others.produce(&schedule, records));
            let filling = scope.spawn(|| busy.produce(&busy_schedule, busy_records));
            while !producing.is_finished() || !filling.is_finished() {
                driver.run(Duration::from_millis(20), clients)?;
                let now_us = clock::now_us();
                if now_us >= slow_at_us {
                    slow_at_us += 1_000_000;
                    driver.read_slowly(clients);
                    let bytes = process::anonymous_bytes_sum(pids)?;
                    *bytes_most = if part.beside { bytes.max(*bytes_most) } else { *bytes_most };
                }
                if let Some(every_us) = churn_us.filter(|_| part.beside)
                    && now_us >= churn_at_us
                {
                    churn_at_us += every_us;
                    let index = fastrand::usize(..clients.others());
                    if clients.leave(index) {
                        *reconnects += 1;
                        driver.close(index);
                        driver.reopen(index, specs[index].clone());
                    }
                }
            }
            let ended = |_| Failure::Refused("the producer ended".into());
            producing.join().map_err(ended)??;
            filling.join().map_err(ended)??;
            Ok(())
        })?;
        let until_us = clock::now_us() + STRAGGLERS_MS_MAX * 1_000;
        let counts = self.others.counts().to_vec();
        self.driver.run_until(until_us, &mut self.clients, |it: &Clients| it.lost(&counts) == 0)
    }
}
