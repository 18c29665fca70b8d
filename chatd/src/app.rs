//! What all requests share.

use crate::accounts::Tokens;
use crate::db::Pool;
use crate::metrics::ChatdMetrics;
use crate::write::Writers;
use std::sync::atomic::AtomicBool;

pub(crate) struct App {
    pub(crate) tokens: Tokens,
    pub(crate) refresh_lifetime_s: u64,
    pub(crate) writers: Writers,
    pub(crate) queries: Pool,
    /// Registration and login: they hash passwords, and must not hold up anybody else.
    pub(crate) sign_ins: Pool,
    pub(crate) metrics: ChatdMetrics,
    /// Nothing new is taken any more.
    pub(crate) is_stopping: AtomicBool,
}
