//! Counts from the daemons' `/metrics`.

use crate::failure::Failure;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(5);

/// By topic, and by partition: of a topic, or where that is not known of the outbox.
pub(super) type ByPartition = BTreeMap<String, BTreeMap<u32, u64>>;

/// What only grows, by metric.
const COUNTED: [(&str, Counted); 11] = [
    ("realchat_chatd_ledger_committed_total", Counted::Committed),
    ("realchat_relay_relayed_total", Counted::Relayed),
    ("realchat_relay_copied_total", Counted::Copied),
    ("realchat_relay_dead_lettered_total", Counted::DeadLettered),
    ("realchat_gateway_records_consumed_total", Counted::Consumed),
    ("realchat_gateway_recipients_mailed_total", Counted::Mailed),
    ("realchat_gateway_recipients_reached_total", Counted::Reached),
    ("realchat_gateway_events_no_session_total", Counted::NoSession),
    ("realchat_gateway_events_enqueued_total", Counted::Enqueued),
    ("realchat_gateway_events_shed_total", Counted::Shed),
    ("realchat_gateway_events_written_total", Counted::Written),
];

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Counted {
    /// By shard of the outbox.
    Committed,
    Relayed,
    /// The same for gateways' own topics.
    Copied,
    /// By topic alone.
    DeadLettered,
    Consumed,
    /// Recipients mailed to shards, those of them with a session, and those without.
    Mailed,
    Reached,
    NoSession,
    /// Events put into sessions' rings, left out, and written.
    Enqueued,
    Shed,
    Written,
}

/// What one daemon counted; nothing of what is not its business.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counts {
    counted: BTreeMap<Counted, ByPartition>,
    /// As they stand: rows of the outbox, frames in rings.
    pub(super) waiting: u64,
    pub(super) queued: u64,
}

impl Counts {
    pub(super) fn parse(text: &str) -> Self {
        let mut counts = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<u64>() else { continue };
            let (name, labels) = name.split_once('{').unwrap_or((name, ""));
            counts.take(name, labels, value);
        }
        counts
    }

    fn take(&mut self, name: &str, labels: &str, value: u64) {
        if let Some((_, counted)) = COUNTED.iter().find(|it| it.0 == name) {
            let topic = label(labels, "topic").unwrap_or_default();
            let place = label(labels, "partition").or_else(|| label(labels, "shard"));
            let place = place.and_then(|it| it.parse().ok()).unwrap_or_default();
            let topics = self.counted.entry(*counted).or_default();
            *topics.entry(topic.to_owned()).or_default().entry(place).or_default() += value;
            return;
        }
        match name {
            "realchat_gateway_send_queue_depth" => self.queued += value,
            "realchat_chatd_outbox_pending_count" => self.waiting += value,
            _ => {}
        }
    }

    pub(super) fn all(&self, counted: Counted) -> impl Iterator<Item = (&str, u32, u64)> {
        let topics = self.counted.get(&counted).into_iter().flatten();
        topics.flat_map(|(topic, partitions)| {
            partitions.iter().map(move |(partition, count)| (topic.as_str(), *partition, *count))
        })
    }

    pub(super) fn sum(&self, counted: Counted) -> u64 {
        self.all(counted).map(|(_, _, count)| count).sum()
    }

    pub(super) fn of(&self, counted: Counted, topic: &str, partition: u32) -> u64 {
        let topics = self.counted.get(&counted);
        let partitions = topics.and_then(|it| it.get(topic));
        partitions.and_then(|it| it.get(&partition)).copied().unwrap_or_default()
    }

    /// Takes away what was counted before, but not from what stands as it is; false if a count is
    /// smaller than it was.
    pub(super) fn subtract(&mut self, before: &Self) -> bool {
        let mut is_after = true;
        for (counted, topics) in &before.counted {
            for (topic, partitions) in topics {
                for (partition, count) in partitions {
                    let topics = self.counted.entry(*counted).or_default();
                    let partitions = topics.entry(topic.clone()).or_default();
                    let place = partitions.entry(*partition).or_default();
                    is_after &= *place >= *count;
                    *place = place.saturating_sub(*count);
                }
            }
        }
        is_after
    }
}

/// The value of a label; nothing if it is empty.
fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let rest = labels.split_once(name)?.1.strip_prefix("=\"")?;
    rest.split('"').next().filter(|it| !it.is_empty())
}

/// The daemons' admin URLs, by name, from a stack's `env` file.
pub(super) fn admins(env: &Path) -> Result<BTreeMap<String, String>, Failure> {
    let text = std::fs::read_to_string(env).map_err(|error| Failure::file(env, &error))?;
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    let admins: BTreeMap<String, String> = pairs
        .filter_map(|(key, value)| {
            let name = key.strip_suffix("_ADMIN_URL")?.to_lowercase().replace('_', "-");
            Some((name, value.trim_matches('\'').to_owned()))
        })
        .collect();
    if admins.is_empty() {
        let message = format!("{} names no daemon's admin port", env.display());
        return Err(Failure::refused("local_file", message));
    }
    Ok(admins)
}

/// Those first to whom messages come last: so nothing is read as left that was not read as entered.
pub(super) fn read_all(
    admins: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, Counts>, Failure> {
    let mut daemons: Vec<_> = admins.iter().collect();
    daemons.sort_by_key(|(name, _)| match name.as_str() {
        name if name.starts_with("gateway") => 0,
        name if name.starts_with("chatd") => 2,
        _ => 1,
    });
    let counts = |(name, url): (&String, &String)| Ok((name.clone(), Counts::parse(&read(url)?)));
    daemons.into_iter().map(counts).collect()
}

fn read(url: &str) -> Result<String, Failure> {
    let unreachable = |error: ureq::Error| Failure::unreachable(format!("{url}/metrics: {error}"));
    let agent: ureq::Agent =
        ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).build().into();
    let answer = agent.get(format!("{url}/metrics")).call().map_err(unreachable)?;
    answer.into_body().read_to_string().map_err(unreachable)
}
