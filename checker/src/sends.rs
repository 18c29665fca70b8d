//! Sends: from the first invocation to what the database made of them.

use super::database::{Database, body_number, id_number};
use super::history::Operation;
use super::verdict::{Verdict, Violation};
use std::collections::{HashMap, HashSet};

/// Conversation, sender (a user), idempotency key: one message, whichever device sends it.
type SendKey = (u32, String, String);

#[derive(Debug, Default)]
struct Send {
    body: u64,
    invoked_at_us: u64,
    /// Message id and sequence number, once acknowledged.
    answer: Option<(u128, u64)>,
    acked_at_us: u64,
    failed: bool,
    unknown: bool,
}

/// All sends of a history.
#[derive(Debug, Default)]
pub(crate) struct Sends {
    sends: HashMap<SendKey, Send>,
}

/// The sender of a client named `user/device`.
fn user(client: &str) -> &str {
    client.split('/').next().unwrap_or(client)
}

impl Sends {
    /// Takes an invoke, ok, fail or info.
    pub(crate) fn take(
        &mut self,
        operation: &Operation,
        database: &mut Database,
        verdict: &mut Verdict,
    ) {
        let (client, conversation, key) = match operation {
            Operation::Invoke { client, conversation, key, .. }
            | Operation::Ok { client, conversation, key, .. }
            | Operation::Fail { client, conversation, key, .. }
            | Operation::Info { client, conversation, key, .. } => (client, conversation, key),
            _ => return,
        };
        let send_key = (database.number(conversation), user(client).to_owned(), key.clone());
        if let Operation::Invoke { at_us, body_hash, .. } = operation {
            return self.invoke(send_key, *at_us, body_hash, verdict);
        }
        let Some(send) = self.sends.get_mut(&send_key) else {
            return verdict.violate(Violation::BrokenHistory, || {
                format!("{client} had an answer to {key}, which it never sent")
            });
        };
        match operation {
            Operation::Ok { at_us, message_id, seq, .. } => {
                let Some(id) = id_number(message_id) else {
                    return verdict.violate(Violation::BrokenHistory, || {
                        format!("{key} was answered with {message_id:?}, which is no id")
                    });
                };
                match send.answer {
                    None => {
                        send.answer = Some((id, *seq));
                        send.acked_at_us = *at_us;
                        verdict.acked += 1;
                    }
                    Some(first) if first == (id, *seq) => {
                        send.acked_at_us = send.acked_at_us.min(*at_us);
                    }
                    Some((_, first)) => verdict.violate(Violation::Conflict, || {
                        format!("{key} was answered with {first} and, otherwise, with {seq}")
                    }),
                }
            }
            Operation::Fail { .. } => send.failed = true,
            _ => send.unknown = true,
        }
    }

    fn invoke(&mut self, send_key: SendKey, at_us: u64, body: &str, verdict: &mut Verdict) {
        let Some(body) = body_number(body) else {
            return verdict.violate(Violation::BrokenHistory, || {
                format!("{body:?} is no body hash (16 hexadecimal digits)")
            });
        };
        let fresh = Send { body, invoked_at_us: at_us, ..Send::default() };
        let key = send_key.2.clone();
        let send = self.sends.entry(send_key).or_insert(fresh);
        send.invoked_at_us = send.invoked_at_us.min(at_us);
        if send.body != body {
            verdict.violate(Violation::BrokenHistory, || {
                format!("the key {key} was used for two bodies")
            });
        }
    }

    /// Compares with the database; gives back the places of all that was acknowledged.
    pub(crate) fn finish(&self, database: &Database, verdict: &mut Verdict) -> HashSet<(u32, u64)> {
        let mut acked = HashSet::new();
        for ((conversation, sender, key), send) in &self.sends {
            let Some((id, seq)) = send.answer else { continue };
            acked.insert((*conversation, seq));
            let name = database.name(*conversation);
            match database.place(id) {
                None => verdict.violate(Violation::Lost, || {
                    format!("{key} of {sender}, acknowledged as {seq} of {name}, is not stored")
                }),
                Some(place) if place != (*conversation, seq) => {
                    verdict.violate(Violation::Reordered, || {
                        format!("{key}, acknowledged as {seq} of {name}, is stored as {}", place.1)
                    });
                }
                Some(_) => {}
            }
        }
        self.check_origins(database, verdict);
        self.check_real_time(database, verdict);
        acked
    }

    /// Everything stored was sent, with this body, and not refused.
    fn check_origins(&self, database: &Database, verdict: &mut Verdict) {
        for (conversation, events) in database.conversations() {
            let name = database.name(conversation);
            for (seq, event) in events {
                if event.message_id.is_none() {
                    continue;
                }
                let place = || format!("{seq} of {name}");
                let Some((sender, key)) = &event.origin else {
                    verdict.violate(Violation::Phantom, || format!("{} has no sender", place()));
                    continue;
                };
                let send_key = (conversation, sender.clone(), key.clone());
                let Some(send) = self.sends.get(&send_key) else {
                    verdict.violate(Violation::Phantom, || {
                        format!("{} with key {key} was never sent", place())
                    });
                    continue;
                };
                if Some(send.body) != event.body {
                    verdict.violate(Violation::Phantom, || {
                        format!("{} has another body than was sent", place())
                    });
                }
                if send.failed && !send.unknown && send.answer.is_none() {
                    verdict.violate(Violation::Phantom, || format!("{} was refused", place()));
                }
                if send.answer.is_some_and(|(id, _)| event.message_id != Some(id)) {
                    verdict.violate(Violation::Conflict, || {
                        format!("{} has another id than {key} was answered with", place())
                    });
                }
            }
        }
    }

    /// If one send was acknowledged before another of the same conversation was first tried, it
    /// comes first in the order.
    fn check_real_time(&self, database: &Database, verdict: &mut Verdict) {
        // (conversation, time, acknowledgement?, sequence number): at equal times invocations
        // come first, because "before" is strict.
        let mut moments = Vec::with_capacity(self.sends.len() * 2);
        for ((conversation, _, _), send) in &self.sends {
            if let Some((_, seq)) = send.answer {
                moments.push((*conversation, send.invoked_at_us, false, seq));
                moments.push((*conversation, send.acked_at_us, true, seq));
            }
        }
        moments.sort_unstable();
        let mut current = None;
        let mut highest_acked = 0;
        for (conversation, _, is_ack, seq) in moments {
            if current != Some(conversation) {
                current = Some(conversation);
                highest_acked = 0;
            }
            if is_ack {
                highest_acked = highest_acked.max(seq);
            } else if seq <= highest_acked {
                verdict.violate(Violation::Reordered, || {
                    let name = database.name(conversation);
                    format!("{seq} of {name} was sent after {highest_acked} was acknowledged")
                });
            }
        }
    }
}
