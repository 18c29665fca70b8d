//! A shard: one thread with its own poll, listeners, connections, rings, payloads, timers and
//! registry. It shares nothing but its mailbox, its progress slots and its counters, and takes no
//! lock.
//!
//! ```text
//!  sockets --> poll --> accept --> read --> (conn: bytes to effects) --> frames --> asks
//!  mailbox ------------------------------> letters --> deliver, answers, adopt
//!                                               rings <--+
//!  sockets <-- flush <----------------------------+          timers: pings, deadlines
//! ```

mod accept;
mod adopt;
mod answer;
mod close;
mod deliver;
mod encrypted;
mod events;
mod flush;
mod frames;
pub(crate) mod handover;
mod hello;
mod letters;
mod partial;
mod presence;
mod read;
mod refusal;
pub(crate) mod registry;
mod routes;
mod slow;
mod table;
mod timers;
mod upgrade;
mod watchers;
mod watermark;

use crate::clock::{Clock, Now};
use crate::config::Settings;
use crate::conn::Effect;
use crate::inbound::frame::Pool;
use crate::inbound::tls::Room;
use crate::inbound::token::Verifier;
use crate::limits::{POLL_EVENTS_MAX, POLL_MS_MAX, READ_BYTES};
use crate::mail::{Ask, RouteNote, SessionRef};
use crate::mailbox::{Inbox, Mailboxes};
use crate::metrics::{GatewayMetrics, ShardMetrics};
use crate::outbound::deflate::Deflater;
use crate::outbound::payload::{Handle, Payloads};
use crate::outbound::ring::{RingLimits, Rings};
use crate::progress::Progress;
use crate::recovery::recent::Recent;
use crate::timer::Wheel;
use mio::{Events, Poll, Token};
use proto::Uuid;
use proto::limits::INLINE_RECIPIENTS_MAX;
use registry::Registry;
use rustls::ServerConfig;
use std::sync::Arc;
use std::time::Duration;
use table::Table;
use watchers::Watchers;

/// The mailbox's bell.
pub(crate) const BELL: Token = Token(usize::MAX);
/// Listeners count down from here, connections up from 0.
const FIRST_LISTENER: usize = usize::MAX - 1;

/// What a shard reaches beyond its mailbox; none of it ever waits.
pub(crate) trait Beyond: Send {
    /// Asks chatd or presenced; what no queue takes comes back.
    fn ask(&self, ask: Ask) -> Result<(), Box<Ask>>;
    /// A session began.
    fn connected(&self, user: Uuid, device: Uuid, connection: u64);
    /// A session ended.
    fn disconnected(&self, user: Uuid, device: Uuid, connection: u64);
    /// Every session of the shard: user, device, connection.
    fn census(&self, shard: u16, sessions: Vec<(Uuid, Uuid, u64)>);
    /// A user came or went, in a gateway that is routed to; false if that is to be said again later.
    fn route(&self, note: RouteNote) -> bool;
}

/// What a shard is made of.
pub(crate) struct Parts {
    pub(crate) id: u16,
    pub(crate) poll: Poll,
    pub(crate) inbox: Inbox,
    pub(crate) settings: Arc<Settings>,
    pub(crate) mailboxes: Mailboxes,
    pub(crate) progress: Arc<Progress>,
    pub(crate) metrics: GatewayMetrics,
    pub(crate) beyond: Box<dyn Beyond>,
}

pub(crate) struct Shard {
    id: u16,
    settings: Arc<Settings>,
    clock: Clock,
    /// Read at the start of the loop and after the poll.
    now: Now,
    poll: Poll,
    events: Events,
    listeners: Vec<accept::Listener>,
    refusals: refusal::Refusals,
    inbox: Inbox,
    mailboxes: Mailboxes,
    progress: Arc<Progress>,
    beyond: Box<dyn Beyond>,
    verifier: Arc<Verifier>,
    /// For TLS listeners.
    certificate: Option<Arc<ServerConfig>>,
    /// TLS handshakes under way.
    handshakes: usize,
    /// Shared by all TLS connections while they are read and written.
    room: Room,
    table: Table,
    registry: Registry,
    /// In a gateway that is routed to.
    routes: Option<Box<routes::Routes>>,
    watchers: Watchers,
    payloads: Payloads,
    rings: Rings,
    recent: Recent,
    watermark: watermark::Told,
    wheel: Wheel,
    /// The payload of every ping; never released.
    ping: Handle,
    /// Shared by all connections while they are read.
    read_buffer: Box<[u8]>,
    pool: Pool,
    /// For the conformance profile.
    deflater: Deflater,
    effects: Vec<Effect>,
    /// Connections to be read, to be flushed, and whose time has come.
    ready: Vec<u32>,
    dirty: Vec<u32>,
    /// The lists that take what is noted while those are worked through.
    spare_ready: Vec<u32>,
    spare_dirty: Vec<u32>,
    fired: Vec<u32>,
    /// The first session of each recipient of the event in hand.
    firsts: Vec<u32>,
    /// Bytes of sync answers that wait for their sessions' rings.
    backlog_bytes: usize,
    /// Bytes that connections keep of what is not whole.
    partial_bytes: usize,
    /// Frames in all rings.
    queued: u64,
    /// Set by SIGTERM: when the last connection is dropped, at the latest.
    drain_until_ms: Option<u64>,
    /// Nothing comes any more: end as soon as the connections are closed.
    stopping: bool,
    counts: Arc<ShardMetrics>,
    metrics: GatewayMetrics,
}

impl Shard {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { id, poll, inbox, settings, mailboxes, progress, metrics, beyond } = parts;
        let clock = Clock::start();
        let mut payloads = Payloads::new();
        let ping = payloads.add_raw(crate::outbound::encode::ping().into());
        let capacity = settings.slots(mailboxes.len());
        Self {
            id,
            now: clock.now(),
            clock,
            poll,
            events: Events::with_capacity(POLL_EVENTS_MAX),
            listeners: Vec::new(),
            refusals: refusal::Refusals::default(),
            inbox,
            mailboxes,
            progress,
            beyond,
            verifier: Arc::new(Verifier::empty()),
            certificate: None,
            handshakes: 0,
            room: Room::default(),
            table: Table::new(capacity),
            registry: Registry::new(capacity),
            routes: settings.is_routed.then(|| Box::new(routes::Routes::new())),
            watchers: Watchers::new(),
            payloads,
            rings: Rings::new(RingLimits {
                entries: settings.ring_entries,
                bytes_max: settings.ring_bytes_max,
            }),
            recent: Recent::new(settings.recent_bytes_max),
            watermark: watermark::Told::default(),
            wheel: Wheel::new(capacity),
            ping,
            read_buffer: vec![0; READ_BYTES].into(),
            pool: Pool::default(),
            deflater: Deflater::default(),
            effects: Vec::new(),
            ready: Vec::with_capacity(POLL_EVENTS_MAX),
            dirty: Vec::with_capacity(POLL_EVENTS_MAX),
            spare_ready: Vec::with_capacity(POLL_EVENTS_MAX),
            spare_dirty: Vec::with_capacity(POLL_EVENTS_MAX),
            fired: Vec::with_capacity(POLL_EVENTS_MAX),
            firsts: Vec::with_capacity(INLINE_RECIPIENTS_MAX),
            backlog_bytes: 0,
            partial_bytes: 0,
            queued: 0,
            drain_until_ms: None,
            stopping: false,
            counts: metrics.shard(id),
            metrics,
            settings,
        }
    }

    /// Runs until the gateway stops and every connection is closed.
    pub(crate) fn run(mut self) {
        while !self.is_finished() {
            self.poll();
            self.accept();
            self.read();
            self.take_letters();
            self.flush();
            self.fire_timers();
            self.tell_routes();
            self.publish_counts();
        }
        tracing::info!(shard = self.id, left = self.table.len(), "shard ended");
    }

    /// Sleeps until something is to be done, and notes which sockets are concerned.
    fn poll(&mut self) {
        let timeout = self.sleep();
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => self.events.clear(),
            Err(error) => tracing::error!(shard = self.id, %error, "poll failed"),
        }
        self.now = self.clock.now();
        for event in &self.events {
            let Token(token) = event.token();
            if event.token() == BELL {
                continue;
            }
            if let Some(index) = FIRST_LISTENER.checked_sub(token)
                && let Some(listener) = self.listeners.get_mut(index)
            {
                listener.ready = true;
                continue;
            }
            let Ok(slot) = u32::try_from(token) else { continue };
            let Some(connection) = self.table.get_mut(slot) else { continue };
            if event.is_readable() || event.is_read_closed() || event.is_error() {
                connection.readable = true;
                connection.hung_up |= event.is_read_closed() || event.is_error();
                if !std::mem::replace(&mut connection.in_ready, true) {
                    self.ready.push(slot);
                }
            }
            if event.is_writable() && connection.blocked {
                connection.blocked = false;
                if !std::mem::replace(&mut connection.in_dirty, true) {
                    self.dirty.push(slot);
                }
            }
        }
    }

    fn sleep(&self) -> Duration {
        let busy = !self.ready.is_empty()
            || !self.dirty.is_empty()
            || !self.inbox.is_empty()
            || self.listeners.iter().any(|listener| self.may_accept(listener));
        if busy {
            return Duration::ZERO;
        }
        let now = self.clock.now().ms;
        let until = |due_ms: u64| due_ms.saturating_sub(now);
        let timer = self.wheel.next_ms().map_or(POLL_MS_MAX, until);
        let retry = self.listeners.iter().filter_map(|it| it.retry_at_ms).map(until).min();
        let drain = self.drain_until_ms.filter(|_| self.stopping).map(until);
        let ms = timer.min(retry.unwrap_or(POLL_MS_MAX)).min(drain.unwrap_or(POLL_MS_MAX));
        Duration::from_millis(ms.min(POLL_MS_MAX))
    }

    fn is_finished(&self) -> bool {
        let until_ms = self.drain_until_ms.unwrap_or(0);
        self.stopping && (self.table.len() == 0 || self.clock.now().ms >= until_ms)
    }

    fn publish_counts(&self) {
        self.counts.active_connections.set(self.table.len() as u64);
        self.counts.tls_handshakes.set(self.handshakes as u64);
        self.counts.active_sessions.set(self.registry.sessions() as u64);
        self.counts.send_queue_depth.set(self.queued);
        // The frame of the watermark is the shard's own, as the ping is.
        let live = self.payloads.live() - usize::from(self.watermark.is_kept());
        self.counts.payloads_live.set(live as u64);
        self.counts.recent_bytes.set(self.recent.bytes() as u64);
        self.counts.partial_bytes.set(self.partial_bytes as u64);
        self.counts.rings_borrowed.set(self.rings.borrowed() as u64);
    }

    fn session_ref(&self, slot: u32) -> Option<SessionRef> {
        let generation = self.table.get(slot)?.generation;
        Some(SessionRef { shard: self.id, slot, generation })
    }

    /// The slot that is meant, if it is still that connection.
    fn find(&self, session: SessionRef) -> Option<u32> {
        let connection = self.table.get(session.slot)?;
        (connection.generation == session.generation).then_some(session.slot)
    }

    /// Unique within this run of the gateway.
    fn connection_number(&self, generation: u32) -> u64 {
        u64::from(self.id) << 32 | u64::from(generation)
    }

    fn mark_ready(&mut self, slot: u32) {
        if let Some(connection) = self.table.get_mut(slot)
            && !std::mem::replace(&mut connection.in_ready, true)
        {
            self.ready.push(slot);
        }
    }

    fn mark_dirty(&mut self, slot: u32) {
        if let Some(connection) = self.table.get_mut(slot)
            && !connection.blocked
            && !std::mem::replace(&mut connection.in_dirty, true)
        {
            self.dirty.push(slot);
        }
    }
}

#[cfg(test)]
mod tests;
