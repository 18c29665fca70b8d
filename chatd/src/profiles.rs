//! What users show of themselves, and the directory.

use crate::db::{Connection, Query, signed};
use crate::failure::Failure;
use crate::limits::{ABOUT_BYTES_MAX, DISPLAY_NAME_BYTES_MAX};
use crate::read::contacts;
use crate::write::{NOTIFY, check_stored, profile_updated, write_outbox};
use postgres::Row;
use proto::Uuid;
use proto::client::ProfileUpdated;
use proto::error::ErrorCode;
use std::collections::HashMap;

#[derive(Debug, Clone, Default)]
pub(crate) struct Profile {
    pub(crate) user_id: Uuid,
    pub(crate) name: String,
    pub(crate) display_name: String,
    pub(crate) about: String,
}

const ENSURE: Query = Query {
    name: "ensure_profile",
    sql: "INSERT INTO profiles.profiles (user_id, name, display_name, updated_at_us)
          VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
};

const BY_IDS: Query = Query {
    name: "profiles_by_id",
    sql: "SELECT user_id, name, display_name, about FROM profiles.profiles
          WHERE user_id = ANY($1) ORDER BY name",
};

const BY_NAMES: Query = Query {
    name: "profiles_by_name",
    sql: "SELECT user_id, name, display_name, about FROM profiles.profiles
          WHERE name = ANY($1) ORDER BY name",
};

/// Each half is an index scan of its own, cut short.
const SEARCH: Query = Query {
    name: "profiles_search",
    sql: "SELECT user_id, name, display_name, about FROM (
              (SELECT * FROM profiles.profiles WHERE name LIKE $1 ORDER BY name LIMIT $2)
              UNION
              (SELECT * FROM profiles.profiles WHERE lower(display_name) LIKE $1
               ORDER BY lower(display_name) USING ~<~ LIMIT $2)
          ) found ORDER BY name LIMIT $2",
};

const UPDATE: Query = Query {
    name: "update_profile",
    sql: "UPDATE profiles.profiles
          SET display_name = COALESCE($2, display_name), about = COALESCE($3, about),
              updated_at_us = $4
          WHERE user_id = $1
          RETURNING user_id, name, display_name, about",
};

/// Makes a new user's profile; one that is there stays as it is.
pub(crate) fn ensure_profile(
    connection: &mut Connection,
    user_id: Uuid,
    name: &str,
    display_name: Option<&str>,
) -> Result<(), Failure> {
    let display_name = display_name.filter(|it| !it.is_empty()).unwrap_or(name);
    let now_us = signed(daemon::clock::now_us());
    connection.execute(&ENSURE, &[&user_id, &name, &display_name, &now_us])?;
    Ok(())
}

pub(crate) fn check_display_name(display_name: &str) -> Result<(), Failure> {
    check_stored("display_name", display_name, DISPLAY_NAME_BYTES_MAX)
}

/// Unknown ids are left out.
pub(crate) fn by_ids(connection: &mut Connection, ids: &[Uuid]) -> Result<Vec<Profile>, Failure> {
    Ok(connection.rows(&BY_IDS, &[&ids])?.iter().map(profile).collect())
}

pub(crate) fn map_by_ids(
    connection: &mut Connection,
    ids: &[Uuid],
) -> Result<HashMap<Uuid, Profile>, Failure> {
    Ok(by_ids(connection, ids)?.into_iter().map(|it| (it.user_id, it)).collect())
}

/// Unknown names are left out.
pub(crate) fn by_names(
    connection: &mut Connection,
    names: &[String],
) -> Result<Vec<Profile>, Failure> {
    Ok(connection.rows(&BY_NAMES, &[&names])?.iter().map(profile).collect())
}

/// The ids of all these names; an error names the first that nobody has.
pub(crate) fn ids_of_names(
    connection: &mut Connection,
    names: &[String],
) -> Result<Vec<Uuid>, Failure> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let found = by_names(connection, names)?;
    match names.iter().find(|name| found.iter().all(|it| it.name != **name)) {
        Some(name) => {
            Err(Failure::new(ErrorCode::NotFound, format!("there is no user named {name:?}")))
        }
        None => Ok(found.into_iter().map(|it| it.user_id).collect()),
    }
}

/// Users whose name or display name begins so, whatever the case.
pub(crate) fn search(
    connection: &mut Connection,
    prefix: &str,
    limit: u64,
) -> Result<Vec<Profile>, Failure> {
    let rows = connection.rows(&SEARCH, &[&prefix_pattern(prefix), &signed(limit)])?;
    Ok(rows.iter().map(profile).collect())
}

/// A LIKE pattern in which nothing of the prefix is special.
fn prefix_pattern(prefix: &str) -> String {
    let mut pattern = String::with_capacity(prefix.len() + 1);
    for character in prefix.to_lowercase().chars().filter(|it| *it != '\0') {
        if matches!(character, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern.push('%');
    pattern
}

/// Changes a profile and publishes it to everybody who shares a conversation, in one transaction:
/// the profile as its own role, the outbox as messaging's.
pub(crate) fn update(
    connection: &mut Connection,
    user_id: Uuid,
    display_name: Option<&str>,
    about: Option<&str>,
    traceparent: &str,
) -> Result<Profile, Failure> {
    check_display_name(display_name.unwrap_or_default())?;
    check_stored("about", about.unwrap_or_default(), ABOUT_BYTES_MAX)?;
    if display_name.is_some_and(str::is_empty) {
        return Err(Failure::invalid("display_name is empty; 1 byte or more is required"));
    }
    let now_us = daemon::clock::now_us();
    let (profile, row) = connection.transaction(|connection| {
        let row = connection.row(&UPDATE, &[&user_id, &display_name, &about, &signed(now_us)])?;
        let profile = row
            .as_ref()
            .map(profile)
            .ok_or_else(|| Failure::new(ErrorCode::NotFound, "this user has no profile here"))?;
        connection.batch("set_role", "SET LOCAL ROLE realchat_messaging")?;
        let recipients = proto::id::pack(&contacts(connection, user_id)?);
        let event = ProfileUpdated {
            user_id: user_id.as_bytes().to_vec(),
            name: profile.name.clone(),
            display_name: profile.display_name.clone(),
            about: profile.about.clone(),
        };
        let row = profile_updated(user_id, event, traceparent, &recipients, now_us);
        write_outbox(connection, &[&row])?;
        Ok::<_, Failure>((profile, row))
    })?;
    connection.metrics().committed(std::iter::once((row.topic, &row.key)));
    // Committed already; without it the relay finds the row by itself.
    let _ = connection.batch("notify", NOTIFY);
    Ok(profile)
}

fn profile(row: &Row) -> Profile {
    Profile { user_id: row.get(0), name: row.get(1), display_name: row.get(2), about: row.get(3) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_prefix_is_a_wildcard() {
        assert_eq!(prefix_pattern("Al"), "al%");
        assert_eq!(prefix_pattern("50%_\\\0"), "50\\%\\_\\\\%");
        assert_eq!(prefix_pattern(""), "%");
    }
}
