//! Messages, the log, receipts, and what became of a message.

use super::changes::{append, append_deletion, chosen};
use super::json;
use crate::app::App;
use crate::db::Databases;
use crate::failure::Failure;
use crate::http::{Call, HttpAnswer};
use crate::limits::{HISTORY_EVENTS_DEFAULT, HISTORY_EVENTS_MAX};
use crate::read;
use crate::write::{Append, Appended, Change};
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct Post {
    text: String,
    #[serde(default)]
    idempotency_key: String,
}

#[derive(Deserialize)]
struct Edit {
    text: String,
    idempotency_key: Option<String>,
}

#[derive(Deserialize)]
struct React {
    reaction: String,
    #[serde(default)]
    removed: bool,
    idempotency_key: Option<String>,
}

/// The request of a posted message, for a writer.
pub(crate) fn post_message(call: &Call) -> Result<Append, Failure> {
    let asked: Post = call.json()?;
    let identity = call.identity()?;
    let sender = (identity.user_id, identity.device_id);
    let change = Change::Message { text: asked.text };
    Append::new(call.id(0)?, sender, asked.idempotency_key, call.traceparent.clone(), change)
}

/// The answer to a posted message, once it is durable.
pub(crate) fn sent(appended: &Appended) -> HttpAnswer {
    HttpAnswer::ok(json!({
        "message_id": appended.message_id,
        "sequence_number": appended.sequence_number,
        "message_number": appended.message_number,
        "created_at_us": appended.created_at_us,
        "repeated": appended.repeated,
    }))
}

pub(super) fn edit(app: &App, _: &mut Databases, call: &Call) -> Result<HttpAnswer, Failure> {
    let asked: Edit = call.json()?;
    let change = Change::Edit { message_id: call.id(1)?, text: asked.text };
    append(app, call, change, chosen(asked.idempotency_key.as_deref()))
}

pub(super) fn delete(app: &App, _: &mut Databases, call: &Call) -> Result<HttpAnswer, Failure> {
    append_deletion(app, call, Change::Delete { message_id: call.id(1)? })
}

pub(super) fn react(app: &App, _: &mut Databases, call: &Call) -> Result<HttpAnswer, Failure> {
    let React { reaction, removed, idempotency_key } = call.json()?;
    let change = Change::React { message_id: call.id(1)?, reaction, removed };
    append(app, call, change, chosen(idempotency_key.as_deref()))
}

pub(super) fn events(
    _: &App,
    databases: &mut Databases,
    call: &Call,
) -> Result<HttpAnswer, Failure> {
    let range = (call.number("after")?, call.number("before")?);
    let limit = call.limit(HISTORY_EVENTS_DEFAULT, HISTORY_EVENTS_MAX)?;
    let user_id = call.identity()?.user_id;
    let (events, last_sequence_number) =
        read::history(databases.messaging()?, call.id(0)?, user_id, range, Some(limit))?;
    Ok(HttpAnswer::ok(json!({ "events": events, "last_sequence_number": last_sequence_number })))
}

pub(super) fn receipts(
    _: &App,
    databases: &mut Databases,
    call: &Call,
) -> Result<HttpAnswer, Failure> {
    let conversation_id = call.id(0)?;
    let connection = databases.messaging()?;
    read::membership(connection, conversation_id, call.identity()?.user_id)?;
    let receipts = read::receipts(connection, conversation_id, 0)?;
    let summary = read::receipt_summary(connection, conversation_id)?;
    Ok(HttpAnswer::ok(json!({ "receipts": json::receipts(&receipts), "summary": summary })))
}

pub(super) fn trace(
    _: &App,
    databases: &mut Databases,
    call: &Call,
) -> Result<HttpAnswer, Failure> {
    let message_id = call.id(0)?;
    let connection = databases.messaging()?;
    let trace = read::trace(connection, call.identity()?.user_id, message_id)?;
    let receipts = read::receipts(connection, trace.conversation_id, trace.sequence_number)?;
    Ok(HttpAnswer::ok(json!({
        "message_id": message_id,
        "conversation_id": trace.conversation_id,
        "sequence_number": trace.sequence_number,
        "created_at_us": trace.created_at_us,
        "relayed": trace.relayed,
        "receipts": json::receipts(&receipts),
    })))
}
