//! What comes in: requests and frames of clients, and what is asked of chatd for them.

pub(crate) mod frame;
pub(crate) mod http;
pub(crate) mod listen;
pub(crate) mod message;
pub(crate) mod proxy;
pub(crate) mod respond;
pub(crate) mod route;
pub(crate) mod tls;
pub(crate) mod token;
pub(crate) mod upgrade;
pub(crate) mod uplink;
