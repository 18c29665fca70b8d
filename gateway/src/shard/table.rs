//! The connections of one shard. What every idle session costs is here: keep it small.

use crate::clock::Now;
use crate::close::Reason;
use crate::conn::{Conn, Stage};
use crate::inbound::events;
use crate::inbound::tls::Tls;
use crate::limits::{HEARTBEAT_GROUPS, TIMER_TICK_MS};
use crate::outbound::payload::Handle;
use crate::outbound::ring::RingId;
use crate::rate::Key;
use crate::recovery::catchup::CatchUp;
use crate::shard::slow::Gaps;
use mio::net::TcpStream;
use proto::Uuid;
use proto::client::server_frame::Frame;
use proto::client::{ServerFrame, Verdict};
use slab::Slab;
use std::collections::BTreeMap;

/// A point in time, in the wheel's ticks; 32 bits last for two years.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tick(u32);

impl Tick {
    pub(crate) const NEVER: Self = Self(u32::MAX);

    pub(crate) fn at_ms(ms: u64) -> Self {
        Self(u32::try_from(ms.div_ceil(TIMER_TICK_MS)).unwrap_or(u32::MAX))
    }

    pub(crate) fn after(now: Now, ms: u64) -> Self {
        Self::at_ms(now.ms.saturating_add(ms))
    }

    /// A little later, so that many fire at once: the shard wakes once for all of them, and once more
    /// for what their peers answer.
    pub(crate) fn grouped(now: Now, ms: u64) -> Self {
        let group = (ms / HEARTBEAT_GROUPS).max(1);
        Self::at_ms(now.ms.saturating_add(ms).next_multiple_of(group))
    }

    pub(crate) fn is_due(self, now: Now) -> bool {
        self != Self::NEVER && u64::from(self.0) * TIMER_TICK_MS <= now.ms
    }

    pub(crate) fn ms(self) -> u64 {
        u64::from(self.0) * TIMER_TICK_MS
    }
}

/// What a connection waits for; the earliest is its timer in the wheel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadlines {
    /// The end of the stage that the connection is in.
    pub(crate) stage: Tick,
    /// The next ping is due.
    pub(crate) ping: Tick,
    /// The pong is due.
    pub(crate) pong: Tick,
    /// A full socket must have taken something by then.
    pub(crate) write: Tick,
    /// The session's token expires.
    pub(crate) token: Tick,
}

impl Deadlines {
    const NONE: Self = Self {
        stage: Tick::NEVER,
        ping: Tick::NEVER,
        pong: Tick::NEVER,
        write: Tick::NEVER,
        token: Tick::NEVER,
    };

    pub(crate) fn first(&self) -> Tick {
        self.stage.min(self.ping).min(self.pong).min(self.write).min(self.token)
    }
}

pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    pub(crate) tls: Option<Box<Tls>>,
    /// The address that the connection counts for.
    pub(crate) address: Option<Key>,
    /// Tells this connection from the slot's earlier ones; unique within the shard.
    pub(crate) generation: u32,
    pub(crate) conn: Conn,
    /// What it keeps that is not whole, as it was counted last.
    pub(crate) partial_bytes: u32,
    pub(crate) session: Option<Session>,
    pub(crate) ring: RingId,
    pub(crate) deadlines: Deadlines,
    /// The stage for which `deadlines.stage` was set.
    pub(crate) stage: Stage,
    /// Why it ends, once it does.
    pub(crate) ending: Option<Reason>,
    /// The socket has bytes for us, or had when we last looked.
    pub(crate) readable: bool,
    /// The peer has closed its end: read on until it shows.
    pub(crate) hung_up: bool,
    /// The socket is full; epoll tells when it is not.
    pub(crate) blocked: bool,
    /// Bytes wait in the stash that can be used now.
    pub(crate) kick: bool,
    /// In the list of connections to be read.
    pub(crate) in_ready: bool,
    /// In the list of connections to be flushed.
    pub(crate) in_dirty: bool,
    /// Our end is closed; the peer's is awaited.
    pub(crate) shut: bool,
}

/// An authenticated user on a connection.
pub(crate) struct Session {
    pub(crate) user: Uuid,
    pub(crate) device: Uuid,
    /// The slot of the user's next session in this shard, or [`NO_SLOT`].
    pub(crate) next_of_user: u32,
    /// Requests that are asked and not answered.
    pub(crate) in_flight: u8,
    /// Only while something unusual is under way.
    pub(crate) extra: Option<Box<Extra>>,
}

/// What only some sessions have.
#[derive(Default)]
pub(crate) struct Extra {
    pub(crate) catch_up: Option<CatchUp<Handle>>,
    /// The users whose presence this session is told.
    pub(crate) watched: Vec<Uuid>,
    /// It is to be told of them anew.
    pub(crate) is_presence_stale: bool,
    /// What it was not pushed and is told of once its socket takes bytes again.
    pub(crate) gaps: Gaps,
    /// What a stream of server-sent events has told its client.
    pub(crate) told: Option<Told>,
}

/// What the client of a stream of server-sent events has, and what of it its last id says.
#[derive(Default)]
pub(crate) struct Told {
    cursors: BTreeMap<Uuid, Cursor>,
    /// Live events since the last id.
    pub(crate) events: u32,
    /// The client brought no id: what happened before it came is none of its business.
    pub(crate) fresh: bool,
}

#[derive(Clone, Copy)]
struct Cursor {
    sequence_number: u64,
    /// Something beyond it is missing: it stays where it is until the client comes again.
    gap: bool,
}

impl Told {
    pub(crate) fn new(fresh: bool) -> Self {
        Self { fresh, ..Self::default() }
    }

    /// A live event of the conversation's log.
    pub(crate) fn event(&mut self, conversation: Uuid, sequence_number: u64) {
        let told = Cursor { sequence_number, gap: false };
        let it = self.cursors.entry(conversation).or_insert(told);
        if !it.gap {
            it.sequence_number = it.sequence_number.max(sequence_number);
        }
        self.events += 1;
    }

    /// A frame of a catch-up; its end says where each conversation stands.
    pub(crate) fn frame(&mut self, frame: &ServerFrame) {
        if let Some(Frame::Synced(synced)) = &frame.frame {
            self.synced(&synced.verdicts);
        }
    }

    fn synced(&mut self, verdicts: &[Verdict]) {
        for verdict in verdicts {
            let Ok(conversation) = Uuid::from_slice(&verdict.conversation_id) else { continue };
            if verdict.reset {
                self.cursors.remove(&conversation);
                continue;
            }
            let sequence_number = verdict.complete_to_sequence_number;
            let gap = verdict.gap_to_sequence_number > 0;
            self.cursors.insert(conversation, Cursor { sequence_number, gap });
        }
        self.events = 0;
    }

    pub(crate) fn id(&self) -> String {
        let cursors = self.cursors.iter();
        events::id(cursors.map(|(conversation, told)| (*conversation, told.sequence_number)))
    }
}

/// No connection.
pub(crate) const NO_SLOT: u32 = u32::MAX;

/// The connections of one shard, by slot.
pub(crate) struct Table {
    slots: Slab<Connection>,
    next_generation: u32,
}

impl Table {
    /// Room for so many connections is reserved, not touched.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { slots: Slab::with_capacity(capacity), next_generation: 0 }
    }

    pub(crate) fn insert(
        &mut self,
        stream: TcpStream,
        conn: Conn,
        tls: Option<Box<Tls>>,
        address: Option<Key>,
    ) -> u32 {
        self.next_generation = self.next_generation.wrapping_add(1);
        let slot = self.slots.insert(Connection {
            stream,
            tls,
            address,
            generation: self.next_generation,
            stage: conn.stage(),
            conn,
            partial_bytes: 0,
            session: None,
            ring: RingId::NONE,
            deadlines: Deadlines::NONE,
            ending: None,
            readable: false,
            hung_up: false,
            blocked: false,
            kick: false,
            in_ready: false,
            in_dirty: false,
            shut: false,
        });
        u32::try_from(slot).unwrap_or(NO_SLOT)
    }

    pub(crate) fn get(&self, slot: u32) -> Option<&Connection> {
        self.slots.get(slot as usize)
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut Connection> {
        self.slots.get_mut(slot as usize)
    }

    pub(crate) fn session(&self, slot: u32) -> Option<&Session> {
        self.get(slot)?.session.as_ref()
    }

    pub(crate) fn session_mut(&mut self, slot: u32) -> Option<&mut Session> {
        self.get_mut(slot)?.session.as_mut()
    }

    pub(crate) fn remove(&mut self, slot: u32) -> Option<Connection> {
        self.slots.try_remove(slot as usize)
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Connection)> {
        self.slots.iter().map(|(slot, it)| (u32::try_from(slot).unwrap_or(NO_SLOT), it))
    }

    /// Every slot that is taken.
    pub(crate) fn slots(&self) -> Vec<u32> {
        self.iter().map(|(slot, _)| slot).collect()
    }
}

impl Session {
    /// Whether live events of conversations must wait.
    pub(crate) fn catch_up(&mut self) -> Option<&mut CatchUp<Handle>> {
        self.extra.as_mut()?.catch_up.as_mut()
    }

    /// What a stream of server-sent events has told its client; None of other sessions.
    pub(crate) fn told(&mut self) -> Option<&mut Told> {
        self.extra.as_mut()?.told.as_mut()
    }

    pub(crate) fn is_fresh_stream(&mut self) -> bool {
        self.told().is_some_and(|told| told.fresh)
    }

    pub(crate) fn extra(&mut self) -> &mut Extra {
        self.extra.get_or_insert_with(Box::default)
    }

    /// Gives back what is no longer used.
    pub(crate) fn tidy(&mut self) {
        if let Some(extra) = &mut self.extra {
            if extra.catch_up.as_ref().is_some_and(CatchUp::is_done) {
                extra.catch_up = None;
            }
            let is_empty = extra.catch_up.is_none() && extra.watched.is_empty();
            if is_empty && extra.gaps.is_empty() && extra.told.is_none() {
                self.extra = None;
            }
        }
    }
}

// An idle session's budget; the registry's entry and the wheel's node come on top.
const _: () = assert!(size_of::<Connection>() <= 192);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_due_not_before_its_time() {
        let now = |ms| Now { ms, wall_us: 0 };
        let tick = Tick::after(now(100), 50);
        assert!(!tick.is_due(now(149)) && tick.is_due(now(150 + TIMER_TICK_MS)));
        assert!(!Tick::NEVER.is_due(now(u64::MAX)));
        let deadlines = Deadlines { pong: tick, ..Deadlines::NONE };
        assert_eq!(deadlines.first(), tick);
    }
}
