//! The end of a history: what fresh clients sync, and what Kafka holds.

use super::fleet::{Journal, last_numbers, message_of, websocket_urls};
use crate::clock;
use crate::failure::{Context, Failure, Outcome};
use crate::population::{self, Population};
use crate::report::progress;
use crate::stack::Stack;
use crate::tokens::Minter;
use checker::history::{Operation, Writer};
use client::{Options, Session, Update, Waited};
use proto::client::{ServerFrame, event, server_frame};
use proto::{Message, Uuid, topics};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::message::Message as _;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(180);
const STEP: Duration = Duration::from_millis(200);

/// A new device of every user syncs everything, from nothing.
pub(super) fn finals(
    stack: &Stack,
    minter: &Minter,
    population: &Population,
    folder: &Path,
) -> Outcome {
    let urls = websocket_urls(stack)?;
    let last = last_numbers(&stack.database_url()?, population)?;
    let by_user = population.conversations_by_user();
    let journal = Journal::create(&folder.join("final.jsonl"))?;
    progress!("perf: {} fresh clients sync everything", population.users.len());
    for (number, user) in population.users.iter().enumerate() {
        let ids = by_user[number].iter().map(|at| population.conversations[*at].id);
        let wanted: BTreeMap<Uuid, u64> = ids.map(|id| (id, last[&id])).collect();
        let device = proto::id::new();
        let mut options =
            Options::new(urls.clone(), Options::fixed_token(minter.mint(*user, device)?));
        options.resume = true;
        options.acknowledge = false;
        full_sync(options, &format!("{user}/{device}"), &wanted, &journal)?;
    }
    journal.finish()
}

fn full_sync(
    options: Options,
    client: &str,
    wanted: &BTreeMap<Uuid, u64>,
    journal: &Journal,
) -> Outcome {
    let (session, events) = Session::connect(options).doing("a client")?;
    let until_us = give_up_us();
    let mut seen: BTreeMap<Uuid, u64> = BTreeMap::new();
    let is_whole = |seen: &BTreeMap<Uuid, u64>| {
        wanted.iter().all(|(id, last)| seen.get(id).copied().unwrap_or_default() >= *last)
    };
    while !is_whole(&seen) && clock::now_us() < until_us {
        let Waited::Update(update) = events.recv_for(STEP) else { continue };
        let Update::Event(delivery) = update else { continue };
        if delivery.sequence_number == 0 {
            continue;
        }
        let (message_id, body_hash) = message_of(&delivery);
        seen.insert(delivery.conversation, delivery.sequence_number);
        journal.write(&Operation::Final {
            client: client.to_owned(),
            conversation: delivery.conversation.to_string(),
            seq: delivery.sequence_number,
            message_id,
            body_hash,
        });
    }
    session.close();
    for conversation in wanted.keys() {
        let (client, conversation) = (client.to_owned(), conversation.to_string());
        journal.write(&Operation::FinalEnd { client, conversation });
    }
    Ok(())
}

/// The conversations' topic from its first record to its last, once the outbox is empty.
pub(super) fn kafka(stack: &Stack, population: &Population, folder: &Path) -> Outcome {
    wait_relayed(stack)?;
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", stack.get("KAFKA_BROKERS")?)
        .set("group.id", "perf-dump")
        .set("enable.auto.commit", "false")
        .create()
        .reaching("Kafka")?;
    let topic = topics::MESSAGE_CREATED;
    let metadata = patiently(|| consumer.fetch_metadata(Some(topic), PATIENCE))?;
    let partitions = metadata.topics().iter().flat_map(|it| it.partitions());
    let ids: HashSet<Uuid> = population.conversations.iter().map(|it| it.id).collect();
    let mut writer = Writer::create(&folder.join("kafka.jsonl")).doing("the dump of Kafka")?;
    for id in &ids {
        // The creation was inserted by SQL, and never published.
        let operation = Operation::KafkaFrom { conversation: id.to_string(), from: 1 };
        writer.append(&operation).doing("the dump of Kafka")?;
    }
    for partition in partitions.map(|it| it.id()) {
        dump_partition(&consumer, partition, &ids, &mut writer)?;
    }
    writer.flush().doing("the dump of Kafka")
}

fn dump_partition(
    consumer: &BaseConsumer,
    partition: i32,
    ids: &HashSet<Uuid>,
    writer: &mut Writer,
) -> Outcome {
    let topic = topics::MESSAGE_CREATED;
    let (low, high) = patiently(|| consumer.fetch_watermarks(topic, partition, PATIENCE))?;
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, partition, Offset::Offset(low)).reaching("Kafka")?;
    consumer.assign(&assignment).reaching("Kafka")?;
    let until_us = give_up_us();
    let mut next = low;
    while next < high && clock::now_us() < until_us {
        let record = match consumer.poll(STEP) {
            Some(Ok(record)) => record,
            Some(Err(error)) => {
                // A broker that was just lost, or lost its partitions: the client finds the next one.
                progress!("perf: reading Kafka: {error}; going on");
                continue;
            }
            None => {
                // Numbers that no record has (control records) may end a partition.
                let position = consumer.position().reaching("Kafka")?;
                let at = position.find_partition(topic, partition).map(|it| it.offset());
                if let Some(Offset::Offset(at)) = at {
                    next = next.max(at);
                }
                continue;
            }
        };
        next = record.offset() + 1;
        let key = record.key().and_then(|key| Uuid::from_slice(key).ok());
        if let Some(id) = key.filter(|id| ids.contains(id)) {
            let place = (partition, record.offset());
            let operation = operation(id, place, record.payload().unwrap_or_default());
            writer.append(&operation).doing("the dump of Kafka")?;
        }
    }
    if next < high {
        let words = format!("partition {partition} of {topic} was read to {next} of {high} alone");
        return Err(Failure::Unreachable(words));
    }
    Ok(())
}

/// When what is waited for from now on is given up.
fn give_up_us() -> u64 {
    clock::now_us() + u64::try_from(PATIENCE.as_micros()).unwrap_or(u64::MAX)
}

/// Asks brokers that were just lost and are coming back, until one answers.
fn patiently<T>(ask: impl Fn() -> KafkaResult<T>) -> Outcome<T> {
    let until_us = give_up_us();
    loop {
        match ask() {
            Err(_) if clock::now_us() < until_us => std::thread::sleep(STEP),
            answer => return answer.reaching("Kafka"),
        }
    }
}

fn operation(conversation: Uuid, (partition, offset): (i32, i64), value: &[u8]) -> Operation {
    let frame = ServerFrame::decode(value).ok().and_then(|it| it.frame);
    let (seq, message_id) = match frame {
        Some(server_frame::Frame::Event(event)) => {
            let id = match &event.kind {
                Some(event::Kind::Message(message)) => {
                    Some(super::fleet::id_text(&message.message_id))
                }
                _ => None,
            };
            (event.sequence_number, id)
        }
        // No event: number 0 is nobody's, so the checker will say so.
        _ => (0, None),
    };
    let conversation = conversation.to_string();
    Operation::Kafka { conversation, seq, message_id, partition, offset }
}

fn wait_relayed(stack: &Stack) -> Outcome {
    let mut database = population::connect(&stack.database_url()?)?;
    let until_us = give_up_us();
    loop {
        let row = database
            .query_one("SELECT count(*) FROM messaging.outbox", &[])
            .reaching("messaging.outbox")?;
        let waiting: i64 = row.get(0);
        if waiting == 0 || clock::now_us() > until_us {
            return Ok(());
        }
        std::thread::sleep(STEP);
    }
}
