//! From an event to its outbox row: the value is the frame that sessions get, the headers are what
//! only gateways need.

use proto::Uuid;
use proto::client::{
    Event, ProfileUpdated, Receipt, ReceiptSummary, ServerFrame, event::Kind, server_frame::Frame,
};
use proto::headers::{SCHEMA_VERSION_NOW, event_type};
use proto::id::ID_BYTES;
use proto::limits::INLINE_RECIPIENTS_MAX;
use proto::record::{Priority, RecordHeaders};
use proto::{Message, topics};

/// A row of the outbox, ready to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxRow {
    pub topic: &'static str,
    /// A conversation, or for profiles a user.
    pub key: Uuid,
    pub value: Vec<u8>,
    pub headers: Vec<u8>,
    pub created_at_us: u64,
}

/// Who gets an event, and with what urgency.
pub(crate) struct Routing<'a> {
    pub event_type: &'static str,
    pub traceparent: &'a str,
    pub priority: Priority,
    /// 16 bytes a user, back to back.
    pub recipients: &'a [u8],
}

pub(crate) fn outbox_row(
    topic: &'static str,
    key: Uuid,
    event: Event,
    routing: &Routing<'_>,
) -> OutboxRow {
    // More than the headers can name are counted: gateways know who they are.
    let count = routing.recipients.len() / ID_BYTES;
    let is_named = count <= INLINE_RECIPIENTS_MAX;
    let headers = RecordHeaders {
        event_type: routing.event_type.to_owned(),
        schema_version: SCHEMA_VERSION_NOW,
        created_at_us: event.created_at_us,
        traceparent: routing.traceparent.to_owned(),
        priority: routing.priority.into(),
        sequence_number: event.sequence_number,
        recipients: if is_named { routing.recipients.to_vec() } else { Vec::new() },
        member_count: if is_named { 0 } else { u32::try_from(count).unwrap_or(u32::MAX) },
    };
    encoded(topic, key, event, &headers)
}

fn encoded(topic: &'static str, key: Uuid, event: Event, headers: &RecordHeaders) -> OutboxRow {
    let created_at_us = event.created_at_us;
    let frame = ServerFrame { request_id: 0, frame: Some(Frame::Event(event)) };
    OutboxRow {
        topic,
        key,
        value: frame.encode_to_vec(),
        headers: headers.encode_to_vec(),
        created_at_us,
    }
}

/// A cursor that moved.
pub(crate) struct MovedReceipt<'a> {
    pub conversation_id: Uuid,
    pub user_id: Uuid,
    pub device_id: Uuid,
    pub delivered_sequence_number: u64,
    pub read_sequence_number: u64,
    pub traceparent: &'a str,
    pub recipients: &'a [u8],
}

pub(crate) fn receipt(moved: &MovedReceipt<'_>, now_us: u64) -> OutboxRow {
    let event = Event {
        conversation_id: moved.conversation_id.as_bytes().to_vec(),
        sequence_number: 0,
        created_at_us: now_us,
        sender_id: moved.user_id.as_bytes().to_vec(),
        kind: Some(Kind::Receipt(Receipt {
            user_id: moved.user_id.as_bytes().to_vec(),
            device_id: moved.device_id.as_bytes().to_vec(),
            delivered_sequence_number: moved.delivered_sequence_number,
            read_sequence_number: moved.read_sequence_number,
        })),
    };
    let routing = Routing {
        event_type: event_type::RECEIPT,
        traceparent: moved.traceparent,
        priority: Priority::Normal,
        recipients: moved.recipients,
    };
    outbox_row(topics::MESSAGE_ACKNOWLEDGED, moved.conversation_id, event, &routing)
}

/// For all members, who are counted: the record stands beside the conversation's log, where gateways know
/// who they are.
pub(crate) fn receipt_summary(
    conversation_id: Uuid,
    summary: ReceiptSummary,
    now_us: u64,
) -> OutboxRow {
    let headers = RecordHeaders {
        event_type: event_type::RECEIPT_SUMMARY.to_owned(),
        schema_version: SCHEMA_VERSION_NOW,
        created_at_us: now_us,
        priority: Priority::Ephemeral.into(),
        member_count: summary.member_count,
        ..RecordHeaders::default()
    };
    let event = Event {
        conversation_id: conversation_id.as_bytes().to_vec(),
        created_at_us: now_us,
        kind: Some(Kind::ReceiptSummary(summary)),
        ..Event::default()
    };
    encoded(topics::MESSAGE_CREATED, conversation_id, event, &headers)
}

pub(crate) fn profile_updated(
    user_id: Uuid,
    profile: ProfileUpdated,
    traceparent: &str,
    recipients: &[u8],
    now_us: u64,
) -> OutboxRow {
    let event = Event {
        conversation_id: Vec::new(),
        sequence_number: 0,
        created_at_us: now_us,
        sender_id: user_id.as_bytes().to_vec(),
        kind: Some(Kind::ProfileUpdated(profile)),
    };
    let routing = Routing {
        event_type: event_type::PROFILE,
        traceparent,
        priority: Priority::Normal,
        recipients,
    };
    outbox_row(topics::PROFILE_UPDATED, user_id, event, &routing)
}
