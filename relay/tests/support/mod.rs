//! Real parts for the tests: a PostgreSQL of their own, the Kafka that KAFKA_BROKERS names, and the relay.

mod kafka;
mod processes;
mod receiver;
mod redis;

pub(crate) use self::redis::Redis;
pub(crate) use kafka::{Kafka, Seen, Tail};
pub(crate) use processes::{
    Postgres, Relay, dead_letters, failpoint_binaries, relay_command, signal,
};
pub(crate) use receiver::{Delivery, Receiver, Reply};

use proto::record::RecordHeaders;
use proto::{Message, topics};
use std::time::{Duration, Instant};

/// How much longer than it should take a busy machine's broker may need: what is asserted is that it
/// happens.
const SLOWNESS: u32 = 10;

/// Waits until `done` holds, which should take at most `seconds`.
pub(crate) fn wait_until(seconds: u64, what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + SLOWNESS * Duration::from_secs(seconds);
    while !done() {
        assert!(Instant::now() < end, "not within {SLOWNESS} times {seconds} s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn shard_of(key: &[u8; 16]) -> i16 {
    i16::from(key[15] % 16)
}

/// Commits one row per (key, sequence number), in that order, in one transaction, as chatd does.
pub(crate) fn commit(client: &mut postgres::Client, rows: &[([u8; 16], u64)]) {
    let now_us = daemon::clock::now_us().cast_signed();
    let shards: Vec<i16> = rows.iter().map(|(key, _)| shard_of(key)).collect();
    let keys: Vec<&[u8]> = rows.iter().map(|(key, _)| key.as_slice()).collect();
    let values: Vec<Vec<u8>> = rows.iter().map(|(_, number)| value(*number)).collect();
    let headers: Vec<Vec<u8>> = rows.iter().map(|(_, number)| headers(*number)).collect();
    let mut transaction = client.transaction().unwrap();
    transaction
        .execute(
            "INSERT INTO messaging.outbox (shard, topic, key, value, headers, created_at_us)
             SELECT shard, $5, key, value, headers, $6
             FROM unnest($1::smallint[], $2::bytea[], $3::bytea[], $4::bytea[])
                WITH ORDINALITY AS r (shard, key, value, headers, place) ORDER BY place",
            &[&shards, &keys, &values, &headers, &topics::MESSAGE_CREATED, &now_us],
        )
        .unwrap();
    transaction.execute("NOTIFY realchat_outbox", &[]).unwrap();
    transaction.commit().unwrap();
}

/// About 512 bytes that begin with the sequence number.
pub(crate) fn value(number: u64) -> Vec<u8> {
    let mut value = number.to_be_bytes().to_vec();
    value.resize(512, 7);
    value
}

pub(crate) fn headers(number: u64) -> Vec<u8> {
    RecordHeaders {
        event_type: "message".into(),
        schema_version: 1,
        created_at_us: 5,
        sequence_number: number,
        recipients: vec![1; 48],
        ..RecordHeaders::default()
    }
    .encode_to_vec()
}

pub(crate) fn new_key() -> [u8; 16] {
    // Random in every byte, so that the keys spread over the shards.
    *uuid::Uuid::from_u128(fastrand::u128(..)).as_bytes()
}

pub(crate) fn waiting_rows(client: &mut postgres::Client) -> i64 {
    client.query_one("SELECT count(*) FROM messaging.outbox", &[]).unwrap().get(0)
}
