//! The user's devices.

use crate::accounts::{list_devices, revoke_device};
use crate::app::App;
use crate::db::Databases;
use crate::failure::Failure;
use crate::http::{Call, HttpAnswer};
use serde_json::json;

pub(super) fn list(_: &App, databases: &mut Databases, call: &Call) -> Result<HttpAnswer, Failure> {
    let identity = call.identity()?;
    let devices = list_devices(databases.accounts()?, identity.user_id)?;
    let device = |it: &crate::accounts::Device| {
        json!({
            "device_id": it.device_id,
            "name": it.name,
            "created_at_us": it.created_at_us,
            "last_seen_at_us": it.last_seen_at_us,
            "current": it.device_id == identity.device_id,
        })
    };
    let devices: Vec<_> = devices.iter().map(device).collect();
    Ok(HttpAnswer::ok(json!({ "devices": devices })))
}

pub(super) fn remove(
    _: &App,
    databases: &mut Databases,
    call: &Call,
) -> Result<HttpAnswer, Failure> {
    let user_id = call.identity()?.user_id;
    let device_id = call.id(0)?;
    revoke_device(databases.accounts()?, user_id, device_id)?;
    tracing::info!(%user_id, %device_id, "device removed");
    Ok(HttpAnswer::no_content())
}
