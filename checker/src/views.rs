//! What observers were shown: sessions while they lived, fresh clients at the end.

use super::database::{Database, body_number, id_number};
use super::verdict::{Verdict, Violation};
use std::collections::{BTreeMap, HashMap, HashSet};

/// One event as it was shown.
pub(crate) struct Shown<'a> {
    conversation: &'a str,
    seq: u64,
    message_id: Option<u128>,
    body: Option<u64>,
}

impl<'a> Shown<'a> {
    pub(crate) fn new(
        conversation: &'a str,
        seq: u64,
        message_id: &Option<String>,
        body_hash: &Option<String>,
    ) -> Self {
        Self {
            conversation,
            seq,
            message_id: message_id.as_deref().and_then(id_number),
            body: body_hash.as_deref().and_then(body_number),
        }
    }
}

/// How far one observer has come in one conversation.
#[derive(Debug, Default)]
struct View {
    highest: u64,
    /// What was skipped and has not been shown since.
    missing: HashSet<u64>,
}

/// Observers, numbered, and what each was shown of each conversation.
#[derive(Debug, Default)]
pub(crate) struct Views {
    numbers: HashMap<String, u32>,
    views: BTreeMap<(u32, u32), View>,
}

impl Views {
    /// The number of an observer; a new one if it was never named.
    pub(crate) fn viewer(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = u32::try_from(self.numbers.len()).unwrap_or(u32::MAX);
        self.numbers.insert(name.to_owned(), number);
        number
    }

    pub(crate) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// The observer begins behind `from`.
    pub(crate) fn start(
        &mut self,
        viewer: &str,
        conversation: &str,
        from: u64,
        database: &mut Database,
        verdict: &mut Verdict,
    ) {
        let place = (self.viewer(viewer), database.number(conversation));
        let view = View { highest: from, missing: HashSet::new() };
        if self.views.insert(place, view).is_some() {
            verdict.violate(Violation::BrokenHistory, || {
                format!("{viewer} became a member of {conversation} after it was shown events")
            });
        }
    }

    /// Each event must be the database's, be new to the observer, and follow the one before.
    pub(crate) fn show(
        &mut self,
        viewer: &str,
        shown: &Shown<'_>,
        database: &mut Database,
        verdict: &mut Verdict,
    ) {
        let number = self.viewer(viewer);
        let conversation = database.number(shown.conversation);
        let view = self.views.entry((number, conversation)).or_default();
        let seq = shown.seq;
        let place = || format!("{viewer} was shown {seq} of {}", shown.conversation);
        if seq > view.highest {
            let expected = view.highest.saturating_add(1);
            if seq != expected {
                verdict.violate(Violation::Gap, || format!("{} before {expected}", place()));
                // Only what exists can be missing: a wild number must not fill the memory.
                let skipped = database.after(conversation, view.highest);
                view.missing.extend(skipped.take_while(|it| *it < seq));
            }
            view.highest = seq;
        } else if view.missing.remove(&seq) {
            let highest = view.highest;
            verdict.violate(Violation::Reordered, || format!("{} after {highest}", place()));
        } else {
            verdict.violate(Violation::VisibleDuplicate, || format!("{} twice", place()));
        }
        match database.event(conversation, seq) {
            None => verdict
                .violate(Violation::Phantom, || format!("{}, which the database lacks", place())),
            Some(event) if event.message_id != shown.message_id => {
                let violation = match shown.message_id.and_then(|id| database.place(id)) {
                    Some(_) => Violation::Reordered,
                    None => Violation::Phantom,
                };
                verdict.violate(violation, || format!("{} with another id", place()));
            }
            Some(event) if event.body != shown.body => {
                verdict.violate(Violation::Phantom, || format!("{} with another body", place()));
            }
            Some(_) => {}
        }
    }

    /// The observer was at rest at the end: nothing may be missing in any of its conversations.
    pub(crate) fn finish(
        &mut self,
        viewer: &str,
        database: &Database,
        acked: &HashSet<(u32, u64)>,
        verdict: &mut Verdict,
    ) {
        let number = self.viewer(viewer);
        let range = (number, 0)..=(number, u32::MAX);
        let conversations: Vec<u32> = self.views.range(range).map(|((_, it), _)| *it).collect();
        for conversation in conversations {
            self.finish_one(number, conversation, database, acked, verdict);
        }
    }

    pub(crate) fn finish_one(
        &mut self,
        viewer: u32,
        conversation: u32,
        database: &Database,
        acked: &HashSet<(u32, u64)>,
        verdict: &mut Verdict,
    ) {
        let view = self.views.entry((viewer, conversation)).or_default();
        let beyond = database.after(conversation, view.highest);
        let missing: Vec<u64> = view.missing.iter().copied().chain(beyond).collect();
        if missing.is_empty() {
            return;
        }
        let name = self.numbers.iter().find(|(_, it)| **it == viewer);
        let name = name.map_or("?", |(name, _)| name.as_str());
        for seq in missing {
            let violation = match acked.contains(&(conversation, seq)) {
                true => Violation::Lost,
                false => Violation::Gap,
            };
            verdict.violate(violation, || {
                format!("{name} was never shown {seq} of {}", database.name(conversation))
            });
        }
    }
}
