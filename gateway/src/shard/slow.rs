//! Slow sessions: what becomes of their rings when they are full.

use super::Shard;
use crate::close::Reason;
use crate::config::Overflow;
use crate::limits::GAPS_MAX;
use crate::mail::{Missed, Priority};
use crate::outbound::payload::Handle;
use crate::outbound::ring::Verdict;
use proto::Uuid;
use proto::client::server_frame::Frame;
use proto::client::{Gap, ServerFrame};

/// Why there is a gap that is no session's own doing.
const MISSED: &str = "the gateway did not know the conversation's members in time";

/// The events that one session was not pushed and has still to be told of.
#[derive(Default)]
pub(crate) struct Gaps(Vec<Range>);

struct Range {
    conversation: Uuid,
    from: u64,
    to: u64,
    reason: &'static str,
}

impl Gaps {
    /// Whether the event belongs to a gap that is there: what follows a shed event of a conversation
    /// is shed with it, so that the conversation's order stays.
    pub(crate) fn absorb(&mut self, conversation: Uuid, sequence_number: u64) -> bool {
        let found = self.0.iter_mut().find(|it| it.conversation == conversation);
        found.is_some_and(|range| {
            range.from = range.from.min(sequence_number);
            range.to = range.to.max(sequence_number);
            true
        })
    }

    fn add(&mut self, conversation: Uuid, sequence_number: u64) {
        if !self.absorb(conversation, sequence_number) {
            let (from, to) = (sequence_number, sequence_number);
            let reason = Reason::BackpressureOverflow.text();
            self.0.push(Range { conversation, from, to, reason });
        }
    }

    /// A gap that is not the session's own doing.
    fn add_missed(&mut self, missed: &Missed) {
        let Missed { conversation, from, to, .. } = *missed;
        if self.absorb(conversation, from) {
            self.absorb(conversation, to);
        } else {
            self.0.push(Range { conversation, from, to, reason: MISSED });
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next one to be told.
    pub(crate) fn pop(&mut self) -> Option<Gap> {
        let Range { conversation, from, to, reason } = self.0.pop()?;
        Some(Gap {
            conversation_id: conversation.as_bytes().to_vec(),
            from_sequence_number: from,
            to_sequence_number: to,
            reason: reason.to_owned(),
        })
    }
}

impl Shard {
    /// Tells sessions of events that were not pushed, as soon as their sockets take it.
    pub(super) fn tell_missed(&mut self, missed: &Missed) {
        for user in missed.recipients.iter() {
            let mut slot = self.registry.first(&self.table, user);
            while let Some(session) = self.table.session_mut(slot) {
                let next = session.next_of_user;
                let gaps = &mut session.extra().gaps;
                gaps.add_missed(missed);
                // A stream of server-sent events comes again with what it has.
                if gaps.0.len() > GAPS_MAX || session.told().is_some() {
                    self.close(slot, Reason::BackpressureOverflow, None);
                } else {
                    self.mark_dirty(slot);
                }
                slot = next;
            }
        }
    }

    /// A ring has no room for the payload: closes the session, or throws away what it can sync. Says
    /// whether the payload was taken.
    pub(super) fn overflow(&mut self, slot: u32, handle: Handle, priority: Priority) -> bool {
        self.counts.events_overflowed.increment();
        // A stream of server-sent events is told by its id what it has: it comes again with that.
        let is_stream = self.table.session_mut(slot).is_some_and(|it| it.told().is_some());
        if self.settings.overflow == Overflow::Gap && !is_stream && self.shed_logs(slot) {
            if let Some(tag) = self.payloads.tag(handle)
                && tag.sequence_number > 0
                && let Some(session) = self.table.session_mut(slot)
                && session.extra().gaps.absorb(tag.conversation, tag.sequence_number)
            {
                self.counts.lane(self.payloads.lane(handle)).shed.increment();
                return false;
            }
            if self.try_enqueue(slot, handle, priority) == Some(Verdict::Take) {
                return true;
            }
        }
        self.close(slot, Reason::BackpressureOverflow, None);
        false
    }

    /// Throws away what waits of the conversations' logs and what is ephemeral; high priority only
    /// where that is not enough. Says whether half of the ring is free now.
    fn shed_logs(&mut self, slot: u32) -> bool {
        self.counts.rings_shed.increment();
        for spared in [Priority::High, Priority::Normal] {
            let Some(connection) = self.table.get_mut(slot) else { return false };
            let Some(session) = &mut connection.session else { return false };
            let encoding = connection.conn.encoding();
            let payloads = &self.payloads;
            let is_shed = |handle| {
                payloads.tag(handle).is_some_and(|tag| match tag.priority {
                    Priority::Ephemeral => true,
                    priority => {
                        tag.sequence_number > 0 && (priority < spared || spared == Priority::Normal)
                    }
                })
            };
            let bytes_of =
                |handle| u32::try_from(payloads.bytes(handle, encoding).len()).unwrap_or(u32::MAX);
            let shed = self.rings.shed(&mut connection.ring, is_shed, bytes_of);
            let gaps = &mut session.extra().gaps;
            for handle in shed {
                self.counts.lane(self.payloads.lane(handle)).shed.increment();
                self.queued -= 1;
                if let Some(tag) = self.payloads.tag(handle).filter(|it| it.sequence_number > 0) {
                    gaps.add(tag.conversation, tag.sequence_number);
                }
                self.payloads.release(handle);
            }
            let too_many = gaps.0.len() > GAPS_MAX;
            session.tidy();
            let (queued, limits) = (self.rings.queued(connection.ring), self.rings.limits());
            if too_many {
                return false;
            }
            if queued.entries <= limits.entries / 2 && queued.bytes <= limits.bytes_max / 2 {
                return true;
            }
        }
        false
    }

    /// An ephemeral event takes the place of an earlier one about the same that still waits.
    pub(super) fn coalesce(&mut self, slot: u32, handle: Handle) -> bool {
        let Some(connection) = self.table.get(slot) else { return false };
        let (ring, encoding) = (connection.ring, connection.conn.encoding());
        if self.rings.queued(ring).entries == 0 || connection.ending.is_some() {
            return false;
        }
        let Some(subject) = self.payloads.subject(handle) else { return false };
        let waiting: Vec<Handle> = self.rings.iter(ring).collect();
        for waiting in waiting {
            // Their subjects are made, so that they can be compared below.
            let _ = self.payloads.subject(waiting);
        }
        let Some(bytes) = self.payloads.prepare(handle, encoding) else { return false };
        let payloads = &self.payloads;
        let before = self.rings.replace(
            ring,
            handle,
            u32::try_from(bytes).unwrap_or(u32::MAX),
            |it| payloads.known_subject(it) == Some(subject),
            |it| u32::try_from(payloads.bytes(it, encoding).len()).unwrap_or(u32::MAX),
        );
        let Some(before) = before else { return false };
        self.payloads.retain(handle);
        self.payloads.release(before);
        self.counts.events_coalesced.increment();
        true
    }

    /// Tells a session whose socket takes bytes again of the gaps that it has, as far as half of its
    /// ring reaches.
    pub(super) fn tell_gaps(&mut self, slot: u32) {
        let limits = self.rings.limits();
        loop {
            let Some(connection) = self.table.get_mut(slot) else { return };
            let queued = self.rings.queued(connection.ring);
            if connection.blocked || queued.entries >= limits.entries / 2 {
                return;
            }
            let Some(session) = &mut connection.session else { return };
            let Some(extra) = session.extra.as_mut().filter(|it| !it.gaps.is_empty()) else {
                return;
            };
            let Some(gap) = extra.gaps.pop() else { return };
            session.tidy();
            let frame = ServerFrame { request_id: 0, frame: Some(Frame::Gap(gap)) };
            let handle = self.payloads.add_reply(&frame, connection.conn.encoding());
            self.counts.gaps_told.increment();
            self.push_unchecked(slot, handle);
        }
    }
}
