//! Which gateways need a record, of those that have a topic of their own (`proto::routes`). Where that is not
//! known of one, it needs everything: Redis spares work, and nothing that it forgets is lost.

use crate::directory::Gateways;
use crate::limits::{REDIS_KEYS_MAX, ROUTES_MS_MAX, ROUTES_RETRY_MS};
use crate::redis_connection;
use crate::wave::Record;
use daemon::failpoint::{BELIEVED_WITHOUT_CLAIM, is_planted};
use proto::record::RecordHeaders;
use proto::routes::{Claim, claim_key, member, run_id, user_key};
use proto::{Message, Uuid, id, topics};
use redis::{Client, Connection, RedisResult};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) struct Routes {
    /// None: no Redis is configured.
    client: Option<Client>,
    connection: Option<Redis>,
    /// A Redis that does not answer is left alone until then.
    retry_at: Instant,
}

/// A connection, and the run of Redis at its end.
struct Redis {
    connection: Connection,
    run_id: String,
}

/// What Redis said about some lists of recipients: the claims before and after, and who has one of them.
struct Answer {
    before: Vec<Option<String>>,
    members: Vec<BTreeSet<String>>,
    after: Vec<Option<String>>,
}

impl Routes {
    /// For the Redis at `url`; without one, every gateway gets everything.
    pub(crate) fn new(url: &str) -> Result<Self, String> {
        let client = (!url.is_empty()).then(|| Client::open(url)).transpose();
        let client = client.map_err(|error| format!("redis.url: {error}"))?;
        Ok(Self { client, connection: None, retry_at: Instant::now() })
    }

    /// Notes with each record which of the gateways it is copied to.
    pub(crate) fn direct(&mut self, gateways: &Gateways, records: &mut [Record]) {
        if gateways.is_empty() {
            return;
        }
        let of_each: Vec<Option<Vec<u8>>> =
            records.iter().map(|it| is_routed(it).then(|| recipients(it))).collect();
        // Of a conversation that is too large to name its members, there are some everywhere.
        let mut needed = HashMap::from([(Vec::new(), gateways.to_vec())]);
        let named: HashSet<&Vec<u8>> =
            of_each.iter().flatten().filter(|it| !it.is_empty()).collect();
        let lists: Vec<Vec<u8>> = named.into_iter().cloned().collect();
        for lists in parts(&lists) {
            let answer = self.ask(gateways, lists);
            for (index, list) in lists.iter().enumerate() {
                let needs = |gateway: &&Arc<str>| match &answer {
                    Some((run_id, answer)) => answer.needs(gateways, gateway, index, run_id),
                    None => true,
                };
                needed.insert(list.clone(), gateways.iter().filter(needs).cloned().collect());
            }
        }
        for (record, list) in records.iter_mut().zip(of_each) {
            record.gateways = list.and_then(|it| needed.get(&it).cloned()).unwrap_or_default();
        }
    }

    fn ask(&mut self, gateways: &Gateways, lists: &[Vec<u8>]) -> Option<(String, Answer)> {
        let client = self.client.as_ref()?;
        if self.connection.is_none() && Instant::now() < self.retry_at {
            return None;
        }
        let outcome = match self.connection.take() {
            Some(redis) => Ok(redis),
            None => connect(client),
        };
        let outcome = outcome.and_then(|mut redis| {
            let answer = look_up(&mut redis.connection, gateways, lists)?;
            Ok((redis, answer))
        });
        match outcome {
            Ok((redis, answer)) => {
                let run_id = redis.run_id.clone();
                self.connection = Some(redis);
                Some((run_id, answer))
            }
            Err(error) => {
                tracing::warn!(%error, "redis: every gateway is sent everything");
                self.retry_at = Instant::now() + Duration::from_millis(ROUTES_RETRY_MS);
                None
            }
        }
    }
}

impl Answer {
    /// Whether the gateway needs what is for the recipients of this list.
    fn needs(&self, gateways: &Gateways, gateway: &Arc<str>, list: usize, run_id: &str) -> bool {
        let Some(place) = gateways.iter().position(|it| it == gateway) else { return true };
        let claim = |texts: &[Option<String>]| Claim::parse(texts.get(place)?.as_deref()?);
        let (Some(before), Some(after)) = (claim(&self.before), claim(&self.after)) else {
            return !is_planted(BELIEVED_WITHOUT_CLAIM);
        };
        // Between two readings of the same claim, all of its users were there.
        if before != after || before.run_id != run_id {
            return true;
        }
        self.members.get(list).is_none_or(|it| it.contains(&member(gateway, &before.epoch)))
    }
}

fn connect(client: &Client) -> RedisResult<Redis> {
    let mut connection = redis_connection::connect(client, Duration::from_millis(ROUTES_MS_MAX))?;
    let info: String = redis::cmd("INFO").arg("server").query(&mut connection)?;
    // A Redis that does not tell has no claim that fits.
    let run_id = run_id(&info).unwrap_or_default().to_owned();
    Ok(Redis { connection, run_id })
}

fn look_up(
    connection: &mut Connection,
    gateways: &Gateways,
    lists: &[Vec<u8>],
) -> RedisResult<Answer> {
    let mut pipeline = redis::pipe();
    let claims = |pipeline: &mut redis::Pipeline| {
        pipeline.cmd("MGET");
        for gateway in gateways.iter() {
            pipeline.arg(claim_key(gateway));
        }
    };
    claims(&mut pipeline);
    for list in lists {
        pipeline.cmd("SUNION");
        for user in users(list) {
            pipeline.arg(user_key(user));
        }
    }
    claims(&mut pipeline);
    let mut answers: Vec<redis::Value> = pipeline.query(connection)?;
    let after = answers.pop().unwrap_or(redis::Value::Nil);
    let mut answers = answers.into_iter();
    let before = answers.next().unwrap_or(redis::Value::Nil);
    Ok(Answer {
        before: redis::from_redis_value(before)?,
        members: answers.map(redis::from_redis_value).collect::<Result<_, _>>()?,
        after: redis::from_redis_value(after)?,
    })
}

/// So many lists at once that Redis is not held up by their users.
fn parts(lists: &[Vec<u8>]) -> impl Iterator<Item = &[Vec<u8>]> {
    let mut rest = lists;
    std::iter::from_fn(move || {
        let mut users = 0;
        let fits = rest.iter().take_while(|list| {
            let is_first = users == 0;
            users += list.len() / id::ID_BYTES;
            is_first || users <= REDIS_KEYS_MAX
        });
        let count = fits.count();
        let (part, after) = rest.split_at(count);
        rest = after;
        (count > 0).then_some(part)
    })
}

fn is_routed(record: &Record) -> bool {
    topics::ROUTED.contains(&record.topic.as_str())
}

/// As they stand in the headers; none where there are none, or where they cannot be read.
fn recipients(record: &Record) -> Vec<u8> {
    let headers = RecordHeaders::decode(record.headers.as_slice()).unwrap_or_default();
    let is_whole = headers.recipients.len().is_multiple_of(id::ID_BYTES);
    if headers.member_count == 0 && is_whole { headers.recipients } else { Vec::new() }
}

fn users(list: &[u8]) -> impl Iterator<Item = Uuid> {
    list.chunks_exact(id::ID_BYTES).filter_map(|id| Uuid::from_slice(id).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateways() -> Gateways {
        [Arc::from("a"), Arc::from("b")].into()
    }

    fn record(users: &[Uuid], member_count: u32) -> Record {
        let headers =
            RecordHeaders { recipients: id::pack(users), member_count, ..RecordHeaders::default() };
        let topic = topics::MESSAGE_CREATED.to_owned();
        Record { topic, headers: headers.encode_to_vec(), ..Record::default() }
    }

    fn answer(before: Option<&str>, after: Option<&str>, members: &[&str]) -> Answer {
        let own = |text: Option<&str>| vec![text.map(str::to_owned), None];
        let members = vec![members.iter().map(|it| (*it).to_owned()).collect()];
        Answer { before: own(before), members, after: own(after) }
    }

    #[test]
    fn a_gateway_is_left_out_only_while_its_claim_holds_and_none_of_its_users_is_meant() {
        let (all, gateway) = (gateways(), Arc::from("a"));
        let needs = |answer: Answer| answer.needs(&all, &gateway, 0, "run");
        let claim = Some("1 run");
        assert!(!needs(answer(claim, claim, &[])));
        assert!(!needs(answer(claim, claim, &["b/1", "a/0"])), "of another gateway or epoch");
        assert!(needs(answer(claim, claim, &["a/1"])));
        for (before, after) in [
            (None, claim),
            (claim, None),
            (Some("2 run"), claim),
            (Some("1 other"), Some("1 other")),
            (Some("nonsense"), Some("nonsense")),
        ] {
            assert!(needs(answer(before, after, &[])), "{before:?} {after:?}");
        }
    }

    #[test]
    fn without_redis_everything_goes_to_all_and_other_topics_go_to_none() {
        let user = Uuid::from_u128(1);
        let other = Record { topic: topics::MEMBERSHIP.into(), ..record(&[user], 0) };
        let mut records = [record(&[user], 0), record(&[], 2_000), other];
        // Nothing listens there.
        let mut routes = Routes::new("redis://127.0.0.1:1/").unwrap();
        routes.direct(&gateways(), &mut records);
        assert_eq!(records.map(|it| it.gateways.len()), [2, 2, 0]);
    }

    #[test]
    fn lists_are_asked_about_in_parts_and_none_is_left_out() {
        let list = |users: usize| vec![0; users * id::ID_BYTES];
        let lists = [list(1), list(REDIS_KEYS_MAX), list(REDIS_KEYS_MAX + 1), list(1), list(2)];
        let parts: Vec<usize> = parts(&lists).map(<[_]>::len).collect();
        assert_eq!(parts, [1, 1, 1, 2]);
    }
}
