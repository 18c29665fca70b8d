//! Dead letters whose reason is gone: published again, once, as they were.

use crate::support::{self, Kafka, Relay, Seen, new_key};
use crate::{Stage, stage};
use proto::topics;
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use std::collections::HashMap;
use std::time::Duration;

/// Writes a letter as the relay and the gateways do.
fn bury(kafka: &Kafka, key: &[u8; 16], value: &[u8]) {
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", &kafka.brokers).create().unwrap();
    let headers = [
        ("event-type", "message.created"),
        ("traceparent", "00-1-2-01"),
        ("dlq-topic", topics::MESSAGE_CREATED),
        ("dlq-error", "no reason any more"),
        ("dlq-attempts", "10"),
    ];
    let headers = headers.iter().fold(OwnedHeaders::new(), |all, (key, value)| {
        all.insert(Header { key, value: Some(*value) })
    });
    let topic = topics::dead_letter(topics::MESSAGE_CREATED);
    let record = BaseRecord::to(&topic).key(key.as_slice()).payload(value).headers(headers);
    producer.send(record).unwrap();
    producer.flush(Duration::from_secs(20)).unwrap();
}

fn places(kafka: &Kafka, key: &[u8; 16]) -> Vec<String> {
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    let (_, printed) = support::dead_letters(&kafka.brokers, &["list"]);
    let lines = printed.lines().filter(|line| line.contains(&hex));
    let place = |line: &str| Some(line.split("\"place\":\"").nth(1)?.split('"').next()?.to_owned());
    lines.filter_map(place).collect()
}

#[test]
fn a_dead_letter_is_published_again_once_and_as_it_was() {
    let Some(Stage { kafka, postgres, .. }) = stage(1) else { return };
    // It makes the topics.
    let relay = Relay::start("relay-1", &postgres, &kafka.brokers);
    support::wait_until(20, "ready", || relay.is_ready() && kafka.has_topics());
    let mut tail = kafka.tail(topics::MESSAGE_CREATED);
    let (replayed, left) = (new_key(), new_key());
    let value = [7_u64.to_be_bytes().as_slice(), b"the rest"].concat();
    bury(&kafka, &replayed, &value);
    bury(&kafka, &left, &value);
    let found = places(&kafka, &replayed);
    let [place] = &found[..] else { panic!("{found:?}") };
    let (status, printed) = support::dead_letters(&kafka.brokers, &["replay", place]);
    assert!(status && printed.contains("replayed"), "{printed}");
    let is_there = |seen: &[Seen]| !seen.is_empty();
    assert!(tail.read_until(20, |key| [replayed, left].contains(key), is_there));
    // Settled: no longer listed, and not published a second time.
    assert_eq!((places(&kafka, &replayed).len(), places(&kafka, &left).len()), (0, 1));
    let (status, printed) = support::dead_letters(&kafka.brokers, &["replay", place]);
    assert!(!status && printed.contains("no such dead letter"), "{printed}");
    assert!(!tail.read_until(1, |key| [replayed, left].contains(key), |seen| seen.len() > 1));
    let [seen] = &tail.seen[..] else { panic!("{:?}", tail.seen) };
    assert_eq!((seen.key, &seen.value), (replayed, &value));
    let own = [("event-type", "message.created"), ("traceparent", "00-1-2-01")];
    let own: HashMap<String, Vec<u8>> =
        own.iter().map(|it| (it.0.to_owned(), it.1.as_bytes().to_vec())).collect();
    assert_eq!(seen.headers, own);
    let left = places(&kafka, &left);
    let (status, printed) = support::dead_letters(&kafka.brokers, &["drop", &left[0]]);
    assert!(status, "{printed}");
}
