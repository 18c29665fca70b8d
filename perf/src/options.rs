//! The command line: raw options; each command checks its own values before it starts anything.

use crate::failure::{Failure, Outcome};
use crate::limits::SECONDS_MAX;
use crate::plan::Inputs;
use clap::{Args, Parser, Subcommand};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// Measures a running RealChat, or one that it brings up and takes down itself.
#[derive(Debug, Parser)]
#[command(name = "perf", version)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Durable sends per second through chatd, beside one transaction a message
    Write(WriteOptions),
    /// A backlog's way from the outbox into Kafka, and the age of rows at a steady rate
    Relay(RelayOptions),
    /// Sends to deliveries, over real WebSockets and everything behind them
    #[command(name = "e2e")]
    E2e(E2eOptions),
    /// Memory and CPU of sessions in which nothing happens
    Idle(IdleOptions),
    /// Kafka to client: the gateway's CPU and latency, beside a bare epoll loop
    Fanout(FanoutOptions),
    /// Slow and churning clients, and what they do to the others
    Slow(SlowOptions),
    /// Everybody reconnects at once, after a small gap
    Storm(StormOptions),
    /// The load of e2e for a long time, and what grows meanwhile
    Soak(SoakOptions),
    /// Faults under load, and a verdict on everything the clients saw
    Chaos(ChaosOptions),
    /// How many machines a number of users takes, by part
    Plan(PlanOptions),
    /// Random and malformed input on every port
    Hostile(HostileOptions),
    /// Judges recorded histories
    Check(CheckOptions),
    #[command(hide = true)]
    Floor,
}

/// What every command that needs a stack takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// The folder of a running stack (scripts/up --dir DIR); without it, one is brought up
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// Seed of all random choices
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Gateways of a stack that is brought up
    #[arg(long, value_name = "N")]
    pub(crate) gateways: Option<u64>,
    /// In a stack that is brought up, each gateway has a topic of its own (scripts/up --routed)
    #[arg(long)]
    pub(crate) routed: bool,
}

impl Common {
    /// Refuses an option that says how a stack is brought up where one is named.
    pub(crate) fn brings_up(&self, option: &str) -> Outcome {
        if self.dir.is_none() {
            return Ok(());
        }
        let words = format!("{option} is for a stack that is brought up, but --dir names one");
        Err(Failure::Usage(words))
    }
}

#[derive(Debug, Args)]
pub(crate) struct WriteOptions {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Measured seconds of each side
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) seconds: u64,
    /// Rounds that the seconds are divided into; the sides take turns
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub(crate) rounds: u64,
    /// Conversations that the messages are spread over
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub(crate) conversations: u64,
    /// Sends that are not yet acknowledged, at once
    #[arg(long, value_name = "N", default_value_t = 8_192)]
    pub(crate) in_flight: u64,
    /// Bytes of each message's text
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(crate) text_bytes: u64,
}

#[derive(Debug, Args)]
pub(crate) struct E2eOptions {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Messages a second, over all connections
    #[arg(long, value_name = "N", default_value_t = 300)]
    pub(crate) rate: u64,
    /// Sessions, one a user, spread over all gateways
    #[arg(long, value_name = "N", default_value_t = 400)]
    pub(crate) connections: u64,
    /// Seconds of sending
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) seconds: u64,
    /// Conversations; a quarter of the connections if not given
    #[arg(long, value_name = "N")]
    pub(crate) conversations: Option<u64>,
    /// Members of each conversation
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) members: u64,
    /// Bytes of each message's text
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(crate) text_bytes: u64,
}

#[derive(Debug, Args)]
pub(crate) struct SoakOptions {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Minutes of sending
    #[arg(long, value_name = "N", default_value_t = 60)]
    pub(crate) minutes: u64,
    /// Messages a second, over all connections
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) rate: u64,
    /// Sessions, one a user, spread over all gateways
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub(crate) connections: u64,
    /// Conversations; a quarter of the connections if not given
    #[arg(long, value_name = "N")]
    pub(crate) conversations: Option<u64>,
    /// Members of each conversation
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) members: u64,
    /// Bytes of each message's text
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(crate) text_bytes: u64,
}

#[derive(Debug, Args)]
pub(crate) struct IdleOptions {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Sessions, one a user, spread over all gateways
    #[arg(long, value_name = "N", default_value_t = 5_000)]
    pub(crate) connections: u64,
    /// Quiet seconds over which CPU time is taken
    #[arg(long, value_name = "N", default_value_t = 30)]
    pub(crate) seconds: u64,
    /// Over TLS; a stack that --dir names must have been brought up with scripts/up --tls
    #[arg(long)]
    pub(crate) tls: bool,
}

#[derive(Debug, Args)]
pub(crate) struct FanoutOptions {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Sessions, one a user, each in one conversation
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub(crate) connections: u64,
    /// Conversations that the sessions are divided into
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) conversations: u64,
    /// Records a second, each for one conversation
    #[arg(long, value_name = "N", default_value_t = 2_000)]
    pub(crate) rate: u64,
    /// Measured seconds of each side
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) seconds: u64,
    /// Rounds that the seconds are divided into; the sides take turns
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub(crate) rounds: u64,
    /// Raise the rate, by a step each round, until events are late (p99 of 50 ms) or missing
    #[arg(long)]
    pub(crate) find_most: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RelayOptions {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Rows that are committed at once
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    pub(crate) backlog: u64,
    /// Conversations that the rows are spread over
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub(crate) conversations: u64,
    /// Rows a second behind the backlog, whose age is measured
    #[arg(long, value_name = "N", default_value_t = 3_000)]
    pub(crate) rate: u64,
    /// Seconds at that rate
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub(crate) seconds: u64,
}

#[derive(Debug, Args)]
pub(crate) struct SlowOptions {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Sessions, one a user, spread over all gateways
    #[arg(long, value_name = "N", default_value_t = 2_000)]
    pub(crate) connections: u64,
    /// Sessions of 100 that read 1 kB a second or nothing, half each
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) slow_percent: u64,
    /// Sessions of 100 that reconnect in a minute
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub(crate) churn_percent: u64,
    /// Measured seconds, half without the slow and churning ones and half with them
    #[arg(long, value_name = "N", default_value_t = 60)]
    pub(crate) seconds: u64,
    /// Records a second for all sessions, each for one conversation
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) rate: u64,
    /// Members of each conversation
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub(crate) members: u64,
}

#[derive(Debug, Args)]
pub(crate) struct StormOptions {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Sessions, one a user, spread over all gateways
    #[arg(long, value_name = "N", default_value_t = 5_000)]
    pub(crate) connections: u64,
    /// Events of each conversation that every session has missed
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) gap: u64,
    /// Members of each conversation; every user is in one
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub(crate) members: u64,
    /// Sessions that are upgraded at once
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub(crate) at_once: u64,
}

#[derive(Debug, Args)]
pub(crate) struct ChaosOptions {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Faults; 0: the load alone
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub(crate) cycles: u64,
    /// Faults that come together, at most
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(crate) at_once: u64,
    /// No fault begins and no message is sent later than this; 0: no such limit
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) minutes: u64,
    /// Which faults, separated by commas; all if not given
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) faults: Vec<String>,
    #[arg(long, value_name = "N", default_value_t = 40)]
    pub(crate) users: u64,
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) conversations: u64,
    /// Devices of each user
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub(crate) devices: u64,
    /// Messages sent altogether, at least; more while faults go on
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    pub(crate) messages: u64,
    /// Messages a second, over all clients
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub(crate) rate: u64,
    /// Kafka brokers of a stack that is brought up: 1 or 3 [default: 1]
    #[arg(long, value_name = "N")]
    pub(crate) brokers: Option<u64>,
    /// Keep the histories in this folder, which must not exist yet
    #[arg(long, value_name = "DIR")]
    pub(crate) history: Option<PathBuf>,
    /// Give the daemons this defect, and succeed once it was found, within --cycles
    #[arg(long, value_name = "BUG")]
    pub(crate) planted: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PlanOptions {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    pub(crate) inputs: Inputs,
    /// Quiet seconds in which sessions are measured; each other phase takes a quarter of it
    #[arg(long, value_name = "N", default_value_t = 24)]
    pub(crate) seconds: u64,
    /// Costs that --save-costs wrote, instead of a measurement
    #[arg(long, value_name = "FILE")]
    pub(crate) costs: Option<PathBuf>,
    /// Keep the measured costs in this file
    #[arg(long, value_name = "FILE")]
    pub(crate) save_costs: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct HostileOptions {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Inputs thrown
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub(crate) inputs: u64,
    /// Inputs a second; 0: as many as there can be
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) rate: u64,
}

#[derive(Debug, Args)]
pub(crate) struct CheckOptions {
    /// The folder with the histories (*.jsonl)
    #[arg(long, value_name = "DIR")]
    pub(crate) history: PathBuf,
    /// The database to compare with; without it, DIR/database.jsonl
    #[arg(long, value_name = "URL")]
    pub(crate) database: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Refuses a value outside its range, naming the option and what is allowed.
pub(crate) fn within<T: PartialOrd + Display>(
    option: &str,
    value: T,
    allowed: RangeInclusive<T>,
) -> Outcome<T> {
    if allowed.contains(&value) {
        return Ok(value);
    }
    let (low, high) = allowed.into_inner();
    Err(Failure::Usage(format!("{option} is {value}, but {low} to {high} is allowed")))
}

pub(crate) fn seconds(value: u64) -> Outcome<u64> {
    within("--seconds", value, 1..=SECONDS_MAX)
}

/// A count that was checked to be small.
pub(crate) fn count(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent_and_ranges_are_named() {
        Options::command().debug_assert();
        let failure = within("--rate", 0, 1..=10).unwrap_err();
        assert_eq!(failure.to_string(), "--rate is 0, but 1 to 10 is allowed");
    }
}
