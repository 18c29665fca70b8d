//! Sessions that do nothing wrong, and what hostile input does to their latency.

use crate::failure::Outcome;
use crate::fanout::bench::Bench;
use crate::fanout::gateway_bench;
use crate::latency::Latencies;
use crate::limits::{
    HOSTILE_LOOK_MS, HOSTILE_LOOKS_ALONE, HOSTILE_NEIGHBOURS, HOSTILE_RECORDS_PER_S,
};
use crate::stack::Stack;
use std::sync::Arc;

/// Members of a conversation of the neighbours.
const MEMBERS: usize = 20;

pub(super) struct Neighbours {
    bench: Bench,
    seen: Seen,
}

pub(super) struct Seen {
    pub(super) alone: Latencies,
    pub(super) beside: Latencies,
    pub(super) lost: u64,
}

impl Neighbours {
    pub(super) fn open(stack: &Arc<Stack>) -> Outcome<Self> {
        let sizes = (HOSTILE_NEIGHBOURS, HOSTILE_NEIGHBOURS / MEMBERS);
        let mut bench = gateway_bench(stack, sizes)?;
        bench.round(HOSTILE_RECORDS_PER_S, HOSTILE_LOOK_MS * 1_000)?;
        let seen = Seen { alone: Latencies::new(), beside: Latencies::new(), lost: 0 };
        Ok(Self { bench, seen })
    }

    pub(super) fn alone(&mut self) -> Outcome {
        for _ in 0..HOSTILE_LOOKS_ALONE {
            let measured = self.bench.round(HOSTILE_RECORDS_PER_S, HOSTILE_LOOK_MS * 1_000)?;
            self.seen.alone.add(&measured.latencies);
        }
        Ok(())
    }

    /// Looks for as long as `goes_on`.
    pub(super) fn beside(&mut self, goes_on: impl Fn() -> bool) -> Outcome {
        while goes_on() {
            let measured = self.bench.round(HOSTILE_RECORDS_PER_S, HOSTILE_LOOK_MS * 1_000)?;
            self.seen.beside.add(&measured.latencies);
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Outcome<Seen> {
        let tally = self.bench.finish()?;
        Ok(Seen { lost: tally.lost, ..self.seen })
    }
}
