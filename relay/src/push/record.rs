//! Records in and out: what a message's record says, and what a request's record is. Pure.

use super::group::Take;
use super::windows::{Message, Place, Request};
use crate::wave::Record;
use proto::client::event::Kind;
use proto::client::server_frame::Frame;
use proto::client::{Event, ServerFrame};
use proto::headers::{RECIPIENTS, SCHEMA_VERSION_NOW, event_type};
use proto::id::{from_field, unpack};
use proto::record::{Priority, PushRequested, RecordHeaders};
use proto::{Message as _, Uuid, topics};
use rdkafka::Message as _;
use rdkafka::message::{BorrowedMessage, Headers};

/// A record, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
}

impl Taken {
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()))
    }
}

impl Take for Taken {
    fn take(record: &BorrowedMessage<'_>) -> Self {
        Self {
            partition: record.partition(),
            offset: record.offset(),
            key: record.key().unwrap_or_default().to_vec(),
            value: record.payload().unwrap_or_default().to_vec(),
            headers: pairs(record).map(|(name, value)| (name.to_owned(), value.to_vec())).collect(),
        }
    }

    fn partition(&self) -> i32 {
        self.partition
    }
}

/// A record's place, and what it asks for or what is wrong with it. The record itself is not kept: there
/// is one for every message, and most ask for nothing that is not known already.
pub(crate) struct Read {
    pub(crate) place: Place,
    pub(crate) asked: Result<Asked, String>,
}

impl Take for Read {
    fn take(record: &BorrowedMessage<'_>) -> Self {
        let place = Place { partition: record.partition(), offset: record.offset() };
        Self { place, asked: read(record.payload().unwrap_or_default(), pairs(record)) }
    }

    fn partition(&self) -> i32 {
        self.place.partition
    }
}

fn pairs<'a>(record: &'a BorrowedMessage<'_>) -> impl Iterator<Item = (&'a str, &'a [u8])> {
    let headers = record.headers().into_iter().flat_map(|headers| headers.iter());
    headers.map(|it| (it.key, it.value.unwrap_or_default()))
}

/// What a record of the conversations' log asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asked {
    /// No message.
    Nothing,
    /// A message for these users, its sender left out.
    Users(Message, Vec<Uuid>),
    /// A message for all members of a conversation that is too large to name them.
    Members(Message),
}

/// An error says what is wrong with the record.
fn read<'a>(
    value: &[u8],
    headers: impl Iterator<Item = (&'a str, &'a [u8])>,
) -> Result<Asked, String> {
    let headers = RecordHeaders::from_pairs(headers).map_err(|error| error.to_string())?;
    if headers.event_type != event_type::MESSAGE {
        return Ok(Asked::Nothing);
    }
    let event = event(value).ok_or("its value is no frame that holds one event")?;
    let Some(Kind::Message(said)) = &event.kind else { return Ok(Asked::Nothing) };
    let id = |field, bytes: &[u8]| from_field(field, bytes).map_err(|error| error.to_string());
    let message = Message {
        conversation_id: id("conversation_id", &event.conversation_id)?,
        sender_id: id("sender_id", &event.sender_id)?,
        message_id: id("message_id", &said.message_id)?,
        sequence_number: event.sequence_number,
        created_at_us: event.created_at_us,
        is_high: headers.priority() == Priority::High,
        traceparent: headers.traceparent.clone(),
    };
    if headers.recipients.is_empty() && headers.member_count > 0 {
        return Ok(Asked::Members(message));
    }
    let users = unpack(RECIPIENTS, &headers.recipients).map_err(|error| error.to_string())?;
    let users = users.filter(|user| *user != message.sender_id).collect();
    Ok(Asked::Users(message, users))
}

fn event(value: &[u8]) -> Option<Event> {
    match ServerFrame::decode(value).ok()?.frame? {
        Frame::Event(event) => Some(event),
        _ => None,
    }
}

/// The record that asks for one user to be told.
pub(crate) fn write(request: &Request, user_id: Uuid, now_us: u64) -> Record {
    let latest = &request.latest;
    let priority = if latest.is_high { Priority::High } else { Priority::Normal };
    let value = PushRequested {
        user_id: user_id.as_bytes().to_vec(),
        conversation_id: latest.conversation_id.as_bytes().to_vec(),
        message_count: request.message_count,
        first_sequence_number: request.first_sequence_number,
        last_sequence_number: latest.sequence_number,
        latest_message_id: latest.message_id.as_bytes().to_vec(),
        latest_sender_id: latest.sender_id.as_bytes().to_vec(),
        kind: event_type::MESSAGE.to_owned(),
        priority: priority.into(),
        created_at_us: request.created_at_us,
    };
    let headers = RecordHeaders {
        event_type: event_type::PUSH.to_owned(),
        schema_version: SCHEMA_VERSION_NOW,
        created_at_us: now_us,
        traceparent: latest.traceparent.clone(),
        priority: priority.into(),
        sequence_number: latest.sequence_number,
        ..RecordHeaders::default()
    };
    Record {
        topic: topics::PUSH_REQUESTED.to_owned(),
        key: user_id.as_bytes().to_vec(),
        value: value.encode_to_vec(),
        headers: headers.encode_to_vec(),
        created_at_us: now_us,
        ..Record::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::windows::Audience;
    use super::*;
    use proto::client::{Message as Said, SettingsChanged};
    use proto::id::pack;
    use std::collections::BTreeSet;

    fn value(kind: Kind) -> Vec<u8> {
        let event = Event {
            conversation_id: vec![7; 16],
            sequence_number: 5,
            created_at_us: 50,
            sender_id: vec![1; 16],
            kind: Some(kind),
        };
        ServerFrame { request_id: 0, frame: Some(Frame::Event(event)) }.encode_to_vec()
    }

    fn read(value: &[u8], headers: &RecordHeaders) -> Result<Asked, String> {
        let pairs = headers.to_pairs();
        super::read(value, pairs.iter().map(|(name, value)| (*name, value.as_slice())))
    }

    fn said() -> Kind {
        Kind::Message(Said { message_id: vec![9; 16], message_number: 3, text: "secret".into() })
    }

    fn headers() -> RecordHeaders {
        let users = [[1; 16], [2; 16], [3; 16]].map(Uuid::from_bytes);
        RecordHeaders {
            event_type: event_type::MESSAGE.into(),
            traceparent: "00-a-b-01".into(),
            priority: Priority::High.into(),
            recipients: pack(&users),
            ..RecordHeaders::default()
        }
    }

    #[test]
    fn a_message_is_for_its_recipients_without_its_sender() {
        let Ok(Asked::Users(message, users)) = read(&value(said()), &headers()) else { panic!() };
        assert_eq!(users, [[2; 16], [3; 16]].map(Uuid::from_bytes));
        assert_eq!((message.sequence_number, message.is_high), (5, true));
        assert_eq!(message.message_id, Uuid::from_bytes([9; 16]));
        let many = RecordHeaders { recipients: vec![], member_count: 2_000, ..headers() };
        assert!(matches!(read(&value(said()), &many), Ok(Asked::Members(_))));
    }

    #[test]
    fn only_messages_ask_and_what_cannot_be_read_is_told() {
        let title = Kind::SettingsChanged(SettingsChanged { title: "Lunch".into() });
        let settings = RecordHeaders { event_type: event_type::SETTINGS.into(), ..headers() };
        assert_eq!(read(&value(title), &settings), Ok(Asked::Nothing));
        assert!(read(&[0xff; 8], &headers()).unwrap_err().contains("no frame"));
        let odd = RecordHeaders { recipients: vec![1; 17], ..headers() };
        assert!(read(&value(said()), &odd).unwrap_err().contains("17 bytes"));
    }

    #[test]
    fn a_request_is_keyed_by_its_user_and_holds_no_text() {
        let Ok(Asked::Users(latest, _)) = read(&value(said()), &headers()) else { panic!() };
        let user = Uuid::from_u128(2);
        let request = Request {
            ticket: 0,
            place: Place { partition: 0, offset: 0 },
            audience: Audience::User(user),
            message_count: 3,
            first_sequence_number: 2,
            latest,
            created_at_us: 20,
            senders: BTreeSet::new(),
        };
        let record = write(&request, user, 99);
        assert_eq!(record.topic, "chat.push.requested.v1");
        assert_eq!(record.key, user.as_bytes());
        let value = PushRequested::decode(record.value.as_slice()).unwrap();
        assert_eq!((value.message_count, value.first_sequence_number), (3, 2));
        assert_eq!((value.last_sequence_number, &value.latest_message_id), (5, &vec![9; 16]));
        assert_eq!((value.priority(), value.created_at_us), (Priority::High, 20));
        let headers = RecordHeaders::decode(record.headers.as_slice()).unwrap();
        assert_eq!((headers.event_type.as_str(), headers.created_at_us), ("push", 99));
        assert_eq!(headers.traceparent, "00-a-b-01");
        assert!(!record.value.windows(6).any(|it| it == b"secret"));
    }
}
