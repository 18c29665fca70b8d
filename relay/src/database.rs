//! Connections to PostgreSQL, as the relay's role.

use crate::limits::{
    LOCK_MS_MAX, POSTGRES_BACKOFF_MS_MAX, POSTGRES_BACKOFF_MS_MIN, POSTGRES_CONNECT_MS_MAX,
    POSTGRES_UNACKNOWLEDGED_MS_MAX, STATEMENT_MS_MAX,
};
use postgres::{Client, Config, NoTls};
use std::time::Duration;

/// The role with the rights that the relay needs, and no others.
const ROLE: &str = "realchat_relay";

/// One attempt to connect; `purpose` names the connection in `pg_stat_activity`.
pub(crate) fn connect(url: &str, purpose: &str) -> Result<Client, String> {
    let mut config: Config =
        url.parse().map_err(|error| format!("postgres.url: {}", explain(&error)))?;
    config
        .application_name(&format!("realchat relay {purpose}"))
        .connect_timeout(Duration::from_millis(POSTGRES_CONNECT_MS_MAX))
        .tcp_user_timeout(Duration::from_millis(POSTGRES_UNACKNOWLEDGED_MS_MAX))
        .keepalives_idle(Duration::from_secs(5));
    let mut client = config.connect(NoTls).map_err(|error| explain(&error))?;
    // The outbox's statistics mean nothing: it is empty one moment and large the next. Without the other
    // plans every statement goes through the primary key, in order.
    let settings = format!(
        "SET ROLE {ROLE}; SET statement_timeout = {STATEMENT_MS_MAX}; \
         SET lock_timeout = {LOCK_MS_MAX}; SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off; SET jit = off;"
    );
    client.batch_execute(&settings).map_err(|error| explain(&error))?;
    Ok(client)
}

/// The error with the server's own words, in one line.
pub(crate) fn explain(error: &postgres::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text.replace('\n', " ")
}

/// Doubling waits between attempts.
#[derive(Debug)]
pub(crate) struct Backoff {
    next_ms: u64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next_ms: POSTGRES_BACKOFF_MS_MIN }
    }
}

impl Backoff {
    /// How long to wait before the next attempt.
    pub(crate) fn next(&mut self) -> Duration {
        let wait_ms = self.next_ms + fastrand::u64(0..=self.next_ms / 4);
        self.next_ms = (self.next_ms * 2).min(POSTGRES_BACKOFF_MS_MAX);
        Duration::from_millis(wait_ms)
    }

    pub(crate) fn reset(&mut self) {
        self.next_ms = POSTGRES_BACKOFF_MS_MIN;
    }
}
