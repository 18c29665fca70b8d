//! The JSON API, as gateways pass it through: one table of endpoints, and what is common to all.

mod answer;
mod call;
mod router;
mod target;

pub(crate) use answer::HttpAnswer;
pub(crate) use call::Call;
pub(crate) use router::{Access, Endpoint, Missed, Work, find};
pub(crate) use target::Target;
