//! What the outbox takes on disk, which is where its bloat shows.

use crate::failure::{Context, Outcome};
use postgres::Client;

/// Bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct OutboxSize {
    pub(crate) table: i64,
    pub(crate) indexes: i64,
}

impl OutboxSize {
    pub(crate) fn look(client: &mut Client) -> Outcome<Self> {
        let query = "SELECT pg_table_size('messaging.outbox'), pg_indexes_size('messaging.outbox')";
        let row = client.query_one(query, &[]).reaching("messaging.outbox")?;
        Ok(Self { table: row.get(0), indexes: row.get(1) })
    }

    /// The larger of each.
    pub(crate) fn max(self, other: Self) -> Self {
        Self { table: self.table.max(other.table), indexes: self.indexes.max(other.indexes) }
    }
}
