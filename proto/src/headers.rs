//! A record's headers: [`RecordHeaders`] as Kafka header pairs and back.

use crate::record::{Priority, RecordHeaders};

pub const TRACEPARENT: &str = "traceparent";
pub const EVENT_TYPE: &str = "event-type";
pub const SCHEMA_VERSION: &str = "schema-version";
pub const CREATED_AT_US: &str = "created-at-us";
pub const PRIORITY: &str = "priority";
pub const SEQUENCE_NUMBER: &str = "sequence-number";
pub const RECIPIENTS: &str = "recipients";
pub const MEMBER_COUNT: &str = "member-count";

/// The version of every record published today.
pub const SCHEMA_VERSION_NOW: u32 = 1;

/// Event types, the `event-type` header's values.
pub mod event_type {
    pub const MESSAGE: &str = "message";
    pub const MESSAGE_EDITED: &str = "message-edited";
    pub const MESSAGE_DELETED: &str = "message-deleted";
    pub const REACTION: &str = "reaction";
    pub const MEMBERSHIP: &str = "membership";
    pub const SETTINGS: &str = "settings";
    pub const RECEIPT: &str = "receipt";
    pub const RECEIPT_SUMMARY: &str = "receipt-summary";
    pub const PROFILE: &str = "profile";
    pub const TYPING: &str = "typing";
    pub const PRESENCE: &str = "presence";
    pub const PUSH: &str = "push";
}

/// Headers that a dead letter has besides its own.
pub mod dead_letter {
    /// Why it could not be published or processed.
    pub const ERROR: &str = "dlq-error";
    /// The topic that it was meant for.
    pub const TOPIC: &str = "dlq-topic";
    /// How often it was tried.
    pub const ATTEMPTS: &str = "dlq-attempts";
    pub const FAILED_AT_US: &str = "dlq-failed-at-us";
    /// The outbox row's headers as they stood, where they cannot be read.
    pub const RAW_HEADERS: &str = "dlq-raw-headers";
    /// Which process could not process it. Every gateway reads every record, so a record that none
    /// can read is as many dead letters as there are gateways.
    pub const CONSUMER: &str = "dlq-consumer";
    /// Where in its topic it is.
    pub const PARTITION: &str = "dlq-partition";
    pub const OFFSET: &str = "dlq-offset";
    /// Of a record that settles a dead letter in its partition: that one's offset.
    pub const SETTLES: &str = "dlq-settles";
    /// How it was settled: `replayed` or `dropped`.
    pub const SETTLED: &str = "dlq-settled";
}

/// A header is there but does not hold what its name promises.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the record header {name} does not hold {wanted}")]
pub struct HeaderError {
    pub name: &'static str,
    pub wanted: &'static str,
}

impl RecordHeaders {
    /// Name and value of each header that is set. Numbers are decimal text; recipients are raw bytes.
    #[must_use]
    pub fn to_pairs(&self) -> Vec<(&'static str, Vec<u8>)> {
        let mut pairs = Vec::with_capacity(8);
        pairs.push((EVENT_TYPE, self.event_type.clone().into_bytes()));
        pairs.push((SCHEMA_VERSION, self.schema_version.to_string().into_bytes()));
        pairs.push((CREATED_AT_US, self.created_at_us.to_string().into_bytes()));
        if !self.traceparent.is_empty() {
            pairs.push((TRACEPARENT, self.traceparent.clone().into_bytes()));
        }
        match self.priority() {
            Priority::Normal => {}
            Priority::High => pairs.push((PRIORITY, b"high".to_vec())),
            Priority::Ephemeral => pairs.push((PRIORITY, b"ephemeral".to_vec())),
        }
        if self.sequence_number != 0 {
            pairs.push((SEQUENCE_NUMBER, self.sequence_number.to_string().into_bytes()));
        }
        if !self.recipients.is_empty() {
            pairs.push((RECIPIENTS, self.recipients.clone()));
        }
        if self.member_count != 0 {
            pairs.push((MEMBER_COUNT, self.member_count.to_string().into_bytes()));
        }
        pairs
    }

    /// Reads headers as they came with a record; unknown names are ignored.
    pub fn from_pairs<'a>(
        pairs: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<Self, HeaderError> {
        let mut headers = Self::default();
        for (name, value) in pairs {
            match name {
                EVENT_TYPE => headers.event_type = text(EVENT_TYPE, value)?.to_owned(),
                TRACEPARENT => headers.traceparent = text(TRACEPARENT, value)?.to_owned(),
                SCHEMA_VERSION => {
                    headers.schema_version = u32::try_from(number(SCHEMA_VERSION, value)?)
                        .map_err(|_| HeaderError { name: SCHEMA_VERSION, wanted: "a version" })?;
                }
                CREATED_AT_US => headers.created_at_us = number(CREATED_AT_US, value)?,
                SEQUENCE_NUMBER => headers.sequence_number = number(SEQUENCE_NUMBER, value)?,
                RECIPIENTS => headers.recipients = value.to_vec(),
                MEMBER_COUNT => {
                    headers.member_count = u32::try_from(number(MEMBER_COUNT, value)?)
                        .map_err(|_| HeaderError { name: MEMBER_COUNT, wanted: "a count" })?;
                }
                PRIORITY => headers.set_priority(match value {
                    b"high" => Priority::High,
                    b"ephemeral" => Priority::Ephemeral,
                    _ => Priority::Normal,
                }),
                _ => {}
            }
        }
        Ok(headers)
    }
}

/// Reads a decimal header, for consumers that look at single headers.
pub fn number(name: &'static str, value: &[u8]) -> Result<u64, HeaderError> {
    text(name, value)?.parse().map_err(|_| HeaderError { name, wanted: "a decimal number" })
}

fn text<'a>(name: &'static str, value: &'a [u8]) -> Result<&'a str, HeaderError> {
    std::str::from_utf8(value).map_err(|_| HeaderError { name, wanted: "UTF-8 text" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> RecordHeaders {
        RecordHeaders {
            event_type: event_type::MESSAGE.into(),
            schema_version: SCHEMA_VERSION_NOW,
            created_at_us: 1_700_000_000_000_000,
            traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into(),
            priority: Priority::High.into(),
            sequence_number: 7,
            recipients: vec![1; 32],
            member_count: 2_000,
        }
    }

    #[test]
    fn pairs_come_back_as_they_went() {
        let pairs = example().to_pairs();
        let borrowed = pairs.iter().map(|(name, value)| (*name, value.as_slice()));
        assert_eq!(RecordHeaders::from_pairs(borrowed).unwrap(), example());
    }

    #[test]
    fn a_bad_number_is_named_and_an_unknown_header_is_ignored() {
        let error = RecordHeaders::from_pairs([(SEQUENCE_NUMBER, b"x".as_slice())]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the record header sequence-number does not hold a decimal number"
        );
        assert_eq!(
            RecordHeaders::from_pairs([("later", b"\xff".as_slice())]).unwrap(),
            RecordHeaders::default()
        );
    }
}
