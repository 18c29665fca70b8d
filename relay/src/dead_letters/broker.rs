//! The dead-letter topics at the broker: read whole, and written to.

use super::Settlement;
use super::letter::{Letter, Place, open};
use crate::config::Settings;
use crate::envelope::owned_headers;
use crate::limits::{DEAD_LETTER_BYTES_MAX, DEAD_LETTERS_MS_MAX, DEAD_LETTERS_SHOWN_MAX};
use crate::publisher::client_config;
use proto::headers::dead_letter as header;
use proto::topics;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Header, Headers};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use rdkafka::{ClientContext, Message, Offset, TopicPartitionList};
use std::sync::Mutex;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_millis(DEAD_LETTERS_MS_MAX);

pub(super) struct Broker {
    consumer: BaseConsumer,
    producer: ThreadedProducer<Outcome>,
    brokers: String,
}

/// What became of the one record that is under way.
#[derive(Default)]
struct Outcome(Mutex<Option<Result<(), String>>>);

impl ClientContext for Outcome {}

impl ProducerContext for Outcome {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let outcome = result.as_ref().map(|_| ()).map_err(|(error, _)| error.to_string());
        if let Ok(mut slot) = self.0.lock() {
            *slot = Some(outcome);
        }
    }
}

impl Broker {
    pub(super) fn connect(settings: &Settings) -> Result<Self, String> {
        let wrong = |error: KafkaError| format!("kafka.brokers {}: {error}", settings.brokers);
        let mut config = client_config(settings);
        config
            .set("group.id", "realchat-dlq")
            .set("enable.auto.commit", "false")
            .set("fetch.message.max.bytes", DEAD_LETTER_BYTES_MAX.to_string());
        let consumer: BaseConsumer = config.create().map_err(wrong)?;
        let mut config = client_config(settings);
        config
            .set("acks", "all")
            .set("message.max.bytes", DEAD_LETTER_BYTES_MAX.to_string())
            .set("message.timeout.ms", DEAD_LETTERS_MS_MAX.to_string())
            .set("partitioner", "murmur2_random");
        let producer = config.create_with_context(Outcome::default()).map_err(wrong)?;
        Ok(Self { consumer, producer, brokers: settings.brokers.clone() })
    }

    /// All letters that are not settled, in the order of their places; with the values of those that
    /// `has_value` chooses.
    pub(super) fn letters(
        &self,
        has_value: &dyn Fn(&Place) -> bool,
    ) -> Result<Vec<Letter>, String> {
        let (list, mut left) = self.partitions()?;
        if left == 0 {
            return Ok(Vec::new());
        }
        self.consumer.assign(&list).map_err(|error| self.wrong(&error))?;
        let mut records = Vec::new();
        let mut heard_at = Instant::now();
        while left > 0 {
            match self.consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    heard_at = Instant::now();
                    if is_before_end(&list, &message) {
                        left -= 1;
                        records.extend(letter(&message, has_value));
                    }
                }
                Some(Err(error)) => return Err(self.wrong(&error)),
                None if heard_at.elapsed() > PATIENCE => {
                    return Err(format!("{}: {left} records did not come", self.brokers));
                }
                None => {}
            }
            if records.len() > DEAD_LETTERS_SHOWN_MAX {
                return Err(format!(
                    "there are more than {DEAD_LETTERS_SHOWN_MAX} records among the dead letters; \
                     see why, and remove them with Kafka's own tools (kafka-delete-records)"
                ));
            }
        }
        Ok(open(records))
    }

    /// Where to begin in every partition that holds something, the ends in the list's metadata; and
    /// how many records there are in all.
    fn partitions(&self) -> Result<(TopicPartitionList, i64), String> {
        let metadata = self.consumer.fetch_metadata(None, PATIENCE);
        let metadata = metadata.map_err(|error| self.wrong(&error))?;
        let (mut list, mut left) = (TopicPartitionList::new(), 0);
        for topic in topics::ALL {
            let name = topics::dead_letter(topic);
            let found = metadata.topics().iter().find(|it| it.name() == name);
            for partition in found.into_iter().flat_map(|it| it.partitions()) {
                let partition = partition.id();
                let (low, high) = self
                    .consumer
                    .fetch_watermarks(&name, partition, PATIENCE)
                    .map_err(|error| self.wrong(&error))?;
                if high > low {
                    left += high - low;
                    list.add_partition_offset(&name, partition, Offset::Offset(low))
                        .map_err(|error| self.wrong(&error))?;
                    if let Some(mut element) = list.find_partition(&name, partition) {
                        element.set_metadata(high.to_string());
                    }
                }
            }
        }
        Ok((list, left))
    }

    /// Publishes a letter's record once more, to the topic that it was meant for.
    pub(super) fn replay(&self, letter: &Letter) -> Result<(), String> {
        if letter.is_unreadable() {
            let place = &letter.place;
            return Err(format!("{place}: its headers cannot be read, so it can only be dropped"));
        }
        let headers = owned_headers(letter.own_headers());
        let record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(letter.place.topic)
            .key(letter.key.as_slice())
            .payload(letter.value.as_slice());
        self.produce(record.headers(headers)).map_err(|error| format!("{}: {error}", letter.place))
    }

    /// Notes that a letter is settled, with all that are of the same record.
    pub(super) fn settle(&self, letter: &Letter, settlement: Settlement) -> Result<(), String> {
        letter.places().try_for_each(|place| self.settle_at(place, &letter.key, settlement))
    }

    fn settle_at(&self, place: &Place, key: &[u8], settlement: Settlement) -> Result<(), String> {
        let topic = topics::dead_letter(place.topic);
        let offset = place.offset.to_string();
        let headers = owned_headers([
            (header::SETTLES, offset.as_bytes()),
            (header::SETTLED, settlement.word().as_bytes()),
        ]);
        let record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&topic)
            .partition(place.partition)
            .key(key)
            .payload(&[][..])
            .headers(headers);
        self.produce(record).map_err(|error| format!("{place}: {error}"))
    }

    /// Hands one record over and waits until the broker has it.
    fn produce(&self, record: BaseRecord<'_, [u8], [u8]>) -> Result<(), String> {
        let outcome = &self.producer.context().0;
        let take = || outcome.lock().ok().and_then(|mut slot| slot.take());
        take();
        self.producer.send(record).map_err(|(error, _)| error.to_string())?;
        self.producer.flush(PATIENCE * 2).map_err(|error| error.to_string())?;
        take().unwrap_or_else(|| Err("nothing was heard of it".to_owned()))
    }

    fn wrong(&self, error: &KafkaError) -> String {
        format!("kafka.brokers {}: {error}", self.brokers)
    }
}

/// Records that came after the end was looked up are left for the next time.
fn is_before_end(list: &TopicPartitionList, message: &BorrowedMessage<'_>) -> bool {
    let element = list.find_partition(message.topic(), message.partition());
    let end = element.and_then(|it| it.metadata().parse::<i64>().ok());
    end.is_some_and(|end| message.offset() < end)
}

fn letter(message: &BorrowedMessage<'_>, has_value: &dyn Fn(&Place) -> bool) -> Option<Letter> {
    let topic = topics::ALL.into_iter().find(|it| topics::dead_letter(it) == message.topic())?;
    let place = Place { topic, partition: message.partition(), offset: message.offset() };
    let headers = message.headers().map_or_else(Vec::new, |headers| {
        let pair = |it: Header<'_, &[u8]>| (it.key.to_owned(), it.value.unwrap_or(&[]).to_vec());
        headers.iter().map(pair).collect()
    });
    let value = message.payload().unwrap_or_default();
    Some(Letter {
        key: message.key().unwrap_or_default().to_vec(),
        value_bytes: value.len(),
        value: if has_value(&place) { value.to_vec() } else { Vec::new() },
        headers,
        place,
        copies: Vec::new(),
    })
}
