//! Waves that the broker did not acknowledge in time: what of them does it have?
//!
//! Such a wave goes again with another producer, and whatever the broker already had of it would be
//! there twice. A broker that is slow because it is overloaded would so be given every wave again and
//! again. Therefore its log is read first, from the time at which the wave began.

use crate::config::Settings;
use crate::envelope::known_topic;
use crate::limits::{DOUBT_SETTLE_MS, DOUBT_SLACK_MS, DOUBT_STEP_MS_MAX, RECORD_BYTES_MAX};
use crate::publisher::client_config;
use crate::wave::{Outcome, Record};
use proto::topics;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Message, Offset, TopicPartitionList};
use std::borrow::Cow;
use std::collections::hash_map::RandomState;
use std::collections::{BTreeSet, HashMap};
use std::hash::BuildHasher;
use std::time::{Duration, Instant};

const STEP: Duration = Duration::from_millis(DOUBT_STEP_MS_MAX);

/// The records of a wave of which it is not known whether the broker has them, in their order.
#[derive(Debug)]
pub struct Doubt {
    /// When the wave was begun, in milliseconds since the Unix epoch.
    since_ms: u64,
    pub records: Vec<Record>,
    outcomes: Vec<Outcome>,
    hasher: RandomState,
    /// Places in `records` by a hash of what they hold and of the topic; each is found once.
    sought: HashMap<u64, Vec<usize>>,
    /// What of each record was not found, it and its copies, and in which partition it is itself.
    unfound: Vec<(usize, i32)>,
}

impl Doubt {
    pub fn new(since_ms: u64, records: Vec<Record>) -> Self {
        let hasher = RandomState::new();
        let mut sought: HashMap<u64, Vec<usize>> = HashMap::new();
        let mut unfound = vec![(0, 0); records.len()];
        for (index, record) in records.iter().enumerate().rev() {
            for topic in topics_of(record) {
                let hash = hasher.hash_one((&*topic, &record.key[..], &record.value[..]));
                sought.entry(hash).or_default().push(index);
                unfound[index].0 += 1;
            }
        }
        let outcomes = vec![Outcome::Stalled("the broker does not have it".into()); records.len()];
        Self { since_ms, records, outcomes, hasher, sought, unfound }
    }

    /// A record of the log. One is ours only if topic, key and value are the same to the byte.
    pub fn seen(&mut self, (topic, partition): (&str, i32), key: &[u8], value: &[u8]) {
        let hash = self.hasher.hash_one((topic, key, value));
        let Some(places) = self.sought.get_mut(&hash) else { return };
        let is_it = |index: &usize| {
            let record = &self.records[*index];
            topics_of(record).any(|it| it == topic) && record.key == key && record.value == value
        };
        // The first of several that are the same comes last.
        let Some(place) = places.iter().rposition(is_it) else { return };
        let index = places.remove(place);
        let (unfound, own_partition) = &mut self.unfound[index];
        *unfound -= 1;
        if self.records[index].topic == topic {
            *own_partition = partition;
        }
        if *unfound == 0 {
            self.outcomes[index] = Outcome::Acked(*own_partition);
        }
    }

    /// What became of each record, as far as the log was read.
    pub fn outcomes(&self) -> &[Outcome] {
        &self.outcomes
    }

    /// Topics that are not ours have nothing of ours.
    fn topics(&self) -> BTreeSet<String> {
        let known = self.records.iter().filter(|record| known_topic(&record.topic).is_some());
        known.flat_map(topics_of).map(Cow::into_owned).collect()
    }
}

/// Where a record goes: its own topic, and those of gateways.
fn topics_of(record: &Record) -> impl Iterator<Item = Cow<'_, str>> {
    let copies = record.gateways.iter().filter_map(|it| topics::of_gateway(it));
    std::iter::once(Cow::Borrowed(record.topic.as_str())).chain(copies.map(Cow::Owned))
}

/// Reads the log from the doubt's beginning to its end as it is now.
pub(crate) fn read_log(settings: &Settings, doubt: &mut Doubt) -> Result<(), String> {
    let wrong = |error: KafkaError| format!("reading the log again: {error}");
    let mut config = client_config(settings);
    config
        .set("group.id", format!("realchat-relay-{}", settings.instance))
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("fetch.wait.max.ms", "10")
        .set("fetch.message.max.bytes", RECORD_BYTES_MAX.to_string());
    let consumer: BaseConsumer = config.create().map_err(wrong)?;
    let since = i64::try_from(doubt.since_ms.saturating_sub(DOUBT_SLACK_MS)).unwrap_or_default();
    let topics = doubt.topics();
    std::thread::sleep(Duration::from_millis(DOUBT_SETTLE_MS));
    let ends = offsets(&consumer, &topics, Offset::End).map_err(wrong)?;
    let begins = offsets(&consumer, &topics, Offset::Offset(since)).map_err(wrong)?;
    let mut ends: HashMap<(String, i32), i64> = ends
        .elements()
        .iter()
        .filter_map(|it| Some(((it.topic().to_owned(), it.partition()), number(it.offset())?)))
        .collect();
    let mut list = TopicPartitionList::new();
    for begin in begins.elements() {
        let place = (begin.topic().to_owned(), begin.partition());
        match (number(begin.offset()), ends.get(&place)) {
            (Some(from), Some(end)) if from < *end => {
                list.add_partition_offset(&place.0, place.1, Offset::Offset(from)).map_err(wrong)?
            }
            // Nothing is that new.
            _ => drop(ends.remove(&place)),
        }
    }
    consumer.assign(&list).map_err(wrong)?;
    let mut heard_at = Instant::now();
    while !ends.is_empty() {
        match consumer.poll(STEP) {
            Some(Ok(message)) => {
                heard_at = Instant::now();
                let place = (message.topic().to_owned(), message.partition());
                doubt.seen(
                    (&place.0, place.1),
                    message.key().unwrap_or_default(),
                    message.payload().unwrap_or_default(),
                );
                if ends.get(&place).is_some_and(|end| message.offset() + 1 >= *end) {
                    ends.remove(&place);
                }
            }
            Some(Err(error)) => return Err(wrong(error)),
            None if heard_at.elapsed() >= STEP => {
                return Err("reading the log again: the broker does not answer".to_owned());
            }
            None => {}
        }
    }
    Ok(())
}

/// Of every partition of the topics: the end, or the first record that is not older than a time.
fn offsets(
    consumer: &BaseConsumer,
    topics: &BTreeSet<String>,
    at: Offset,
) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::new();
    for topic in topics {
        let metadata = consumer.fetch_metadata(Some(topic), STEP)?;
        for partition in metadata.topics().iter().flat_map(|it| it.partitions()) {
            list.add_partition_offset(topic, partition.id(), at)?;
        }
    }
    let answer = consumer.offsets_for_times(list, STEP)?;
    for element in answer.elements() {
        element.error()?;
    }
    Ok(answer)
}

fn number(offset: Offset) -> Option<i64> {
    match offset {
        Offset::Offset(number) => Some(number),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wave::judge;

    fn record(id: i64, key: u8, value: &[u8]) -> Record {
        let topic = topics::MESSAGE_CREATED.to_owned();
        Record { id, topic, key: vec![key; 16], value: value.to_vec(), ..Record::default() }
    }

    #[test]
    fn only_what_is_the_same_to_the_byte_is_found_and_only_once() {
        let records =
            vec![record(1, 1, b"a"), record(2, 1, b"b"), record(3, 2, b"a"), record(4, 2, b"a")];
        let topic = records[0].topic.clone();
        let mut doubt = Doubt::new(0, records);
        doubt.seen((&topic, 3), &[1; 16], b"a");
        doubt.seen((&topic, 3), &[1; 16], b"a");
        doubt.seen((&topic, 3), &[2; 16], b"a");
        doubt.seen((&topic, 3), &[3; 16], b"b");
        doubt.seen(("another", 3), &[1; 16], b"b");
        let found: Vec<_> = doubt.outcomes().iter().map(|it| *it == Outcome::Acked(3)).collect();
        assert_eq!(found, [true, false, true, false]);
    }

    #[test]
    fn a_record_is_found_once_all_of_its_copies_are() {
        let gateways = vec!["a".into(), "b".into()];
        let mut doubt = Doubt::new(0, vec![Record { gateways, ..record(1, 1, b"x") }]);
        let own = topics::MESSAGE_CREATED;
        let mut outcome = |topic: &str, partition| {
            doubt.seen((topic, partition), &[1; 16], b"x");
            doubt.outcomes()[0].clone()
        };
        assert!(matches!(outcome("chat.gateway.a.v1", 5), Outcome::Stalled(_)));
        assert!(matches!(outcome(own, 3), Outcome::Stalled(_)));
        assert!(matches!(outcome(own, 3), Outcome::Stalled(_)), "the same twice is no copy");
        assert_eq!(outcome("chat.gateway.b.v1", 6), Outcome::Acked(3));
    }

    #[test]
    fn what_is_there_after_one_of_its_key_that_is_not_goes_again() {
        let records = vec![record(1, 1, b"a"), record(2, 1, b"b"), record(3, 2, b"c")];
        let topic = records[0].topic.clone();
        let mut doubt = Doubt::new(0, records);
        doubt.seen((&topic, 3), &[1; 16], b"b");
        doubt.seen((&topic, 3), &[2; 16], b"c");
        assert_eq!(judge(&doubt.records, doubt.outcomes()).published, [(2, 3)]);
    }
}
