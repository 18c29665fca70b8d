//! Push requests and their delivery, against a real Kafka, PostgreSQL and Redis.

mod requests;
mod webhook;

use crate::stage;
use crate::support::{Kafka, Postgres, Redis, Relay, Tail, shard_of, wait_until};
use proto::client::server_frame::Frame;
use proto::client::{Event, Message as Said, ServerFrame, event::Kind};
use proto::id::pack;
use proto::record::{Priority, PushRequested, RecordHeaders};
use proto::{Message, Uuid, topics};

/// What push needs around it.
pub(super) struct World {
    pub(super) kafka: Kafka,
    pub(super) postgres: Postgres,
    pub(super) redis: Redis,
}

/// Nothing without a broker.
pub(super) fn world() -> Option<World> {
    let crate::Stage { kafka, postgres, .. } = stage(0)?;
    Some(World { kafka, postgres, redis: Redis::start() })
}

/// A message, and how it is routed.
pub(super) struct Chat<'a> {
    pub(super) conversation: Uuid,
    pub(super) sender: Uuid,
    pub(super) members: &'a [Uuid],
    pub(super) sequence_number: u64,
    pub(super) priority: Priority,
}

impl World {
    /// With push requests on, once it is ready.
    pub(super) fn relay(&self, window_ms: u64, more: &[(&str, &str)]) -> Relay {
        let (redis_url, window) = (self.redis.url(), window_ms.to_string());
        let mut settings = vec![
            ("REALCHAT_RELAY_REDIS_URL", redis_url.as_str()),
            ("REALCHAT_RELAY_PUSH_WINDOW_MS", window.as_str()),
        ];
        settings.extend(more);
        let relay = Relay::start_with("relay-push", &self.postgres, &self.kafka.brokers, &settings);
        wait_until(30, "ready", || relay.is_ready());
        relay
    }

    /// A conversation in PostgreSQL.
    pub(super) fn conversation(&self, members: &[Uuid]) -> Uuid {
        let conversation = new_id();
        let insert = "INSERT INTO messaging.members
            (conversation_id, user_id, joined_sequence_number)
            SELECT $1, user_id, 1 FROM unnest($2::uuid[]) AS new (user_id)";
        self.postgres.client().execute(insert, &[&conversation, &members]).unwrap();
        conversation
    }

    pub(super) fn execute(&self, sql: &str, conversation: Uuid, user: Uuid) {
        assert_eq!(self.postgres.client().execute(sql, &[&conversation, &user]).unwrap(), 1);
    }

    /// Commits messages as chatd does.
    pub(super) fn say(&self, messages: &[Chat<'_>]) {
        let mut client = self.postgres.client();
        let mut transaction = client.transaction().unwrap();
        let insert =
            "INSERT INTO messaging.outbox (shard, topic, key, value, headers, created_at_us)
            VALUES ($1, $2, $3, $4, $5, $6)";
        for message in messages {
            let key = message.conversation.as_bytes();
            let (value, headers) = (message.value(), message.headers());
            let now_us = daemon::clock::now_us().cast_signed();
            let topic = topics::MESSAGE_CREATED;
            transaction
                .execute(
                    insert,
                    &[&shard_of(key), &topic, &key.as_slice(), &value, &headers, &now_us],
                )
                .unwrap();
        }
        transaction.execute("NOTIFY realchat_outbox", &[]).unwrap();
        transaction.commit().unwrap();
    }

    pub(super) fn tail(&self) -> Tail {
        self.kafka.tail(topics::PUSH_REQUESTED)
    }
}

impl Chat<'_> {
    fn value(&self) -> Vec<u8> {
        let said = Said {
            message_id: message_id(self.sequence_number).as_bytes().to_vec(),
            message_number: self.sequence_number,
            text: "hello".into(),
        };
        let event = Event {
            conversation_id: self.conversation.as_bytes().to_vec(),
            sequence_number: self.sequence_number,
            created_at_us: 1_000 + self.sequence_number,
            sender_id: self.sender.as_bytes().to_vec(),
            kind: Some(Kind::Message(said)),
        };
        ServerFrame { request_id: 0, frame: Some(Frame::Event(event)) }.encode_to_vec()
    }

    /// As chatd's: more members than a record can name are counted.
    fn headers(&self) -> Vec<u8> {
        let is_named = self.members.len() <= proto::limits::INLINE_RECIPIENTS_MAX;
        RecordHeaders {
            event_type: "message".into(),
            schema_version: 1,
            created_at_us: 1_000 + self.sequence_number,
            traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into(),
            priority: self.priority.into(),
            sequence_number: self.sequence_number,
            recipients: if is_named { pack(self.members) } else { Vec::new() },
            member_count: if is_named { 0 } else { u32::try_from(self.members.len()).unwrap() },
        }
        .encode_to_vec()
    }
}

/// Stops it as an operator would, so that it leaves its groups.
pub(super) fn stop(mut relay: Relay) {
    relay.signal("TERM");
    assert_eq!(relay.wait(), Some(0));
}

pub(super) fn new_id() -> Uuid {
    Uuid::from_u128(fastrand::u128(..))
}

pub(super) fn new_ids<const N: usize>() -> [Uuid; N] {
    std::array::from_fn(|_| new_id())
}

pub(super) fn message_id(sequence_number: u64) -> Uuid {
    Uuid::from_u128(u128::from(sequence_number))
}

/// The requests for these users, once there are so many.
pub(super) fn requests(tail: &mut Tail, users: &[Uuid], count: usize) -> Vec<PushRequested> {
    let mine = |key: &[u8; 16]| users.contains(&Uuid::from_bytes(*key));
    assert!(tail.read_until(20, mine, |seen| seen.len() >= count), "{} came", tail.seen.len());
    let read = |value: &[u8]| PushRequested::decode(value).unwrap();
    tail.seen.iter().map(|it| read(&it.value)).collect()
}
