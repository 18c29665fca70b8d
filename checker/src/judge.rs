//! The checker as a whole: the dump first, then every operation once, then the end.

use super::database::{Database, DatabaseEvent};
use super::history::{self, HistoryError, Operation};
use super::sends::Sends;
use super::verdict::{Verdict, Violation};
use super::views::{Shown, Views};
use std::collections::{BTreeMap, HashSet};
use std::path::Path;

/// Checks the histories of a folder against a dump of the database.
pub fn check(
    folder: &Path,
    dump: impl IntoIterator<Item = DatabaseEvent>,
) -> Result<Verdict, HistoryError> {
    let mut judge = Judge::new(dump);
    for path in history::files(folder)? {
        history::read(&path, |operation: Operation| judge.take(&operation))?;
    }
    Ok(judge.finish())
}

/// One record of a conversation in Kafka.
struct Logged {
    seq: u64,
    message_id: Option<u128>,
    partition: i32,
}

/// Judges one history: the dump first, then [`Self::take`] for each operation, then
/// [`Self::finish`].
pub struct Judge {
    database: Database,
    sends: Sends,
    sessions: Views,
    finals: Views,
    settled: Vec<String>,
    ended: Vec<(String, String)>,
    wire: HashSet<(u32, u32, u64)>,
    kafka: BTreeMap<u32, Vec<Logged>>,
    kafka_from: BTreeMap<u32, u64>,
    verdict: Verdict,
}

impl Judge {
    /// Begins with what the database holds.
    pub fn new(dump: impl IntoIterator<Item = DatabaseEvent>) -> Self {
        let mut verdict = Verdict::default();
        let database = Database::load(dump, &mut verdict);
        Self {
            database,
            sends: Sends::default(),
            sessions: Views::default(),
            finals: Views::default(),
            settled: Vec::new(),
            ended: Vec::new(),
            wire: HashSet::new(),
            kafka: BTreeMap::new(),
            kafka_from: BTreeMap::new(),
            verdict,
        }
    }

    /// Takes the next operation of some file.
    pub fn take(&mut self, operation: &Operation) {
        self.verdict.operations += 1;
        let (database, verdict) = (&mut self.database, &mut self.verdict);
        match operation {
            Operation::Invoke { .. }
            | Operation::Ok { .. }
            | Operation::Fail { .. }
            | Operation::Info { .. } => self.sends.take(operation, database, verdict),
            Operation::Wire { session, conversation, seq, .. } => {
                let place = (self.sessions.viewer(session), database.number(conversation), *seq);
                if !self.wire.insert(place) {
                    verdict.wire_duplicates += 1;
                }
            }
            Operation::Deliver { session, conversation, seq, message_id, body_hash, .. } => {
                let shown = Shown::new(conversation, *seq, message_id, body_hash);
                self.sessions.show(session, &shown, database, verdict);
            }
            Operation::Final { client, conversation, seq, message_id, body_hash } => {
                let shown = Shown::new(conversation, *seq, message_id, body_hash);
                self.finals.show(client, &shown, database, verdict);
            }
            Operation::Member { session, conversation, from } => {
                self.sessions.start(session, conversation, *from, database, verdict);
            }
            Operation::Presence { user, online, told } if *told != Some(*online) => {
                let word = |online| if online { "online" } else { "offline" };
                verdict.violate(Violation::WrongPresence, || {
                    let told = told.map_or("nothing", word);
                    format!("{user} is {}, and who watches was told {told}", word(*online))
                });
            }
            Operation::Settled { session } => self.settled.push(session.clone()),
            Operation::FinalEnd { client, conversation } => {
                self.ended.push((client.clone(), conversation.clone()));
            }
            Operation::KafkaFrom { conversation, from } => {
                self.kafka_from.insert(database.number(conversation), *from);
            }
            Operation::Kafka { conversation, seq, message_id, partition, .. } => {
                let conversation = database.number(conversation);
                let message_id = message_id.as_deref().and_then(super::database::id_number);
                let logged = Logged { seq: *seq, message_id, partition: *partition };
                self.kafka.entry(conversation).or_default().push(logged);
            }
            Operation::Connect { .. }
            | Operation::Presence { .. }
            | Operation::Close { .. }
            | Operation::Sync { .. }
            | Operation::Fault { .. } => {}
        }
    }

    /// Nothing more comes.
    pub fn finish(mut self) -> Verdict {
        let acked = self.sends.finish(&self.database, &mut self.verdict);
        for session in &self.settled {
            self.sessions.finish(session, &self.database, &acked, &mut self.verdict);
        }
        for (client, conversation) in &self.ended {
            let conversation = self.database.number(conversation);
            let viewer = self.finals.viewer(client);
            self.finals.finish_one(viewer, conversation, &self.database, &acked, &mut self.verdict);
        }
        // A history without both was made without a look into Kafka.
        if !self.kafka.is_empty() || !self.kafka_from.is_empty() {
            self.check_kafka(&acked);
        }
        self.verdict.conversations = self.database.len();
        self.verdict.sessions = self.sessions.len();
        self.verdict.close()
    }

    /// The log must hold every event; what is published again (after a crash between publish and
    /// mark) may repeat, but first appearances come in order, and in one partition: nothing orders two.
    fn check_kafka(&mut self, acked: &HashSet<(u32, u64)>) {
        for (conversation, events) in self.database.conversations() {
            let records = self.kafka.get(&conversation).map_or(&[][..], Vec::as_slice);
            let name = self.database.name(conversation);
            let mut highest = 0;
            let mut seen = HashSet::new();
            let partition = records.first().map(|it| it.partition);
            for Logged { seq, message_id, .. } in records {
                if seen.insert(*seq) {
                    if *seq < highest {
                        self.verdict.violate(Violation::Reordered, || {
                            format!("Kafka holds {seq} of {name} after {highest}")
                        });
                    }
                    highest = highest.max(*seq);
                }
                match events.get(seq) {
                    Some(event) if event.message_id == *message_id => {}
                    _ => self.verdict.violate(Violation::Phantom, || {
                        format!("Kafka holds another {seq} of {name} than the database")
                    }),
                }
            }
            if let Some(other) = records.iter().find(|it| Some(it.partition) != partition) {
                self.verdict.violate(Violation::Reordered, || {
                    format!("Kafka holds {} of {name} in another partition", other.seq)
                });
            }
            let from = self.kafka_from.get(&conversation).copied().unwrap_or_default();
            for seq in events.keys().filter(|seq| **seq > from && !seen.contains(seq)) {
                let violation = if acked.contains(&(conversation, *seq)) {
                    Violation::Lost
                } else {
                    Violation::Gap
                };
                self.verdict.violate(violation, || format!("Kafka lacks {seq} of {name}"));
            }
        }
    }
}
