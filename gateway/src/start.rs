//! Starting and stopping the gateway's threads.

#![allow(clippy::disallowed_methods, reason = "the shell: threads are started here")]

use crate::audience::Audiences;
use crate::capacity::{self, Memory};
use crate::config::{self, Settings};
use crate::drain::DrainTimes;
use crate::inbound::listen::Bound;
use crate::inbound::tls::{self, Files};
use crate::inbound::uplink::{self, Uplink};
use crate::limits::{KAFKA_RETRY_MS, OPENING_TICK_MS};
use crate::mail::{Ask, Mail, RouteNote};
use crate::mailbox::{self, Mailboxes};
use crate::metrics::{GatewayMetrics, Lanes};
use crate::outbound::consume::{self, Consumers, OwnTopic};
use crate::outbound::publish::Publisher;
use crate::presence::{self, Presence, PresenceChange};
use crate::progress::Progress;
use crate::routes::{self, Routes};
use crate::shard::{BELL, Beyond, Parts, Shard};
use core_affinity::CoreId;
use crossbeam_channel::{Receiver, Sender, bounded};
use daemon::{Config, Context, Health, Metrics, Running};
use mio::{Poll, Waker};
use proto::Uuid;
use proto::limits::NEW_TOPIC_MS;
use rustls::ServerConfig;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The health condition: clients can connect.
const CONDITION: &str = "listen";
/// Conditions of the other parts that must hold before the gateway listens.
const BEFORE_LISTENING: [&str; 2] = ["kafka", "keys"];

/// Until every relay knows a topic that is new.
const NEW_TOPIC: Duration = Duration::from_millis(NEW_TOPIC_MS);

struct Gateway {
    mailboxes: Mailboxes,
    shards: Vec<JoinHandle<()>>,
    presence: Presence,
    stopping: Arc<AtomicBool>,
    consumers: Receiver<Consumers>,
    drain: DrainTimes,
    /// Where the certificate is read again from.
    tls: Option<Files>,
}

/// A shard's way to the other threads.
#[derive(Clone)]
struct Outside {
    uplink: Uplink,
    presence: Presence,
    /// In a gateway that is routed to.
    routes: Option<Routes>,
}

impl Beyond for Outside {
    fn ask(&self, ask: Ask) -> Result<(), Box<Ask>> {
        self.uplink.ask(ask)
    }

    fn connected(&self, user: Uuid, device: Uuid, connection: u64) {
        self.presence.report(PresenceChange::Connected { user, device, connection });
    }

    fn disconnected(&self, user: Uuid, device: Uuid, connection: u64) {
        self.presence.report(PresenceChange::Disconnected { user, device, connection });
    }

    fn census(&self, shard: u16, sessions: Vec<(Uuid, Uuid, u64)>) {
        self.presence.census(shard, sessions);
    }

    fn route(&self, note: RouteNote) -> bool {
        self.routes.as_ref().is_none_or(|it| it.note(note))
    }
}

/// Starts every thread and returns; the gateway listens once it may.
pub(crate) fn start(context: Context) -> Result<Box<dyn Running>, String> {
    let Context { config, health, metrics, instance } = context;
    health.require(CONDITION, "waiting for Kafka's positions and the verification keys");
    capacity::bound_heaps();
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let shards = config::shards(&config, cores.len());
    let bound = bind(&config, shards)?;
    let settings = Arc::new(settings(&config, &instance, shards)?);
    let tls = config::tls_files(&config)?;
    let certificate = tls.as_ref().map(tls::read_config).transpose()?;
    let sessions = settings.sessions_max.div_ceil(shards);
    let (polls, mailboxes) = polls(shards, sessions, config.count("mailbox.letters_max"))?;
    let progress =
        Arc::new(Progress::new(consume::threads(config.count("kafka.consumers")), shards));
    let gateway_metrics = GatewayMetrics::register(shards, &metrics);
    let audiences = Audiences::new();
    let publisher = Publisher::start(&config, &instance, &metrics)?;
    let presence = presence::start(&config, &instance, &metrics, mailboxes.clone())?;
    let uplink = uplink::start(uplink::Setup {
        config: &config,
        instance: &instance,
        health: &health,
        metrics: &metrics,
        mailboxes: mailboxes.clone(),
        audiences: audiences.clone(),
        publisher: publisher.clone(),
    })?;
    let routes = if settings.is_routed {
        Some(routes::start(&config, &instance, &metrics, mailboxes.clone())?)
    } else {
        None
    };
    let beyond = Outside { uplink, presence: presence.clone(), routes };
    let mut threads = Vec::with_capacity(shards);
    for (id, (poll, inbox)) in (0..).zip(polls) {
        let parts = Parts {
            id,
            poll,
            inbox,
            settings: Arc::clone(&settings),
            mailboxes: mailboxes.clone(),
            progress: Arc::clone(&progress),
            metrics: gateway_metrics.clone(),
            beyond: Box::new(beyond.clone()),
        };
        let core =
            config.boolean("pin_shards").then(|| cores.get(usize::from(id) % cores.len().max(1)));
        threads.push(start_shard(parts, core.flatten().copied())?);
    }
    if let Some(certificate) = certificate {
        send_certificate(&mailboxes, &certificate);
    }
    let (stopping, drain) = (Arc::new(AtomicBool::new(false)), settings.drain);
    let (consumers_sender, consumers) = bounded(1);
    let opening = Opening {
        is_routed: settings.is_routed,
        config,
        instance,
        health,
        metrics,
        lanes: gateway_metrics.lanes(),
        mailboxes: mailboxes.clone(),
        progress,
        audiences,
        publisher,
        stopping: Arc::clone(&stopping),
        consumers: consumers_sender,
    };
    let opening = thread::Builder::new().name("open".into()).spawn(move || opening.open(bound));
    opening.map_err(|error| format!("thread open: {error}"))?;
    Ok(Box::new(Gateway { mailboxes, shards: threads, presence, stopping, consumers, drain, tls }))
}

fn bind(config: &Config, shards: usize) -> Result<Bound, String> {
    let bound = Bound::new(config.list("listen"), config.list("tls.listen"), shards)?;
    let unsent_bytes = u32::try_from(config.integer("socket.unsent_bytes")).unwrap_or(u32::MAX);
    bound.limit_unsent(unsent_bytes)?;
    Ok(bound)
}

/// What is configured, as far as the machine has descriptors for it; an error where it lacks the memory.
fn settings(config: &Config, instance: &str, shards: usize) -> Result<Settings, String> {
    let mut settings = Settings::new(config, instance, shards)?;
    settings.sessions_max = capacity::connections_of_descriptors(settings.sessions_max);
    Memory::of(config, &settings, shards).check(capacity::machine_bytes())?;
    Ok(settings)
}

fn send_certificate(mailboxes: &Mailboxes, certificate: &Arc<ServerConfig>) {
    for mailbox in mailboxes.iter() {
        // A shard that has ended is one of a gateway that stops.
        let _ = mailbox.send(Mail::Certificate(Arc::clone(certificate)));
    }
}

type Polls = Vec<(Poll, mailbox::Inbox)>;

fn polls(shards: usize, sessions: usize, letters_max: usize) -> Result<(Polls, Mailboxes), String> {
    let mut polls = Vec::with_capacity(shards);
    let mut mailboxes = Vec::with_capacity(shards);
    for _ in 0..shards {
        let poll = Poll::new().map_err(|error| format!("epoll: {error}"))?;
        let waker =
            Waker::new(poll.registry(), BELL).map_err(|error| format!("eventfd: {error}"))?;
        let (mailbox, inbox) = mailbox::pair_for(sessions, letters_max, Some(waker));
        polls.push((poll, inbox));
        mailboxes.push(mailbox);
    }
    Ok((polls, Mailboxes::new(mailboxes)))
}

fn start_shard(parts: Parts, core: Option<CoreId>) -> Result<JoinHandle<()>, String> {
    let name = format!("shard-{}", parts.id);
    let started = thread::Builder::new().name(name.clone()).spawn(move || {
        if let Some(core) = core
            && !core_affinity::set_for_current(core)
        {
            tracing::warn!(shard = parts.id, core = core.id, "the shard is not pinned");
        }
        // Made here, so that its memory is its own core's.
        Shard::new(parts).run();
    });
    started.map_err(|error| format!("thread {name}: {error}"))
}

/// What the opening thread needs.
struct Opening {
    is_routed: bool,
    config: Config,
    instance: String,
    health: Health,
    metrics: Metrics,
    lanes: Lanes,
    mailboxes: Mailboxes,
    progress: Arc<Progress>,
    audiences: Audiences<uplink::TypingSession>,
    publisher: Publisher,
    stopping: Arc<AtomicBool>,
    consumers: Sender<Consumers>,
}

impl Opening {
    /// Kafka's positions, then the keys, then the listeners.
    fn open(self, bound: Bound) {
        let Some(own_topic) = self.own_topic() else { return };
        let Some(consumers) = self.consume(own_topic.as_ref()) else { return };
        // Nobody takes them when the gateway is already stopping.
        let _ = self.consumers.send(consumers);
        let read_since = Instant::now();
        let knows = |it: &OwnTopic| !it.is_new || read_since.elapsed() > NEW_TOPIC;
        while self.must_wait() || !own_topic.as_ref().is_none_or(knows) {
            if self.stopping.load(Ordering::Acquire) {
                return;
            }
            thread::sleep(Duration::from_millis(OPENING_TICK_MS));
        }
        if let Some(own_topic) = own_topic.filter(|it| it.is_new) {
            own_topic.was_seen();
        }
        let addresses = bound.addresses.clone();
        let listeners = match bound.listen() {
            Ok(listeners) => listeners,
            Err(error) => {
                tracing::error!(%error, "the gateway cannot listen");
                return self.health.not_ready(CONDITION, format!("listen: {error}"));
            }
        };
        for (mailbox, listeners) in self.mailboxes.iter().zip(listeners) {
            // A shard that has ended is one of a gateway that stops.
            let _ = mailbox.send(Mail::Listen(listeners));
        }
        for (transport, address) in addresses {
            tracing::info!(%address, ?transport, "listening");
        }
        self.health.ready(CONDITION);
    }

    /// None where the gateway stops; a gateway that is not routed to has none.
    fn own_topic(&self) -> Option<Option<OwnTopic>> {
        if !self.is_routed {
            return Some(None);
        }
        while !self.stopping.load(Ordering::Acquire) {
            match OwnTopic::ensure(self.config.list("kafka.brokers"), &self.instance) {
                Ok(topic) => {
                    if topic.is_new {
                        let reason = "the gateway's topic is new: the relays have to see it first";
                        self.health.not_ready(CONDITION, reason);
                        tracing::info!(wait_ms = NEW_TOPIC_MS, "{reason}");
                    }
                    return Some(Some(topic));
                }
                Err(error) => {
                    tracing::warn!(error, "the gateway's own topic is not there yet");
                    thread::sleep(Duration::from_millis(KAFKA_RETRY_MS));
                }
            }
        }
        None
    }

    fn consume(&self, own_topic: Option<&OwnTopic>) -> Option<Consumers> {
        while !self.stopping.load(Ordering::Acquire) {
            let setup = consume::Setup {
                config: &self.config,
                instance: &self.instance,
                health: &self.health,
                metrics: &self.metrics,
                lanes: self.lanes.clone(),
                mailboxes: self.mailboxes.clone(),
                progress: Arc::clone(&self.progress),
                own_topic,
                audiences: self.audiences.clone(),
                publisher: self.publisher.clone(),
            };
            match consume::start(setup) {
                Ok(consumers) => return Some(consumers),
                Err(error) => {
                    tracing::error!(error, "Kafka is not read yet");
                    thread::sleep(Duration::from_millis(OPENING_TICK_MS));
                }
            }
        }
        None
    }

    fn must_wait(&self) -> bool {
        self.health.missing().iter().any(|(condition, _)| BEFORE_LISTENING.contains(condition))
    }
}

impl Running for Gateway {
    /// Sessions keep what they began with; handshakes from here on see the new certificate.
    fn reload(&mut self) {
        let Some(files) = &self.tls else { return };
        match tls::read_config(files) {
            Ok(certificate) => {
                send_certificate(&self.mailboxes, &certificate);
                tracing::info!(certificate = %files.certificate.display(), "certificate read again");
            }
            Err(error) => tracing::error!(error, "the certificate in use is kept"),
        }
    }

    fn stop(self: Box<Self>) {
        self.stopping.store(true, Ordering::Release);
        let all = |mail: fn() -> Mail| {
            for mailbox in self.mailboxes.iter() {
                let _ = mailbox.send(mail());
            }
        };
        all(|| Mail::Drain);
        // The shards still take letters, so that everything read from Kafka can be committed.
        if let Ok(consumers) = self.consumers.try_recv() {
            consumers.stop(self.drain);
        }
        all(|| Mail::Stop);
        for shard in self.shards {
            if shard.join().is_err() {
                tracing::error!("a shard panicked");
            }
        }
        self.presence.stop(self.drain.report);
    }
}
