//! Phase accept: new connections of this shard's own listeners.

use super::table::Tick;
use super::{FIRST_LISTENER, Shard};
use crate::conn::Conn;
use crate::inbound::respond;
use crate::limits::{ACCEPT_RETRY_MS, ACCEPTS_IN_A_ROW_MAX};
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Token};
use std::io::{self, Write};
use std::net::SocketAddr;

pub(super) struct Listener {
    socket: TcpListener,
    /// Connections may wait.
    pub(super) ready: bool,
    /// Accepting failed for want of descriptors or memory: not again before this.
    pub(super) retry_at_ms: Option<u64>,
}

impl Shard {
    /// Takes over listeners that are bound already.
    pub(super) fn listen(&mut self, sockets: Vec<std::net::TcpListener>) {
        for socket in sockets {
            let mut socket = TcpListener::from_std(socket);
            let token = Token(FIRST_LISTENER - self.listeners.len());
            match self.poll.registry().register(&mut socket, token, Interest::READABLE) {
                Ok(()) => self.listeners.push(Listener { socket, ready: true, retry_at_ms: None }),
                Err(error) => tracing::error!(shard = self.id, %error, "listener not registered"),
            }
        }
    }

    pub(super) fn accept(&mut self) {
        for index in 0..self.listeners.len() {
            let listener = &mut self.listeners[index];
            if listener.retry_at_ms.is_some_and(|at| at <= self.now.ms) {
                listener.retry_at_ms = None;
                listener.ready = true;
            }
            if listener.ready {
                self.accept_from(index);
            }
        }
    }

    fn accept_from(&mut self, index: usize) {
        for _ in 0..ACCEPTS_IN_A_ROW_MAX {
            match self.listeners[index].socket.accept() {
                Ok((stream, peer)) => self.admit(stream, peer),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.listeners[index].ready = false;
                    return;
                }
                // The peer gave up while it waited (accept(2)).
                Err(error) if is_the_peers(&error) => {}
                Err(error) => {
                    tracing::error!(shard = self.id, %error, "accept failed");
                    self.listeners[index].ready = false;
                    self.listeners[index].retry_at_ms = Some(self.now.ms + ACCEPT_RETRY_MS);
                    return;
                }
            }
        }
    }

    fn admit(&mut self, stream: TcpStream, peer: SocketAddr) {
        // The other shards' counts may be a moment old: the limit is not exact.
        let open = self.metrics.connections() - self.counts.active_connections.get();
        if open + self.table.len() as u64 >= self.settings.sessions_max as u64 {
            self.counts.connections_refused.increment();
            let response = respond::overloaded();
            // Best effort: the socket's buffer is empty and takes it at once.
            let _ = (&stream).write(&response);
            return;
        }
        self.counts.connections_accepted.increment();
        self.insert(stream, Conn::new(peer.ip()));
    }

    /// Puts a connection into the table and under the poll; None if that fails.
    pub(super) fn insert(&mut self, stream: TcpStream, conn: Conn) -> Option<u32> {
        let slot = self.table.insert(stream, conn);
        let connection = self.table.get_mut(slot)?;
        let token = Token(slot as usize);
        let stream = &mut connection.stream;
        if let Err(error) = self.poll.registry().register(stream, token, Interest::READABLE) {
            tracing::error!(shard = self.id, %error, "connection not registered");
            self.table.remove(slot);
            return None;
        }
        // A new connection's first bytes are often there already.
        connection.readable = true;
        connection.deadlines.stage = Tick::after(self.now, self.settings.handshake_ms);
        self.arm(slot);
        self.mark_ready(slot);
        Some(slot)
    }
}

fn is_the_peers(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, NetworkUnreachable};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | NetworkUnreachable)
        || matches!(error.raw_os_error(), Some(libc::EPROTO | libc::EHOSTUNREACH | libc::EPERM))
}
