//! The loss ledger: what was committed, and what became of it at each stage, from the daemons' metrics.
//!
//! ```text
//! committed = relayed + dead letters + waiting          chatd, relay: records
//! relayed   = consumed + lag                            each gateway: records, by topic
//! mailed    = recipients reached + without a session    each gateway: recipients
//! ```
//!
//! Counters begin when a daemon starts, and a gateway begins at its log's end: so two readings are
//! compared, and what a daemon counted before the first is left out.

mod metrics;

use crate::args::Ledger;
use crate::failure::Failure;
use crate::output::Output;
use metrics::{Counts, read_all};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Counts that stay the same for so long are at rest: longer than chatd samples the outbox.
const REST: Duration = Duration::from_millis(4_000);
const STEP: Duration = Duration::from_millis(250);

/// Every daemon's counts at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Reading {
    daemons: BTreeMap<String, Counts>,
}

/// One equation and its numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Stage {
    stage: String,
    entered: u64,
    left: BTreeMap<&'static str, u64>,
    /// What entered and left nowhere; what comes twice (after a crash, say) is no loss.
    unaccounted: u64,
    again: u64,
}

pub(crate) fn run(out: Output, ledger: &Ledger) -> Result<(), Failure> {
    let env = env_file(ledger.dir.as_deref());
    let admins = metrics::admins(&env)?;
    let before = match &ledger.since {
        Some(file) => load(file)?,
        None => Reading::default(),
    };
    let (now, at_rest) = rest(&admins, Duration::from_secs(ledger.seconds))?;
    if let Some(file) = &ledger.save {
        let text = serde_json::to_string(&now).unwrap_or_default();
        std::fs::write(file, text).map_err(|error| Failure::file(file, &error))?;
    }
    let since = now.since(&before).map_err(|part| {
        let message = format!("{part} was started again since, so its counts began anew");
        Failure::refused("restarted", message)
    })?;
    let stages = since.stages();
    for stage in &stages {
        out.line(stage, &words(stage))?;
    }
    let unaccounted: u64 = stages.iter().map(|it| it.unaccounted).sum();
    match (unaccounted, at_rest) {
        (0, _) => Ok(()),
        // Without a first reading the stages began at different times.
        _ if ledger.since.is_none() => {
            let message = "these are counts since each daemon's start; give --save FILE now and \
                           --since FILE later to have what came between";
            out.note(message);
            Ok(())
        }
        (_, false) => Err(Failure::refused(
            "not_at_rest",
            format!(
                "{unaccounted} are unaccounted for, but after {} s the counts still move",
                ledger.seconds
            ),
        )),
        (_, true) => Err(Failure::refused("lost", format!("{unaccounted} are unaccounted for"))),
    }
}

/// Where a stack's variables are: of the folder that was named, or of the one in the environment.
fn env_file(dir: Option<&Path>) -> PathBuf {
    let named = dir.map(Path::to_path_buf);
    let found = named.or_else(|| std::env::var_os("REALCHAT_DIR").map(PathBuf::from));
    found.unwrap_or_else(|| PathBuf::from(".run")).join("env")
}

fn load(file: &Path) -> Result<Reading, Failure> {
    let text = std::fs::read_to_string(file).map_err(|error| Failure::file(file, &error))?;
    serde_json::from_str(&text).map_err(|error| {
        Failure::refused("local_file", format!("{} is no saved ledger: {error}", file.display()))
    })
}

/// Reads until the counts rest; whether they do.
fn rest(admins: &BTreeMap<String, String>, patience: Duration) -> Result<(Reading, bool), Failure> {
    let until = Instant::now() + patience;
    let mut last = Reading { daemons: read_all(admins)? };
    let mut since = Instant::now();
    while since.elapsed() < REST {
        if Instant::now() >= until {
            return Ok((last, false));
        }
        std::thread::sleep(STEP);
        let now = Reading { daemons: read_all(admins)? };
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    Ok((last, true))
}

impl Reading {
    /// What was counted since; the name of a daemon that was started again.
    fn since(&self, before: &Self) -> Result<Self, String> {
        let mut since = self.clone();
        for (name, counts) in &mut since.daemons {
            if let Some(before) = before.daemons.get(name)
                && !counts.subtract(before)
            {
                return Err(name.clone());
            }
        }
        Ok(since)
    }

    fn sum(&self, prefix: &str, read: impl Fn(&Counts) -> u64) -> u64 {
        let of = self.daemons.iter().filter(|(name, _)| name.starts_with(prefix));
        of.map(|(_, counts)| read(counts)).sum()
    }

    fn stages(&self) -> Vec<Stage> {
        let all = |counts: &BTreeMap<String, u64>| counts.values().sum::<u64>();
        let committed = self.sum("chatd", |it| all(&it.committed));
        let left = BTreeMap::from([
            ("relayed", self.sum("relay", |it| all(&it.relayed))),
            ("dead_letters", self.sum("relay", |it| all(&it.dead_lettered))),
            ("waiting", self.sum("chatd", |it| it.waiting)),
        ]);
        let mut stages = vec![Stage::new("committed".into(), committed, left)];
        for (name, gateway) in self.daemons.iter().filter(|(name, _)| name.starts_with("gateway")) {
            let topics: BTreeSet<&String> = gateway.consumed.keys().collect();
            let of = |counts: &BTreeMap<String, u64>, topic: &String| {
                counts.get(topic).copied().unwrap_or_default()
            };
            for topic in topics {
                let relayed = self.sum("relay", |it| of(&it.relayed, topic));
                if relayed > 0 {
                    let left = BTreeMap::from([("consumed", of(&gateway.consumed, topic))]);
                    stages.push(Stage::new(format!("{name} {topic}"), relayed, left));
                }
            }
            let left =
                BTreeMap::from([("reached", gateway.reached), ("no_session", gateway.no_session)]);
            stages.push(Stage::new(format!("{name} recipients"), gateway.mailed, left));
            stages.push(gateway.sessions(name));
        }
        stages
    }
}

impl Stage {
    fn new(stage: String, entered: u64, left: BTreeMap<&'static str, u64>) -> Self {
        let sum: u64 = left.values().sum();
        let (unaccounted, again) = (entered.saturating_sub(sum), sum.saturating_sub(entered));
        Self { stage, entered, left, unaccounted, again }
    }
}

impl Counts {
    /// What sessions got. One that ends takes along what it had not yet written: it is synced when its
    /// device comes back, and so no loss.
    fn sessions(&self, name: &str) -> Stage {
        let written = self.written.min(self.enqueued);
        let left = BTreeMap::from([
            ("written", written),
            ("queued", self.queued),
            ("shed", self.shed),
            ("ended_before", self.enqueued.saturating_sub(written + self.queued)),
        ]);
        let entered = self.enqueued + self.shed;
        Stage { unaccounted: 0, again: 0, ..Stage::new(format!("{name} sessions"), entered, left) }
    }
}

fn words(stage: &Stage) -> String {
    let left: Vec<String> = stage
        .left
        .iter()
        .map(|(name, count)| format!("{} {count}", name.replace('_', " ")))
        .collect();
    let again = match stage.again {
        0 => String::new(),
        again => format!(", {again} more than entered (again, or before the first count)"),
    };
    let (name, entered, unaccounted) = (&stage.stage, stage.entered, stage.unaccounted);
    format!("{name}: {entered} = {}; unaccounted {unaccounted}{again}", left.join(" + "))
}

#[cfg(test)]
mod tests;
