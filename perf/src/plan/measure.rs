//! What things cost on a stack, in a minute: the CPU time of each part while one thing alone is done.

mod sessions;
mod tails;
mod usage;

use super::Inputs;
use super::costs::Costs;
use crate::e2e::{Run, Scale};
use crate::failure::{Context, Failure, Outcome};
use crate::latency::per;
use crate::limits::{PLAN_IN_FLIGHT, PLAN_SENDS_PER_S, PLAN_SESSIONS, PLAN_TAILS};
use crate::options::count;
use crate::population::{self, Population};
use crate::process::connections_max;
use crate::report::{progress, rounded};
use crate::stack::Stack;
use crate::write::{self, Engine};
use fastrand::Rng;
use postgres::Client;
use proto::topics;
use std::path::Path;
use tails::Tails;
use usage::Usage;

/// Users and conversations of the write load, and of the sends by WebSocket.
const WRITERS: u64 = 200;

/// One phase of writing: so many messages, and what they took.
struct Written {
    messages: u64,
    took: Usage,
    postgresql_bytes: u64,
    kafka_bytes: u64,
}

pub(super) fn costs(stack: &Stack, inputs: &Inputs, seconds: u64, seed: u64) -> Outcome<Costs> {
    let phase_s = seconds / 4;
    let sessions_max = connections_max()?;
    if sessions_max < PLAN_SESSIONS as u64 {
        let words = format!(
            "{PLAN_SESSIONS} sessions are measured, but only {sessions_max} can be \
            opened: raise the limit of open files"
        );
        return Err(Failure::Refused(words));
    }
    let gateways = stack.gateway_pids()?.len() as u64;
    let database_url = stack.database_url()?;
    let mut random = Rng::with_seed(seed);
    let writers = count(WRITERS);
    let population = Population::plan(&mut random, writers, writers, 2);
    population.insert(&database_url)?;
    let mut database = population::connect(&database_url)?;
    let link = stack.link("chatd")?;
    let mut engine =
        Engine::start(&link, population, random, PLAN_IN_FLIGHT, inputs.message_bytes)?;
    progress!("perf: writing for {phase_s} s, three times");
    // Not measured: the broker compiles what it runs often while it runs it.
    write(stack, &mut engine, &mut database, phase_s)?;
    let alone = write(stack, &mut engine, &mut database, phase_s)?;
    let tails = Tails::start(&stack.get("KAFKA_BROKERS")?, PLAN_TAILS)?;
    let tailed = write(stack, &mut engine, &mut database, phase_s)?;
    tails.finish()?;
    drop(engine);

    let by_record = |written: &Written, part: &str| -> Outcome<f64> {
        Ok(written.took.us(part)? / per(written.messages, 1))
    };
    let kafka = by_record(&alone, "kafka")?;
    let tail = ((by_record(&tailed, "kafka")? - kafka) / per(PLAN_TAILS as u64, 1)).max(0.0);
    let gateway_record = by_record(&alone, "gateway")? / per(gateways, 1);
    let sessions = sessions::measure(stack, seconds, phase_s, gateway_record)?;
    let all_tails = gateway_record * per(gateways, 1);
    let send = sends(stack, inputs, phase_s, seed)? - all_tails - sessions.us_per_delivery;
    Ok(Costs {
        message_bytes: per(inputs.message_bytes, 1),
        chatd_cpu_us_per_send: rounded(by_record(&alone, "chatd")?),
        postgresql_cpu_us_per_send: rounded(by_record(&alone, "postgres")?),
        relay_cpu_us_per_record: rounded(by_record(&alone, "relay")?),
        kafka_cpu_us_per_record: rounded((kafka - tail * per(gateways, 1)).max(0.0)),
        kafka_cpu_us_per_record_and_gateway: rounded(tail),
        gateway_cpu_us_per_record: rounded(gateway_record),
        gateway_cpu_us_per_delivery: rounded(sessions.us_per_delivery),
        gateway_cpu_us_per_send: rounded(send.max(0.0)),
        gateway_cpu_us_per_session_and_s: rounded(sessions.gateway_us_per_s),
        presenced_cpu_us_per_session_and_s: rounded(sessions.presenced_us_per_s),
        redis_cpu_us_per_session_and_s: rounded(sessions.redis_us_per_s),
        gateway_bytes: per(sessions.gateway_bytes, gateways),
        gateway_bytes_per_session_user: rounded(sessions.user_bytes),
        gateway_bytes_per_session_kernel: rounded(sessions.kernel_bytes),
        redis_bytes_per_session: rounded(sessions.redis_bytes),
        postgresql_bytes_per_message: rounded(per(alone.postgresql_bytes, alone.messages)),
        kafka_bytes_per_record: rounded(per(alone.kafka_bytes, alone.messages)),
    })
}

/// At full speed, until all of it is relayed.
fn write(
    stack: &Stack,
    engine: &mut Engine,
    database: &mut Client,
    phase_s: u64,
) -> Outcome<Written> {
    write::drain(database)?;
    let (messages, before) = (engine.taken(), Usage::now(stack)?);
    let bytes_before = (events_bytes(database)?, kafka_bytes(stack.dir())?);
    engine.round(phase_s * 1_000_000)?;
    write::drain(database)?;
    Ok(Written {
        messages: engine.taken() - messages,
        took: Usage::now(stack)?.since(&before),
        postgresql_bytes: events_bytes(database)?.saturating_sub(bytes_before.0),
        kafka_bytes: kafka_bytes(stack.dir())?.saturating_sub(bytes_before.1),
    })
}

fn events_bytes(database: &mut Client) -> Outcome<u64> {
    let query = "SELECT pg_total_relation_size('messaging.events')";
    let row = database.query_one(query, &[]).reaching("messaging.events")?;
    Ok(row.get::<_, i64>(0).unsigned_abs())
}

/// The log's records on disk.
fn kafka_bytes(dir: &Path) -> Outcome<u64> {
    let data = dir.join("kafka").join("data");
    let mut bytes = 0;
    for entry in std::fs::read_dir(&data).reaching(data.display())? {
        let folder = entry.reaching(data.display())?.path();
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.rsplit_once('-').is_none_or(|(topic, _)| topic != topics::MESSAGE_CREATED) {
            continue;
        }
        for file in std::fs::read_dir(&folder).reaching(&name)? {
            let file = file.reaching(&name)?;
            if file.path().extension().is_some_and(|it| it == "log") {
                bytes += file.metadata().reaching(&name)?.len();
            }
        }
    }
    Ok(bytes)
}

/// The gateways' CPU for a message that is sent by WebSocket and delivered to its sender.
fn sends(stack: &Stack, inputs: &Inputs, phase_s: u64, seed: u64) -> Outcome<f64> {
    let scale = Scale {
        rate: PLAN_SENDS_PER_S,
        connections: WRITERS,
        seconds: phase_s,
        conversations: WRITERS,
        members: 1,
        text_bytes: inputs.message_bytes,
    };
    scale.check()?;
    let mut run = Run::open(stack, scale, seed)?;
    let before = Usage::now(stack)?;
    run.send()?;
    let took = Usage::now(stack)?.since(&before);
    let (report, verdict) = run.finish(stack)?;
    verdict?;
    if report.sent == 0 {
        return Err(Failure::Refused("nothing was sent".into()));
    }
    Ok(took.us("gateway")? / per(report.sent, 1))
}
