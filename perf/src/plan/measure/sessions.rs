//! What sessions cost: in memory, quiet, and when they are told something.

use super::usage::Usage;
use crate::clock::{self, Schedule};
use crate::failure::{Failure, Outcome};
use crate::fanout::receive::Receiver;
use crate::fanout::source::{KafkaSink, Sink, Source};
use crate::latency::per;
use crate::limits::{
    IDLE_WARM_UP_CONNECTIONS, PLAN_RECORDS_PER_S, PLAN_SESSIONS, STRAGGLERS_MS_MAX,
};
use crate::load::{self, Driver};
use crate::process;
use crate::report::progress;
use crate::stack::Stack;
use crate::tokens::Minter;
use proto::Uuid;
use std::time::Duration;

const CONVERSATIONS: usize = PLAN_SESSIONS / 10;
/// Time for buffers of handshakes to be given back before memory is read.
const SETTLE_US: u64 = 3_000_000;

/// Bytes and CPU microseconds; per session unless said otherwise.
pub(super) struct Sessions {
    /// Of all gateways together, without a session.
    pub(super) gateway_bytes: u64,
    pub(super) user_bytes: f64,
    pub(super) kernel_bytes: f64,
    pub(super) redis_bytes: f64,
    pub(super) gateway_us_per_s: f64,
    pub(super) presenced_us_per_s: f64,
    pub(super) redis_us_per_s: f64,
    pub(super) us_per_delivery: f64,
}

struct Memory {
    gateways: u64,
    redis: u64,
    kernel: u64,
}

impl Memory {
    fn now(stack: &Stack) -> Outcome<Self> {
        Ok(Self {
            gateways: process::anonymous_bytes_sum(&stack.gateway_pids()?)?,
            redis: process::anonymous_bytes(stack.pid("REDIS")?)?,
            kernel: process::kernel_bytes()?,
        })
    }
}

pub(super) fn measure(
    stack: &Stack,
    quiet_s: u64,
    phase_s: u64,
    us_per_record: f64,
) -> Outcome<Sessions> {
    let mut receiver = Receiver::new(PLAN_SESSIONS, CONVERSATIONS);
    warm_up(stack, &mut receiver)?;
    let users: Vec<Uuid> = (0..PLAN_SESSIONS).map(|_| proto::id::new()).collect();
    let minter = Minter::open(&stack.signing_key()?)?;
    let specs = load::specs(&stack.gateways()?, &minter, users.iter().copied())?;
    let mut driver = Driver::new()?;
    let before = Memory::now(stack)?;
    driver.open_all(specs, &mut receiver)?;
    driver.run_until(clock::now_us() + SETTLE_US, &mut receiver, |_| false)?;
    let after = Memory::now(stack)?;
    progress!("perf: {PLAN_SESSIONS} sessions are open; {quiet_s} quiet seconds");
    let idle = Usage::now(stack)?;
    driver.run_until(clock::now_us() + quiet_s * 1_000_000, &mut receiver, |_| false)?;
    let idle = Usage::now(stack)?.since(&idle);
    let us_per_delivery =
        deliveries(stack, &mut driver, &mut receiver, &users, phase_s, us_per_record)?;
    driver.close_all();
    if receiver.closed() > 0 {
        return Err(Failure::Refused(format!("{} sessions were closed", receiver.closed())));
    }
    let sessions = PLAN_SESSIONS as u64;
    let grown = |before: u64, after: u64| per(after.saturating_sub(before), sessions);
    let per_s = |part: &str| Ok(idle.us(part)? / per(sessions * quiet_s, 1));
    Ok(Sessions {
        gateway_bytes: before.gateways,
        user_bytes: grown(before.gateways, after.gateways),
        // Both ends are on this machine.
        kernel_bytes: grown(before.kernel, after.kernel) / 2.0,
        redis_bytes: grown(before.redis, after.redis),
        gateway_us_per_s: per_s("gateway")?,
        presenced_us_per_s: per_s("presenced")?,
        redis_us_per_s: per_s("redis")?,
        us_per_delivery,
    })
}

/// Sessions that come and go, so that memory which is kept for the next ones is there.
fn warm_up(stack: &Stack, receiver: &mut Receiver) -> Outcome {
    let users = (0..IDLE_WARM_UP_CONNECTIONS).map(|_| proto::id::new());
    let minter = Minter::open(&stack.signing_key()?)?;
    let mut driver = Driver::new()?;
    driver.open_all(load::specs(&stack.gateways()?, &minter, users)?, receiver)?;
    driver.run_until(clock::now_us() + SETTLE_US / 3, receiver, |_| false)?;
    driver.close_all();
    clock::sleep_until(clock::now_us() + SETTLE_US);
    Ok(())
}

/// Records straight into Kafka: what a gateway takes for each delivery, the record's own cost aside.
fn deliveries(
    stack: &Stack,
    driver: &mut Driver,
    receiver: &mut Receiver,
    users: &[Uuid],
    phase_s: u64,
    us_per_record: f64,
) -> Outcome<f64> {
    let kafka = KafkaSink::open(stack, CONVERSATIONS, users, 0)?;
    let mut source = Source::new(receiver.conversations().to_vec(), Sink::Kafka(kafka));
    let records = PLAN_RECORDS_PER_S * phase_s;
    let expected = records * (PLAN_SESSIONS / CONVERSATIONS) as u64;
    progress!("perf: {expected} deliveries in {phase_s} s");
    let before = Usage::now(stack)?;
    let schedule = Schedule::new(clock::now_us() + 50_000, PLAN_RECORDS_PER_S, phase_s);
    std::thread::scope(|scope| -> Outcome {
        let producing = scope.spawn(|| source.produce(&schedule, records));
        while !producing.is_finished() {
            driver.run(Duration::from_millis(50), receiver)?;
        }
        producing.join().map_err(|_| Failure::Refused("the producer ended".into()))??;
        let until_us = clock::now_us() + STRAGGLERS_MS_MAX * 1_000;
        driver.run_until(until_us, receiver, |it| it.events() >= expected)
    })?;
    let took = Usage::now(stack)?.since(&before).us("gateway")?;
    if receiver.events() < expected {
        let words = format!("{} of {expected} deliveries came", receiver.events());
        return Err(Failure::Refused(words));
    }
    let gateways = per(stack.gateway_pids()?.len() as u64, 1);
    let tails = per(records, 1) * us_per_record * gateways;
    Ok(((took - tails) / per(expected, 1)).max(0.0))
}
