//! `chatd seed`: two people and a bot who share a conversation, so that there is something to try.
//! Run again it changes nothing but to issue fresh one-time codes.

use crate::accounts::{create_user, find_user, issue_code};
use crate::api::create_conversation;
use crate::db::{self, Databases, Settings};
use crate::failure::Failure;
use crate::profiles::ensure_profile;
use crate::start::command_settings;
use crate::write::{Append, Appended, Change, Engine, Postgres, Waker};
use daemon::Config;
use proto::Uuid;
use serde_json::{Value, json};
use std::io::Write;

/// Name and display name; the last one is the bot, which made the conversation.
const PEOPLE: [(&str, &str); 2] = [("alice", "Alice"), ("bob", "Bob")];
const BOT: (&str, &str) = ("echo", "Echo");
const TITLE: &str = "Welcome";
const GREETING: &str = "Welcome to RealChat! Write something here, and I will answer.";

pub(crate) fn run(config: &Config, _: &[String]) -> Result<(), String> {
    let settings = command_settings(config)?;
    db::migrate(&settings)?;
    let lifetime_s = config.integer("tokens.code_lifetime_s");
    let seeded = seed(&settings, lifetime_s).map_err(|failure| failure.message)?;
    let mut out = std::io::stdout();
    out.write_all(format!("{seeded}\n").as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| format!("standard output: {error}"))
}

fn seed(settings: &Settings, lifetime_s: u64) -> Result<Value, Failure> {
    let mut databases = Databases::new(settings.clone());
    let mut users = Vec::new();
    for (name, display_name) in PEOPLE.into_iter().chain([BOT]) {
        users.push(user(&mut databases, name, display_name, lifetime_s)?);
    }
    let ids: Vec<Uuid> = users.iter().map(|(user_id, _)| *user_id).collect();
    let conversation_id = converse(settings, &ids)?;
    let mut users: Vec<Value> = users.into_iter().map(|(_, user)| user).collect();
    let bot = users.pop().unwrap_or_default();
    Ok(json!({ "users": users, "bot": bot, "conversation_id": conversation_id }))
}

fn user(
    databases: &mut Databases,
    name: &str,
    display_name: &str,
    lifetime_s: u64,
) -> Result<(Uuid, Value), Failure> {
    let accounts = databases.accounts()?;
    let user_id = match find_user(accounts, name)? {
        Some(user_id) => user_id,
        None => create_user(accounts, name, None)?,
    };
    let code = issue_code(accounts, user_id, lifetime_s)?;
    ensure_profile(databases.profiles()?, user_id, name, Some(display_name))?;
    let user =
        json!({ "name": name, "display_name": display_name, "user_id": user_id, "code": code });
    Ok((user_id, user))
}

/// The conversation and its greeting, by fixed keys: what is there already is found again.
fn converse(settings: &Settings, ids: &[Uuid]) -> Result<Uuid, Failure> {
    let bot_id = ids.last().copied().unwrap_or_default();
    // Nobody's device: the bot does not sign in for this.
    let sender = (bot_id, Uuid::nil());
    let (waker, waker_thread) = Waker::start(settings)
        .map_err(|error| Failure::unavailable(format!("threads: {error}")))?;
    let mut engine = Engine::new(Postgres { settings: settings.clone(), waker });
    let create = create_conversation(sender, Some("seed"), TITLE, ids.to_vec(), "")?;
    let conversation_id = create.conversation_id;
    commit(&mut engine, &create)?;
    let change = Change::Message { text: GREETING.to_owned() };
    let greeting =
        Append::new(conversation_id, sender, "seed-greeting".to_owned(), String::new(), change)?;
    let greeted = commit(&mut engine, &greeting);
    drop(engine);
    let _ = waker_thread.join();
    match greeted {
        // The bot was removed from its conversation; that is how people wanted it.
        Err(failure) if failure.code == proto::error::ErrorCode::NotAMember => Ok(conversation_id),
        outcome => outcome.map(|_| conversation_id),
    }
}

fn commit(engine: &mut Engine<Postgres>, append: &Append) -> Result<Appended, Failure> {
    let outcome = engine
        .commit(&[append], &[])
        .map_err(|error| Failure::unavailable(format!("the database: {error:?}")))?;
    engine.wake_relay();
    outcome.appended.into_iter().next().unwrap_or_else(|| Err(Failure::unavailable("no answer")))
}
