//! Makes the topics at start, and watches the broker afterwards.

use crate::config::Settings;
use crate::directory::Directory;
use crate::limits::{BROKER_PROBE_MS_MAX, BROKER_WATCH_MS, DEAD_LETTER_BYTES_MAX, TOPICS_MS_MAX};
use crate::publisher::client_config;
use daemon::{Config, Health};
use proto::topics;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::MetadataTopic;
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Kafka's client retries by itself; what matters is told by the health conditions.
struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, message, "kafka client");
    }
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "kafka client");
    }
}

/// `relay topics`: an object a topic, as the brokers have it. An error is one line for a person.
pub(crate) fn run(config: &Config, arguments: &[String]) -> Result<(), String> {
    if !arguments.is_empty() {
        return Err("usage: relay topics; it takes no arguments".to_owned());
    }
    let settings = Settings::new(config, "topics".to_owned())?;
    let client: AdminClient<Quiet> = client_config(&settings)
        .create_with_context(Quiet)
        .map_err(|error: KafkaError| error.to_string())?;
    let patience = Duration::from_millis(TOPICS_MS_MAX);
    let metadata = client
        .inner()
        .fetch_metadata(None, patience)
        .map_err(|error| format!("{} does not answer: {error}", settings.brokers))?;
    let mut out = std::io::stdout().lock();
    for name in wanted() {
        let state = describe(&name, metadata.topics().iter().find(|it| it.name() == name));
        writeln!(out, "{state}").map_err(|error| format!("standard output: {error}"))?;
    }
    Ok(())
}

/// A topic without partitions is not there.
fn describe(name: &str, topic: Option<&MetadataTopic>) -> serde_json::Value {
    let partitions = topic.map_or(&[][..], MetadataTopic::partitions);
    let without_leader = partitions.iter().filter(|it| it.leader() < 0).count();
    let under_replicated =
        partitions.iter().filter(|it| it.isr().len() < it.replicas().len()).count();
    serde_json::json!({
        "topic": name,
        "partitions": partitions.len(),
        "without_leader": without_leader,
        "under_replicated": under_replicated,
    })
}

/// Runs until the process ends: sees that all topics are there, makes those that are not.
pub(crate) fn watch(settings: &Settings, health: &Health, directory: &Directory) {
    let mut admin: Option<Arc<AdminClient<Quiet>>> = None;
    loop {
        match look(settings, &mut admin, directory) {
            Ok(missing) if missing.is_empty() => {
                health.ready("kafka");
                health.ready("topics");
            }
            Ok(missing) => {
                health.ready("kafka");
                let made = admin.as_deref().map(|admin| create(settings, admin, &missing));
                if let Some(Err(error)) = made {
                    health.not_ready("topics", error);
                }
                // Seen to be there before they are called ready.
                std::thread::sleep(Duration::from_millis(BROKER_WATCH_MS / 10));
                continue;
            }
            Err(error) => health.not_ready("kafka", error),
        }
        std::thread::sleep(Duration::from_millis(BROKER_WATCH_MS));
    }
}

/// Asks the broker for its topics; returns those of ours that it does not have.
fn look(
    settings: &Settings,
    admin: &mut Option<Arc<AdminClient<Quiet>>>,
    directory: &Directory,
) -> Result<Vec<String>, String> {
    if admin.is_none() {
        let made = client_config(settings).create_with_context(Quiet);
        let made: AdminClient<Quiet> = made.map_err(|error: KafkaError| error.to_string())?;
        *admin = Some(kafka::guard(made, &settings.brokers)?);
    }
    let Some(client) = admin.as_ref() else { return Err("no client".to_owned()) };
    let (patience, asked_at) = (Duration::from_millis(BROKER_PROBE_MS_MAX), Instant::now());
    let metadata = client
        .inner()
        .fetch_metadata(None, patience)
        .map_err(|error| format!("{} does not answer: {error}", settings.brokers))?;
    let there: BTreeMap<&str, usize> =
        metadata.topics().iter().map(|it| (it.name(), it.partitions().len())).collect();
    let missing: Vec<String> =
        wanted().into_iter().filter(|name| !there.contains_key(name.as_str())).collect();
    // An answer without our own topics is one of a broker that does not know yet what there is.
    if missing.is_empty() {
        directory.tell(asked_at, there.keys().copied());
    }
    Ok(missing)
}

/// Every topic and its dead letters.
fn wanted() -> Vec<String> {
    topics::ALL.iter().flat_map(|name| [(*name).to_owned(), topics::dead_letter(name)]).collect()
}

fn create(
    settings: &Settings,
    admin: &AdminClient<Quiet>,
    missing: &[String],
) -> Result<(), String> {
    let dead_letter_bytes = DEAD_LETTER_BYTES_MAX.to_string();
    let new = missing.iter().map(|name| {
        let replication = TopicReplication::Fixed(settings.replication);
        let topic = NewTopic::new(name, settings.partitions, replication);
        if topics::ALL.contains(&name.as_str()) {
            topic
        } else {
            // Kept until somebody has looked at them; and what did not fit elsewhere must fit here.
            topic.set("retention.ms", "-1").set("max.message.bytes", &dead_letter_bytes)
        }
    });
    let new: Vec<NewTopic<'_>> = new.collect();
    let patience = Some(Duration::from_millis(TOPICS_MS_MAX));
    let options = AdminOptions::new().operation_timeout(patience).request_timeout(patience);
    let results = pollster::block_on(admin.create_topics(&new, &options))
        .map_err(|error| format!("creating topics: {error}"))?;
    for result in results {
        match result {
            Ok(name) => tracing::info!(topic = name, "topic created"),
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((name, code)) => return Err(format!("creating {name}: {code}")),
        }
    }
    Ok(())
}
