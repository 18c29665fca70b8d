//! Connections on their way from the shard that accepted them to their user's home.

use super::Shard;
use super::handover::Handover;
use super::table::Connection;
use crate::close::Reason;
use crate::outbound::encode;
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
        let Handover { stream, tls, address, conn, unsent, claims, request_id, hello } = handover;
        let Some(slot) = self.insert(stream, conn, tls, address) else { return };
        if !unsent.is_empty() {
            self.enqueue_raw(slot, unsent.into());
        }
        self.begin(slot, request_id, claims, hello);
        self.count_partial(slot);
    }

    /// The home shard's mailbox is full: the client may come again.
    pub(super) fn give_up(&mut self, mut handover: Handover) {
        self.counts.closed(Reason::Overloaded);
        self.leave(handover.address);
        // Best effort, as the connection is no longer anybody's.
        let frame = if handover.conn.is_stream() {
            encode::end_of_events(Reason::Overloaded)
        } else {
            encode::close(Reason::Overloaded, None)
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
