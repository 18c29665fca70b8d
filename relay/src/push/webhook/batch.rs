//! What is delivered at once: its body, its id and its signature. Pure.

use crate::limits::WEBHOOK_BODY_BYTES_MAX;
use crate::push::record::Taken;
use hmac::{Hmac, KeyInit, Mac};
use proto::headers::TRACEPARENT;
use proto::id::from_field;
use proto::record::{Priority, PushRequested};
use proto::{Message, Uuid};
use serde_json::json;
use sha2::{Digest, Sha256};

const BEGIN: &str = "{\"requests\":[";
const END: &str = "]}";
/// Of the body's SHA-256, in the batch's id.
const ID_BYTES: usize = 16;

/// A request that was taken from its topic, and how it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) taken: Taken,
    json: String,
}

impl Item {
    /// An error says what is wrong with the record, and gives it back.
    pub(super) fn new(taken: Taken) -> Result<Self, (Taken, String)> {
        match json(&taken) {
            Ok(json) => Ok(Self { taken, json }),
            Err(error) => Err((taken, error)),
        }
    }
}

fn json(taken: &Taken) -> Result<String, String> {
    let asked = PushRequested::decode(taken.value.as_slice())
        .map_err(|error| format!("its value is no push request: {error}"))?;
    let id = |field, bytes: &[u8]| -> Result<Uuid, String> {
        from_field(field, bytes).map_err(|error| error.to_string())
    };
    let traceparent = taken.pairs().find(|(name, _)| *name == TRACEPARENT);
    let traceparent = traceparent.and_then(|(_, value)| std::str::from_utf8(value).ok());
    let json = json!({
        "user_id": id("user_id", &asked.user_id)?,
        "conversation_id": id("conversation_id", &asked.conversation_id)?,
        "kind": asked.kind,
        "priority": if asked.priority() == Priority::High { "high" } else { "normal" },
        "message_count": asked.message_count,
        "first_sequence_number": asked.first_sequence_number,
        "last_sequence_number": asked.last_sequence_number,
        "latest_message_id": id("latest_message_id", &asked.latest_message_id)?,
        "latest_sender_id": id("latest_sender_id", &asked.latest_sender_id)?,
        "created_at_us": asked.created_at_us,
        "traceparent": traceparent,
    });
    let json = json.to_string();
    let body = BEGIN.len() + json.len() + END.len();
    if body > WEBHOOK_BODY_BYTES_MAX {
        return Err(format!("it is {body} bytes; {WEBHOOK_BODY_BYTES_MAX} are allowed"));
    }
    Ok(json)
}

/// Requests in the order of their topic.
#[derive(Debug, Default)]
pub(super) struct Batch {
    items: Vec<Item>,
    /// Of the body.
    bytes: usize,
}

impl Batch {
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Adds a request, or gives it back if the body would be too large for it.
    pub(super) fn add(&mut self, item: Item) -> Result<(), Item> {
        let comma = usize::from(!self.items.is_empty());
        let bytes = self.bytes.max(BEGIN.len() + END.len()) + comma + item.json.len();
        if bytes > WEBHOOK_BODY_BYTES_MAX {
            return Err(item);
        }
        self.bytes = bytes;
        self.items.push(item);
        Ok(())
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&Taken) -> bool) {
        let items = std::mem::take(self).items;
        for item in items.into_iter().filter(|item| keep(&item.taken)) {
            // It fitted before.
            let _ = self.add(item);
        }
    }

    /// Empties it.
    pub(super) fn take(&mut self) -> Vec<Taken> {
        std::mem::take(self).items.into_iter().map(|item| item.taken).collect()
    }

    pub(super) fn body(&self) -> String {
        let mut body = String::with_capacity(self.bytes);
        body.push_str(BEGIN);
        for (index, item) in self.items.iter().enumerate() {
            if index > 0 {
                body.push(',');
            }
            body.push_str(&item.json);
        }
        body.push_str(END);
        body
    }
}

/// The same for the same requests, however often they are delivered.
pub(super) fn id(body: &str) -> String {
    hex(&Sha256::digest(body)[..ID_BYTES])
}

/// `t=SECONDS,v1=HMAC`: the HMAC-SHA-256 (RFC 2104) of the seconds, a dot and the body, in hexadecimal.
pub(super) fn signature(secret: &str, unix_s: u64, body: &str) -> String {
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else {
        return String::new();
    };
    mac.update(format!("{unix_s}.{body}").as_bytes());
    format!("t={unix_s},v1={}", hex(&mac.finalize().into_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(offset: i64, traceparent: &str) -> Taken {
        let value = PushRequested {
            user_id: vec![1; 16],
            conversation_id: vec![2; 16],
            message_count: 3,
            first_sequence_number: 4,
            last_sequence_number: 6,
            latest_message_id: vec![3; 16],
            latest_sender_id: vec![4; 16],
            kind: "message".into(),
            priority: Priority::High.into(),
            created_at_us: 7,
        };
        let headers = vec![(TRACEPARENT.to_owned(), traceparent.as_bytes().to_vec())];
        Taken { partition: 0, offset, key: Vec::new(), value: value.encode_to_vec(), headers }
    }

    #[test]
    fn the_body_is_json_and_its_id_depends_on_nothing_else() {
        let mut batch = Batch::default();
        for offset in 0..2 {
            batch.add(Item::new(taken(offset, "00-a-b-01")).unwrap()).unwrap();
        }
        let body = batch.body();
        assert_eq!(body.len(), batch.bytes);
        let read: serde_json::Value = serde_json::from_str(&body).unwrap();
        let request = &read["requests"][1];
        assert_eq!(request["user_id"], Uuid::from_bytes([1; 16]).to_string());
        assert_eq!((&request["priority"], &request["message_count"]), (&json!("high"), &json!(3)));
        assert_eq!(request["traceparent"], "00-a-b-01");
        assert_eq!((id(&body), id(&body).len()), (id(&batch.body()), 32));
        batch.retain(|it| it.offset == 1);
        assert_eq!((batch.len(), batch.body().len()), (1, batch.bytes));
        assert_ne!(id(&batch.body()), id(&body));
        assert_eq!(batch.take()[0].offset, 1);
        assert!(batch.is_empty());
    }

    #[test]
    fn the_signature_is_what_others_compute() {
        // printf '1700000000.{}' | openssl dgst -sha256 -hmac 0123456789abcdef
        let expected = "e4f8e2ecae2295b2ddb2f0b5584c8275e226c0ebe9b3b819e70156bb67122e3e";
        let signature = signature("0123456789abcdef", 1_700_000_000, "{}");
        assert_eq!(signature, format!("t=1700000000,v1={expected}"));
    }

    #[test]
    fn a_body_at_its_limit_is_full_and_a_request_alone_beyond_it_is_refused() {
        let empty = Item::new(taken(0, "")).unwrap().json.len();
        let room = WEBHOOK_BODY_BYTES_MAX - BEGIN.len() - END.len() - empty;
        let largest = Item::new(taken(0, &"a".repeat(room))).unwrap();
        let (_, error) = Item::new(taken(0, &"a".repeat(room + 1))).unwrap_err();
        assert!(error.contains("262145 bytes; 262144 are allowed"), "{error}");
        let mut batch = Batch::default();
        batch.add(largest).unwrap();
        assert_eq!(batch.body().len(), WEBHOOK_BODY_BYTES_MAX);
        assert!(batch.add(Item::new(taken(1, "")).unwrap()).is_err());
        assert_eq!(batch.len(), 1);
    }

    #[test]
    fn what_is_no_request_is_given_back_with_what_is_wrong() {
        let torn = Taken { value: vec![0xff; 4], ..taken(9, "") };
        let (back, error) = Item::new(torn.clone()).unwrap_err();
        assert_eq!(back, torn);
        assert!(error.contains("no push request"), "{error}");
        let empty = Taken { value: Vec::new(), ..taken(9, "") };
        assert!(Item::new(empty).unwrap_err().1.contains("user_id is 0 bytes"));
    }
}
