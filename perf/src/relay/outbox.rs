//! Rows as chatd writes them: whole events of conversations of which nobody is connected.

use crate::clock::{self, Schedule};
use crate::failure::{Context, Outcome};
use crate::limits::ROWS_AT_ONCE;
use crate::options::count;
use crate::population;
use crate::record::{self, MessageRecord};
use postgres::{Client, Transaction};
use proto::{Message, Uuid, topics};

const TEXT_BYTES: usize = 256;
/// Commits a second at the steady rate, as a write engine's batches would be.
const COMMITS_PER_S: u64 = 200;

const INSERT: &str = "
    INSERT INTO messaging.outbox (shard, topic, key, value, headers, created_at_us)
    SELECT shard, $5, key, value, headers, $6
    FROM unnest($1::smallint[], $2::bytea[], $3::bytea[], $4::bytea[])
        WITH ORDINALITY AS new (shard, key, value, headers, place) ORDER BY place";

pub(super) struct Outbox {
    client: Client,
    conversations: Vec<Uuid>,
    /// Rows so far.
    rows: usize,
    text: String,
}

impl Outbox {
    pub(super) fn connect(database_url: &str, conversations: usize) -> Outcome<Self> {
        Ok(Self {
            client: population::connect(database_url)?,
            conversations: (0..conversations).map(|_| proto::id::new()).collect(),
            rows: 0,
            text: "x".repeat(TEXT_BYTES),
        })
    }

    /// A backlog that a relay sees from one moment to the next.
    pub(super) fn commit_at_once(&mut self, rows: usize) -> Outcome {
        let Self { client, conversations, rows: done, text } = self;
        let mut transaction = client.transaction().reaching("PostgreSQL")?;
        let end = *done + rows;
        while *done < end {
            let next = end.min(*done + ROWS_AT_ONCE);
            insert(&mut transaction, conversations, *done..next, text)?;
            *done = next;
        }
        commit(transaction)
    }

    /// Some rows a commit, each commit when it is due.
    pub(super) fn commit_steadily(&mut self, rate: u64, rows: u64) -> Outcome {
        let commits_per_s = COMMITS_PER_S.min(rate);
        let at_once = count(rate.div_ceil(commits_per_s));
        let end = self.rows + count(rows);
        let schedule = Schedule::new(clock::now_us(), commits_per_s, rows.div_ceil(rate));
        let mut due = (0..).map_while(|number| schedule.due_us(number));
        while self.rows < end {
            // The last second's rounding: what is left goes at once.
            due.next().into_iter().for_each(clock::sleep_until);
            self.commit_at_once(at_once.min(end - self.rows))?;
        }
        Ok(())
    }
}

fn commit(mut transaction: Transaction<'_>) -> Outcome {
    transaction.batch_execute("NOTIFY realchat_outbox").doing("the notification")?;
    transaction.commit().doing("the commit of rows")
}

fn insert(
    transaction: &mut Transaction<'_>,
    conversations: &[Uuid],
    rows: std::ops::Range<usize>,
    text: &str,
) -> Outcome {
    let now_us = daemon::clock::now_us();
    let (mut shards, mut keys, mut values, mut headers) = (vec![], vec![], vec![], vec![]);
    for row in rows {
        let conversation = conversations[row % conversations.len()];
        let sequence_number = u64::try_from(row / conversations.len()).unwrap_or_default() + 1;
        shards.push(i16::try_from(proto::id::outbox_shard(&conversation)).unwrap_or_default());
        keys.push(conversation.as_bytes().to_vec());
        let record = MessageRecord {
            conversation,
            sender: conversation,
            message_id: proto::id::new(),
            sequence_number,
            message_number: sequence_number,
            created_at_us: now_us,
            text: text.to_owned(),
        };
        values.push(record.into_value());
        let recipients = conversation.as_bytes().to_vec();
        headers.push(record::headers(sequence_number, now_us, recipients).encode_to_vec());
    }
    let (topic, now_us) = (topics::MESSAGE_CREATED, now_us.cast_signed());
    let parameters: &[&(dyn postgres::types::ToSql + Sync)] =
        &[&shards, &keys, &values, &headers, &topic, &now_us];
    transaction.execute(INSERT, parameters).doing("rows of the outbox")?;
    Ok(())
}
