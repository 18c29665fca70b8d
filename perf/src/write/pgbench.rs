//! PostgreSQL's own benchmark, doing one transaction a message as `naive` does: it tells what of that
//! side's cost is the client's. Left out where there is no pgbench.

use crate::failure::{Context, Failure, Outcome};
use crate::limits::NAIVE_CONNECTIONS;
use crate::population::{self, Population};
use postgres::types::ToSql;
use std::io::ErrorKind;
use std::process::{Command, Stdio};

/// Rows of the outbox that no relay reads: pgbench cannot encode records.
const NO_SHARD: i16 = i16::MAX;
const TABLE: &str = "perf_conversations";

/// Transactions a second; None if there is no pgbench.
pub(super) fn measure(
    database_url: &str,
    population: &Population,
    text_bytes: usize,
    seconds: u64,
) -> Outcome<Option<f64>> {
    let mut client = population::connect(database_url)?;
    let made = format!(
        "DROP TABLE IF EXISTS {TABLE};
         CREATE UNLOGGED TABLE {TABLE} (number int PRIMARY KEY, id uuid, sender uuid)"
    );
    client.batch_execute(&made).doing("a table for pgbench")?;
    let insert = format!("INSERT INTO {TABLE} VALUES ($1, $2, $3)");
    for (number, conversation) in (1_i32..).zip(&population.conversations) {
        let sender = &population.users[conversation.members[0]];
        let row: [&(dyn ToSql + Sync); 3] = [&number, &conversation.id, sender];
        client.execute(&insert, &row).doing("a conversation for pgbench")?;
    }
    let outcome = run(database_url, &script(population.conversations.len(), text_bytes), seconds);
    let clean =
        format!("DELETE FROM messaging.outbox WHERE shard = {NO_SHARD}; DROP TABLE {TABLE};");
    client.batch_execute(&clean).doing("cleaning up behind pgbench")?;
    outcome
}

fn script(conversations: usize, text_bytes: usize) -> String {
    // A value with its headers is about so much more than its text.
    let value_bytes = text_bytes + 100;
    format!(
        "\\set number random(1, {conversations})
         BEGIN;
         UPDATE messaging.conversations c
         SET last_sequence_number = last_sequence_number + 1,
             last_message_number = last_message_number + 1,
             last_event_at_us = extract(epoch FROM now()) * 1000000
         FROM {TABLE} p WHERE p.number = :number AND c.conversation_id = p.id AND EXISTS (
             SELECT FROM messaging.members WHERE conversation_id = p.id AND user_id = p.sender
                 AND left_sequence_number IS NULL)
         RETURNING c.last_sequence_number AS seq, c.last_message_number AS message \\gset
         INSERT INTO messaging.events (conversation_id, sequence_number, kind, message_id,
             message_number, sender_id, sender_device_id, idempotency_key, body_hash, text,
             created_at_us)
         SELECT id, :seq, 1, gen_random_uuid(), :message, sender, sender,
             gen_random_uuid()::text, '\\x00112233445566778899aabbccddeeff', repeat('x', {text_bytes}),
             extract(epoch FROM now()) * 1000000
         FROM {TABLE} WHERE number = :number;
         INSERT INTO messaging.outbox (shard, topic, key, value, headers, created_at_us)
         SELECT {NO_SHARD}, 'chat.message.created.v1', uuid_send(id),
             decode(repeat('00', {value_bytes}), 'hex'), decode(repeat('00', 80), 'hex'),
             extract(epoch FROM now()) * 1000000
         FROM {TABLE} WHERE number = :number;
         COMMIT;\n"
    )
}

fn run(database_url: &str, script: &str, seconds: u64) -> Outcome<Option<f64>> {
    let path = std::env::temp_dir().join(format!("realchat-pgbench-{}.sql", std::process::id()));
    std::fs::write(&path, script).doing(path.display())?;
    let connections = NAIVE_CONNECTIONS.to_string();
    let output = Command::new("pgbench")
        .args(["--no-vacuum", "--protocol=prepared", "--jobs=2", "--client", &connections])
        .args(["--time", &seconds.to_string(), "--file"])
        .arg(&path)
        .arg(database_url)
        .stdin(Stdio::null())
        .output();
    let _ = std::fs::remove_file(&path);
    match output {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).doing("pgbench"),
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout);
            let refused = || Failure::Refused(format!("pgbench printed no tps: {text}"));
            tps(&text).ok_or_else(refused).map(Some)
        }
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr);
            let line = text.lines().last().unwrap_or_default();
            Err(Failure::Refused(format!("pgbench: {line}")))
        }
    }
}

fn tps(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("tps = "))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_found_in_what_pgbench_prints() {
        let text = "latency average = 6.7 ms\ntps = 2371.25 (without initial connection time)\n";
        assert_eq!(tps(text), Some(2371.25));
        assert_eq!(tps("tps: 7"), None);
    }
}
