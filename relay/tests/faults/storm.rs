//! Several relays, of which one after another is killed, stopped in both senses, and started again,
//! while rows are committed all the time.

use super::leases::all_held;
use crate::support::{Relay, wait_until, waiting_rows};
use crate::{Stage, check_order, commit_range, complete, stage};
use proto::topics;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Longer than the lease of 2.5 s.
const PAUSE_MS: std::ops::Range<u64> = 2_700..4_000;

fn storm(relays: usize, rounds: usize, seed: u64) {
    let Some(Stage { kafka, postgres, keys }) = stage(40) else { return };
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut tail = kafka.tail(topics::MESSAGE_CREATED);
    let start = |number: usize| Relay::start(&format!("relay-{number}"), &postgres, &kafka.brokers);
    let mut all: Vec<Relay> = (0..relays).map(start).collect();
    wait_until(20, "all shards", || all_held(&all.iter().collect::<Vec<_>>()));
    let (done, last) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut slowest = Duration::ZERO;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = postgres.client();
            for number in 1.. {
                commit_range(&mut client, &keys, number, number);
                last.store(number, Ordering::Release);
                if done.load(Ordering::Acquire) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        for round in 0..rounds {
            std::thread::sleep(Duration::from_millis(random.u64(300..1_200)));
            let victim = random.usize(0..relays);
            let signal = ["STOP", "KILL", "TERM"][round % 3];
            let begun = Instant::now();
            all[victim].signal(signal);
            let others: Vec<&Relay> =
                all.iter().enumerate().filter(|(at, _)| *at != victim).map(|(_, it)| it).collect();
            wait_until(5, "the others to own all", || all_held(&others));
            let took = begun.elapsed();
            slowest = slowest.max(took);
            eprintln!("round {round}: SIG{signal} to relay-{victim}: taken over after {took:?}");
            if signal == "STOP" {
                let pause = Duration::from_millis(random.u64(PAUSE_MS));
                std::thread::sleep(pause.saturating_sub(begun.elapsed()));
                all[victim].signal("CONT");
            } else {
                all[victim] = start(victim);
            }
        }
        done.store(true, Ordering::Release);
    });
    let last = last.load(Ordering::Acquire);
    let mut client = postgres.client();
    wait_until(10, "all published", || waiting_rows(&mut client) == 0);
    assert!(tail.read_until(60, |key| keys.contains(key), complete(&keys, last)));
    let repeats = check_order(&tail.seen, &keys, last);
    eprintln!(
        "{repeats} of {} records were repeats; slowest take-over {slowest:?}",
        tail.seen.len()
    );
}

#[test]
fn two_relays_with_kills_and_pauses_keep_the_order_of_every_key() {
    storm(2, 6, 7);
}

#[test]
fn three_relays_with_kills_and_pauses_keep_the_order_of_every_key() {
    storm(3, 9, 11);
}
