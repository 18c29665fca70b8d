//! Accounts: register, login, logout, token.

use crate::args::{Login, Password};
use crate::context::Context;
use crate::failure::Failure;
use crate::store::Identity;
use serde_json::json;

const PASSWORD_VARIABLE: &str = "REALCHAT_PASSWORD";

pub(crate) fn register(context: &Context, password: &Password) -> Result<(), Failure> {
    let name = context.name()?;
    let password = ask(password, name)?;
    let account = context.api.register(name, &password, &device_name())?;
    let identity = context.store.keep(name, &context.server, account)?;
    print(context, &identity)
}

pub(crate) fn login(context: &Context, login: &Login) -> Result<(), Failure> {
    if let Some(code) = &login.code {
        let identity = login_with_code(context, code)?;
        return print(context, &identity);
    }
    let name = context.name()?;
    let password = ask(&login.password, name)?;
    // The same device as before, if there was one.
    let device = context.store.load(name)?.map(|identity| identity.device_id);
    let account = match context.api.login(name, &password, device, &device_name()) {
        // The device may have been removed since, or belong to another deployment.
        Err(error) if device.is_some() && matches!(error.code(), "not_found" | "forbidden") => {
            context.api.login(name, &password, None, &device_name())?
        }
        other => other?,
    };
    let identity = context.store.keep(name, &context.server, account)?;
    print(context, &identity)
}

/// Signs in with a one-time code. The account has to be NAME's, if a NAME was given.
pub(crate) fn login_with_code(context: &Context, code: &str) -> Result<Identity, Failure> {
    let account = context.api.login_with_code(code, &device_name())?;
    let name = account.name.clone();
    let identity = context.store.keep(&name, &context.server, account)?;
    match context.given_name() {
        Some(given) if given != name => Err(Failure::usage(format!(
            "the code is not {given}'s: {name} is signed in now (--as {name})"
        ))),
        _ => Ok(identity),
    }
}

pub(crate) fn logout(context: &Context) -> Result<(), Failure> {
    let name = context.name()?;
    let Some(kept) = context.store.load(name)? else {
        return Err(Failure::not_signed_in(name));
    };
    match context.identity() {
        Ok(identity) => {
            context.api.logout(&identity.access_token, &identity.refresh_token)?;
        }
        // Signed out already, by somebody else: what is left is to forget it.
        Err(failure) if failure.code == "not_signed_in" => {}
        Err(failure) => return Err(failure),
    }
    context.store.forget(name)?;
    print(context, &kept)
}

pub(crate) fn token(context: &Context) -> Result<(), Failure> {
    let identity = context.identity()?;
    let object = json!({
        "access_token": identity.access_token,
        "expires_at_us": identity.expires_at_us,
        "user_id": identity.user_id,
        "device_id": identity.device_id,
    });
    Ok(context.out.line(&object, &identity.access_token)?)
}

fn print(context: &Context, identity: &Identity) -> Result<(), Failure> {
    let Identity { name, user_id, device_id, .. } = identity;
    let object = json!({ "name": name, "user_id": user_id, "device_id": device_id });
    let text = format!("{name}  user_id {user_id}  device_id {device_id}");
    Ok(context.out.line(&object, &text)?)
}

fn ask(password: &Password, name: &str) -> Result<String, Failure> {
    if let Some(password) = &password.password {
        return Ok(password.clone());
    }
    if let Ok(password) = std::env::var(PASSWORD_VARIABLE) {
        return Ok(password);
    }
    rpassword::prompt_password(format!("password of {name}: ")).map_err(|error| {
        Failure::usage(format!(
            "the password cannot be asked for ({error}): give --password or {PASSWORD_VARIABLE}"
        ))
    })
}

/// What the device is called in the account's list of devices.
fn device_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match host.trim() {
        "" => "realchat".to_owned(),
        host => format!("realchat on {host}"),
    }
}
