//! Redis: what is kept there, and how it is written.
//!
//! | key | value | expires |
//! |---|---|---|
//! | `user:{user}:{device}` | `gateway/run/connection` of the device's newest session | `presence.expiry_ms` |
//! | `user:{user}` | the gateways that hold the user, separated by commas | `presence.expiry_ms` |
//! | `gateway:{gateway}` | its run: the gateway's lease | `presence.gateway_lease_ms` |
//! | `presence:online` | set of the users announced as online, which Kafka has | never |
//! | `presence:changing` | set of the users of whom an announcement is on its way to Kafka | never |
//! | `seen:{user}` | when the user was last online, in us since the Unix epoch | 90 days |
//! | `presence:complete` | there as long as Redis has everything it was given | never |

use crate::config::Timings;
use crate::limits::{LAST_SEEN_S, REDIS_MS_MAX, REDIS_PIPELINE_MAX};
use crate::rules::{Known, Store};
use proto::presence::{COMPLETE, user_key};
use redis::{Connection, Pipeline, RedisResult};
use std::time::Duration;
use uuid::Uuid;

const ONLINE: &str = "presence:online";
const CHANGING: &str = "presence:changing";

/// A connection that has answered, with limits on how long it may take.
pub(crate) fn connect(client: &redis::Client) -> RedisResult<Connection> {
    let patience = Duration::from_millis(REDIS_MS_MAX);
    let mut connection = client.get_connection_with_timeout(patience)?;
    connection.set_read_timeout(Some(patience))?;
    connection.set_write_timeout(Some(patience))?;
    redis::cmd("PING").exec(&mut connection)?;
    Ok(connection)
}

/// What was announced, by whatever run.
pub(crate) fn known(connection: &mut Connection) -> RedisResult<Known> {
    let online = members(connection, ONLINE)?;
    Ok(Known { online, changing: members(connection, CHANGING)? })
}

fn members(connection: &mut Connection, set: &str) -> RedisResult<Vec<Uuid>> {
    let mut users = Vec::new();
    let mut cursor = 0_u64;
    loop {
        let (next, page): (u64, Vec<String>) = redis::cmd("SSCAN")
            .arg(set)
            .arg(cursor)
            .arg("COUNT")
            .arg(REDIS_PIPELINE_MAX)
            .query(connection)?;
        // What is no id is not ours; it takes part in nothing.
        users.extend(page.iter().filter_map(|text| Uuid::parse_str(text).ok()));
        if next == 0 {
            return Ok(users);
        }
        cursor = next;
    }
}

/// Whether Redis still has what it was given; it forgets everything at once or nothing.
pub(crate) fn is_complete(connection: &mut Connection) -> RedisResult<bool> {
    redis::cmd("EXISTS").arg(COMPLETE).query(connection)
}

/// Notes that Redis was given everything.
pub(crate) fn mark_complete(connection: &mut Connection) -> RedisResult<()> {
    redis::cmd("SET").arg(COMPLETE).arg(1).exec(connection)
}

/// When each of these users was last seen online, in us; 0: never, or not known.
pub(crate) fn last_seen(connection: &mut Connection, users: &[Uuid]) -> RedisResult<Vec<u64>> {
    if users.is_empty() {
        return Ok(Vec::new());
    }
    let mut command = redis::cmd("MGET");
    for user in users {
        command.arg(seen_key(*user));
    }
    let found: Vec<Option<String>> = command.query(connection)?;
    Ok(found.into_iter().map(|it| it.and_then(|text| text.parse().ok()).unwrap_or(0)).collect())
}

/// Writes it all, in order.
pub(crate) fn write(
    connection: &mut Connection,
    timings: Timings,
    stores: &[Store],
) -> RedisResult<()> {
    for part in stores.chunks(REDIS_PIPELINE_MAX) {
        let mut pipeline = Pipeline::with_capacity(part.len() * 2);
        for store in part {
            add(&mut pipeline, timings, store);
        }
        pipeline.exec(connection)?;
    }
    Ok(())
}

fn add(pipeline: &mut Pipeline, timings: Timings, store: &Store) {
    match store {
        Store::Session { named, gateway, run } => {
            let value = format!("{gateway}/{run}/{}", named.connection);
            let key = format!("user:{}:{}", named.user, named.device);
            set(pipeline, &key, &value, timings.expiry_ms);
        }
        Store::Gone { user, device } => {
            pipeline.cmd("DEL").arg(format!("user:{user}:{device}")).ignore();
        }
        Store::Gateways { user, gateways } if gateways.is_empty() => {
            pipeline.cmd("DEL").arg(user_key(*user)).ignore();
        }
        Store::Gateways { user, gateways } => {
            set(pipeline, &user_key(*user), &gateways.join(","), timings.expiry_ms);
        }
        Store::Gateway { gateway, run } => {
            let key = format!("gateway:{gateway}");
            set(pipeline, &key, &run.to_string(), timings.gateway_lease_ms);
        }
        Store::Changing { user } => {
            pipeline.cmd("SADD").arg(CHANGING).arg(user.to_string()).ignore();
        }
        Store::Online { user } => {
            pipeline.cmd("SADD").arg(ONLINE).arg(user.to_string()).ignore();
            pipeline.cmd("SREM").arg(CHANGING).arg(user.to_string()).ignore();
        }
        Store::Offline { user, last_seen_us } => {
            pipeline.cmd("SREM").arg(ONLINE).arg(user.to_string()).ignore();
            pipeline.cmd("SREM").arg(CHANGING).arg(user.to_string()).ignore();
            let (key, seconds) = (seen_key(*user), LAST_SEEN_S);
            pipeline.cmd("SET").arg(key).arg(*last_seen_us).arg("EX").arg(seconds).ignore();
        }
    }
}

fn set(pipeline: &mut Pipeline, key: &str, value: &str, expires_ms: u64) {
    pipeline.cmd("SET").arg(key).arg(value).arg("PX").arg(expires_ms).ignore();
}

fn seen_key(user: Uuid) -> String {
    format!("seen:{user}")
}
