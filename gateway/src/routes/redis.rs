//! This gateway's users in Redis: see `proto::routes`.

use crate::limits::{ROUTES_BATCH_MAX, ROUTES_MS_MAX, ROUTES_SLACK_MS};
use crate::mail::RouteNote;
use ::redis::{Client, Connection, ErrorKind, Pipeline, RedisError, RedisResult, Script, pipe};
use proto::Uuid;
use proto::routes::{
    CLAIM_MS, Claim, ROUTE_EXPIRY_S, begun_key, claim_key, member, run_id, user_key,
};
use std::time::{Duration, Instant};

/// KEYS: what was begun, the claim. ARGV: the claim, when it ends, in how long what was begun does. A claim that
/// cannot be made is no longer there either. It ends at a point in time and not after a while: it is over however
/// late Redis comes to see this.
const CLAIM: &str = "
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('SET', KEYS[2], ARGV[1], 'PXAT', ARGV[2])
  redis.call('EXPIRE', KEYS[1], ARGV[3])
  return {1, redis.call('TIME')}
end
redis.call('DEL', KEYS[2])
return {0, redis.call('TIME')}";

pub(super) struct Store {
    client: Client,
    redis: Option<Redis>,
    gateway: String,
    /// Under which users are told.
    epoch: String,
}

/// A connection, the run of Redis at its end, and its clock: at `heard_at` or earlier it was `clock_ms`.
struct Redis {
    connection: Connection,
    run_id: String,
    clock_ms: u64,
    heard_at: Instant,
}

impl Store {
    pub(super) fn new(url: &str, gateway: &str) -> Result<Self, String> {
        let client = Client::open(url).map_err(|error| format!("redis.url: {error}"))?;
        Ok(Self { client, redis: None, gateway: gateway.to_owned(), epoch: String::new() })
    }

    /// Adds and removes users, in order.
    pub(super) fn say(&mut self, notes: &[RouteNote]) -> Result<(), String> {
        let mut pipeline = pipe();
        for note in notes {
            match note {
                RouteNote::Enter { user, .. } => self.add_to(&mut pipeline, *user),
                RouteNote::Leave { user } => {
                    let member = member(&self.gateway, &self.epoch);
                    pipeline.cmd("SREM").arg(user_key(*user)).arg(member).ignore();
                }
            }
        }
        self.with(|redis| pipeline.exec(&mut redis.connection))
    }

    /// Begins a new epoch, which ends every claim of earlier ones in this Redis. Whether there was one, made in this
    /// run of it: then none is anywhere else, since it would not have been made before those had ended.
    pub(super) fn begin(&mut self) -> Result<bool, String> {
        self.epoch = format!("{:016x}", fastrand::u64(..));
        let epoch = self.epoch.clone();
        let (begun_key, claim_key) = (begun_key(&self.gateway), claim_key(&self.gateway));
        self.with(|redis| {
            let claim = Claim { epoch, run_id: redis.run_id.clone() };
            let mut both = pipe();
            both.atomic().cmd("SET").arg(begun_key).arg(claim.to_string());
            both.arg("EX").arg(ROUTE_EXPIRY_S).ignore();
            both.cmd("GETDEL").arg(claim_key);
            let (before,): (Option<String>,) = both.query(&mut redis.connection)?;
            let before = before.as_deref().and_then(Claim::parse);
            Ok(before.is_some_and(|it| it.run_id == redis.run_id))
        })
    }

    /// Adds these users under the epoch, or renews them.
    pub(super) fn add(&mut self, users: &[Uuid]) -> Result<(), String> {
        for part in users.chunks(ROUTES_BATCH_MAX) {
            let mut pipeline = Pipeline::with_capacity(2 * part.len());
            for user in part {
                self.add_to(&mut pipeline, *user);
            }
            self.with(|redis| pipeline.exec(&mut redis.connection))?;
        }
        Ok(())
    }

    fn add_to(&self, pipeline: &mut Pipeline, user: Uuid) {
        let key = user_key(user);
        pipeline.cmd("SADD").arg(&key).arg(member(&self.gateway, &self.epoch)).ignore();
        pipeline.cmd("EXPIRE").arg(&key).arg(ROUTE_EXPIRY_S).ignore();
    }

    /// Claims that all users were told under this epoch, or renews that. By when the claim is gone if it is not
    /// renewed, whether it was made or not; None if it cannot have been. And whether it holds.
    pub(super) fn claim(&mut self) -> (Option<Instant>, Result<bool, String>) {
        let mut gone_by = None;
        let script = Script::new(CLAIM);
        let mut invocation = script.key(begun_key(&self.gateway));
        invocation.key(claim_key(&self.gateway));
        let epoch = self.epoch.clone();
        let outcome = self.with(|redis| {
            let lasts = redis.heard_at.elapsed() + Duration::from_millis(CLAIM_MS);
            let lasts_ms = u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX);
            gone_by = Some(redis.heard_at + lasts + Duration::from_millis(ROUTES_SLACK_MS));
            let claim = Claim { epoch, run_id: redis.run_id.clone() };
            invocation.arg(claim.to_string());
            invocation.arg(redis.clock_ms.saturating_add(lasts_ms)).arg(ROUTE_EXPIRY_S);
            let (held, time): (bool, (u64, u64)) = invocation.invoke(&mut redis.connection)?;
            redis.hear(time);
            Ok(held)
        });
        (gone_by, outcome)
    }

    /// On a connection that has failed nothing is tried again.
    fn with<T>(&mut self, work: impl FnOnce(&mut Redis) -> RedisResult<T>) -> Result<T, String> {
        let taken = self.redis.take();
        let outcome = taken.map_or_else(|| Redis::connect(&self.client), Ok);
        let outcome = outcome.and_then(|mut redis| Ok((work(&mut redis)?, redis)));
        let (answer, redis) = outcome.map_err(|error| error.to_string())?;
        self.redis = Some(redis);
        Ok(answer)
    }
}

impl Redis {
    fn connect(client: &Client) -> RedisResult<Self> {
        let patience = Duration::from_millis(ROUTES_MS_MAX);
        let mut connection = client.get_connection_with_timeout(patience)?;
        connection.set_read_timeout(Some(patience))?;
        connection.set_write_timeout(Some(patience))?;
        let mut questions = pipe();
        questions.cmd("INFO").arg("server").cmd("INFO").arg("memory").cmd("TIME");
        let (server, memory, time): (String, String, _) = questions.query(&mut connection)?;
        check_eviction(&memory)?;
        let run_id = run_id(&server).ok_or_else(|| refused("INFO names no run_id"))?.to_owned();
        let mut redis = Self { connection, run_id, clock_ms: 0, heard_at: Instant::now() };
        redis.hear(time);
        Ok(redis)
    }

    fn hear(&mut self, (seconds, micros): (u64, u64)) {
        self.heard_at = Instant::now();
        self.clock_ms = seconds.saturating_mul(1_000) + micros / 1_000;
    }
}

/// A Redis that forgets single keys would have the relay leave users out.
fn check_eviction(memory: &str) -> RedisResult<()> {
    let value = |name: &str| {
        let found = memory.lines().find_map(|line| line.trim_end().strip_prefix(name));
        found.unwrap_or_default()
    };
    let (max, policy) = (value("maxmemory:"), value("maxmemory_policy:"));
    if max == "0" || policy == "noeviction" {
        return Ok(());
    }
    let words =
        "it may evict keys; maxmemory-policy noeviction is required for kafka.routing = \"routed\"";
    Err(refused(words))
}

fn refused(what: &'static str) -> RedisError {
    RedisError::from((ErrorKind::InvalidClientConfig, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redis_that_evicts_is_refused() {
        for (max, policy, allowed) in [
            ("0", "noeviction", true),
            ("0", "allkeys-lru", true),
            ("1000", "noeviction", true),
            ("1000", "allkeys-lru", false),
            ("1000", "volatile-ttl", false),
        ] {
            let memory = format!("# Memory\r\nmaxmemory:{max}\r\nmaxmemory_policy:{policy}\r\n");
            assert_eq!(check_eviction(&memory).is_ok(), allowed, "{memory}");
        }
        assert!(check_eviction("").is_err());
    }
}
