//! A message's record as chatd writes it: for measurements that begin behind chatd.

use proto::client::{Event, Message as MessageEvent, ServerFrame, event, server_frame};
use proto::record::RecordHeaders;
use proto::{Message, Uuid};

pub(crate) struct MessageRecord {
    pub(crate) conversation: Uuid,
    pub(crate) sender: Uuid,
    pub(crate) message_id: Uuid,
    pub(crate) sequence_number: u64,
    pub(crate) message_number: u64,
    pub(crate) created_at_us: u64,
    pub(crate) text: String,
}

impl MessageRecord {
    /// The Kafka value: an encoded frame with the event.
    pub(crate) fn into_value(self) -> Vec<u8> {
        let message = MessageEvent {
            message_id: self.message_id.as_bytes().to_vec(),
            message_number: self.message_number,
            text: self.text,
        };
        let event = Event {
            conversation_id: self.conversation.as_bytes().to_vec(),
            sequence_number: self.sequence_number,
            created_at_us: self.created_at_us,
            sender_id: self.sender.as_bytes().to_vec(),
            kind: Some(event::Kind::Message(message)),
        };
        let frame = Some(server_frame::Frame::Event(event));
        ServerFrame { request_id: 0, frame }.encode_to_vec()
    }
}

/// `recipients`: users, packed.
pub(crate) fn headers(
    sequence_number: u64,
    created_at_us: u64,
    recipients: Vec<u8>,
) -> RecordHeaders {
    RecordHeaders {
        event_type: proto::headers::event_type::MESSAGE.into(),
        schema_version: proto::headers::SCHEMA_VERSION_NOW,
        created_at_us,
        sequence_number,
        recipients,
        ..RecordHeaders::default()
    }
}
