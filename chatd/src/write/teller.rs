//! A thread that tells the members of large conversations how far they have come: at most once in
//! [`RECEIPT_SUMMARY_MS_MIN`] each, whichever chatd does it, and only where somebody came further.

use super::record::{OutboxRow, receipt_summary};
use super::statements::{NOTIFY, write_outbox};
use super::summaries;
use crate::db::{Connection, Role, Settings};
use crate::failure::describe;
use crate::limits::{
    MONITOR_MS, RECEIPT_SUMMARIES_TOLD_MAX, RECEIPT_SUMMARY_LOOK_MS, RECEIPT_SUMMARY_MS_MIN,
};
use postgres::Error;
use std::time::Duration;

const INTERVAL: Duration = Duration::from_millis(RECEIPT_SUMMARY_MS_MIN);
const LOOK: Duration = Duration::from_millis(RECEIPT_SUMMARY_LOOK_MS);
/// After an error; the monitor looks as often whether PostgreSQL is there.
const PAUSE: Duration = Duration::from_millis(MONITOR_MS);

/// Until it `is_stopping`. What it leaves untold, another chatd tells, or the next one.
pub(crate) fn start_teller(
    settings: Settings,
    is_stopping: impl Fn() -> bool + Send + 'static,
) -> std::io::Result<()> {
    std::thread::Builder::new().name("teller".into()).spawn(move || {
        let mut connection = None;
        while !is_stopping() {
            let outcome = tell(&mut connection, &settings);
            std::thread::sleep(if outcome.is_ok() { LOOK } else { PAUSE });
            if let Err(error) = outcome {
                connection = None;
                tracing::warn!(reason = describe(&error), "receipt summaries are not told yet");
            }
        }
    })?;
    Ok(())
}

fn tell(slot: &mut Option<Connection>, settings: &Settings) -> Result<(), Error> {
    let connection = match slot {
        Some(connection) => connection,
        None => slot.insert(Connection::open(settings, Role::Writer)?),
    };
    let interval_s = INTERVAL.as_secs_f64();
    let ids = summaries::due(connection, interval_s, RECEIPT_SUMMARIES_TOLD_MAX)?;
    if ids.is_empty() {
        return Ok(());
    }
    let told = connection.transaction(|connection| -> Result<Vec<OutboxRow>, Error> {
        let now_us = daemon::clock::now_us();
        let due = summaries::take_due(connection, &ids, interval_s)?;
        let rows: Vec<OutboxRow> =
            due.into_iter().map(|(id, summary)| receipt_summary(id, summary, now_us)).collect();
        write_outbox(connection, &rows.iter().collect::<Vec<_>>())?;
        Ok(rows)
    })?;
    if !told.is_empty() {
        settings.metrics().committed(told.iter().map(|it| (it.topic, &it.key)));
        connection.batch("notify", NOTIFY)?;
    }
    Ok(())
}
