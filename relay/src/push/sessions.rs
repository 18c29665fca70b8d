//! Who has a session, as presenced tells Redis.

use crate::limits::{PRESENT_MS_MAX, PRESENT_USERS_MAX, REDIS_KEYS_MAX, REDIS_MS_MAX};
use crate::redis_connection;
use proto::Uuid;
use proto::presence::{COMPLETE, user_key};
use redis::{Client, Connection, RedisError, Value};
use std::collections::HashSet;
use std::time::{Duration, Instant};

pub(crate) struct Sessions {
    client: Client,
    connection: Option<Connection>,
    present: Present,
}

/// Users who had a session a moment ago. In two generations, each of which is forgotten after half of
/// the time, or when it is full.
struct Present {
    newer: HashSet<Uuid>,
    older: HashSet<Uuid>,
    turned_at: Instant,
}

impl Sessions {
    pub(crate) fn new(url: &str) -> Result<Self, String> {
        let client = Client::open(url).map_err(|error| format!("redis.url: {error}"))?;
        Ok(Self { client, connection: None, present: Present::new() })
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
        let mut absent = HashSet::new();
        for (user, value) in users.iter().zip(found) {
            if *value == Value::Nil {
                absent.insert(*user);
            } else {
                self.present.insert(*user);
            }
        }
        Ok(absent)
    }

    /// Those of whom this was found out a moment ago: nobody need be asked for each message to them.
    pub(crate) fn were_present(&self, user: &Uuid) -> bool {
        self.present.contains(user)
    }

    /// Whether all is known is asked last, and so holds for what was answered before it.
    fn ask(&mut self, users: &[Uuid]) -> Result<Vec<Value>, RedisError> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => {
                let patience = Duration::from_millis(REDIS_MS_MAX);
                self.connection.insert(redis_connection::connect(&self.client, patience)?)
            }
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

impl Present {
    fn new() -> Self {
        Self { newer: HashSet::new(), older: HashSet::new(), turned_at: Instant::now() }
    }

    fn insert(&mut self, user: Uuid) {
        let is_old = self.turned_at.elapsed() >= Duration::from_millis(PRESENT_MS_MAX / 2);
        if is_old || self.newer.len() >= PRESENT_USERS_MAX / 2 {
            self.older = std::mem::take(&mut self.newer);
            self.turned_at = Instant::now();
        }
        self.newer.insert(user);
    }

    fn contains(&self, user: &Uuid) -> bool {
        self.turned_at.elapsed() < Duration::from_millis(PRESENT_MS_MAX / 2)
            && (self.newer.contains(user) || self.older.contains(user))
    }
}

fn values(page: &Value) -> &[Value] {
    match page {
        Value::Array(values) => values,
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_present_is_remembered_within_bounds() {
        let mut present = Present::new();
        let first = Uuid::from_u128(1);
        present.insert(first);
        assert!(present.contains(&first) && !present.contains(&Uuid::from_u128(2)));
        for user in 2..=PRESENT_USERS_MAX as u128 + 1 {
            present.insert(Uuid::from_u128(user));
        }
        assert!(!present.contains(&first), "one too many");
        assert!(present.newer.len() + present.older.len() <= PRESENT_USERS_MAX);
        present.turned_at -= Duration::from_millis(PRESENT_MS_MAX / 2);
        assert!(!present.contains(&Uuid::from_u128(PRESENT_USERS_MAX as u128)), "too long ago");
    }
}
