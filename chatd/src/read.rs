//! Questions about conversations: all bounded by the asker's memberships.

mod conversations;
mod events;
mod members;
mod sync;
mod trace;

pub(crate) use conversations::{Page, View, list, members_of, one, receipt_summary, receipts};
pub(crate) use events::{history, membership};
pub(crate) use members::{audience, audience_page, contacts, may_watch};
pub(crate) use sync::sync;
pub use sync::{Membership, Range, answer};
pub(crate) use trace::trace;
