//! A record as it came, from the library or from an answer that the gateway fetched itself.

use super::native;
use super::record::{Headers, RecordError};
use super::wire::{Pairs, Record};
use rdkafka::Message;
use rdkafka::message::BorrowedMessage;

pub(super) struct Incoming<'m> {
    pub(super) topic: &'m str,
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) key: &'m [u8],
    pub(super) value: &'m [u8],
    headers: Source<'m>,
}

enum Source<'m> {
    Library(&'m BorrowedMessage<'m>),
    Fetched(Pairs<'m>),
}

impl<'m> Incoming<'m> {
    pub(super) fn of_library(message: &'m BorrowedMessage<'m>) -> Self {
        Self {
            topic: message.topic(),
            partition: message.partition(),
            offset: message.offset(),
            key: message.key().unwrap_or_default(),
            value: message.payload().unwrap_or_default(),
            headers: Source::Library(message),
        }
    }

    /// Of the log, which is this topic.
    pub(super) fn fetched(topic: &'m str, partition: i32, record: Record<'m>) -> Self {
        let Record { offset, key, value, headers } = record;
        let headers = Source::Fetched(headers);
        Self { topic, partition, offset, key, value, headers }
    }

    pub(super) fn headers(&self) -> Result<Headers<'_>, RecordError> {
        match &self.headers {
            Source::Library(message) => Headers::read(native::headers(message)),
            Source::Fetched(pairs) => Headers::read(pairs.iter()),
        }
    }

    /// A copy of the headers.
    pub(super) fn pairs(&self) -> Vec<(String, Vec<u8>)> {
        let own = |(name, value): (&[u8], &[u8])| {
            (String::from_utf8_lossy(name).into_owned(), value.to_vec())
        };
        match &self.headers {
            Source::Library(message) => native::headers(message).map(own).collect(),
            Source::Fetched(pairs) => pairs.iter().map(own).collect(),
        }
    }
}
