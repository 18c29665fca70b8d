//! `perf write`: durable sends through chatd's write engine, beside one transaction a message on
//! the same tables. The two take turns, so that both meet the same disk on the same day.
//!
//! chatd is asked over its link, as a gateway asks, with many sends in flight. Everything else of
//! the stack stays up meanwhile: what either side commits is relayed and pushed at the same time,
//! and a side begins once all that was committed before is relayed.

mod lone;
mod naive;
mod pgbench;

use crate::clock;
use crate::failure::{Context, Failure, Outcome};
use crate::latency::{Latencies, median, per};
use crate::limits::{DRAIN_S_MAX, WARM_UP_MS};
use crate::options::{WriteOptions, count, seconds, within};
use crate::population::{self, Population};
use crate::report::{self, progress, rounded};
use crate::stack::{Link, Stack};
use crate::stolen::Stolen;
use crossbeam_channel::{Receiver, unbounded};
use daemon::link::{Client, ClientSettings, LinkError};
use fastrand::Rng;
use proto::link::{Send, request, response};
use serde::Serialize;
use std::time::Duration;

/// Users that the conversations are dealt out to, two each.
const USERS: usize = 200;
/// Wait for the link, and for the answers still under way at the end of a round.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Serialize)]
struct Report {
    durable_per_s: f64,
    naive_per_s: f64,
    ratio: f64,
    fsync: bool,
    p50_ms: f64,
    p99_ms: f64,
    durable_per_s_by_round: Vec<f64>,
    naive_per_s_by_round: Vec<f64>,
    naive_connections: usize,
    /// PostgreSQL's own benchmark doing what the naive side does, where there is one.
    pgbench_per_s: Option<f64>,
    ratio_to_pgbench: Option<f64>,
    /// One send at a time, beside a bare commit of one row.
    lone_p50_ms: f64,
    bare_commit_p50_ms: f64,
    lone_ratio: f64,
    stolen_percent: f64,
    in_flight: u64,
    conversations: u64,
    text_bytes: u64,
    retried: u64,
}

struct Answer {
    asked_at_us: u64,
    /// When the link had it.
    at_us: u64,
    outcome: Result<response::Response, LinkError>,
}

/// chatd's link, kept full.
pub(crate) struct Engine {
    client: Client<u64>,
    answers: Receiver<Answer>,
    population: Population,
    random: Rng,
    text: String,
    next: u64,
    in_flight: u64,
    in_flight_max: u64,
    latencies: Latencies,
    retried: u64,
}

pub(crate) fn run(options: &WriteOptions) -> Outcome {
    let seconds = seconds(options.seconds)?;
    let rounds = within("--rounds", options.rounds, 1..=seconds)?;
    let conversations = within("--conversations", options.conversations, 1..=100_000)?;
    let text_bytes = within("--text-bytes", options.text_bytes, 1..=16_384)?;
    within("--in-flight", options.in_flight, 1..=16_000)?;
    let stack = Stack::of(&options.common, 1)?;
    let database_url = stack.database_url()?;
    let mut random = Rng::with_seed(options.common.seed);
    let population = Population::plan(&mut random, USERS, count(conversations), 2);
    population.insert(&database_url)?;
    let fsync = is_durable(&database_url)?;
    let text_len = count(text_bytes);
    let naive = naive::Naive::new(&database_url, &population, text_len);
    let mut outbox = population::connect(&database_url)?;
    let link = stack.link("chatd")?;
    let mut engine = Engine::start(&link, population, random, options.in_flight, text_bytes)?;
    let round_us = seconds * 1_000_000 / rounds;
    let (mut durable_per_s, mut naive_per_s) = (Vec::new(), Vec::new());
    let stolen = Stolen::start()?;
    for round in 1..=rounds {
        drain(&mut outbox)?;
        durable_per_s.push(engine.round(round_us)?);
        drain(&mut outbox)?;
        naive_per_s.push(naive.round(round_us, options.common.seed + round)?);
        let (ours, theirs) = (durable_per_s.last(), naive_per_s.last());
        progress!("perf: round {round} of {rounds}: {ours:.0?} and {theirs:.0?} a second");
    }
    let stolen_percent = stolen.percent()?;
    let (durable, naive) = (median(&durable_per_s), median(&naive_per_s));
    drain(&mut outbox)?;
    let round_s = seconds.div_ceil(rounds);
    let pgbench = pgbench::measure(&database_url, &engine.population, text_len, round_s)?;
    let lone = lone::measure(&mut engine, &database_url)?;
    let report = Report {
        durable_per_s: rounded(durable),
        naive_per_s: rounded(naive),
        ratio: rounded(durable / naive.max(f64::MIN_POSITIVE)),
        fsync,
        p50_ms: rounded(engine.latencies.ms_at(0.5)),
        p99_ms: rounded(engine.latencies.ms_at(0.99)),
        durable_per_s_by_round: durable_per_s.into_iter().map(rounded).collect(),
        naive_per_s_by_round: naive_per_s.into_iter().map(rounded).collect(),
        naive_connections: crate::limits::NAIVE_CONNECTIONS,
        pgbench_per_s: pgbench.map(rounded),
        ratio_to_pgbench: pgbench.map(|it| rounded(durable / it.max(f64::MIN_POSITIVE))),
        lone_p50_ms: rounded(lone.send_p50_ms),
        bare_commit_p50_ms: rounded(lone.commit_p50_ms),
        lone_ratio: rounded(lone.send_p50_ms / lone.commit_p50_ms.max(f64::MIN_POSITIVE)),
        stolen_percent: rounded(stolen_percent),
        in_flight: options.in_flight,
        conversations,
        text_bytes,
        retried: engine.retried,
    };
    report::print(&report, options.common.json)
}

/// Waits until everything that is committed is relayed.
pub(crate) fn drain(client: &mut postgres::Client) -> Outcome {
    let is_empty = "SELECT NOT EXISTS (SELECT FROM messaging.outbox)";
    let until_us = clock::now_us() + DRAIN_S_MAX * 1_000_000;
    while !client.query_one(is_empty, &[]).reaching("PostgreSQL")?.get::<_, bool>(0) {
        if clock::now_us() > until_us {
            let reason =
                format!("the outbox is not empty after {DRAIN_S_MAX} s; does a relay run?");
            return Err(Failure::Refused(reason));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Does PostgreSQL wait for the disk before it says that a transaction is committed?
fn is_durable(database_url: &str) -> Outcome<bool> {
    let mut client = population::connect(database_url)?;
    let mut setting = |name: &str| -> Outcome<String> {
        let row = client.query_one(&format!("SHOW {name}"), &[]).reaching("PostgreSQL")?;
        Ok(row.get(0))
    };
    Ok(setting("fsync")? == "on" && setting("synchronous_commit")? == "on")
}

impl Engine {
    pub(crate) fn start(
        link: &Link,
        population: Population,
        random: Rng,
        in_flight_max: u64,
        text_bytes: u64,
    ) -> Outcome<Self> {
        let (done, answers) = unbounded();
        let settings = ClientSettings {
            address: link.address.clone(),
            secret: link.secret.clone(),
            instance: "perf".into(),
            in_flight_max: count(in_flight_max),
        };
        let on_answer = move |asked_at_us, outcome| {
            // The receiver is gone only when the run is over.
            drop(done.send(Answer { asked_at_us, at_us: clock::now_us(), outcome }));
        };
        let client = Client::start(settings, on_answer, |_| {}).reaching("chatd's link")?;
        let until_us = clock::now_us() + 10_000_000;
        while !client.is_connected() {
            if clock::now_us() > until_us {
                return Err(Failure::Unreachable("chatd's link does not come up".into()));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Self {
            client,
            answers,
            population,
            random,
            text: "x".repeat(count(text_bytes)),
            next: 0,
            in_flight: 0,
            in_flight_max,
            latencies: Latencies::new(),
            retried: 0,
        })
    }

    /// Messages that chatd took so far, in warm-ups, too.
    pub(crate) fn taken(&self) -> u64 {
        self.next - self.in_flight - self.retried
    }

    /// One round at full speed; gives back acknowledgements a second after the warm-up.
    pub(crate) fn round(&mut self, round_us: u64) -> Outcome<f64> {
        let start_us = clock::now_us() + WARM_UP_MS * 1_000;
        let end_us = start_us + round_us;
        let mut acked = 0;
        while clock::now_us() < end_us {
            while self.in_flight < self.in_flight_max {
                self.submit()?;
            }
            acked += self.take_one(start_us, end_us)?;
            while let Ok(answer) = self.answers.try_recv() {
                acked += self.took(answer, start_us, end_us)?;
            }
        }
        while self.in_flight > 0 {
            self.take_one(u64::MAX, 0)?;
        }
        Ok(per(acked * 1_000_000, round_us))
    }

    /// One send to a conversation, and nothing beside it; microseconds until its acknowledgement.
    fn lone(&mut self, at: usize) -> Outcome<u64> {
        self.submit_to(at)?;
        let answer = self.next_answer()?;
        let took_us = answer.at_us.saturating_sub(answer.asked_at_us);
        self.took(answer, u64::MAX, 0)?;
        Ok(took_us)
    }

    fn submit(&mut self) -> Outcome {
        let at = self.random.usize(..self.population.conversations.len());
        self.submit_to(at)
    }

    fn submit_to(&mut self, at: usize) -> Outcome {
        let conversation = &self.population.conversations[at];
        let sender = self.population.users[conversation.members[0]];
        self.next += 1;
        let send = proto::client::Send {
            conversation_id: conversation.id.as_bytes().to_vec(),
            idempotency_key: format!("perf-{}", self.next),
            text: self.text.clone(),
        };
        let id = sender.as_bytes().to_vec();
        let send = Send { sender_id: id.clone(), device_id: id, send: Some(send) };
        let request = request::Request::Send(send);
        match self.client.submit(request, String::new(), PATIENCE, clock::now_us()) {
            Ok(()) => self.in_flight += 1,
            Err((_, LinkError::Full)) => std::thread::yield_now(),
            Err((_, error)) => return Err(error).reaching("chatd's link"),
        }
        Ok(())
    }

    /// Waits for one answer.
    fn take_one(&mut self, start_us: u64, end_us: u64) -> Outcome<u64> {
        let answer = self.next_answer()?;
        self.took(answer, start_us, end_us)
    }

    fn next_answer(&self) -> Outcome<Answer> {
        self.answers.recv_timeout(PATIENCE).reaching("chatd, which does not answer")
    }

    /// Counts an acknowledgement within the measured time.
    fn took(&mut self, answer: Answer, start_us: u64, end_us: u64) -> Outcome<u64> {
        self.in_flight -= 1;
        match answer.outcome.reaching("chatd")? {
            response::Response::Sent(_) => {
                let counts = (start_us..end_us).contains(&answer.at_us);
                if counts {
                    self.latencies.record_us(answer.at_us.saturating_sub(answer.asked_at_us));
                }
                Ok(u64::from(counts))
            }
            response::Response::Error(error) if error.retryable => {
                self.retried += 1;
                Ok(0)
            }
            response::Response::Error(error) => {
                Err(Failure::Refused(format!("{}: {}", error.code, error.message)))
            }
            _ => Err(Failure::Refused("chatd answered a send with something else".into())),
        }
    }
}
