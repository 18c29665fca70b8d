//! A seeded world around the core: a server that loses, doubles and reorders what it pushes, cuts
//! connections in the middle of anything, forgets answers and sheds with gaps. Whatever it does,
//! the application must see every event of every conversation once and in order, and every send
//! must be answered with one message.
//!
//! `REALCHAT_SEED=N` replays one seed; a failing seed is in the panic's message.

use super::*;
use crate::update::{Delivery, Path};
use proto::client::{
    Event, MembershipChanged, Message, Sent, SyncPage, Synced, Verdict, Welcome, event::Kind,
    server_frame,
};
use std::collections::{HashMap, VecDeque};

const USER: Uuid = Uuid::from_u128(7);
const SEEDS: u64 = 1_500;
/// Steps with faults; then the world heals.
const STORM_STEPS: usize = 400;
const CALM_STEPS: usize = 4_000;

#[derive(Default)]
struct Conversation {
    events: Vec<Event>,
    /// The first sequence number that the user may see.
    visible_from: u64,
    keys: HashMap<String, Sent>,
}

impl Conversation {
    fn event(&self, sequence_number: u64) -> &Event {
        &self.events[usize::try_from(sequence_number).unwrap() - 1]
    }
}

/// By what the end of the storm makes the client notice what it lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// One more event a conversation, as a lively conversation has anyway.
    Traffic,
    /// One more lost connection, and no event at all.
    Reconnect,
    /// Nothing: whatever was not pushed was told by gap frames.
    Gaps,
}

struct World {
    ending: Ending,
    rng: Rng,
    core: Core,
    now: Duration,
    calm: bool,
    conversations: BTreeMap<Uuid, Conversation>,
    connected: bool,
    /// Frames on their way to the client, with what they were.
    down: VecDeque<ServerFrame>,
    /// Inputs other than frames that the driver owes the core.
    owed: VecDeque<Input>,
    seen: BTreeMap<Uuid, u64>,
    sent: BTreeMap<u64, (Uuid, String)>,
    answered: BTreeMap<u64, Sent>,
    next_ticket: u64,
    live: bool,
    skipped: u32,
    resume: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let resume = rng.bool();
        let endings = [Ending::Traffic, Ending::Reconnect, Ending::Gaps];
        let mut world = Self {
            ending: endings[rng.usize(..endings.len())],
            core: Core::new(Config::default()),
            now: Duration::ZERO,
            calm: false,
            conversations: BTreeMap::new(),
            connected: false,
            down: VecDeque::new(),
            owed: VecDeque::new(),
            seen: BTreeMap::new(),
            sent: BTreeMap::new(),
            answered: BTreeMap::new(),
            next_ticket: 0,
            live: false,
            skipped: 0,
            resume,
            rng,
        };
        let mut cursors = BTreeMap::new();
        for id in 1..=world.rng.u128(1..4) {
            let id = Uuid::from_u128(id);
            world.create(id);
            for _ in 0..world.rng.usize(0..40) {
                world.append(id, "before".into(), false);
            }
            // Without a resume a conversation that is not named begins with its first event.
            if !resume || world.rng.bool() {
                let there = world.conversations[&id].events.len() as u64;
                let from = world.conversations[&id].visible_from - 1;
                let cursor = world.rng.u64(from.min(there)..=there);
                cursors.insert(id, cursor);
                world.seen.insert(id, cursor);
            }
        }
        let urls = world.rng.usize(1..3);
        let seed = world.rng.u64(..);
        world.core = Core::new(Config { urls, resume, cursors, seed, ..Config::default() });
        world
    }

    /// A conversation that the user joins at its beginning or later.
    fn create(&mut self, id: Uuid) {
        let before = if self.rng.bool() { 0 } else { self.rng.u64(1..6) };
        let joined = MembershipChanged {
            added_user_ids: vec![USER.as_bytes().to_vec()],
            created: before == 0,
            ..MembershipChanged::default()
        };
        self.conversations
            .insert(id, Conversation { visible_from: before + 1, ..Conversation::default() });
        for _ in 0..before {
            self.append(id, "invisible".into(), false);
        }
        self.append_kind(id, Kind::MembershipChanged(joined), before > 0 || self.connected);
    }

    fn append(&mut self, id: Uuid, text: String, push: bool) -> Sent {
        let message_id = Uuid::from_u128(self.rng.u128(..)).as_bytes().to_vec();
        let message = Message { message_id: message_id.clone(), text, message_number: 0 };
        let sequence_number = self.append_kind(id, Kind::Message(message), push);
        Sent {
            conversation_id: id.as_bytes().to_vec(),
            message_id,
            sequence_number,
            ..Sent::default()
        }
    }

    fn append_kind(&mut self, id: Uuid, kind: Kind, push: bool) -> u64 {
        let log = self.conversations.get_mut(&id).unwrap();
        let sequence_number = log.events.len() as u64 + 1;
        let event = Event {
            conversation_id: id.as_bytes().to_vec(),
            sequence_number,
            kind: Some(kind),
            ..Event::default()
        };
        log.events.push(event.clone());
        if push && self.connected {
            self.push(event);
        }
        sequence_number
    }

    /// The live path, with its faults. A lost event is told by a gap frame or by nothing at all.
    fn push(&mut self, event: Event) {
        let frame = server(0, server_frame::Frame::Event(event.clone()));
        let fault = if self.calm { 100 } else { self.rng.u32(0..100) };
        match fault {
            0..8 if self.ending != Ending::Gaps => {}
            0..12 => {
                let gap = proto::client::Gap {
                    conversation_id: event.conversation_id,
                    from_sequence_number: event.sequence_number,
                    to_sequence_number: event.sequence_number,
                    reason: "shed".into(),
                };
                self.down.push_back(server(0, server_frame::Frame::Gap(gap)));
            }
            12..22 => {
                self.down.push_back(frame.clone());
                self.down.push_back(frame);
            }
            22..30 if !self.down.is_empty() => {
                // Only a pushed event may overtake: answers keep their place.
                let at = self.down.len() - 1;
                let pushed = self.down[at].request_id == 0;
                self.down.insert(if pushed { at } else { at + 1 }, frame);
            }
            _ => self.down.push_back(frame),
        }
    }

    fn written(&mut self, frame: ClientFrame) {
        let id = frame.request_id;
        match frame.frame.unwrap() {
            Frame::Hello(hello) => {
                let welcome = Welcome {
                    user_id: USER.as_bytes().to_vec(),
                    heartbeat_interval_ms: 1_000,
                    ..Welcome::default()
                };
                self.down.push_back(server(id, server_frame::Frame::Welcome(welcome)));
                assert_eq!(hello.resume, self.resume);
                if hello.resume {
                    let named: BTreeMap<Uuid, u64> = hello.cursors.iter().map(cursor).collect();
                    let all: Vec<Uuid> = self.conversations.keys().copied().collect();
                    let cursors = all.into_iter().map(|it| (it, named.get(&it).copied()));
                    self.sync(id, cursors.map(|(it, at)| (it, at.unwrap_or(0))).collect());
                }
            }
            Frame::Sync(sync) => {
                if !self.calm && self.rng.u32(0..10) == 0 {
                    let error = ErrorCode::Unavailable.to_frame("busy");
                    self.down.push_back(server(id, server_frame::Frame::Error(error)));
                } else {
                    self.sync(id, sync.cursors.iter().map(cursor).collect());
                }
            }
            Frame::Send(send) => self.send_arrived(id, &send),
            _ => {}
        }
    }

    fn sync(&mut self, request_id: u64, cursors: Vec<(Uuid, u64)>) {
        let mut verdicts = Vec::new();
        for (id, cursor) in cursors {
            let Some(log) = self.conversations.get(&id) else { continue };
            let from = (cursor + 1).max(log.visible_from);
            let end = log.events.len() as u64;
            let limit = if self.calm { 256 } else { self.rng.u64(1..20) };
            let to = end.min(from + limit - 1);
            for number in from..=to {
                let page = SyncPage {
                    conversation_id: id.as_bytes().to_vec(),
                    events: vec![log.event(number).clone()],
                };
                self.down.push_back(server(request_id, server_frame::Frame::SyncPage(page)));
            }
            let left = to < end;
            verdicts.push(Verdict {
                conversation_id: id.as_bytes().to_vec(),
                complete_to_sequence_number: to.max(cursor),
                gap_from_sequence_number: if left { to + 1 } else { 0 },
                gap_to_sequence_number: if left { end } else { 0 },
                reset: false,
                rewind_to_sequence_number: 0,
            });
        }
        let synced = server_frame::Frame::Synced(Synced { verdicts });
        self.down.push_back(server(request_id, synced));
    }

    fn send_arrived(&mut self, request_id: u64, send: &Send) {
        let fault = if self.calm { 100 } else { self.rng.u32(0..100) };
        if fault < 10 {
            let error = ErrorCode::Overloaded.to_frame("full");
            return self.down.push_back(server(request_id, server_frame::Frame::Error(error)));
        }
        if fault < 15 {
            return;
        }
        let id = Uuid::from_slice(&send.conversation_id).unwrap();
        let known = self.conversations[&id].keys.get(&send.idempotency_key).cloned();
        let sent = known.unwrap_or_else(|| self.append(id, send.text.clone(), true));
        let log = self.conversations.get_mut(&id).unwrap();
        log.keys.insert(send.idempotency_key.clone(), sent.clone());
        if fault >= 20 {
            self.down.push_back(server(request_id, server_frame::Frame::Sent(sent)));
        }
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Dial { attempt, .. } => {
                    let refused = !self.calm && self.rng.u32(0..4) == 0;
                    self.owed.push_back(if refused {
                        let problem = "refused".into();
                        let failure = DialFailure::Connect { problem, status: None };
                        Input::DialFailed { attempt, failure }
                    } else {
                        self.connected = true;
                        self.down.clear();
                        Input::Dialed { attempt }
                    });
                }
                Action::Write(frame) => self.written(frame),
                Action::Hangup { .. } => {
                    self.connected = false;
                    self.down.clear();
                }
                Action::Deliver(Update::Event(delivery)) => self.delivered(&delivery),
                Action::Deliver(Update::Notice(notice)) => match notice {
                    Notice::Live => self.live = true,
                    Notice::Closed { .. } => self.live = false,
                    Notice::Skipped { .. } => self.skipped += 1,
                    _ => {}
                },
                Action::Settle { ticket, outcome } => {
                    let before = self.answered.insert(ticket, outcome.unwrap());
                    assert!(before.is_none(), "send {ticket} was answered twice");
                }
                Action::Ping => self.owed.push_back(Input::Bytes),
                Action::FetchToken => {}
            }
        }
    }

    fn delivered(&mut self, delivery: &Delivery) {
        let log = &self.conversations[&delivery.conversation];
        let last = self.seen.entry(delivery.conversation).or_insert(log.visible_from - 1);
        // A cursor below the beginning jumps to the first event that the user may see.
        let expected = (*last + 1).max(log.visible_from);
        assert_eq!(delivery.sequence_number, expected, "in {}", delivery.conversation);
        assert_eq!(delivery.event, *log.event(expected));
        assert!(matches!(delivery.path, Path::Live | Path::Sync));
        *last = expected;
    }

    fn step(&mut self) {
        let deadline = self.core.deadline().unwrap_or(self.now);
        let input = if let Some(input) = self.owed.pop_front() {
            input
        } else if self.calm {
            match self.down.pop_front() {
                Some(frame) => Input::Frame(frame),
                None => {
                    self.now = self.now.max(deadline);
                    Input::Tick
                }
            }
        } else {
            self.stormy_input(deadline)
        };
        self.now += Duration::from_micros(self.rng.u64(0..2_000));
        let actions = self.core.step(self.now, input);
        self.perform(actions);
    }

    fn stormy_input(&mut self, deadline: Duration) -> Input {
        match self.rng.u32(0..100) {
            0..3 if self.connected => {
                self.connected = false;
                self.down.clear();
                Input::Closed { code: None, reason: "cut".into() }
            }
            3..20 => {
                let ids: Vec<Uuid> = self.conversations.keys().copied().collect();
                let id = ids[self.rng.usize(..ids.len())];
                self.append(id, "from another".into(), true);
                Input::Tick
            }
            20..30 => {
                let ids: Vec<Uuid> = self.conversations.keys().copied().collect();
                let id = ids[self.rng.usize(..ids.len())];
                self.next_ticket += 1;
                let ticket = self.next_ticket;
                let key = format!("key-{ticket}");
                self.sent.insert(ticket, (id, key.clone()));
                let conversation_id = id.as_bytes().to_vec();
                let text = format!("text-{ticket}");
                Input::Send { ticket, send: Send { conversation_id, idempotency_key: key, text } }
            }
            30..32 if self.resume && self.conversations.len() < 6 => {
                let id = Uuid::from_u128(self.rng.u128(100..));
                self.create(id);
                Input::Tick
            }
            32..45 => {
                self.now = self.now.max(deadline);
                Input::Tick
            }
            _ => self.down.pop_front().map_or(Input::Tick, Input::Frame),
        }
    }

    fn check_the_end(&self, seed: u64) {
        let ending = self.ending;
        assert!(self.live, "seed {seed}: not live: {:?}", self.core);
        for (id, log) in &self.conversations {
            let end = log.events.len() as u64;
            assert_eq!(
                self.seen.get(id),
                Some(&end),
                "seed {seed}: {id} is not complete ({ending:?})"
            );
        }
        assert_eq!(self.answered.len(), self.sent.len(), "seed {seed}: a send has no answer");
        for (ticket, (id, key)) in &self.sent {
            assert_eq!(self.conversations[id].keys[key], self.answered[ticket], "seed {seed}");
        }
        assert_eq!(self.skipped, 0, "seed {seed}: nothing was invisible");
    }
}

fn server(request_id: u64, frame: server_frame::Frame) -> ServerFrame {
    ServerFrame { request_id, frame: Some(frame) }
}

fn cursor(cursor: &Cursor) -> (Uuid, u64) {
    (Uuid::from_slice(&cursor.conversation_id).unwrap(), cursor.sequence_number)
}

fn run(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..STORM_STEPS {
        world.step();
    }
    world.calm = true;
    match world.ending {
        Ending::Traffic => {
            let ids: Vec<Uuid> = world.conversations.keys().copied().collect();
            ids.into_iter().for_each(|id| drop(world.append(id, "the last".into(), true)));
        }
        Ending::Reconnect if world.connected => {
            world.connected = false;
            world.down.clear();
            world.owed.push_back(Input::Closed { code: None, reason: "cut".into() });
        }
        Ending::Reconnect | Ending::Gaps => {}
    }
    for _ in 0..CALM_STEPS {
        world.step();
    }
    world.check_the_end(seed);
}

#[test]
fn whatever_the_network_does_every_event_comes_once_and_in_order() {
    if let Some(seed) = std::env::var("REALCHAT_SEED").ok().and_then(|seed| seed.parse().ok()) {
        return run(seed);
    }
    for seed in 0..SEEDS {
        let outcome = std::panic::catch_unwind(|| run(seed));
        assert!(outcome.is_ok(), "replay with REALCHAT_SEED={seed}");
    }
}
