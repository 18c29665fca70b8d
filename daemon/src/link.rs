//! The internal link over TCP or a Unix socket: pipelined requests, answered in any order.
//! The bytes are specified in `proto` (`link.proto`, `framing`, `handshake`).

mod client;
mod server;
mod stream;
mod write_half;

pub use client::{Client, ClientSettings, LinkError};
pub use server::{Handler, Incoming, Reply, Server, ServerSettings, serve};

#[cfg(test)]
mod tests;
