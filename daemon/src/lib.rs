//! What the four daemons share, so that they start, speak and stop alike.
//!
//! ```text
//! command line --> cli --> config (file, environment) --> Context --> the daemon's start
//!                                   |                        |
//!                                  log               health, metrics --> admin (HTTP)
//! signals --> SIGTERM: stop, SIGHUP: reload
//! link: server (chatd, presenced) <== pipelined protobuf ==> client (gateway)
//! ```

pub mod admin;
pub mod cli;
pub mod clock;
pub mod config;
pub mod failpoint;
pub mod health;
pub mod limits;
pub mod link;
pub mod log;
pub mod metrics;
pub mod run;
mod signals;

pub use config::{Config, Key, Kind};
pub use health::Health;
pub use metrics::Metrics;
pub use run::{Command, Context, Daemon, Running, run};
