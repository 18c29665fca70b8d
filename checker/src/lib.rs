//! An independent checker of histories: given what clients saw and what the stores hold, was a
//! promise broken? It shares no code with the client library or the protocol, so that a mistake
//! there cannot hide itself here.
//!
//! ```text
//! DIR/*.jsonl (one file a writer) --> history --+
//! a dump of messaging.events -------------------+--> judge --> Verdict
//!     sends.rs     lost, phantom, real-time order, idempotence
//!     views.rs     what each session and each final sync saw, one by one
//! ```
//!
//! A history is JSON lines; each line is one [`history::Operation`] with `at_us`, microseconds of
//! the machine's monotonic clock. A session writes into one file, in the order of what it saw.
//! Work is linear in the number of operations, but for one sort of the sends by time.

mod database;
pub mod history;
mod judge;
mod sends;
mod verdict;
mod views;

pub use database::DatabaseEvent;
pub use judge::{Judge, check};
pub use verdict::{Verdict, Violation};

#[cfg(test)]
mod tests;
