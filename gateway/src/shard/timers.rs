//! Phase timers: what each connection's earliest deadline was for.

use super::Shard;
use super::table::Tick;
use crate::close::Reason;
use crate::conn::Stage;
use crate::limits::CLOSE_MS_MAX;
use crate::mail::Priority;
use proto::error::ErrorCode;

impl Shard {
    pub(super) fn fire_timers(&mut self) {
        self.now = self.clock.now();
        let mut fired = std::mem::take(&mut self.fired);
        self.wheel.advance(self.now.ms, &mut fired);
        for slot in fired.drain(..) {
            self.look_at_deadlines(slot);
            self.arm(slot);
        }
        self.fired = fired;
    }

    /// Sets the wheel's timer to the connection's first deadline.
    pub(super) fn arm(&mut self, slot: u32) {
        let Some(connection) = self.table.get(slot) else { return };
        match connection.deadlines.first() {
            Tick::NEVER => self.wheel.clear(slot),
            due => self.wheel.set(slot, due.ms()),
        }
    }

    /// A new stage has a new deadline.
    pub(super) fn follow_stage(&mut self, slot: u32) {
        let Some(connection) = self.table.get_mut(slot) else { return };
        let stage = match &connection.tls {
            Some(tls) if tls.is_handshaking() && !connection.conn.is_closing() => Stage::Tls,
            _ => connection.conn.stage(),
        };
        if stage != connection.stage {
            self.begin_stage(slot, stage);
        }
    }

    /// Sets the stage's deadline.
    pub(super) fn begin_stage(&mut self, slot: u32, stage: Stage) {
        let Some(connection) = self.table.get_mut(slot) else { return };
        connection.stage = stage;
        let ms = match stage {
            Stage::Proxy | Stage::Head => Some(self.settings.handshake_ms),
            Stage::Tls => Some(self.settings.tls_handshake_ms),
            Stage::Body => Some(self.settings.body_ms),
            Stage::Answer => Some(self.settings.answer_ms),
            Stage::KeepAlive => Some(self.settings.keep_alive_ms),
            Stage::Hello => Some(self.settings.hello_ms),
            Stage::Session => None,
            Stage::Closing => Some(CLOSE_MS_MAX),
        };
        connection.deadlines.stage = ms.map_or(Tick::NEVER, |ms| Tick::after(self.now, ms));
        self.arm(slot);
    }

    pub(super) fn pong_came(&mut self, slot: u32) {
        if let Some(connection) = self.table.get_mut(slot) {
            connection.deadlines.pong = Tick::NEVER;
        }
        self.arm(slot);
    }

    fn look_at_deadlines(&mut self, slot: u32) {
        let now = self.now;
        let Some(connection) = self.table.get_mut(slot) else { return };
        let due = connection.deadlines;
        if due.write.is_due(now) {
            return self.drop_connection(slot, Reason::WriteDeadline);
        }
        if due.stage.is_due(now) {
            connection.deadlines.stage = Tick::NEVER;
            return self.stage_is_over(slot);
        }
        if due.token.is_due(now) {
            let error = ErrorCode::TokenExpired.to_frame("the token has expired; sign in again");
            self.reply_error(slot, 0, error);
            return self.close(slot, Reason::TokenExpired, None);
        }
        if due.pong.is_due(now) {
            return self.close(slot, Reason::HeartbeatMissed, None);
        }
        if due.ping.is_due(now) && connection.conn.is_stream() {
            connection.deadlines.ping = Tick::grouped(now, self.settings.events_ms);
            return self.tell_that_we_are_here(slot);
        }
        if due.ping.is_due(now) {
            connection.deadlines.ping = Tick::grouped(now, self.settings.ping_ms);
            if connection.deadlines.pong == Tick::NEVER {
                connection.deadlines.pong = Tick::after(now, self.settings.pong_ms);
            }
            let ping = self.ping;
            self.enqueue(slot, ping, Priority::High);
            self.tell_watermark(slot);
            self.refresh_presence(slot);
        }
    }

    fn stage_is_over(&mut self, slot: u32) {
        let Some(connection) = self.table.get(slot) else { return };
        match connection.stage {
            Stage::Proxy => self.drop_connection(slot, Reason::ProxyHeader),
            Stage::Tls => self.drop_connection(slot, Reason::TlsDeadline),
            Stage::Head => self.close(slot, Reason::HandshakeDeadline, None),
            Stage::Body => self.close(slot, Reason::BodyDeadline, None),
            Stage::Answer => {
                let error = ErrorCode::DeadlineExceeded.to_frame("no answer in time");
                self.respond_error(slot, &error);
            }
            Stage::KeepAlive => self.close(slot, Reason::KeepAliveIdle, None),
            Stage::Hello => self.close(slot, Reason::HelloDeadline, None),
            Stage::Session => {}
            Stage::Closing => self.drop_connection(slot, Reason::PeerGone),
        }
    }
}
