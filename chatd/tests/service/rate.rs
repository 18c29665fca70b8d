//! How fast: chatd's batches beside one transaction a message, on the same server with fsync on.
//! `cargo test --release -p chatd --test service -- --ignored --nocapture rate`

use crate::support::{Chatd, Database, Person};
use crossbeam_channel::{Receiver, bounded};
use hdrhistogram::Histogram;
use proto::Uuid;
use proto::link::response::Response;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

const CONVERSATIONS: usize = 2_000;
const IN_FLIGHT: usize = 4_096;
const MEASURED: Duration = Duration::from_secs(10);
const NAIVE_CLIENTS: usize = 16;

/// Conversations of three members, put into the database as they would stand there.
fn population(database: &Database) -> (Vec<Uuid>, Vec<Person>) {
    let people: Vec<Person> = (0..3)
        .map(|number| Person {
            name: format!("user-{number}"),
            user_id: proto::id::new(),
            device_id: proto::id::new(),
            token: String::new(),
            refresh_token: String::new(),
        })
        .collect();
    let ids: Vec<Uuid> = (0..CONVERSATIONS).map(|_| proto::id::new()).collect();
    let users: Vec<Uuid> = people.iter().map(|it| it.user_id).collect();
    let mut owner = database.owner();
    owner
        .execute(
            "INSERT INTO messaging.conversations (conversation_id, title, created_by, created_at_us,
                 last_event_at_us) SELECT id, '', $2, 1, 1 FROM unnest($1::uuid[]) AS it (id)",
            &[&ids, &users[0]],
        )
        .unwrap();
    owner
        .execute(
            "INSERT INTO messaging.members (conversation_id, user_id, joined_sequence_number)
             SELECT id, member, 1 FROM unnest($1::uuid[]) AS it (id), unnest($2::uuid[]) AS u (member)",
            &[&ids, &users],
        )
        .unwrap();
    (ids, people)
}

/// Processor time of a process so far, in seconds; fields 14 and 15 of its stat are in 1/100 s.
fn cpu_s(process_id: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process_id}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |it| it.1).split_whitespace();
    fields.skip(11).take(2).filter_map(|it| it.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// Processor time of all of the server's processes, in seconds.
fn server_cpu_s(database: &Database) -> f64 {
    let mut owner = database.owner();
    let backend: i32 = owner.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    let stat = |id: &str| std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    let parent = |id: &str| {
        let stat = stat(id);
        stat.rsplit_once(')')?.1.split_whitespace().nth(1).map(str::to_owned)
    };
    let postmaster = parent(&backend.to_string());
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let ids = processes.filter_map(|it| it.file_name().into_string().ok());
    ids.filter(|id| id.parse::<u32>().is_ok() && parent(id) == postmaster)
        .filter_map(|id| id.parse().ok())
        .map(cpu_s)
        .sum()
}

fn text() -> String {
    (0..fastrand::usize(100..500)).map(|_| fastrand::alphanumeric()).collect()
}

#[test]
#[ignore = "measures; run it alone"]
fn rate_of_the_engine() {
    let database = Database::new();
    let chatd = Chatd::start(&database);
    let (conversations, people) = population(&database);
    let texts: Vec<String> = (0..256).map(|_| text()).collect();
    let mut latency = Histogram::<u64>::new(3).unwrap();
    let mut in_flight: VecDeque<(Instant, Receiver<_>)> = VecDeque::new();
    let mut acked = 0_u64;
    let start = Instant::now();
    let mut settle = |(sent, receiver): (Instant, Receiver<crate::support::chatd::Outcome>)| {
        match receiver.recv().unwrap().unwrap() {
            Response::Sent(_) => acked += 1,
            other => panic!("{other:?}"),
        }
        latency.record(u64::try_from(sent.elapsed().as_micros()).unwrap()).unwrap();
    };
    let before = (cpu_s(chatd.process_id()), server_cpu_s(&database), cpu_s(std::process::id()));
    let mut number = 0_usize;
    while start.elapsed() < MEASURED {
        if in_flight.len() >= IN_FLIGHT {
            settle(in_flight.pop_front().unwrap());
        }
        let person = &people[number % people.len()];
        let conversation_id = conversations[fastrand::usize(..conversations.len())];
        let key = format!("key-{number}");
        let receiver = person.submit(&chatd, conversation_id, &key, &texts[number % texts.len()]);
        in_flight.push_back((Instant::now(), receiver));
        number += 1;
    }
    in_flight.into_iter().for_each(&mut settle);
    let rate = acked as f64 / start.elapsed().as_secs_f64();
    let us = |seconds: f64| seconds * 1e6 / acked as f64;
    println!(
        "processor time a message: chatd {:.1} us, PostgreSQL {:.1} us, driver {:.1} us",
        us(cpu_s(chatd.process_id()) - before.0),
        us(server_cpu_s(&database) - before.1),
        us(cpu_s(std::process::id()) - before.2),
    );
    println!(
        "engine: {rate:.0} durable messages/s, ack p50 {} ms, p99 {} ms (closed loop, {IN_FLIGHT} in flight)",
        latency.value_at_quantile(0.5) / 1_000,
        latency.value_at_quantile(0.99) / 1_000,
    );
}

#[test]
#[ignore = "measures; run it alone"]
fn rate_of_one_transaction_a_message() {
    let database = Database::new();
    drop(Chatd::start(&database));
    let (conversations, people) = population(&database);
    let (done, results) = bounded(NAIVE_CLIENTS);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..NAIVE_CLIENTS {
            let (done, conversations, people) = (done.clone(), &conversations, &people);
            let mut client = database.owner();
            scope.spawn(move || {
                let mut count = 0_u64;
                while start.elapsed() < MEASURED {
                    let conversation_id = conversations[fastrand::usize(..conversations.len())];
                    naive(&mut client, conversation_id, people[0].user_id);
                    count += 1;
                }
                done.send(count).unwrap();
            });
        }
    });
    drop(done);
    let count: u64 = results.iter().sum();
    let rate = count as f64 / start.elapsed().as_secs_f64();
    println!("one transaction a message: {rate:.0} messages/s, {NAIVE_CLIENTS} clients");
}

fn naive(client: &mut postgres::Client, conversation_id: Uuid, sender_id: Uuid) {
    let mut transaction = client.transaction().unwrap();
    let member = "SELECT FROM messaging.members WHERE conversation_id = $1 AND user_id = $2";
    transaction.query_one(member, &[&conversation_id, &sender_id]).unwrap();
    let take = "UPDATE messaging.conversations SET last_sequence_number = last_sequence_number + 1,
                    last_message_number = last_message_number + 1
                WHERE conversation_id = $1 RETURNING last_sequence_number";
    let number: i64 = transaction.query_one(take, &[&conversation_id]).unwrap().get(0);
    let text = text();
    let insert = "INSERT INTO messaging.events (conversation_id, sequence_number, kind, message_id,
                      message_number, sender_id, sender_device_id, idempotency_key, body_hash, text,
                      created_at_us) VALUES ($1, $2, 1, $3, $2, $4, $4, $5, '', $6, 1)";
    let (message_id, key) = (proto::id::new(), number.to_string());
    transaction
        .execute(insert, &[&conversation_id, &number, &message_id, &sender_id, &key, &text])
        .unwrap();
    let outbox = "INSERT INTO messaging.outbox (shard, topic, key, value, headers, created_at_us)
                  VALUES (1, 't', $1, $2, $1, 1)";
    let key = conversation_id.as_bytes().as_slice();
    transaction.execute(outbox, &[&key, &text.as_bytes()]).unwrap();
    transaction.commit().unwrap();
}
