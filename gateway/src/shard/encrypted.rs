//! Connections that begin with something else than HTTP: a TLS handshake, a listed proxy's header.

use super::Shard;
use super::accept::Listener;
use super::flush::Written;
use super::read::Look;
use crate::close::Reason;
use crate::conn::Conn;
use crate::inbound::listen::Transport;
use crate::inbound::proxy;
use crate::inbound::tls::Came;
use crate::limits::PROXY_HEADER_BYTES_MAX;
use crate::rate::Key;
use std::io::{self, Read};

impl Shard {
    /// Whether the listener has a connection that may be taken now: while as many TLS handshakes as
    /// are allowed are under way, the next ones wait in the kernel's queue.
    pub(super) fn may_accept(&self, listener: &Listener) -> bool {
        let full = self.handshakes >= self.settings.tls_handshakes_max;
        listener.ready && !(full && listener.transport == Transport::Tls)
    }

    /// As `look`, of a TLS connection.
    pub(super) fn look_encrypted(&mut self, slot: u32) -> Look {
        let Some(connection) = self.table.get_mut(slot) else { return Look::Done };
        let Some(tls) = &mut connection.tls else { return Look::Done };
        let was_handshaking = tls.is_handshaking();
        let came = tls.read(&mut &connection.stream, &mut self.room, &mut self.read_buffer);
        if matches!(came, Ok(Came::Emptied(_))) && !connection.hung_up {
            connection.readable = false;
        }
        let (has_unsent, ended) = (tls.has_unsent(), matches!(came, Ok(Came::Last(_))));
        if was_handshaking && !tls.is_handshaking() {
            self.handshakes -= 1;
            self.counts.tls_sessions.increment();
            self.follow_stage(slot);
        }
        if has_unsent {
            self.mark_dirty(slot);
        }
        match came {
            Ok(Came::Plain(bytes) | Came::Emptied(bytes) | Came::Last(bytes)) => {
                if bytes > 0 {
                    self.process(slot, bytes);
                }
                if ended && self.table.get(slot).is_some_and(|it| it.ending.is_none()) {
                    self.drop_connection(slot, Reason::PeerGone);
                }
                if ended { Look::Done } else { Look::Again }
            }
            Ok(Came::Gone) => {
                self.drop_connection(slot, Reason::PeerGone);
                Look::Done
            }
            Ok(Came::Failed(error)) => {
                tracing::debug!(shard = self.id, slot, %error, "TLS failed");
                // The alert; best effort, as nothing can follow it.
                let _ = self.flush_encrypted(slot);
                self.drop_connection(slot, Reason::TlsFailed);
                Look::Done
            }
            Err(error) => self.read_failed(slot, &error),
        }
    }

    /// Writes the ciphertext that waits.
    pub(super) fn flush_encrypted(&mut self, slot: u32) -> Written {
        let Some(connection) = self.table.get_mut(slot) else { return Written::Failed };
        let Some(tls) = connection.tls.as_mut().filter(|tls| tls.has_unsent()) else {
            return Written::All;
        };
        match tls.flush(&mut &connection.stream, &mut self.room) {
            Ok(true) => Written::All,
            Ok(false) => Written::Full,
            Err(_) => Written::Failed,
        }
    }

    /// The header is looked at where it lies, and taken when it is whole: what follows it may be
    /// ciphertext.
    pub(super) fn look_for_proxy_header(&mut self, slot: u32) -> Look {
        let Some(connection) = self.table.get_mut(slot) else { return Look::Done };
        let room = &mut self.read_buffer[..PROXY_HEADER_BYTES_MAX];
        let peeked = connection.stream.peek(room);
        let bytes = match peeked {
            Ok(0) => {
                self.drop_connection(slot, Reason::PeerGone);
                return Look::Done;
            }
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                connection.readable = false;
                return Look::Done;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Look::Again,
            Err(_) => {
                self.drop_connection(slot, Reason::PeerGone);
                return Look::Done;
            }
        };
        let header = match proxy::parse(&room[..bytes]) {
            Ok(Some(header)) => header,
            Ok(None) => {
                // More of it is told by the poll; but a peer that has hung up sends no more.
                connection.readable = false;
                if connection.hung_up {
                    self.drop_connection(slot, Reason::PeerGone);
                }
                return Look::Done;
            }
            Err(problem) => {
                tracing::warn!(shard = self.id, problem, "a listed proxy's connection is refused");
                self.drop_connection(slot, Reason::ProxyHeader);
                return Look::Done;
            }
        };
        // It was just seen there.
        let taken = (&connection.stream).read(&mut room[..header.bytes]);
        if taken.ok() != Some(header.bytes) {
            self.drop_connection(slot, Reason::PeerGone);
            return Look::Done;
        }
        self.introduced(slot, header.client)
    }

    /// The proxy has said who the client is; without a client it speaks for itself.
    fn introduced(&mut self, slot: u32, client: Option<std::net::IpAddr>) -> Look {
        if let Some(client) = client {
            let entered = self.settings.limits.enter(client, self.now.since_start_us());
            let Some(connection) = self.table.get_mut(slot) else { return Look::Done };
            connection.conn = Conn::new(client);
            match entered {
                Ok(key) => connection.address = Some(key),
                Err(retry) => {
                    self.refuse_address(slot, retry);
                    return Look::Done;
                }
            }
        }
        self.follow_stage(slot);
        Look::Again
    }

    pub(super) fn leave(&self, address: Option<Key>) {
        if let Some(key) = address {
            self.settings.limits.leave(key);
        }
    }
}
