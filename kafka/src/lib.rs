//! What the daemons' clients of Kafka share.
//!
//! [`guard`] is for every client that lives as long as its process. librdkafka forgets each broker that an
//! answer about metadata does not name. A broker that was held up for longer than its session with the
//! controller (`broker.session.timeout.ms`) is fenced for a moment, and an answer that comes from it
//! then names no broker at all where it is the only one, or where all were held up: after that the
//! client knows none, and asks for none, until its process ends (librdkafka's issue 5301). Others of the
//! same process go on, so that the daemon looks well and delivers nothing.

mod guard;
pub mod limits;

pub use guard::{Client, guard};
