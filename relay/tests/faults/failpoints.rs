//! Crashes and pauses at the two places between a relay's durable actions.

use super::leases::{release, seize};
use crate::support::{Relay, failpoint_binaries, wait_until, waiting_rows};
use crate::{Stage, check_order, commit_range, complete, stage};
use proto::topics;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A pause, in milliseconds: longer than a lease.
const PAUSE_MS: u64 = 12_000;

fn binary() -> Option<PathBuf> {
    failpoint_binaries().map(|folder| folder.join("relay"))
}

#[test]
fn a_crash_between_publish_and_mark_publishes_again_in_order() {
    let (Some(binary), Some(Stage { kafka, postgres, keys })) = (binary(), stage(30)) else {
        return;
    };
    let mut tail = kafka.tail(topics::MESSAGE_CREATED);
    let mut client = postgres.client();
    let start = || Relay::start_binary(&binary, "relay-1", &postgres, &kafka.brokers, &[]);
    let mut relay = start();
    let mut repeats = 0;
    for round in 0..3 {
        wait_until(20, "ready", || relay.is_ready());
        relay.arm("relay.after_publish=exit");
        commit_range(&mut client, &keys, round * 50 + 1, round * 50 + 50);
        wait_until(10, "the crash", || relay.has_ended());
        let waiting = waiting_rows(&mut client);
        assert!(waiting > 0, "what was published is not marked");
        relay = start();
        wait_until(20, "all marked", || waiting_rows(&mut client) == 0);
        assert!(tail.read_until(30, |key| keys.contains(key), complete(&keys, round * 50 + 50)));
        let all = check_order(&tail.seen, &keys, round * 50 + 50);
        assert!(all > repeats, "what was published and not marked came again");
        repeats = all;
    }
    eprintln!("{repeats} of {} records were repeats", tail.seen.len());
}

#[test]
fn a_relay_that_was_paused_before_it_publishes_publishes_nothing_after_its_lease() {
    let (Some(binary), Some(Stage { kafka, postgres, keys })) = (binary(), stage(30)) else {
        return;
    };
    let mut tail = kafka.tail(topics::MESSAGE_CREATED);
    let mut client = postgres.client();
    let start = |name| Relay::start_binary(&binary, name, &postgres, &kafka.brokers, &[]);
    let one = start("relay-1");
    wait_until(20, "all shards", || one.metric("shards_held") == 16.0);
    // Both workers, so that every shard is concerned.
    one.arm(&format!(
        "relay.after_lease_check=sleep:{PAUSE_MS},relay.after_lease_check=sleep:{PAUSE_MS}"
    ));
    // The leases are another's meanwhile; the relay's own lease thread goes on all the while.
    commit_range(&mut client, &keys, 1, 20);
    wait_until(5, "both workers to sleep", || one.log().matches("failpoint: sleep").count() == 2);
    let slept = Instant::now();
    seize(&postgres);
    let two = start("relay-2");
    wait_until(10, "relay-2", || two.is_ready());
    release_to(&two, &postgres);
    // The other half may have gone back to relay-1, which answers for its leases but sleeps.
    let waiting = "SELECT count(*) FROM messaging.outbox JOIN messaging.outbox_leases USING (shard)
        WHERE owner = 'relay-2'";
    wait_until(5, "published by relay-2", || {
        client.query_one(waiting, &[]).unwrap().get::<_, i64>(0) == 0
    });
    assert!(waiting_rows(&mut client) < 20 * 30, "relay-2 had rows to publish");
    assert!(slept.elapsed() < Duration::from_millis(PAUSE_MS), "while relay-1 still slept");
    std::thread::sleep(Duration::from_millis(PAUSE_MS).saturating_sub(slept.elapsed()));
    commit_range(&mut client, &keys, 21, 40);
    assert!(tail.read_until(30, |key| keys.contains(key), complete(&keys, 40)));
    assert_eq!(check_order(&tail.seen, &keys, 40), 0, "relay-1 woke and published nothing");
}

/// Gives the shards to this relay, in the table.
fn release_to(relay: &Relay, postgres: &crate::support::Postgres) {
    let change = "UPDATE messaging.outbox_leases SET owner = 'relay-2',
        fencing_token = fencing_token + 1, expires_at = clock_timestamp() + interval '2 s'";
    let change = format!("SET ROLE realchat_relay; {change}; RESET ROLE");
    postgres.client().batch_execute(&change).unwrap();
    wait_until(5, "relay-2 to own", || relay.metric("shards_held") > 0.0);
}

#[test]
fn a_relay_whose_lease_was_taken_may_not_mark_what_it_published() {
    let (Some(binary), Some(Stage { kafka, postgres, keys })) = (binary(), stage(30)) else {
        return;
    };
    let mut tail = kafka.tail(topics::MESSAGE_CREATED);
    let mut client = postgres.client();
    let relay = Relay::start_binary(&binary, "relay-1", &postgres, &kafka.brokers, &[]);
    wait_until(20, "all shards", || relay.metric("shards_held") == 16.0);
    relay.arm("relay.after_publish=sleep:2000,relay.after_publish=sleep:2000");
    commit_range(&mut client, &keys, 1, 1);
    wait_until(5, "both workers to sleep", || relay.log().matches("failpoint: sleep").count() == 2);
    let published = waiting_rows(&mut client);
    seize(&postgres);
    std::thread::sleep(Duration::from_millis(3_000));
    assert_eq!(waiting_rows(&mut client), published, "its marks were refused");
    wait_until(5, "counted", || relay.metric("unmarked_total") >= 1.0);
    release(&postgres);
    wait_until(10, "published again, and marked", || waiting_rows(&mut client) == 0);
    assert!(tail.read_until(30, |key| keys.contains(key), complete(&keys, 1)));
    let repeats = check_order(&tail.seen, &keys, 1);
    eprintln!("{repeats} repeats of {published} that were not marked");
    assert!(repeats > 0);
}
