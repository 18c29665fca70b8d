//! Which part answers an HTTP request.

use crate::inbound::http::{self, Head, Refusal};
use crate::inbound::respond::{self, Response};
use crate::web;
use proto::error::ErrorCode;
use proto::link::{Http, HttpHeader};
use std::net::IpAddr;

/// Where WebSocket sessions begin.
pub(crate) const CONNECT_PATH: &str = "/v1/connect";
/// Where streams of server-sent events begin.
pub(crate) const EVENTS_PATH: &str = "/v1/events";
const API_PREFIX: &str = "/v1/";
const HEALTH_PATH: &str = "/healthz";

/// What a query must not hold.
const TOKEN_NAMES: [&str; 5] = ["token", "access_token", "bearer", "authorization", "jwt"];

/// Who answers.
pub(crate) enum Route {
    /// It is answered already.
    Answered(Response),
    Upgrade,
    /// A stream of server-sent events.
    Events,
    /// chatd, over the link.
    Api,
}

/// In the echo profile every upgrade is granted, whatever its path.
pub(crate) fn route(head: &Head<'_, '_>, echo: bool) -> Route {
    if has_token(head.target) {
        let detail =
            "a token goes into a header or the hello, never in the URL, where logs keep it";
        let refusal = Refusal::new(400, ErrorCode::InvalidArgument, detail);
        return Route::Answered(respond::problem(&refusal, "", false));
    }
    let path = head.target.split(['?', '#']).next().unwrap_or_default();
    match path {
        CONNECT_PATH => Route::Upgrade,
        EVENTS_PATH => Route::Events,
        _ if echo && http::has_token(head.headers, "upgrade", "websocket") => Route::Upgrade,
        _ if path.starts_with(API_PREFIX) => Route::Api,
        HEALTH_PATH => {
            Route::Answered(read_only(head, |_| respond::text(200, "ok\n", head.keep_alive)))
        }
        _ => match web::find(path) {
            None => {
                let detail = "nothing is here; the API is under /v1/";
                let refusal = Refusal::new(404, ErrorCode::NotFound, detail);
                Route::Answered(respond::problem(&refusal, "", head.keep_alive))
            }
            Some(asset) => Route::Answered(read_only(head, |is_head| {
                let known = http::only(head.headers, "if-none-match");
                if known.is_some_and(|known| web::is_fresh(asset, known)) {
                    respond::not_modified(asset.entity_tag, head.keep_alive)
                } else {
                    let (kind, tag) = (asset.content_type, asset.entity_tag);
                    respond::asset(kind, tag, asset.body, is_head, head.keep_alive)
                }
            })),
        },
    }
}

/// Whether the query holds what looks like an access token.
fn has_token(target: &str) -> bool {
    let query = target.split_once('?').map_or("", |(_, query)| query);
    query.split('&').any(|pair| {
        let name = pair.split('=').next().unwrap_or_default();
        TOKEN_NAMES.iter().any(|it| name.eq_ignore_ascii_case(it))
    })
}

/// The answer to GET, and to HEAD without its body; other methods are refused.
fn read_only(head: &Head<'_, '_>, answer: impl FnOnce(bool) -> Response) -> Response {
    match head.method {
        "GET" => answer(false),
        "HEAD" => Response { body: bytes::Bytes::new(), ..answer(true) },
        _ => {
            let refusal =
                Refusal::new(405, ErrorCode::MethodNotAllowed, "GET and HEAD are allowed");
            respond::problem(&refusal, "allow: GET, HEAD\r\n", head.keep_alive)
        }
    }
}

/// The request as chatd gets it.
pub(crate) fn to_link(head: &Head<'_, '_>, body: &[u8], peer: IpAddr) -> Http {
    let headers = head.headers.iter().filter(|header| respond::is_passed_on(header.name));
    let headers = headers.map(|header| HttpHeader {
        name: header.name.to_owned(),
        value: String::from_utf8_lossy(header.value).into_owned(),
    });
    Http {
        method: head.method.to_owned(),
        target: head.target.to_owned(),
        headers: headers.collect(),
        body: body.to_vec(),
        client_ip: peer.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::HEADERS_MAX;

    /// `upgrade`, `api`, or the status of the answer.
    fn routed(request_line: &str) -> String {
        let text = format!("{request_line} HTTP/1.1\r\nHost: h\r\n\r\n");
        let mut room = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let head = http::parse(text.as_bytes(), &mut room).unwrap().unwrap();
        match route(&head, false) {
            Route::Upgrade => "upgrade".to_owned(),
            Route::Events => "events".to_owned(),
            Route::Api => "api".to_owned(),
            Route::Answered(response) => {
                std::str::from_utf8(&response.head[9..12]).unwrap().to_owned()
            }
        }
    }

    #[test]
    fn every_path_has_its_part() {
        assert_eq!(routed("GET /v1/connect?x=1"), "upgrade");
        assert_eq!(routed("GET /v1/events"), "events");
        assert_eq!(routed("POST /v1/auth/login"), "api");
        assert_eq!(routed("GET /v1/connected"), "api");
        assert_eq!(routed("GET /healthz"), "200");
        assert_eq!(routed("HEAD /healthz"), "200");
        assert_eq!(routed("POST /healthz"), "405");
        assert_eq!(routed("GET /nothing/here"), "404");
    }
}
