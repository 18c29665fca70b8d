//! What goes wrong, when, and for how long.

use crate::bus::Process;
use crate::limits::{CHATDS, FAULT_US_MAX, FAULTS, GATEWAYS, PARTITIONS, RELAYS, STORM_US};
use fastrand::Rng;

#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// Killed, and started again when the fault is over.
    Crash(Process),
    Pause(Process),
    Cut(Process, Process),
    /// The wall clock jumps.
    Jump(Process),
    /// A record comes into this partition of the log that nobody of ours wrote.
    Poison(usize),
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    pub(crate) begin_us: u64,
    pub(crate) for_us: u64,
}

/// The faults of a run, one to several, at any time of the storm.
///
/// Not both of the two that alone know who was announced as online: if presenced and what Redis held are
/// gone at once, of whoever leaves just then nobody can tell that the goodbye is owed.
pub(crate) fn plan(random: &mut Rng, clients: usize) -> Vec<Fault> {
    let count = random.usize(FAULTS);
    let fault = |_| {
        let kind = kind(random, clients);
        let begin_us = random.u64(200_000..STORM_US);
        Fault { kind, begin_us, for_us: random.u64(20_000..FAULT_US_MAX) }
    };
    let mut faults: Vec<Fault> = (0..count).map(fault).collect();
    let kills = |it: &Fault, process| matches!(it.kind, Kind::Crash(killed) if killed == process);
    if faults.iter().any(|it| kills(it, Process::Redis)) {
        faults.retain(|it| !kills(it, Process::Presenced));
    }
    faults
}

fn kind(random: &mut Rng, clients: usize) -> Kind {
    let chatd = Process::Chatd(random.usize(..CHATDS));
    let relay = Process::Relay(random.usize(..RELAYS));
    let gateway = Process::Gateway(random.usize(..GATEWAYS));
    let client = Process::Client(random.usize(..clients));
    let daemons = [chatd, relay, relay, gateway, Process::Presenced];
    let servers = [Process::Postgres, Process::Kafka, Process::Redis, client];
    let pairs = [
        (chatd, Process::Postgres),
        (relay, Process::Postgres),
        (relay, Process::Kafka),
        (gateway, Process::Kafka),
        (gateway, chatd),
        (gateway, client),
        (gateway, Process::Presenced),
        (Process::Presenced, Process::Redis),
        (Process::Presenced, Process::Kafka),
    ];
    match random.u8(..11) {
        0..3 => Kind::Crash(daemons[random.usize(..daemons.len())]),
        3..5 => Kind::Crash(servers[random.usize(..servers.len())]),
        5..7 => Kind::Pause(daemons[random.usize(..daemons.len())]),
        7..9 => {
            let (a, b) = pairs[random.usize(..pairs.len())];
            Kind::Cut(a, b)
        }
        9 => Kind::Jump(daemons[random.usize(..daemons.len())]),
        _ => Kind::Poison(random.usize(..PARTITIONS)),
    }
}
