//! Connections to Redis that never hold anybody up for long.

use redis::{Client, Connection, RedisResult};
use std::time::Duration;

/// One attempt to connect; it, and each reading and writing afterwards, may take so long.
pub(crate) fn connect(client: &Client, patience: Duration) -> RedisResult<Connection> {
    let connection = client.get_connection_with_timeout(patience)?;
    connection.set_read_timeout(Some(patience))?;
    connection.set_write_timeout(Some(patience))?;
    Ok(connection)
}
