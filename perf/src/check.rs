//! `perf check`: histories on disk, the database as it is or as it was dumped.

use crate::failure::{Context, Failure, Outcome};
use crate::options::CheckOptions;
use crate::report;
use checker::DatabaseEvent;
use checker::history::{self, DATABASE_FILE, body_hash};
use postgres::fallible_iterator::FallibleIterator;

pub(crate) fn run(options: &CheckOptions) -> Outcome {
    let folder = &options.history;
    history::files(folder).doing("the history")?;
    let mut rows: Vec<DatabaseEvent> = Vec::new();
    match &options.database {
        Some(url) => {
            let wanted = history::conversations(folder).doing("the history")?;
            dump(url, &wanted, |row| rows.push(row))?;
        }
        None => {
            let path = folder.join(DATABASE_FILE);
            if !path.is_file() {
                return Err(Failure::Usage(format!(
                    "{} is not there: give --database URL to compare with a database",
                    path.display()
                )));
            }
            history::read(&path, |row| rows.push(row)).doing("the dump")?;
        }
    }
    let verdict = checker::check(folder, rows).doing("the history")?;
    report::print(&verdict, options.json)?;
    if verdict.ok {
        return Ok(());
    }
    let violations = verdict.violations.len();
    Err(Failure::Refused(format!("promises were broken; {violations} of the cases are listed")))
}

/// Reads the log of some conversations, in one snapshot, in order.
pub(crate) fn dump(
    database_url: &str,
    conversations: &[String],
    mut take: impl FnMut(DatabaseEvent),
) -> Outcome {
    let mut client =
        postgres::Client::connect(database_url, postgres::NoTls).reaching("PostgreSQL")?;
    let ids: Vec<uuid::Uuid> =
        conversations.iter().filter_map(|it| uuid::Uuid::parse_str(it).ok()).collect();
    // Kind 1 is a message; of the others the checker only knows that they take a number.
    let query = "SELECT conversation_id, sequence_number, kind = 1, message_id, sender_id,
            idempotency_key, text
        FROM messaging.events WHERE conversation_id = ANY ($1)
        ORDER BY conversation_id, sequence_number";
    let parameters = [&ids as &(dyn postgres::types::ToSql + Sync)];
    let mut rows = client.query_raw(query, parameters).reaching("messaging.events")?;
    while let Some(row) = rows.next().reaching("messaging.events")? {
        let conversation: uuid::Uuid = row.get(0);
        let seq: i64 = row.get(1);
        let is_message: bool = row.get(2);
        let id: Option<uuid::Uuid> = row.get(3);
        let sender: uuid::Uuid = row.get(4);
        let text: Option<String> = row.get(6);
        take(DatabaseEvent {
            conversation: conversation.to_string(),
            // The log's numbers are positive; another one would show as a hole.
            seq: u64::try_from(seq).unwrap_or_default(),
            message_id: id.filter(|_| is_message).map(|id| id.to_string()),
            sender: is_message.then(|| sender.to_string()),
            key: is_message.then(|| row.get(5)),
            body_hash: text.filter(|_| is_message).map(|it| body_hash(&it)),
        });
    }
    Ok(())
}
