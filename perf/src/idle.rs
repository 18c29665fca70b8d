//! `perf idle`: what sessions cost in which nothing happens.

use crate::clock;
use crate::failure::{Failure, Outcome};
use crate::latency::per;
use crate::limits::IDLE_WARM_UP_CONNECTIONS;
use crate::load::{self, Driver, Handler, Spec};
use crate::options::{IdleOptions, count, seconds, within};
use crate::process;
use crate::report::{self, progress, rounded};
use crate::stack::Stack;
use crate::tokens::Minter;
use serde::Serialize;

/// Time for buffers of handshakes to be given back before memory is read.
const SETTLE_US: u64 = 3_000_000;

#[derive(Serialize)]
struct Report {
    sessions: u64,
    bytes_per_session_user: f64,
    bytes_per_session_kernel: f64,
    cpu_percent: f64,
    /// The gateways' CPU for a handshake, a token that they have not seen, and the welcome.
    open_cpu_us_per_session: f64,
    seconds: u64,
    gateways: usize,
    tls: bool,
    sessions_closed: u64,
    bytes_user_before: u64,
    bytes_user_after: u64,
    user_is: &'static str,
    kernel_is: &'static str,
}

#[derive(Default)]
struct Quiet {
    closed: u64,
}

impl Handler for Quiet {
    fn frame(&mut self, _: usize, _: &[u8]) {}

    fn closed(&mut self, session: usize, code: u16) {
        self.closed += 1;
        progress!("perf: session {session} was closed with code {code}");
    }
}

pub(crate) fn run(options: &IdleOptions) -> Outcome {
    let connections =
        within("--connections", options.connections, 1..=process::connections_max()?)?;
    let seconds = seconds(options.seconds)?;
    let stack = if options.tls {
        Stack::with_tls(&options.common, 1)?
    } else {
        Stack::of(&options.common, 1)?
    };
    let minter = Minter::open(&stack.signing_key()?)?;
    let gateways = if options.tls { stack.tls_gateways()? } else { stack.gateways()? };
    let tls = options.tls.then(|| stack.tls_config()).transpose()?;
    let specs = |connections: usize| -> Outcome<Vec<Spec>> {
        let users = (0..connections).map(|_| proto::id::new());
        let mut specs = load::specs(&gateways, &minter, users)?;
        specs.iter_mut().for_each(|spec| spec.tls.clone_from(&tls));
        Ok(specs)
    };
    progress!("perf: warming up with {IDLE_WARM_UP_CONNECTIONS} sessions");
    let mut quiet = Quiet::default();
    let mut driver = Driver::new()?;
    driver.open_all(specs(IDLE_WARM_UP_CONNECTIONS)?, &mut quiet)?;
    driver.run_until(clock::now_us() + SETTLE_US / 3, &mut quiet, |_| false)?;
    driver.close_all();
    clock::sleep_until(clock::now_us() + SETTLE_US);

    let pids = stack.gateway_pids()?;
    let wanted = specs(count(connections))?;
    let mut driver = Driver::new()?;
    let user_before = process::anonymous_bytes_sum(&pids)?;
    let kernel_before = process::kernel_bytes()?;
    let opening = process::cpu_ns_sum(&pids)?;
    driver.open_all(wanted, &mut quiet)?;
    let open_cpu_ns = process::cpu_ns_sum(&pids)?.saturating_sub(opening);
    driver.run_until(clock::now_us() + SETTLE_US, &mut quiet, |_| false)?;
    let user_after = process::anonymous_bytes_sum(&pids)?;
    let kernel_after = process::kernel_bytes()?;
    progress!("perf: {} sessions are open; {seconds} quiet seconds", driver.open_count());

    let (start_us, cpu_before) = (clock::now_us(), process::cpu_ns_sum(&pids)?);
    driver.run_until(start_us + seconds * 1_000_000, &mut quiet, |_| false)?;
    let cpu_ns = process::cpu_ns_sum(&pids)? - cpu_before;
    let wall_us = clock::now_us() - start_us;
    let sessions = driver.open_count() as u64;
    driver.close_all();
    if stack.gateway_pids()? != pids {
        return Err(Failure::Refused("a gateway was restarted meanwhile".into()));
    }
    let report = Report {
        sessions,
        bytes_per_session_user: rounded(per(user_after.saturating_sub(user_before), sessions)),
        bytes_per_session_kernel: rounded(
            per(kernel_after.saturating_sub(kernel_before), sessions) / 2.0,
        ),
        open_cpu_us_per_session: rounded(per(open_cpu_ns / 1_000, sessions)),
        cpu_percent: rounded(per(cpu_ns / 1_000, wall_us) * 100.0),
        seconds,
        gateways: pids.len(),
        tls: options.tls,
        sessions_closed: quiet.closed,
        bytes_user_before: user_before,
        bytes_user_after: user_after,
        user_is: "growth of the gateways' private anonymous memory (smaps_rollup), after a warm-up",
        kernel_is: "half the growth of TCP memory and unreclaimable slab: both ends are on this \
                    machine",
    };
    report::print(&report, options.common.json)?;
    if quiet.closed > 0 {
        return Err(Failure::Refused(format!("{} sessions were closed", quiet.closed)));
    }
    Ok(())
}
