//! Makes histories of a system that keeps its promises.

use super::{DatabaseEvent, Operation};
use crate::history::{Source, body_hash};
use std::collections::BTreeMap;
use uuid::Uuid;

const USERS: [&str; 4] = ["ann", "ben", "cem", "dia"];
const DEVICES: [&str; 2] = ["phone", "desk"];
const CONVERSATIONS: usize = 3;
const MESSAGES: usize = 40;

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct History {
    pub(crate) operations: Vec<Operation>,
    pub(crate) dump: Vec<DatabaseEvent>,
}

/// A system that works, and clients that write down what they see of it.
struct World {
    random: fastrand::Rng,
    now_us: u64,
    conversations: Vec<String>,
    operations: Vec<Operation>,
    log: BTreeMap<usize, Vec<DatabaseEvent>>,
}

/// The history of one seed: with retries, time-outs, refusals and wire duplicates.
pub(crate) fn history(seed: u64) -> History {
    let mut random = fastrand::Rng::with_seed(seed);
    let conversations = (0..CONVERSATIONS).map(|_| id(&mut random)).collect();
    let log = (0..CONVERSATIONS).map(|it| (it, Vec::new())).collect();
    let mut world = World { random, now_us: 0, conversations, operations: Vec::new(), log };
    for conversation in 0..CONVERSATIONS {
        world.begin(conversation);
    }
    for number in 0..MESSAGES {
        world.send(number);
    }
    world.end();
    let dump = world.log.into_values().flatten().collect();
    History { operations: world.operations, dump }
}

fn id(random: &mut fastrand::Rng) -> String {
    Uuid::from_u128(random.u128(..)).to_string()
}

fn sessions() -> impl Iterator<Item = String> {
    USERS.iter().flat_map(|user| DEVICES.iter().map(move |device| format!("{user}/{device}")))
}

/// One send, as its client writes it down.
struct Attempt {
    client: String,
    conversation: String,
    key: String,
    body_hash: String,
}

impl Attempt {
    fn invoke(&self, at_us: u64) -> Operation {
        Operation::Invoke {
            at_us,
            client: self.client.clone(),
            conversation: self.conversation.clone(),
            key: self.key.clone(),
            body_hash: self.body_hash.clone(),
        }
    }

    fn ok(&self, at_us: u64, message_id: &str, seq: u64) -> Operation {
        Operation::Ok {
            at_us,
            client: self.client.clone(),
            conversation: self.conversation.clone(),
            key: self.key.clone(),
            message_id: message_id.to_owned(),
            seq,
        }
    }

    fn fail(&self, at_us: u64) -> Operation {
        Operation::Fail {
            at_us,
            client: self.client.clone(),
            conversation: self.conversation.clone(),
            key: self.key.clone(),
            error: "message_too_long".into(),
        }
    }

    fn info(&self, at_us: u64) -> Operation {
        Operation::Info {
            at_us,
            client: self.client.clone(),
            conversation: self.conversation.clone(),
            key: self.key.clone(),
            error: "deadline".into(),
        }
    }
}

impl World {
    fn tick(&mut self) -> u64 {
        self.now_us += self.random.u64(1..50);
        self.now_us
    }

    /// Event 1 is no message; sessions are members from the start.
    fn begin(&mut self, conversation: usize) {
        let name = self.conversations[conversation].clone();
        for session in sessions() {
            self.operations.push(Operation::Member {
                session,
                conversation: name.clone(),
                from: 0,
            });
        }
        let row = DatabaseEvent {
            conversation: name,
            seq: 1,
            message_id: None,
            sender: None,
            key: None,
            body_hash: None,
        };
        self.log.get_mut(&conversation).unwrap().push(row.clone());
        self.deliver(&row);
    }

    fn send(&mut self, number: usize) {
        let at = self.random.usize(..CONVERSATIONS);
        let conversation = self.conversations[at].clone();
        let user = USERS[self.random.usize(..USERS.len())];
        let client = format!("{user}/{}", DEVICES[number % 2]);
        let key = format!("k{number}");
        let body_hash = body_hash(&format!("text {number}"));
        let attempt = Attempt { client, conversation, key, body_hash };
        let at_us = self.tick();
        self.operations.push(attempt.invoke(at_us));
        let fate = if number < 8 { number } else { self.random.usize(..20) };
        if fate < 2 {
            let at_us = self.tick();
            self.operations.push(if fate == 0 { attempt.fail(at_us) } else { attempt.info(at_us) });
            return;
        }
        self.store(at, user, &attempt, fate);
    }

    /// The send takes effect, and most are acknowledged.
    fn store(&mut self, at: usize, user: &str, attempt: &Attempt, fate: usize) {
        let log = self.log.get_mut(&at).unwrap();
        let seq = log.len() as u64 + 1;
        let message_id = id(&mut self.random);
        let row = DatabaseEvent {
            conversation: attempt.conversation.clone(),
            seq,
            message_id: Some(message_id.clone()),
            sender: Some(user.into()),
            key: Some(attempt.key.clone()),
            body_hash: Some(attempt.body_hash.clone()),
        };
        log.push(row.clone());
        // Delivered before, or after, the acknowledgement; fate 2: never acknowledged.
        if fate.is_multiple_of(2) {
            self.deliver(&row);
        }
        if fate == 3 || fate == 2 {
            let at_us = self.tick();
            self.operations.push(attempt.info(at_us));
            let at_us = self.tick();
            self.operations.push(attempt.invoke(at_us));
        }
        for _ in 0..match fate {
            2 => 0,
            4 => 2,
            _ => 1,
        } {
            let at_us = self.tick();
            self.operations.push(attempt.ok(at_us, &message_id, seq));
        }
        if fate % 2 == 1 {
            self.deliver(&row);
        }
    }

    fn deliver(&mut self, row: &DatabaseEvent) {
        for session in sessions() {
            let path = if self.random.u8(..10) == 0 { Source::Sync } else { Source::Live };
            let times = if self.random.u8(..10) == 0 { 2 } else { 1 };
            for _ in 0..times {
                let at_us = self.tick();
                self.operations.push(Operation::Wire {
                    at_us,
                    session: session.clone(),
                    conversation: row.conversation.clone(),
                    seq: row.seq,
                    path,
                });
            }
            let at_us = self.tick();
            self.operations.push(Operation::Deliver {
                at_us,
                session,
                conversation: row.conversation.clone(),
                seq: row.seq,
                message_id: row.message_id.clone(),
                body_hash: row.body_hash.clone(),
                path,
            });
        }
    }

    fn end(&mut self) {
        for (user, online) in USERS.into_iter().zip([true, false].into_iter().cycle()) {
            let (user, told) = (user.to_owned(), Some(online));
            self.operations.push(Operation::Presence { user, online, told });
        }
        for session in sessions() {
            self.operations.push(Operation::Settled { session });
        }
        for rows in self.log.values() {
            for client in ["ann/fresh", "ben/fresh"] {
                let client = client.to_owned();
                for row in rows {
                    self.operations.push(Operation::Final {
                        client: client.clone(),
                        conversation: row.conversation.clone(),
                        seq: row.seq,
                        message_id: row.message_id.clone(),
                        body_hash: row.body_hash.clone(),
                    });
                }
                let conversation = rows[0].conversation.clone();
                self.operations.push(Operation::FinalEnd { client, conversation });
            }
            for (offset, row) in rows.iter().chain(rows.last()).enumerate() {
                self.operations.push(Operation::Kafka {
                    conversation: row.conversation.clone(),
                    seq: row.seq,
                    message_id: row.message_id.clone(),
                    partition: 3,
                    offset: i64::try_from(offset).unwrap(),
                });
            }
        }
    }
}
