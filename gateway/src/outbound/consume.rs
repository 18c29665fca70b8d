//! Kafka in: every gateway tails every partition of the pushed topics, with static assignment; one that is
//! routed to has a topic of its own in place of the conversations' logs (`own_topic.rs`).
//!
//! ```text
//!  brokers --> K threads (worker) for the log, one for all else: poll a batch
//!                 |  record.rs: headers, recipients by home shard; the value is not decoded
//!                 +--> mailbox of each shard concerned: Deliver..., then the batch's Ticket
//!                                                        |
//!  chatd <-- fetch.rs: members of conversations that are too large for a record's headers
//!                 (large.rs, roster.rs: who they are; held.rs: what waits for them)
//!  brokers <-- commit <-- offsets.rs <-- progress <-- shards store the ticket
//!  watch thread: is a broker there, did partitions come?
//! ```

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the shell: these are the Kafka threads, not shards"
)]

mod client;
mod direct;
mod fetch;
mod held;
mod incoming;
mod large;
mod ledger;
mod native;
mod own_topic;
mod positions;
mod record;
mod roster;
mod wire;
mod worker;

pub(crate) use client::{complain, log};
pub(crate) use own_topic::OwnTopic;
pub use positions::choose;
pub(crate) use positions::threads;
pub use record::{Headers, RecordError, Router, check_value};

use crate::audience::Audiences;
use crate::drain::DrainTimes;
use crate::inbound::uplink::TypingSession;
use crate::limits::{
    KAFKA_ASK_MS_MAX, KAFKA_RETRY_MS, KAFKA_START_MS_MAX, KAFKA_WATCH_MS, ROSTER_FETCHES_MAX,
};
use crate::mailbox::Mailboxes;
use crate::metrics::Lanes;
use crate::outbound::publish::Publisher;
use crate::progress::Progress;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use daemon::link::ClientSettings;
use daemon::{Config, Health, Metrics};
use ledger::Registered;
use positions::{Position, Scout};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use worker::{Shared, Worker};

/// The health condition: a broker answers and the topics are there.
const CONDITION: &str = "kafka";

/// What the Kafka threads are given to start with.
pub(crate) struct Setup<'a> {
    pub(crate) config: &'a Config,
    pub(crate) instance: &'a str,
    pub(crate) health: &'a Health,
    pub(crate) metrics: &'a Metrics,
    pub(crate) lanes: Lanes,
    pub(crate) mailboxes: Mailboxes,
    /// Made for [`threads`] consumers.
    pub(crate) progress: Arc<Progress>,
    /// Of a gateway that is routed to.
    pub(crate) own_topic: Option<&'a OwnTopic>,
    pub(crate) audiences: Audiences<TypingSession>,
    pub(crate) publisher: Publisher,
}

/// The running Kafka threads.
pub(crate) struct Consumers {
    stop: Arc<AtomicBool>,
    publisher: Publisher,
    /// Disconnected once every thread has ended.
    ended: Receiver<()>,
    /// Dropped to stop the watch thread.
    watching: Option<Sender<()>>,
}

/// Fixes the start positions and starts reading. When this returns, the gateway may listen: whatever
/// is published from now on is pushed, whatever was published before is in PostgreSQL. Waits up to
/// 30 s for Kafka and its topics; an error is one line for a person.
pub(crate) fn start(setup: Setup<'_>) -> Result<Consumers, String> {
    let Setup { config, instance, health, metrics, own_topic, .. } = setup;
    let Setup { lanes: counted, mailboxes, progress, audiences, publisher, .. } = setup;
    health.require(CONDITION, "start positions are not known yet");
    let brokers = config.list("kafka.brokers").join(",");
    let group = format!("realchat-{instance}");
    let own = own_topic.map(|it| it.name);
    let mut scout = Scout::new(client::connect(&brokers, &group)?, own);
    let positions = find_positions(&mut scout)
        .map_err(|reason| format!("kafka.brokers {brokers}: {reason}"))?;
    let lanes = config.count("kafka.consumers");
    let threads = threads(lanes);
    let stop = Arc::new(AtomicBool::new(false));
    let log = scout.log()?;
    let registered = Arc::new(Registered::new(threads, metrics, counted));
    let asking = ClientSettings {
        address: config.text("chatd.link").to_owned(),
        secret: config.text("link.secret").to_owned(),
        instance: instance.to_owned(),
        in_flight_max: ROSTER_FETCHES_MAX,
    };
    let mut fetchers = fetch::start(asking, lanes, registered.roster_failures.clone())?.into_iter();
    let (end, ended) = bounded::<()>(0);
    let mut added = Vec::with_capacity(threads);
    for thread in 0..threads {
        let (sender, receiver) = unbounded();
        added.push(sender);
        let shared = Shared {
            mailboxes: mailboxes.clone(),
            progress: Arc::clone(&progress),
            audiences: audiences.clone(),
            publisher: publisher.clone(),
            stop: Arc::clone(&stop),
            log,
        };
        let consumer = client::connect(&brokers, &group)?;
        let number = u16::try_from(thread).map_err(|_| "kafka.consumers is too large")?;
        let ledger = registered.ledger(thread);
        // The log's threads come first.
        let mut worker = Worker::new(number, consumer, shared, ledger, receiver, fetchers.next());
        worker
            .assign(positions.iter().filter(|it| it.thread(lanes) == thread).cloned().collect())?;
        let end = end.clone();
        spawn(format!("kafka-{thread}"), move || {
            worker.run();
            drop(end);
        })?;
    }
    health.ready(CONDITION);
    let (watching, watched) = bounded(0);
    let health = health.clone();
    spawn("kafka-watch".to_owned(), move || watch(scout, &added, lanes, &health, &watched))?;
    Ok(Consumers { stop, publisher, ended, watching: Some(watching) })
}

impl Consumers {
    /// Stops reading, waits until the shards have enqueued what was mailed to them, and commits.
    /// To be called while the shards still take letters. Takes the drain time's part of it at most: a
    /// broker that is down keeps its commit, and a restart reads those records again.
    pub(crate) fn stop(mut self, times: DrainTimes) {
        self.stop.store(true, Ordering::Release);
        drop(self.watching.take());
        if self.ended.recv_timeout(times.commit) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the last offsets were not committed in time");
        }
        self.publisher.flush(times.publish);
    }
}

fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let started = std::thread::Builder::new().name(name.clone()).spawn(body);
    started.map(drop).map_err(|error| format!("thread {name}: {error}"))
}

fn find_positions(scout: &mut Scout) -> Result<Vec<Position>, String> {
    let give_up_at = Instant::now() + Duration::from_millis(KAFKA_START_MS_MAX);
    loop {
        match scout.start_positions(daemon::clock::now_us() / 1_000) {
            Ok(positions) => return Ok(positions),
            Err(reason) if Instant::now() >= give_up_at => return Err(reason),
            Err(reason) => tracing::warn!(reason, "start positions are not known yet"),
        }
        std::thread::sleep(Duration::from_millis(KAFKA_RETRY_MS));
    }
}

/// Until the gateway stops: keeps the health condition, and hands new partitions to their threads.
fn watch(
    mut scout: Scout,
    added: &[Sender<Position>],
    lanes: usize,
    health: &Health,
    watched: &Receiver<()>,
) {
    let mut pause_ms = KAFKA_WATCH_MS;
    while watched.recv_timeout(Duration::from_millis(pause_ms)) == Err(RecvTimeoutError::Timeout) {
        match scout.added_partitions() {
            Ok(positions) => {
                for position in positions {
                    // A thread that has ended is one of a gateway that stops.
                    let _ = added[position.thread(lanes)].send(position);
                }
                health.ready(CONDITION);
                pause_ms = KAFKA_WATCH_MS;
            }
            Err(reason) => {
                health.not_ready(CONDITION, reason);
                pause_ms = KAFKA_RETRY_MS;
            }
        }
    }
}

const _: () = assert!(KAFKA_ASK_MS_MAX < KAFKA_START_MS_MAX);

#[cfg(test)]
mod tests;
