//! HTTP responses, as bytes on the wire; errors are problem details (RFC 9457).

use crate::inbound::http::Refusal;
use crate::rate::RetryAfterMs;
use bytes::Bytes;
use proto::error::ErrorCode;
use proto::link::HttpResult;
use serde::Serialize;
use std::fmt::Write;

/// Headers that concern one connection alone and are not passed on (RFC 9110 section 7.6.1), and
/// those that the gateway writes itself.
const NOT_PASSED_ON: [&str; 14] = [
    "connection",
    "content-length",
    "expect",
    // Who the client is says the gateway alone.
    "forwarded",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-for",
    "x-real-ip",
];

/// Whether a header goes on to, or back from, chatd.
pub(crate) fn is_passed_on(name: &str) -> bool {
    !NOT_PASSED_ON.iter().any(|it| name.eq_ignore_ascii_case(it))
}

/// A response: the head, and the body apart so that large ones are not copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) head: Bytes,
    /// Empty for a response without a body.
    pub(crate) body: Bytes,
}

impl Response {
    /// Whether it says that the connection ends with it.
    pub(crate) fn closes(&self) -> bool {
        self.head.ends_with(b"connection: close\r\n\r\n")
    }
}

#[derive(Serialize)]
struct Problem<'a> {
    r#type: &'a str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    retryable: bool,
}

/// A response with the given headers, each ended by CR LF. `content_length` is that of the body,
/// also where none is sent (HEAD).
fn response(
    status: u16,
    headers: &str,
    content_length: usize,
    body: Bytes,
    keep_alive: bool,
) -> Response {
    let connection = if keep_alive { "keep-alive" } else { "close" };
    let reason = reason_phrase(status);
    // RFC 9110 section 8.6: 204 and 304 have no content of their own.
    let length = if matches!(status, 204 | 304) {
        String::new()
    } else {
        format!("content-length: {content_length}\r\n")
    };
    let head = format!(
        "HTTP/1.1 {status} {reason}\r\n{headers}{length}x-content-type-options: nosniff\r\nconnection: {connection}\r\n\r\n"
    );
    Response { head: head.into(), body }
}

/// Plain text.
pub(crate) fn text(status: u16, text: &'static str, keep_alive: bool) -> Response {
    let headers = "content-type: text/plain; charset=utf-8\r\ncache-control: no-store\r\n";
    response(status, headers, text.len(), Bytes::from_static(text.as_bytes()), keep_alive)
}

/// A problem; `headers` as for [`response`].
pub(crate) fn problem(refusal: &Refusal, headers: &str, keep_alive: bool) -> Response {
    let problem = Problem {
        r#type: "about:blank",
        title: reason_phrase(refusal.status),
        status: refusal.status,
        detail: &refusal.detail,
        code: refusal.code.as_str(),
        retryable: refusal.code.retryable(),
    };
    // Plain fields cannot fail to be written.
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    let headers =
        format!("content-type: application/problem+json\r\ncache-control: no-store\r\n{headers}");
    response(refusal.status, &headers, body.len(), body.into(), keep_alive)
}

/// A part of the web page.
pub(crate) fn asset(
    content_type: &str,
    etag: &str,
    body: &'static [u8],
    is_head: bool,
    keep_alive: bool,
) -> Response {
    let headers = format!(
        "content-type: {content_type}\r\netag: {etag}\r\ncache-control: no-cache\r\nreferrer-policy: no-referrer\r\n\
         content-security-policy: default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'\r\n"
    );
    let sent = if is_head { Bytes::new() } else { Bytes::from_static(body) };
    response(200, &headers, body.len(), sent, keep_alive)
}

/// The asset is what the client already has.
pub(crate) fn not_modified(etag: &str, keep_alive: bool) -> Response {
    response(
        304,
        &format!("etag: {etag}\r\ncache-control: no-cache\r\n"),
        0,
        Bytes::new(),
        keep_alive,
    )
}

/// chatd's answer, as it came.
pub(crate) fn passed_on(result: HttpResult, is_head: bool, keep_alive: bool) -> Response {
    let mut headers = String::new();
    for header in &result.headers {
        // chatd makes its own headers; one that would break the framing is left out nevertheless.
        let clean = |text: &str| !text.bytes().any(|byte| byte < b' ' || byte == 0x7f);
        if is_passed_on(&header.name) && clean(&header.name) && clean(&header.value) {
            // Writing to a String cannot fail.
            let _ = write!(headers, "{}: {}\r\n", header.name, header.value);
        }
    }
    let status =
        u16::try_from(result.status).ok().filter(|it| (200..600).contains(it)).unwrap_or(502);
    let content_length = result.body.len();
    let bodiless = is_head || matches!(status, 204 | 304);
    let body = if bodiless { Bytes::new() } else { result.body.into() };
    response(status, &headers, content_length, body, keep_alive)
}

/// The head of a stream of server-sent events, which ends with its connection.
pub(crate) const EVENTS_HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
    cache-control: no-store\r\nx-accel-buffering: no\r\nx-content-type-options: nosniff\r\n\
    connection: close\r\n\r\n";

/// For a connection that is one too many.
pub(crate) fn overloaded() -> Bytes {
    let refusal = Refusal::new(503, ErrorCode::Overloaded, "the gateway is full; try again later");
    let Response { head, body } = problem(&refusal, "retry-after: 5\r\n", false);
    [head, body].concat().into()
}

/// The header's line (RFC 9110 section 10.2.3).
pub(crate) fn retry_after(seconds: impl std::fmt::Display) -> String {
    format!("retry-after: {seconds}\r\n")
}

/// The client's address asks too often (RFC 6585 section 4).
pub(crate) fn too_many_requests(retry: RetryAfterMs, keep_alive: bool) -> Response {
    let seconds = retry.0.div_ceil(1_000).max(1);
    let detail = format!("too many requests from this address; try again in {seconds} s");
    let refusal = Refusal::new(429, ErrorCode::TooManyRequests, detail);
    problem(&refusal, &retry_after(seconds), keep_alive)
}

/// For a connection of an address that has too many, or opens them too fast.
pub(crate) fn too_many_connections(retry: RetryAfterMs) -> Bytes {
    let seconds = retry.0.div_ceil(1_000).max(1);
    let detail = format!("too many connections from this address; try again in {seconds} s");
    let refusal = Refusal::new(429, ErrorCode::TooManyRequests, detail);
    let Response { head, body } = problem(&refusal, &retry_after(seconds), false);
    [head, body].concat().into()
}

pub(crate) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

const fn reason_phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Content Too Large",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Status",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::link::HttpHeader;

    fn head(response: &Response) -> &str {
        std::str::from_utf8(&response.head).unwrap()
    }

    #[test]
    fn a_problem_says_what_is_wrong() {
        let refusal = Refusal::new(405, ErrorCode::MethodNotAllowed, "GET is allowed");
        let response = problem(&refusal, "allow: GET\r\n", true);
        assert!(head(&response).starts_with("HTTP/1.1 405 Method Not Allowed\r\n"));
        assert!(head(&response).contains("\r\nallow: GET\r\n"));
        let body: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
        assert_eq!(body["code"], "method_not_allowed");
        assert_eq!(body["title"], "Method Not Allowed");
        assert_eq!(body["retryable"], false);
    }

    #[test]
    fn what_is_passed_on_is_framed_by_the_gateway_alone() {
        let header =
            |name: &str, value: &str| HttpHeader { name: name.into(), value: value.into() };
        let headers = vec![
            header("Content-Type", "application/json"),
            header("Content-Length", "999"),
            header("Transfer-Encoding", "chunked"),
            header("x-bad", "a\r\nset-cookie: b"),
        ];
        let result = HttpResult { status: 200, headers, body: b"{}".to_vec() };
        let response = passed_on(result, false, false);
        assert_eq!(
            head(&response),
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\ncontent-length: 2\r\n\
             x-content-type-options: nosniff\r\nconnection: close\r\n\r\n"
        );
        let nothing = passed_on(
            HttpResult { status: 204, headers: vec![], body: b"x".to_vec() },
            false,
            true,
        );
        assert!(!head(&nothing).contains("content-length") && nothing.body.is_empty());
    }
}
