//! The head of an HTTP/1.1 request (RFC 9112), bounded and strict where leniency helps smugglers.

use crate::limits::{HEAD_BYTES_MAX, HEADERS_MAX};
use httparse::{Header, Request, Status};
use proto::error::ErrorCode;
use proto::limits::HTTP_BODY_BYTES_MAX;

/// Room for the headers of one request, on the caller's stack.
pub(crate) type HeaderRoom<'b> = [Header<'b>; HEADERS_MAX];

/// A request without its body.
#[derive(Debug)]
pub(crate) struct Head<'h, 'b> {
    pub(crate) method: &'b str,
    /// Path and query, as on the wire.
    pub(crate) target: &'b str,
    pub(crate) headers: &'h [Header<'b>],
    /// Of the head itself, with the empty line that ends it.
    pub(crate) bytes: usize,
    pub(crate) body_bytes: usize,
    /// HTTP/1.1, and not 1.0.
    pub(crate) is_http_1_1: bool,
    /// The peer wants to go on with this connection.
    pub(crate) keep_alive: bool,
    /// The peer waits for a `100 Continue` before it sends the body.
    pub(crate) expects_continue: bool,
}

/// A request that is answered with an error; the connection then ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) code: ErrorCode,
    pub(crate) detail: String,
}

impl Refusal {
    pub(crate) fn new(status: u16, code: ErrorCode, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into() }
    }

    fn malformed(detail: impl Into<String>) -> Self {
        Self::new(400, ErrorCode::InvalidArgument, detail)
    }
}

/// Whether the end of a head lies in `bytes`, of which the first `scanned` are known to hold none.
/// Cheap for heads that come byte by byte.
pub(crate) fn has_head(bytes: &[u8], scanned: usize) -> bool {
    // The end may have begun up to three bytes before what is new.
    let fresh = &bytes[scanned.saturating_sub(3)..];
    fresh.windows(2).any(|pair| pair == b"\n\n") || fresh.windows(3).any(|it| it == b"\n\r\n")
}

/// Reads a head; None if its end has not come yet.
pub(crate) fn parse<'h, 'b>(
    bytes: &'b [u8],
    room: &'h mut HeaderRoom<'b>,
) -> Result<Option<Head<'h, 'b>>, Refusal> {
    let too_large = || {
        let allowed =
            format!("at most {HEAD_BYTES_MAX} bytes and {HEADERS_MAX} headers are allowed");
        Refusal::new(
            431,
            ErrorCode::PayloadTooLarge,
            format!("the request's head is too large; {allowed}"),
        )
    };
    let limited = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
    let mut request = Request::new(room);
    let head_bytes = match request.parse(limited) {
        Ok(Status::Complete(head_bytes)) => head_bytes,
        Ok(Status::Partial) if bytes.len() >= HEAD_BYTES_MAX => return Err(too_large()),
        Ok(Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(too_large()),
        Err(error) => return Err(Refusal::malformed(format!("no HTTP/1.1 request: {error}"))),
    };
    let (method, target) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
    let minor = request.version.unwrap_or_default();
    let headers: &'h [Header<'b>] = request.headers;
    if !target.starts_with('/') {
        return Err(Refusal::malformed("the request's target must be a path that begins with /"));
    }
    let hosts = headers.iter().filter(|header| header.name.eq_ignore_ascii_case("host")).count();
    if hosts > 1 || (hosts == 0 && minor > 0) {
        return Err(Refusal::malformed("exactly one Host header is required"));
    }
    if all(headers, "transfer-encoding").next().is_some() {
        let detail = "a body needs Content-Length; Transfer-Encoding is not supported";
        return Err(Refusal::new(411, ErrorCode::InvalidArgument, detail));
    }
    Ok(Some(Head {
        method,
        target,
        headers,
        bytes: head_bytes,
        body_bytes: body_bytes(headers)?,
        is_http_1_1: minor > 0,
        keep_alive: if minor == 0 {
            has_token(headers, "connection", "keep-alive")
        } else {
            !has_token(headers, "connection", "close")
        },
        expects_continue: has_token(headers, "expect", "100-continue"),
    }))
}

fn body_bytes(headers: &[Header<'_>]) -> Result<usize, Refusal> {
    let mut found = None;
    for value in all(headers, "content-length") {
        let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
        let bytes = value.parse::<u64>().ok().filter(|_| digits);
        match (bytes, found) {
            (Some(bytes), None) => found = Some(bytes),
            (Some(bytes), Some(before)) if bytes == before => {}
            _ => return Err(Refusal::malformed("Content-Length must be one decimal number")),
        }
    }
    match usize::try_from(found.unwrap_or(0)) {
        Ok(bytes) if bytes <= HTTP_BODY_BYTES_MAX => Ok(bytes),
        _ => {
            let detail = format!("a body may have at most {HTTP_BODY_BYTES_MAX} bytes");
            Err(Refusal::new(413, ErrorCode::PayloadTooLarge, detail))
        }
    }
}

/// The values of all headers of that name that are UTF-8.
pub(crate) fn all<'h, 'b>(
    headers: &'h [Header<'b>],
    name: &'h str,
) -> impl Iterator<Item = &'b str> + 'h {
    headers
        .iter()
        .filter(move |header| header.name.eq_ignore_ascii_case(name))
        .map(|header| std::str::from_utf8(header.value).unwrap_or_default().trim())
}

/// The value of the only header of that name.
pub(crate) fn only<'b>(headers: &[Header<'b>], name: &str) -> Option<&'b str> {
    let mut values = all(headers, name);
    match (values.next(), values.next()) {
        (Some(value), None) => Some(value),
        _ => None,
    }
}

/// Whether a comma-separated header holds a token, whatever its case.
pub(crate) fn has_token(headers: &[Header<'_>], name: &str, token: &str) -> bool {
    all(headers, name)
        .flat_map(|value| value.split(','))
        .any(|it| it.trim().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with<T>(bytes: &[u8], check: impl FnOnce(Result<Option<Head<'_, '_>>, Refusal>) -> T) -> T {
        let mut room = [httparse::EMPTY_HEADER; HEADERS_MAX];
        check(parse(bytes, &mut room))
    }

    fn status(text: &str) -> u16 {
        with(text.as_bytes(), |parsed| match parsed {
            Ok(Some(_)) => 200,
            Ok(None) => 0,
            Err(refusal) => refusal.status,
        })
    }

    #[test]
    fn a_head_is_read_with_what_follows_from_its_headers() {
        let text = b"POST /v1/x?y=1 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\nConnection: Close\r\n\r\nabc";
        with(text, |parsed| {
            let head = parsed.unwrap().unwrap();
            assert_eq!((head.method, head.target), ("POST", "/v1/x?y=1"));
            assert_eq!((head.body_bytes, head.bytes), (3, text.len() - 3));
            assert!(!head.keep_alive && head.expects_continue);
            assert_eq!(only(head.headers, "host"), Some("h"));
        });
        with(b"GET / HTTP/1.0\r\n\r\n", |parsed| assert!(!parsed.unwrap().unwrap().keep_alive));
    }

    #[test]
    fn bad_heads_have_their_status() {
        let head = |more: &str| format!("POST /v1/x HTTP/1.1\r\nHost: h\r\n{more}\r\n");
        assert_eq!(status(&head("")), 200);
        assert_eq!(status("GET / HTTP/1.1\r\nHost: h\r\n"), 0);
        assert_eq!(status(&head("Host: other\r\n")), 400);
        assert_eq!(status("GET / HTTP/1.1\r\n\r\n"), 400);
        assert_eq!(status("GET http://h/ HTTP/1.1\r\nHost: h\r\n\r\n"), 400);
        assert_eq!(status("\0\0\r\n\r\n"), 400);
        assert_eq!(status(&head("Transfer-Encoding: chunked\r\n")), 411);
        assert_eq!(status(&head("Content-Length: 1\r\nContent-Length: 2\r\n")), 400);
        assert_eq!(status(&head("Content-Length: +1\r\n")), 400);
        assert_eq!(status(&head("Content-Length: 99999999999999999999\r\n")), 400);
        assert_eq!(status(&head(&format!("Content-Length: {}\r\n", HTTP_BODY_BYTES_MAX + 1))), 413);
        assert_eq!(status(&head(&"a: b\r\n".repeat(HEADERS_MAX - 1))), 200);
        assert_eq!(status(&head(&"a: b\r\n".repeat(HEADERS_MAX))), 431);
        assert_eq!(status(&head(&format!("a: {}\r\n", "b".repeat(HEAD_BYTES_MAX)))), 431);
        assert_eq!(status(&format!("GET /{}", "b".repeat(HEAD_BYTES_MAX))), 431);
    }

    #[test]
    fn the_end_of_a_head_is_found_wherever_the_pieces_are_cut() {
        let text = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";
        for cut in 0..text.len() {
            assert!(!has_head(&text[..cut], 0));
            assert!(has_head(text, cut), "cut at {cut}");
        }
    }
}
