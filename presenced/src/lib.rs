//! presenced: who is online.
//!
//! ```text
//! gateways --link--> requests --> core (rules) --> Redis: sessions, who is online, last seen
//!                                  |   ^   ^
//!                    announcements |   |   +-- redis thread: connects, again and again
//!                                  v   | Kafka has it
//!                               announcer --> Kafka: presence.user.online, presence.user.offline
//! ```
//!
//! What is true lives in this process and in the gateways, which say everything again with every
//! heartbeat; Redis holds it for others and over a restart. One presenced serves one Redis database.

mod announcer;
mod config;
mod core;
mod limits;
mod metrics;
mod requests;
pub mod rules;
mod store;

// The rules, for whoever runs them with a clock, a Redis and a log of another kind.
pub use announcer::{Announcement, Waiting};
pub use config::Timings;

use crossbeam_channel::{Sender, bounded, unbounded};
use daemon::link::{ServerSettings, serve};
use daemon::{Context, Daemon, Running};
use limits::{ANNOUNCE_MAX, QUEUE_MAX, STOP_MS_MAX};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Runs the daemon as its command line says.
pub fn main() -> ExitCode {
    daemon::run(&Daemon {
        name: "presenced",
        about: "Knows who of RealChat's users is online",
        keys: config::KEYS,
        start,
        commands: &[],
    })
}

struct Presenced {
    stop: Sender<()>,
    threads: Vec<JoinHandle<()>>,
}

fn start(context: Context) -> Result<Box<dyn Running>, String> {
    let settings = config::Settings::new(&context.config, context.instance.clone())?;
    let health = context.health;
    for condition in ["link", "redis", "kafka"] {
        health.require(condition, "not looked at yet");
    }
    let redis = redis::Client::open(settings.redis_url.as_str())
        .map_err(|error| format!("redis.url: {error}"))?;
    let metrics = metrics::PresenceMetrics::new(&context.metrics);
    let (core_sender, requests) = bounded(QUEUE_MAX);
    let (connect, connect_asked) = bounded(1);
    let (connected_sender, connected) = bounded(1);
    let (announce, announcements) = bounded(ANNOUNCE_MAX);
    // At most as many as may be on their way to Kafka.
    let (announced_sender, announced) = unbounded();
    let (stop, stop_asked) = bounded(1);
    let announcer = announcer::Announcer::new(
        settings.clone(),
        health.clone(),
        metrics.clone(),
        announcements,
        announced_sender,
    );
    let own_health = health.clone();
    spawn("redis", move || {
        core::keep_connecting(&redis, &connect_asked, &connected_sender, &own_health);
    })?;
    let (own, own_health) = (settings.clone(), health.clone());
    spawn("kafka-watch", move || announcer::watch(&own, &own_health))?;
    let core = core::Core::new(core::Parts {
        settings: settings.clone(),
        health: health.clone(),
        metrics,
        requests,
        connect,
        connected,
        announce,
        announced,
        stop: stop_asked,
    });
    let threads =
        vec![spawn("core", move || core.run())?, spawn("announcer", move || announcer.run())?];
    let link = ServerSettings {
        address: settings.link_listen.clone(),
        secret: settings.link_secret,
        instance: settings.instance,
    };
    serve(link, Arc::new(requests::Requests { core: core_sender }))
        .map_err(|error| format!("link.listen {}: {error}", settings.link_listen))?;
    health.ready("link");
    Ok(Box::new(Presenced { stop, threads }))
}

impl Running for Presenced {
    /// Stops the core, which lets the announcer finish what it has.
    fn stop(self: Box<Self>) {
        let _ = self.stop.try_send(());
        let until = Instant::now() + Duration::from_millis(STOP_MS_MAX);
        for thread in self.threads {
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
