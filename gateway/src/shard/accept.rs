//! Phase accept: new connections of this shard's own listeners.

use super::table::Tick;
use super::{FIRST_LISTENER, Shard};
use crate::close::Reason;
use crate::conn::{Conn, Stage};
use crate::inbound::listen::{Listening, Transport};
use crate::inbound::respond;
use crate::inbound::tls::Tls;
use crate::limits::{ACCEPT_RETRY_MS, ACCEPTS_IN_A_ROW_MAX};
use crate::rate::{Key, RetryAfterMs};
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Token};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

pub(super) struct Listener {
    socket: TcpListener,
    pub(super) transport: Transport,
    /// Connections may wait.
    pub(super) ready: bool,
    /// Accepting failed for want of descriptors or memory: not again before this.
    pub(super) retry_at_ms: Option<u64>,
}

impl Shard {
    /// Takes over listeners that are bound already.
    pub(super) fn listen(&mut self, sockets: Vec<Listening>) {
        for (transport, socket) in sockets {
            let mut socket = TcpListener::from_std(socket);
            let token = Token(FIRST_LISTENER - self.listeners.len());
            match self.poll.registry().register(&mut socket, token, Interest::READABLE) {
                Ok(()) => self.listeners.push(Listener {
                    socket,
                    transport,
                    ready: true,
                    retry_at_ms: None,
                }),
                Err(error) => tracing::error!(shard = self.id, %error, "listener not registered"),
            }
        }
    }

    pub(super) fn accept(&mut self) {
        self.refusals.expire(self.now.ms);
        for index in 0..self.listeners.len() {
            let listener = &mut self.listeners[index];
            if listener.retry_at_ms.is_some_and(|at| at <= self.now.ms) {
                listener.retry_at_ms = None;
                listener.ready = true;
            }
            self.accept_from(index);
        }
    }

    fn accept_from(&mut self, index: usize) {
        for _ in 0..ACCEPTS_IN_A_ROW_MAX {
            if !self.may_accept(&self.listeners[index]) {
                return;
            }
            let listener = &mut self.listeners[index];
            match listener.socket.accept() {
                Ok((stream, peer)) => {
                    let transport = listener.transport;
                    self.admit(stream, peer, transport);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    listener.ready = false;
                    return;
                }
                // The peer gave up while it waited (accept(2)).
                Err(error) if is_the_peers(&error) => {}
                Err(error) => {
                    tracing::error!(shard = self.id, %error, "accept failed");
                    listener.ready = false;
                    listener.retry_at_ms = Some(self.now.ms + ACCEPT_RETRY_MS);
                    return;
                }
            }
        }
    }

    fn admit(&mut self, stream: TcpStream, peer: SocketAddr, transport: Transport) {
        // Before a handshake only a plain connection can be told why it is refused; and a proxy's
        // is told after its header.
        let is_told = transport == Transport::Plain;
        // The other shards' counts may be a moment old: the limit is not exact.
        let open = self.metrics.connections() - self.counts.active_connections.get();
        if open + self.table.len() as u64 >= self.settings.sessions_max as u64 {
            self.counts.connections_refused.increment();
            if is_told {
                self.refusals.tell(stream, &respond::overloaded(), self.now.ms);
            }
            return;
        }
        self.counts.connections_accepted.increment();
        let peer = peer.ip().to_canonical();
        let proxies = &self.settings.policy.proxies;
        let has_header = proxies.has_header(peer);
        // A listed proxy's connections are many people's.
        let address = if proxies.is_trusted(peer) {
            None
        } else {
            match self.settings.limits.enter(peer, self.now.since_start_us()) {
                Ok(key) => Some(key),
                Err(retry) => {
                    self.counts.closed(Reason::AddressLimited);
                    if is_told {
                        let response = respond::too_many_connections(retry);
                        self.refusals.tell(stream, &response, self.now.ms);
                    }
                    return;
                }
            }
        };
        let tls = match (transport, &self.certificate) {
            (Transport::Plain, _) => None,
            (Transport::Tls, Some(config)) => match Tls::new(Arc::clone(config)) {
                Ok(tls) => Some(Box::new(tls)),
                Err(error) => {
                    tracing::error!(shard = self.id, %error, "no TLS session");
                    return self.leave(address);
                }
            },
            (Transport::Tls, None) => return self.leave(address),
        };
        self.handshakes += usize::from(tls.is_some());
        let stage = if has_header {
            Stage::Proxy
        } else if tls.is_some() {
            Stage::Tls
        } else {
            Stage::Head
        };
        if let Some(slot) = self.insert(stream, Conn::new(peer), tls, address) {
            self.begin_stage(slot, stage);
        }
    }

    /// Ends a connection whose address has too many, and tells it where that can be told.
    pub(super) fn refuse_address(&mut self, slot: u32, retry: RetryAfterMs) {
        if self.table.get(slot).is_some_and(|it| it.tls.is_none()) {
            self.enqueue_raw(slot, respond::too_many_connections(retry));
            self.close(slot, Reason::AddressLimited, None);
        } else {
            self.drop_connection(slot, Reason::AddressLimited);
        }
    }

    /// Puts a connection into the table and under the poll; None if that fails.
    pub(super) fn insert(
        &mut self,
        stream: TcpStream,
        conn: Conn,
        tls: Option<Box<Tls>>,
        address: Option<Key>,
    ) -> Option<u32> {
        let slot = self.table.insert(stream, conn, tls, address);
        let connection = self.table.get_mut(slot)?;
        let token = Token(slot as usize);
        let stream = &mut connection.stream;
        if let Err(error) = self.poll.registry().register(stream, token, Interest::READABLE) {
            tracing::error!(shard = self.id, %error, "connection not registered");
            self.forget(slot);
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
