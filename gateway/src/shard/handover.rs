//! A connection on its way to its user's home shard.

use crate::conn::Conn;
use crate::inbound::tls::Tls;
use crate::inbound::token::Claims;
use crate::inbound::upgrade::Upgrade;
use crate::rate::Key;
use mio::net::TcpStream;
use proto::Uuid;
use proto::client::Hello;

/// All that the home shard needs to go on where the accepting shard stopped.
pub(crate) struct Handover {
    pub(crate) stream: TcpStream,
    pub(crate) tls: Option<Box<Tls>>,
    /// The address that the connection counts for.
    pub(crate) address: Option<Key>,
    /// With the bytes that were read beyond what is asked for.
    pub(crate) conn: Conn,
    /// What the accepting shard had not yet written; empty unless the socket was full.
    pub(crate) unsent: Vec<u8>,
    pub(crate) errand: Errand,
}

/// What is done at home.
pub(crate) enum Errand {
    /// An upgrade is granted, or refused with a status.
    Upgrade { claims: Claims, upgrade: Box<Upgrade> },
    /// A stream of server-sent events begins, or is refused with a status.
    Stream { claims: Claims, hello: Hello },
    /// A session begins.
    Session { claims: Claims, request_id: u64, hello: Hello },
}

impl Errand {
    pub(super) fn user(&self) -> &Uuid {
        match self {
            Self::Upgrade { claims, .. }
            | Self::Stream { claims, .. }
            | Self::Session { claims, .. } => &claims.user,
        }
    }
}
