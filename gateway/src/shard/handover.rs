//! A connection on its way to its user's home shard.

use crate::conn::Conn;
use crate::inbound::tls::Tls;
use crate::inbound::token::Claims;
use crate::rate::Key;
use mio::net::TcpStream;
use proto::client::Hello;

/// All that the home shard needs to go on where the accepting shard stopped.
pub(crate) struct Handover {
    pub(crate) stream: TcpStream,
    pub(crate) tls: Option<Box<Tls>>,
    /// The address that the connection counts for.
    pub(crate) address: Option<Key>,
    /// With the bytes that were read beyond the hello.
    pub(crate) conn: Conn,
    /// What the accepting shard had not yet written; empty unless the socket was full.
    pub(crate) unsent: Vec<u8>,
    pub(crate) claims: Claims,
    /// The hello's request id.
    pub(crate) request_id: u64,
    pub(crate) hello: Hello,
}
