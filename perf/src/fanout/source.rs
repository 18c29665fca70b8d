//! The producing end: events of a fixed size, on an open-loop schedule, into Kafka or a pipe.

use crate::clock::{self, Schedule};
use crate::failure::{Context, Failure, Outcome};
use crate::limits::FANOUT_EVENT_BYTES;
use crate::record::{self, MessageRecord};
use crate::stack::Stack;
use proto::{Uuid, topics};
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use std::collections::BTreeSet;
use std::io::Write;
use std::process::ChildStdin;
use std::time::Duration;

/// Text with which the encoded frame has the wanted size is found by trying; this is the start.
const TEXT_BYTES_GUESS: usize = FANOUT_EVENT_BYTES - 90;
const FLUSH_PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct KafkaSink {
    producer: BaseProducer,
    /// The recipients of each conversation, packed.
    recipients: Vec<Vec<u8>>,
    /// Where their gateways read it.
    topics: Vec<BTreeSet<String>>,
}

pub(crate) enum Sink {
    Kafka(KafkaSink),
    Pipe(ChildStdin),
}

/// One side's events.
pub(crate) struct Source {
    conversations: Vec<Uuid>,
    /// Events so far, of each conversation; the last one's sequence number.
    counts: Vec<u64>,
    sender: Uuid,
    text_bytes: usize,
    next: usize,
    sink: Sink,
}

impl KafkaSink {
    /// User u is in conversation u modulo `conversations`, and `first + u` is its session's number, which says at
    /// which gateway it is (`load::specs`).
    pub(crate) fn open(
        stack: &Stack,
        conversations: usize,
        users: &[Uuid],
        first: usize,
    ) -> Outcome<Self> {
        let brokers = stack.get("KAFKA_BROKERS")?;
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("queue.buffering.max.ms", "0")
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .create()
            .reaching("Kafka")?;
        let recipients = (0..conversations).map(|number| {
            let members = users.iter().skip(number).step_by(conversations);
            proto::id::pack(members)
        });
        let read = read_topics(&producer, stack.gateways()?.len())?;
        let topics = (0..conversations).map(|number| {
            let sessions = (number..users.len()).step_by(conversations).map(|user| first + user);
            sessions.map(|session| read[session % read.len()].clone()).collect()
        });
        Ok(Self { recipients: recipients.collect(), topics: topics.collect(), producer })
    }

    fn send(&self, number: usize, conversation: Uuid, seq: u64, value: &[u8]) -> Outcome {
        let recipients = self.recipients[number].clone();
        let headers = record::headers(seq, daemon::clock::now_us(), recipients);
        let mut owned = OwnedHeaders::new_with_capacity(8);
        for (key, value) in headers.to_pairs() {
            owned = owned.insert(Header { key, value: Some(&value) });
        }
        self.topics[number]
            .iter()
            .try_for_each(|topic| self.send_to(topic, conversation, value, owned.clone()))
    }

    fn send_to(
        &self,
        topic: &str,
        conversation: Uuid,
        value: &[u8],
        headers: OwnedHeaders,
    ) -> Outcome {
        let key = conversation.as_bytes();
        let mut record = BaseRecord::to(topic).key(key.as_slice()).payload(value).headers(headers);
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    self.producer.poll(Duration::from_millis(1));
                }
                Err((error, _)) => return Err(error).reaching("Kafka"),
            }
        }
    }
}

/// Where each of the stack's gateways reads the conversations' logs: in a topic of its own, if it has one.
fn read_topics(producer: &BaseProducer, gateways: usize) -> Outcome<Vec<String>> {
    let metadata = producer.client().fetch_metadata(None, FLUSH_PATIENCE).reaching("Kafka")?;
    let is_there = |name: &String| metadata.topics().iter().any(|it| it.name() == name);
    let topic = |number: usize| {
        // As scripts/up names them.
        let own = topics::of_gateway(&format!("gateway-{number}")).filter(is_there);
        own.unwrap_or_else(|| topics::MESSAGE_CREATED.to_owned())
    };
    Ok((1..=gateways).map(topic).collect())
}

impl Source {
    pub(crate) fn new(conversations: Vec<Uuid>, sink: Sink) -> Self {
        let counts = vec![0; conversations.len()];
        let mut source = Self {
            conversations,
            counts,
            sender: proto::id::new(),
            text_bytes: TEXT_BYTES_GUESS,
            next: 0,
            sink,
        };
        // The size depends on the sequence number's: take that of the middle of a run.
        while source.event(Uuid::nil(), 1_000, u64::MAX >> 24).len() < FANOUT_EVENT_BYTES {
            source.text_bytes += 1;
        }
        source
    }

    /// The number of events of each conversation.
    pub(crate) fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Produces `records` records, each when it is due; gives back how many.
    pub(crate) fn produce(&mut self, schedule: &Schedule, records: u64) -> Outcome<u64> {
        let mut produced = 0;
        let mut batch = Vec::new();
        while let Some(due_us) = schedule.due_us(produced).filter(|_| produced < records) {
            clock::sleep_until(due_us);
            batch.clear();
            let now_us = clock::now_us();
            while let Some(due_us) = schedule.due_us(produced)
                && due_us <= now_us
                && produced < records
            {
                self.one(due_us, &mut batch)?;
                produced += 1;
            }
            match &mut self.sink {
                Sink::Kafka(sink) => sink.producer.poll(Duration::ZERO),
                Sink::Pipe(pipe) => pipe.write_all(&batch).doing("the floor's feed")?,
            }
        }
        if let Sink::Kafka(sink) = &self.sink {
            sink.producer.flush(FLUSH_PATIENCE).reaching("Kafka")?;
        }
        Ok(produced)
    }

    fn one(&mut self, due_us: u64, batch: &mut Vec<u8>) -> Outcome {
        let number = self.next % self.conversations.len();
        self.next += 1;
        self.counts[number] += 1;
        let (conversation, seq) = (self.conversations[number], self.counts[number]);
        let value = self.event(conversation, seq, due_us);
        match &self.sink {
            Sink::Kafka(sink) => sink.send(number, conversation, seq, &value),
            Sink::Pipe(_) => {
                for field in [number, value.len()] {
                    let field = u32::try_from(field)
                        .map_err(|_| Failure::Refused("a record is too large".into()))?;
                    batch.extend_from_slice(&field.to_be_bytes());
                }
                batch.extend_from_slice(&value);
                Ok(())
            }
        }
    }

    /// An encoded event whose text begins with the time at which it was due.
    fn event(&self, conversation: Uuid, seq: u64, due_us: u64) -> Vec<u8> {
        let mut text = format!("{due_us} ");
        text.extend(std::iter::repeat_n('x', self.text_bytes.saturating_sub(text.len())));
        let record = MessageRecord {
            conversation,
            sender: self.sender,
            message_id: proto::id::new(),
            sequence_number: seq,
            message_number: seq,
            created_at_us: daemon::clock::now_us(),
            text,
        };
        record.into_value()
    }
}
