//! Which messages become which requests, and how far the log is done with: the rules, without clock,
//! Kafka or databases.
//!
//! Messages for one user in one conversation are collected in a *window*, which begins with the first
//! and ends after a fixed time, at the next look at the clock after a message of high priority, or when
//! there are too many windows.
//! What ends is a [`Request`]; it is done with once it is settled: acknowledged by the broker, or found to
//! be unwanted. A partition's offset is committed up to the first record that a window or a request
//! still needs.

use proto::Uuid;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Where a record is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
}

/// A message, as far as a request tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) conversation_id: Uuid,
    pub(crate) sender_id: Uuid,
    pub(crate) message_id: Uuid,
    pub(crate) sequence_number: u64,
    pub(crate) created_at_us: u64,
    pub(crate) is_high: bool,
    pub(crate) traceparent: String,
}

/// Whom a window is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Audience {
    User(Uuid),
    /// All members of a conversation that is too large for its records to name them. Who of them is
    /// without a session is found out when the window ends, once for all its messages.
    Members,
}

/// For whom a message needs a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Need {
    pub(crate) audience: Audience,
    /// A message of high priority ends the window. Not if the user had a session a moment ago: whether
    /// it still has one is found out when the window ends.
    pub(crate) may_hurry: bool,
}

/// What a window becomes. Its number is unique among those of one run.
pub(crate) type Ticket = u64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) ticket: Ticket,
    /// Of its first message; the others are in the same partition.
    pub(crate) place: Place,
    pub(crate) audience: Audience,
    pub(crate) message_count: u32,
    pub(crate) first_sequence_number: u64,
    /// The last of its messages; high if any of them is.
    pub(crate) latest: Message,
    /// When the first message was sent.
    pub(crate) created_at_us: u64,
    /// Of members' windows: who sent these messages, as far as they are remembered.
    pub(crate) senders: BTreeSet<Uuid>,
}

#[derive(Debug)]
pub(crate) enum Event {
    /// The next record of a partition: a message and for whom windows are needed, or nothing of
    /// interest.
    Read {
        place: Place,
        message: Option<(Message, Vec<Need>)>,
    },
    Tick,
    /// Acknowledged by the broker, or unwanted.
    Settled(Vec<Ticket>),
    /// Others read these partitions from now on, beginning with what was committed.
    Lost(BTreeSet<i32>),
    /// All windows end.
    Flush,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// This window ended: ask whether it is still wanted, publish it if so, and say when it is settled.
    Request(Request),
}

/// What the rules are configured with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) window_ms: u64,
    /// Windows that are open at once; one more, and the oldest ends.
    pub(crate) windows_max: usize,
    /// Senders that a members' window remembers.
    pub(crate) senders_max: usize,
}

/// A conversation's records are all in one partition: another partition is another window.
type Key = (i32, Uuid, Audience);

#[derive(Debug)]
struct Window {
    due_ms: u64,
    is_urgent: bool,
    request: Request,
}

/// How far a partition was read, and which of its records are still needed.
#[derive(Debug, Default)]
struct Progress {
    next_offset: i64,
    needed: BTreeSet<(i64, Ticket)>,
}

#[derive(Debug)]
pub(crate) struct Windows {
    bounds: Bounds,
    next_ticket: Ticket,
    open: HashMap<Key, Window>,
    /// Windows for users and for members, oldest first: all are open equally long.
    users: BTreeMap<Ticket, Key>,
    members: BTreeMap<Ticket, Key>,
    /// Open windows that end at the next look at the clock.
    urgent: Vec<Key>,
    /// Ended and not settled.
    ended: HashMap<Ticket, (Place, Audience)>,
    partitions: BTreeMap<i32, Progress>,
    /// Messages that joined a window that was open already.
    coalesced: u64,
}

impl Windows {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            next_ticket: 0,
            open: HashMap::new(),
            users: BTreeMap::new(),
            members: BTreeMap::new(),
            urgent: Vec::new(),
            ended: HashMap::new(),
            partitions: BTreeMap::new(),
            coalesced: 0,
        }
    }

    pub(crate) fn step(&mut self, now_ms: u64, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Read { place, message } => self.read(now_ms, place, message, &mut actions),
            Event::Tick => self.end_due(now_ms, &mut actions),
            Event::Settled(tickets) => self.settled(&tickets),
            Event::Lost(partitions) => self.lost(&partitions),
            Event::Flush => while self.end_oldest(&mut actions) {},
        }
        actions
    }

    /// Windows and requests that are not settled.
    pub(crate) fn pending(&self) -> usize {
        self.open.len() + self.ended.len()
    }

    pub(crate) fn coalesced(&self) -> u64 {
        self.coalesced
    }

    /// Its partition was not lost meanwhile, and it is not settled.
    pub(crate) fn is_awaited(&self, ticket: Ticket) -> bool {
        self.ended.contains_key(&ticket)
    }

    /// By when the next window ends.
    pub(crate) fn next_due_ms(&self) -> Option<u64> {
        if !self.urgent.is_empty() {
            return Some(0);
        }
        let first =
            |order: &BTreeMap<Ticket, Key>| Some(self.open.get(order.first_key_value()?.1)?.due_ms);
        [first(&self.users), first(&self.members)].into_iter().flatten().min()
    }

    /// Of every partition that was read: the first record that is still needed.
    pub(crate) fn offsets(&self) -> impl Iterator<Item = (i32, i64)> {
        self.partitions.iter().map(|(partition, progress)| {
            let first = progress.needed.first().map(|(offset, _)| *offset);
            (*partition, first.unwrap_or(progress.next_offset))
        })
    }

    fn read(
        &mut self,
        now_ms: u64,
        place: Place,
        message: Option<(Message, Vec<Need>)>,
        actions: &mut Vec<Action>,
    ) {
        self.partitions.entry(place.partition).or_default().next_offset = place.offset + 1;
        let Some((message, needs)) = message else { return };
        for need in needs {
            self.note(now_ms, place, &message, need, actions);
        }
    }

    fn note(
        &mut self,
        now_ms: u64,
        place: Place,
        message: &Message,
        need: Need,
        actions: &mut Vec<Action>,
    ) {
        let key = (place.partition, message.conversation_id, need.audience);
        if let Some(window) = self.open.get_mut(&key) {
            if window.request.add(message, self.bounds.senders_max) {
                self.coalesced += 1;
            }
        } else {
            while self.open.len() >= self.bounds.windows_max && self.end_oldest(actions) {}
            self.begin(now_ms, place, message, key);
        }
        if message.is_high && need.may_hurry {
            self.hurry(key);
        }
    }

    fn hurry(&mut self, key: Key) {
        if let Some(window) = self.open.get_mut(&key)
            && !std::mem::replace(&mut window.is_urgent, true)
        {
            self.urgent.push(key);
        }
    }

    fn begin(&mut self, now_ms: u64, place: Place, message: &Message, key: Key) {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let request = Request {
            ticket,
            place,
            audience: key.2,
            message_count: 1,
            first_sequence_number: message.sequence_number,
            latest: message.clone(),
            created_at_us: message.created_at_us,
            senders: BTreeSet::from([message.sender_id]),
        };
        self.order(key.2).insert(ticket, key);
        let due_ms = now_ms + self.bounds.window_ms;
        self.open.insert(key, Window { due_ms, is_urgent: false, request });
        let progress = self.partitions.entry(place.partition).or_default();
        progress.needed.insert((place.offset, ticket));
    }

    /// Members' windows end one at a time: asking who is without a session takes long, and what comes
    /// meanwhile is coalesced.
    fn end_due(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        for key in std::mem::take(&mut self.urgent) {
            self.end(key, actions);
        }
        while let Some(key) = self.first_due(&self.users, now_ms) {
            self.end(key, actions);
        }
        let is_walking = self.ended.values().any(|(_, audience)| *audience == Audience::Members);
        if !is_walking && let Some(key) = self.first_due(&self.members, now_ms) {
            self.end(key, actions);
        }
    }

    fn first_due(&self, order: &BTreeMap<Ticket, Key>, now_ms: u64) -> Option<Key> {
        let key = *order.first_key_value()?.1;
        self.open.get(&key).is_some_and(|it| it.due_ms <= now_ms).then_some(key)
    }

    fn end_oldest(&mut self, actions: &mut Vec<Action>) -> bool {
        let oldest = self.users.first_key_value().or_else(|| self.members.first_key_value());
        let Some(key) = oldest.map(|(_, key)| *key) else { return false };
        self.end(key, actions);
        true
    }

    fn end(&mut self, key: Key, actions: &mut Vec<Action>) {
        let Some(Window { request, .. }) = self.open.remove(&key) else { return };
        self.order(key.2).remove(&request.ticket);
        self.ended.insert(request.ticket, (request.place, request.audience));
        actions.push(Action::Request(request));
    }

    fn settled(&mut self, tickets: &[Ticket]) {
        for ticket in tickets {
            let Some((place, _)) = self.ended.remove(ticket) else { continue };
            if let Some(progress) = self.partitions.get_mut(&place.partition) {
                progress.needed.remove(&(place.offset, *ticket));
            }
        }
    }

    fn lost(&mut self, partitions: &BTreeSet<i32>) {
        self.partitions.retain(|partition, _| !partitions.contains(partition));
        self.open.retain(|key, _| !partitions.contains(&key.0));
        self.urgent.retain(|key| !partitions.contains(&key.0));
        self.users.retain(|_, key| !partitions.contains(&key.0));
        self.members.retain(|_, key| !partitions.contains(&key.0));
        self.ended.retain(|_, (place, _)| !partitions.contains(&place.partition));
    }

    fn order(&mut self, audience: Audience) -> &mut BTreeMap<Ticket, Key> {
        match audience {
            Audience::User(_) => &mut self.users,
            Audience::Members => &mut self.members,
        }
    }
}

impl Request {
    /// Counts a further message; not one that came before: the log may repeat itself.
    fn add(&mut self, message: &Message, senders_max: usize) -> bool {
        if message.sequence_number <= self.latest.sequence_number {
            return false;
        }
        self.message_count = self.message_count.saturating_add(1);
        let is_high = self.latest.is_high || message.is_high;
        self.latest = Message { is_high, ..message.clone() };
        if self.senders.len() < senders_max {
            self.senders.insert(message.sender_id);
        }
        true
    }
}
