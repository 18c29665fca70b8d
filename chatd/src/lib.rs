//! RealChat's write engine and query service on PostgreSQL.
//!
//! ```text
//!                    +--> writer 1..W (sends, receipts, changes; one connection each)
//! link --> dispatch -+                        |
//! (gateways)         |          one transaction a batch: conversations, events, receipts, outbox
//!                    +--> queries 1..Q (sync, lists, profiles, devices; one thread each)
//!                    +--> sign-in 1..S (registration and login, which hash passwords)
//! monitor: is PostgreSQL there, how long is the outbox
//! teller: how far members of large conversations have come
//! ```

mod accounts;
mod api;
mod app;
mod config;
mod db;
mod dispatch;
mod failure;
mod http;
mod limits;
mod metrics;
mod monitor;
mod profiles;
mod read;
mod seed;
mod start;
mod write;

use daemon::{Command, Daemon};
use std::process::ExitCode;

/// The rules, for whoever runs them over a store and a clock of another kind.
pub mod rules {
    pub use crate::failure::Failure;
    pub use crate::read::{Membership, Range, answer};
    pub use crate::write::{
        Append, Appended, Attempts, Audience, Audiences, Change, CommitError, ConversationRow,
        ConversationState, Counting, Cursor, CursorKey, Engine, EventRow, Known, Locked,
        MemberChange, Moved, Next, OutboxRow, Outcome, Plan, ReceiptCommand, Source, Standing,
        Store, Target, TextRow,
    };
}

/// Runs the daemon as its command line says.
pub fn main() -> ExitCode {
    daemon::run(&Daemon {
        name: "chatd",
        about: "RealChat's write engine and query service on PostgreSQL",
        keys: config::KEYS,
        start: start::start,
        commands: &[
            Command {
                name: "migrate",
                about: "brings the database to this build's schema",
                run: start::migrate,
            },
            Command {
                name: "seed",
                about: "makes the users alice, bob and echo, and prints their sign-in codes",
                run: seed::run,
            },
        ],
    })
}
