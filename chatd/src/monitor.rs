//! A thread that looks after what no request does: is PostgreSQL there, how long is the outbox,
//! what has expired.

use crate::app::App;
use crate::db::{Connection, Query, Role, Settings, signed};
use crate::failure::describe;
use crate::limits::{
    MONITOR_EXPIRY_LOOKS, MONITOR_MS, MONITOR_OUTBOX_LOOKS, OUTBOX_COUNT_MS_MAX, OUTBOX_COUNTED_MAX,
};
use daemon::Health;
use postgres::error::SqlState;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

const ALIVE: Query = Query { name: "alive", sql: "SELECT pg_is_in_recovery()" };

/// Counts no more than so many rows. It is a sample, so it may not cost more than one.
const OUTBOX: Query = Query {
    name: "outbox_pending",
    sql: "SELECT count(*) FROM (SELECT FROM messaging.outbox LIMIT $1) AS first",
};

/// What the server's statistics say, about a second late.
const OUTBOX_ESTIMATE: Query = Query {
    name: "outbox_pending_estimate",
    sql: "SELECT pg_stat_get_live_tuples('messaging.outbox'::regclass)",
};

const EXPIRED_TOKENS: Query = Query {
    name: "expired_tokens",
    sql: "DELETE FROM accounts.refresh_tokens WHERE expires_at_us < $1",
};

const EXPIRED_CODES: Query = Query {
    name: "expired_codes",
    sql: "DELETE FROM accounts.login_codes WHERE expires_at_us < $1",
};

pub(crate) fn start(app: Arc<App>, settings: Settings, health: Health) -> std::io::Result<()> {
    std::thread::Builder::new().name("monitor".into()).spawn(move || {
        let mut connection = None;
        let mut look = 0;
        while !app.is_stopping.load(Ordering::Acquire) {
            match look_after(&app, &settings, &mut connection, look) {
                Ok(()) => health.ready("postgres"),
                Err(reason) => {
                    connection = None;
                    health.not_ready("postgres", reason);
                }
            }
            app.metrics.write_queue_depth.set(i64::try_from(app.writers.depth()).unwrap_or(0));
            look += 1;
            std::thread::sleep(Duration::from_millis(MONITOR_MS));
        }
    })?;
    Ok(())
}

fn look_after(
    app: &App,
    settings: &Settings,
    slot: &mut Option<Connection>,
    look: u64,
) -> Result<(), String> {
    let usable = slot.as_mut().is_some_and(Connection::is_usable);
    let connection = match slot.take() {
        Some(connection) if usable => slot.insert(connection),
        _ => {
            let mut connection =
                Connection::open(settings, Role::Monitor).map_err(|error| describe(&error))?;
            connection.check_durability(settings)?;
            slot.insert(connection)
        }
    };
    let reason = |error: postgres::Error| describe(&error);
    let row = connection.row(&ALIVE, &[]).map_err(reason)?;
    if row.is_some_and(|row| row.get(0)) {
        return Err("the server is a standby and takes no writes".to_owned());
    }
    if look.is_multiple_of(MONITOR_OUTBOX_LOOKS) {
        app.metrics.outbox_pending_count.set(outbox_pending(connection).map_err(reason)?);
    }
    if look.is_multiple_of(MONITOR_EXPIRY_LOOKS) {
        let now_us = signed(daemon::clock::now_us());
        connection.execute(&EXPIRED_TOKENS, &[&now_us]).map_err(reason)?;
        connection.execute(&EXPIRED_CODES, &[&now_us]).map_err(reason)?;
    }
    Ok(())
}

/// Rows of the outbox: counted while they are few, estimated when they are many, or when counting takes
/// long because deleted ones lie before them.
fn outbox_pending(connection: &mut Connection) -> Result<i64, postgres::Error> {
    let guard = format!("SET LOCAL statement_timeout = {OUTBOX_COUNT_MS_MAX}");
    let counted = connection.transaction(|connection| {
        connection.batch("outbox_pending_guard", &guard)?;
        connection.row(&OUTBOX, &[&OUTBOX_COUNTED_MAX])
    });
    let counted: i64 = match counted {
        Ok(row) => row.map_or(0, |row| row.get(0)),
        Err(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => OUTBOX_COUNTED_MAX,
        Err(error) => return Err(error),
    };
    if counted < OUTBOX_COUNTED_MAX {
        return Ok(counted);
    }
    let estimate: i64 = connection.row(&OUTBOX_ESTIMATE, &[])?.map_or(0, |row| row.get(0));
    Ok(estimate.max(counted))
}
