//! The gateway: clients on one side, chatd, presenced and Kafka on the other; one thread per core.
//!
//! ```text
//!  clients <--TCP--> shard 0..N (shard.rs: own poll, connections, rings, timers; no lock)
//!                      |  ^
//!            Ask       |  |  Mail: deliver, answer, presence, adopt, keys (mailbox.rs)
//!                      v  |
//!            uplink threads --link--> chatd, presenced
//!            presence thread --link--> presenced
//!            routes thread --> Redis              (routes.rs: only where Kafka is read `routed`)
//!            Kafka threads <--tail-- brokers      (progress.rs: what is enqueued may be committed)
//!  main: signals; admin: /healthz, /readyz, /metrics
//! ```

#[cfg(test)]
mod allocations;
mod attendance;
mod audience;
mod capacity;
mod clock;
mod close;
mod config;
mod conn;
mod drain;
#[cfg(test)]
mod fuzzing;
mod inbound;
mod limits;
mod mail;
mod mailbox;
mod metrics;
mod outbound;
mod presence;
mod progress;
mod rate;
mod recovery;
mod routes;
mod shard;
mod start;
mod timer;
mod web;

use daemon::Daemon;
use std::process::ExitCode;

/// The rules, for whoever runs them with a clock, a log and sessions of another kind.
pub mod rules {
    pub use crate::limits::GAP_BUFFER_EVENTS_MAX;
    pub use crate::mail::{Delivery, Priority, Recipients};
    pub use crate::metrics::Lane;
    pub use crate::outbound::consume::{Headers, RecordError, Router, check_value, choose};
    pub use crate::outbound::offsets::{ShardSet, Tracker};
    pub use crate::recovery::beginning::is_beginning;
    pub use crate::recovery::catchup::{CatchUp, Held, Step};
    pub use crate::recovery::recent::{Missed, Recent};
}

/// Runs the daemon as its command line says.
pub fn main() -> ExitCode {
    daemon::run(&Daemon {
        name: "gateway",
        about: "RealChat's edge: WebSocket and HTTP in, events out",
        keys: config::KEYS,
        start: start::start,
        commands: &[],
    })
}
