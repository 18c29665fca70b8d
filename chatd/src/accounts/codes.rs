//! One-time sign-in codes: for people who were seeded, and for bots.

use super::secrets::{fresh, hash};
use crate::db::{Connection, Query, signed};
use crate::failure::Failure;
use crate::limits::LOGIN_CODE_BYTES;
use proto::Uuid;
use proto::error::ErrorCode;

const INSERT: Query = Query {
    name: "insert_code",
    sql: "INSERT INTO accounts.login_codes (code_hash, user_id, issued_at_us, expires_at_us)
          VALUES ($1, $2, $3, $4)",
};

const USE: Query = Query {
    name: "use_code",
    sql: "UPDATE accounts.login_codes SET used_at_us = $2
          WHERE code_hash = $1 AND used_at_us IS NULL AND expires_at_us > $2
          RETURNING user_id",
};

pub(crate) fn issue_code(
    connection: &mut Connection,
    user_id: Uuid,
    lifetime_s: u64,
) -> Result<String, Failure> {
    let code = fresh::<LOGIN_CODE_BYTES>()?;
    let now_us = daemon::clock::now_us();
    let expires_at_us = signed(now_us.saturating_add(lifetime_s.saturating_mul(1_000_000)));
    connection.execute(&INSERT, &[&hash(&code), &user_id, &signed(now_us), &expires_at_us])?;
    Ok(code)
}

/// Whose code it is; from then on it is nobody's.
pub(crate) fn use_code(connection: &mut Connection, code: &str) -> Result<Uuid, Failure> {
    let now_us = signed(daemon::clock::now_us());
    let row = connection.row(&USE, &[&hash(code), &now_us])?;
    row.map(|row| row.get(0)).ok_or_else(|| {
        let message = "the sign-in code is unknown, was used before or has expired";
        Failure::new(ErrorCode::WrongCredentials, message)
    })
}
