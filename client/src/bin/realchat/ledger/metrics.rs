//! Counts from the daemons' `/metrics`.

use crate::failure::Failure;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(5);

/// What one daemon counted; zero of what is not its business.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counts {
    /// By topic, as the next three.
    pub(super) committed: BTreeMap<String, u64>,
    pub(super) relayed: BTreeMap<String, u64>,
    pub(super) dead_lettered: BTreeMap<String, u64>,
    pub(super) consumed: BTreeMap<String, u64>,
    /// Recipients mailed to shards, those of them with a session, and those without.
    pub(super) mailed: u64,
    pub(super) reached: u64,
    pub(super) no_session: u64,
    /// Events put into sessions' rings, left out, and written.
    pub(super) enqueued: u64,
    pub(super) shed: u64,
    pub(super) written: u64,
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
            counts.take(name, topic(labels), value);
        }
        counts
    }

    fn take(&mut self, name: &str, topic: Option<&str>, value: u64) {
        let by_topic = match name {
            "realchat_chatd_ledger_committed_total" => Some(&mut self.committed),
            "realchat_relay_relayed_total" => Some(&mut self.relayed),
            "realchat_relay_dead_lettered_total" => Some(&mut self.dead_lettered),
            "realchat_gateway_records_consumed_total" => Some(&mut self.consumed),
            _ => None,
        };
        if let (Some(by_topic), Some(topic)) = (by_topic, topic) {
            *by_topic.entry(topic.to_owned()).or_default() += value;
            return;
        }
        let place = match name {
            "realchat_gateway_recipients_mailed_total" => &mut self.mailed,
            "realchat_gateway_recipients_reached_total" => &mut self.reached,
            "realchat_gateway_events_no_session_total" => &mut self.no_session,
            "realchat_gateway_events_enqueued_total" => &mut self.enqueued,
            "realchat_gateway_events_shed_total" => &mut self.shed,
            "realchat_gateway_events_written_total" => &mut self.written,
            "realchat_gateway_send_queue_depth" => &mut self.queued,
            "realchat_chatd_outbox_pending_count" => &mut self.waiting,
            _ => return,
        };
        *place += value;
    }

    /// Takes away what was counted before, but not from what stands as it is; false if a count is
    /// smaller than it was.
    pub(super) fn subtract(&mut self, before: &Self) -> bool {
        let maps = [
            (&mut self.committed, &before.committed),
            (&mut self.relayed, &before.relayed),
            (&mut self.dead_lettered, &before.dead_lettered),
            (&mut self.consumed, &before.consumed),
        ];
        let mut is_after = true;
        for (now, before) in maps {
            for (topic, count) in before {
                let place = now.entry(topic.clone()).or_default();
                is_after &= *place >= *count;
                *place = place.saturating_sub(*count);
            }
        }
        let numbers = [
            (&mut self.mailed, before.mailed),
            (&mut self.reached, before.reached),
            (&mut self.no_session, before.no_session),
            (&mut self.enqueued, before.enqueued),
            (&mut self.shed, before.shed),
            (&mut self.written, before.written),
        ];
        for (now, before) in numbers {
            is_after &= *now >= before;
            *now = now.saturating_sub(before);
        }
        is_after
    }
}

/// The value of the label `topic`.
fn topic(labels: &str) -> Option<&str> {
    labels.split_once("topic=\"")?.1.split('"').next()
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

pub(super) fn read_all(
    admins: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, Counts>, Failure> {
    admins.iter().map(|(name, url)| Ok((name.clone(), Counts::parse(&read(url)?)))).collect()
}

fn read(url: &str) -> Result<String, Failure> {
    let unreachable = |error: ureq::Error| Failure::unreachable(format!("{url}/metrics: {error}"));
    let agent: ureq::Agent =
        ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).build().into();
    let answer = agent.get(format!("{url}/metrics")).call().map_err(unreachable)?;
    answer.into_body().read_to_string().map_err(unreachable)
}
