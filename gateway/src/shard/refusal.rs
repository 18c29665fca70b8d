//! Connections that are refused before they have a slot.
//!
//! Each is told why and kept for a moment: to close a socket in which the request lies unread resets
//! the connection, and the peer may lose the answer with it (RFC 9112 section 9.6).

use crate::limits::{REFUSAL_MS, REFUSALS_KEPT_MAX};
use mio::net::TcpStream;
use std::collections::VecDeque;
use std::io::Write;
use std::net::Shutdown;

#[derive(Default)]
pub(super) struct Refusals {
    /// The oldest in front, each with the time at which it is dropped.
    kept: VecDeque<(TcpStream, u64)>,
}

impl Refusals {
    /// Best effort: the socket's buffer is empty and takes the answer at once.
    pub(super) fn tell(&mut self, stream: TcpStream, response: &[u8], now_ms: u64) {
        if (&stream).write_all(response).is_err() || stream.shutdown(Shutdown::Write).is_err() {
            return;
        }
        if self.kept.len() >= REFUSALS_KEPT_MAX {
            self.kept.pop_front();
        }
        self.kept.push_back((stream, now_ms + REFUSAL_MS));
    }

    /// Drops those that were kept long enough.
    pub(super) fn expire(&mut self, now_ms: u64) {
        while self.kept.front().is_some_and(|(_, due_ms)| *due_ms <= now_ms) {
            self.kept.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{SocketAddr, TcpListener};

    /// A client's socket with a request under way, and the gateway's end of it.
    fn pair(listener: &TcpListener, address: SocketAddr) -> (std::net::TcpStream, TcpStream) {
        let mut client = std::net::TcpStream::connect(address).unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        let (stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        (client, TcpStream::from_std(stream))
    }

    #[test]
    fn a_refused_connection_reads_its_answer_and_is_dropped_in_time() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut refusals = Refusals::default();
        let (mut client, stream) = pair(&listener, address);
        refusals.tell(stream, b"no", 5);
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "no");
        refusals.expire(5 + REFUSAL_MS - 1);
        assert_eq!(refusals.kept.len(), 1);
        refusals.expire(5 + REFUSAL_MS);
        assert!(refusals.kept.is_empty());
    }

    #[test]
    fn one_too_many_makes_the_oldest_go() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut refusals = Refusals::default();
        let mut clients = Vec::new();
        for at in 0..=REFUSALS_KEPT_MAX as u64 {
            assert_eq!(refusals.kept.len() as u64, at);
            let (client, stream) = pair(&listener, address);
            clients.push(client);
            refusals.tell(stream, b"no", at);
        }
        assert_eq!(refusals.kept.len(), REFUSALS_KEPT_MAX);
        assert_eq!(refusals.kept[0].1, 1 + REFUSAL_MS);
    }
}
