//! `perf hostile`: input that nobody should send, on every port, and a look at who is still alive.

mod inputs;
mod neighbours;
mod probe;

use crate::clock;
use crate::failure::{Context, Failure, Outcome};
use crate::limits::{HOSTILE_AT_ONCE, HOSTILE_READ_MS_MAX, PROBE_MS_MAX};
use crate::options::{HostileOptions, within};
use crate::process;
use crate::report::{self, progress, rounded};
use crate::stack::Stack;
use crate::tokens::Minter;
use fastrand::Rng;
use inputs::{Input, Kind, Target};
use neighbours::Neighbours;
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const CONNECT: Duration = Duration::from_secs(2);
const WRITE: Duration = Duration::from_millis(500);
/// Wait before a connection that was refused is tried again; then it counts as refused.
const REFUSED: Duration = Duration::from_millis(200);

#[derive(Serialize)]
struct Report {
    inputs: u64,
    crashed: u64,
    delivered: bool,
    refused: u64,
    bytes_sent: u64,
    bytes_received: u64,
    inputs_by_kind: std::collections::BTreeMap<&'static str, u64>,
    crashed_daemons: Vec<String>,
    rate: u64,
    /// Latency from Kafka of sessions that do nothing wrong, without hostile input and beside it. What
    /// throws it runs on what is left of the processor.
    others_p50_ms_alone: f64,
    others_p50_ms_beside: f64,
    others_p99_ms_alone: f64,
    others_p99_ms_beside: f64,
    others_lost: u64,
    seconds: u64,
}

#[derive(Default)]
struct Counts {
    next: AtomicU64,
    refused: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    kinds: [AtomicU64; Kind::ALL.len()],
}

pub(crate) fn run(options: &HostileOptions) -> Outcome {
    let wanted = within("--inputs", options.inputs, 1..=100_000_000)?;
    within("--rate", options.rate, 0..=1_000_000)?;
    let stack = Arc::new(Stack::of(&options.common, 1)?);
    let minter = Minter::open(&stack.signing_key()?)?;
    let target = Target {
        gateways: stack.gateways()?,
        links: vec![stack.link("chatd")?, stack.link("presenced")?],
        admins: stack.admins()?,
        token: minter.mint(proto::id::new(), proto::id::new())?,
    };
    let before = stack.daemon_pids()?;
    let start_us = clock::now_us();
    let mut neighbours = Neighbours::open(&stack)?;
    neighbours.alone()?;
    progress!("perf: throwing {wanted} inputs at {} ports", target.ports());
    let counts = Counts::default();
    std::thread::scope(|scope| -> Outcome {
        let throwers: Vec<_> = (0..HOSTILE_AT_ONCE)
            .map(|_| scope.spawn(|| throw(&target, options, &counts)))
            .collect();
        neighbours.beside(|| throwers.iter().any(|it| !it.is_finished()))?;
        throwers.into_iter().try_for_each(|it| {
            it.join().unwrap_or_else(|_| Err(Failure::Refused("a thrower ended".into())))
        })
    })?;
    neighbours.alone()?;
    // What was harmed may need a moment to fall.
    std::thread::sleep(Duration::from_secs(1));
    let mut crashed = Vec::new();
    for (name, pid) in before {
        if !process::is_alive(pid) || stack.pid(&name)? != pid {
            crashed.push(name);
        }
    }
    let until_us = clock::now_us() + PROBE_MS_MAX * 1_000;
    let delivered = probe::is_delivered(&stack, &minter, until_us)?;
    let others = neighbours.finish()?;
    let kinds = Kind::ALL.iter().zip(&counts.kinds);
    let report = Report {
        inputs: wanted,
        crashed: crashed.len() as u64,
        delivered,
        refused: counts.refused.into_inner(),
        bytes_sent: counts.sent.into_inner(),
        bytes_received: counts.received.into_inner(),
        inputs_by_kind: kinds
            .map(|(it, count)| (it.name(), count.load(Ordering::Relaxed)))
            .collect(),
        crashed_daemons: crashed,
        rate: options.rate,
        others_p50_ms_alone: rounded(others.alone.ms_at(0.5)),
        others_p50_ms_beside: rounded(others.beside.ms_at(0.5)),
        others_p99_ms_alone: rounded(others.alone.ms_at(0.99)),
        others_p99_ms_beside: rounded(others.beside.ms_at(0.99)),
        others_lost: others.lost,
        seconds: (clock::now_us() - start_us) / 1_000_000,
    };
    report::print(&report, options.common.json)?;
    if report.crashed > 0 || !report.delivered || report.others_lost > 0 {
        let words = "a daemon crashed, a message was not delivered afterwards, or events of others were lost";
        return Err(Failure::Refused(words.into()));
    }
    Ok(())
}

/// One thrower: takes the next input until there are no more. Each depends on seed and number only.
fn throw(target: &Target, options: &HostileOptions, counts: &Counts) -> Outcome {
    process::give_way_to_all()?;
    let start_us = clock::now_us();
    loop {
        let number = counts.next.fetch_add(1, Ordering::Relaxed);
        if number >= options.inputs {
            return Ok(());
        }
        if let Some(due_us) = (number * 1_000_000).checked_div(options.rate) {
            clock::sleep_until(start_us + due_us);
        }
        if number > 0 && number.is_multiple_of(10_000) {
            progress!("perf: {number} inputs");
        }
        let seed = options.common.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(number);
        let mut random = Rng::with_seed(seed);
        let input = inputs::make(target, &mut random);
        counts.kinds[input.kind as usize].fetch_add(1, Ordering::Relaxed);
        let mut outcome = deliver(&input, &mut random, counts);
        if outcome.is_err() {
            std::thread::sleep(REFUSED);
            outcome = deliver(&input, &mut random, counts);
        }
        if outcome.is_err() {
            counts.refused.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Connects and writes the parts; an error only if there was no connection.
fn deliver(input: &Input, random: &mut Rng, counts: &Counts) -> Outcome {
    let mut stream = connect(input.address, random).reaching(input.address)?;
    let mut chunk = [0; 4_096];
    for (number, part) in input.parts.iter().enumerate() {
        if number > 0 && input.waits {
            // An answer, such as the upgrade's or a challenge, may come before the next part.
            let read = stream.read(&mut chunk).unwrap_or_default();
            counts.received.fetch_add(read as u64, Ordering::Relaxed);
        }
        let part = part.bytes(&chunk);
        let split = if random.bool() { random.usize(..=part.len()) } else { part.len() };
        let (first, rest) = part.split_at(split);
        // The other side may have closed already, as it should.
        if stream.write_all(first).and_then(|()| stream.write_all(rest)).is_err() {
            return Ok(());
        }
        counts.sent.fetch_add(part.len() as u64, Ordering::Relaxed);
    }
    if random.bool() {
        // Gone already, perhaps.
        let _ = stream.shutdown(Shutdown::Write);
    }
    if random.u8(..4) > 0 {
        let read = stream.read(&mut chunk).unwrap_or_default();
        counts.received.fetch_add(read as u64, Ordering::Relaxed);
    }
    Ok(())
}

/// From an address of its own, so that no limit by address turns it away unread.
fn connect(address: SocketAddr, random: &mut Rng) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.ip().is_loopback() && address.is_ipv4() {
        let source = Ipv4Addr::new(127, random.u8(2..250), random.u8(..), random.u8(1..250));
        socket.bind(&SocketAddr::new(IpAddr::V4(source), 0).into())?;
    }
    socket.connect_timeout(&address.into(), CONNECT)?;
    socket.set_read_timeout(Some(Duration::from_millis(HOSTILE_READ_MS_MAX)))?;
    socket.set_write_timeout(Some(WRITE))?;
    if random.bool() {
        // Ends with a reset instead of an orderly close.
        socket.set_linger(Some(Duration::ZERO))?;
    }
    Ok(socket.into())
}
