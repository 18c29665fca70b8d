//! Answers of the JSON API; errors are problem details (RFC 9457).

use crate::failure::Failure;
use proto::error::ErrorCode;
use proto::link::{HttpHeader, HttpResult};
use serde_json::{Value, json};

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HttpAnswer {
    status: u16,
    content_type: &'static str,
    /// Nothing: no content.
    body: Option<Value>,
    headers: Vec<(&'static str, String)>,
}

impl HttpAnswer {
    pub(crate) fn new(status: u16, body: Value) -> Self {
        let content_type = "application/json";
        Self { status, content_type, body: Some(body), headers: Vec::new() }
    }

    pub(crate) fn ok(body: Value) -> Self {
        Self::new(200, body)
    }

    pub(crate) fn no_content() -> Self {
        Self { status: 204, content_type: "", body: None, headers: Vec::new() }
    }

    pub(crate) fn problem(failure: &Failure) -> Self {
        let status = failure.code.http_status();
        let body = json!({
            "type": "about:blank",
            "title": title(status),
            "status": status,
            "detail": failure.message,
            "code": failure.code.as_str(),
            "retryable": failure.code.retryable(),
        });
        let mut headers = Vec::new();
        if failure.retry_after_ms > 0 {
            // Whole seconds (RFC 9110 section 10.2.3).
            let seconds = u64::from(failure.retry_after_ms).div_ceil(1_000);
            headers.push(("retry-after", seconds.to_string()));
        }
        let is_token = matches!(
            failure.code,
            ErrorCode::TokenMissing | ErrorCode::TokenInvalid | ErrorCode::TokenExpired
        );
        if is_token {
            headers.push(("www-authenticate", "Bearer".to_owned()));
        }
        let content_type = "application/problem+json";
        Self { status, content_type, body: Some(body), headers }
    }

    pub(crate) fn with_header(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    pub(crate) fn into_result(self) -> HttpResult {
        let header = |name: &str, value: String| HttpHeader { name: name.to_owned(), value };
        let mut headers: Vec<_> =
            self.headers.into_iter().map(|(name, value)| header(name, value)).collect();
        if self.body.is_some() {
            headers.push(header("content-type", self.content_type.to_owned()));
        }
        if headers.iter().all(|it| it.name != "cache-control") {
            headers.push(header("cache-control", "no-store".to_owned()));
        }
        let body = self.body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        HttpResult { status: u32::from(self.status), headers, body }
    }
}

/// The status's phrase (RFC 9110 section 15), as RFC 9457 asks of `about:blank` problems.
const fn title(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        413 => "Content Too Large",
        429 => "Too Many Requests",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Internal Server Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_names_code_and_what_is_allowed() {
        let result = HttpAnswer::problem(&Failure::overloaded("write")).into_result();
        assert_eq!(result.status, 503);
        let body: Value = serde_json::from_slice(&result.body).unwrap();
        assert_eq!(body["code"], "overloaded");
        assert_eq!(body["retryable"], true);
        assert_eq!(body["title"], "Service Unavailable");
        let header = |name| result.headers.iter().find(|it| it.name == name).map(|it| &it.value);
        assert_eq!(header("content-type").unwrap(), "application/problem+json");
        assert_eq!(header("retry-after").unwrap(), "1");
        assert_eq!(header("cache-control").unwrap(), "no-store");
    }

    #[test]
    fn every_code_has_a_title_of_its_own_status() {
        for code in proto::error::ALL {
            let status = code.http_status();
            assert!(status == 500 || title(status) != title(500), "{status}");
        }
    }
}
