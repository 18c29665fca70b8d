//! What a session that comes back gets before it is live: what the shard's cache of recent events or
//! chatd answers, and the live events that came meanwhile, each once and in order.

pub(crate) mod beginning;
pub(crate) mod catchup;
pub(crate) mod gap;
pub(crate) mod recent;
pub(crate) mod watermark;
