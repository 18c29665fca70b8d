//! Oneself, and the directory.

use super::json;
use crate::app::App;
use crate::db::Databases;
use crate::failure::Failure;
use crate::http::{Call, HttpAnswer};
use crate::limits::{USERS_DEFAULT, USERS_MAX};
use crate::profiles::{self, Profile};
use proto::Uuid;
use proto::error::ErrorCode;
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct ChangeMe {
    display_name: Option<String>,
    about: Option<String>,
}

pub(super) fn me(_: &App, databases: &mut Databases, call: &Call) -> Result<HttpAnswer, Failure> {
    let user_id = call.identity()?.user_id;
    let found = profiles::by_ids(databases.profiles()?, &[user_id])?.into_iter().next();
    // A user of a foreign issuer has a token before it has a profile here.
    let unknown = Profile { user_id, ..Profile::default() };
    answer_me(call, &found.unwrap_or(unknown))
}

pub(super) fn change_me(
    _: &App,
    databases: &mut Databases,
    call: &Call,
) -> Result<HttpAnswer, Failure> {
    let asked: ChangeMe = call.json()?;
    let user_id = call.identity()?.user_id;
    let (display_name, about) = (asked.display_name.as_deref(), asked.about.as_deref());
    if display_name.is_none() && about.is_none() {
        return Err(Failure::invalid("nothing to change; display_name or about is required"));
    }
    let connection = databases.profiles()?;
    let profile = profiles::update(connection, user_id, display_name, about, &call.traceparent)?;
    answer_me(call, &profile)
}

fn answer_me(call: &Call, profile: &Profile) -> Result<HttpAnswer, Failure> {
    let mut body = json::user(profile);
    body["device_id"] = json!(call.identity()?.device_id);
    Ok(HttpAnswer::ok(body))
}

pub(super) fn users(
    _: &App,
    databases: &mut Databases,
    call: &Call,
) -> Result<HttpAnswer, Failure> {
    let limit = call.limit(USERS_DEFAULT, USERS_MAX)?;
    let connection = databases.profiles()?;
    let found = if let Some(names) = call.list("names") {
        check_count("names", names.len())?;
        let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        check_texts(&names)?;
        profiles::by_names(connection, &names)?
    } else if let Some(ids) = call.list("ids") {
        check_count("ids", ids.len())?;
        let id = |text: &str| {
            let message = || Failure::invalid(format!("ids: {text:?} is no id; an id is a UUID"));
            Uuid::parse_str(text).map_err(|_| message())
        };
        let ids = ids.into_iter().map(id).collect::<Result<Vec<_>, _>>()?;
        profiles::by_ids(connection, &ids)?
    } else if let Some(prefix) = call.query("query") {
        profiles::search(connection, prefix, limit)?
    } else {
        return Err(Failure::invalid("one of names, ids or query is required"));
    };
    let users: Vec<_> = found.iter().map(json::user).collect();
    Ok(HttpAnswer::ok(json!({ "users": users })))
}

fn check_count(field: &str, count: usize) -> Result<(), Failure> {
    if count as u64 > USERS_MAX {
        return Err(Failure::invalid(format!(
            "{field}: {count} are too many; at most {USERS_MAX} are allowed"
        )));
    }
    Ok(())
}

/// Texts that are compared with stored ones: PostgreSQL refuses NUL.
pub(super) fn check_texts(texts: &[String]) -> Result<(), Failure> {
    match texts.iter().find(|it| it.contains('\0')) {
        Some(text) => Err(Failure::invalid(format!("{text:?} holds a NUL character"))),
        None => Ok(()),
    }
}

pub(super) fn user(_: &App, databases: &mut Databases, call: &Call) -> Result<HttpAnswer, Failure> {
    let found = profiles::by_ids(databases.profiles()?, &[call.id(0)?])?;
    let profile =
        found.first().ok_or_else(|| Failure::new(ErrorCode::NotFound, "there is no such user"))?;
    Ok(HttpAnswer::ok(json::user(profile)))
}
