//! Rows as columns: arrays, one for each column, as parameters of a statement.

use super::plan::EventRow;
use super::record::OutboxRow;
use super::statements::shard;
use crate::db::signed;
use proto::Uuid;

pub(super) struct EventColumns<'a> {
    pub(super) conversations: Vec<Uuid>,
    pub(super) sequence_numbers: Vec<i64>,
    pub(super) kinds: Vec<i16>,
    pub(super) message_ids: Vec<Option<Uuid>>,
    pub(super) message_numbers: Vec<i64>,
    pub(super) senders: Vec<Uuid>,
    pub(super) devices: Vec<Uuid>,
    pub(super) keys: Vec<&'a str>,
    pub(super) body_hashes: Vec<&'a [u8]>,
    pub(super) texts: Vec<Option<&'a str>>,
    pub(super) details: Vec<Option<&'a [u8]>>,
    pub(super) created_at_us: Vec<i64>,
}

impl<'a> EventColumns<'a> {
    pub(super) fn of(events: &'a [EventRow<'a>]) -> Self {
        let each = || events.iter();
        Self {
            conversations: each().map(|it| it.append.conversation_id).collect(),
            sequence_numbers: each().map(|it| signed(it.sequence_number)).collect(),
            kinds: each().map(|it| it.kind).collect(),
            message_ids: each().map(|it| it.message_id).collect(),
            message_numbers: each().map(|it| signed(it.message_number)).collect(),
            senders: each().map(|it| it.append.sender_id).collect(),
            devices: each().map(|it| it.append.device_id).collect(),
            keys: each().map(|it| it.append.key.as_str()).collect(),
            body_hashes: each().map(|it| it.append.body_hash.as_slice()).collect(),
            texts: each().map(|it| it.text).collect(),
            details: each().map(|it| it.details.as_deref()).collect(),
            created_at_us: each().map(|it| signed(it.created_at_us)).collect(),
        }
    }
}

pub(super) struct OutboxColumns<'a> {
    pub(super) shards: Vec<i16>,
    pub(super) topics: Vec<&'static str>,
    pub(super) keys: Vec<&'a [u8]>,
    pub(super) values: Vec<&'a [u8]>,
    pub(super) headers: Vec<&'a [u8]>,
    pub(super) created_at_us: Vec<i64>,
}

impl<'a> OutboxColumns<'a> {
    pub(super) fn of(rows: impl Iterator<Item = &'a OutboxRow> + Clone) -> Self {
        let each = || rows.clone();
        Self {
            shards: each().map(shard).collect(),
            topics: each().map(|it| it.topic).collect(),
            keys: each().map(|it| it.key.as_bytes().as_slice()).collect(),
            values: each().map(|it| it.value.as_slice()).collect(),
            headers: each().map(|it| it.headers.as_slice()).collect(),
            created_at_us: each().map(|it| signed(it.created_at_us)).collect(),
        }
    }
}
