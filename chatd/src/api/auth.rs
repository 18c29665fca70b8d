//! Signing in and out.

use crate::accounts::{
    self, Identity, device_for, hash_password, issue_refresh_token, verify_password,
};
use crate::app::App;
use crate::db::Databases;
use crate::failure::Failure;
use crate::http::{Call, HttpAnswer};
use crate::profiles::{check_display_name, ensure_profile};
use proto::Uuid;
use proto::error::ErrorCode;
use serde::Deserialize;
use serde_json::json;

/// How long clients and gateways may keep the public keys, in seconds.
const JWKS_MAX_AGE_S: u32 = 60;

#[derive(Deserialize)]
struct Register {
    name: String,
    password: String,
    display_name: Option<String>,
    device_name: Option<String>,
}

#[derive(Deserialize)]
struct Login {
    name: String,
    password: String,
    device_id: Option<Uuid>,
    device_name: Option<String>,
}

#[derive(Deserialize)]
struct Code {
    code: String,
    device_name: Option<String>,
}

#[derive(Deserialize)]
struct Refresh {
    refresh_token: String,
}

pub(super) fn register(
    app: &App,
    databases: &mut Databases,
    call: &Call,
) -> Result<HttpAnswer, Failure> {
    let asked: Register = call.json()?;
    check_display_name(asked.display_name.as_deref().unwrap_or_default())?;
    // Before the costly hash: most refusals are names that are taken.
    if accounts::find_user(databases.accounts()?, &asked.name)?.is_some() {
        let message = format!("the name {} is taken", asked.name);
        return Err(Failure::new(ErrorCode::NameTaken, message));
    }
    let hash = hash_password(&asked.password)?;
    let lifetime_s = app.refresh_lifetime_s;
    let (identity, refresh_token) = databases.accounts()?.transaction(|connection| {
        let user_id = accounts::create_user(connection, &asked.name, Some(&hash))?;
        let device_id = device_for(connection, user_id, None, asked.device_name.as_deref())?;
        let identity = Identity { user_id, device_id };
        let token = issue_refresh_token(connection, identity, lifetime_s)?;
        Ok::<_, Failure>((identity, token))
    })?;
    let display_name = asked.display_name.as_deref();
    ensure_profile(databases.profiles()?, identity.user_id, &asked.name, display_name)?;
    signed_in(app, 201, identity, &asked.name, &refresh_token)
}

pub(super) fn login(
    app: &App,
    databases: &mut Databases,
    call: &Call,
) -> Result<HttpAnswer, Failure> {
    let asked: Login = call.json()?;
    let known = accounts::credentials(databases.accounts()?, &asked.name)?;
    let hash = known.as_ref().and_then(|(_, hash)| hash.as_deref());
    let is_right = verify_password(&asked.password, hash)?;
    let Some((user_id, _)) = known.filter(|_| is_right) else {
        return Err(Failure::new(ErrorCode::WrongCredentials, "the name or the password is wrong"));
    };
    let device = (asked.device_id, asked.device_name.as_deref());
    sign_in(app, databases, (user_id, &asked.name), device)
}

pub(super) fn code(
    app: &App,
    databases: &mut Databases,
    call: &Call,
) -> Result<HttpAnswer, Failure> {
    let asked: Code = call.json()?;
    let user_id = accounts::use_code(databases.accounts()?, &asked.code)?;
    let name = accounts::name_of(databases.accounts()?, user_id)?;
    sign_in(app, databases, (user_id, &name), (None, asked.device_name.as_deref()))
}

pub(super) fn refresh(
    app: &App,
    databases: &mut Databases,
    call: &Call,
) -> Result<HttpAnswer, Failure> {
    let asked: Refresh = call.json()?;
    let (identity, refresh_token) =
        accounts::rotate(databases.accounts()?, &asked.refresh_token, app.refresh_lifetime_s)?;
    let name = accounts::name_of(databases.accounts()?, identity.user_id)?;
    signed_in(app, 200, identity, &name, &refresh_token)
}

pub(super) fn logout(
    _: &App,
    databases: &mut Databases,
    call: &Call,
) -> Result<HttpAnswer, Failure> {
    let asked: Refresh = call.json()?;
    accounts::revoke_family(databases.accounts()?, &asked.refresh_token)?;
    Ok(HttpAnswer::no_content())
}

pub(super) fn jwks(app: &App) -> HttpAnswer {
    // The keys are JSON of our own making.
    let keys = serde_json::from_str(app.tokens.jwks()).unwrap_or_default();
    HttpAnswer::ok(keys).with_header("cache-control", format!("max-age={JWKS_MAX_AGE_S}"))
}

fn sign_in(
    app: &App,
    databases: &mut Databases,
    (user_id, name): (Uuid, &str),
    (device_id, device_name): (Option<Uuid>, Option<&str>),
) -> Result<HttpAnswer, Failure> {
    let lifetime_s = app.refresh_lifetime_s;
    let (identity, refresh_token) = databases.accounts()?.transaction(|connection| {
        let device_id = device_for(connection, user_id, device_id, device_name)?;
        let identity = Identity { user_id, device_id };
        let token = issue_refresh_token(connection, identity, lifetime_s)?;
        Ok::<_, Failure>((identity, token))
    })?;
    // Had the registration's second step failed, this makes up for it.
    ensure_profile(databases.profiles()?, user_id, name, None)?;
    signed_in(app, 200, identity, name, &refresh_token)
}

fn signed_in(
    app: &App,
    status: u16,
    identity: Identity,
    name: &str,
    refresh_token: &str,
) -> Result<HttpAnswer, Failure> {
    let access = app.tokens.sign(identity)?;
    let Identity { user_id, device_id } = identity;
    tracing::info!(%user_id, %device_id, "signed in");
    let body = json!({
        "user_id": user_id,
        "device_id": device_id,
        "name": name,
        "access_token": access.token,
        "refresh_token": refresh_token,
        "expires_in": access.expires_in_s,
    });
    Ok(HttpAnswer::new(status, body))
}
