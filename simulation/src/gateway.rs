//! A gateway: the real rules of offsets, routing and recovery, over the model of the log and sessions.

mod consumer;
mod sessions;
mod shard;

use crate::bus::Process;
use crate::limits::{GATEWAY_SHARDS, HOUSE_US, PARTITIONS, RECENT_BYTES_MAX, TIMINGS};
use crate::{Outside, chatd, presence};
use ::gateway::rules::{Router, Tracker};
use consumer::Fetched;
use proto::Uuid;
use proto::client::{ClientFrame, Error};
use proto::link::response::Response;
use sessions::Session;
use shard::Shard;
use std::collections::BTreeMap;

#[derive(Debug)]
pub(crate) enum Event {
    /// The start positions are asked for.
    Position,
    /// There may be something to fetch.
    Fetch,
    Fetched(Vec<Fetched>),
    /// Offsets are committed, and the shards are told how far the log was mailed to them.
    House,
    /// A shard takes some of its letters.
    Letters {
        shard: u16,
    },
    /// A client dials.
    Dialed {
        client: usize,
        attempt: u64,
        user: Uuid,
        device: Uuid,
    },
    /// A frame of a client, or a ping.
    Up {
        connection: u64,
        frame: Box<ClientFrame>,
    },
    Ping {
        connection: u64,
    },
    Hangup {
        connection: u64,
    },
    /// The session's socket takes more.
    Pump {
        connection: u64,
    },
    Answer {
        number: u64,
        outcome: Result<Response, Error>,
    },
    /// The answer is waited for no longer.
    AskOver {
        number: u64,
    },
    Heartbeat,
}

/// What was asked of chatd.
enum Asked {
    Send,
    Ack,
    Sync,
    Resume,
}

struct Ask {
    connection: u64,
    request_id: u64,
    asked: Asked,
}

pub(crate) struct Gateway {
    me: usize,
    /// Of this run, for presenced.
    run: Uuid,
    /// The start positions are known: it listens.
    listens: bool,
    tracker: Tracker,
    router: Router,
    ticket: u64,
    shards: Vec<Shard>,
    fetching: Option<u64>,
    houses: u64,
    sessions: BTreeMap<u64, Session>,
    asks: BTreeMap<u64, Ask>,
}

impl Gateway {
    pub(crate) fn new(me: usize, outside: &mut Outside) -> Self {
        let random = &mut outside.bus.random;
        let run = Uuid::from_u128(random.u128(..));
        let shards = (0..GATEWAY_SHARDS).map(|_| Shard::new(random.usize(RECENT_BYTES_MAX)));
        let this = Self {
            me,
            run,
            listens: false,
            tracker: Tracker::default(),
            router: Router::new(usize::from(GATEWAY_SHARDS)),
            ticket: 0,
            shards: shards.collect(),
            fetching: None,
            houses: 0,
            sessions: BTreeMap::new(),
            asks: BTreeMap::new(),
        };
        let delay_us = outside.bus.delay_us();
        this.after(outside, delay_us, Event::Position);
        this.after(outside, TIMINGS.heartbeat_ms * 1_000, Event::Heartbeat);
        this
    }

    pub(crate) fn step(&mut self, outside: &mut Outside, event: Event) {
        match event {
            Event::Position => self.position(outside),
            Event::Fetch => self.fetch(outside),
            Event::Fetched(records) => self.fetched(outside, records),
            Event::House => self.keep_house(outside),
            Event::Letters { shard } => self.take_letters(outside, shard),
            Event::Dialed { client, attempt, user, device } => {
                self.dialed(outside, client, attempt, (user, device));
            }
            Event::Up { connection, frame } => self.up(outside, connection, *frame),
            Event::Ping { connection } => self.pong(outside, connection),
            Event::Hangup { connection } => self.close(outside, connection, false),
            Event::Pump { connection } => self.pump(outside, connection),
            Event::Answer { number, outcome } => self.answered(outside, number, outcome),
            Event::AskOver { number } => self.ask_over(outside, number),
            Event::Heartbeat => self.heartbeat(outside),
        }
    }

    /// The process is killed: most of its clients notice at once, and the others when it is silent.
    pub(crate) fn crash(&mut self, outside: &mut Outside) {
        for (connection, session) in std::mem::take(&mut self.sessions) {
            if outside.bus.random.u8(..10) > 0 {
                session.tell_closed(outside, connection);
            }
        }
    }

    fn process(&self) -> Process {
        Process::Gateway(self.me)
    }

    fn after(&self, outside: &mut Outside, for_us: u64, event: Event) {
        outside.bus.after(self.process(), for_us, crate::Event::Gateway(event));
    }

    /// The start positions are fixed before anybody is let in.
    fn position(&mut self, outside: &mut Outside) {
        if !outside.bus.reaches(self.process(), Process::Kafka) {
            return self.after(outside, HOUSE_US, Event::Position);
        }
        self.fix_positions(outside);
        self.listens = true;
        self.tell_positions(outside);
        self.after(outside, HOUSE_US, Event::House);
        self.after(outside, 0, Event::Fetch);
    }

    fn report(&self, outside: &mut Outside, report: presence::Said) {
        let event = crate::Event::Presence(presence::Event::Reported {
            gateway: self.me,
            run: self.run,
            said: report,
        });
        outside.bus.send(self.process(), Process::Presenced, event);
    }

    /// Ends sessions whose pong is missing (the model knows by itself), and says everything again, so
    /// that a lost report heals itself.
    fn heartbeat(&mut self, outside: &mut Outside) {
        let is_over = |(connection, it): &(&u64, &Session)| {
            it.is_broken || (it.begun && !outside.open.contains(connection))
        };
        let over: Vec<u64> = self.sessions.iter().filter(is_over).map(|(id, _)| *id).collect();
        for connection in over {
            self.close(outside, connection, true);
        }
        let sessions = self.sessions.iter().filter(|(_, it)| it.begun);
        let sessions = sessions.map(|(connection, it)| it.named(*connection)).collect();
        self.report(outside, presence::Said::Heartbeats(sessions));
        self.after(outside, TIMINGS.heartbeat_ms * 1_000, Event::Heartbeat);
    }

    fn ask(
        &mut self,
        outside: &mut Outside,
        connection: u64,
        request_id: u64,
        asked: Asked,
        ask: chatd::Ask,
    ) {
        let Some(session) = self.sessions.get(&connection) else { return };
        let number = outside.bus.fresh();
        let (user, device) = (session.user, session.device);
        self.asks.insert(number, Ask { connection, request_id, asked });
        let request = chatd::Request { gateway: self.me, number, user, device, ask };
        let up: Vec<usize> = (0..crate::limits::CHATDS)
            .filter(|it| outside.bus.reaches(self.process(), Process::Chatd(*it)))
            .collect();
        let Some(chosen) = outside.bus.random.choice(&up).copied() else {
            return self.after(outside, 1_000, Event::AskOver { number });
        };
        let event = crate::Event::Chatd(chatd::Event::Asked(Box::new(request)));
        outside.bus.send(self.process(), Process::Chatd(chosen), event);
        self.after(outside, crate::limits::ASK_US_MAX, Event::AskOver { number });
    }
}

/// The shard where a user's sessions live.
fn home(user: &Uuid) -> u16 {
    let (_, low) = user.as_u64_pair();
    u16::try_from(low % u64::from(GATEWAY_SHARDS)).unwrap_or(0)
}

/// The log's partitions, as the tracker numbers them.
fn partitions() -> std::ops::Range<usize> {
    0..PARTITIONS
}
