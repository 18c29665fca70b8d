//! `perf`: everything that measures RealChat, on a running stack or on one of its own.
//!
//! ```text
//! cli --> stack (DIR/env, or scripts/up) --> population (SQL) --> tokens
//!   write    daemon::link::Client --> chatd         beside  one transaction a message
//!   relay    PostgreSQL --> relay --> Kafka         read back and judged
//!   e2e      load (mio) <==> gateways               checked by sequence, and in PostgreSQL
//!   idle     load (mio) <==> gateways               memory and CPU from /proc
//!   fanout   Kafka --> gateway --> load (mio)       beside  floor: a bare epoll loop
//!   slow     Kafka --> gateway --> load (mio)       some of it reads slowly
//!   storm    load (mio) <==> gateways               everybody comes back at once
//!   soak     e2e for a long time                   memory and descriptors from /proc
//!   chaos    client library <==> gateways, faults   judged by checker
//!   plan     write, tails, idle and deliveries, short  into a model of machines
//!   hostile  anything --> every port
//!   check    checker alone
//! ```
//! One JSON object on standard output with `--json`; progress on standard error.

mod chaos;
mod check;
mod clock;
mod e2e;
mod failure;
mod fanout;
mod hostile;
mod idle;
mod latency;
mod limits;
mod load;
mod options;
mod outbox_size;
mod plan;
mod population;
mod process;
mod record;
mod relay;
mod report;
mod scrape;
mod slope;
mod slow;
mod soak;
mod stack;
mod stolen;
mod storm;
mod tokens;
mod write;

use clap::Parser;
use options::{Command, Options};
use std::process::ExitCode;

fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = match &options.command {
        Command::Write(it) => write::run(it),
        Command::Relay(it) => relay::run(it),
        Command::E2e(it) => e2e::run(it),
        Command::Idle(it) => idle::run(it),
        Command::Fanout(it) => fanout::run(it),
        Command::Slow(it) => slow::run(it),
        Command::Storm(it) => storm::run(it),
        Command::Soak(it) => soak::run(it),
        Command::Chaos(it) => chaos::run(it),
        Command::Plan(it) => plan::run(it),
        Command::Hostile(it) => hostile::run(it),
        Command::Check(it) => check::run(it),
        Command::Floor => fanout::floor::serve(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("perf: {failure}");
            failure.exit_code()
        }
    }
}
