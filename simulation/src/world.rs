//! A run from its beginning to its end: the processes, the load, the faults, and the quiet afterwards.

use crate::broker::Broker;
use crate::bugs::Bug;
use crate::bus::{Bus, Process};
use crate::chatd::{self, Chatd};
use crate::client::{self, Client, Role};
use crate::database::{Change, Conversation, Database, Logged};
use crate::edits;
use crate::faults::{self, Fault, Kind};
use crate::gateway::Gateway;
use crate::kafka;
use crate::limits::{
    CHATDS, CONVERSATIONS, DEVICES, FAULT_US_MAX, GATEWAYS, LOOK_US, MESSAGES, RELAYS,
    SETTLE_US_MAX, STORM_US, TIMINGS, USERS,
};
use crate::membership;
use crate::poison;
use crate::presence::{Presence, Redis};
use crate::relay::Relay;
use crate::verdict::{Met, Run, judge};
use crate::{Outside, Probe};
use checker::history::Operation;
use proto::{Uuid, topics};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

#[derive(Debug)]
pub(crate) enum Event {
    Begin {
        fault: usize,
    },
    End {
        fault: usize,
    },
    /// Every fault is over.
    Heal,
    /// Is all over?
    Look,
}

/// How far the run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Storm,
    /// Until everybody has seen everything.
    Settling,
    /// Until it is known who is online.
    Presence {
        until_us: u64,
    },
    /// Until the fresh clients have synced everything.
    Finals {
        until_us: u64,
    },
    Over,
}

pub(crate) struct World {
    outside: Outside,
    chatds: Vec<Chatd>,
    relays: Vec<Relay>,
    gateways: Vec<Gateway>,
    presence: Presence,
    clients: Vec<Client>,
    /// Clients from here on are fresh ones.
    finals: usize,
    /// Conversations and their members.
    conversations: BTreeMap<Uuid, Vec<Uuid>>,
    faults: Vec<Fault>,
    stage: Stage,
    healed_us: u64,
}

impl World {
    pub(crate) fn new(seed: u64, bug: Option<Bug>, traced: bool) -> Self {
        let mut bus = Bus::new(seed, traced);
        let acknowledges = bus.random.u8(..3) == 0;
        let mut outside = Outside {
            bus,
            database: Rc::new(RefCell::new(Database::new(bug))),
            broker: Broker::default(),
            redis: Redis::default(),
            history: Vec::new(),
            revolving: Uuid::nil(),
            shown: Vec::new(),
            violations: Vec::new(),
            open: BTreeSet::new(),
            streams: BTreeMap::new(),
            probe: None,
            acknowledges,
            bug,
            met: Met::default(),
        };
        let servers = [Process::World, Process::Postgres, Process::Kafka, Process::Redis];
        servers.into_iter().for_each(|it| outside.bus.start(it));
        let (users, conversations) = populate(&mut outside);
        start_all(&mut outside);
        let chatds = (0..CHATDS).map(|me| Chatd::new(me, &mut outside)).collect();
        let relays = (0..RELAYS).map(|me| Relay::new(me, &mut outside)).collect();
        let gateways = (0..GATEWAYS).map(|me| Gateway::new(me, &mut outside)).collect();
        let presence = Presence::new(&mut outside);
        let mut world = Self {
            outside,
            chatds,
            relays,
            gateways,
            presence,
            clients: Vec::new(),
            finals: usize::MAX,
            conversations,
            faults: Vec::new(),
            stage: Stage::Storm,
            healed_us: 0,
        };
        world.begin(&users);
        world
    }

    fn begin(&mut self, users: &[Uuid]) {
        let devices = self.outside.bus.random.usize(DEVICES);
        for device in 0..devices {
            self.add_client(Role::Device, users[device % users.len()]);
        }
        let messages = self.outside.bus.random.usize(MESSAGES);
        for number in 0..messages {
            let at_us = self.outside.bus.random.u64(..STORM_US);
            let client = self.outside.bus.random.usize(..devices);
            let conversation = self.any_conversation(self.clients[client].user);
            let event = client::Event::Send { conversation, key: format!("key-{number}") };
            let to = Process::Client(client);
            self.outside.bus.at(to, at_us, crate::Event::Client(event));
        }
        let mut changes = membership::plan(&mut self.outside.bus.random, users);
        changes.extend(edits::plan(&mut self.outside.bus.random, users));
        for (at_us, changed) in changes {
            let to = Process::Chatd(self.outside.bus.random.usize(..CHATDS));
            let event = chatd::Event::Changed(Box::new(changed));
            self.outside.bus.at(to, at_us, crate::Event::Chatd(event));
        }
        self.faults = faults::plan(&mut self.outside.bus.random, devices);
        for fault in 0..self.faults.len() {
            self.plan(self.faults[fault].begin_us, Event::Begin { fault });
        }
        self.plan(STORM_US, Event::Heal);
    }

    fn plan(&mut self, at_us: u64, event: Event) {
        self.outside.bus.at(Process::World, at_us, crate::Event::World(event));
    }

    fn any_conversation(&mut self, user: Uuid) -> Uuid {
        let own = self.conversations.iter().filter(|(_, members)| members.contains(&user));
        let own = own.map(|(id, _)| *id).chain([self.outside.revolving]);
        let own: Vec<Uuid> = own.collect();
        own[self.outside.bus.random.usize(..own.len())]
    }

    fn add_client(&mut self, role: Role, user: Uuid) -> usize {
        let me = self.clients.len();
        self.outside.bus.start(Process::Client(me));
        let client = Client::new(me, role, user, &mut self.outside);
        if role == Role::Device {
            for (id, _) in self.conversations.iter().filter(|it| it.1.contains(&user)) {
                self.outside.record(Operation::Member {
                    session: client.name.clone(),
                    conversation: id.to_string(),
                    from: 0,
                });
            }
        }
        self.clients.push(client);
        me
    }

    /// To the end; the verdict.
    pub(crate) fn run(mut self, seed: u64) -> Run {
        while self.stage != Stage::Over {
            let Some((to, event)) = self.outside.bus.next() else { break };
            self.step(to, event);
        }
        if self.stage != Stage::Over {
            self.outside.violate("the run does not end".to_owned());
        }
        for client in &self.clients[..self.finals.min(self.clients.len())] {
            let session = client.name.clone();
            self.outside.record(Operation::Settled { session });
        }
        judge(self.outside, seed)
    }

    fn step(&mut self, to: Process, event: crate::Event) {
        let outside = &mut self.outside;
        match (to, event) {
            (_, crate::Event::Postgres(transaction)) => {
                let now_us = outside.bus.now_us();
                outside.database.borrow_mut().complete(transaction, now_us);
            }
            (_, crate::Event::Kafka(event)) => kafka::step(outside, event),
            (Process::Chatd(me), crate::Event::Chatd(event)) => {
                self.chatds[me].step(outside, event)
            }
            (Process::Relay(me), crate::Event::Relay(event)) => {
                self.relays[me].step(outside, event)
            }
            (Process::Gateway(me), crate::Event::Gateway(event)) => {
                self.gateways[me].step(outside, event);
            }
            (_, crate::Event::Presence(event)) => self.presence.step(outside, event),
            (Process::Client(me), crate::Event::Client(event)) => {
                self.clients[me].step(outside, event);
            }
            (_, crate::Event::World(event)) => self.happen(event),
            (to, event) => outside.violate(format!("{event:?} reached {to:?}")),
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Begin { fault } => {
                let Fault { kind, for_us, .. } = self.faults[fault];
                self.note_fault(fault, true);
                self.inflict(kind, for_us);
                let end_us = self.outside.bus.now_us() + for_us;
                self.plan(end_us, Event::End { fault });
            }
            Event::End { fault } if self.stage == Stage::Storm => self.end(fault),
            Event::End { .. } => {}
            Event::Heal => self.heal(),
            Event::Look => self.look(),
        }
    }

    fn note_fault(&mut self, fault: usize, begin: bool) {
        let (at_us, kind) = (self.outside.bus.now_us(), self.faults[fault].kind);
        self.outside.record(Operation::Fault { at_us, fault: format!("{kind:?}"), begin });
    }

    fn inflict(&mut self, kind: Kind, for_us: u64) {
        let outside = &mut self.outside;
        match kind {
            Kind::Pause(process) => outside.bus.pause(process, for_us),
            Kind::Cut(a, b) => outside.bus.cut(a, b),
            Kind::Jump(process) => outside.bus.jump(process),
            Kind::Crash(process) if outside.bus.is_up(process) => {
                outside.bus.stop(process);
                self.crashed(process);
            }
            Kind::Crash(_) => {}
            Kind::Poison(partition) => {
                let record = poison::record(&mut outside.bus.random);
                outside.broker.append(partition, record);
            }
        }
    }

    fn crashed(&mut self, process: Process) {
        let outside = &mut self.outside;
        let now_us = outside.bus.now_us();
        match process {
            Process::Postgres => {
                outside.database.borrow_mut().crash(now_us, &mut outside.bus.random);
            }
            Process::Chatd(me) => {
                outside.database.borrow_mut().abandoned(me, &mut outside.bus.random);
            }
            Process::Gateway(me) => self.gateways[me].crash(outside),
            Process::Client(me) => self.clients[me].crash(outside),
            _ => {}
        }
    }

    fn end(&mut self, fault: usize) {
        self.note_fault(fault, false);
        match self.faults[fault].kind {
            Kind::Crash(process) => self.restart(process),
            Kind::Cut(a, b) => self.outside.bus.join(a, b),
            Kind::Pause(_) | Kind::Jump(_) | Kind::Poison(_) => {}
        }
    }

    fn restart(&mut self, process: Process) {
        let outside = &mut self.outside;
        if outside.bus.is_up(process) {
            return;
        }
        outside.bus.start(process);
        match process {
            Process::Chatd(me) => self.chatds[me] = Chatd::new(me, outside),
            Process::Relay(me) => self.relays[me] = Relay::new(me, outside),
            Process::Gateway(me) => self.gateways[me] = Gateway::new(me, outside),
            Process::Presenced => self.presence = Presence::new(outside),
            Process::Client(me) => self.clients[me].restart(outside),
            Process::Redis => outside.redis.restart(),
            Process::Postgres | Process::Kafka | Process::World => {}
        }
    }

    fn heal(&mut self) {
        for fault in 0..self.faults.len() {
            self.end(fault);
        }
        let now_us = self.outside.bus.now_us();
        self.outside.bus.is_stormy = false;
        (self.stage, self.healed_us) = (Stage::Settling, now_us);
        let Some((conversation, members)) = self.conversations.first_key_value() else { return };
        let (conversation, from, to) = (*conversation, members[0], members[1]);
        let sender = self.add_client(Role::Device, from);
        let receiver = self.add_client(Role::Device, to);
        let key = "probe".to_owned();
        self.outside.probe = Some(Probe {
            text: client::text(&key),
            session: self.clients[receiver].name.clone(),
            sent_us: now_us,
            came_us: None,
        });
        let event = client::Event::Send { conversation, key };
        self.outside.bus.after(Process::Client(sender), 0, crate::Event::Client(event));
        self.plan(now_us + LOOK_US, Event::Look);
    }

    fn look(&mut self) {
        let now_us = self.outside.bus.now_us();
        match self.stage {
            // Whoever was paused has been told by then what to do.
            Stage::Settling if now_us > self.healed_us + FAULT_US_MAX && self.is_settled() => {
                self.close_some(now_us);
            }
            Stage::Settling if now_us > self.healed_us + SETTLE_US_MAX => {
                let late = self.clients.iter().filter(|it| !self.is_done(it));
                let late: Vec<&str> = late.map(|it| it.name.as_str()).collect();
                self.outside.violate(format!("not everybody has seen everything: {late:?}"));
                self.close_some(now_us);
            }
            Stage::Presence { until_us } if now_us >= until_us => {
                self.check_presence();
                self.begin_finals(now_us);
            }
            Stage::Finals { until_us } => {
                let fresh = &self.clients[self.finals..];
                if now_us >= until_us || fresh.iter().all(|it| self.has_all(it)) {
                    return self.end_finals();
                }
            }
            _ => {}
        }
        self.plan(now_us + LOOK_US, Event::Look);
    }

    fn has_all(&self, client: &Client) -> bool {
        let database = self.outside.database.borrow();
        let own = self.conversations.iter().filter(|it| it.1.contains(&client.user));
        let revolving = self.outside.revolving;
        let seen = client.seen.get(&revolving).copied();
        if !membership::has_all(&self.outside, client.user, client.is_late(), seen) {
            return false;
        }
        own.map(|(id, _)| id).all(|id| {
            let last = database.state.conversations.get(id).map(|it| it.last_sequence_number);
            client.seen.get(id).copied() == last
        })
    }

    fn is_settled(&self) -> bool {
        let is_relayed = self.outside.database.borrow().state.outbox.is_empty();
        let is_written = self.chatds.iter().all(Chatd::is_idle);
        is_written && is_relayed && self.clients.iter().all(|it| self.is_done(it))
    }

    fn is_done(&self, client: &Client) -> bool {
        client.is_idle() && self.has_all(client)
    }

    /// Some go; then it must become known who is there.
    fn close_some(&mut self, now_us: u64) {
        for client in 0..self.clients.len() {
            if self.outside.bus.random.bool() {
                let event = crate::Event::Client(client::Event::Close);
                self.outside.bus.after(Process::Client(client), 0, event);
            }
        }
        // All is relayed: their looks at an empty outbox are nothing to wait for.
        (0..RELAYS).for_each(|it| self.outside.bus.stop(Process::Relay(it)));
        let patience_ms = TIMINGS.expiry_ms + 5_000;
        self.stage = Stage::Presence { until_us: now_us + patience_ms * 1_000 };
    }

    /// The last announcement of every user must be right, and so must be what Redis holds.
    fn check_presence(&mut self) {
        let here = self.clients.iter().filter(|it| !it.is_closed).map(|it| it.user);
        let here: BTreeSet<Uuid> = here.collect();
        let users: BTreeSet<Uuid> = self.clients.iter().map(|it| it.user).collect();
        for user in users {
            let is_here = here.contains(&user);
            let announced = self.last_announced(user);
            let held = self.outside.redis.online().contains(&user);
            if announced != is_here || held != is_here {
                self.outside.violate(format!(
                    "{user} is {}, but was announced as {} and Redis holds {}",
                    word(is_here),
                    word(announced),
                    word(held)
                ));
            }
        }
    }

    /// By the order in which the broker has the announcements.
    fn last_announced(&self, user: Uuid) -> bool {
        let of = |topic| {
            let records = self.outside.broker.all(topic);
            records.filter(|(_, it)| it.key == user.as_bytes()).map(|(_, it)| it.place).max()
        };
        of(topics::USER_ONLINE) > of(topics::USER_OFFLINE)
    }

    fn begin_finals(&mut self, now_us: u64) {
        self.finals = self.clients.len();
        let users: BTreeSet<Uuid> = self.clients.iter().map(|it| it.user).collect();
        for user in users {
            self.add_client(Role::Final, user);
        }
        self.stage = Stage::Finals { until_us: now_us + SETTLE_US_MAX };
    }

    fn end_finals(&mut self) {
        for client in &self.clients[self.finals..] {
            for (id, _) in self.conversations.iter().filter(|it| it.1.contains(&client.user)) {
                let (client, conversation) = (client.name.clone(), id.to_string());
                self.outside.record(Operation::FinalEnd { client, conversation });
            }
        }
        self.stage = Stage::Over;
    }
}

fn word(is_online: bool) -> &'static str {
    if is_online { "online" } else { "offline" }
}

fn start_all(outside: &mut Outside) {
    let daemons = (0..CHATDS).map(Process::Chatd).chain((0..RELAYS).map(Process::Relay));
    let daemons = daemons.chain((0..GATEWAYS).map(Process::Gateway)).chain([Process::Presenced]);
    daemons.for_each(|it| outside.bus.start(it));
}

/// Users, and conversations with their first event.
fn populate(outside: &mut Outside) -> (Vec<Uuid>, BTreeMap<Uuid, Vec<Uuid>>) {
    let random = &mut outside.bus.random;
    let users: Vec<Uuid> = (0..USERS).map(|_| Uuid::from_u128(random.u128(..))).collect();
    let mut conversations = BTreeMap::new();
    let mut changes = Vec::new();
    for number in 0..random.usize(CONVERSATIONS) {
        let id = Uuid::from_u128(random.u128(..));
        // Everybody is in the first one, so that everybody has one.
        let leaves_out = if number == 0 { USERS } else { random.usize(..=USERS) };
        let members = users.iter().enumerate().filter(|(at, _)| *at != leaves_out);
        let members: Vec<Uuid> = members.map(|(_, user)| *user).collect();
        changes.extend(creation(id, &members));
        conversations.insert(id, members);
    }
    outside.revolving = Uuid::from_u128(random.u128(..));
    changes.extend(creation(outside.revolving, &membership::first_members(random, &users)));
    outside.database.borrow_mut().seed(changes);
    (users, conversations)
}

fn creation(id: Uuid, members: &[Uuid]) -> Vec<Change> {
    let event = proto::client::Event {
        conversation_id: id.as_bytes().to_vec(),
        sequence_number: 1,
        sender_id: members[0].as_bytes().to_vec(),
        kind: Some(proto::client::event::Kind::MembershipChanged(
            proto::client::MembershipChanged {
                added_user_ids: members.iter().map(|it| it.as_bytes().to_vec()).collect(),
                created: true,
                ..Default::default()
            },
        )),
        ..Default::default()
    };
    let logged = Logged {
        event,
        message_id: None,
        message_number: 0,
        sender: members[0],
        key: "creation".into(),
        body_hash: Vec::new(),
        text: None,
        is_deleted: false,
    };
    let conversation = Conversation {
        conversation_id: id,
        last_sequence_number: 1,
        last_message_number: 0,
        membership_version: 1,
        created_by: members[0],
        last_event_at_us: 0,
    };
    let member =
        |user: &Uuid| Change::Member { conversation: id, user: *user, joined: Some(1), left: None };
    let event = Change::Event { conversation: id, sequence_number: 1, logged: Box::new(logged) };
    let mut changes = vec![Change::Conversation(conversation), event];
    changes.extend(members.iter().map(member));
    changes
}
