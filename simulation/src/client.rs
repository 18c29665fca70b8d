//! A client: the real client library's core, and an application that sends and remembers.

use crate::Outside;
use crate::bugs::Bug;
use crate::bus::Process;
use crate::gateway;
use crate::limits::{GATEWAYS, STORM_US};
use crate::membership;
use ::client::core::{Action, Config, Core, DialFailure, Input};
use ::client::{Delivery, Notice, Path, SendError, SendOutcome, Update};
use checker::history::{Operation, Source, body_hash};
use proto::Uuid;
use proto::client::client_frame::Frame as Up;
use proto::client::{ClientFrame, Send, ServerFrame, event};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

#[derive(Debug)]
pub(crate) enum Event {
    Tick,
    Opened {
        attempt: u64,
        connection: u64,
        gateway: usize,
    },
    Refused {
        attempt: u64,
    },
    Frame {
        connection: u64,
        frame: Box<ServerFrame>,
    },
    Bytes {
        connection: u64,
    },
    Closed {
        connection: u64,
    },
    /// The application sends a text, under the key of that name.
    Send {
        conversation: Uuid,
        key: String,
    },
    /// The application ends the session.
    Close,
}

/// What a client is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// It sends and reads, and its session is written down.
    Device,
    /// It comes at the end and syncs everything.
    Final,
}

struct Connection {
    number: u64,
    gateway: usize,
}

pub(crate) struct Client {
    me: usize,
    role: Role,
    pub(crate) user: Uuid,
    device: Uuid,
    pub(crate) name: String,
    core: Core,
    began_us: u64,
    /// Before it was ever killed.
    first_us: u64,
    /// The next tick that is planned.
    tick_us: Option<u64>,
    connection: Option<Connection>,
    /// What the application keeps over a crash: what it was shown, and what it has yet to have answered.
    pub(crate) seen: BTreeMap<Uuid, u64>,
    pub(crate) unanswered: BTreeMap<u64, (Uuid, String)>,
    next_ticket: u64,
    /// Keys that were written, and those that were written again.
    written: BTreeSet<String>,
    repeated: BTreeSet<String>,
    pub(crate) is_live: bool,
    pub(crate) is_closed: bool,
}

impl Client {
    pub(crate) fn new(me: usize, role: Role, user: Uuid, outside: &mut Outside) -> Self {
        let device = Uuid::from_u128(outside.bus.random.u128(..));
        let seen = BTreeMap::new();
        let core = core(outside, &seen);
        let mut this = Self {
            me,
            role,
            user,
            device,
            name: format!("{user}/{device}"),
            core,
            began_us: outside.bus.now_us(),
            first_us: outside.bus.now_us(),
            tick_us: None,
            connection: None,
            seen,
            unanswered: BTreeMap::new(),
            next_ticket: 0,
            written: BTreeSet::new(),
            repeated: BTreeSet::new(),
            is_live: false,
            is_closed: false,
        };
        this.plan_tick(outside);
        this
    }

    /// The application was killed and begins again with what it kept.
    pub(crate) fn restart(&mut self, outside: &mut Outside) {
        self.core = core(outside, &self.seen);
        self.began_us = outside.bus.now_us();
        (self.tick_us, self.connection, self.is_live) = (None, None, false);
        for (_, (conversation, key)) in std::mem::take(&mut self.unanswered) {
            self.send(outside, conversation, key);
        }
        self.plan_tick(outside);
    }

    /// Killed: its gateway notices.
    pub(crate) fn crash(&mut self, outside: &mut Outside) {
        if let Some(connection) = self.connection.take() {
            outside.open.remove(&connection.number);
            self.hang_up(outside, &connection);
        }
    }

    pub(crate) fn is_late(&self) -> bool {
        self.first_us >= STORM_US
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.is_closed || (self.is_live && self.unanswered.is_empty())
    }

    pub(crate) fn step(&mut self, outside: &mut Outside, event: Event) {
        let input = match event {
            Event::Tick => {
                self.tick_us = None;
                Input::Tick
            }
            Event::Opened { attempt, connection, gateway } => {
                let opened = Connection { number: connection, gateway };
                if !self.core.awaits(attempt) {
                    return self.hang_up(outside, &opened);
                }
                outside.open.insert(connection);
                self.connection = Some(opened);
                Input::Dialed { attempt }
            }
            Event::Refused { attempt } => {
                let problem = "refused".to_owned();
                let failure = DialFailure::Connect { problem, status: None };
                Input::DialFailed { attempt, failure }
            }
            Event::Frame { connection, frame } if self.is_open(connection) => Input::Frame(*frame),
            Event::Bytes { connection } if self.is_open(connection) => Input::Bytes,
            Event::Closed { connection } if self.is_open(connection) => {
                outside.open.remove(&connection);
                self.connection = None;
                Input::Closed { code: None, reason: "cut".into() }
            }
            Event::Frame { .. } | Event::Bytes { .. } | Event::Closed { .. } => return,
            Event::Send { conversation, key } => return self.send(outside, conversation, key),
            Event::Close => {
                self.is_closed = true;
                Input::Close
            }
        };
        self.take(outside, input);
    }

    fn is_open(&self, connection: u64) -> bool {
        self.connection.as_ref().is_some_and(|it| it.number == connection)
    }

    fn hang_up(&self, outside: &mut Outside, connection: &Connection) {
        let (from, to) = (Process::Client(self.me), Process::Gateway(connection.gateway));
        let event = gateway::Event::Hangup { connection: connection.number };
        outside.bus.send(from, to, crate::Event::Gateway(event));
    }

    fn send(&mut self, outside: &mut Outside, conversation: Uuid, key: String) {
        let text = text(&key);
        outside.record(Operation::Invoke {
            at_us: outside.bus.now_us(),
            client: self.name.clone(),
            conversation: conversation.to_string(),
            key: key.clone(),
            body_hash: body_hash(&text),
        });
        self.next_ticket += 1;
        let ticket = self.next_ticket;
        self.unanswered.insert(ticket, (conversation, key.clone()));
        let conversation_id = conversation.as_bytes().to_vec();
        let send = Send { conversation_id, idempotency_key: key, text };
        self.take(outside, Input::Send { ticket, send });
    }

    fn take(&mut self, outside: &mut Outside, input: Input) {
        let now = Duration::from_micros(outside.bus.now_us() - self.began_us);
        for action in self.core.step(now, input) {
            self.perform(outside, action);
        }
        self.plan_tick(outside);
    }

    fn plan_tick(&mut self, outside: &mut Outside) {
        let Some(deadline) = self.core.deadline() else { return };
        let deadline_us = u64::try_from(deadline.as_micros()).unwrap_or(u64::MAX);
        let at_us = (self.began_us + deadline_us).max(outside.bus.now_us() + 1);
        if self.tick_us.is_none_or(|planned| planned > at_us) {
            self.tick_us = Some(at_us);
            outside.bus.at(Process::Client(self.me), at_us, crate::Event::Client(Event::Tick));
        }
    }

    fn perform(&mut self, outside: &mut Outside, action: Action) {
        let from = Process::Client(self.me);
        match action {
            Action::Dial { attempt, url, .. } => self.dial(outside, attempt, url),
            Action::Write(frame) => self.write(outside, frame),
            Action::Ping => {
                if let Some(it) = &self.connection {
                    let event = gateway::Event::Ping { connection: it.number };
                    let to = Process::Gateway(it.gateway);
                    outside.bus.send(from, to, crate::Event::Gateway(event));
                }
            }
            Action::Hangup { .. } => self.crash(outside),
            Action::Deliver(Update::Event(delivery)) => self.delivered(outside, delivery),
            Action::Deliver(Update::Notice(notice)) => self.noticed(outside, &notice),
            Action::Settle { ticket, outcome } => self.settled(outside, ticket, outcome),
            Action::FetchToken => {}
        }
    }

    fn dial(&self, outside: &mut Outside, attempt: u64, url: usize) {
        let (from, to) = (Process::Client(self.me), Process::Gateway(url));
        if outside.bus.reaches(from, to) {
            let (client, user, device) = (self.me, self.user, self.device);
            let event = gateway::Event::Dialed { client, attempt, user, device };
            return outside.bus.send(from, to, crate::Event::Gateway(event));
        }
        let delay_us = outside.bus.delay_us();
        outside.bus.after(from, delay_us, crate::Event::Client(Event::Refused { attempt }));
    }

    /// A frame that is lost takes its connection with it.
    fn write(&mut self, outside: &mut Outside, mut frame: ClientFrame) {
        let Some(Connection { number, gateway }) = self.connection else { return };
        let (from, to) = (Process::Client(self.me), Process::Gateway(gateway));
        if let Some(Up::Send(send)) = &mut frame.frame
            && !self.written.insert(send.idempotency_key.clone())
        {
            self.repeated.insert(send.idempotency_key.clone());
            if outside.bug == Some(Bug::NewKeyOnRetry) {
                send.idempotency_key = format!("{}-again", send.idempotency_key);
            }
        }
        if outside.bus.loses() || !outside.bus.reaches(from, to) {
            let delay_us = outside.bus.delay_us();
            let event = crate::Event::Client(Event::Closed { connection: number });
            outside.bus.after(from, delay_us, event);
            let event = crate::Event::Gateway(gateway::Event::Hangup { connection: number });
            return outside.bus.send(from, to, event);
        }
        let frame = Box::new(frame);
        let event = crate::Event::Gateway(gateway::Event::Up { connection: number, frame });
        outside.send_in_order(from, to, number, event);
    }

    fn delivered(&mut self, outside: &mut Outside, delivery: Delivery) {
        let Delivery { conversation, sequence_number: seq, path, event, .. } = delivery;
        if seq == 0 {
            return;
        }
        self.seen.insert(conversation, seq);
        let (message_id, hash) = match &event.kind {
            Some(event::Kind::Message(message)) => {
                let id = Uuid::from_slice(&message.message_id).map(|id| id.to_string());
                (id.ok(), Some(body_hash(&message.text)))
            }
            _ => (None, None),
        };
        if outside.probe.as_ref().is_some_and(|it| it.awaits(&event, &self.name)) {
            outside.probe_came();
        }
        if conversation == outside.revolving {
            let (name, user) = (self.name.clone(), self.user);
            return outside.shown.push(membership::Shown { name, user, sequence_number: seq });
        }
        let conversation = conversation.to_string();
        outside.record(match self.role {
            Role::Final => Operation::Final {
                client: self.name.clone(),
                conversation,
                seq,
                message_id,
                body_hash: hash,
            },
            Role::Device => Operation::Deliver {
                at_us: outside.bus.now_us(),
                session: self.name.clone(),
                conversation,
                seq,
                message_id,
                body_hash: hash,
                path: source(path),
            },
        });
    }

    fn noticed(&mut self, outside: &mut Outside, notice: &Notice) {
        let (at_us, session) = (outside.bus.now_us(), self.name.clone());
        match notice {
            Notice::Live => self.is_live = true,
            Notice::Closed { code, .. } => {
                self.is_live = false;
                let code = code.unwrap_or(1_006);
                outside.record(Operation::Close { at_us, session, code });
            }
            Notice::Welcomed(welcome) => {
                let gateway = welcome.gateway_id.clone();
                outside.record(Operation::Connect { at_us, session, gateway });
            }
            Notice::Received { conversation, sequence_number, path, .. }
                if self.role == Role::Device =>
            {
                let (conversation, seq) = (conversation.to_string(), *sequence_number);
                let path = source(*path);
                outside.record(Operation::Wire { at_us, session, conversation, seq, path });
            }
            _ => {}
        }
    }

    fn settled(&mut self, outside: &mut Outside, ticket: u64, outcome: SendOutcome) {
        let Some((conversation, key)) = self.unanswered.remove(&ticket) else { return };
        let (at_us, client) = (outside.bus.now_us(), self.name.clone());
        let conversation = conversation.to_string();
        outside.record(match outcome {
            Ok(sent) => Operation::Ok {
                at_us,
                client,
                conversation,
                key,
                message_id: Uuid::from_slice(&sent.message_id).unwrap_or_default().to_string(),
                seq: sent.sequence_number,
            },
            // Whoever was no member may become one before the first copy is looked at.
            Err(error)
                if matches!(error, SendError::Ended { .. }) || self.repeated.contains(&key) =>
            {
                Operation::Info { at_us, client, conversation, key, error: error.to_string() }
            }
            Err(error) => {
                Operation::Fail { at_us, client, conversation, key, error: error.to_string() }
            }
        });
    }
}

fn core(outside: &mut Outside, seen: &BTreeMap<Uuid, u64>) -> Core {
    Core::new(Config {
        urls: GATEWAYS,
        resume: true,
        cursors: seen.clone(),
        acknowledge: outside.acknowledges,
        trace: true,
        seed: outside.bus.random.u64(..),
        ..Config::default()
    })
}

fn source(path: Path) -> Source {
    match path {
        Path::Live => Source::Live,
        Path::Sync => Source::Sync,
    }
}

/// The text that is sent under a key.
pub(crate) fn text(key: &str) -> String {
    format!("text of {key}")
}
