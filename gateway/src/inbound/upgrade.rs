//! The WebSocket upgrade (RFC 6455 section 4.2) and what is agreed with it: encoding and token.

use crate::inbound::extension;
use crate::inbound::http::{self, Head, Refusal};
use proto::error::ErrorCode;
use proto::{SUBPROTOCOL_BEARER_PREFIX, SUBPROTOCOL_JSON, SUBPROTOCOL_PROTO};
use tungstenite::handshake::derive_accept_key;

/// How a session's frames are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Proto,
    /// JSON in compressed messages, where that is a gain.
    JsonDeflated,
    ProtoDeflated,
    /// JSON as server-sent events.
    Events,
}

impl Encoding {
    /// Whether the client's messages are text.
    pub(crate) fn is_text(self) -> bool {
        matches!(self, Self::Json | Self::JsonDeflated)
    }

    /// Whether the connection is a WebSocket.
    pub(crate) fn is_socket(self) -> bool {
        self != Self::Events
    }

    pub(crate) fn is_deflated(self) -> bool {
        matches!(self, Self::JsonDeflated | Self::ProtoDeflated)
    }
}

/// An upgrade that is granted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Upgrade {
    pub(crate) encoding: Encoding,
    /// The token, if it came with the upgrade.
    pub(crate) token: Option<String>,
    /// It came in `Authorization`: this is no browser, whose page is not told with which status an upgrade
    /// was refused.
    pub(crate) reads_status: bool,
    /// Compression is agreed on: the client's window, as a power of two.
    pub(crate) window_bits: Option<u8>,
    /// The 101 response.
    pub(crate) response: String,
}

/// Grants or refuses an upgrade; `origins` are the foreign origins that are allowed.
pub(crate) fn negotiate(
    head: &Head<'_, '_>,
    origins: &[String],
    deflate: bool,
) -> Result<Upgrade, Refusal> {
    let headers = head.headers;
    if head.method != "GET" {
        let detail = "WebSocket sessions begin with GET";
        return Err(Refusal::new(405, ErrorCode::MethodNotAllowed, detail));
    }
    let is_upgrade = http::has_token(headers, "upgrade", "websocket")
        && http::has_token(headers, "connection", "upgrade");
    if !is_upgrade
        || !head.is_http_1_1
        || http::only(headers, "sec-websocket-version") != Some("13")
    {
        let detail = "this is a WebSocket endpoint: HTTP/1.1, Upgrade: websocket, Connection: Upgrade and Sec-WebSocket-Version: 13 are required";
        return Err(Refusal::new(426, ErrorCode::InvalidArgument, detail));
    }
    let key = http::only(headers, "sec-websocket-key").filter(|key| is_key(key));
    let Some(key) = key else {
        let detail = "Sec-WebSocket-Key must be 16 bytes in base64";
        return Err(Refusal::new(400, ErrorCode::InvalidArgument, detail));
    };
    check_origin(head, origins)?;
    let offered: Vec<&str> = http::all(headers, "sec-websocket-protocol")
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    let known = |it: &&&str| matches!(**it, SUBPROTOCOL_JSON | SUBPROTOCOL_PROTO);
    let selected = offered.iter().find(known).copied();
    if selected.is_none() && !offered.is_empty() {
        let detail =
            format!("Sec-WebSocket-Protocol must offer {SUBPROTOCOL_PROTO} or {SUBPROTOCOL_JSON}");
        return Err(Refusal::new(400, ErrorCode::InvalidArgument, detail));
    }
    let offers = http::all(headers, "sec-websocket-extensions");
    let agreed = if deflate { extension::negotiate(offers) } else { None };
    let extensions = agreed.map(extension::Agreed::header).unwrap_or_default();
    let compresses = agreed.is_some_and(extension::Agreed::compresses);
    let accept = derive_accept_key(key.as_bytes());
    let token = bearer(head, &[]);
    let reads_status = token.is_some();
    let protocol =
        selected.map(|it| format!("sec-websocket-protocol: {it}\r\n")).unwrap_or_default();
    Ok(Upgrade {
        encoding: match (selected == Some(SUBPROTOCOL_PROTO), compresses) {
            (true, false) => Encoding::Proto,
            (true, true) => Encoding::ProtoDeflated,
            (false, false) => Encoding::Json,
            (false, true) => Encoding::JsonDeflated,
        },
        window_bits: agreed.map(extension::Agreed::window_bits),
        token: token.or_else(|| bearer(head, &offered)),
        reads_status,
        response: format!(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: {accept}\r\n{protocol}{extensions}\r\n"
        ),
    })
}

/// The token in `Authorization: Bearer`, else in a `bearer.` subprotocol entry.
pub(crate) fn bearer(head: &Head<'_, '_>, offered: &[&str]) -> Option<String> {
    let header = http::only(head.headers, "authorization").and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    let entry = || offered.iter().find_map(|it| it.strip_prefix(SUBPROTOCOL_BEARER_PREFIX));
    header.or_else(entry).filter(|token| !token.is_empty()).map(str::to_owned)
}

fn is_key(key: &str) -> bool {
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
    // Of the last character before the padding only two bits are the key's; the others are zero.
    let is_last = |byte: u8| matches!(byte, b'A' | b'Q' | b'g' | b'w');
    key.len() == 24
        && key.ends_with("==")
        && key.bytes().take(22).all(is_base64)
        && key.as_bytes().get(21).copied().is_some_and(is_last)
}

pub(crate) fn check_origin(head: &Head<'_, '_>, origins: &[String]) -> Result<(), Refusal> {
    if is_origin_allowed(head, origins) {
        return Ok(());
    }
    let detail = "connections from this Origin are not allowed";
    Err(Refusal::new(403, ErrorCode::Forbidden, detail))
}

/// A browser says where the page came from. Without an Origin it is no browser; the gateway's own
/// origin is that of its web page.
fn is_origin_allowed(head: &Head<'_, '_>, origins: &[String]) -> bool {
    let mut given = http::all(head.headers, "origin");
    let (Some(origin), None) = (given.next(), given.next()) else {
        return http::all(head.headers, "origin").next().is_none();
    };
    let host = http::only(head.headers, "host").unwrap_or_default();
    let own = origin
        .strip_prefix("http://")
        .or_else(|| origin.strip_prefix("https://"))
        .is_some_and(|it| it.eq_ignore_ascii_case(host));
    own || origins.iter().any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(origin))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::HEADERS_MAX;

    const BASE: &str = "Host: chat.example:8080\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

    fn upgrade(headers: &str, origins: &[&str]) -> Result<Upgrade, u16> {
        let text = format!("GET /v1/connect HTTP/1.1\r\n{headers}\r\n");
        let mut room = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let head = http::parse(text.as_bytes(), &mut room).unwrap().unwrap();
        let origins: Vec<_> = origins.iter().map(|it| (*it).to_owned()).collect();
        negotiate(&head, &origins, true).map_err(|refusal| refusal.status)
    }

    #[test]
    fn the_accept_key_is_the_rfcs_and_json_is_the_default() {
        let granted = upgrade(BASE, &[]).unwrap();
        assert!(
            granted.response.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n")
        );
        assert!(!granted.response.contains("protocol"));
        assert_eq!((granted.encoding, granted.token), (Encoding::Json, None));
    }

    #[test]
    fn http_1_0_is_too_old() {
        let text = format!("GET /v1/connect HTTP/1.0\r\n{BASE}\r\n");
        let mut room = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let head = http::parse(text.as_bytes(), &mut room).unwrap().unwrap();
        assert_eq!(negotiate(&head, &[], false).unwrap_err().status, 426);
    }

    #[test]
    fn the_first_subprotocol_that_is_known_is_chosen_and_the_token_taken() {
        let more = "Sec-WebSocket-Protocol: bearer.abc.def, x\r\nSec-WebSocket-Protocol: realchat.v1+proto, realchat.v1+json\r\n";
        let granted = upgrade(&format!("{BASE}{more}"), &[]).unwrap();
        assert_eq!(
            (granted.encoding, granted.token.as_deref()),
            (Encoding::Proto, Some("abc.def"))
        );
        assert!(granted.response.contains("sec-websocket-protocol: realchat.v1+proto\r\n"));
        let granted = upgrade(&format!("{BASE}Authorization: bearer tok\r\n"), &[]).unwrap();
        assert_eq!(granted.token.as_deref(), Some("tok"));
        assert_eq!(
            upgrade(&format!("{BASE}Sec-WebSocket-Protocol: bearer.abc\r\n"), &[]),
            Err(400)
        );
    }

    #[test]
    fn what_is_no_upgrade_is_refused() {
        assert_eq!(upgrade("Host: h\r\n", &[]), Err(426));
        assert_eq!(upgrade(&BASE.replace("13", "8"), &[]), Err(426));
        assert_eq!(upgrade(&BASE.replace("dGhlIHNhbXBsZSBub25jZQ==", "short"), &[]), Err(400));
    }

    #[test]
    fn foreign_origins_are_refused_unless_allowed() {
        let from = |origin: &str, allowed: &[&str]| {
            upgrade(&format!("{BASE}Origin: {origin}\r\n"), allowed)
        };
        assert!(from("http://chat.example:8080", &[]).is_ok());
        assert_eq!(from("http://evil.example", &[]), Err(403));
        assert_eq!(from("http://chat.example:8080.evil.example", &[]), Err(403));
        assert_eq!(from("null", &[]), Err(403));
        assert!(from("https://app.example", &["https://app.example"]).is_ok());
        assert!(from("https://any.example", &["*"]).is_ok());
        assert_eq!(
            upgrade(
                &format!("{BASE}Origin: http://a\r\nOrigin: http://chat.example:8080\r\n"),
                &[]
            ),
            Err(403)
        );
    }
}
