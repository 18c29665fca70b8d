//! What an engine that has nothing else to do adds to a commit: one send at a time, each beside a
//! bare commit of one row, in turns.

use super::Engine;
use crate::clock;
use crate::failure::{Context, Outcome};
use crate::latency::Latencies;
use crate::limits::{LONE_PAUSE, LONE_SENDS, LONE_TURN};
use crate::population;
use proto::Uuid;

/// Medians, in milliseconds.
pub(super) struct Lone {
    pub(super) send_p50_ms: f64,
    pub(super) commit_p50_ms: f64,
}

const TABLE: &str = "perf_commits";

pub(super) fn measure(engine: &mut Engine, database_url: &str) -> Outcome<Lone> {
    let mut client = population::connect(database_url)?;
    let made = format!("CREATE TABLE IF NOT EXISTS {TABLE} (id uuid PRIMARY KEY, text text)");
    client.batch_execute(&made).doing("a table for bare commits")?;
    let insert = format!("INSERT INTO {TABLE} VALUES ($1, $2)");
    let insert = client.prepare(&insert).reaching("PostgreSQL")?;
    // The other sides wrote to these conversations, which chatd does not know as they are now.
    let conversations = engine.population.conversations.len().min(LONE_TURN);
    for at in 0..conversations {
        engine.lone(at)?;
    }
    let (mut sends, mut commits) = (Latencies::new(), Latencies::new());
    for _ in 0..LONE_SENDS / LONE_TURN {
        for turn in 0..LONE_TURN {
            std::thread::sleep(LONE_PAUSE);
            sends.record_us(engine.lone(turn % conversations)?);
        }
        for _ in 0..LONE_TURN {
            let id: Uuid = proto::id::new();
            std::thread::sleep(LONE_PAUSE);
            let start_us = clock::now_us();
            client.execute(&insert, &[&id, &engine.text]).doing("a bare commit")?;
            commits.record_us(clock::now_us() - start_us);
        }
    }
    client.batch_execute(&format!("DROP TABLE {TABLE}")).doing("a table's end")?;
    Ok(Lone { send_p50_ms: sends.ms_at(0.5), commit_p50_ms: commits.ms_at(0.5) })
}
