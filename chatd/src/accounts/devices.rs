//! A user's devices.

use crate::db::{Connection, Query, signed, unsigned};
use crate::failure::Failure;
use crate::limits::{DEVICE_NAME_BYTES_MAX, DEVICES_MAX};
use crate::write::check_stored;
use proto::Uuid;
use proto::error::ErrorCode;

/// A device that is not revoked.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) device_id: Uuid,
    pub(crate) name: String,
    pub(crate) created_at_us: u64,
    pub(crate) last_seen_at_us: u64,
}

const SEEN: Query = Query {
    name: "device_seen",
    sql: "UPDATE accounts.devices SET last_seen_at_us = $3, name = COALESCE($4, name)
          WHERE device_id = $1 AND user_id = $2 AND revoked_at_us IS NULL",
};

const INSERT: Query = Query {
    name: "insert_device",
    sql: "INSERT INTO accounts.devices (device_id, user_id, name, created_at_us, last_seen_at_us)
          SELECT $1, $2, $3, $4, $4 WHERE $5 > (
              SELECT count(*) FROM accounts.devices WHERE user_id = $2 AND revoked_at_us IS NULL)",
};

const LIST: Query = Query {
    name: "devices",
    sql: "SELECT device_id, name, created_at_us, last_seen_at_us FROM accounts.devices
          WHERE user_id = $1 AND revoked_at_us IS NULL ORDER BY last_seen_at_us DESC, device_id",
};

const REVOKE: Query = Query {
    name: "revoke_device",
    sql: "UPDATE accounts.devices SET revoked_at_us = $3
          WHERE device_id = $1 AND user_id = $2 AND revoked_at_us IS NULL",
};

const REVOKE_TOKENS: Query = Query {
    name: "revoke_device_tokens",
    sql: "UPDATE accounts.refresh_tokens SET revoked_at_us = $2
          WHERE device_id = $1 AND revoked_at_us IS NULL",
};

/// The device that signs in: the one that it says it is, if that is this user's, else a new one.
pub(crate) fn device_for(
    connection: &mut Connection,
    user_id: Uuid,
    device_id: Option<Uuid>,
    name: Option<&str>,
) -> Result<Uuid, Failure> {
    check_stored("device_name", name.unwrap_or_default(), DEVICE_NAME_BYTES_MAX)?;
    let now_us = signed(daemon::clock::now_us());
    if let Some(device_id) = device_id
        && connection.execute(&SEEN, &[&device_id, &user_id, &now_us, &name])? > 0
    {
        return Ok(device_id);
    }
    let device_id = proto::id::new();
    let name = name.unwrap_or("");
    let parameters: [&(dyn postgres::types::ToSql + Sync); 5] =
        [&device_id, &user_id, &name, &now_us, &DEVICES_MAX];
    if connection.execute(&INSERT, &parameters)? == 0 {
        return Err(Failure::new(
            ErrorCode::Forbidden,
            format!("the user has {DEVICES_MAX} devices, which is the most; remove one first"),
        ));
    }
    Ok(device_id)
}

pub(crate) fn list_devices(
    connection: &mut Connection,
    user_id: Uuid,
) -> Result<Vec<Device>, Failure> {
    let rows = connection.rows(&LIST, &[&user_id])?;
    let device = |row: &postgres::Row| Device {
        device_id: row.get(0),
        name: row.get(1),
        created_at_us: unsigned(row.get(2)),
        last_seen_at_us: unsigned(row.get(3)),
    };
    Ok(rows.iter().map(device).collect())
}

/// Signs a device out: its refresh tokens are worth nothing any more; its access token runs out.
pub(crate) fn revoke_device(
    connection: &mut Connection,
    user_id: Uuid,
    device_id: Uuid,
) -> Result<(), Failure> {
    let now_us = signed(daemon::clock::now_us());
    connection.transaction(|connection| {
        if connection.execute(&REVOKE, &[&device_id, &user_id, &now_us])? == 0 {
            let message = "there is no such device of yours";
            return Err(Failure::new(ErrorCode::NotFound, message));
        }
        connection.execute(&REVOKE_TOKENS, &[&device_id, &now_us])?;
        Ok(())
    })
}
