//! What connections keep that is not whole: the beginnings of messages, requests and TLS records, and
//! ciphertext that a socket has not taken. All connections of a shard together may keep so much;
//! whoever then adds to it is closed, so that many who send a little each cannot take all memory.

use super::Shard;
use super::table::Connection;
use crate::close::Reason;

impl Connection {
    fn partial_bytes_now(&self) -> u32 {
        let encrypted = self.tls.as_ref().map_or(0, |it| it.kept_bytes());
        u32::try_from(self.conn.kept_bytes() + encrypted).unwrap_or(u32::MAX)
    }
}

impl Shard {
    /// To be called when a connection may keep more than before, or less.
    pub(super) fn count_partial(&mut self, slot: u32) {
        let Some(connection) = self.table.get_mut(slot) else { return };
        let now = connection.partial_bytes_now();
        let before = std::mem::replace(&mut connection.partial_bytes, now);
        if now == before {
            return;
        }
        self.partial_bytes = self.partial_bytes - before as usize + now as usize;
        if now > before && self.partial_bytes > self.settings.partial_bytes_max {
            self.close(slot, Reason::Overloaded, None);
        }
    }

    /// The connection is gone.
    pub(super) fn forget_partial(&mut self, connection: &Connection) {
        self.partial_bytes -= connection.partial_bytes as usize;
    }
}
