//! What goes out: events of Kafka, and the rings that bring them to the sessions.

pub(crate) mod consume;
pub(crate) mod deflate;
pub(crate) mod encode;
pub(crate) mod offsets;
pub(crate) mod payload;
pub(crate) mod publish;
pub(crate) mod ring;
pub(crate) mod witness;
