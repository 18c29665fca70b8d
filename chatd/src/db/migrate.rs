//! Brings the database to this build's schema: the numbered files of `sql/`, in order, each in a
//! transaction of its own together with its record, all under one advisory lock.

use super::{Connection, Role, Settings, signed};
use crate::failure::describe;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

struct Migration {
    number: i32,
    name: &'static str,
    sql: &'static str,
}

macro_rules! migrations {
    ($($number:literal $name:literal),+ $(,)?) => {
        &[$(Migration {
            number: $number,
            name: $name,
            sql: include_str!(concat!("../../../sql/", $name, ".sql")),
        }),+]
    };
}

const MIGRATIONS: &[Migration] = migrations![
    1 "0001_schemas",
    2 "0002_accounts",
    3 "0003_profiles",
    4 "0004_messaging",
    5 "0005_outbox",
    6 "0006_trace_index",
    7 "0007_delete_published",
    8 "0008_mute",
    9 "0009_receipt_summaries",
    10 "0010_message_edits",
];

/// Any number will do, so long as every chatd uses the same.
const LOCK: &str = "SELECT pg_advisory_lock(7021143659)";
const UNLOCK: &str = "SELECT pg_advisory_unlock(7021143659)";

const RECORDS: &str = "
    CREATE SCHEMA IF NOT EXISTS realchat;
    CREATE TABLE IF NOT EXISTS realchat.migrations (
        number        integer PRIMARY KEY,
        name          text NOT NULL,
        sha256        text NOT NULL,
        applied_at_us bigint NOT NULL
    )";

/// Applies what is missing; returns how many were applied. An error is one line for a person.
pub(crate) fn migrate(settings: &Settings) -> Result<usize, String> {
    let mut connection =
        Connection::open(settings, Role::Owner).map_err(|error| describe(&error))?;
    // Another chatd's migration may take long; it is not a lock that a time-out should end.
    let prepare = "SET lock_timeout = 0";
    connection.batch("migrate", prepare).map_err(|error| describe(&error))?;
    connection.batch("migrate", LOCK).map_err(|error| describe(&error))?;
    let outcome = apply_missing(&mut connection);
    // The lock ends with the connection in any case.
    let _ = connection.batch("migrate", UNLOCK);
    outcome
}

fn apply_missing(connection: &mut Connection) -> Result<usize, String> {
    connection.batch("migrate", RECORDS).map_err(|error| describe(&error))?;
    let applied = applied(connection)?;
    for number in applied.keys() {
        if MIGRATIONS.iter().all(|it| it.number != *number) {
            tracing::warn!(number, "the database has a migration that this build does not know");
        }
    }
    let mut count = 0;
    for migration in MIGRATIONS {
        let checksum = checksum(migration.sql);
        match applied.get(&migration.number) {
            Some(before) if *before == checksum => continue,
            Some(_) => {
                return Err(format!(
                    "migration {} was applied with other contents than this build's; a migration \
                     that was released may not be changed",
                    migration.name
                ));
            }
            None => apply(connection, migration, &checksum)?,
        }
        count += 1;
    }
    Ok(count)
}

fn applied(connection: &mut Connection) -> Result<BTreeMap<i32, String>, String> {
    let query = super::Query {
        name: "migrations_applied",
        sql: "SELECT number, sha256 FROM realchat.migrations",
    };
    let rows = connection.rows(&query, &[]).map_err(|error| describe(&error))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

fn apply(connection: &mut Connection, migration: &Migration, checksum: &str) -> Result<(), String> {
    let record = super::Query {
        name: "migration_record",
        sql: "INSERT INTO realchat.migrations (number, name, sha256, applied_at_us)
              VALUES ($1, $2, $3, $4)",
    };
    let now_us = signed(daemon::clock::now_us());
    connection
        .transaction(|connection| {
            connection.batch("migrate", migration.sql)?;
            let name = migration.name;
            connection.execute(&record, &[&migration.number, &name, &checksum, &now_us])
        })
        .map_err(|error: postgres::Error| {
            format!("migration {}: {}", migration.name, describe(&error))
        })?;
    tracing::info!(migration = migration.name, "applied");
    Ok(())
}

fn checksum(sql: &str) -> String {
    Sha256::digest(sql).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_numbered_from_one_without_a_hole() {
        for (index, migration) in MIGRATIONS.iter().enumerate() {
            assert_eq!(usize::try_from(migration.number).unwrap(), index + 1);
            assert!(migration.name.starts_with(&format!("{:04}_", migration.number)));
        }
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../sql");
        let files = std::fs::read_dir(folder).unwrap().count();
        assert_eq!(files, MIGRATIONS.len(), "every file of sql/ is a migration of this list");
    }
}
