//! RealChat's Rust client.
//!
//! ```text
//!  application threads                      one thread a session                      gateways
//!
//!  Session::send, acknowledge --mailbox-->  driver: core.step(now, input)  --dial-->  ws://a
//!  Pending::wait  <-- settled sends ------    |  actions                    <--frames-- or b
//!  Events::recv   <-- healed events ------    v                                        or c
//!                                           socket, dialer threads
//!
//!  Api: the HTTP API, plain calls
//! ```
//!
//! - [`core`] is pure: cursors, de-duplication, gap healing, reconnects and re-sent sends as
//!   `step(now, input) -> actions`, tested against seeded worlds that lose, double and reorder.
//! - [`Session`] drives it over a WebSocket with blocking calls; it reconnects by itself for as
//!   long as it is not closed.
//! - [`Api`] speaks the JSON API.
//!
//! Invariant: of each conversation the application sees sequence numbers one by one, whatever the
//! network does; what cannot be delivered is told ([`Notice::Skipped`], [`Notice::Rewound`], [`Notice::Reset`]).

pub mod api;
pub mod core;
pub mod limits;
mod session;
mod trust;
mod update;

pub use api::{Api, ApiError};
pub use core::TokenFailure;
pub use proto::Uuid;
pub use session::{Events, Hook, Options, Pending, Session, TokenSource, Waited, websocket_url};
pub use trust::Trust;
pub use update::{Delivery, Notice, Path, SendError, SendOutcome, Update};
