//! RealChat's contracts: what crosses a process boundary is defined here and nowhere else.
//!
//! ```text
//!  device <-- client protocol (client.proto; binary or JSON) --> gateway
//!  gateway <-- link (link.proto, framing, handshake) --> chatd, presenced
//!  chatd --> outbox row --> relay --> Kafka record (topics, headers) --> gateway
//! ```

pub mod error;
mod event;
pub mod framing;
pub mod handshake;
pub mod headers;
pub mod id;
pub mod json;
pub mod limits;
pub mod presence;
pub mod routes;
pub mod topics;

mod generated;

/// The client protocol, generated from `schema/client.proto`.
pub use generated::client::v1 as client;
/// The internal link, generated from `schema/link.proto`.
pub use generated::link::v1 as link;
/// What travels beside a Kafka record's value, generated from `schema/record.proto`.
pub use generated::record::v1 as record;

pub use prost::Message;
pub use uuid::Uuid;

/// WebSocket subprotocol of the JSON encoding (text frames).
pub const SUBPROTOCOL_JSON: &str = "realchat.v1+json";
/// WebSocket subprotocol of the protobuf encoding (binary frames).
pub const SUBPROTOCOL_PROTO: &str = "realchat.v1+proto";
/// A subprotocol entry that begins so carries the access token (browsers cannot set headers).
pub const SUBPROTOCOL_BEARER_PREFIX: &str = "bearer.";
