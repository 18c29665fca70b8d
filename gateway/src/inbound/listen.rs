//! Listening sockets: for each address one for each shard, so that the kernel spreads connections.

use crate::limits::BACKLOG;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};

/// What is spoken on a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Plain,
    Tls,
}

/// Bound, and deaf until [`Self::listen`].
pub(crate) struct Bound {
    /// By shard.
    shards: Vec<Vec<(Transport, Socket)>>,
    /// With the ports they got.
    pub(crate) addresses: Vec<(Transport, SocketAddr)>,
}

/// A shard's own listener.
pub(crate) type Listening = (Transport, TcpListener);

impl Bound {
    /// Binds each address (host:port; port 0: any free one) once for each shard. An error is one
    /// line for a person.
    pub(crate) fn new(plain: &[String], tls: &[String], shards: usize) -> Result<Self, String> {
        if plain.is_empty() && tls.is_empty() {
            return Err(
                "listen and tls.listen are empty; at least one host:port is required".into()
            );
        }
        let mut bound =
            Self { shards: (0..shards).map(|_| Vec::new()).collect(), addresses: vec![] };
        let plain = plain.iter().map(|text| (Transport::Plain, "listen", text));
        let tls = tls.iter().map(|text| (Transport::Tls, "tls.listen", text));
        for (transport, key, text) in plain.chain(tls) {
            let explain = |error: io::Error| format!("{key} {text}: {error}");
            for mut address in text.to_socket_addrs().map_err(explain)? {
                // With SO_REUSEPORT a second gateway on the same port would go unnoticed: one
                // socket without it finds out.
                let probe = socket(address, false).map_err(explain)?;
                let local = probe.local_addr().map_err(explain)?;
                address = local.as_socket().unwrap_or(address);
                drop(probe);
                bound.addresses.push((transport, address));
                for sockets in &mut bound.shards {
                    sockets.push((transport, socket(address, true).map_err(explain)?));
                }
            }
        }
        Ok(bound)
    }

    /// What a connection's socket holds unsent; accepted sockets inherit it.
    pub(crate) fn limit_unsent(&self, bytes: u32) -> Result<(), String> {
        let mut sockets = self.shards.iter().flatten();
        sockets
            .try_for_each(|(_, socket)| socket.set_tcp_notsent_lowat(bytes))
            .map_err(|error| format!("socket.unsent_bytes {bytes}: {error}"))
    }

    /// Begins to listen; the listeners by shard.
    pub(crate) fn listen(self) -> io::Result<Vec<Vec<Listening>>> {
        let listen = |(transport, socket): (Transport, Socket)| {
            socket.listen(BACKLOG)?;
            Ok((transport, TcpListener::from(socket)))
        };
        let shards = self.shards.into_iter();
        shards.map(|sockets| sockets.into_iter().map(listen).collect()).collect()
    }
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    // Accepted sockets inherit it (tcp(7) on Linux), which saves a system call for each.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_somebody_listens_on_is_not_shared() {
        let first = Bound::new(&["127.0.0.1:0".to_owned()], &[], 2).unwrap();
        let address = first.addresses[0].1.to_string();
        let listeners = first.listen().unwrap();
        assert_eq!(listeners.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1]);
        let taken = std::slice::from_ref(&address);
        let error = Bound::new(taken, &[], 1).err().unwrap();
        assert!(error.starts_with(&format!("listen {address}: ")), "{error}");
        let error = Bound::new(&[], taken, 1).err().unwrap();
        assert!(error.starts_with(&format!("tls.listen {address}: ")), "{error}");
        assert!(Bound::new(&[], &[], 1).is_err());
    }
}
