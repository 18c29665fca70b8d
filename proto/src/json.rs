//! The JSON encoding of the client protocol: protobuf's field names, ids as UUID text.
//!
//! A frame is one object: `{"request_id": 7, "send": {...}}`. What a client sends is read strictly
//! (exactly one known frame, every known field of its type); what it receives it reads leniently.

use crate::client::{ClientFrame, ServerFrame, client_frame::Frame};
use crate::error::ErrorCode;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// The frames that a client may send, by their JSON name.
pub const CLIENT_FRAMES: [&str; 7] =
    ["hello", "send", "ack", "typing", "presence_subscribe", "sync", "token_refresh"];

/// A client's text frame that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct JsonError {
    pub code: ErrorCode,
    /// Echoed, so that the client can tell which request failed; 0 if it could not be read.
    pub request_id: u64,
    pub message: String,
}

/// Reads what a client sent.
pub fn decode_client_frame(text: &str) -> Result<ClientFrame, JsonError> {
    let fields: BTreeMap<String, &RawValue> = serde_json::from_str(text)
        .map_err(|error| malformed(0, format!("the frame is no JSON object: {error}")))?;
    let request_id = match fields.get("request_id") {
        None => 0,
        Some(raw) => serde_json::from_str(raw.get()).map_err(|_| {
            malformed(0, "request_id must be a whole number from 0 to 2^53 - 1".to_owned())
        })?,
    };
    let mut known = fields.iter().filter(|(name, _)| CLIENT_FRAMES.contains(&name.as_str()));
    let (Some((name, raw)), None) = (known.next(), known.next()) else {
        return Err(JsonError {
            code: ErrorCode::UnknownFrame,
            request_id,
            message: format!("a frame holds exactly one of: {}", CLIENT_FRAMES.join(", ")),
        });
    };
    let frame = decode_frame(name, raw.get())
        .map_err(|error| malformed(request_id, format!("{name}: {error}")))?;
    Ok(ClientFrame { request_id, frame: Some(frame) })
}

fn decode_frame(name: &str, raw: &str) -> Result<Frame, serde_json::Error> {
    Ok(match name {
        "hello" => Frame::Hello(serde_json::from_str(raw)?),
        "send" => Frame::Send(serde_json::from_str(raw)?),
        "ack" => Frame::Ack(serde_json::from_str(raw)?),
        "typing" => Frame::Typing(serde_json::from_str(raw)?),
        "presence_subscribe" => Frame::PresenceSubscribe(serde_json::from_str(raw)?),
        "sync" => Frame::Sync(serde_json::from_str(raw)?),
        _ => Frame::TokenRefresh(serde_json::from_str(raw)?),
    })
}

fn malformed(request_id: u64, message: String) -> JsonError {
    JsonError { code: ErrorCode::MalformedFrame, request_id, message }
}

/// The text of a frame to a client.
#[must_use]
pub fn encode_server_frame(frame: &ServerFrame) -> String {
    // Fails only for maps with keys that are no strings; a frame has none.
    serde_json::to_string(frame).unwrap_or_default()
}

/// Ids as UUID text; an unset id is the empty string.
pub mod id {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use uuid::Uuid;

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&super::IdText(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text).map_err(D::Error::custom)
    }

    pub(super) fn parse(text: &str) -> Result<Vec<u8>, String> {
        if text.is_empty() {
            return Ok(Vec::new());
        }
        Uuid::parse_str(text)
            .map(|id| id.as_bytes().to_vec())
            .map_err(|_| format!("{text:?} is no id; an id is a UUID"))
    }
}

/// Lists of ids.
pub mod ids {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(ids: &[Vec<u8>], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(ids.iter().map(|id| super::IdText(id).to_string()))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<Vec<u8>>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        texts.iter().map(|text| super::id::parse(text).map_err(D::Error::custom)).collect()
    }
}

/// Opaque bytes as hexadecimal text.
pub mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::fmt::Write;

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        let text = bytes.iter().fold(String::new(), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        });
        serializer.serialize_str(&text)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|it| u8::try_from(it).ok());
        let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? * 16 + digit(*low)?));
        match (bytes.collect(), rest) {
            (Some(bytes), []) => Ok(bytes),
            _ => Err(D::Error::custom("the watermark is no hexadecimal text")),
        }
    }
}

/// An id for people: UUID text, or nothing where there is no id.
struct IdText<'a>(&'a [u8]);

impl std::fmt::Display for IdText<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match uuid::Uuid::from_slice(self.0) {
            Ok(id) => write!(f, "{}", id.hyphenated()),
            Err(_) => Ok(()),
        }
    }
}
