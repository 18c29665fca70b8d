//! The load generator: thousands of WebSocket sessions on one thread, one `mio` loop.
//!
//! ```text
//! Spec --> driver (connect, a few at a time) --> session (upgrade, hello, welcome) --> open
//!                 ^                                   |
//!                 +------ poll, read, write <---------+--> Handler: opened, frame, closed
//! ```
//! It speaks the binary subprotocol with a codec of its own (tungstenite's frame header), so that
//! neither the client library nor its buffers are part of what is measured.

pub(crate) mod codec;
mod driver;
mod session;
pub(crate) mod tracker;
mod transport;

pub(crate) use driver::{Driver, Handler};
pub(crate) use session::{Pace, Spec};

use crate::failure::Outcome;
use crate::limits::SOURCE_ADDRESSES;
use crate::tokens::Minter;
use proto::Uuid;
use proto::client::Hello;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// One session for each user, dealt out to the gateways in turn, live only.
pub(crate) fn specs(
    gateways: &[SocketAddr],
    minter: &Minter,
    users: impl IntoIterator<Item = Uuid>,
) -> Outcome<Vec<Spec>> {
    let mut specs = Vec::new();
    for (index, user) in users.into_iter().enumerate() {
        specs.push(Spec {
            address: gateways[index % gateways.len()],
            source: source(gateways[index % gateways.len()], index),
            tls: None,
            path: "/v1/connect".into(),
            token: minter.mint(user, proto::id::new())?,
            hello: live(),
            pace: Pace::Full,
        });
    }
    Ok(specs)
}

/// The hello of a session that wants only what comes from now on.
pub(crate) fn live() -> Hello {
    Hello { client: "perf".into(), ..Hello::default() }
}

/// A loopback address to connect from: each has its own range of ports, and its own share of
/// whatever is limited by address.
pub(crate) fn source(to: SocketAddr, index: usize) -> Option<IpAddr> {
    let last = u8::try_from(index % SOURCE_ADDRESSES).unwrap_or_default();
    (to.is_ipv4() && to.ip().is_loopback()).then(|| IpAddr::V4(Ipv4Addr::new(127, 0, 1, last + 1)))
}
