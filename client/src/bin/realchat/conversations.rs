//! Conversations and who is in them: create, conversations, members, presence.

use crate::args::{Create, Members, Mute};
use crate::context::Context;
use crate::failure::Failure;
use crate::rows::id;
use client::api::User;
use client::{Update, Uuid, Waited};
use proto::client::event::Kind;
use serde_json::json;
use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long `presence` waits for a connection, and then for what the server tells.
const CONNECT_SECONDS_MAX: u64 = 10;
const ANSWER_SECONDS_MAX: u64 = 3;
/// What is told comes together: after so much silence there is no more.
const ANSWER_GAP_MS: u64 = 500;
/// Until when something is muted for ever: the largest number that JSON has exactly.
const FOR_EVER_US: u64 = (1 << 53) - 1;

pub(crate) fn create(context: &Context, create: &Create) -> Result<(), Failure> {
    let token = context.token()?;
    let key = proto::id::new().to_string();
    let made = context.api.create_conversation(&token, &create.title, &create.members, &key)?;
    let text = format!("conversation_id {}  {}", made.conversation_id, made.title);
    Ok(context.out.line(&made, &text)?)
}

pub(crate) fn list(context: &Context) -> Result<(), Failure> {
    for it in context.api.conversations(&context.token()?)? {
        let names: Vec<&str> = it.members.iter().map(|member| member.name.as_str()).collect();
        let text = format!(
            "{}  {}  {} messages, {} unread{}  {}",
            it.conversation_id,
            it.title,
            it.message_count,
            it.unread_count,
            if it.muted_until_us.is_some() { ", muted" } else { "" },
            names.join(", ")
        );
        context.out.line(&it, &text)?;
    }
    Ok(())
}

pub(crate) fn members(context: &Context, asked: &Members) -> Result<(), Failure> {
    let (token, conversation) = (context.token()?, asked.conversation);
    if !asked.add.is_empty() {
        context.api.add_members(&token, conversation, &asked.add)?;
    }
    let mut left = false;
    for user in named(context, &token, &asked.remove)? {
        context.api.remove_member(&token, conversation, user.user_id)?;
        left |= Some(user.user_id) == context.store.load(context.name()?)?.map(|it| it.user_id);
    }
    if left {
        // Who left may not look any more.
        context.out.note("you are no longer a member");
        return Ok(());
    }
    for member in context.api.members(&token, conversation)? {
        let text = format!("{}  {}  {}", member.user_id, member.name, member.display_name);
        context.out.line(&member, &text)?;
    }
    Ok(())
}

pub(crate) fn mute(context: &Context, asked: &Mute) -> Result<(), Failure> {
    let until_us = match asked.time {
        _ if asked.off => None,
        None => Some(FOR_EVER_US),
        Some(time) => {
            let until = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() + time;
            Some(u64::try_from(until.as_micros()).unwrap_or(FOR_EVER_US))
        }
    };
    let it = context.api.mute(&context.token()?, asked.conversation, until_us)?;
    let word = match (it.muted_until_us, asked.time) {
        (None, _) => "not muted".to_owned(),
        (Some(_), None) => "muted".to_owned(),
        (Some(_), Some(time)) => format!("muted for {} s", time.as_secs()),
    };
    Ok(context.out.line(&it, &format!("{}  {}  {word}", it.conversation_id, it.title))?)
}

/// The users with these names, in their order; a name that nobody has is refused.
fn named(context: &Context, token: &str, names: &[String]) -> Result<Vec<User>, Failure> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let found = context.api.users_by_name(token, names)?;
    let find = |name: &String| {
        let user = found.iter().find(|user| user.name == *name).cloned();
        user.ok_or_else(|| Failure::refused("not_found", format!("nobody is named {name:?}")))
    };
    names.iter().map(find).collect()
}

pub(crate) fn presence(context: &Context, names: &[String]) -> Result<(), Failure> {
    let users = named(context, &context.token()?, names)?;
    let (mut options, connection) = context.options()?;
    options.acknowledge = false;
    let (session, events) = context.connect(options)?;
    session.watch(users.iter().map(|user| user.user_id).collect());
    let mut states: HashMap<Uuid, (bool, u64)> = HashMap::new();
    let mut until = Instant::now() + Duration::from_secs(CONNECT_SECONDS_MAX);
    let mut welcomed = false;
    while states.len() < users.len() {
        let left = until.saturating_duration_since(Instant::now());
        let gap = Duration::from_millis(ANSWER_GAP_MS);
        let wait = if states.is_empty() { left } else { left.min(gap) };
        match events.recv_for(wait) {
            Waited::Update(Update::Event(delivery)) => {
                if let Some(Kind::PresenceChanged(state)) = &delivery.event.kind {
                    states.insert(id(&state.user_id), (state.online, state.last_seen_at_us));
                }
            }
            Waited::Update(Update::Notice(_)) if !welcomed && connection.welcomed() => {
                welcomed = true;
                until = Instant::now() + Duration::from_secs(ANSWER_SECONDS_MAX);
            }
            Waited::Update(Update::Notice(_)) => {}
            Waited::Nothing | Waited::Ended => break,
        }
    }
    session.close();
    if !welcomed {
        return Err(connection.failure(&context.server, "welcome"));
    }
    for User { user_id, name, .. } in users {
        let state = states.get(&user_id);
        let object = json!({
            "name": name,
            "user_id": user_id,
            "online": state.map(|(online, _)| online),
            "last_seen_at_us": state.map(|(_, seen)| seen).filter(|seen| **seen > 0),
        });
        let word = match state {
            Some((true, _)) => "online",
            Some((false, _)) => "offline",
            None => "not told: you share no conversation",
        };
        context.out.line(&object, &format!("{name}  {user_id}  {word}"))?;
    }
    Ok(())
}
