//! PostgreSQL: connections, migrations, and the threads that run queries.

mod connection;
mod copy;
mod migrate;
mod pool;

pub(crate) use connection::{Connection, Query, Role, Settings};
pub(crate) use copy::CopyRows;
pub(crate) use migrate::migrate;
pub(crate) use pool::{Databases, Pool};

/// A number as a `bigint`; PostgreSQL has no unsigned ones. Numbers past 2^63 - 1 never come up by
/// counting, and as a bound mean the same as 2^63 - 1.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A `bigint` that the schema keeps from being negative.
pub(crate) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
