//! Phase read: bytes of the sockets that have some, through the connections' state machines, and
//! what follows from them.

use super::Shard;
use crate::close::Reason;
use crate::conn::{Effect, Lent, Stage};
use crate::limits::{READS_IN_A_ROW_MAX, TURN_WORK_MAX};
use crate::mail::{Ask, AskKind, Priority};
use bytes::Bytes;
use proto::Uuid;
use std::io::{self, Read};

/// What one look at a connection came to.
pub(super) enum Look {
    /// Something was done: look again.
    Again,
    /// Nothing more is there, or nothing more may be taken.
    Done,
}

impl Shard {
    pub(super) fn read(&mut self) {
        let spare = std::mem::take(&mut self.spare_ready);
        let mut ready = std::mem::replace(&mut self.ready, spare);
        for slot in ready.drain(..) {
            if let Some(connection) = self.table.get_mut(slot) {
                connection.in_ready = false;
                self.read_connection(slot);
                self.count_partial(slot);
            }
        }
        // What was noted meanwhile has its turn in the next round of the loop.
        self.spare_ready = ready;
    }

    fn read_connection(&mut self, slot: u32) {
        for _ in 0..READS_IN_A_ROW_MAX {
            match self.look(slot) {
                Look::Again => {}
                Look::Done => return,
            }
        }
        self.mark_ready(slot);
    }

    fn look(&mut self, slot: u32) -> Look {
        let Some(connection) = self.table.get_mut(slot) else { return Look::Done };
        if std::mem::take(&mut connection.kick) {
            self.process(slot, 0);
            return Look::Again;
        }
        if !connection.readable || connection.conn.is_paused() {
            return Look::Done;
        }
        if connection.stage == Stage::Proxy {
            return self.look_for_proxy_header(slot);
        }
        if connection.tls.is_some() {
            return self.look_encrypted(slot);
        }
        match (&connection.stream).read(&mut self.read_buffer) {
            Ok(0) => {
                self.drop_connection(slot, Reason::PeerGone);
                Look::Done
            }
            Ok(bytes) => {
                // A short read has emptied the socket; the next bytes are told by the poll. Only a
                // peer that has hung up is read to the end.
                if bytes < self.read_buffer.len() && !connection.hung_up {
                    connection.readable = false;
                }
                self.process(slot, bytes);
                Look::Again
            }
            Err(error) => self.read_failed(slot, &error),
        }
    }

    /// The socket gave nothing: it is empty, was interrupted, or is gone.
    pub(super) fn read_failed(&mut self, slot: u32, error: &io::Error) -> Look {
        match error.kind() {
            io::ErrorKind::Interrupted => return Look::Again,
            io::ErrorKind::WouldBlock => {
                if let Some(connection) = self.table.get_mut(slot) {
                    connection.readable = false;
                }
            }
            _ => self.drop_connection(slot, Reason::PeerGone),
        }
        Look::Done
    }

    /// Hands the connection what lies in the read buffer, and does what follows.
    pub(super) fn process(&mut self, slot: u32, bytes: usize) {
        let Some(connection) = self.table.get_mut(slot) else { return };
        let mut lent = Lent {
            now: self.now,
            policy: &self.settings.policy,
            limits: &self.settings.limits,
            pool: &mut self.pool,
            deflater: &mut self.deflater,
            effects: &mut self.effects,
            work: TURN_WORK_MAX,
        };
        connection.conn.receive(&mut self.read_buffer[..bytes], &mut lent);
        connection.kick |= connection.conn.awaits_turn();
        let generation = connection.generation;
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            // An effect may end the connection, or move it away.
            if self.table.get(slot).is_some_and(|it| it.generation == generation) {
                self.carry_out(slot, effect);
            }
        }
        self.effects = effects;
        if self.table.get(slot).is_some_and(|it| it.generation == generation) {
            self.follow_stage(slot);
        }
    }

    fn carry_out(&mut self, slot: u32, effect: Effect) {
        match effect {
            Effect::Write(bytes) => self.enqueue_raw(slot, bytes),
            Effect::Ask(http) => self.ask_http(slot, *http),
            Effect::Upgrade(upgrade) => self.upgrade(slot, upgrade),
            Effect::Stream(request) => self.stream(slot, *request),
            Effect::Frame(frame) => self.take_frame(slot, frame),
            Effect::Refused(refused) => {
                let error = refused.code.to_frame(refused.message);
                self.reply_error(slot, refused.request_id, error);
            }
            Effect::Alive => self.pong_came(slot),
            Effect::Close(reason, echoed) => self.close(slot, reason, echoed),
        }
    }

    fn ask_http(&mut self, slot: u32, http: proto::link::Http) {
        let Some(session) = self.session_ref(slot) else { return };
        self.counts.http_requests.increment();
        let given = http.headers.iter().find(|it| it.name.eq_ignore_ascii_case("traceparent"));
        let traceparent = given
            .map(|header| header.value.clone())
            .filter(|value| is_traceparent(value))
            .unwrap_or_else(new_traceparent);
        let ask = Ask {
            session,
            request_id: 0,
            user: Uuid::nil(),
            device: Uuid::nil(),
            traceparent,
            kind: AskKind::Http(http),
        };
        if self.beyond.ask(ask).is_err() {
            self.counts.asks_refused.increment();
            self.respond_error(
                slot,
                &proto::error::ErrorCode::Overloaded
                    .to_frame("the gateway is overloaded; try again"),
            );
        }
    }

    /// Queues bytes as they are.
    pub(super) fn enqueue_raw(&mut self, slot: u32, bytes: Bytes) {
        let handle = self.payloads.add_raw(bytes);
        self.enqueue(slot, handle, Priority::High);
        self.payloads.release(handle);
    }
}

/// A new W3C trace context, sampled.
pub(super) fn new_traceparent() -> String {
    // Ids of zero mean "none".
    let (trace, span) = (fastrand::u128(1..), fastrand::u64(1..));
    format!("00-{trace:032x}-{span:016x}-01")
}

/// `00-`, 32 and 16 hexadecimal digits, and the flags.
fn is_traceparent(value: &str) -> bool {
    let lengths = [2, 32, 16, 2];
    let mut parts = value.split('-');
    value.len() == 55
        && lengths.iter().all(|length| {
            let hex = |it: &str| {
                it.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
            };
            parts.next().is_some_and(|part| part.len() == *length && hex(part))
        })
}
