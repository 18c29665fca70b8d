//! Changes that are asked for by HTTP and take the conversation's next sequence number.

use crate::app::App;
use crate::failure::Failure;
use crate::http::{Call, HttpAnswer};
use crate::write::{Append, Change};
use serde::Deserialize;
use serde_json::json;

/// Appends to the conversation in the path, and answers with the event's number.
pub(super) fn append(
    app: &App,
    call: &Call,
    change: Change,
    key: Option<&str>,
) -> Result<HttpAnswer, Failure> {
    let identity = call.identity()?;
    let sender = (identity.user_id, identity.device_id);
    let append =
        Append::new(call.id(0)?, sender, key_or_fresh(key), call.traceparent.clone(), change)?;
    let appended = app.writers.append(append, call.deadline)?;
    Ok(HttpAnswer::ok(json!({ "sequence_number": appended.sequence_number })))
}

#[derive(Deserialize, Default)]
struct Key {
    idempotency_key: Option<String>,
}

/// The same by DELETE, whose key is in the body or in the query: some proxies drop such a body, or refuse
/// it (RFC 9110 section 9.3.5).
pub(super) fn append_deletion(
    app: &App,
    call: &Call,
    change: Change,
) -> Result<HttpAnswer, Failure> {
    let asked: Key = if call.body.is_empty() { Key::default() } else { call.json()? };
    let key = asked.idempotency_key.as_deref().or(call.query("idempotency_key"));
    append(app, call, change, chosen(key))
}

/// An empty key is none.
pub(super) fn chosen(key: Option<&str>) -> Option<&str> {
    key.filter(|it| !it.is_empty())
}

/// Without a key of the client's the request is told apart from every other one; a fresh key still
/// makes chatd's own retries safe.
pub(super) fn key_or_fresh(key: Option<&str>) -> String {
    key.map_or_else(|| format!("request:{}", proto::id::new()), str::to_owned)
}
