//! A hand-over, and a lease table that somebody edited.

use crate::support::{Postgres, Relay, wait_until, waiting_rows};
use crate::{Stage, check_order, commit_range, complete, stage};
use proto::topics;
use std::time::{Duration, Instant};

const ALL: f64 = 16.0;

fn held(relay: &Relay) -> f64 {
    relay.metric("shards_held")
}

#[test]
fn a_relay_that_is_asked_to_stop_hands_over_at_once_and_nothing_twice() {
    let Some(Stage { kafka, postgres, keys }) = stage(40) else { return };
    let mut tail = kafka.tail(topics::MESSAGE_CREATED);
    let mut client = postgres.client();
    let mut one = Relay::start("relay-1", &postgres, &kafka.brokers);
    let two = Relay::start("relay-2", &postgres, &kafka.brokers);
    wait_until(20, "even shares", || (held(&one), held(&two)) == (8.0, 8.0));
    let committed = std::thread::scope(|scope| {
        let committing = scope.spawn(|| commit_range(&mut client, &keys, 1, 400));
        std::thread::sleep(Duration::from_millis(300));
        one.signal("TERM");
        let begun = Instant::now();
        assert_eq!(one.wait(), Some(0));
        wait_until(2, "all handed over", || held(&two) == ALL);
        eprintln!("handed over within {:?}", begun.elapsed());
        committing.join()
    });
    committed.unwrap();
    assert!(tail.read_until(30, |key| keys.contains(key), complete(&keys, 400)));
    assert_eq!(check_order(&tail.seen, &keys, 400), 0, "nothing is published twice");
}

fn edit(client: &mut postgres::Client, change: &str) {
    client.batch_execute(&format!("SET ROLE realchat_relay; {change}; RESET ROLE")).unwrap();
}

/// Two relays share; the table is changed; both go on until all is theirs again.
fn survives(change: &str, named: &str, seconds: u64) {
    let Some(Stage { kafka, postgres, keys }) = stage(30) else { return };
    let mut tail = kafka.tail(topics::MESSAGE_CREATED);
    let mut client = postgres.client();
    let one = Relay::start("relay-1", &postgres, &kafka.brokers);
    let two = Relay::start("relay-2", &postgres, &kafka.brokers);
    wait_until(20, "even shares", || (held(&one), held(&two)) == (8.0, 8.0));
    commit_range(&mut client, &keys, 1, 100);
    edit(&mut client, change);
    let begun = Instant::now();
    commit_range(&mut client, &keys, 101, 200);
    wait_until(seconds, "all published", || waiting_rows(&mut client) == 0);
    eprintln!("{change}: all published {:?} later", begun.elapsed());
    wait_until(10, "all owned", || held(&one) + held(&two) == ALL);
    assert!(tail.read_until(30, |key| keys.contains(key), complete(&keys, 200)));
    eprintln!("{} repeats", check_order(&tail.seen, &keys, 200));
    let logs = [one.log(), two.log()].concat();
    assert!(logs.contains(named), "{named:?} is not in\n{logs}");
}

#[test]
fn deleted_leases_are_made_again() {
    survives("DELETE FROM messaging.outbox_leases", "leases lost", 5);
}

#[test]
fn leases_in_a_strangers_name_are_let_go_and_taken_when_they_end() {
    survives("UPDATE messaging.outbox_leases SET owner = 'somebody'", "leases lost", 7);
}

#[test]
fn leases_with_another_token_are_let_go_and_taken_again() {
    survives("UPDATE messaging.outbox_leases SET fencing_token = -5", "leases lost", 5);
    survives(
        "UPDATE messaging.outbox_leases SET fencing_token = 9223372036854775807",
        "leases lost",
        5,
    );
}

#[test]
fn leases_that_end_in_a_far_future_are_taken_all_the_same() {
    let endless = "a lease that no relay wrote";
    let change = "UPDATE messaging.outbox_leases
        SET owner = 'somebody', expires_at = now() + interval '9 years'";
    survives(change, endless, 9);
    let change = "UPDATE messaging.outbox_leases SET owner = 'somebody', expires_at = 'infinity'";
    survives(change, endless, 9);
}

#[test]
fn leases_of_shards_that_do_not_exist_are_named_and_disturb_nobody() {
    let change = "INSERT INTO messaging.outbox_leases
        SELECT shard, 'somebody', 1, now() + interval '30 s' FROM generate_series(-3, 99) AS shard
        ON CONFLICT DO NOTHING";
    survives(change, "a lease of a shard that does not exist", 5);
}

/// For the measurement of a take-over: from the signal until the first record of a lost shard is out.
pub(super) fn all_held(relays: &[&Relay]) -> bool {
    relays.iter().map(|it| held(it)).sum::<f64>() == ALL
}

pub(super) fn seize(postgres: &Postgres) {
    let change = "UPDATE messaging.outbox_leases SET owner = 'somebody',
        fencing_token = fencing_token + 1, expires_at = clock_timestamp() + interval '30 s'";
    edit(&mut postgres.client(), change);
}

pub(super) fn release(postgres: &Postgres) {
    edit(&mut postgres.client(), "UPDATE messaging.outbox_leases SET expires_at = now()");
}
