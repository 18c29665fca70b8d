//! Server-sent events: a session that only listens, at `/v1/events`. What the client has is in
//! `Last-Event-ID`: the cursor of each of its conversations, as the server last told it.

use crate::inbound::http::{self, Head, Refusal};
use crate::inbound::upgrade;
use crate::limits::EVENTS_CURSORS_MAX;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::encoding::{decode_varint, encode_varint};
use proto::Uuid;
use proto::client::Cursor;
use proto::error::ErrorCode;

/// The id of a stream whose user is in more conversations than an id can name.
const TOO_MANY: &str = "reset";

/// What a client asks for.
#[derive(Debug, PartialEq)]
pub(crate) struct Request {
    pub(crate) token: Option<String>,
    /// None: live events from now on.
    pub(crate) cursors: Option<Vec<Cursor>>,
}

/// Reads a request for a stream; `origins` are the foreign origins that are allowed.
pub(crate) fn request(head: &Head<'_, '_>, origins: &[String]) -> Result<Request, Refusal> {
    if head.method != "GET" {
        return Err(Refusal::new(405, ErrorCode::MethodNotAllowed, "streams begin with GET"));
    }
    upgrade::check_origin(head, origins)?;
    let cursors = match http::only(head.headers, "last-event-id") {
        None | Some("" | TOO_MANY) => None,
        Some(id) => Some(cursors(id).ok_or_else(|| {
            let detail = "Last-Event-ID must be an id that this server gave, as it gave it";
            Refusal::new(400, ErrorCode::InvalidArgument, detail)
        })?),
    };
    Ok(Request { token: upgrade::bearer(head, &[]), cursors })
}

/// The id for cursors: 16 bytes of conversation and a variable-length number each, in base64.
pub(crate) fn id(cursors: impl ExactSizeIterator<Item = (Uuid, u64)>) -> String {
    if cursors.len() > EVENTS_CURSORS_MAX {
        return TOO_MANY.to_owned();
    }
    let mut bytes = Vec::with_capacity(cursors.len() * 18 + 1);
    // So that a user without a conversation has an id, too.
    bytes.push(0);
    for (conversation, sequence_number) in cursors {
        bytes.extend_from_slice(conversation.as_bytes());
        encode_varint(sequence_number, &mut bytes);
    }
    URL_SAFE_NO_PAD.encode(bytes)
}

fn cursors(id: &str) -> Option<Vec<Cursor>> {
    let bytes = URL_SAFE_NO_PAD.decode(id).ok()?;
    let (0, mut rest) = bytes.split_first().map(|(version, rest)| (*version, rest))? else {
        return None;
    };
    let mut cursors = Vec::new();
    while !rest.is_empty() {
        let (conversation, after) = rest.split_at_checked(16)?;
        rest = after;
        let sequence_number = decode_varint(&mut rest).ok()?;
        cursors.push(Cursor { conversation_id: conversation.to_vec(), sequence_number });
        if cursors.len() > EVENTS_CURSORS_MAX {
            return None;
        }
    }
    Some(cursors)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{HEAD_BYTES_MAX, HEADERS_MAX};

    fn asked(more: &str) -> Result<Request, u16> {
        let text = format!("GET /v1/events HTTP/1.1\r\nHost: h\r\n{more}\r\n");
        let mut room = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let head = http::parse(text.as_bytes(), &mut room).unwrap().unwrap();
        request(&head, &[]).map_err(|refusal| refusal.status)
    }

    #[test]
    fn an_id_says_what_the_client_has() {
        let have = [(Uuid::from_u128(7), 0), (Uuid::from_u128(9), u64::MAX)];
        let id = id(have.into_iter());
        let asked = asked(&format!("Authorization: Bearer t\r\nLast-Event-ID: {id}\r\n")).unwrap();
        let cursors = asked.cursors.unwrap();
        let read: Vec<_> = cursors
            .iter()
            .map(|it| (Uuid::from_slice(&it.conversation_id).unwrap(), it.sequence_number))
            .collect();
        assert_eq!(read, have);
        assert_eq!(asked.token.as_deref(), Some("t"));
    }

    #[test]
    fn the_longest_id_fits_a_request_and_one_conversation_more_is_a_reset() {
        let many = |count: usize| id(vec![(Uuid::from_u128(7), 1 << 40); count].into_iter());
        let longest = many(EVENTS_CURSORS_MAX);
        assert!(longest.len() + 2_048 < HEAD_BYTES_MAX, "{}", longest.len());
        let cursors = asked(&format!("Last-Event-ID: {longest}\r\n")).unwrap().cursors.unwrap();
        assert_eq!(cursors.len(), EVENTS_CURSORS_MAX);
        assert_eq!(many(EVENTS_CURSORS_MAX + 1), TOO_MANY);
        assert_eq!(asked("Last-Event-ID: reset\r\n").unwrap().cursors, None);
        assert_eq!(asked("").unwrap().cursors, None);
        let none = id(Vec::new().into_iter());
        assert_eq!(asked(&format!("Last-Event-ID: {none}\r\n")).unwrap().cursors, Some(vec![]));
    }

    #[test]
    fn ids_that_nobody_gave_are_refused() {
        for id in ["x", "AQ", "AAAA", "42", "AP__", "../../etc"] {
            assert_eq!(asked(&format!("Last-Event-ID: {id}\r\n")), Err(400), "{id}");
        }
        assert_eq!(asked("Origin: http://evil.example\r\n"), Err(403));
    }
}
