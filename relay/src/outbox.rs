//! The outbox's statements. A row that is not there is published: deletion is the mark and the prune.

use crate::database::{connect, explain};
use crate::lease::{Shard, Token};
use crate::limits::WAVE_BYTES_MAX;
use crate::ownership::Grant;
use crate::place::RowId;
use crate::wave::Record;
use postgres::{Client, Row, Statement};
use std::collections::BTreeMap;

/// Up to $3 rows of each shard, in the order of id, as long as their bytes stay within $4 (the first
/// row comes whatever its size); the keys in $2 are left out. There is no high-water mark: rows go
/// when they are published, and one with a lower id may appear later, of another key.
const READ: &str = "
    SELECT o.shard, o.id, o.topic, o.key, o.value, o.headers, o.attempts, o.created_at_us, o.place
    FROM unnest($1::smallint[]) AS owned (shard)
    CROSS JOIN LATERAL (
        SELECT r.*, sum(octet_length(r.value) + octet_length(r.headers))
            OVER (ROWS UNBOUNDED PRECEDING) AS bytes
        FROM (
            SELECT *, ctid AS place FROM messaging.outbox
            WHERE shard = owned.shard AND NOT key = ANY ($2::bytea[])
            ORDER BY id LIMIT $3
        ) r
    ) o
    WHERE o.bytes - octet_length(o.value) - octet_length(o.headers) <= $4";

const READ_FIRST: &str = "
    SELECT shard, id, topic, key, value, headers, attempts, created_at_us, ctid
    FROM messaging.outbox WHERE shard = $1 AND key = $2 ORDER BY id LIMIT 1";

/// Only while the lease is this relay's. What is deleted was acknowledged by the broker, so that no
/// lock on the lease is needed: deleting it late is not wrong, only no longer this relay's business.
///
/// A row that was moved since it was read is not found at its place: it is read and published again.
const DELETE: &str = "SELECT messaging.delete_published($1, $2, $3, $4, $5, $6)";

const COUNT_ATTEMPT: &str = "
    UPDATE messaging.outbox SET attempts = attempts + 1
    WHERE shard = $1 AND id = $2 RETURNING attempts, ctid";

/// A worker's connection to the outbox.
pub(crate) struct Outbox {
    client: Client,
    read: Statement,
    read_first: Statement,
    delete: Statement,
    count_attempt: Statement,
}

impl Outbox {
    pub(crate) fn connect(url: &str) -> Result<Self, String> {
        let mut client = connect(url, "worker")?;
        // A deletion that a crash of PostgreSQL forgets is a record published twice, which a kill
        // of the relay may cause as well and every consumer expects.
        let mut prepare = || -> Result<[Statement; 4], postgres::Error> {
            // Rows are found by index, and nothing else is ever right: see the write engine's.
            client.batch_execute(
                "SET synchronous_commit = off; SET work_mem = '64MB'; SET enable_seqscan = off;
                 SET enable_hashjoin = off; SET enable_mergejoin = off",
            )?;
            Ok([
                client.prepare(READ)?,
                client.prepare(READ_FIRST)?,
                client.prepare(DELETE)?,
                client.prepare(COUNT_ATTEMPT)?,
            ])
        };
        let [read, read_first, delete, count_attempt] =
            prepare().map_err(|error| explain(&error))?;
        Ok(Self { client, read, read_first, delete, count_attempt })
    }

    /// Reads the next wave: each shard's rows in the order of id.
    pub(crate) fn read(
        &mut self,
        grants: &[Grant],
        without_keys: &[&[u8]],
        rows_max: i64,
    ) -> Result<Vec<Record>, String> {
        let shards: Vec<Shard> = grants.iter().map(|grant| grant.shard).collect();
        let bytes_max = i64::try_from(WAVE_BYTES_MAX / shards.len().max(1)).unwrap_or(i64::MAX);
        let rows = self
            .client
            .query(&self.read, &[&shards, &without_keys, &rows_max, &bytes_max])
            .map_err(|error| explain(&error))?;
        let mut records: Vec<Record> = rows.iter().map(record).collect();
        records.sort_by_key(|record| (record.shard, record.id));
        Ok(records)
    }

    /// The first row of a key.
    pub(crate) fn read_first(
        &mut self,
        shard: Shard,
        key: &[u8],
    ) -> Result<Option<Record>, String> {
        let row = self.client.query_opt(&self.read_first, &[&shard, &key]);
        Ok(row.map_err(|error| explain(&error))?.as_ref().map(record))
    }

    /// Marks rows as published: deletes them, in one transaction, where `owner` still holds the
    /// shard under the grant's token. Returns how many went.
    pub(crate) fn delete(
        &mut self,
        owner: &str,
        published: &BTreeMap<Shard, (Token, Vec<RowId>)>,
    ) -> Result<u64, String> {
        let (mut shards, mut ids, mut places) = (Vec::new(), Vec::new(), Vec::new());
        let (mut held, mut tokens) = (Vec::new(), Vec::new());
        for (shard, (token, rows)) in published {
            shards.extend(std::iter::repeat_n(*shard, rows.len()));
            ids.extend(rows.iter().map(|row| row.id));
            places.extend(rows.iter().map(|row| row.place));
            held.push(*shard);
            tokens.push(*token);
        }
        let deleted =
            self.client.query_one(&self.delete, &[&shards, &ids, &places, &held, &tokens, &owner]);
        let deleted: i64 = deleted.map_err(|error| explain(&error))?.get(0);
        Ok(deleted.unsigned_abs())
    }

    /// Counts a try of a record that was refused, which moves its row; false if it is gone.
    pub(crate) fn count_attempt(&mut self, record: &mut Record) -> Result<bool, String> {
        let row = self.client.query_opt(&self.count_attempt, &[&record.shard, &record.id]);
        let Some(row) = row.map_err(|error| explain(&error))? else { return Ok(false) };
        record.attempts = row.get(0);
        record.place = row.get(1);
        Ok(true)
    }
}

fn record(row: &Row) -> Record {
    Record {
        shard: row.get(0),
        id: row.get(1),
        topic: row.get(2),
        key: row.get(3),
        value: row.get(4),
        headers: row.get(5),
        attempts: row.get(6),
        created_at_us: u64::try_from(row.get::<_, i64>(7)).unwrap_or(0),
        place: row.get(8),
        gateways: Vec::new(),
    }
}
