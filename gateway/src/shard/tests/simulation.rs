//! Whole shards under a seed: their phases are stepped by hand, with a clock of the simulation's own,
//! while clients connect, speak protobuf or JSON in pieces, compressed or not, stop reading, vanish and come back, and
//! what lies behind answers late, out of order, with errors or not at all. In every second world a slow reader is
//! closed, in the others it is told of its gap; in every second one there are two shards, which hand connections over
//! to each other; in every third one nothing is sent for users whom a late Redis does not know yet, or no more.
//!
//! What must hold, whatever happens: a session sees each conversation's events in order and without
//! a hole that it was not told of; no ring holds more than it may; when everybody has left, nothing
//! is left of them. A failing seed is named with the command that replays it;
//! `REALCHAT_SIMULATION_SEEDS=N` tries so many.

use super::harness::{delivery, event, narrow, settings, token_at, upgrade_request, verifier};
use crate::clock::Now;
use crate::close::Reason;
use crate::config::Overflow;
use crate::inbound::listen::Bound;
use crate::mail::{Answer, Ask, AskKind, Asked, Delivery, Mail, Priority, RouteNote, Skipped};
use crate::mailbox::{Mailbox, Mailboxes, pair};
use crate::metrics::{GatewayMetrics, ShardMetrics};
use crate::progress::Progress;
use crate::rate::{Allowed, Limits};
use crate::shard::{BELL, Beyond, Parts, Shard};
use crossbeam_channel::{Receiver, Sender, unbounded};
use fastrand::Rng;
use mio::{Poll, Waker};
use proto::Uuid;
use proto::client::client_frame::Frame as Up;
use proto::client::event::Kind;
use proto::client::{
    ClientFrame, Cursor, Event, Hello, Message as ChatMessage, SyncPage, TypingChanged, Verdict,
};
use proto::error::ErrorCode;
use proto::link::SyncResult;
use proto::link::response::Response;
use socket2::SockRef;
use std::collections::{BTreeSet, VecDeque};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

mod client;
use client::{Client, frame};

const SEEDS: u64 = 500;
const STEPS: usize = 250;
const USERS: usize = 4;
/// The hello's request id; others have others.
const HELLO: u64 = 1;
const CHAT: Uuid = Uuid::from_u128(5);
/// A point in time as good as any.
const EPOCH_S: u64 = 1_800_000_000;
const DAY_S: i64 = 86_400;

#[derive(Clone)]
struct Notebook {
    asks: Sender<Ask>,
    notes: Sender<RouteNote>,
}

impl Beyond for Notebook {
    fn ask(&self, ask: Ask) -> Result<(), Box<Ask>> {
        self.asks.send(ask).map_err(|refused| Box::new(refused.0))
    }

    fn connected(&self, _: Uuid, _: Uuid, _: u64) {}

    fn disconnected(&self, _: Uuid, _: Uuid, _: u64) {}

    fn census(&self, _: u16, _: Vec<(Uuid, Uuid, u64)>) {}

    fn route(&self, note: RouteNote) -> bool {
        self.notes.send(note).is_ok()
    }
}

struct World {
    shards: Vec<Shard>,
    mailboxes: Mailboxes,
    asks: Receiver<Ask>,
    waiting: Vec<Ask>,
    /// Users who came and went, as far as the relay does not know it.
    notes: Receiver<RouteNote>,
    /// In a world in which events are routed: those whom the relay knows of.
    routed: Option<BTreeSet<Uuid>>,
    /// Each shard's own, so that a seed says where a client connects.
    addresses: Vec<SocketAddr>,
    users: Vec<Uuid>,
    clients: Vec<Client>,
    /// The last event of the conversation, which all users are members of.
    last: u64,
    now_ms: u64,
    /// How far the wall clock is off.
    wall_off_s: i64,
    random: Rng,
    met: Met,
}

/// Shards share their ports, and so would worlds side by side that were given the same one: each has a
/// loopback address of its own.
fn own_address(seed: u64) -> Ipv4Addr {
    let [.., third, fourth] = seed.to_be_bytes();
    Ipv4Addr::new(127, 1, third, fourth)
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let shards = random.usize(1..=2);
        let (polls, boxes): (Vec<_>, Vec<_>) = (0..shards)
            .map(|_| {
                let poll = Poll::new().unwrap();
                let (mailbox, inbox) =
                    pair(4_096, Some(Waker::new(poll.registry(), BELL).unwrap()));
                ((poll, inbox), mailbox)
            })
            .unzip();
        let mailboxes = Mailboxes::new(boxes);
        let (asks_sender, asks) = unbounded();
        let (notes_sender, notes) = unbounded();
        let mut settings = settings();
        settings.is_routed = seed.is_multiple_of(3);
        settings.policy.deflate = random.bool();
        let routed = settings.is_routed.then(BTreeSet::new);
        // More than anybody here comes near to.
        let allowed = Allowed { connects_per_s: 500, frames_per_s: 500, ..Allowed::default() };
        settings.limits = Arc::new(Limits::new(allowed));
        settings.ring_entries = 16;
        settings.ring_bytes_max = 65_536;
        settings.overflow = if seed.is_multiple_of(2) { Overflow::Gap } else { Overflow::Close };
        let settings = Arc::new(settings);
        let progress = Arc::new(Progress::new(1, shards));
        let metrics = GatewayMetrics::register(shards, &daemon::Metrics::new("gateway"));
        let beyond = Notebook { asks: asks_sender, notes: notes_sender };
        let parts = |(id, (poll, inbox))| Parts {
            id,
            poll,
            inbox,
            settings: Arc::clone(&settings),
            mailboxes: mailboxes.clone(),
            progress: Arc::clone(&progress),
            metrics: metrics.clone(),
            beyond: Box::new(beyond.clone()),
        };
        let shards = (0..).zip(polls).map(parts).map(Shard::new).collect();
        let addresses = mailboxes.iter().map(|mailbox| listen(mailbox, seed)).collect();
        let users = (1..=USERS as u128).map(Uuid::from_u128).collect();
        let (waiting, clients) = (Vec::new(), Vec::new());
        let (last, now_ms, wall_off_s) = (0, 0, 0);
        let met = Met::default();
        Self {
            shards,
            mailboxes,
            asks,
            waiting,
            notes,
            routed,
            addresses,
            users,
            clients,
            last,
            now_ms,
            wall_off_s,
            random,
            met,
        }
    }

    /// One turn of one of the shards' loops.
    fn turn(&mut self) {
        let wall_us =
            EPOCH_S.saturating_add_signed(self.wall_off_s) * 1_000_000 + self.now_ms * 1_000;
        let Some(shard) = self.random.choice(&mut self.shards) else { return };
        shard.clock.simulated = Some(Now { ms: self.now_ms, wall_us });
        // Somebody to look at who is not there: the poll does not wait.
        shard.ready.push(u32::MAX);
        shard.poll();
        shard.accept();
        shard.read();
        shard.take_letters();
        shard.flush();
        shard.fire_timers();
        shard.tell_routes();
        shard.publish_counts();
        check_bounds(shard);
        self.waiting.extend(self.asks.try_iter());
    }

    fn step(&mut self) {
        match self.random.u8(..20) {
            0 => self.connect(),
            1..6 => (0..self.random.usize(1..12)).for_each(|_| self.deliver()),
            11 => self.type_something(),
            6..8 => self.answer(),
            8 => self.vanish(),
            9 => self.chatter(),
            10 => {
                if let Some(client) = self.random.choice(&mut self.clients) {
                    client.reads = !client.reads;
                }
            }
            12 => self.now_ms += self.random.choice([1, 20, 700, 12_000]).unwrap(),
            // The wall clock jumps; whatever is counted or timed goes on as before.
            13 => self.wall_off_s = self.random.choice([-DAY_S, 0, DAY_S]).unwrap(),
            14 => self.hear_of_users(),
            _ => {}
        }
        for index in 0..self.clients.len() {
            self.clients[index].write(&mut self.random);
        }
        for _ in 0..self.random.usize(1..3) * self.shards.len() {
            self.turn();
        }
        let (last, met) = (self.last, &mut self.met);
        self.clients.retain_mut(|client| {
            let stays = !client.reads || client.read(last, met);
            met.ends += u64::from(!stays);
            stays
        });
    }

    fn connect(&mut self) {
        if self.clients.len() >= 12 {
            return;
        }
        let stream = narrow(*self.random.choice(&self.addresses).unwrap());
        // So that a few events fill it.
        SockRef::from(&stream).set_recv_buffer_size(4_096).unwrap();
        stream.set_nonblocking(true).unwrap();
        let user = self.random.usize(..USERS);
        let resuming = self.random.bool();
        let cursor = self.random.u64(0..=self.last);
        let speaks_json = self.random.bool();
        let protocol = if speaks_json { proto::SUBPROTOCOL_JSON } else { proto::SUBPROTOCOL_PROTO };
        let mut headers = format!("Sec-WebSocket-Protocol: {protocol}\r\n");
        if self.random.bool() {
            headers += "Sec-WebSocket-Extensions: permessage-deflate\r\n";
        }
        let request = upgrade_request(&headers);
        let cursors =
            vec![Cursor { conversation_id: CHAT.as_bytes().to_vec(), sequence_number: cursor }];
        let token = token_at(self.users[user], EPOCH_S + 100_000);
        let hello = Hello { token, resume: resuming, cursors, ..Hello::default() };
        let mut unsent: VecDeque<u8> = request.bytes().collect();
        let hello = ClientFrame { request_id: HELLO, frame: Some(Up::Hello(hello)) };
        unsent.extend(frame(&hello, speaks_json));
        self.clients.push(Client {
            stream,
            user,
            speaks_json,
            reads: true,
            unsent,
            unread: Vec::new(),
            upgraded: false,
            deflates: false,
            cursor,
            resuming,
            seen: None,
            gap: false,
        });
    }

    /// A new event for everybody; large ones fill sockets.
    fn deliver(&mut self) {
        self.last += 1;
        let text = "x".repeat(self.random.choice([0, 100, 9_000]).unwrap());
        let message = ChatMessage { text, ..ChatMessage::default() };
        let event = Event { kind: Some(Kind::Message(message)), ..event(CHAT, self.last) };
        self.mail(&event, Priority::Normal);
        if self.random.u8(..4) == 0 {
            for mailbox in self.mailboxes.iter() {
                let positions = [(0, i64::try_from(self.last).unwrap() + 1)].as_slice().into();
                let tail = Mail::Tail { log: 1, positions, skipped: Skipped::Nothing };
                mailbox.send(tail).unwrap();
            }
        }
    }

    /// As the Kafka threads do: to each shard, for those who are at home there; of whom the relay does not know
    /// that they are here, nothing comes.
    fn mail(&self, event: &Event, priority: Priority) {
        for (id, mailbox) in (0..).zip(self.mailboxes.iter()) {
            let is_meant = |user: &&Uuid| {
                let is_sent = self.routed.as_ref().is_none_or(|routed| routed.contains(*user));
                self.mailboxes.home(user) == id && is_sent
            };
            let users: Vec<Uuid> = self.users.iter().filter(is_meant).copied().collect();
            if !users.is_empty() {
                let delivery = Delivery { priority, ..delivery(users, event.clone()) };
                mailbox.send(Mail::Deliver(delivery)).unwrap();
            }
        }
    }

    /// Some of those who came and went are told to the relay, and the shards of it.
    fn hear_of_users(&mut self) {
        let count = self.random.usize(1..6);
        let Some(routed) = &mut self.routed else { return };
        for note in self.notes.try_iter().take(count) {
            match note {
                RouteNote::Enter { user, ticket, shard } => {
                    routed.insert(user);
                    self.mailboxes.get(shard).send(Mail::Routed(vec![(user, ticket)])).unwrap();
                }
                RouteNote::Leave { user } => assert!(routed.remove(&user), "it was not there"),
            }
        }
    }

    /// Somebody types: lost where there is no room, and nobody's sequence number.
    fn type_something(&mut self) {
        let typing = TypingChanged { active: self.random.bool() };
        let event = Event { kind: Some(Kind::TypingChanged(typing)), ..event(CHAT, 0) };
        self.mail(&event, Priority::Ephemeral);
    }

    /// Any of what is asked is answered, as of now; some of it never.
    fn answer(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let ask = self.waiting.swap_remove(self.random.usize(..self.waiting.len()));
        let (asked, outcome) = match &ask.kind {
            _ if self.random.u8(..8) == 0 => {
                let asked = match &ask.kind {
                    AskKind::Sync { resume: true, .. } => Asked::Resume,
                    AskKind::Sync { .. } => Asked::Sync,
                    _ => Asked::Ack,
                };
                (asked, Err(ErrorCode::Unavailable.to_frame("away")))
            }
            AskKind::Sync { resume, cursors, .. } => {
                let from = cursors.first().map_or(0, |it| it.sequence_number);
                let to = self.last.min(from + self.random.u64(0..60));
                let events: Vec<_> = (from + 1..=to).map(|number| event(CHAT, number)).collect();
                let pages = events.chunks(16).map(|events| SyncPage {
                    conversation_id: CHAT.as_bytes().to_vec(),
                    events: events.to_vec(),
                });
                let gap = if to < self.last { (to + 1, self.last) } else { (0, 0) };
                let verdict = Verdict {
                    conversation_id: CHAT.as_bytes().to_vec(),
                    complete_to_sequence_number: to,
                    gap_from_sequence_number: gap.0,
                    gap_to_sequence_number: gap.1,
                    reset: false,
                    rewind_to_sequence_number: 0,
                };
                let result = SyncResult { pages: pages.collect(), verdicts: vec![verdict] };
                let asked = if *resume { Asked::Resume } else { Asked::Sync };
                (asked, Ok(Response::Sync(result)))
            }
            _ => (Asked::Ack, Ok(Response::Accepted(proto::client::Accepted {}))),
        };
        let (session, request_id) = (ask.session, ask.request_id);
        let answer = Answer { session, request_id, asked, outcome };
        self.mailboxes.get(session.shard).send(Mail::Answer(answer)).unwrap();
    }

    /// A client is gone: with a goodbye, without one, or by a reset.
    fn vanish(&mut self) {
        if self.clients.is_empty() {
            return;
        }
        let client = self.clients.swap_remove(self.random.usize(..self.clients.len()));
        match self.random.u8(..3) {
            0 => drop((&client.stream).write(&[0x88, 0x80, 0, 0, 0, 0])),
            1 => SockRef::from(&client.stream).set_linger(Some(std::time::Duration::ZERO)).unwrap(),
            _ => {}
        }
    }

    /// Pings, requests, and now and then nonsense.
    fn chatter(&mut self) {
        let nonsense: Vec<u8> = (0..self.random.usize(1..30)).map(|_| self.random.u8(..)).collect();
        let kind = self.random.u8(..6);
        let Some(client) = self.random.choice(&mut self.clients) else { return };
        let ack = proto::client::Ack { conversation_id: vec![5; 16], ..Default::default() };
        match kind {
            0..3 => {
                let ack = ClientFrame { request_id: 9, frame: Some(Up::Ack(ack)) };
                client.unsent.extend(frame(&ack, client.speaks_json));
            }
            3..5 => client.unsent.extend([0x89, 0x80, 0, 0, 0, 0]),
            _ => client.unsent.extend(nonsense),
        }
    }

    /// Everybody leaves.
    fn end(&mut self) {
        self.clients.clear();
        for _ in 0..400 {
            self.now_ms += 250;
            self.hear_of_users();
            self.turn();
            let notes = self.routed.is_some() && !self.notes.is_empty();
            if !notes && self.shards.iter().all(|it| it.table.len() == 0 && it.inbox.is_empty()) {
                break;
            }
        }
        for shard in &self.shards {
            assert_eq!(shard.table.len(), 0, "connections are left");
            assert_eq!(shard.registry.sessions(), 0, "sessions are left");
            let own = 1 + usize::from(shard.watermark.is_kept());
            assert_eq!(shard.payloads.live(), own, "payloads are left besides the shard's own");
            assert_eq!(shard.rings.borrowed(), 0, "rings are left");
            assert_eq!((shard.queued, shard.backlog_bytes), (0, 0));
            assert!(self.users.iter().all(|user| shard.watchers.of(user).is_empty()));
        }
        assert!(self.routed.as_ref().is_none_or(BTreeSet::is_empty), "users are left routed");
    }

    fn sum(&self, count: impl Fn(&ShardMetrics) -> u64) -> u64 {
        self.shards.iter().map(|shard| count(&shard.counts)).sum()
    }
}

/// A shard's own listener, at a port of its own.
fn listen(mailbox: &Mailbox, seed: u64) -> SocketAddr {
    let bound = Bound::new(&[format!("{}:0", own_address(seed))], &[], 1).unwrap();
    let address = bound.addresses[0].1;
    mailbox.send(Mail::Keys(Arc::new(verifier()))).unwrap();
    let listeners = bound.listen().unwrap().remove(0);
    // Connections inherit it: a few events fill a socket.
    SockRef::from(&listeners[0].1).set_send_buffer_size(4_096).unwrap();
    mailbox.send(Mail::Listen(listeners)).unwrap();
    address
}

fn check_bounds(shard: &Shard) {
    let limits = shard.rings.limits();
    let mut entries = 0;
    for (_, connection) in shard.table.iter() {
        let queued = shard.rings.queued(connection.ring);
        assert!(queued.entries <= limits.entries, "a ring holds {} entries", queued.entries);
        assert!(queued.entries <= 1 || queued.bytes <= 2 * limits.bytes_max);
        entries += u64::from(queued.entries);
    }
    assert_eq!(entries, shard.queued, "the count of queued frames is off");
    let sessions = shard.table.iter().filter(|(_, it)| it.session.is_some()).count();
    assert_eq!(sessions, shard.registry.sessions(), "the registry is off");
}

/// What a run has come across: a simulation in which nothing happens finds nothing.
#[derive(Debug, Default, Clone, Copy)]
struct Met {
    events: u64,
    resumes: u64,
    gaps: u64,
    /// Gaps of slow readers.
    told: u64,
    overflows: u64,
    ends: u64,
    /// Connections handed over to another shard, and messages that came compressed.
    moved: u64,
    deflated: u64,
}

fn run(seed: u64) -> Met {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
    }
    world.end();
    assert_eq!(world.sum(|it| it.frames_limited.get()), 0, "a user is taken for too fast");
    let limited = world.sum(|it| it.closes[Reason::AddressLimited.index()].get());
    assert_eq!(limited, 0, "so is an address");
    world.met.overflows = world.sum(|it| it.events_overflowed.get());
    world.met.moved = world.sum(|it| it.sessions_moved.get());
    world.met
}

impl Met {
    fn add(&mut self, other: Self) {
        self.events += other.events;
        self.resumes += other.resumes;
        self.gaps += other.gaps;
        self.told += other.told;
        self.overflows += other.overflows;
        self.ends += other.ends;
        self.moved += other.moved;
        self.deflated += other.deflated;
    }
}

/// Every world has sockets of its own, so they run side by side.
fn run_all(seeds: u64) -> Met {
    let next = AtomicU64::new(0);
    let work = || {
        let mut met = Met::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return met;
            }
            let outcome = std::panic::catch_unwind(|| run(seed));
            met.add(outcome.unwrap_or_else(|_| {
                next.store(seeds, Ordering::Relaxed);
                panic!(
                    "seed {seed} failed; to replay it: REALCHAT_SIMULATION_SEED={seed} \
                     cargo test --release -p gateway simulation"
                )
            }));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut all = Met::default();
        for worker in workers {
            all.add(worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        all
    })
}

#[test]
fn a_shard_keeps_its_promises_for_any_seed() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    if let Some(seed) = number("REALCHAT_SIMULATION_SEED") {
        println!("{:?}", run(seed));
        return;
    }
    let seeds = number("REALCHAT_SIMULATION_SEEDS").unwrap_or(SEEDS);
    let started = Instant::now();
    let all = run_all(seeds);
    println!("{seeds} seeds in {:.1} s: {all:?}", started.elapsed().as_secs_f64());
    assert!(all.events > 10 * seeds && all.resumes > seeds, "{all:?}");
    assert!(all.gaps > 0 && all.overflows > 0 && all.ends > seeds, "{all:?}");
    assert!(all.told > seeds / 20 && all.moved > seeds && all.deflated > seeds, "{all:?}");
}
