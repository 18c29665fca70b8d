//! What a row becomes on Kafka: its topic and headers, as itself and as a dead letter.

use crate::publisher::Prepared;
use crate::wave::Record;
use proto::headers::dead_letter as dead_letter_header;
use proto::id::ID_BYTES;
use proto::record::RecordHeaders;
use proto::{Message, topics};
use rdkafka::message::{Header, OwnedHeaders};

/// The topic's own name, if it is one of ours.
pub(crate) fn known_topic(topic: &str) -> Option<&'static str> {
    topics::ALL.into_iter().find(|known| *known == topic)
}

/// The record as it is published; an error says what is wrong with the row.
pub(crate) fn record(record: &Record) -> Result<Prepared, String> {
    let topic = known_topic(&record.topic)
        .ok_or_else(|| format!("unknown topic {:?}", record.topic))?
        .to_owned();
    if record.key.len() != ID_BYTES {
        return Err(format!("the key is {} bytes; {ID_BYTES} are required", record.key.len()));
    }
    let decoded = RecordHeaders::decode(record.headers.as_slice())
        .map_err(|error| format!("the headers cannot be read: {error}"))?;
    let copies = record.gateways.iter().filter_map(|it| topics::of_gateway(it)).collect();
    Ok(Prepared { topic, copies, headers: headers(&decoded) })
}

/// The record as a dead letter. One for an unknown topic goes to the log's dead letters.
pub(crate) fn dead_letter(record: &Record, error: &str, now_us: u64) -> Prepared {
    let known = known_topic(&record.topic).unwrap_or(topics::MESSAGE_CREATED);
    let own = match RecordHeaders::decode(record.headers.as_slice()) {
        Ok(decoded) => headers(&decoded),
        Err(_) => add(OwnedHeaders::new(), dead_letter_header::RAW_HEADERS, &record.headers),
    };
    let more = [
        (dead_letter_header::ERROR, error.to_owned()),
        (dead_letter_header::TOPIC, record.topic.clone()),
        (dead_letter_header::ATTEMPTS, record.attempts.to_string()),
        (dead_letter_header::FAILED_AT_US, now_us.to_string()),
    ];
    let headers = more.iter().fold(own, |all, (name, value)| add(all, name, value.as_bytes()));
    Prepared { topic: topics::dead_letter(known), copies: Vec::new(), headers }
}

fn headers(decoded: &RecordHeaders) -> OwnedHeaders {
    let pairs = decoded.to_pairs();
    owned_headers(pairs.iter().map(|(name, value)| (*name, value.as_slice())))
}

/// Names and values as Kafka's client takes them.
pub(crate) fn owned_headers<'a>(
    pairs: impl IntoIterator<Item = (&'a str, &'a [u8])>,
) -> OwnedHeaders {
    let pairs = pairs.into_iter();
    let empty = OwnedHeaders::new_with_capacity(pairs.size_hint().0);
    pairs.fold(empty, |all, (name, value)| add(all, name, value))
}

fn add(headers: OwnedHeaders, key: &str, value: &[u8]) -> OwnedHeaders {
    headers.insert(Header { key, value: Some(value) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::message::Headers;

    fn example() -> Record {
        let headers = RecordHeaders { event_type: "message".into(), ..RecordHeaders::default() };
        Record {
            topic: topics::MEMBERSHIP.into(),
            key: vec![1; 16],
            headers: headers.encode_to_vec(),
            ..Record::default()
        }
    }

    fn header(prepared: &Prepared, name: &str) -> Option<String> {
        let found = prepared.headers.iter().find(|header| header.key == name)?;
        Some(String::from_utf8_lossy(found.value.unwrap()).into_owned())
    }

    #[test]
    fn a_row_that_cannot_be_a_record_is_refused_with_what_is_wrong() {
        assert_eq!(header(&record(&example()).ok().unwrap(), "event-type").unwrap(), "message");
        let bad_topic = Record { topic: "nonsense".into(), ..example() };
        assert_eq!(record(&bad_topic).err().unwrap(), "unknown topic \"nonsense\"");
        let bad_key = Record { key: vec![1; 15], ..example() };
        assert_eq!(record(&bad_key).err().unwrap(), "the key is 15 bytes; 16 are required");
        let bad_headers = Record { headers: vec![0xff; 3], ..example() };
        assert!(record(&bad_headers).err().unwrap().starts_with("the headers cannot be read"));
    }

    #[test]
    fn a_dead_letter_says_where_it_was_meant_for_and_why_it_is_dead() {
        let letter = dead_letter(&example(), "too large", 7);
        assert_eq!(letter.topic, "chat.conversation.membership.v1.dlq");
        assert_eq!(header(&letter, "event-type").unwrap(), "message");
        assert_eq!(header(&letter, "dlq-error").unwrap(), "too large");
        assert_eq!(header(&letter, "dlq-topic").unwrap(), topics::MEMBERSHIP);
        let lost = Record { topic: "nonsense".into(), headers: vec![0xff; 3], ..example() };
        let letter = dead_letter(&lost, "unknown topic", 7);
        assert_eq!(letter.topic, "chat.message.created.v1.dlq");
        assert!(header(&letter, "dlq-raw-headers").is_some());
    }
}
