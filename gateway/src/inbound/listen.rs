//! Listening sockets: for each address one for each shard, so that the kernel spreads connections.

use crate::limits::BACKLOG;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};

/// Bound, and deaf until [`Self::listen`].
pub(crate) struct Bound {
    /// By shard.
    shards: Vec<Vec<Socket>>,
    /// With the ports they got.
    pub(crate) addresses: Vec<SocketAddr>,
}

impl Bound {
    /// Binds each address (host:port; port 0: any free one) once for each shard. An error is one
    /// line for a person.
    pub(crate) fn new(addresses: &[String], shards: usize) -> Result<Self, String> {
        if addresses.is_empty() {
            return Err("listen is empty; at least one host:port is required".to_owned());
        }
        let mut bound =
            Self { shards: (0..shards).map(|_| Vec::new()).collect(), addresses: vec![] };
        for text in addresses {
            let explain = |error: io::Error| format!("listen {text}: {error}");
            for mut address in text.to_socket_addrs().map_err(explain)? {
                // With SO_REUSEPORT a second gateway on the same port would go unnoticed: one
                // socket without it finds out.
                let probe = socket(address, false).map_err(explain)?;
                let local = probe.local_addr().map_err(explain)?;
                address = local.as_socket().unwrap_or(address);
                drop(probe);
                bound.addresses.push(address);
                for sockets in &mut bound.shards {
                    sockets.push(socket(address, true).map_err(explain)?);
                }
            }
        }
        Ok(bound)
    }

    /// What a connection's socket holds unsent; accepted sockets inherit it.
    pub(crate) fn limit_unsent(&self, bytes: u32) -> Result<(), String> {
        let mut sockets = self.shards.iter().flatten();
        sockets
            .try_for_each(|socket| socket.set_tcp_notsent_lowat(bytes))
            .map_err(|error| format!("socket.unsent_bytes {bytes}: {error}"))
    }

    /// Begins to listen; the listeners by shard.
    pub(crate) fn listen(self) -> io::Result<Vec<Vec<TcpListener>>> {
        let listen = |socket: Socket| {
            socket.listen(BACKLOG)?;
            Ok(TcpListener::from(socket))
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
        let first = Bound::new(&["127.0.0.1:0".to_owned()], 2).unwrap();
        let address = first.addresses[0].to_string();
        let listeners = first.listen().unwrap();
        assert_eq!(listeners.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1]);
        let error = Bound::new(std::slice::from_ref(&address), 1).err().unwrap();
        assert!(error.starts_with(&format!("listen {address}: ")), "{error}");
    }
}
