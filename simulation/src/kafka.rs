//! The broker's process: requests reach it, or do not.

use crate::broker::{LogRecord, Produced};
use crate::bus::Process;
use crate::limits::GATEWAYS;
use crate::{Outside, gateway, presence, relay};

#[derive(Debug)]
pub(crate) enum Event {
    Produce {
        from: Process,
        producer: u64,
        /// The producer's own name for it.
        request: usize,
        partition: usize,
        number: u64,
        records: Vec<LogRecord>,
    },
    Commit {
        group: usize,
        offsets: Vec<(usize, i64)>,
    },
}

pub(crate) fn step(outside: &mut Outside, event: Event) {
    match event {
        Event::Commit { group, offsets } => outside.broker.commit(group, &offsets),
        Event::Produce { from, producer, request, partition, number, records } => {
            let produced = outside.broker.produce(producer, partition, number, &records);
            if let Some(answer) = answer(from, producer, request, produced) {
                outside.bus.send(Process::Kafka, from, answer);
            }
            for gateway in 0..GATEWAYS {
                let event = crate::Event::Gateway(gateway::Event::Fetch);
                outside.bus.send(Process::Kafka, Process::Gateway(gateway), event);
            }
        }
    }
}

fn answer(to: Process, producer: u64, request: usize, produced: Produced) -> Option<crate::Event> {
    match to {
        Process::Relay(_) => {
            let event = relay::Event::Produced { producer, request, produced };
            Some(crate::Event::Relay(event))
        }
        Process::Presenced => Some(crate::Event::Presence(presence::Event::Announced { request })),
        _ => None,
    }
}
