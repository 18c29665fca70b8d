//! What was acknowledged against what PostgreSQL holds.

use super::load::Load;
use crate::failure::{Context, Outcome};
use crate::population;
use postgres::fallible_iterator::FallibleIterator;
use proto::Uuid;
use std::collections::HashMap;

pub(super) struct Checked {
    /// The last sequence number of each conversation.
    pub(super) last: Vec<u64>,
    /// Acknowledged messages that are not stored as they were acknowledged.
    pub(super) lost: u64,
}

pub(super) fn against_database(database_url: &str, load: &Load) -> Outcome<Checked> {
    let mut client = population::connect(database_url)?;
    let ids: Vec<Uuid> = load.population.conversations.iter().map(|it| it.id).collect();
    let numbers: HashMap<Uuid, usize> =
        ids.iter().enumerate().map(|(index, id)| (*id, index)).collect();
    let query = "SELECT conversation_id, sequence_number, message_id FROM messaging.events
        WHERE conversation_id = ANY ($1)";
    let parameters = [&ids as &(dyn postgres::types::ToSql + Sync)];
    let mut rows = client.query_raw(query, parameters).reaching("messaging.events")?;
    let mut last = vec![0; ids.len()];
    let mut stored: HashMap<Uuid, (usize, u64)> = HashMap::new();
    while let Some(row) = rows.next().reaching("messaging.events")? {
        let conversation: Uuid = row.get(0);
        let seq: i64 = row.get(1);
        let seq = u64::try_from(seq).unwrap_or_default();
        let Some(number) = numbers.get(&conversation) else { continue };
        last[*number] = seq.max(last[*number]);
        if let Some(id) = row.get::<_, Option<Uuid>>(2) {
            stored.insert(id, (*number, seq));
        }
    }
    let answered = load.sendings.iter().filter_map(|it| it.answer.as_ref().map(|a| (it, a)));
    let is_lost =
        |conversation: usize, id: &Uuid, seq: u64| stored.get(id) != Some(&(conversation, seq));
    let lost = answered.filter(|(it, (id, seq))| is_lost(it.conversation, id, *seq)).count();
    Ok(Checked { last, lost: lost as u64 })
}
