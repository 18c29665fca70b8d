//! The relay: what chatd committed to the outbox, published to Kafka in order.
//!
//! ```text
//! PostgreSQL                                                                Kafka
//!   outbox_leases <--> lease thread --> grants --> worker 0..N --publish-->  topics, .dlq
//!   outbox ----------------- read, delete <----------/   ^
//!   NOTIFY --> wake thread ------------------------------+
//!                                     topics thread --create, watch-->      topics
//! Redis <-- worker: which gateways that have topics of their own need a record (routes.rs)
//! Redis <-- push thread <-- the log; push-webhook thread <-- push requests  (see push.rs)
//! ```
//!
//! A key's records are published in the order of their ids whatever happens: a row is read only
//! when every earlier row of its key is either gone, which means acknowledged by the broker, or read
//! with it. Leases keep two relays from publishing the same twice; order does not depend on them.

mod config;
mod database;
mod dead_letters;
mod directory;
mod doubt;
mod envelope;
mod gateways;
mod keeper;
pub mod lease;
mod limits;
mod metrics;
mod outbox;
mod ownership;
mod place;
mod publisher;
mod push;
mod redis_connection;
pub mod rounds;
mod routes;
mod suspects;
mod topics;
mod wake;
mod wave;
mod worker;

use crossbeam_channel::{Sender, bounded};
use daemon::{Command, Context, Daemon, Running};
use limits::STOP_MS_MAX;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The rules, for whoever runs them with a clock, a database and a broker of another kind.
pub mod rules {
    pub use crate::doubt::Doubt;
    pub use crate::limits::{BEGIN_PERCENT, MESSAGE_PERCENT, RENEW_PERCENT, RETRY_MS_MIN};
    pub use crate::place::{Place, RowId};
    pub use crate::suspects::{Sentence, Suspects};
    pub use crate::wave::{KeyOf, Outcome, Record};
}

/// Runs the daemon as its command line says.
pub fn main() -> ExitCode {
    daemon::run(&Daemon {
        name: "relay",
        about: "Publishes RealChat's outbox to Kafka, in order",
        keys: config::KEYS,
        start,
        commands: &[
            Command {
                name: "dlq",
                about: "list, show, replay or drop dead letters",
                run: dead_letters::run,
            },
            Command {
                name: "gateways",
                about: "the gateways that have topics of their own, and forgetting one",
                run: gateways::run,
            },
            Command {
                name: "topics",
                about: "the topics as the brokers have them",
                run: topics::run,
            },
        ],
    })
}

struct Relay {
    stop: Arc<AtomicBool>,
    wake: Vec<Sender<()>>,
    stop_keeper: Sender<()>,
    workers: Vec<JoinHandle<()>>,
    keeper: JoinHandle<()>,
    push: Vec<JoinHandle<()>>,
}

fn start(context: Context) -> Result<Box<dyn Running>, String> {
    let settings = config::Settings::new(&context.config, context.instance.clone())?;
    let health = context.health;
    for condition in ["postgres", "kafka", "topics", "shards"] {
        health.require(condition, "not looked at yet");
    }
    let metrics = metrics::RelayMetrics::new(&context.metrics);
    let ownership = ownership::Ownership::default();
    let peers = wake::Peers::default();
    let directory = directory::Directory::default();
    let stop = Arc::new(AtomicBool::new(false));
    let (mut wake, mut workers) = (Vec::new(), Vec::new());
    for index in 0..settings.workers {
        let (sender, receiver) = bounded(1);
        wake.push(sender);
        let parts = worker::Parts {
            index,
            settings: settings.clone(),
            ownership: ownership.clone(),
            directory: directory.clone(),
            metrics: metrics.clone(),
            wake: receiver,
            stop: Arc::clone(&stop),
        };
        let worker = worker::Worker::new(parts)?;
        workers.push(spawn(&format!("worker-{index}"), move || worker.run())?);
    }
    let (own, own_health) = (settings.clone(), health.clone());
    spawn("topics", move || topics::watch(&own, &own_health, &directory))?;
    let (own, own_peers, own_wake) = (settings.clone(), peers.clone(), wake.clone());
    let own_stop = Arc::clone(&stop);
    spawn("wake", move || wake::listen(&own, &own_peers, &own_wake, &own_stop))?;
    let push = push::start(&settings, &health, &context.metrics, &stop)?;
    let (stop_keeper, keeper_stop) = bounded(1);
    let keeper =
        keeper::Keeper::new(settings, ownership, peers, metrics, health, wake.clone(), keeper_stop);
    let keeper = spawn("lease", move || keeper.run())?;
    Ok(Box::new(Relay { stop, wake, stop_keeper, workers, keeper, push }))
}

impl Running for Relay {
    /// Finishes the waves and push requests that were begun, and gives the leases back.
    fn stop(self: Box<Self>) {
        self.stop.store(true, Ordering::Release);
        wake::wake_all(&self.wake);
        let _ = self.stop_keeper.try_send(());
        let until = Instant::now() + Duration::from_millis(STOP_MS_MAX);
        for thread in self.workers.into_iter().chain([self.keeper]).chain(self.push) {
            while !thread.is_finished() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, String> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map_err(|error| format!("thread {name}: {error}"))
}
