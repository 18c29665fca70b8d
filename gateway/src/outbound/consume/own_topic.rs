//! The topic of a gateway that is routed to: made if it is missing, and waited for until every relay knows it.

use super::client;
use crate::limits::{KAFKA_ASK_MS_MAX, OWN_TOPIC_RETENTION_MS};
use proto::topics;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::time::Duration;

const ASK: Duration = Duration::from_millis(KAFKA_ASK_MS_MAX);

pub(crate) struct OwnTopic {
    pub(super) name: &'static str,
    /// A relay may not know it yet.
    pub(crate) is_new: bool,
    brokers: String,
    group: String,
}

impl OwnTopic {
    /// Sees that the topic is there, with as many partitions as the log. An error is one line for a person.
    pub(crate) fn ensure(brokers: &[String], instance: &str) -> Result<Self, String> {
        let name = topics::of_gateway(instance).ok_or("the instance cannot name a topic")?;
        let (brokers, group) = (brokers.join(","), format!("realchat-{instance}"));
        let consumer = client::connect(&brokers, &group)?;
        let metadata = consumer.fetch_metadata(None, ASK);
        let metadata = metadata.map_err(|error| format!("no broker answers: {error}"))?;
        let find = |name: &str| metadata.topics().iter().find(|it| it.name() == name);
        let log = find(topics::MESSAGE_CREATED).filter(|it| !it.partitions().is_empty());
        let log = log.ok_or("the conversations' log does not exist yet; relay creates it")?;
        let replicas = log.partitions().iter().map(|it| it.replicas().len()).max().unwrap_or(1);
        if find(&name).is_none_or(|it| it.partitions().is_empty()) {
            create(&brokers, &name, log.partitions().len(), replicas)?;
        }
        let mut first = TopicPartitionList::new();
        first.add_partition(&name, 0);
        let committed = consumer.committed_offsets(first, ASK);
        let committed =
            committed.map_err(|error| format!("committed offsets of {name}: {error}"))?;
        let was_seen = |it: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| {
            matches!(it.offset(), Offset::Offset(_))
        };
        let is_new = !committed.elements().iter().any(was_seen);
        // Once in a process's life.
        let name: &'static str = Box::leak(name.into_boxed_str());
        Ok(Self { name, is_new, brokers, group })
    }

    /// Notes that every relay knows the topic, for the next start.
    pub(crate) fn was_seen(&self) {
        let noted = client::connect(&self.brokers, &self.group).and_then(|consumer| {
            let mut list = TopicPartitionList::new();
            // Any offset will do: reading starts at the end.
            list.add_partition_offset(self.name, 0, Offset::Offset(0))
                .and_then(|()| consumer.commit(&list, CommitMode::Sync))
                .map_err(|error| error.to_string())
        });
        if let Err(error) = noted {
            tracing::warn!(error, "the next start will wait for the relays again");
        }
    }
}

fn create(brokers: &str, name: &str, partitions: usize, replicas: usize) -> Result<(), String> {
    let wrong = |error: &dyn std::fmt::Display| format!("creating {name}: {error}");
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .create()
        .map_err(|error| wrong(&error))?;
    let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let retention_ms = OWN_TOPIC_RETENTION_MS.to_string();
    let topic = NewTopic::new(name, number(partitions), TopicReplication::Fixed(number(replicas)))
        .set("retention.ms", &retention_ms);
    let options = AdminOptions::new().operation_timeout(Some(ASK)).request_timeout(Some(ASK));
    let results = pollster::block_on(admin.create_topics([&topic], &options));
    match results.map_err(|error| wrong(&error))?.pop() {
        Some(Err((_, code))) if code != RDKafkaErrorCode::TopicAlreadyExists => Err(wrong(&code)),
        _ => {
            tracing::info!(topic = name, "topic created");
            Ok(())
        }
    }
}
