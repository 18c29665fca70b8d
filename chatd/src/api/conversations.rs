//! Conversations, their members and their settings.

use super::changes::{append, append_deletion, chosen, key_or_fresh};
use super::json;
use super::people::check_texts;
use crate::app::App;
use crate::db::Databases;
use crate::failure::Failure;
use crate::http::{Call, HttpAnswer};
use crate::limits::{
    JSON_NUMBER_MAX, LIST_CONVERSATIONS_DEFAULT, LIST_CONVERSATIONS_MAX, MEMBERS_NAMED_MAX,
};
use crate::profiles::{ids_of_names, map_by_ids};
use crate::read::{self, Page, View};
use crate::write::{self, Append, Change, new_conversation_id};
use proto::Uuid;
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct Create {
    #[serde(default)]
    title: String,
    #[serde(default)]
    members: Vec<String>,
    #[serde(default)]
    member_ids: Vec<Uuid>,
    idempotency_key: Option<String>,
}

#[derive(Deserialize)]
struct ChangeSettings {
    title: String,
    idempotency_key: Option<String>,
}

#[derive(Deserialize)]
struct Mute {
    /// Required, so that a misspelt field does not unmute.
    #[serde(deserialize_with = "Option::deserialize")]
    until_us: Option<u64>,
}

#[derive(Deserialize)]
struct AddMembers {
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    user_ids: Vec<Uuid>,
    idempotency_key: Option<String>,
}

pub(super) fn list(_: &App, databases: &mut Databases, call: &Call) -> Result<HttpAnswer, Failure> {
    let page = Page {
        limit: call.limit(LIST_CONVERSATIONS_DEFAULT, LIST_CONVERSATIONS_MAX)?,
        before: call.query_id("before")?,
    };
    let views = read::list(databases.messaging()?, call.identity()?.user_id, page)?;
    let conversations = shown(databases, &views)?;
    Ok(HttpAnswer::ok(json!({ "conversations": conversations })))
}

pub(super) fn one(_: &App, databases: &mut Databases, call: &Call) -> Result<HttpAnswer, Failure> {
    answer_one(200, databases, call, call.id(0)?)
}

pub(super) fn create(
    app: &App,
    databases: &mut Databases,
    call: &Call,
) -> Result<HttpAnswer, Failure> {
    let asked: Create = call.json()?;
    let member_ids = members_asked(databases, &asked.members, asked.member_ids)?;
    let identity = call.identity()?;
    let made = (identity.user_id, identity.device_id);
    let key = chosen(asked.idempotency_key.as_deref());
    let append = create_conversation(made, key, &asked.title, member_ids, &call.traceparent)?;
    let conversation_id = append.conversation_id;
    app.writers.append(append, call.deadline)?;
    answer_one(201, databases, call, conversation_id)
}

/// The request that makes a conversation; with a key, the same one every time.
pub(crate) fn create_conversation(
    creator: (Uuid, Uuid),
    key: Option<&str>,
    title: &str,
    member_ids: Vec<Uuid>,
    traceparent: &str,
) -> Result<Append, Failure> {
    let conversation_id = new_conversation_id(creator.0, key);
    let change = Change::Create { title: title.to_owned(), member_ids };
    Append::new(conversation_id, creator, key_or_fresh(key), traceparent.to_owned(), change)
}

pub(super) fn change(
    app: &App,
    databases: &mut Databases,
    call: &Call,
) -> Result<HttpAnswer, Failure> {
    let asked: ChangeSettings = call.json()?;
    let change = Change::Title { title: asked.title };
    append(app, call, change, chosen(asked.idempotency_key.as_deref()))?;
    answer_one(200, databases, call, call.id(0)?)
}

/// The member's own affair: nobody is told, and the log does not grow.
pub(super) fn mute(_: &App, databases: &mut Databases, call: &Call) -> Result<HttpAnswer, Failure> {
    let asked: Mute = call.json()?;
    if asked.until_us.is_some_and(|until_us| until_us > JSON_NUMBER_MAX) {
        return Err(Failure::invalid(format!(
            "until_us is too large; at most {JSON_NUMBER_MAX} is allowed, which is for ever"
        )));
    }
    let user_id = call.identity()?.user_id;
    write::mute(databases.messaging()?, call.id(0)?, user_id, asked.until_us)?;
    answer_one(200, databases, call, call.id(0)?)
}

pub(super) fn members(
    _: &App,
    databases: &mut Databases,
    call: &Call,
) -> Result<HttpAnswer, Failure> {
    let conversation_id = call.id(0)?;
    let connection = databases.messaging()?;
    read::membership(connection, conversation_id, call.identity()?.user_id)?;
    let limit = MEMBERS_NAMED_MAX as u64;
    let page = Page { limit: call.limit(limit, limit)?, before: call.query_id("after")? };
    let members = read::members_of(connection, conversation_id, page)?;
    let ids: Vec<Uuid> = members.iter().map(|it| it.user_id).collect();
    let profiles = map_by_ids(databases.profiles()?, &ids)?;
    let members = members.iter();
    let members: Vec<_> =
        members.map(|it| json::member(it.user_id, it.joined_sequence_number, &profiles)).collect();
    Ok(HttpAnswer::ok(json!({ "members": members })))
}

pub(super) fn add_members(
    app: &App,
    databases: &mut Databases,
    call: &Call,
) -> Result<HttpAnswer, Failure> {
    let asked: AddMembers = call.json()?;
    // Who is not a member learns nothing, not even which names exist.
    read::membership(databases.messaging()?, call.id(0)?, call.identity()?.user_id)?;
    let user_ids = members_asked(databases, &asked.names, asked.user_ids)?;
    let key = chosen(asked.idempotency_key.as_deref());
    append(app, call, Change::Add { user_ids, is_keyed: key.is_some() }, key)
}

pub(super) fn remove_member(
    app: &App,
    _: &mut Databases,
    call: &Call,
) -> Result<HttpAnswer, Failure> {
    append_deletion(app, call, Change::Remove { user_id: call.id(1)? })
}

/// Names, all of which must exist, and ids, which need not: users of a foreign issuer are known from
/// their first sight on.
fn members_asked(
    databases: &mut Databases,
    names: &[String],
    mut ids: Vec<Uuid>,
) -> Result<Vec<Uuid>, Failure> {
    let count = names.len() + ids.len();
    if count > MEMBERS_NAMED_MAX {
        return Err(Failure::invalid(format!(
            "{count} members are too many; at most {MEMBERS_NAMED_MAX} are allowed"
        )));
    }
    check_texts(names)?;
    ids.extend(ids_of_names(databases.profiles()?, names)?);
    Ok(ids)
}

fn answer_one(
    status: u16,
    databases: &mut Databases,
    call: &Call,
    conversation_id: Uuid,
) -> Result<HttpAnswer, Failure> {
    let user_id = call.identity()?.user_id;
    let view = read::one(databases.messaging()?, user_id, conversation_id)?;
    let mut conversations = shown(databases, std::slice::from_ref(&view))?;
    Ok(HttpAnswer::new(status, conversations.pop().unwrap_or_default()))
}

fn shown(databases: &mut Databases, views: &[View]) -> Result<Vec<serde_json::Value>, Failure> {
    let mut ids: Vec<Uuid> =
        views.iter().flat_map(|view| view.members.iter().map(|it| it.user_id)).collect();
    ids.sort_unstable();
    ids.dedup();
    let profiles = map_by_ids(databases.profiles()?, &ids)?;
    Ok(views.iter().map(|view| json::conversation(view, &profiles)).collect())
}
