//! The HTTP part of a connection: one request at a time.

use super::{Effect, Lent, Next, Pause, Socket, Stage};
use crate::close::Reason;
use crate::inbound::events;
use crate::inbound::http::{self, Head, Refusal};
use crate::inbound::respond::{self, Response};
use crate::inbound::route::{self, Route};
use crate::inbound::upgrade;
use crate::limits::{HEAD_BYTES_MAX, HEADERS_MAX};
use bytes::Bytes;
use std::net::IpAddr;

pub(super) struct Http {
    peer: IpAddr,
    /// So many bytes of what is stashed hold no end of a head.
    scanned: usize,
    /// Bytes of the request under way, head and body; 0 while the head is not whole.
    expected: usize,
    is_head: bool,
    keep_alive: bool,
    /// A request was answered on this connection.
    answered: bool,
}

impl Http {
    pub(super) fn new(peer: IpAddr) -> Self {
        Self { peer, scanned: 0, expected: 0, is_head: false, keep_alive: true, answered: false }
    }

    /// Takes a whole request, or nothing.
    pub(super) fn take(&mut self, bytes: &[u8], lent: &mut Lent<'_>) -> (usize, Next) {
        if bytes.len() < self.expected {
            return (0, Next::Stay);
        }
        if self.expected == 0
            && bytes.len() < HEAD_BYTES_MAX
            && !http::has_head(bytes, self.scanned)
        {
            self.scanned = bytes.len();
            return (0, Next::Stay);
        }
        let mut room = [httparse::EMPTY_HEADER; HEADERS_MAX];
        match http::parse(bytes, &mut room) {
            Ok(None) => {
                self.scanned = bytes.len();
                (0, Next::Stay)
            }
            Ok(Some(head)) if bytes.len() < head.bytes + head.body_bytes => {
                if head.expects_continue && self.expected == 0 {
                    lent.effects.push(Effect::Write(Bytes::from_static(respond::CONTINUE)));
                }
                self.expected = head.bytes + head.body_bytes;
                (0, Next::Stay)
            }
            Ok(Some(head)) => {
                let whole = head.bytes + head.body_bytes;
                (whole, self.request(&head, &bytes[head.bytes..whole], lent))
            }
            Err(refusal) => (bytes.len(), refuse(&refusal, "", lent)),
        }
    }

    fn request(&mut self, head: &Head<'_, '_>, body: &[u8], lent: &mut Lent<'_>) -> Next {
        (self.scanned, self.expected) = (0, 0);
        self.keep_alive = head.keep_alive;
        self.is_head = head.method == "HEAD";
        let client = lent.policy.proxies.client(self.peer, head);
        if let Err(retry) = lent.limits.request(client, lent.now.since_start_us()) {
            write(respond::too_many_requests(retry, head.keep_alive), lent);
            return Next::Pause(Pause::Written);
        }
        match route::route(head, lent.policy.echo) {
            Route::Answered(response) => {
                // As the response says.
                self.keep_alive &= !response.closes();
                write(response, lent);
                Next::Pause(Pause::Written)
            }
            Route::Api => {
                lent.effects.push(Effect::Ask(Box::new(route::to_link(head, body, client))));
                Next::Pause(Pause::Answer)
            }
            Route::Upgrade => upgraded(head, lent),
            Route::Events => match events::request(head, &lent.policy.origins) {
                Ok(request) => {
                    lent.effects.push(Effect::Stream(Box::new(request)));
                    Next::Pause(Pause::Answer)
                }
                Err(refusal) => refuse(&refusal, "", lent),
            },
        }
    }

    /// The response is written; says whether another request may follow.
    pub(super) fn finish(&mut self) -> bool {
        self.answered = true;
        self.keep_alive
    }

    pub(super) fn is_head(&self) -> bool {
        self.is_head
    }

    pub(super) fn keeps_alive(&self) -> bool {
        self.keep_alive
    }

    pub(super) fn stage(&self, has_bytes: bool) -> Stage {
        match (self.expected, self.answered && !has_bytes) {
            (0, true) => Stage::KeepAlive,
            (0, false) => Stage::Head,
            _ => Stage::Body,
        }
    }
}

fn upgraded(head: &Head<'_, '_>, lent: &mut Lent<'_>) -> Next {
    match upgrade::negotiate(head, &lent.policy.origins, lent.policy.deflate) {
        Ok(mut upgrade) => {
            if upgrade.reads_status && !lent.policy.echo {
                lent.effects.push(Effect::Upgrade(Box::new(upgrade)));
                return Next::Pause(Pause::Answer);
            }
            let response = std::mem::take(&mut upgrade.response);
            lent.effects.push(Effect::Write(response.into()));
            Next::Upgrade(upgrade.encoding, Socket::new(upgrade, None, lent.policy.echo))
        }
        Err(refusal) => {
            let headers = "upgrade: websocket\r\nsec-websocket-version: 13\r\n";
            refuse(&refusal, if refusal.status == 426 { headers } else { "" }, lent)
        }
    }
}

fn write(response: Response, lent: &mut Lent<'_>) {
    lent.effects.push(Effect::Write(response.head));
    if !response.body.is_empty() {
        lent.effects.push(Effect::Write(response.body));
    }
}

fn refuse(refusal: &Refusal, headers: &str, lent: &mut Lent<'_>) -> Next {
    let headers = if refusal.status == 405 { "allow: GET\r\n" } else { headers };
    write(respond::problem(refusal, headers, false), lent);
    lent.effects.push(Effect::Close(Reason::HttpRefused, None));
    Next::Close
}
