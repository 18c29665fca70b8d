//! The HTTP API: plain calls that block, JSON in and out.

mod calls;
mod types;

pub use types::*;

use crate::limits::{
    API_ATTEMPTS_MAX, API_BODY_BYTES_MAX, API_CALL_MS_MAX, API_RETRY_MS_MIN, CONNECT_MS_MAX,
};
use crate::trust::Trust;
use serde::{Deserialize, de::DeserializeOwned};
use std::sync::Arc;
use std::time::Duration;
use ureq::http::{Method, Request, Response};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body};

/// Why a call did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// The server's word.
    #[error("{detail} ({code})")]
    Refused { status: u16, code: String, detail: String, retryable: bool },
    /// No gateway answered.
    #[error("{url} cannot be reached: {problem}")]
    Unreachable { url: String, problem: String },
    /// Something answered, but not as a RealChat gateway does.
    #[error("{url} does not answer as RealChat does: {problem}")]
    Protocol { url: String, problem: String },
}

impl ApiError {
    /// The server's error word, or one of this side's: `unreachable`, `unexpected_answer`.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Refused { code, .. } => code,
            Self::Unreachable { .. } => "unreachable",
            Self::Protocol { .. } => "unexpected_answer",
        }
    }

    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::Refused { retryable, .. } => *retryable,
            Self::Unreachable { .. } => true,
            Self::Protocol { .. } => false,
        }
    }
}

/// May the call be made again if nobody knows whether it was done?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repeat {
    Safe,
    Never,
}

/// One call, ready to be made as often as it takes.
struct Call<'a> {
    method: Method,
    /// Path and query.
    target: String,
    token: Option<&'a str>,
    body: Option<Vec<u8>>,
    repeat: Repeat,
}

/// The API of one deployment, through any of its gateways.
#[derive(Debug, Clone)]
pub struct Api {
    agent: Agent,
    /// Base URLs, `http://HOST:PORT` or `https://HOST:PORT`.
    urls: Vec<String>,
}

/// RFC 9457.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Problem {
    title: String,
    detail: String,
    code: String,
    retryable: bool,
}

impl Api {
    /// `urls` are base URLs, `http://HOST:PORT` or `https://HOST:PORT`, one a gateway: the first that
    /// can be reached is asked. The system says whose certificates are believed.
    #[must_use]
    pub fn new(urls: Vec<String>) -> Self {
        Self::with_trust(urls, &Trust::default())
    }

    /// As [`Self::new`], believing what `trust` says.
    #[must_use]
    pub fn with_trust(urls: Vec<String>, trust: &Trust) -> Self {
        let mut tls = TlsConfig::builder()
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()));
        if urls.iter().any(|url| url.starts_with("https://")) {
            let roots = trust.roots().iter();
            let roots = roots.map(|der| Certificate::from_der(der.as_ref()).to_owned()).collect();
            tls = tls.root_certs(RootCerts::Specific(Arc::new(roots)));
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .tls_config(tls.build())
            .timeout_connect(Some(Duration::from_millis(CONNECT_MS_MAX)))
            .timeout_global(Some(Duration::from_millis(API_CALL_MS_MAX)))
            .user_agent(concat!("realchat-rust/", env!("CARGO_PKG_VERSION")))
            .build();
        let urls = urls.into_iter().map(|url| url.trim_end_matches('/').to_owned()).collect();
        Self { agent: config.new_agent(), urls }
    }

    /// The base URLs.
    #[must_use]
    pub fn urls(&self) -> &[String] {
        &self.urls
    }

    /// The status of a GET of any address, e.g. a daemon's `/readyz`.
    ///
    /// # Errors
    /// When nothing answers there.
    pub fn status_of(&self, url: &str) -> Result<u16, ApiError> {
        match self.agent.get(url).call() {
            Ok(answer) => Ok(answer.status().as_u16()),
            Err(error) => {
                Err(ApiError::Unreachable { url: url.to_owned(), problem: error.to_string() })
            }
        }
    }

    /// Makes the call and reads the answer's JSON.
    fn call<T: DeserializeOwned>(&self, call: &Call<'_>) -> Result<T, ApiError> {
        let (url, body) = self.answer(call)?;
        serde_json::from_slice(&body)
            .map_err(|error| ApiError::Protocol { url, problem: error.to_string() })
    }

    /// Makes the call; its answer has no content.
    fn call_without_answer(&self, call: &Call<'_>) -> Result<(), ApiError> {
        self.answer(call).map(|_| ())
    }

    /// Makes the call until it is answered for good; gives the URL that answered and the body.
    fn answer(&self, call: &Call<'_>) -> Result<(String, Vec<u8>), ApiError> {
        let mut attempt = 0;
        loop {
            let error = match self.round(call) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            attempt += 1;
            let again = call.repeat == Repeat::Safe && error.retryable();
            if !again || attempt >= API_ATTEMPTS_MAX {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(API_RETRY_MS_MIN << (attempt - 1)));
        }
    }

    /// Asks one gateway after the other until one can be reached.
    fn round(&self, call: &Call<'_>) -> Result<(String, Vec<u8>), ApiError> {
        let mut last = ApiError::Unreachable {
            url: "the server".to_owned(),
            problem: "no URL was given".to_owned(),
        };
        for url in &self.urls {
            match self.attempt(url, call) {
                Ok(body) => return Ok((url.clone(), body)),
                Err((error, nothing_was_sent)) => {
                    let reachable = !matches!(error, ApiError::Unreachable { .. });
                    last = error;
                    if reachable || (call.repeat == Repeat::Never && !nothing_was_sent) {
                        break;
                    }
                }
            }
        }
        Err(last)
    }

    /// One call to one gateway; an error says whether certainly nothing was sent.
    fn attempt(&self, url: &str, call: &Call<'_>) -> Result<Vec<u8>, (ApiError, bool)> {
        let unreachable = |error: &ureq::Error| {
            let nothing_was_sent = match error {
                ureq::Error::Io(error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
                ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => true,
                ureq::Error::Timeout(timeout) => {
                    matches!(timeout, ureq::Timeout::Connect | ureq::Timeout::Resolve)
                }
                _ => false,
            };
            let (url, problem) = (url.to_owned(), error.to_string());
            (ApiError::Unreachable { url, problem }, nothing_was_sent)
        };
        let mut answer = self.perform(url, call).map_err(|error| unreachable(&error))?;
        let status = answer.status().as_u16();
        let body = answer.body_mut().with_config().limit(API_BODY_BYTES_MAX).read_to_vec();
        let body = body.map_err(|error| unreachable(&error))?;
        match status {
            200..=299 => Ok(body),
            400..=599 => Err((refused(url, status, &body), false)),
            _ => {
                let problem = format!("unexpected status {status}");
                Err((ApiError::Protocol { url: url.to_owned(), problem }, false))
            }
        }
    }

    fn perform(&self, url: &str, call: &Call<'_>) -> Result<Response<Body>, ureq::Error> {
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(format!("{url}{}", call.target))
            .header("Accept", "application/json");
        if let Some(token) = call.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        match &call.body {
            Some(body) => {
                let request = request.header("Content-Type", "application/json");
                self.agent.run(request.body(body.as_slice())?)
            }
            None => self.agent.run(request.body(())?),
        }
    }
}

fn refused(url: &str, status: u16, body: &[u8]) -> ApiError {
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) if !problem.code.is_empty() => {
            let Problem { title, detail, code, retryable } = problem;
            let detail = if detail.is_empty() { title } else { detail };
            ApiError::Refused { status, code, detail, retryable }
        }
        _ => {
            let text = String::from_utf8_lossy(body.get(..200).unwrap_or(body)).into_owned();
            let problem = format!("status {status} with no problem document: {text}");
            ApiError::Protocol { url: url.to_owned(), problem }
        }
    }
}

/// Percent-encodes a value of a query (RFC 3986 section 2.3: what is unreserved stays).
fn encoded(value: &str) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_document_is_read_and_anything_else_is_named() {
        let body = br#"{"type":"about:blank","title":"Conflict","status":409,
            "detail":"the name is taken","code":"name_taken","retryable":false}"#;
        let error = refused("http://a", 409, body);
        assert_eq!((error.code(), error.retryable()), ("name_taken", false));
        assert_eq!(error.to_string(), "the name is taken (name_taken)");
        assert_eq!(refused("http://a", 502, b"<html>").code(), "unexpected_answer");
    }

    #[test]
    fn a_query_is_encoded() {
        assert_eq!(encoded("a,b c&d=ü"), "a%2Cb%20c%26d%3D%C3%BC");
    }
}
