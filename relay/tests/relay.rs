//! The relay as a process, against a real PostgreSQL and a real Kafka (KAFKA_BROKERS; without it the
//! tests are skipped). KAFKA_PID lets a test pause the broker.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "faults/mod.rs"]
mod faults;
#[path = "push/mod.rs"]
mod push;
#[path = "routes/mod.rs"]
mod routes;
mod support;

use proto::topics;
use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};
use support::{Kafka, Postgres, Relay, Seen, commit, new_key, shard_of, wait_until, waiting_rows};

/// Per key: first occurrences must be 1, 2, 3, ... `expected`, all in one partition. Returns how many
/// records were repeats.
fn check_order(seen: &[Seen], keys: &[[u8; 16]], expected: u64) -> usize {
    let mut repeats = 0;
    for key in keys {
        let of_key: Vec<_> = seen.iter().filter(|it| it.key == *key).collect();
        let partitions: HashSet<_> = of_key.iter().map(|it| it.partition).collect();
        assert_eq!(partitions.len(), 1, "one key, one partition");
        let mut next = 1;
        for record in of_key {
            if record.number() == next {
                next += 1;
            } else {
                assert!(record.number() < next, "{} came before {next}", record.number());
                repeats += 1;
            }
        }
        assert_eq!(next, expected + 1, "lost");
    }
    repeats
}

fn complete(keys: &[[u8; 16]], expected: u64) -> impl Fn(&[Seen]) -> bool {
    let keys = keys.to_vec();
    move |seen| {
        let mut last: BTreeMap<[u8; 16], u64> = BTreeMap::new();
        for record in seen {
            let highest = last.entry(record.key).or_default();
            *highest = record.number().max(*highest);
        }
        keys.iter().all(|key| last.get(key).is_some_and(|highest| *highest >= expected))
    }
}

/// Commits numbers `from..=to` of every key, some keys a transaction.
fn commit_range(client: &mut postgres::Client, keys: &[[u8; 16]], from: u64, to: u64) {
    for number in from..=to {
        let rows: Vec<_> = keys.iter().map(|key| (*key, number)).collect();
        commit(client, &rows);
    }
}

struct Stage {
    kafka: Kafka,
    postgres: Postgres,
    keys: Vec<[u8; 16]>,
}

fn stage(keys: usize) -> Option<Stage> {
    let kafka = Kafka::from_environment()?;
    let postgres = Postgres::start();
    // The topics must be there before their ends are noted.
    let first = Relay::start("relay-first", &postgres, &kafka.brokers);
    wait_until(30, "topics", || kafka.has_topics() && first.is_ready());
    first.signal("TERM");
    drop(first);
    Some(Stage { kafka, postgres, keys: (0..keys).map(|_| new_key()).collect() })
}

#[test]
fn everything_is_published_once_in_order_with_its_headers() {
    let Some(Stage { kafka, postgres, keys }) = stage(50) else { return };
    let mut tail = kafka.tail(topics::MESSAGE_CREATED);
    let mut client = postgres.client();
    commit_range(&mut client, &keys, 1, 50);
    // It hardly polls, so that what is published at once was published because of a notification.
    let poll = [("REALCHAT_RELAY_RELAY_POLL_MS", "60000")];
    let mut relay = Relay::start_with("relay-1", &postgres, &kafka.brokers, &poll);
    wait_until(20, "ready", || relay.is_ready());
    commit_range(&mut client, &keys, 51, 100);
    assert!(tail.read_until(30, |key| keys.contains(key), complete(&keys, 100)));
    assert_eq!(check_order(&tail.seen, &keys, 100), 0, "no repeats without a fault");
    wait_until(5, "all marked", || waiting_rows(&mut client) == 0);
    let record = tail.seen.iter().find(|it| it.number() == 7).unwrap();
    assert_eq!(record.headers["event-type"], b"message");
    assert_eq!(record.headers["sequence-number"], b"7");
    assert_eq!(record.headers["recipients"], [1; 48]);
    assert_eq!(record.value, support::value(7));
    wait_until(5, "counted", || relay.metric("relayed_total") == 5_000.0);
    for partition in 0..8 {
        let there = tail.seen.iter().filter(|it| it.partition == partition).count();
        let labels = format!("{{topic=\"{}\",partition=\"{partition}\"}}", topics::MESSAGE_CREATED);
        assert_eq!(relay.metric(&format!("relayed_total{labels}")), there as f64, "{partition}");
    }
    commit(&mut client, &[(keys[0], 101)]);
    assert!(tail.read_until(5, |key| *key == keys[0], |seen| seen.last().unwrap().number() == 101));
    relay.signal("TERM");
    assert_eq!(relay.wait(), Some(0));
    let held: i64 = client
        .query_one("SELECT count(*) FROM messaging.outbox_leases WHERE expires_at > now()", &[])
        .unwrap()
        .get(0);
    assert_eq!(held, 0, "a stopped relay gives its leases back");
}

#[test]
fn two_relays_share_and_take_over_from_a_killed_and_from_a_paused_one() {
    let Some(Stage { kafka, postgres, keys }) = stage(40) else { return };
    let mut tail = kafka.tail(topics::MESSAGE_CREATED);
    let mut client = postgres.client();
    let one = Relay::start("relay-1", &postgres, &kafka.brokers);
    let two = Relay::start("relay-2", &postgres, &kafka.brokers);
    let shares = |one: &Relay, two: &Relay| (one.metric("shards_held"), two.metric("shards_held"));
    wait_until(20, "even shares", || shares(&one, &two) == (8.0, 8.0));
    commit_range(&mut client, &keys, 1, 200);
    two.signal("KILL");
    let begun = Instant::now();
    commit_range(&mut client, &keys, 201, 400);
    wait_until(10, "all taken over", || one.metric("shards_held") == 16.0);
    wait_until(10, "all published", || waiting_rows(&mut client) == 0);
    println!("takeover after a kill, backlog included: {:?}", begun.elapsed());
    let three = Relay::start("relay-3", &postgres, &kafka.brokers);
    wait_until(20, "even shares", || shares(&one, &three) == (8.0, 8.0));
    commit_range(&mut client, &keys, 401, 500);
    one.signal("STOP");
    commit_range(&mut client, &keys, 501, 600);
    wait_until(10, "all taken over", || three.metric("shards_held") == 16.0);
    commit_range(&mut client, &keys, 601, 700);
    wait_until(10, "all published", || waiting_rows(&mut client) == 0);
    one.signal("CONT");
    wait_until(20, "even shares again", || shares(&one, &three) == (8.0, 8.0));
    commit_range(&mut client, &keys, 701, 800);
    assert!(tail.read_until(30, |key| keys.contains(key), complete(&keys, 800)));
    let repeats = check_order(&tail.seen, &keys, 800);
    println!("{repeats} of {} records were repeats", tail.seen.len());
    wait_until(5, "all marked", || waiting_rows(&mut client) == 0);
}

#[test]
fn a_record_that_cannot_be_published_becomes_a_dead_letter_and_holds_up_its_key_alone() {
    let Some(Stage { kafka, postgres, mut keys }) = stage(20) else { return };
    // A neighbour in the shard of the poisoned key.
    keys[1][15] = keys[0][15];
    let poisoned = keys[0];
    let mut tail = kafka.tail(topics::MESSAGE_CREATED);
    let mut letters = kafka.tail(&topics::dead_letter(topics::MESSAGE_CREATED));
    let mut client = postgres.client();
    commit_range(&mut client, &keys, 1, 1);
    let mut huge = 2_u64.to_be_bytes().to_vec();
    huge.resize(1_200_000, 1);
    let (shard, headers) = (shard_of(&poisoned), support::headers(2));
    let insert = "INSERT INTO messaging.outbox (shard, topic, key, value, headers, created_at_us)
        VALUES ($1, $2, $3, $4, $5, 0)";
    let key = poisoned.as_slice();
    client.execute(insert, &[&shard, &topics::MESSAGE_CREATED, &key, &huge, &headers]).unwrap();
    commit_range(&mut client, &keys, 3, 20);
    let relay = Relay::start("relay-1", &postgres, &kafka.brokers);
    wait_until(20, "all but the poisoned key", || waiting_rows(&mut client) == 19);
    wait_until(60, "the dead letter", || relay.metric("dead_lettered_total") == 1.0);
    wait_until(10, "the key goes on", || waiting_rows(&mut client) == 0);
    assert!(tail.read_until(20, |key| keys.contains(key), complete(&keys, 20)));
    for key in &keys {
        let numbers: Vec<_> =
            tail.seen.iter().filter(|it| it.key == *key).map(Seen::number).collect();
        let expected: Vec<u64> = (1..=20).filter(|number| *number != 2).collect();
        assert_eq!(numbers, expected);
    }
    // A gateway at this broker buries what these tests publish, which are no events.
    let is_ours = |it: &&Seen| it.value == huge;
    let found = |seen: &[Seen]| seen.iter().any(|it| is_ours(&it));
    assert!(letters.read_until(20, |key| *key == poisoned, found));
    let ours: Vec<_> = letters.seen.iter().filter(is_ours).collect();
    let [letter] = ours[..] else { panic!("{} dead letters", ours.len()) };
    // One more for each time that the broker did not take the letter.
    let refused = relay.log().matches("no dead letter written").count();
    assert_eq!(letter.headers["dlq-attempts"], (10 + refused).to_string().as_bytes());
    assert_eq!(letter.headers["dlq-topic"], topics::MESSAGE_CREATED.as_bytes());
    let error = String::from_utf8_lossy(&letter.headers["dlq-error"]).into_owned();
    assert!(error.to_lowercase().contains("size too large"), "{error}");
    look_after_the_letter(&kafka.brokers, &poisoned);
}

/// The commands for dead letters: it is listed and shown, cannot be published again, and is dropped.
fn look_after_the_letter(brokers: &str, key: &[u8; 16]) {
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    let list = || {
        let (_, printed) = support::dead_letters(brokers, &["list"]);
        let lines = printed.lines().filter(|line| line.contains(&hex));
        let big = lines.filter(|line| line.contains("\"value_bytes\":1200000"));
        big.map(str::to_owned).collect::<Vec<_>>()
    };
    let listed = list();
    assert_eq!(listed.len(), 1, "{listed:?}");
    let place = listed[0].split("\"place\":\"").nth(1).unwrap().split('"').next().unwrap();
    let (status, printed) = support::dead_letters(brokers, &["show", place]);
    assert!(status && printed.contains("value_base64"));
    let (status, printed) = support::dead_letters(brokers, &["replay", place]);
    assert!(!status && printed.to_lowercase().contains("too large"), "{printed}");
    assert_eq!(list().len(), 1, "what could not be published again is still there");
    let (status, printed) = support::dead_letters(brokers, &["drop", place]);
    assert!(status && printed.contains("dropped"), "{printed}");
    assert!(list().is_empty());
    let (status, printed) = support::dead_letters(brokers, &["drop", place]);
    assert!(!status && printed.contains("no such dead letter"), "{printed}");
}

#[test]
fn a_crash_of_postgres_loses_nothing_and_the_relay_comes_back() {
    let Some(Stage { kafka, mut postgres, keys }) = stage(30) else { return };
    let mut tail = kafka.tail(topics::MESSAGE_CREATED);
    let relay = Relay::start("relay-1", &postgres, &kafka.brokers);
    wait_until(20, "ready", || relay.is_ready());
    commit_range(&mut postgres.client(), &keys, 1, 200);
    postgres.crash_and_restart(Duration::from_secs(3));
    assert!(relay.get("/readyz").contains("postgres"), "not ready while PostgreSQL is away");
    let mut client = postgres.client();
    commit_range(&mut client, &keys, 201, 300);
    assert!(tail.read_until(30, |key| keys.contains(key), complete(&keys, 300)));
    let repeats = check_order(&tail.seen, &keys, 300);
    println!("{repeats} of {} records were repeats", tail.seen.len());
    wait_until(30, "all marked and ready", || waiting_rows(&mut client) == 0 && relay.is_ready());
}

#[test]
fn a_broker_that_is_away_stalls_the_relay_and_costs_no_attempts() {
    // Longer than a relay waits for a wave, shorter than the broker's session with its controller.
    const PAUSE: Duration = Duration::from_secs(4);
    let Ok(broker) = std::env::var("KAFKA_PID") else {
        println!("skipped: KAFKA_PID does not name the broker's process");
        return;
    };
    let broker: u32 = broker.parse().unwrap();
    let Some(Stage { kafka, postgres, keys }) = stage(30) else { return };
    let mut tail = kafka.tail(topics::MESSAGE_CREATED);
    let mut client = postgres.client();
    let relay = Relay::start("relay-1", &postgres, &kafka.brokers);
    wait_until(20, "ready", || relay.is_ready());
    commit_range(&mut client, &keys, 1, 100);
    // The producer is connected from here on, so that the broker has in its socket what comes next.
    wait_until(20, "the first are published", || waiting_rows(&mut client) == 0);
    support::signal(broker, "STOP");
    let stopped_at = Instant::now();
    commit_range(&mut client, &keys, 101, 200);
    wait_until(10, "not ready", || relay.get("/readyz").contains("kafka"));
    std::thread::sleep(PAUSE.saturating_sub(stopped_at.elapsed()));
    let attempts = client.query_one("SELECT sum(attempts) FROM messaging.outbox", &[]).unwrap();
    support::signal(broker, "CONT");
    assert_eq!(attempts.get::<_, Option<i64>>(0), Some(0));
    commit_range(&mut client, &keys, 201, 300);
    assert!(tail.read_until(30, |key| keys.contains(key), complete(&keys, 300)));
    println!("{} repeats", check_order(&tail.seen, &keys, 300));
    // What the broker was sent while it was away it has, and that is looked up, not sent again.
    assert!(relay.metric("found_total") > 0.0);
    wait_until(30, "all marked and ready", || waiting_rows(&mut client) == 0 && relay.is_ready());
}

/// PostgreSQL plans by what it last counted, and the outbox is often empty when it is counted: a plan
/// for one row must not be one that never ends with many.
#[test]
fn a_backlog_in_a_table_that_was_empty_when_it_was_counted_drains() {
    const ROWS: u64 = 100_000;
    let Some(Stage { kafka, postgres, keys }) = stage(1_000) else { return };
    let mut client = postgres.client();
    commit_range(&mut client, &keys, 1, 2);
    for change in ["DELETE FROM messaging.outbox", "VACUUM ANALYZE messaging.outbox"] {
        client.batch_execute(change).unwrap();
    }
    let counted = "SELECT reltuples FROM pg_class WHERE oid = 'messaging.outbox'::regclass";
    assert_eq!(client.query_one(counted, &[]).unwrap().get::<_, f32>(0), 0.0);
    client.batch_execute("ALTER TABLE messaging.outbox SET (autovacuum_enabled = off)").unwrap();
    commit_range(&mut client, &keys, 1, ROWS / 1_000);
    let relay = Relay::start("relay-1", &postgres, &kafka.brokers);
    wait_until(30, "all marked", || waiting_rows(&mut client) == 0);
    assert_eq!(relay.metric("relayed_total"), 100_000.0, "once each");
}

/// Run with `--ignored --nocapture` to have the figure.
#[test]
#[ignore = "a measurement: 200,000 rows"]
fn throughput_of_a_backlog() {
    const ROWS: u64 = 200_000;
    let Some(Stage { kafka, postgres, keys }) = stage(2_000) else { return };
    let mut tail = kafka.tail(topics::MESSAGE_CREATED);
    let mut client = postgres.client();
    commit_range(&mut client, &keys, 1, ROWS / 2_000);
    let relay = Relay::start("relay-1", &postgres, &kafka.brokers);
    wait_until(20, "begun", || relay.metric("relayed_total") > 0.0);
    let (begun, first) = (Instant::now(), relay.metric("relayed_total"));
    #[allow(clippy::cast_precision_loss, reason = "200,000 is exact")]
    let all = ROWS as f64;
    wait_until(120, "all relayed", || relay.metric("relayed_total") >= all);
    let rate = (all - first) / begun.elapsed().as_secs_f64();
    println!("{rate:.0} rows/s ({first} before the clock started)");
    println!("{:.2} s of CPU time in the relay", relay.cpu_seconds());
    let set: HashSet<_> = keys.iter().copied().collect();
    let all = complete(&keys, ROWS / 2_000);
    assert!(tail.read_until(
        60,
        |key| set.contains(key),
        |seen| { seen.len() as u64 >= ROWS && all(seen) }
    ));
    println!("{} repeats in a sample", check_order(&tail.seen, &keys[..50], ROWS / 2_000));
}
