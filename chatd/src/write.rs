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
mod attempts;
mod audience;
mod body_hash;
mod columns;
mod command;
mod engine;
mod generations;
mod messages;
mod mute;
mod plan;
mod queue;
mod receipts;
mod record;
mod remembered;
mod statements;
mod store;
mod summaries;
mod summary;
mod teller;
mod waker;
mod writers;

pub use attempts::{Attempts, Next};
pub use audience::Audience;
pub use command::{Append, Appended, Change, ReceiptCommand};
pub(crate) use command::{check_stored, new_conversation_id};
pub use engine::{CommitError, Engine, Outcome};
pub(crate) use mute::mute;
pub use plan::{ConversationRow, EventRow, Known, Locked, MemberChange, Plan, Target, TextRow};
pub use receipts::{Cursor, CursorKey, Standing};
pub use record::OutboxRow;
pub(crate) use record::profile_updated;
pub use statements::{ConversationState, Moved};
pub(crate) use statements::{NOTIFY, write_outbox};
pub(crate) use store::Postgres;
pub use store::{Audiences, Source, Store};
pub use summaries::Counting;
pub(crate) use teller::start_teller;
pub(crate) use waker::Waker;
pub(crate) use writers::{Command, Writers, WritersSettings};
