//! Who has a session, as presenced tells Redis.

use crate::limits::{REDIS_KEYS_MAX, REDIS_MS_MAX};
use proto::Uuid;
use proto::presence::{COMPLETE, user_key};
use redis::{Client, Connection, RedisError, Value};
use std::collections::HashSet;
use std::time::Duration;

pub(crate) struct Sessions {
    client: Client,
    connection: Option<Connection>,
}

impl Sessions {
    pub(crate) fn new(url: &str) -> Result<Self, String> {
        let client = Client::open(url).map_err(|error| format!("redis.url: {error}"))?;
        Ok(Self { client, connection: None })
    }

    /// Those of the users who have no session. An error if Redis does not know: it is away, or has
    /// not been told everything since it lost what it had.
    pub(crate) fn absent(&mut self, users: &[Uuid]) -> Result<HashSet<Uuid>, String> {
        if users.is_empty() {
            return Ok(HashSet::new());
        }
        let answer = self.ask(users);
        if answer.is_err() {
            self.connection = None;
        }
        let answer = answer.map_err(|error| format!("redis: {error}"))?;
        let Some((Value::Int(1), pages)) = answer.split_last() else {
            return Err("redis: presenced has not told it everything yet".to_owned());
        };
        let found: Vec<&Value> = pages.iter().flat_map(values).collect();
        if found.len() != users.len() {
            return Err("redis: it did not answer for every user".to_owned());
        }
        let absent = users.iter().zip(found).filter(|(_, value)| **value == Value::Nil);
        Ok(absent.map(|(user, _)| *user).collect())
    }

    /// Whether all is known is asked last, and so holds for what was answered before it.
    fn ask(&mut self, users: &[Uuid]) -> Result<Vec<Value>, RedisError> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => self.connection.insert(connect(&self.client)?),
        };
        let mut pipeline = redis::pipe();
        for part in users.chunks(REDIS_KEYS_MAX) {
            pipeline.cmd("MGET");
            for user in part {
                pipeline.arg(user_key(*user));
            }
        }
        pipeline.cmd("EXISTS").arg(COMPLETE);
        pipeline.query(connection)
    }
}

fn connect(client: &Client) -> Result<Connection, RedisError> {
    let patience = Duration::from_millis(REDIS_MS_MAX);
    let connection = client.get_connection_with_timeout(patience)?;
    connection.set_read_timeout(Some(patience))?;
    connection.set_write_timeout(Some(patience))?;
    Ok(connection)
}

fn values(page: &Value) -> &[Value] {
    match page {
        Value::Array(values) => values,
        _ => &[],
    }
}
