//! The gateway: clients on one side, chatd, presenced and Kafka on the other; one thread per core.
//!
//! ```text
//!  clients <--TCP--> shard 0..N (shard.rs: own poll, connections, rings, timers; no lock)
//!                      |  ^
//!            Ask       |  |  Mail: deliver, answer, presence, adopt, keys (mailbox.rs)
//!                      v  |
//!            uplink threads --link--> chatd, presenced
//!            presence thread --link--> presenced
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
mod shard;
mod start;
mod timer;
mod web;

use daemon::Daemon;
use std::process::ExitCode;

fn main() -> ExitCode {
    daemon::run(&Daemon {
        name: "gateway",
        about: "RealChat's edge: WebSocket and HTTP in, events out",
        keys: config::KEYS,
        start: start::start,
        commands: &[],
    })
}
