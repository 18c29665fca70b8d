//! What is done to messages that are there: edit, delete, react.

use crate::args::{About, Delete, Edit, React};
use crate::context::Context;
use crate::failure::Failure;
use client::api::Changed;
use client::{ApiError, Uuid};
use serde_json::json;

pub(crate) fn edit(context: &Context, asked: &Edit) -> Result<(), Failure> {
    let change =
        |token: &str, ids, key: &str| context.api.edit_message(token, ids, &asked.text, key);
    tell(context, &asked.about, change)
}

pub(crate) fn delete(context: &Context, asked: &Delete) -> Result<(), Failure> {
    tell(context, &asked.about, |token, ids, key| context.api.delete_message(token, ids, key))
}

pub(crate) fn react(context: &Context, asked: &React) -> Result<(), Failure> {
    let reaction = (asked.reaction.as_str(), asked.remove);
    tell(context, &asked.about, |token, ids, key| context.api.react(token, ids, reaction, key))
}

fn tell(
    context: &Context,
    about: &About,
    change: impl FnOnce(&str, (Uuid, Uuid), &str) -> Result<Changed, ApiError>,
) -> Result<(), Failure> {
    let key = about.key.clone().unwrap_or_else(|| proto::id::new().to_string());
    let changed = change(&context.token()?, (about.conversation, about.message), &key)?;
    let object = json!({
        "message_id": about.message,
        "conversation_id": about.conversation,
        "sequence_number": changed.sequence_number,
        "key": key,
    });
    let text = format!("message_id {}  sequence_number {}", about.message, changed.sequence_number);
    Ok(context.out.line(&object, &text)?)
}
