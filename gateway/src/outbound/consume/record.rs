//! From a record's parts to what the shards are mailed, pure.

use super::roster::Change;
use crate::mail::Priority;
use crate::outbound::offsets::ShardSet;
use proto::client::event::Kind;
use proto::client::server_frame::Frame;
use proto::client::{Event, ServerFrame};
use proto::headers::{self, HeaderError};
use proto::id::{self, IdError};
use proto::limits::{INLINE_RECIPIENTS_MAX, RECORD_VALUE_BYTES_MAX};
use proto::{Message, Uuid, topics};

/// What is done with the records of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The conversations' logs, and what is published beside them, for the members.
    Log,
    /// An event of a conversation, for the recipients in its headers.
    Conversation,
    /// An event of no conversation, for the recipients in its headers.
    Users,
    /// For the sessions that watch the user.
    Presence,
    /// For the audience cache.
    Membership,
}

/// The topics that a gateway tails which is not routed to.
const TAILED: [(&str, Purpose); 7] = [
    (topics::MESSAGE_CREATED, Purpose::Log),
    (topics::MESSAGE_ACKNOWLEDGED, Purpose::Conversation),
    (topics::EPHEMERAL, Purpose::Conversation),
    (topics::PROFILE_UPDATED, Purpose::Users),
    (topics::USER_ONLINE, Purpose::Presence),
    (topics::USER_OFFLINE, Purpose::Presence),
    (topics::MEMBERSHIP, Purpose::Membership),
];

const _: () = assert!(TAILED.len() == topics::PUSHED.len() + 1);

/// The topics that a gateway tails, with its own topic in place of what is copied to it if it has one.
pub(super) fn tailed(own: Option<&'static str>) -> Vec<(&'static str, Purpose)> {
    let kept = |it: &(&str, Purpose)| own.is_none() || !topics::ROUTED.contains(&it.0);
    let own = own.map(|topic| (topic, Purpose::Log));
    own.into_iter().chain(TAILED.into_iter().filter(kept)).collect()
}

/// Why a record is a dead letter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error(transparent)]
    Id(#[from] IdError),
    #[error("the record header recipients is missing")]
    NoRecipients,
    #[error("the record has {0} recipients; at most {INLINE_RECIPIENTS_MAX} are allowed")]
    TooManyRecipients(usize),
    #[error("the members of too many large conversations are being asked for")]
    TooManyLarge,
    #[error("the record's value is {0} bytes; 1 to {RECORD_VALUE_BYTES_MAX} are allowed")]
    ValueSize(usize),
    #[error("the record's value is no encoded ServerFrame that holds one Event")]
    NoEvent,
}

/// A record's headers as far as the gateway needs them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Headers<'a> {
    pub recipients: &'a [u8],
    /// Of a record for more recipients than it can name: how many they are.
    pub member_count: u32,
    pub sequence_number: u64,
    pub created_at_us: u64,
    pub priority: Priority,
    pub membership: bool,
}

impl<'a> Headers<'a> {
    /// Unknown names are ignored, whatever their bytes.
    pub fn read(pairs: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Result<Self, RecordError> {
        let mut read = Self::default();
        for (name, value) in pairs {
            let Ok(name) = std::str::from_utf8(name) else { continue };
            match name {
                headers::RECIPIENTS => read.recipients = value,
                headers::MEMBER_COUNT => {
                    let count = headers::number(headers::MEMBER_COUNT, value)?;
                    read.member_count = u32::try_from(count).unwrap_or(u32::MAX);
                }
                headers::SEQUENCE_NUMBER => {
                    read.sequence_number = headers::number(headers::SEQUENCE_NUMBER, value)?;
                }
                headers::CREATED_AT_US => {
                    read.created_at_us = headers::number(headers::CREATED_AT_US, value)?;
                }
                headers::PRIORITY => {
                    read.priority = match value {
                        b"ephemeral" => Priority::Ephemeral,
                        b"high" => Priority::High,
                        _ => Priority::Normal,
                    }
                }
                headers::EVENT_TYPE => {
                    read.membership = value == headers::event_type::MEMBERSHIP.as_bytes();
                }
                _ => {}
            }
        }
        Ok(read)
    }

    /// The recipients that the record names.
    pub fn named(&self) -> Result<impl ExactSizeIterator<Item = Uuid>, IdError> {
        id::unpack(headers::RECIPIENTS, self.recipients)
    }
}

pub(super) fn check_named(recipients: usize) -> Result<(), RecordError> {
    match recipients {
        0 => Err(RecordError::NoRecipients),
        1..=INLINE_RECIPIENTS_MAX => Ok(()),
        count => Err(RecordError::TooManyRecipients(count)),
    }
}

/// Who comes and goes with an event that changes who is a member.
pub(super) fn change(value: &[u8]) -> Result<Change, RecordError> {
    let frame = ServerFrame::decode(value).map_err(|_| RecordError::NoEvent)?;
    let Some(Frame::Event(Event { kind: Some(Kind::MembershipChanged(changed)), .. })) =
        frame.frame
    else {
        return Err(RecordError::NoEvent);
    };
    let ids = |field, ids: &[Vec<u8>]| {
        ids.iter().map(|it| id::from_field(field, it)).collect::<Result<Vec<_>, _>>()
    };
    Ok(Change {
        added: ids("added_user_ids", &changed.added_user_ids)?,
        removed: ids("removed_user_ids", &changed.removed_user_ids)?,
    })
}

/// Checks a value as far as that costs nothing: its size, and that it is one field, the event, from
/// its first byte to its last.
pub fn check_value(value: &[u8]) -> Result<(), RecordError> {
    /// Field 4 (`event`), length-delimited.
    const EVENT_TAG: u8 = 4 << 3 | 2;
    if value.is_empty() || value.len() > RECORD_VALUE_BYTES_MAX {
        return Err(RecordError::ValueSize(value.len()));
    }
    let mut rest = value;
    if rest[0] != EVENT_TAG {
        return Err(RecordError::NoEvent);
    }
    rest = &rest[1..];
    match proto_length(&mut rest) {
        Some(length) if length == rest.len() => Ok(()),
        _ => Err(RecordError::NoEvent),
    }
}

/// A base-128 varint that counts bytes.
fn proto_length(bytes: &mut &[u8]) -> Option<usize> {
    const LENGTH_DIGITS_MAX: usize = 4;
    let mut length = 0;
    for digit in 0..LENGTH_DIGITS_MAX {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        length |= usize::from(byte & 0x7f) << (7 * digit);
        if byte & 0x80 == 0 {
            return Some(length);
        }
    }
    None
}

/// Groups recipients by their home shards; its memory is kept from record to record.
pub struct Router {
    by_shard: Vec<Vec<Uuid>>,
}

impl Router {
    pub fn new(shards: usize) -> Self {
        Self { by_shard: vec![Vec::new(); shards] }
    }

    /// Hands each shard concerned its recipients, in ascending order of the shards.
    pub fn route(
        &mut self,
        recipients: &[u8],
        home: impl Fn(&Uuid) -> u16,
        mut deliver: impl FnMut(u16, Box<[Uuid]>),
    ) -> Result<ShardSet, RecordError> {
        let users = id::unpack(headers::RECIPIENTS, recipients)?;
        check_named(users.len())?;
        let mut concerned = ShardSet::default();
        for user in users {
            let shard = home(&user);
            concerned.insert(shard);
            self.by_shard[usize::from(shard)].push(user);
        }
        for shard in concerned.iter() {
            let users = &mut self.by_shard[usize::from(shard)];
            deliver(shard, users.as_slice().into());
            users.clear();
        }
        Ok(concerned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text_bytes: usize) -> Vec<u8> {
        let message = proto::client::Message { text: "x".repeat(text_bytes), ..Default::default() };
        let event = Event {
            conversation_id: vec![1; 16],
            kind: Some(Kind::Message(message)),
            ..Event::default()
        };
        let frame = Some(Frame::Event(event));
        ServerFrame { request_id: 0, frame }.encode_to_vec()
    }

    #[test]
    fn every_pushed_topic_is_tailed() {
        for topic in topics::PUSHED {
            assert!(tailed(None).iter().any(|it| it.0 == topic), "{topic}");
            let is_copied = topics::ROUTED.contains(&topic);
            assert_eq!(tailed(Some("own")).iter().any(|it| it.0 == topic), !is_copied, "{topic}");
        }
        let logs = |own| tailed(own).into_iter().filter(|it| it.1 == Purpose::Log).collect();
        let logs: [Vec<_>; 2] = [logs(None), logs(Some("own"))];
        assert_eq!(logs.map(|it| it[0].0), [topics::MESSAGE_CREATED, "own"]);
    }

    #[test]
    fn events_pass_and_what_is_no_event_is_refused() {
        for text_bytes in [0, 1, 100, 200, 20_000, 800_000] {
            assert_eq!(check_value(&value(text_bytes)), Ok(()), "{text_bytes}");
        }
        assert_eq!(check_value(&[]), Err(RecordError::ValueSize(0)));
        let long = value(RECORD_VALUE_BYTES_MAX);
        assert_eq!(check_value(&long), Err(RecordError::ValueSize(long.len())));
        let good = value(300);
        let answered = ServerFrame { request_id: 7, frame: None }.encode_to_vec();
        let cut = &good[..good.len() - 1];
        let longer = [good.as_slice(), b"x"].concat();
        let endless = [0x22, 0xff, 0xff, 0xff, 0xff, 0xff];
        for bad in [cut, &longer, &answered, b"{}", &[0x22], &endless, b"\0", b"garbage"] {
            assert_eq!(check_value(bad), Err(RecordError::NoEvent), "{bad:?}");
        }
    }

    #[test]
    fn headers_are_read_and_a_bad_number_is_named() {
        let pairs: [(&[u8], &[u8]); 8] = [
            (b"event-type", b"membership"),
            (b"priority", b"ephemeral"),
            (b"sequence-number", b"7"),
            (b"created-at-us", b"8"),
            (b"recipients", b"abc"),
            (b"member-count", b"9"),
            (b"\xff", b"\xff"),
            (b"later", b""),
        ];
        let expected = Headers {
            recipients: b"abc",
            member_count: 9,
            sequence_number: 7,
            created_at_us: 8,
            priority: Priority::Ephemeral,
            membership: true,
        };
        assert_eq!(Headers::read(pairs.into_iter()), Ok(expected));
        let bad: [(&[u8], &[u8]); 1] = [(b"sequence-number", b"-1")];
        let error = Headers::read(bad.into_iter()).unwrap_err();
        assert!(error.to_string().contains("sequence-number"), "{error}");
    }

    #[test]
    fn recipients_are_grouped_by_home_and_bad_ones_reach_nobody() {
        let users: Vec<Uuid> = (0..40).map(|_| id::new()).collect();
        let home = |user: &Uuid| u16::from(user.as_bytes()[15] % 3);
        let mut router = Router::new(3);
        for _ in 0..2 {
            let mut delivered = Vec::new();
            let deliver = |shard, users: Box<[Uuid]>| {
                assert!(users.iter().all(|user| home(user) == shard));
                delivered.extend(users);
            };
            let shards = router.route(&id::pack(&users), home, deliver).unwrap();
            assert_eq!(delivered.len(), users.len());
            assert!(shards.iter().all(|shard| users.iter().any(|user| home(user) == shard)));
        }
        let refused = |bytes: &[u8], router: &mut Router| {
            router.route(bytes, home, |_, _| panic!("delivered")).unwrap_err()
        };
        assert_eq!(refused(&[], &mut router), RecordError::NoRecipients);
        assert!(matches!(refused(&[0; 17], &mut router), RecordError::Id(_)));
        let many = vec![0; 16 * (INLINE_RECIPIENTS_MAX + 1)];
        let count = INLINE_RECIPIENTS_MAX + 1;
        assert_eq!(refused(&many, &mut router), RecordError::TooManyRecipients(count));
    }
}
