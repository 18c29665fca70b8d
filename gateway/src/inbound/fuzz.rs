//! Mutated inputs through the edge's decoders. Whatever comes, nothing panics, nothing depends on how the
//! bytes were cut, and tungstenite, which knows nothing of this code, sees the same messages.

use crate::fuzzing::{fuzz, pieces};
use crate::inbound::frame::{Decoder, FrameLimits, Incoming, Pool};
use crate::inbound::http::{self, HeaderRoom};
use crate::inbound::{events, message, proxy, route, upgrade};
use crate::limits::{CONTROL_BYTES_MAX, HEADERS_MAX};
use proto::Message as _;
use std::io::{self, Read, Write};
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Message, WebSocket};

const LIMITS: FrameLimits =
    FrameLimits { message_bytes_max: 4_096, fragments_max: 64, inflates: false };

/// A message as both decoders can name it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong,
    Close,
}

/// What our decoder makes of the pieces, and whether it refused something.
fn ours(pieces: &[&[u8]]) -> (Vec<Seen>, Option<String>) {
    let (mut decoder, mut pool, mut seen) = (Decoder::default(), Pool::default(), Vec::new());
    for piece in pieces {
        let mut input = piece.to_vec();
        let mut used = 0;
        loop {
            let next = match decoder.next(&mut input, &mut used, LIMITS, &mut pool) {
                Err(reason) => return (seen, Some(format!("{reason:?}"))),
                Ok(None) => break,
                Ok(Some(Incoming::Text(text))) => Seen::Text(text.to_owned()),
                Ok(Some(Incoming::Binary(bytes))) => Seen::Binary(bytes.to_vec()),
                Ok(Some(Incoming::Ping(bytes))) => Seen::Ping(bytes.to_vec()),
                Ok(Some(Incoming::Pong)) => Seen::Pong,
                Ok(Some(Incoming::Close(_))) => Seen::Close,
            };
            let ended = next == Seen::Close;
            seen.push(next);
            if ended {
                return (seen, None);
            }
        }
    }
    (seen, None)
}

/// Bytes to be read, and a place where what is written is lost.
struct Wire<'a>(&'a [u8]);

impl Read for Wire<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() { Err(io::ErrorKind::WouldBlock.into()) } else { self.0.read(out) }
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The same by tungstenite.
fn theirs(input: &[u8]) -> (Vec<Seen>, Option<String>) {
    let config = WebSocketConfig::default()
        .max_message_size(Some(LIMITS.message_bytes_max))
        .max_frame_size(Some(LIMITS.message_bytes_max));
    let mut socket = WebSocket::from_raw_socket(Wire(input), Role::Server, Some(config));
    let mut seen = Vec::new();
    loop {
        seen.push(match socket.read() {
            Ok(Message::Text(text)) => Seen::Text(text.to_string()),
            Ok(Message::Binary(bytes)) => Seen::Binary(bytes.to_vec()),
            Ok(Message::Ping(bytes)) => Seen::Ping(bytes.to_vec()),
            Ok(Message::Pong(_)) => Seen::Pong,
            Ok(Message::Close(_)) => {
                seen.push(Seen::Close);
                return (seen, None);
            }
            Ok(Message::Frame(_)) => return (seen, Some("a raw frame".into())),
            Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                return (seen, None);
            }
            Err(error) => return (seen, Some(error.to_string())),
        });
    }
}

#[test]
fn frames_are_the_same_however_they_are_cut_and_for_an_independent_decoder() {
    fuzz("frames", |input, random| {
        let whole = ours(&[input]);
        let cut = ours(&pieces(input, random));
        assert_eq!(cut, whole, "cut and whole differ");
        let (our_seen, our_end) = whole;
        let (their_seen, their_end) = theirs(input);
        let common = our_seen.len().min(their_seen.len());
        assert_eq!(our_seen[..common], their_seen[..common]);
        // We may refuse earlier: a limit of fragments, UTF-8 in mid-frame, codes of close frames.
        // What they refuse we never take.
        if our_end.is_none() {
            assert_eq!((our_seen, None), (their_seen, their_end));
        }
        assert!(input.len() >= CONTROL_BYTES_MAX || whole_len(&cut.0) <= input.len());
    });
}

fn whole_len(seen: &[Seen]) -> usize {
    let bytes = |it: &Seen| match it {
        Seen::Text(text) => text.len(),
        Seen::Binary(bytes) | Seen::Ping(bytes) => bytes.len(),
        Seen::Pong | Seen::Close => 0,
    };
    seen.iter().map(bytes).sum()
}

#[test]
fn heads_are_read_or_refused_and_an_upgrade_that_we_grant_anybody_would() {
    fuzz("heads", |input, random| {
        let mut room: HeaderRoom<'_> = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let Ok(Some(head)) = http::parse(input, &mut room) else { return };
        assert!(head.bytes <= input.len() && head.target.starts_with('/'));
        assert!(http::has_head(input, random.usize(..head.bytes.saturating_sub(1).max(1))));
        let _ = route::route(&head, random.bool());
        let _ = events::request(&head, &[]);
        let link = route::to_link(&head, b"", [127, 0, 0, 1].into());
        assert!(link.headers.iter().all(|it| !it.name.eq_ignore_ascii_case("transfer-encoding")));
        let Ok(granted) = upgrade::negotiate(&head, &[], random.bool()) else { return };
        assert!(granted.response.ends_with("\r\n\r\n"));
        assert_eq!(granted.response.matches("\r\n\r\n").count(), 1, "{}", granted.response);
        // Both headers are lists (RFC 9110 sections 7.6.1 and 7.8); tungstenite knows one value each.
        if head.target != route::CONNECT_PATH {
            return;
        }
        let upgrades = http::only(head.headers, "upgrade");
        let plain = upgrades.is_some_and(|it| it.eq_ignore_ascii_case("websocket"));
        let connection = http::only(head.headers, "connection").unwrap_or_default();
        let mut tokens = connection.split([' ', ',']);
        // Nor does it read a value that is not ASCII.
        if !plain
            || !connection.is_ascii()
            || !tokens.any(|token| token.eq_ignore_ascii_case("upgrade"))
        {
            return;
        }
        let accepted = tungstenite::accept(Wire(&input[..head.bytes]));
        assert!(accepted.is_ok(), "granted, but: {:?}", accepted.err().map(|it| it.to_string()));
    });
}

#[test]
fn client_frames_are_read_or_refused_and_read_again_the_same() {
    fuzz("messages", |input, _| {
        if let Ok(text) = std::str::from_utf8(input)
            && let Ok(frame) = message::from_text(text)
        {
            let again = serde_json::to_string(&frame).unwrap();
            assert_eq!(message::from_text(&again).unwrap(), frame, "{again}");
        }
        if let Ok(frame) = message::from_binary(input) {
            assert_eq!(message::from_binary(&frame.encode_to_vec()).unwrap(), frame);
        }
    });
}

#[test]
fn proxy_headers_are_read_or_refused_however_they_are_cut() {
    fuzz("proxy", |input, _| {
        let whole = proxy::parse(input);
        if let Ok(Some(header)) = &whole {
            assert!(header.bytes <= input.len());
            assert_eq!(proxy::parse(&input[..header.bytes]), whole);
            assert_eq!(proxy::parse(&input[..header.bytes - 1]), Ok(None));
        }
    });
}
