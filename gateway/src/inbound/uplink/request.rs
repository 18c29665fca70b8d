//! From what a session asks to the link's request, pure.

use crate::limits::{
    ACK_MS_MAX, AUDIENCE_LOOKUP_MS_MAX, HTTP_MS_MAX, PRESENCE_LOOKUP_MS_MAX, SEND_MS_MAX,
    SYNC_MS_MAX,
};
use crate::mail::{Ask, AskKind, Asked, SessionRef};
use proto::link::request::Request;
use proto::link::{Ack, Audience, PresenceAuthorize, PresenceQuery, Send, Sync};
use proto::{Uuid, id};
use std::time::Duration;

/// Whom a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    Chatd,
    Presenced,
}

/// A session's request that is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pending {
    pub(super) session: SessionRef,
    pub(super) request_id: u64,
    pub(super) asked: Asked,
    pub(super) peer: Peer,
    pub(super) deadline: Duration,
}

/// The request, and its trace context.
pub(super) fn of(ask: Ask) -> (Pending, Request, String) {
    let Ask { session, request_id, user, device, traceparent, kind } = ask;
    let (user_id, device_id) = (user.as_bytes().to_vec(), device.as_bytes().to_vec());
    let (asked, deadline_ms, request) = match kind {
        AskKind::Send(send) => {
            let send = Send { sender_id: user_id, device_id, send: Some(send) };
            (Asked::Send, SEND_MS_MAX, Request::Send(send))
        }
        AskKind::Sync { resume, cursors, limit } => {
            let asked = if resume { Asked::Resume } else { Asked::Sync };
            (asked, SYNC_MS_MAX, Request::Sync(Sync { user_id, resume, cursors, limit }))
        }
        AskKind::Ack(ack) => {
            (Asked::Ack, ACK_MS_MAX, Request::Ack(Ack { user_id, device_id, ack: Some(ack) }))
        }
        AskKind::Typing(typing) => {
            let audience = Audience { user_id, conversation_id: typing.conversation_id };
            (Asked::Typing, AUDIENCE_LOOKUP_MS_MAX, Request::Audience(audience))
        }
        AskKind::PresenceAuthorize(users) => {
            let authorize = PresenceAuthorize { user_id, user_ids: id::pack(&users) };
            (
                Asked::PresenceAuthorize,
                PRESENCE_LOOKUP_MS_MAX,
                Request::PresenceAuthorize(authorize),
            )
        }
        AskKind::PresenceQuery(users) => presence(Asked::PresenceQuery, &users),
        AskKind::PresenceRefresh(users) => presence(Asked::PresenceRefresh, &users),
        AskKind::Http(http) => (Asked::Http, HTTP_MS_MAX, Request::Http(http)),
    };
    let peer = match asked {
        Asked::PresenceQuery | Asked::PresenceRefresh => Peer::Presenced,
        _ => Peer::Chatd,
    };
    let deadline = Duration::from_millis(deadline_ms);
    (Pending { session, request_id, asked, peer, deadline }, request, traceparent)
}

fn presence(asked: Asked, users: &[Uuid]) -> (Asked, u64, Request) {
    let query = PresenceQuery { user_ids: id::pack(users) };
    (asked, PRESENCE_LOOKUP_MS_MAX, Request::PresenceQuery(query))
}
