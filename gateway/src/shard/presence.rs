//! Whose presence a session is told, and what it is told without a change having been announced.

use super::Shard;
use super::answer::mismatch;
use super::table::Tick;
use crate::limits::PRESENCE_REFRESH_MS;
use crate::mail::AskKind;
use proto::Uuid;
use proto::client::event::Kind;
use proto::client::server_frame::Frame;
use proto::client::{Event, PresenceChanged};

impl Shard {
    pub(super) fn authorized(&mut self, slot: u32, request_id: u64, packed: &[u8]) {
        let Ok(users) = proto::id::unpack("user_ids", packed) else {
            return self.reply_error(slot, request_id, mismatch());
        };
        let users: Vec<Uuid> = users.collect();
        self.watch(slot, users.clone());
        if users.is_empty() {
            return;
        }
        if let Err(error) = self.ask(slot, request_id, AskKind::PresenceQuery(users)) {
            self.reply_error(slot, request_id, error);
        }
    }

    /// Replaces the users whose presence the session is told.
    pub(super) fn watch(&mut self, slot: u32, users: Vec<Uuid>) {
        let Some(session) = self.table.session_mut(slot) else { return };
        let before = std::mem::replace(&mut session.extra().watched, users);
        self.watchers.remove(slot, &before);
        self.watchers.add(slot, &session.extra().watched);
        session.tidy();
    }

    pub(super) fn tell_presence(
        &mut self,
        slot: u32,
        request_id: u64,
        states: Vec<PresenceChanged>,
    ) {
        for state in states {
            self.reply(slot, request_id, presence_event(state, self.now.wall_us));
        }
    }

    /// Every session that watches asks anew with its next ping, which comes early; by slot, so that not all
    /// ask at once.
    pub(super) fn presence_was_forgotten(&mut self) {
        for slot in self.table.slots() {
            if !self.mark_presence_stale(slot) {
                continue;
            }
            let spread_ms = u64::from(slot).wrapping_mul(97) % PRESENCE_REFRESH_MS;
            if let Some(connection) = self.table.get_mut(slot) {
                connection.deadlines.ping = Tick::after(self.now, spread_ms);
            }
            self.arm(slot);
        }
    }

    /// It is told anew with its next ping. False: it watches nobody.
    pub(super) fn mark_presence_stale(&mut self, slot: u32) -> bool {
        let Some(session) = self.table.session_mut(slot) else { return false };
        let Some(extra) = &mut session.extra else { return false };
        extra.is_presence_stale = !extra.watched.is_empty();
        extra.is_presence_stale
    }

    /// With a ping. What cannot be asked now is asked with the next one.
    pub(super) fn refresh_presence(&mut self, slot: u32) {
        let Some(session) = self.table.session_mut(slot) else { return };
        let Some(extra) = session.extra.as_mut().filter(|it| it.is_presence_stale) else { return };
        let users = extra.watched.clone();
        extra.is_presence_stale = false;
        if self.ask(slot, 0, AskKind::PresenceRefresh(users)).is_err() {
            self.mark_presence_stale(slot);
        }
    }
}

fn presence_event(state: PresenceChanged, now_us: u64) -> Frame {
    Frame::Event(Event {
        created_at_us: now_us,
        sender_id: state.user_id.clone(),
        kind: Some(Kind::PresenceChanged(state)),
        ..Event::default()
    })
}
