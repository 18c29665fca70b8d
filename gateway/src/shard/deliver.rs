//! Events to sessions, and the one place where something is put into a ring.

use super::Shard;
use super::table::NO_SLOT;
use crate::close::Reason;
use crate::mail::{Delivery, Priority};
use crate::metrics::Lane;
use crate::outbound::payload::{Handle, Tag};
use crate::outbound::ring::{self, Verdict};
use crate::recovery::catchup::Held;
use bytes::Bytes;
use proto::Uuid;

impl Shard {
    /// An event for those of its recipients whose home is here.
    pub(super) fn deliver(&mut self, delivery: &Delivery) {
        let mut payload = None;
        let mut firsts = std::mem::take(&mut self.firsts);
        self.registry.first_of_each(&self.table, &delivery.recipients, &mut firsts);
        for (user, first) in delivery.recipients.iter().zip(firsts.iter().copied()) {
            let mut slot = first;
            if slot == NO_SLOT {
                self.counts.lane(delivery.lane).no_session.increment();
            } else {
                self.counts.lane(delivery.lane).reached.increment();
                if self.table.session(slot).is_none_or(|session| session.user != *user) {
                    // Closed by what came before: a user may be named twice.
                    slot = self.registry.first(&self.table, user);
                }
            }
            while let Some(session) = self.table.session(slot) {
                // Read now: the session may be closed by what follows.
                let next = session.next_of_user;
                let handle = *payload.get_or_insert_with(|| {
                    let tag = Tag {
                        conversation: delivery.conversation,
                        sequence_number: delivery.sequence_number,
                        priority: delivery.priority,
                        lane: delivery.lane,
                    };
                    self.payloads.add_event(delivery.frame.clone(), delivery.created_at_us, tag)
                });
                self.deliver_to(slot, handle, delivery);
                slot = next;
            }
        }
        self.firsts = firsts;
        if let Some(handle) = payload {
            self.payloads.release(handle);
        }
    }

    fn deliver_to(&mut self, slot: u32, handle: Handle, delivery: &Delivery) {
        if let Some(extra) = self.table.session_mut(slot).and_then(|it| it.extra.as_mut())
            && delivery.sequence_number > 0
        {
            if extra.gaps.absorb(delivery.conversation, delivery.sequence_number) {
                return self.counts.lane(delivery.lane).shed.increment();
            }
            self.note_told(slot, delivery);
            if self.hold(slot, handle, delivery) {
                return;
            }
        }
        if self.enqueue(slot, handle, delivery.priority) {
            self.counts.lane(delivery.lane).enqueued.increment();
            self.tell_id_if_due(slot);
        }
    }

    /// Whether the event waits for the end of the session's catch-up, or has no place in it.
    fn hold(&mut self, slot: u32, handle: Handle, delivery: &Delivery) -> bool {
        let Some(catch_up) = self.table.session_mut(slot).and_then(|it| it.catch_up()) else {
            return false;
        };
        self.payloads.retain(handle);
        match catch_up.hold(delivery.conversation, delivery.sequence_number, handle) {
            Held::Waits(None) => self.counts.events_held.increment(),
            Held::Waits(Some(handle)) => {
                self.counts.lane(delivery.lane).shed.increment();
                self.payloads.release(handle);
            }
            Held::Refused(handle) => {
                self.counts.events_overflowed.increment();
                self.payloads.release(handle);
                self.close(slot, Reason::BackpressureOverflow, None);
            }
            Held::Free(handle) => {
                self.payloads.release(handle);
                return false;
            }
        }
        true
    }

    /// A user came or went: for the sessions here that watch it.
    pub(super) fn tell_watchers(&mut self, user: &Uuid, frame: Bytes) {
        if self.watchers.of(user).is_empty() {
            return;
        }
        let handle = self.payloads.add_event(frame, 0, Tag::EPHEMERAL);
        let mut at = 0;
        // A watcher that is closed for its full ring leaves the list.
        while let Some(slot) = self.watchers.of(user).get(at).copied() {
            let watchers = self.watchers.of(user).len();
            if self.enqueue(slot, handle, Priority::Ephemeral) {
                self.counts.lane(Lane::NONE).enqueued.increment();
            }
            at += usize::from(self.watchers.of(user).len() == watchers);
        }
        self.payloads.release(handle);
    }

    /// Puts a payload into the connection's ring, if the verdict is to take it; says whether it was
    /// taken. The ring holds its own reference.
    pub(super) fn enqueue(&mut self, slot: u32, handle: Handle, priority: Priority) -> bool {
        if priority == Priority::Ephemeral && self.coalesce(slot, handle) {
            return false;
        }
        let verdict = match self.try_enqueue(slot, handle, priority) {
            // Much may come between two flushes: slow is who has a full socket.
            Some(Verdict::Overflow | Verdict::Shed) if self.is_writable(slot) => {
                self.flush_connection(slot);
                self.try_enqueue(slot, handle, priority)
            }
            verdict => verdict,
        };
        match verdict {
            Some(Verdict::Shed) => self.counts.lane(self.payloads.lane(handle)).shed.increment(),
            Some(Verdict::Overflow) => return self.overflow(slot, handle, priority),
            Some(Verdict::Take) | None => {}
        }
        verdict == Some(Verdict::Take)
    }

    /// None if the connection is gone or ending, or cannot be shown the payload.
    pub(super) fn try_enqueue(
        &mut self,
        slot: u32,
        handle: Handle,
        priority: Priority,
    ) -> Option<Verdict> {
        // Behind a close frame nothing is sent (RFC 6455 section 5.5.1).
        let connection = self.table.get_mut(slot).filter(|it| it.ending.is_none())?;
        let Some(bytes) = self.payloads.prepare(handle, connection.conn.encoding()) else {
            self.counts.events_unreadable.increment();
            return None;
        };
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let queued = self.rings.queued(connection.ring);
        let mut limits = self.rings.limits();
        if self.payloads.bytes_held() > self.settings.payload_bytes_max {
            // Who has something waiting pays for what all together have.
            limits.bytes_max = 0;
        }
        let verdict = ring::verdict(queued, bytes, priority, limits);
        if verdict == Verdict::Take {
            self.payloads.retain(handle);
            self.rings.push(&mut connection.ring, handle, bytes);
            self.queued += 1;
            self.mark_dirty(slot);
        }
        Some(verdict)
    }

    fn is_writable(&self, slot: u32) -> bool {
        self.table.get(slot).is_some_and(|connection| !connection.blocked)
    }
}
