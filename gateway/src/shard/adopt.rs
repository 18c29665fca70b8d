//! Connections on their way from the shard that accepted them to their user's home.

use super::Shard;
use super::handover::{Errand, Handover};
use super::table::Connection;
use crate::close::Reason;
use crate::inbound::respond;
use crate::mail::Mail;
use crate::outbound::encode;
use bytes::Bytes;
use std::io::{IoSlice, Write};

impl Shard {
    /// Takes a connection out of this shard, with what is queued to it and not written.
    pub(super) fn detach(&mut self, slot: u32) -> Option<(Connection, Vec<u8>)> {
        // The 101 response, usually: nothing else was sent yet.
        self.flush_connection(slot);
        let unsent = self.unsent(slot);
        self.empty_ring(slot);
        self.wheel.clear(slot);
        let mut connection = self.table.remove(slot)?;
        self.forget_partial(&connection);
        if let Err(error) = self.poll.registry().deregister(&mut connection.stream) {
            tracing::error!(shard = self.id, %error, "connection not deregistered");
        }
        Some((connection, unsent))
    }

    /// A connection that another shard accepted.
    pub(super) fn adopt(&mut self, handover: Handover) {
        let Handover { stream, tls, address, conn, unsent, errand } = handover;
        let Some(slot) = self.insert(stream, conn, tls, address) else { return };
        if !unsent.is_empty() {
            self.enqueue_raw(slot, unsent.into());
        }
        self.do_errand(slot, errand);
        self.count_partial(slot);
    }

    /// Does it at the user's home, here or in another shard.
    pub(super) fn at_home(&mut self, slot: u32, errand: Errand) {
        if self.mailboxes.home(errand.user()) == self.id {
            self.do_errand(slot, errand);
        } else {
            self.hand_over(slot, errand);
        }
    }

    fn do_errand(&mut self, slot: u32, errand: Errand) {
        if let Some(errand) = self.when_routed(slot, errand) {
            self.do_errand_now(slot, errand);
        }
    }

    pub(super) fn do_errand_now(&mut self, slot: u32, errand: Errand) {
        match errand {
            Errand::Upgrade { claims, upgrade } => self.upgrade_at_home(slot, claims, *upgrade),
            Errand::Stream { claims, hello } => self.stream_at_home(slot, claims, hello),
            Errand::Session { claims, request_id, hello } => {
                self.begin(slot, request_id, claims, hello);
            }
        }
    }

    fn hand_over(&mut self, slot: u32, errand: Errand) {
        let home = self.mailboxes.home(errand.user());
        let Some((connection, unsent)) = self.detach(slot) else { return };
        let Connection { stream, tls, address, conn, .. } = connection;
        let handover = Handover { stream, tls, address, conn, unsent, errand };
        self.counts.sessions_moved.increment();
        let mail = Mail::Adopt(Box::new(handover));
        if let Err(Mail::Adopt(handover)) = self.mailboxes.get(home).try_send(mail) {
            self.give_up(*handover);
        }
    }

    /// The home shard's mailbox is full: the client may come again.
    pub(super) fn give_up(&mut self, mut handover: Handover) {
        self.counts.closed(Reason::Overloaded);
        self.leave(handover.address);
        // Best effort, as the connection is no longer anybody's.
        let frame: Bytes = match handover.errand {
            Errand::Session { .. } => encode::close(Reason::Overloaded, None).into(),
            Errand::Upgrade { .. } | Errand::Stream { .. } => respond::overloaded(),
        };
        let _ = match &mut handover.tls {
            None => (&handover.stream).write(&frame),
            Some(tls) => tls.write(&mut &handover.stream, &[IoSlice::new(&frame)], &mut self.room),
        };
    }

    fn unsent(&self, slot: u32) -> Vec<u8> {
        let Some(connection) = self.table.get(slot) else { return Vec::new() };
        let encoding = connection.conn.encoding();
        let mut bytes = Vec::new();
        for handle in self.rings.iter(connection.ring) {
            bytes.extend_from_slice(self.payloads.bytes(handle, encoding));
        }
        bytes.drain(..self.rings.written(connection.ring).min(bytes.len()));
        bytes
    }
}
