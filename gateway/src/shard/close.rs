//! The end of connections: close frames, draining, and giving everything back.

use super::Shard;
use super::table::Tick;
use crate::close::Reason;
use crate::conn::Stage;
use crate::limits::CLOSE_MS_MAX;
use crate::outbound::encode;
use proto::client::Goaway;
use proto::client::server_frame::Frame;

impl Shard {
    /// Says goodbye with a close frame, if there can be one; the connection is dropped when the peer
    /// has hung up, or after a moment. `echoed`: the code that the peer closed with.
    pub(super) fn close(&mut self, slot: u32, reason: Reason, echoed: Option<u16>) {
        let Some(connection) = self.table.get_mut(slot) else { return };
        if connection.ending.is_some() {
            return;
        }
        connection.ending = Some(reason);
        connection.conn.close();
        connection.kick = false;
        let (is_socket, is_stream) = (connection.conn.is_socket(), connection.conn.is_stream());
        self.end_session(slot);
        self.forget_parked(slot);
        if reason == Reason::BackpressureOverflow {
            self.discard_unsent(slot);
        }
        if is_socket {
            self.push_last(slot, encode::close(reason, echoed));
        } else if is_stream {
            self.push_last(slot, encode::end_of_events(reason));
        }
        let due = Tick::after(self.now, CLOSE_MS_MAX);
        if let Some(connection) = self.table.get_mut(slot) {
            connection.deadlines.stage = due;
            connection.stage = Stage::Closing;
            connection.deadlines.ping = Tick::NEVER;
            connection.deadlines.pong = Tick::NEVER;
            connection.deadlines.token = Tick::NEVER;
        }
        self.count_partial(slot);
        self.arm(slot);
        self.mark_ready(slot);
        self.mark_dirty(slot);
    }

    /// The last frame, whatever is queued before it.
    fn push_last(&mut self, slot: u32, frame: Vec<u8>) {
        if !frame.is_empty() {
            self.make_room(slot);
            let handle = self.payloads.add_raw(frame.into());
            self.push_unchecked(slot, handle);
        }
    }

    /// Drops a connection on which nothing can be said any more; `reason` counts unless it was
    /// ending already.
    pub(super) fn drop_connection(&mut self, slot: u32, reason: Reason) {
        if let Some(connection) = self.table.get_mut(slot) {
            connection.ending.get_or_insert(reason);
            self.end_session(slot);
            self.forget(slot);
        }
    }

    /// Gives everything back that the connection has.
    pub(super) fn forget(&mut self, slot: u32) {
        self.forget_parked(slot);
        self.empty_ring(slot);
        self.wheel.clear(slot);
        if let Some(connection) = self.table.remove(slot) {
            self.forget_partial(&connection);
            self.leave(connection.address);
            if connection.tls.is_some_and(|tls| tls.is_handshaking()) {
                self.handshakes -= 1;
            }
            let reason = connection.ending.unwrap_or(Reason::Internal);
            self.counts.closed(reason);
            tracing::debug!(shard = self.id, slot, reason = reason.label(), retry = ?reason.retry(), "connection ended");
        }
    }

    /// The user is no longer reached through this connection.
    fn end_session(&mut self, slot: u32) {
        let Some(connection) = self.table.get(slot) else { return };
        if connection.session.is_none() {
            return;
        }
        let number = self.connection_number(connection.generation);
        self.registry.remove(&mut self.table, slot);
        let Some(connection) = self.table.get_mut(slot) else { return };
        let Some(session) = connection.session.take() else { return };
        self.inbox.left(&session.user);
        self.unroute(&session.user);
        self.beyond.disconnected(session.user, session.device, number);
        if let Some(extra) = session.extra {
            self.watchers.remove(slot, &extra.watched);
            if let Some(catch_up) = extra.catch_up {
                self.backlog_bytes -= catch_up.bytes();
                for handle in catch_up.into_events() {
                    self.payloads.release(handle);
                }
            }
        }
    }

    /// Releases all that is queued.
    pub(super) fn empty_ring(&mut self, slot: u32) {
        let Some(connection) = self.table.get_mut(slot) else { return };
        while let Some(handle) = self.rings.pop(&mut connection.ring, 0) {
            self.queued -= 1;
            self.payloads.release(handle);
        }
    }

    /// Releases what is queued, but for a frame that is partly written.
    fn discard_unsent(&mut self, slot: u32) {
        let Some(connection) = self.table.get_mut(slot) else { return };
        let encoding = connection.conn.encoding();
        loop {
            let payloads = &self.payloads;
            let bytes_of =
                |handle| u32::try_from(payloads.bytes(handle, encoding).len()).unwrap_or(u32::MAX);
            let Some(handle) = self.rings.pop_last(&mut connection.ring, bytes_of) else { return };
            self.queued -= 1;
            self.payloads.release(handle);
        }
    }

    /// A close frame must fit: in a full ring the last frame makes way for it.
    fn make_room(&mut self, slot: u32) {
        let Some(connection) = self.table.get_mut(slot) else { return };
        if self.rings.queued(connection.ring).entries < self.rings.limits().entries {
            return;
        }
        let (payloads, encoding) = (&self.payloads, connection.conn.encoding());
        let bytes_of =
            |handle| u32::try_from(payloads.bytes(handle, encoding).len()).unwrap_or(u32::MAX);
        if let Some(handle) = self.rings.pop_last(&mut connection.ring, bytes_of) {
            self.queued -= 1;
            self.payloads.release(handle);
        }
    }

    /// SIGTERM: accept no more and say goaway to all. Requests that are under way are answered
    /// first.
    pub(super) fn drain(&mut self) {
        self.listeners.clear();
        let shards_ms = u64::try_from(self.settings.drain.shards.as_millis()).unwrap_or(u64::MAX);
        self.drain_until_ms = Some(self.now.ms + shards_ms);
        for slot in self.table.slots() {
            let Some(connection) = self.table.get(slot) else { continue };
            if connection.session.is_some() {
                self.say_goaway(slot);
            } else if connection.stage != Stage::Answer {
                self.close(slot, Reason::Draining, None);
            }
        }
    }

    /// Any session may have missed something, and each is caught up when it resumes.
    pub(super) fn send_all_to_resume(&mut self) {
        for slot in self.table.slots() {
            if self.table.session(slot).is_some() {
                self.goaway(slot, Reason::EventsLost);
                self.close(slot, Reason::EventsLost, None);
            }
        }
    }

    pub(super) fn say_goaway(&mut self, slot: u32) {
        self.goaway(slot, Reason::Draining);
        self.close_if_drained(slot);
    }

    /// The clients come back spread over the drain time.
    fn goaway(&mut self, slot: u32, reason: Reason) {
        let spread_ms = u32::try_from(self.settings.drain_ms).unwrap_or(u32::MAX);
        let goaway = Goaway {
            reason: reason.label().to_owned(),
            reconnect_delay_ms: fastrand::u32(0..=spread_ms),
        };
        self.reply(slot, 0, Frame::Goaway(goaway));
    }

    /// While draining, a session ends when nothing it asked is unanswered.
    pub(super) fn close_if_drained(&mut self, slot: u32) {
        if self.drain_until_ms.is_some()
            && self.table.session(slot).is_some_and(|session| session.in_flight == 0)
        {
            self.close(slot, Reason::Draining, None);
        }
    }
}
