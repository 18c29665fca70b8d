//! From users and costs to machines; pure.

use super::costs::Costs;
use crate::failure::{Failure, Outcome};
use crate::options::within;
use crate::report::rounded;
use clap::Args;
use serde::Serialize;

const DAY_S: f64 = 86_400.0;
const GIB: f64 = 1_073_741_824.0;
/// The share of a machine's memory that is planned with; the rest is the system's, and the files that
/// it keeps at hand.
const MEMORY_SHARE: f64 = 0.75;
/// Days for which Kafka keeps records (scripts/kafka/server.properties).
const KAFKA_DAYS: f64 = 3.0;
/// Redis does its work in one thread.
const REDIS_CORES: f64 = 1.0;

/// What is to be served, and on what.
#[derive(Debug, Clone, PartialEq, Args, Serialize)]
pub(crate) struct Inputs {
    /// Accounts
    #[arg(long, value_name = "N")]
    pub(crate) users: u64,
    /// Messages a day, of all users together
    #[arg(long, value_name = "N")]
    pub(crate) messages_per_day: u64,
    /// Users of 100 who have a device connected at the peak
    #[arg(long, value_name = "N", default_value_t = 20.0)]
    pub(crate) online_percent: f64,
    /// Members of a conversation, on average over the messages
    #[arg(long, value_name = "N", default_value_t = 10.0)]
    pub(crate) members: f64,
    /// Messages in the busiest second over those in a mean one
    #[arg(long, value_name = "N", default_value_t = 4.0)]
    pub(crate) peak_factor: f64,
    /// Cores of a machine
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(crate) cores: u64,
    /// Memory of a machine
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub(crate) memory_gib: u64,
    /// The share of a core that may be busy at the peak
    #[arg(long, value_name = "SHARE", default_value_t = 0.6)]
    pub(crate) utilisation: f64,
    /// Bytes of a message's text
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(crate) message_bytes: u64,
    /// Days for which messages are kept
    #[arg(long, value_name = "N", default_value_t = 365)]
    pub(crate) retention_days: u64,
    /// One machine more of each part, so that any one may fail at the peak
    #[arg(long)]
    pub(crate) redundant: bool,
}

/// One value for each part.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Parts<T> {
    pub(super) gateway: T,
    pub(super) chatd: T,
    pub(super) relay: T,
    pub(super) presenced: T,
    pub(super) postgresql: T,
    pub(super) kafka: T,
    pub(super) redis: T,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Plan {
    pub(super) machines: Parts<u64>,
    pub(super) total: u64,
    /// Busy at the peak, over all machines of the part.
    pub(super) cores_busy: Parts<f64>,
    pub(super) load: Load,
    pub(super) tail: Tail,
    pub(super) disk_gib: Disk,
    pub(super) notes: Vec<String>,
}

/// At the peak.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Load {
    pub(super) sessions: f64,
    pub(super) sends_per_s: f64,
    pub(super) deliveries_per_s: f64,
}

/// Every gateway takes every record, whoever it is for.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Tail {
    /// Of each gateway.
    pub(super) cores_busy: f64,
    pub(super) percent_of_a_gateway: f64,
    /// From here on a gateway does nothing else: null if a record costs nothing.
    pub(super) routed_needed_from_records_per_s: Option<f64>,
    /// As many would do if each were sent its own users' records alone, spare ones aside; what the copies take of
    /// relay and Kafka is not counted.
    pub(super) routed_gateways: u64,
}

/// Over all machines of the part, one copy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Disk {
    pub(super) postgresql: f64,
    pub(super) kafka: f64,
}

impl Inputs {
    pub(super) fn check(&self) -> Outcome {
        within("--users", self.users, 1..=10_000_000_000)?;
        within("--messages-per-day", self.messages_per_day, 0..=100_000_000_000_000)?;
        within("--online-percent", self.online_percent, 0.0..=100.0)?;
        within("--members", self.members, 1.0..=1_000_000.0)?;
        within("--peak-factor", self.peak_factor, 1.0..=1_000.0)?;
        within("--cores", self.cores, 1..=1_024)?;
        within("--memory-gib", self.memory_gib, 1..=65_536)?;
        within("--utilisation", self.utilisation, 0.05..=0.95)?;
        within("--message-bytes", self.message_bytes, 32..=16_384)?;
        within("--retention-days", self.retention_days, 1..=36_500).map(|_| ())
    }

    fn load(&self) -> Load {
        let online = self.online_percent / 100.0;
        let sends_per_s = number(self.messages_per_day) / DAY_S * self.peak_factor;
        // Who sends is online, and is told of the own message, too.
        let devices = 1.0 + (self.members - 1.0) * online;
        Load {
            sessions: (number(self.users) * online).ceil(),
            sends_per_s,
            deliveries_per_s: sends_per_s * devices,
        }
    }
}

/// How many machines that takes; an error if no number of them is enough.
pub(crate) fn plan(inputs: &Inputs, costs: &Costs) -> Outcome<Plan> {
    inputs.check()?;
    let load = inputs.load();
    let capacity = Capacity::of(inputs);
    let tail_cores = load.sends_per_s * costs.gateway_cpu_us_per_record / 1e6;
    let routed_from = per(capacity.cores * 1e6, costs.gateway_cpu_us_per_record);
    let routed_gateways = routed_gateways(&load, costs, capacity);
    if tail_cores >= capacity.cores {
        return Err(Failure::Refused(format!(
            "{:.0} records/s at the peak are too many for every gateway to take all of them: that \
             alone fills the {:.2} cores that may be busy, from {:.0} records/s on; larger machines \
             are needed, or gateways that are sent their own users' records alone \
             (kafka.routing = \"routed\"), of which {routed_gateways} would do",
            load.sends_per_s,
            capacity.cores,
            routed_from.unwrap_or_default()
        )));
    }
    let gateways = gateways(&load, costs, capacity, tail_cores);
    let cores_busy = cores(&load, costs, number(gateways), tail_cores);
    let spare = u64::from(inputs.redundant);
    let by_cores = |cores: f64| machines(cores, capacity.cores) + spare;
    let redis_share = REDIS_CORES * inputs.utilisation;
    let redis_by_memory = machines(load.sessions * costs.redis_bytes_per_session, capacity.bytes);
    let machines = Parts {
        gateway: gateways + spare,
        chatd: by_cores(cores_busy.chatd),
        relay: by_cores(cores_busy.relay),
        presenced: by_cores(cores_busy.presenced),
        postgresql: by_cores(cores_busy.postgresql),
        kafka: by_cores(cores_busy.kafka),
        redis: machines(cores_busy.redis, redis_share).max(redis_by_memory) + spare,
    };
    let tail = Tail {
        cores_busy: rounded(tail_cores),
        percent_of_a_gateway: rounded(tail_cores / capacity.cores * 100.0),
        routed_needed_from_records_per_s: routed_from.map(f64::floor),
        routed_gateways,
    };
    let notes = notes(&machines, spare, tail.percent_of_a_gateway);
    let disk_gib = disk(inputs, costs);
    let load = Load {
        sends_per_s: rounded(load.sends_per_s),
        deliveries_per_s: rounded(load.deliveries_per_s),
        ..load
    };
    let cores_busy = cores_busy.map(rounded);
    Ok(Plan { total: machines.sum(), machines, cores_busy, load, tail, disk_gib, notes })
}

/// What of one machine is planned with.
#[derive(Clone, Copy)]
struct Capacity {
    cores: f64,
    bytes: f64,
}

impl Capacity {
    fn of(inputs: &Inputs) -> Self {
        Self {
            cores: number(inputs.cores) * inputs.utilisation,
            bytes: number(inputs.memory_gib) * GIB * MEMORY_SHARE,
        }
    }
}

/// Enough for the sessions' memory, and for their work beside the tail that each gateway has.
fn gateways(load: &Load, costs: &Costs, capacity: Capacity, tail_cores: f64) -> u64 {
    let by_memory = gateways_by_memory(load, costs, capacity);
    by_memory.max(machines(shared_cores(load, costs), capacity.cores - tail_cores))
}

/// The same where a record is taken once for each device that gets it, at most: they are all at different gateways.
fn routed_gateways(load: &Load, costs: &Costs, capacity: Capacity) -> u64 {
    let copies = load.deliveries_per_s * costs.gateway_cpu_us_per_record / 1e6;
    let by_cores = machines(shared_cores(load, costs) + copies, capacity.cores);
    gateways_by_memory(load, costs, capacity).max(by_cores)
}

fn gateways_by_memory(load: &Load, costs: &Costs, capacity: Capacity) -> u64 {
    let bytes = costs.gateway_bytes_per_session_user + costs.gateway_bytes_per_session_kernel;
    let free = capacity.bytes - costs.gateway_bytes;
    // A machine that is too small for a gateway has room for one session, so that the plan shows it.
    machines(load.sessions * bytes, free.max(bytes.max(1.0)))
}

/// The gateways' work that more of them share.
fn shared_cores(load: &Load, costs: &Costs) -> f64 {
    let us = load.deliveries_per_s * costs.gateway_cpu_us_per_delivery
        + load.sends_per_s * costs.gateway_cpu_us_per_send
        + load.sessions * costs.gateway_cpu_us_per_session_and_s;
    us / 1e6
}

fn cores(load: &Load, costs: &Costs, gateways: f64, tail_cores: f64) -> Parts<f64> {
    let per_record =
        costs.kafka_cpu_us_per_record + gateways * costs.kafka_cpu_us_per_record_and_gateway;
    let (sends, sessions) = (load.sends_per_s / 1e6, load.sessions / 1e6);
    Parts {
        gateway: shared_cores(load, costs) + gateways * tail_cores,
        chatd: sends * costs.chatd_cpu_us_per_send,
        relay: sends * costs.relay_cpu_us_per_record,
        presenced: sessions * costs.presenced_cpu_us_per_session_and_s,
        postgresql: sends * costs.postgresql_cpu_us_per_send,
        kafka: sends * per_record,
        redis: sessions * costs.redis_cpu_us_per_session_and_s,
    }
}

fn disk(inputs: &Inputs, costs: &Costs) -> Disk {
    let more = number(inputs.message_bytes) - costs.message_bytes;
    let per_day = number(inputs.messages_per_day) / GIB;
    let of = |bytes: f64, days: f64| rounded(per_day * days * (bytes + more).max(0.0));
    Disk {
        postgresql: of(costs.postgresql_bytes_per_message, number(inputs.retention_days)),
        kafka: of(costs.kafka_bytes_per_record, KAFKA_DAYS),
    }
}

fn notes(machines: &Parts<u64>, spare: u64, tail_percent: f64) -> Vec<String> {
    let mut notes = Vec::new();
    if machines.postgresql - spare > 1 {
        notes.push(
            "PostgreSQL is written to at one primary: take one machine with as many cores as \
             these have together"
                .into(),
        );
    }
    if machines.redis - spare > 1 {
        notes.push("Redis is one server: what it lacks is a faster core or more memory".into());
    }
    if tail_percent >= 50.0 {
        notes.push(format!(
            "{tail_percent:.0} % of what a gateway may do is taking records that are mostly for \
             others: larger machines are better than more of them"
        ));
    }
    if machines.sum() <= 7 * (1 + spare) {
        notes.push("no part fills a machine: several can share one".into());
    }
    notes
}

impl<T: Copy> Parts<T> {
    fn all(&self) -> [T; 7] {
        let Self { gateway, chatd, relay, presenced, postgresql, kafka, redis } = *self;
        [gateway, chatd, relay, presenced, postgresql, kafka, redis]
    }

    fn map(self, change: impl Fn(T) -> T) -> Self {
        let [gateway, chatd, relay, presenced, postgresql, kafka, redis] = self.all().map(change);
        Self { gateway, chatd, relay, presenced, postgresql, kafka, redis }
    }
}

impl Parts<u64> {
    fn sum(&self) -> u64 {
        self.all().iter().sum()
    }
}

/// At least one.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "inputs and costs are bounded and not negative; what is too large becomes the largest"
)]
fn machines(needed: f64, each: f64) -> u64 {
    (needed / each).ceil().max(1.0) as u64
}

#[allow(clippy::cast_precision_loss, reason = "inputs are below 2^53")]
fn number(value: u64) -> f64 {
    value as f64
}

fn per(amount: f64, cost: f64) -> Option<f64> {
    (cost > 0.0).then(|| amount / cost)
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
