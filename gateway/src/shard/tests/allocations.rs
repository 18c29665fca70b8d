//! A shard allocates nothing once it is warm, its buffers' growth aside: not for events, which it delivers, keeps and writes,
//! and not for heartbeats, whose pongs it reads and decodes.

use super::harness::{Client, Gateway, event};
use crate::mail::{Delivery, Mail, Skipped};
use proto::Uuid;

const SESSIONS: usize = 20;

/// So many events for every session, each read by all of them, while pings are answered.
fn events(
    gateway: &Gateway,
    users: &[Uuid],
    clients: &mut [Client],
    numbers: std::ops::Range<u64>,
) {
    for number in numbers {
        let conversation = Uuid::from_u128(u128::from(number % 10));
        let delivery = gateway.delivery(users.to_vec(), event(conversation, number));
        // A Kafka thread clones the frame for each shard, and so shares it.
        let frame = delivery.frame.clone();
        gateway.mailboxes.get(0).send(Mail::Deliver(Delivery { frame, ..delivery })).unwrap();
        for client in &mut *clients {
            assert_eq!(client.next_sequence_number(), number);
        }
    }
}

#[test]
fn a_warm_shard_allocates_nothing_for_events_and_heartbeats() {
    let gateway = Gateway::start(1, |settings| {
        settings.ping_ms = 100;
        settings.pong_ms = 5_000;
        // Full after a few events, so that the oldest make way.
        settings.recent_bytes_max = 64 * 1024;
    });
    let positions = [(0, 0)].into();
    gateway
        .mailboxes
        .get(0)
        .send(Mail::Tail { log: 1, positions, skipped: Skipped::Nothing })
        .unwrap();
    let users: Vec<Uuid> = (0..SESSIONS).map(|_| proto::id::new()).collect();
    let mut clients: Vec<_> =
        users.iter().map(|user| Client::greeted(&gateway, *user, true)).collect();
    let pings = |clients: &[Client]| clients.iter().map(|client| client.pings).sum::<usize>();
    let mut next = 1;
    while next < 1_000 || pings(&clients) < 3 * SESSIONS {
        events(&gateway, &users, &mut clients, next..next + 100);
        next += 100;
    }
    // A census allocates its answer: always the same.
    let [first, second] = [(); 2].map(|()| gateway.allocations());
    let of_a_census = second - first;
    let (last, heard) = (next + 2_000, pings(&clients));
    while next < last || pings(&clients) < heard + 3 * SESSIONS {
        events(&gateway, &users, &mut clients, next..next + 100);
        next += 100;
    }
    // A burst larger than any before may still double a buffer of the shard's.
    let allocations = gateway.allocations() - second - of_a_census;
    assert!(allocations <= 4, "{allocations} allocations for {} events", 2_000 * SESSIONS);
    gateway.stop();
}
