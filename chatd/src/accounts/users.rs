//! Users and their passwords.

use crate::db::{Connection, Query, signed};
use crate::failure::Failure;
use crate::limits::{NAME_BYTES_MAX, NAME_BYTES_MIN};
use proto::Uuid;
use proto::error::ErrorCode;

const INSERT: Query = Query {
    name: "insert_user",
    sql: "INSERT INTO accounts.users (user_id, name, created_at_us) VALUES ($1, $2, $3)
          ON CONFLICT (name) DO NOTHING",
};

const INSERT_CREDENTIALS: Query = Query {
    name: "insert_credentials",
    sql: "INSERT INTO accounts.credentials (user_id, password_hash, updated_at_us)
          VALUES ($1, $2, $3)",
};

const CREDENTIALS: Query = Query {
    name: "credentials",
    sql: "SELECT u.user_id, c.password_hash
          FROM accounts.users u LEFT JOIN accounts.credentials c USING (user_id)
          WHERE u.name = $1",
};

const NAME: Query =
    Query { name: "user_name", sql: "SELECT name FROM accounts.users WHERE user_id = $1" };

fn check_name(name: &str) -> Result<(), Failure> {
    let allowed = |it: u8| it.is_ascii_lowercase() || it.is_ascii_digit() || b"._-".contains(&it);
    let long_enough = (NAME_BYTES_MIN..=NAME_BYTES_MAX).contains(&name.len());
    if long_enough && name.bytes().all(allowed) {
        return Ok(());
    }
    Err(Failure::invalid(format!(
        "name must be {NAME_BYTES_MIN} to {NAME_BYTES_MAX} characters of a-z 0-9 . _ -"
    )))
}

/// A new user; without a password hash it signs in by one-time code alone.
pub(crate) fn create_user(
    connection: &mut Connection,
    name: &str,
    password_hash: Option<&str>,
) -> Result<Uuid, Failure> {
    check_name(name)?;
    let user_id = proto::id::new();
    let now_us = signed(daemon::clock::now_us());
    if connection.execute(&INSERT, &[&user_id, &name, &now_us])? == 0 {
        let message = format!("the name {name} is taken");
        return Err(Failure::new(ErrorCode::NameTaken, message));
    }
    if let Some(password_hash) = password_hash {
        connection.execute(&INSERT_CREDENTIALS, &[&user_id, &password_hash, &now_us])?;
    }
    Ok(user_id)
}

/// The user of that name and its password hash, as far as there are any.
pub(crate) fn credentials(
    connection: &mut Connection,
    name: &str,
) -> Result<Option<(Uuid, Option<String>)>, Failure> {
    if check_name(name).is_err() {
        return Ok(None);
    }
    let row = connection.row(&CREDENTIALS, &[&name])?;
    Ok(row.map(|row| (row.get(0), row.get(1))))
}

pub(crate) fn find_user(connection: &mut Connection, name: &str) -> Result<Option<Uuid>, Failure> {
    Ok(credentials(connection, name)?.map(|(user_id, _)| user_id))
}

pub(crate) fn name_of(connection: &mut Connection, user_id: Uuid) -> Result<String, Failure> {
    let row = connection.row(&NAME, &[&user_id])?;
    Ok(row.map(|row| row.get(0)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_plain() {
        for good in ["al", "alice", "a.b_c-9", &"x".repeat(32)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "a", "Alice", "a b", "ä", "a\0", &"x".repeat(33)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
