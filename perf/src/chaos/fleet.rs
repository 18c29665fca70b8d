//! The clients: one session of the client library for each device of each user, each with its
//! history.

use super::holes::{Holes, Watch};
use crate::clock;
use crate::failure::{Context, Failure, Outcome};
use crate::population::{self, Population};
use crate::report::progress;
use crate::stack::Stack;
use crate::tokens::Minter;
use checker::history::{Operation, Source, Writer, body_hash};
use client::{Delivery, Events, Notice, Options, SendError, Session, Update};
use proto::Uuid;
use proto::client::event;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// A history that several threads of one session write to.
#[derive(Clone)]
pub(super) struct Journal {
    writer: Arc<Mutex<Writer>>,
    /// Lines that could not be written.
    failed: Arc<AtomicU64>,
}

impl Journal {
    pub(super) fn create(path: &Path) -> Outcome<Self> {
        let writer = Writer::create(path).doing("the history")?;
        Ok(Self { writer: Arc::new(Mutex::new(writer)), failed: Arc::default() })
    }

    pub(super) fn write(&self, operation: &Operation) {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if writer.append(operation).is_err() {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn finish(&self) -> Outcome {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.flush().doing("the history")?;
        match self.failed.load(Ordering::Relaxed) {
            0 => Ok(()),
            lines => Err(Failure::Refused(format!("{lines} lines of history were not written"))),
        }
    }
}

/// One device.
pub(super) struct Device {
    name: String,
    user: usize,
    session: Session,
    journal: Journal,
    open_sends: Arc<AtomicU64>,
}

pub(super) struct Fleet {
    /// By user, then device: device d of user u is number u * devices + d.
    devices: Vec<Arc<Device>>,
    devices_per_user: usize,
    readers: Vec<JoinHandle<()>>,
    holes: Holes,
}

impl Fleet {
    /// Connects every device, the first to the first gateway, the next to the next.
    pub(super) fn start(
        stack: &Stack,
        minter: &Minter,
        population: &Population,
        devices_per_user: usize,
        folder: &Path,
    ) -> Outcome<Self> {
        let urls = websocket_urls(stack)?;
        let by_user = population.conversations_by_user();
        let holes = Holes::default();
        let mut fleet = Self { devices: Vec::new(), devices_per_user, readers: Vec::new(), holes };
        for (number, user) in population.users.iter().enumerate() {
            for _ in 0..devices_per_user {
                let id = proto::id::new();
                let name = format!("{user}/{id}");
                let file = format!("session-{:05}.jsonl", fleet.devices.len());
                let journal = Journal::create(&folder.join(file))?;
                for conversation in &by_user[number] {
                    let conversation = population.conversations[*conversation].id.to_string();
                    // From before the conversation's creation on, which is its first event.
                    let session = name.clone();
                    journal.write(&Operation::Member { session, conversation, from: 0 });
                }
                let mut urls = urls.clone();
                let turn = fleet.devices.len() % urls.len();
                urls.rotate_left(turn);
                let mut options = Options::new(urls, Options::fixed_token(minter.mint(*user, id)?));
                options.resume = true;
                options.client = "perf chaos".into();
                options.hook = Some(hook(name.clone(), journal.clone(), fleet.holes.watch()));
                let (session, events) = Session::connect(options).doing("a client")?;
                let reader = reader(name.clone(), journal.clone(), events)?;
                fleet.readers.push(reader);
                let open_sends = Arc::default();
                let device = Device { name, user: number, session, journal, open_sends };
                fleet.devices.push(Arc::new(device));
            }
        }
        Ok(fleet)
    }

    pub(super) fn device(&self, user: usize, device: usize) -> Arc<Device> {
        Arc::clone(&self.devices[user * self.devices_per_user + device % self.devices_per_user])
    }

    pub(super) fn devices_per_user(&self) -> usize {
        self.devices_per_user
    }

    /// What sessions were neither pushed nor told of.
    pub(super) fn silent_gaps(&self) -> u64 {
        self.holes.count()
    }

    /// Sends without an answer.
    pub(super) fn unanswered(&self) -> u64 {
        self.devices.iter().map(|it| it.open_sends.load(Ordering::Acquire)).sum()
    }

    /// Waits until every send is answered and every device has every event; gives back how many
    /// devices have not when the time is over.
    pub(super) fn settle(
        &self,
        database_url: &str,
        population: &Population,
        until_us: u64,
    ) -> Outcome<u64> {
        while self.unanswered() > 0 && clock::now_us() < until_us {
            std::thread::sleep(Duration::from_millis(50));
        }
        let last = last_numbers(database_url, population)?;
        let by_user = population.conversations_by_user();
        let behind = |device: &&Arc<Device>| {
            let cursors = device.session.cursors();
            by_user[device.user].iter().any(|at| {
                let id = population.conversations[*at].id;
                cursors.get(&id).copied().unwrap_or_default() < last[&id]
            })
        };
        loop {
            let count = self.devices.iter().filter(behind).count() as u64;
            if count == 0 || clock::now_us() > until_us {
                if count > 0 {
                    progress!("perf: {count} sessions have not seen everything");
                }
                return Ok(count);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends all sessions of a user.
    pub(super) fn sign_off(&self, user: usize) {
        for device in self.devices.iter().filter(|it| it.user == user) {
            device.session.close();
        }
    }

    /// Ends the sessions and their histories; whatever a session has not seen by now is missing.
    pub(super) fn finish(self) -> Outcome {
        for device in &self.devices {
            device.session.close();
        }
        for reader in self.readers {
            reader.join().map_err(|_| Failure::Refused("a client's reader ended".into()))?;
        }
        for device in &self.devices {
            device.journal.write(&Operation::Settled { session: device.name.clone() });
            device.journal.finish()?;
        }
        Ok(())
    }
}

impl Device {
    /// Sends, and writes down what becomes of it; `then` is called when it is acknowledged.
    pub(super) fn send(
        self: &Arc<Self>,
        conversation: Uuid,
        key: String,
        text: &str,
        then: impl FnOnce() + Send + 'static,
    ) {
        self.journal.write(&Operation::Invoke {
            at_us: clock::now_us(),
            client: self.name.clone(),
            conversation: conversation.to_string(),
            key: key.clone(),
            body_hash: body_hash(text),
        });
        self.open_sends.fetch_add(1, Ordering::AcqRel);
        let (client, journal) = (self.name.clone(), self.journal.clone());
        let open_sends = Arc::clone(&self.open_sends);
        let sent_key = key.clone();
        self.session.send_then(conversation, &sent_key, text, move |outcome| {
            let (at_us, conversation) = (clock::now_us(), conversation.to_string());
            let acked = outcome.is_ok();
            let operation = match outcome {
                Ok(sent) => Operation::Ok {
                    at_us,
                    client,
                    conversation,
                    key,
                    message_id: id_text(&sent.message_id),
                    seq: sent.sequence_number,
                },
                Err(error @ SendError::Ended { .. }) => {
                    Operation::Info { at_us, client, conversation, key, error: error.to_string() }
                }
                Err(error) => {
                    Operation::Fail { at_us, client, conversation, key, error: error.to_string() }
                }
            };
            journal.write(&operation);
            // First what follows, so that the fleet never looks as if all were answered before.
            if acked {
                then();
            }
            open_sends.fetch_sub(1, Ordering::AcqRel);
        });
    }
}

pub(super) fn websocket_urls(stack: &Stack) -> Outcome<Vec<String>> {
    let urls = stack.urls()?;
    urls.iter().map(|url| client::websocket_url(url).reaching(url)).collect()
}

/// The last sequence number of each conversation.
pub(super) fn last_numbers(
    database_url: &str,
    population: &Population,
) -> Outcome<BTreeMap<Uuid, u64>> {
    let mut database = population::connect(database_url)?;
    let ids: Vec<Uuid> = population.conversations.iter().map(|it| it.id).collect();
    let query = "SELECT conversation_id, last_sequence_number FROM messaging.conversations
        WHERE conversation_id = ANY ($1)";
    let rows = database.query(query, &[&ids]).reaching("messaging.conversations")?;
    Ok(rows.iter().map(|row| (row.get(0), row.get::<_, i64>(1).unsigned_abs())).collect())
}

/// The text of an id; of bytes that are none, nothing, which the checker refuses.
pub(super) fn id_text(bytes: &[u8]) -> String {
    Uuid::from_slice(bytes).map(|id| id.to_string()).unwrap_or_default()
}

/// Message id and body hash of an event that is a message.
pub(super) fn message_of(delivery: &Delivery) -> (Option<String>, Option<String>) {
    match &delivery.event.kind {
        Some(event::Kind::Message(message)) => {
            (Some(id_text(&message.message_id)), Some(body_hash(&message.text)))
        }
        _ => (None, None),
    }
}

fn source(path: client::Path) -> Source {
    match path {
        client::Path::Live => Source::Live,
        client::Path::Sync => Source::Sync,
    }
}

/// Writes down what happens on the wire.
fn hook(session: String, journal: Journal, watch: Watch) -> client::Hook {
    Arc::new(move |notice| {
        watch.take(notice);
        let (at_us, session) = (clock::now_us(), session.clone());
        let operation = match notice {
            Notice::Received { conversation, sequence_number, path, .. } => Operation::Wire {
                at_us,
                session,
                conversation: conversation.to_string(),
                seq: *sequence_number,
                path: source(*path),
            },
            Notice::Welcomed(welcome) => {
                Operation::Connect { at_us, session, gateway: welcome.gateway_id.clone() }
            }
            Notice::Closed { code, .. } => {
                Operation::Close { at_us, session, code: code.unwrap_or(1_006) }
            }
            Notice::Gap { conversation, from, to, .. } => Operation::Sync {
                at_us,
                session,
                conversation: conversation.to_string(),
                from: *from,
                to: *to,
            },
            _ => return,
        };
        journal.write(&operation);
    })
}

/// Writes down what the application is given.
fn reader(session: String, journal: Journal, events: Events) -> Outcome<JoinHandle<()>> {
    let read = move || {
        while let Some(update) = events.recv() {
            let Update::Event(delivery) = update else { continue };
            if delivery.sequence_number == 0 {
                continue;
            }
            let (message_id, body_hash) = message_of(&delivery);
            journal.write(&Operation::Deliver {
                at_us: clock::now_us(),
                session: session.clone(),
                conversation: delivery.conversation.to_string(),
                seq: delivery.sequence_number,
                message_id,
                body_hash,
                path: source(delivery.path),
            });
        }
    };
    std::thread::Builder::new().name("reader".into()).spawn(read).doing("a thread")
}
