//! What is written down: one operation a line.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Where a session's event came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    Live,
    Sync,
}

/// One thing that a client did or saw, or that was done to the system. Clients and sessions are
/// named `user/device`; conversations and messages by their id's text; bodies by [`body_hash`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Operation {
    /// A send is about to be tried (again): it may take effect from here on.
    Invoke {
        at_us: u64,
        client: String,
        conversation: String,
        key: String,
        body_hash: String,
    },
    /// The send was acknowledged.
    Ok {
        at_us: u64,
        client: String,
        conversation: String,
        key: String,
        message_id: String,
        seq: u64,
    },
    /// The send was refused for good: it must never be seen.
    Fail {
        at_us: u64,
        client: String,
        conversation: String,
        key: String,
        error: String,
    },
    /// Nobody knows: a time-out, or the connection went away.
    Info {
        at_us: u64,
        client: String,
        conversation: String,
        key: String,
        error: String,
    },
    /// A frame with an event reached the device, before any de-duplication.
    Wire {
        at_us: u64,
        session: String,
        conversation: String,
        seq: u64,
        path: Source,
    },
    /// The client library handed an event to the application. Events that are no messages have
    /// neither id nor body.
    Deliver {
        at_us: u64,
        session: String,
        conversation: String,
        seq: u64,
        message_id: Option<String>,
        body_hash: Option<String>,
        path: Source,
    },
    /// The session belongs to the conversation: it must be shown `from` + 1, `from` + 2, ...
    Member {
        session: String,
        conversation: String,
        from: u64,
    },
    /// Whether the user was online at the end, and what somebody who watched was told last.
    Presence {
        user: String,
        online: bool,
        told: Option<bool>,
    },
    /// The session was open and at rest at the end: it must have seen everything.
    Settled {
        session: String,
    },
    Connect {
        at_us: u64,
        session: String,
        gateway: String,
    },
    Close {
        at_us: u64,
        session: String,
        code: u16,
    },
    /// A range was asked for again.
    Sync {
        at_us: u64,
        session: String,
        conversation: String,
        from: u64,
        to: u64,
    },
    /// A fault began or ended.
    Fault {
        at_us: u64,
        fault: String,
        begin: bool,
    },
    /// One event of a full sync that a fresh client made at the end, in the order it came.
    Final {
        client: String,
        conversation: String,
        seq: u64,
        message_id: Option<String>,
        body_hash: Option<String>,
    },
    /// A fresh client's full sync of the conversation ended; it must have shown everything.
    FinalEnd {
        client: String,
        conversation: String,
    },
    /// The conversation's events up to `from` were made without Kafka, which holds all later ones.
    KafkaFrom {
        conversation: String,
        from: u64,
    },
    /// One record of the conversations' topic, by partition in offset order.
    Kafka {
        conversation: String,
        seq: u64,
        message_id: Option<String>,
        partition: i32,
        offset: i64,
    },
}

impl Operation {
    /// The conversation that the operation is about, if it is about one.
    fn conversation(&self) -> Option<&String> {
        match self {
            Self::Invoke { conversation, .. }
            | Self::Ok { conversation, .. }
            | Self::Fail { conversation, .. }
            | Self::Info { conversation, .. }
            | Self::Wire { conversation, .. }
            | Self::Deliver { conversation, .. }
            | Self::Member { conversation, .. }
            | Self::Sync { conversation, .. }
            | Self::Final { conversation, .. }
            | Self::FinalEnd { conversation, .. }
            | Self::KafkaFrom { conversation, .. }
            | Self::Kafka { conversation, .. } => Some(conversation),
            Self::Settled { .. }
            | Self::Presence { .. }
            | Self::Connect { .. }
            | Self::Close { .. }
            | Self::Fault { .. } => None,
        }
    }
}

/// A name for a body: FNV-1a of 64 bits over its UTF-8 bytes, as 16 hexadecimal digits.
pub fn body_hash(text: &str) -> String {
    let offset_basis = 0xcbf2_9ce4_8422_2325_u64;
    let hash = text.bytes().fold(offset_basis, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{hash:016x}")
}

/// Appends operations to one file. Buffered; [`Writer::flush`] before anybody reads.
#[derive(Debug)]
pub struct Writer {
    file: BufWriter<File>,
}

impl Writer {
    /// Begins a new file; one that is there is overwritten.
    pub fn create(path: &Path) -> Result<Self, HistoryError> {
        let file = File::create(path).map_err(|error| unreadable(path, error))?;
        Ok(Self { file: BufWriter::with_capacity(64 * 1024, file) })
    }

    /// Appends one line.
    pub fn append(&mut self, line: &impl Serialize) -> std::io::Result<()> {
        serde_json::to_writer(&mut self.file, line)?;
        self.file.write_all(b"\n")
    }

    /// Hands everything to the operating system.
    pub fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

/// A history that cannot be read is an error of its own: it proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    #[error("{}: {error}", path.display())]
    Unreadable { path: PathBuf, error: std::io::Error },
    #[error("{}, line {line}: {error}", path.display())]
    Malformed { path: PathBuf, line: usize, error: serde_json::Error },
    #[error("{}: no history there (no file named *.jsonl)", .0.display())]
    Empty(PathBuf),
}

fn unreadable(path: &Path, error: std::io::Error) -> HistoryError {
    HistoryError::Unreadable { path: path.to_owned(), error }
}

/// The name of the dump of the database, which is no history.
pub const DATABASE_FILE: &str = "database.jsonl";

/// The history files of a folder, by name.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>, HistoryError> {
    let entries = std::fs::read_dir(folder).map_err(|error| unreadable(folder, error))?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| unreadable(folder, error))?.path();
        let is_history = path.extension().is_some_and(|it| it == "jsonl")
            && path.file_name().is_some_and(|it| it != DATABASE_FILE);
        if is_history {
            paths.push(path);
        }
    }
    if paths.is_empty() {
        return Err(HistoryError::Empty(folder.to_owned()));
    }
    paths.sort();
    Ok(paths)
}

/// Hands each line of a file to `take`, in order.
pub fn read<T: for<'de> Deserialize<'de>>(
    path: &Path,
    mut take: impl FnMut(T),
) -> Result<(), HistoryError> {
    let file = File::open(path).map_err(|error| unreadable(path, error))?;
    for (index, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(|error| unreadable(path, error))?;
        let operation = serde_json::from_str(&line).map_err(|error| HistoryError::Malformed {
            path: path.to_owned(),
            line: index + 1,
            error,
        })?;
        take(operation);
    }
    Ok(())
}

/// The conversations that a folder's histories name.
pub fn conversations(folder: &Path) -> Result<Vec<String>, HistoryError> {
    let mut found = BTreeSet::new();
    for path in files(folder)? {
        read(&path, |operation: Operation| {
            if let Some(conversation) = operation.conversation()
                && !found.contains(conversation)
            {
                found.insert(conversation.clone());
            }
        })?;
    }
    Ok(found.into_iter().collect())
}
