//! The write engine: everything that changes a conversation goes through here.
//!
//! ```text
//! command --> writers --> a writer's queue --> batch --> engine --> answers
//! (checked)   (by conversation)                            |
//!     lock and read --> plan (pure) --> insert, update --> commit
//! ```
//! Receipts of large conversations are counted with their batch, and told by a thread of its own (`teller`).
//! What a writer remembers of its conversations takes the place of lock and read: the update compares.
//! Invariant: no answer leaves before its transaction committed.

mod acknowledge;
mod alone;
mod audience;
mod body_hash;
mod columns;
mod command;
mod engine;
mod generations;
mod mute;
mod plan;
mod receipts;
mod record;
mod remembered;
mod statements;
mod summaries;
mod summary;
mod teller;
mod waker;
mod writers;

pub(crate) use command::{
    Append, Appended, Change, ReceiptCommand, check_stored, new_conversation_id,
};
pub(crate) use engine::Engine;
pub(crate) use mute::mute;
pub(crate) use record::profile_updated;
pub(crate) use statements::{NOTIFY, write_outbox};
pub(crate) use teller::start_teller;
pub(crate) use waker::Waker;
pub(crate) use writers::{Command, Writers, WritersSettings};
