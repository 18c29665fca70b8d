//! What a session that comes back gets before it is live: the answer of chatd, and the live events
//! that came meanwhile, each once and in order.

pub(crate) mod catchup;
pub(crate) mod gap;
