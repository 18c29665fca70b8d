//! Work for `scripts/callgrind` to count the shard's instructions of: so many events for so many sessions.

use super::harness::{Client, Gateway, big_event};
use crate::mail::Mail;
use proto::Uuid;

fn number(name: &str) -> u64 {
    std::env::var(name).unwrap().parse().unwrap()
}

#[test]
#[ignore = "a measurement, see scripts/callgrind"]
fn deliver() {
    let (sessions, events) = (number("SESSIONS"), number("EVENTS"));
    let is_fan_out = number("FAN_OUT") == 1;
    let gateway = Gateway::start(1, |settings| settings.recent_bytes_max = 256 * 1024);
    let users: Vec<Uuid> = (0..sessions).map(|_| proto::id::new()).collect();
    let mut clients: Vec<_> =
        users.iter().map(|user| Client::greeted(&gateway, *user, true)).collect();
    for sequence_number in 1..=events {
        let one = usize::try_from(sequence_number % sessions).unwrap();
        let recipients = if is_fan_out { 0..users.len() } else { one..one + 1 };
        let mut event = big_event(384);
        event.sequence_number = sequence_number;
        let delivery = gateway.delivery(users[recipients.clone()].to_vec(), event);
        gateway.mailboxes.get(0).send(Mail::Deliver(delivery)).unwrap();
        for client in &mut clients[recipients] {
            assert_eq!(client.next_sequence_number(), sequence_number);
        }
    }
    gateway.stop();
}
