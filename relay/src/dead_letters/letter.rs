//! A dead letter: where it is, what it holds, and how it is shown.

use super::Settlement;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proto::headers::dead_letter as header;
use proto::topics;
use serde_json::{Map, Value, json};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::str::FromStr;

/// What all headers that a dead letter has besides its own begin with.
const PREFIX: &str = "dlq-";

/// Where a dead letter is, by the topic that it was meant for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    pub(super) topic: &'static str,
    pub(super) partition: i32,
    pub(super) offset: i64,
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}:{}", self.topic, self.partition, self.offset)
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is no place of a dead letter; one is TOPIC:PARTITION:OFFSET");
        let mut parts = text.split(':');
        let (Some(topic), Some(partition), Some(offset), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(wrong());
        };
        let topic = topics::ALL.into_iter().find(|it| *it == topic).ok_or_else(wrong)?;
        let partition = partition.parse().map_err(|_| wrong())?;
        let offset = offset.parse().map_err(|_| wrong())?;
        Ok(Self { topic, partition, offset })
    }
}

/// One record of a dead-letter topic, or several that are of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Letter {
    pub(super) place: Place,
    /// Every gateway reads every record, and each that could not read it wrote a letter of its own: the
    /// places of the others', and who wrote them.
    pub(super) copies: Vec<(Place, String)>,
    pub(super) key: Vec<u8>,
    pub(super) value_bytes: usize,
    /// Empty unless it was asked for.
    pub(super) value: Vec<u8>,
    pub(super) headers: Vec<(String, Vec<u8>)>,
}

impl Letter {
    /// All its records' places.
    pub(super) fn places(&self) -> impl Iterator<Item = &Place> {
        std::iter::once(&self.place).chain(self.copies.iter().map(|it| &it.0))
    }

    /// Where the record is that could not be processed, if it is one that was published.
    fn origin(&self) -> Option<(&'static str, Vec<u8>, Vec<u8>)> {
        let header = |name| self.header(name).map(<[u8]>::to_vec);
        Some((self.place.topic, header(header::PARTITION)?, header(header::OFFSET)?))
    }

    fn consumer(&self) -> Option<String> {
        self.header(header::CONSUMER).map(|it| String::from_utf8_lossy(it).into_owned())
    }

    /// The offset that this record settles, if it is such a record.
    pub(super) fn settles(&self) -> Option<i64> {
        std::str::from_utf8(self.header(header::SETTLES)?).ok()?.parse().ok()
    }

    /// The headers that it was, or should have been, published with.
    pub(super) fn own_headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let all = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        all.filter(|(name, _)| !name.starts_with(PREFIX))
    }

    /// Its headers could not be read, so that it cannot be published as it is.
    pub(super) fn is_unreadable(&self) -> bool {
        self.header(header::RAW_HEADERS).is_some()
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|it| it.0 == name).map(|it| it.1.as_slice())
    }

    fn text(&self, name: &str) -> Value {
        let text = self.header(name).map(|value| String::from_utf8_lossy(value).into_owned());
        text.map_or(Value::Null, Value::String)
    }

    /// Who could not process it.
    fn consumers(&self) -> Vec<String> {
        let copies = self.copies.iter().map(|it| it.1.clone());
        let mut consumers: Vec<String> = self.consumer().into_iter().chain(copies).collect();
        consumers.sort();
        consumers.dedup();
        consumers
    }

    /// What a list shows.
    pub(super) fn summary(&self) -> Value {
        json!({
            "place": self.place.to_string(),
            "key": hex(&self.key),
            "error": self.text(header::ERROR),
            "attempts": self.text(header::ATTEMPTS),
            "failed_at_us": self.text(header::FAILED_AT_US),
            "consumers": self.consumers(),
            "value_bytes": self.value_bytes,
        })
    }

    /// Everything: values in base64, headers as text where they are text, else in base64.
    pub(super) fn whole(&self) -> Value {
        let shown = |value: &[u8]| match std::str::from_utf8(value) {
            Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
            _ => STANDARD.encode(value),
        };
        let headers: Map<String, Value> = self
            .headers
            .iter()
            .map(|(name, value)| (name.clone(), Value::String(shown(value))))
            .collect();
        json!({
            "place": self.place.to_string(),
            "key": hex(&self.key),
            "headers": headers,
            "value_base64": STANDARD.encode(&self.value),
        })
    }

    pub(super) fn settled(&self, settlement: Settlement) -> Value {
        json!({ "place": self.place.to_string(), "settled": settlement.word() })
    }
}

/// Leaves out what is settled, and the records that settle; letters of one record become one.
pub(super) fn open(records: Vec<Letter>) -> Vec<Letter> {
    let settled: HashSet<Place> = records
        .iter()
        .filter_map(|it| Some(Place { offset: it.settles()?, ..it.place.clone() }))
        .collect();
    let is_open = |it: &Letter| it.settles().is_none() && !settled.contains(&it.place);
    let mut letters: Vec<Letter> = records.into_iter().filter(is_open).collect();
    letters.sort_by(|one, other| one.place.cmp(&other.place));
    folded(letters)
}

/// In the order in which they are; the first stays.
fn folded(letters: Vec<Letter>) -> Vec<Letter> {
    let mut folded: Vec<Letter> = Vec::with_capacity(letters.len());
    let mut first_of = HashMap::new();
    for letter in letters {
        let at = match letter.origin() {
            Some(origin) => *first_of.entry(origin).or_insert(folded.len()),
            None => folded.len(),
        };
        match folded.get_mut(at) {
            Some(first) => {
                let consumer = letter.consumer().unwrap_or_default();
                // It is the same record's, and may be all that was asked for.
                if first.value.is_empty() {
                    first.value = letter.value;
                }
                first.copies.push((letter.place, consumer));
            }
            None => folded.push(letter),
        }
    }
    folded
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(offset: i64, headers: &[(&str, &str)]) -> Letter {
        let place = Place { topic: topics::MESSAGE_CREATED, partition: 2, offset };
        let headers = headers.iter().map(|it| (it.0.to_owned(), it.1.as_bytes().to_vec()));
        let (key, value) = (vec![1, 255], vec![0, 1]);
        let copies = Vec::new();
        Letter { place, copies, key, value_bytes: 2, value, headers: headers.collect() }
    }

    #[test]
    fn places_read_back_and_others_are_refused() {
        let place = letter(7, &[]).place;
        assert_eq!(place.to_string(), "chat.message.created.v1:2:7");
        assert_eq!(place.to_string().parse(), Ok(place));
        for wrong in ["", "all", "chat.message.created.v1:2", "other.v1:2:7", "a:b:c:d"] {
            let error = wrong.parse::<Place>().unwrap_err();
            assert!(error.contains("TOPIC:PARTITION:OFFSET"), "{error}");
        }
    }

    #[test]
    fn what_is_settled_is_no_longer_listed() {
        let records = vec![
            letter(9, &[(header::SETTLES, "5"), (header::SETTLED, "dropped")]),
            letter(6, &[("dlq-error", "why")]),
            letter(5, &[]),
        ];
        let open = open(records);
        assert_eq!(open.len(), 1);
        assert_eq!(open[0].place.offset, 6);
        assert_eq!(open[0].summary()["error"], "why");
        assert_eq!(open[0].summary()["key"], "01ff");
    }

    #[test]
    fn what_several_gateways_could_not_read_is_one_letter() {
        let of = |offset, consumer, origin| {
            let headers =
                [(header::CONSUMER, consumer), (header::PARTITION, "3"), (header::OFFSET, origin)];
            letter(offset, &headers)
        };
        let records = vec![
            of(4, "gateway-2", "17"),
            of(5, "gateway-1", "18"),
            of(6, "gateway-1", "17"),
            letter(7, &[("dlq-error", "not published")]),
            letter(8, &[("dlq-error", "not published")]),
            of(9, "gateway-3", "17"),
            letter(10, &[(header::SETTLES, "9")]),
        ];
        let open = open(records);
        let places = |it: &Letter| it.places().map(|it| it.offset).collect::<Vec<_>>();
        let all: Vec<_> = open.iter().map(places).collect();
        assert_eq!(all, [vec![4, 6], vec![5], vec![7], vec![8]]);
        assert_eq!(open[0].summary()["consumers"], json!(["gateway-1", "gateway-2"]));
        assert_eq!(open[2].summary()["consumers"], json!([]));
    }

    #[test]
    fn a_letter_has_the_value_that_was_asked_for_by_the_place_of_any_of_its_records() {
        let headers = [(header::PARTITION, "3"), (header::OFFSET, "17")];
        let first = Letter { value: Vec::new(), ..letter(4, &headers) };
        let open = open(vec![first, letter(6, &headers)]);
        assert_eq!(open[0].whole()["value_base64"], "AAE=");
    }

    #[test]
    fn a_letter_is_published_again_with_its_own_headers_alone() {
        let letter = letter(1, &[("event-type", "message"), ("dlq-error", "why")]);
        assert_eq!(letter.own_headers().collect::<Vec<_>>(), [("event-type", &b"message"[..])]);
        assert_eq!(letter.whole()["value_base64"], "AAE=");
        assert_eq!(letter.whole()["headers"]["dlq-error"], "why");
    }
}
