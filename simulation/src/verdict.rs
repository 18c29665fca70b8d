//! The end of a run: the stores are dumped, and the checker judges.

use crate::Outside;
use crate::broker::LogRecord;
use crate::edits;
use crate::limits::PROBE_US_MAX;
use crate::membership;
use checker::history::{Operation, body_hash};
use checker::{DatabaseEvent, Judge, Verdict};
use proto::client::{ServerFrame, event, server_frame};
use proto::{Message, Uuid, topics};

/// How often something came up that a run should come across.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Met {
    /// Resumes that a gateway's recent events answered.
    pub resumes_from_cache: u64,
    /// Resumes that chatd answered.
    pub resumes_from_chatd: u64,
    /// Sends that were acknowledged.
    pub acked: u64,
    /// Frames that repeated an event on a device's wire.
    pub wire_duplicates: u64,
    /// Records that the broker has more than once.
    pub published_twice: u64,
    /// Records that a gateway could not read.
    pub dead_letters: u64,
    /// Events on the bus.
    pub events: u64,
}

/// What came of a run.
#[derive(Debug)]
pub struct Run {
    /// What it followed from.
    pub seed: u64,
    /// Every broken promise, in words; none: all were kept.
    pub violations: Vec<String>,
    /// Of all that happened: the same for two runs of a seed.
    pub digest: u64,
    /// What it came across.
    pub met: Met,
    /// All that happened, if that was asked for.
    pub trace: String,
}

/// Judges what is written down.
pub(crate) fn judge(mut outside: Outside, seed: u64) -> Run {
    let verdict = check(&outside);
    outside.met.acked = verdict.acked;
    outside.met.wire_duplicates = verdict.wire_duplicates;
    outside.met.published_twice = published_twice(&outside);
    outside.met.events = outside.bus.handled();
    let mut violations = outside.violations.clone();
    violations.extend(outside.database.borrow().violations.iter().cloned());
    violations.extend(late_probe(&outside));
    violations.extend(membership::judge(&outside));
    violations.extend(edits::judge(&outside));
    violations.extend(verdict.violations);
    let (digest, trace) = (outside.bus.digest(), outside.bus.take_trace());
    Run { seed, violations, digest, met: outside.met, trace }
}

fn check(outside: &Outside) -> Verdict {
    let database = outside.database.borrow();
    let dump = database.state.log.iter().map(|((conversation, seq), logged)| {
        let is_message = logged.is_message();
        DatabaseEvent {
            conversation: conversation.to_string(),
            seq: *seq,
            message_id: logged.message_id.filter(|_| is_message).map(|id| id.to_string()),
            sender: is_message.then(|| logged.sender.to_string()),
            key: is_message.then(|| logged.key.clone()),
            body_hash: logged.text.as_deref().filter(|_| is_message).map(body_hash),
        }
    });
    let mut judge = Judge::new(dump);
    for operation in &outside.history {
        judge.take(operation);
    }
    for conversation in database.state.conversations.keys() {
        // The creation was there from the beginning, and never published.
        judge.take(&Operation::KafkaFrom { conversation: conversation.to_string(), from: 1 });
    }
    for ((partition, offset), record) in log(outside) {
        let (seq, message_id) = numbers(&record.value);
        let conversation = Uuid::from_slice(&record.key).unwrap_or_default().to_string();
        judge.take(&Operation::Kafka { conversation, seq, message_id, partition, offset });
    }
    judge.finish()
}

/// Sequence number and message id of a record; number 0 is nobody's, so the checker will say so.
fn numbers(value: &[u8]) -> (u64, Option<String>) {
    let Ok(ServerFrame { frame: Some(server_frame::Frame::Event(event)), .. }) =
        ServerFrame::decode(value)
    else {
        return (0, None);
    };
    let id = match &event.kind {
        Some(event::Kind::Message(it)) => Uuid::from_slice(&it.message_id).ok(),
        _ => None,
    };
    (event.sequence_number, id.map(|id| id.to_string()))
}

/// What ours wrote, each with its partition and offset.
fn log(outside: &Outside) -> impl Iterator<Item = ((i32, i64), &LogRecord)> {
    outside.broker.all(topics::MESSAGE_CREATED).filter(|(_, it)| !it.is_poison)
}

fn published_twice(outside: &Outside) -> u64 {
    let mut seen = std::collections::BTreeSet::new();
    log(outside).filter(|(_, it)| !seen.insert((&it.key, &it.value))).count() as u64
}

fn late_probe(outside: &Outside) -> Option<String> {
    let probe = outside.probe.as_ref()?;
    let took_us = probe.came_us.map(|at_us| at_us - probe.sent_us);
    (took_us.is_none_or(|it| it > PROBE_US_MAX))
        .then(|| format!("the probe message was delivered after {took_us:?} us"))
}

impl std::ops::AddAssign for Met {
    fn add_assign(&mut self, other: Self) {
        self.resumes_from_cache += other.resumes_from_cache;
        self.resumes_from_chatd += other.resumes_from_chatd;
        self.acked += other.acked;
        self.wire_duplicates += other.wire_duplicates;
        self.published_twice += other.published_twice;
        self.dead_letters += other.dead_letters;
        self.events += other.events;
    }
}
