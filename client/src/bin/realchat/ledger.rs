//! The loss ledger: what was committed, and what became of it at each stage, from the daemons' metrics.
//!
//! ```text
//! committed = relayed + dead letters + waiting          chatd, relay: records
//! relayed   = consumed + lag                            each gateway: records (of its own topic, if it has one)
//! mailed    = recipients reached + without a session    each gateway: recipients
//! ```
//! Each holds in every partition, and is looked at there: what one partition has twice makes up for nothing
//! that another one has lost.
//!
//! Counters begin when a daemon starts, and a gateway begins at its log's end: so two readings are
//! compared, and what a daemon counted before the first is left out.

mod metrics;
mod stages;
mod watch;

use crate::args::Ledger;
use crate::failure::Failure;
use crate::output::Output;
use metrics::{Counts, read_all};
use serde::{Deserialize, Serialize};
use stages::{partitions, stages};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use watch::Window;

/// Counts that stay the same for so long are at rest: longer than chatd samples the outbox.
const REST: Duration = Duration::from_millis(4_000);
const STEP: Duration = Duration::from_millis(250);
/// Between the lines of a watch.
const LINE: Duration = Duration::from_secs(1);

/// Every daemon's counts at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Reading {
    daemons: BTreeMap<String, Counts>,
}

pub(crate) fn run(out: Output, ledger: &Ledger) -> Result<(), Failure> {
    let env = env_file(ledger.dir.as_deref());
    let admins = metrics::admins(&env)?;
    let before = match &ledger.since {
        Some(file) => load(file)?,
        None => Reading::default(),
    };
    if let Some(seconds) = ledger.watch {
        return watch(out, &admins, &before, ledger, Duration::from_secs(seconds));
    }
    let (now, at_rest) = rest(&admins, Duration::from_secs(ledger.seconds))?;
    if let Some(file) = &ledger.save {
        let text = serde_json::to_string(&now).unwrap_or_default();
        std::fs::write(file, text).map_err(|error| Failure::file(file, &error))?;
    }
    let since = now.since(&before).map_err(restarted)?;
    let partitions = partitions(&since, &since);
    for partition in &partitions {
        out.line(partition, &partition.words())?;
    }
    let stages = stages(&since, &partitions);
    for stage in &stages {
        out.line(stage, &stage.words())?;
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

fn restarted(part: String) -> Failure {
    let message = format!("{part} was started again since, so its counts began anew");
    Failure::refused("restarted", message)
}

/// A line a second for each part of the way, while messages flow; fails as soon as something is missing.
fn watch(
    out: Output,
    admins: &BTreeMap<String, String>,
    since: &Reading,
    ledger: &Ledger,
    length: Duration,
) -> Result<(), Failure> {
    let since = match &ledger.since {
        Some(_) => since.clone(),
        None => first(out, admins, Duration::from_secs(ledger.seconds))?,
    };
    let (start, mut window, mut told) = (Instant::now(), Window::default(), Duration::ZERO);
    while start.elapsed() < length {
        std::thread::sleep(STEP);
        let now = Reading { daemons: read_all(admins)? };
        window.add(start.elapsed(), now.since(&since).map_err(restarted)?);
        if told + LINE > start.elapsed() {
            continue;
        }
        told = start.elapsed();
        let rows = window.rows();
        for row in &rows {
            out.line(row, &row.words())?;
        }
        let unaccounted: u64 = rows.iter().map(|it| it.unaccounted).sum();
        if unaccounted > 0 {
            let s = watch::WINDOW.as_secs();
            let message = format!("{unaccounted} that entered more than {s} s ago have not left");
            return Err(Failure::refused("lost", message));
        }
    }
    Ok(())
}

/// What the watch counts from: counts at rest, if they come to rest.
fn first(
    out: Output,
    admins: &BTreeMap<String, String>,
    patience: Duration,
) -> Result<Reading, Failure> {
    let (first, at_rest) = rest(admins, patience)?;
    if !at_rest {
        out.note("the counts do not rest: as many as are under way now may go missing unnoticed");
    }
    Ok(first)
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

    /// The same, as if no row of the outbox had been seen waiting.
    fn without_waiting(&self) -> Self {
        let mut moving = self.clone();
        for counts in moving.daemons.values_mut() {
            counts.waiting = 0;
        }
        moving
    }

    /// The daemons whose names begin so.
    fn daemons(&self, prefix: &str) -> impl Iterator<Item = (&String, &Counts)> {
        self.daemons.iter().filter(move |(name, _)| name.starts_with(prefix))
    }
}

#[cfg(test)]
mod tests;
