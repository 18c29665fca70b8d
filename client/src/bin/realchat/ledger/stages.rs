//! The ledger's equations: in each partition, and added up. Pure.

use super::Reading;
use super::metrics::{Counted, Counts};
use proto::limits::OUTBOX_SHARDS;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// What one daemon did with one partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Partition {
    /// `relay`, or a gateway.
    pub(super) part: String,
    pub(super) topic: String,
    pub(super) partition: u32,
    /// Of several partitions together: those that leave `partition` as the rest of a division by this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) modulo: Option<u32>,
    pub(super) counts: BTreeMap<&'static str, u64>,
    /// Records and recipients that entered and left nowhere.
    pub(super) unaccounted: u64,
}

/// One equation over all partitions, and its numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Stage {
    pub(super) stage: String,
    pub(super) entered: u64,
    pub(super) left: BTreeMap<&'static str, u64>,
    /// What entered and left nowhere; what comes twice (after a crash, say) is no loss.
    pub(super) unaccounted: u64,
    pub(super) again: u64,
}

/// Partitions in which something was counted: what had entered by one reading, and what had left by the
/// same or a later one.
pub(super) fn partitions(entered: &Reading, left: &Reading) -> Vec<Partition> {
    let mut all = committed(entered, left);
    for (name, gateway) in left.daemons("gateway") {
        all.extend(consumed(entered, name, gateway));
    }
    all
}

/// chatd knows a record's shard of the outbox, the relay its partition. Both are what one hash leaves when
/// it is divided, by the number of shards and of partitions: so they agree in what it leaves when it is
/// divided by what both numbers can be divided by.
fn committed(entered: &Reading, left: &Reading) -> Vec<Partition> {
    let mut rows = Vec::new();
    let mut explained = total(left, "relay", Counted::DeadLettered);
    explained += left.daemons("chatd").map(|(_, it)| it.waiting).sum::<u64>();
    for topic in topics(entered, Counted::Committed) {
        let count = count_partitions(left, &topic);
        let modulo = divisor(count, u32::from(OUTBOX_SHARDS));
        let classes = |reading: &Reading, prefix: &'static str, counted| {
            let mut classes: BTreeMap<u32, u64> = BTreeMap::new();
            for (_, it) in reading.daemons(prefix) {
                for (_, place, count) in it.all(counted).filter(|it| it.0 == topic) {
                    *classes.entry(place % modulo).or_default() += count;
                }
            }
            classes
        };
        let relayed = classes(left, "relay", Counted::Relayed);
        for (partition, committed) in classes(entered, "chatd", Counted::Committed) {
            let relayed = relayed.get(&partition).copied().unwrap_or_default();
            let missing = committed.saturating_sub(relayed);
            let unaccounted = missing.saturating_sub(explained);
            explained -= missing - unaccounted;
            rows.push(Partition {
                part: "relay".to_owned(),
                topic: topic.clone(),
                partition,
                modulo: (modulo != count).then_some(modulo),
                counts: BTreeMap::from([("committed", committed), ("relayed", relayed)]),
                unaccounted,
            });
        }
    }
    rows.retain(|it| it.counts.values().any(|count| *count > 0));
    rows
}

fn consumed(entered: &Reading, name: &str, gateway: &Counts) -> Vec<Partition> {
    let mut rows = Vec::new();
    let mailed = |topic: &str, partition| {
        let earlier = entered.daemons.get(name);
        earlier.map_or(0, |it| it.of(Counted::Mailed, topic, partition))
    };
    // Partitions beyond those that a gateway counts one by one have no name there.
    let mut unnamed = gateway.of(Counted::Reached, "", 0) + gateway.of(Counted::NoSession, "", 0);
    for (topic, partition, consumed) in gateway.all(Counted::Consumed) {
        let of = |counted| gateway.of(counted, topic, partition);
        let relays = entered.daemons("relay").map(|(_, it)| {
            it.of(Counted::Relayed, topic, partition) + it.of(Counted::Copied, topic, partition)
        });
        let (relayed, mailed) = (relays.sum::<u64>(), mailed(topic, partition));
        let (reached, no_session) = (of(Counted::Reached), of(Counted::NoSession));
        let missing = mailed.saturating_sub(reached + no_session);
        let recipients = missing.saturating_sub(unnamed);
        unnamed -= missing - recipients;
        let counts = BTreeMap::from([
            ("relayed", relayed),
            ("consumed", consumed),
            ("mailed", mailed),
            ("reached", reached),
            ("no_session", no_session),
            ("enqueued", of(Counted::Enqueued)),
            ("shed", of(Counted::Shed)),
            ("written", of(Counted::Written)),
        ]);
        if counts.values().any(|count| *count > 0) {
            rows.push(Partition {
                part: name.to_owned(),
                topic: topic.to_owned(),
                partition,
                modulo: None,
                counts,
                unaccounted: relayed.saturating_sub(consumed) + recipients,
            });
        }
    }
    rows
}

/// As many as any gateway reads; 1 if there is none.
fn count_partitions(reading: &Reading, topic: &str) -> u32 {
    let of = |counts: &Counts| counts.all(Counted::Consumed).filter(|it| it.0 == topic).count();
    let count = reading.daemons("gateway").map(|(_, it)| of(it)).max().unwrap_or_default();
    u32::try_from(count).unwrap_or(u32::MAX).max(1)
}

/// The greatest common one.
fn divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { divisor(b, a % b) }
}

fn topics(reading: &Reading, counted: Counted) -> BTreeSet<String> {
    let of = |counts: &Counts| -> Vec<String> {
        counts.all(counted).map(|(topic, ..)| topic.to_owned()).collect()
    };
    reading.daemons.values().flat_map(of).collect()
}

fn total(reading: &Reading, prefix: &str, counted: Counted) -> u64 {
    reading.daemons(prefix).map(|(_, it)| it.sum(counted)).sum()
}

/// The equations over all partitions: what is unaccounted for in any of them is in their sums.
pub(super) fn stages(reading: &Reading, partitions: &[Partition]) -> Vec<Stage> {
    let waiting = reading.daemons("chatd").map(|(_, it)| it.waiting).sum();
    let left = BTreeMap::from([
        ("relayed", total(reading, "relay", Counted::Relayed)),
        ("dead_letters", total(reading, "relay", Counted::DeadLettered)),
        ("waiting", waiting),
    ]);
    let committed = total(reading, "chatd", Counted::Committed);
    let lost: u64 =
        partitions.iter().filter(|it| it.part == "relay").map(|it| it.unaccounted).sum();
    let mut stages = vec![Stage::new("committed".into(), committed, left, lost)];
    for (name, gateway) in reading.daemons("gateway") {
        let rows = || partitions.iter().filter(|it| it.part == *name);
        for topic in topics(reading, Counted::Consumed) {
            let of = |row: &Partition, word| row.counts.get(word).copied().unwrap_or_default();
            let rows = || rows().filter(|it| it.topic == topic);
            let relayed: u64 = rows().map(|it| of(it, "relayed")).sum();
            if relayed > 0 {
                let consumed = rows().map(|it| of(it, "consumed")).sum();
                let lost =
                    rows().map(|it| of(it, "relayed").saturating_sub(of(it, "consumed"))).sum();
                let left = BTreeMap::from([("consumed", consumed)]);
                stages.push(Stage::new(format!("{name} {topic}"), relayed, left, lost));
            }
        }
        stages.push(recipients(name, gateway, rows()));
        stages.push(sessions(name, gateway));
    }
    stages
}

fn recipients<'a>(
    name: &str,
    gateway: &Counts,
    rows: impl Iterator<Item = &'a Partition>,
) -> Stage {
    let records = |row: &Partition| row.counts["relayed"].saturating_sub(row.counts["consumed"]);
    let lost = rows.map(|row| row.unaccounted - records(row)).sum();
    let (reached, no_session) = (gateway.sum(Counted::Reached), gateway.sum(Counted::NoSession));
    let left = BTreeMap::from([("reached", reached), ("no_session", no_session)]);
    Stage::new(format!("{name} recipients"), gateway.sum(Counted::Mailed), left, lost)
}

/// What sessions got. One that ends takes along what it had not yet written: it is synced when its
/// device comes back, and so no loss.
fn sessions(name: &str, gateway: &Counts) -> Stage {
    let (enqueued, shed) = (gateway.sum(Counted::Enqueued), gateway.sum(Counted::Shed));
    let written = gateway.sum(Counted::Written).min(enqueued);
    let left = BTreeMap::from([
        ("written", written),
        ("queued", gateway.queued),
        ("shed", shed),
        ("ended_before", enqueued.saturating_sub(written + gateway.queued)),
    ]);
    Stage { again: 0, ..Stage::new(format!("{name} sessions"), enqueued + shed, left, 0) }
}

impl Partition {
    /// Records.
    pub(super) fn entered(&self) -> u64 {
        let of = |word| self.counts.get(word).copied();
        of("committed").or_else(|| of("relayed")).unwrap_or_default()
    }

    /// The line for people.
    pub(super) fn words(&self) -> String {
        const ORDER: [&str; 9] = [
            "committed",
            "relayed",
            "consumed",
            "mailed",
            "reached",
            "no_session",
            "enqueued",
            "shed",
            "written",
        ];
        let counts = ORDER.iter().filter_map(|word| {
            let count = self.counts.get(word)?;
            Some(format!("{} {count:<7}", word.replace('_', " ")))
        });
        let counts: Vec<String> = counts.collect();
        let (part, topic, unaccounted) = (&self.part, &self.topic, self.unaccounted);
        let modulo = self.modulo.map(|it| format!(" mod {it}")).unwrap_or_default();
        let place = format!("{}{modulo}", self.partition);
        format!("{part:<10} {topic:<31} {place:<4} {} unaccounted {unaccounted}", counts.join(" "))
    }
}

impl Stage {
    fn new(stage: String, entered: u64, left: BTreeMap<&'static str, u64>, lost: u64) -> Self {
        let again = left.values().sum::<u64>().saturating_sub(entered);
        Self { stage, entered, left, unaccounted: lost, again }
    }

    /// The line for people.
    pub(super) fn words(&self) -> String {
        let left = self.left.iter();
        let left: Vec<String> =
            left.map(|(name, count)| format!("{} {count}", name.replace('_', " "))).collect();
        let again = match self.again {
            0 => String::new(),
            again => format!(", {again} more than entered (again, or before the first count)"),
        };
        let (name, entered, unaccounted) = (&self.stage, self.entered, self.unaccounted);
        format!("{name}: {entered} = {}; unaccounted {unaccounted}{again}", left.join(" + "))
    }
}
