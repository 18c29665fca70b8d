//! `relay gateways`: the gateways that have topics of their own, and the end of one that is gone for good.

use crate::config::Settings;
use crate::limits::{DEAD_LETTERS_MS_MAX, REDIS_MS_MAX, TOPICS_MS_MAX};
use crate::publisher::client_config;
use crate::redis_connection;
use daemon::Config;
use proto::routes::claim_key;
use proto::topics;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::KafkaError;
use std::io::Write;
use std::time::Duration;

const USAGE: &str = "relay gateways list | forget NAME; forget deletes the topic of a gateway that will not come \
    back, which is sent everything as long as it is there";

/// Runs the command. An error is one line for a person.
pub(crate) fn run(config: &Config, arguments: &[String]) -> Result<(), String> {
    let settings = Settings::new(config, "gateways".to_owned())?;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["list"] => list(&settings),
        ["forget", gateway] => forget(&settings, gateway),
        _ => Err(format!("usage: {USAGE}")),
    }
}

fn admin(settings: &Settings) -> Result<AdminClient<DefaultClientContext>, String> {
    client_config(settings).create().map_err(|error: KafkaError| error.to_string())
}

fn list(settings: &Settings) -> Result<(), String> {
    let mut out = std::io::stdout().lock();
    for gateway in gateways(settings)? {
        let line = serde_json::json!({
            "gateway": gateway,
            "topic": topics::of_gateway(&gateway),
            "is_routed": is_routed(settings, &gateway)?,
        });
        writeln!(out, "{line}").map_err(|error| format!("standard output: {error}"))?;
    }
    Ok(())
}

fn gateways(settings: &Settings) -> Result<Vec<String>, String> {
    let patience = Duration::from_millis(DEAD_LETTERS_MS_MAX);
    let metadata = admin(settings)?
        .inner()
        .fetch_metadata(None, patience)
        .map_err(|error| format!("{} does not answer: {error}", settings.brokers))?;
    let names = metadata.topics().iter().filter_map(|it| topics::gateway_of(it.name()));
    let mut gateways: Vec<String> = names.map(str::to_owned).collect();
    gateways.sort_unstable();
    Ok(gateways)
}

/// Whether the gateway says that Redis has all of its users: it runs.
fn is_routed(settings: &Settings, gateway: &str) -> Result<bool, String> {
    if settings.redis_url.is_empty() {
        return Ok(false);
    }
    let wrong = |error: redis::RedisError| format!("redis: {error}");
    let client = redis::Client::open(settings.redis_url.as_str()).map_err(wrong)?;
    let patience = Duration::from_millis(REDIS_MS_MAX);
    let mut connection = redis_connection::connect(&client, patience).map_err(wrong)?;
    redis::cmd("EXISTS").arg(claim_key(gateway)).query(&mut connection).map_err(wrong)
}

fn forget(settings: &Settings, gateway: &str) -> Result<(), String> {
    let gateways = gateways(settings)?;
    if !gateways.iter().any(|it| it == gateway) {
        let known = if gateways.is_empty() { "none".to_owned() } else { gateways.join(", ") };
        return Err(format!("no gateway {gateway:?} has a topic of its own; these have: {known}"));
    }
    if is_routed(settings, gateway)? {
        return Err(format!("{gateway} runs; stop it first"));
    }
    let topic = topics::of_gateway(gateway).unwrap_or_default();
    let patience = Some(Duration::from_millis(TOPICS_MS_MAX));
    let options = AdminOptions::new().operation_timeout(patience).request_timeout(patience);
    let admin = admin(settings)?;
    let results = pollster::block_on(admin.delete_topics(&[&topic], &options))
        .map_err(|error| format!("deleting {topic}: {error}"))?;
    match results.into_iter().next() {
        Some(Err((_, code))) => Err(format!("deleting {topic}: {code}")),
        _ => {
            let line = serde_json::json!({ "gateway": gateway, "deleted": topic });
            let mut out = std::io::stdout().lock();
            writeln!(out, "{line}").map_err(|error| format!("standard output: {error}"))
        }
    }
}
