//! One transaction a message, as a service without a write engine would do it: on the same tables,
//! with the same checks, a row at a time.
//!
//! What it commits goes the same way afterwards: the relay publishes it and gateways push it, so
//! that this machine's other processes bear the same for a message of either side. It spares the
//! relay's wake-up, one statement more; the relay finds its rows by polling.

use crate::clock;
use crate::failure::{Context, Failure, Outcome};
use crate::latency::per;
use crate::limits::{NAIVE_CONNECTIONS, WARM_UP_MS};
use crate::population::{self, Population};
use crate::record::{self, MessageRecord};
use fastrand::Rng;
use postgres::{Client, Statement};
use proto::{Message, Uuid};
use std::sync::atomic::{AtomicU64, Ordering};

const TAKE_NUMBER: &str = "UPDATE messaging.conversations
    SET last_sequence_number = last_sequence_number + 1,
        last_message_number = last_message_number + 1, last_event_at_us = $3
    WHERE conversation_id = $1 AND EXISTS (
        SELECT FROM messaging.members
        WHERE conversation_id = $1 AND user_id = $2 AND left_sequence_number IS NULL)
    RETURNING last_sequence_number, last_message_number";
const INSERT_EVENT: &str = "INSERT INTO messaging.events (conversation_id, sequence_number, kind,
        message_id, message_number, sender_id, sender_device_id, idempotency_key, body_hash, text,
        created_at_us)
    VALUES ($1, $2, 1, $3, $4, $5, $5, $6, $7, $8, $9)";
const INSERT_OUTBOX: &str = "INSERT INTO messaging.outbox
        (shard, topic, key, value, headers, created_at_us)
    VALUES ($1, 'chat.message.created.v1', $2, $3, $4, $5)";

pub(super) struct Naive {
    database_url: String,
    /// Conversation, sender, recipients.
    conversations: Vec<(Uuid, Uuid, Vec<u8>)>,
    text: String,
}

struct Statements {
    take_number: Statement,
    insert_event: Statement,
    insert_outbox: Statement,
}

impl Naive {
    pub(super) fn new(database_url: &str, population: &Population, text_bytes: usize) -> Self {
        let conversations = population.conversations.iter().map(|it| {
            let members: Vec<Uuid> =
                it.members.iter().map(|member| population.users[*member]).collect();
            (it.id, members[0], proto::id::pack(&members))
        });
        Self {
            database_url: database_url.to_owned(),
            conversations: conversations.collect(),
            text: "x".repeat(text_bytes),
        }
    }

    /// One round on all connections; gives back commits a second after the warm-up.
    pub(super) fn round(&self, round_us: u64, seed: u64) -> Outcome<f64> {
        let clients: Vec<Client> = (0..NAIVE_CONNECTIONS)
            .map(|_| population::connect(&self.database_url))
            .collect::<Outcome<_>>()?;
        let start_us = clock::now_us() + WARM_UP_MS * 1_000;
        let end_us = start_us + round_us;
        let commits = AtomicU64::new(0);
        std::thread::scope(|scope| {
            let sides: Vec<_> = (seed..)
                .zip(clients)
                .map(|(seed, client)| {
                    let random = Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                    scope.spawn(|| self.send_until(client, random, start_us, end_us, &commits))
                })
                .collect();
            let ended = |_| Err(Failure::Refused("a thread ended".into()));
            sides.into_iter().try_for_each(|side| side.join().unwrap_or_else(ended))
        })?;
        Ok(per(commits.into_inner() * 1_000_000, round_us))
    }

    fn send_until(
        &self,
        mut client: Client,
        mut random: Rng,
        start_us: u64,
        end_us: u64,
        commits: &AtomicU64,
    ) -> Outcome {
        let statements = Statements {
            take_number: client.prepare(TAKE_NUMBER).reaching("PostgreSQL")?,
            insert_event: client.prepare(INSERT_EVENT).reaching("PostgreSQL")?,
            insert_outbox: client.prepare(INSERT_OUTBOX).reaching("PostgreSQL")?,
        };
        while clock::now_us() < end_us {
            self.send(&mut client, &statements, &mut random).doing("one transaction")?;
            if (start_us..end_us).contains(&clock::now_us()) {
                commits.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn send(
        &self,
        client: &mut Client,
        statements: &Statements,
        random: &mut Rng,
    ) -> Result<(), postgres::Error> {
        let at = random.usize(..self.conversations.len());
        let (conversation, sender, recipients) = &self.conversations[at];
        let id = proto::id::new();
        let now_us = i64::try_from(daemon::clock::now_us()).unwrap_or(i64::MAX);
        let key = id.to_string();
        let mut transaction = client.transaction()?;
        let row =
            transaction.query_one(&statements.take_number, &[conversation, sender, &now_us])?;
        let (seq, number): (i64, i64) = (row.get(0), row.get(1));
        let hash = id.as_bytes().as_slice();
        transaction.execute(
            &statements.insert_event,
            &[conversation, &seq, &id, &number, sender, &key, &hash, &self.text, &now_us],
        )?;
        let (seq, now) = (seq.unsigned_abs(), now_us.unsigned_abs());
        let record = MessageRecord {
            conversation: *conversation,
            sender: *sender,
            message_id: id,
            sequence_number: seq,
            message_number: number.unsigned_abs(),
            created_at_us: now,
            text: self.text.clone(),
        };
        let headers = record::headers(seq, now, recipients.clone());
        // Shards are few.
        let shard = i16::try_from(proto::id::outbox_shard(conversation)).unwrap_or_default();
        let key = conversation.as_bytes().as_slice();
        transaction.execute(
            &statements.insert_outbox,
            &[&shard, &key, &record.into_value(), &headers.encode_to_vec(), &now_us],
        )?;
        transaction.commit()
    }
}
