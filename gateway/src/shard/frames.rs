//! Frames of the client protocol: checked, and asked of chatd or presenced.

use super::Shard;
use super::read::new_traceparent;
use crate::close::Reason;
use crate::limits::IN_FLIGHT_MAX;
use crate::mail::{Ask, AskKind, Priority};
use proto::Uuid;
use proto::client::client_frame::Frame;
use proto::client::server_frame::Frame as ServerFrameKind;
use proto::client::{self, ClientFrame, Error, ServerFrame};
use proto::error::ErrorCode;
use proto::limits::{
    CURSORS_MAX, IDEMPOTENCY_KEY_BYTES_MAX, MESSAGE_TEXT_BYTES_MAX, PRESENCE_USERS_MAX,
    SYNC_EVENTS_MAX,
};

impl Shard {
    pub(super) fn take_frame(&mut self, slot: u32, frame: ClientFrame) {
        self.counts.frames_received.increment();
        let ClientFrame { request_id, frame } = frame;
        if let Err(error) = self.check_rate(slot) {
            let now = self.now;
            if self.table.get_mut(slot).is_some_and(|it| it.conn.refusals_flood(now)) {
                return self.close(slot, Reason::Flood, None);
            }
            return self.reply_error(slot, request_id, error);
        }
        let asked = match frame {
            Some(Frame::Hello(hello)) => return self.hello(slot, request_id, hello),
            Some(Frame::TokenRefresh(refresh)) => {
                return self.refresh_token(slot, request_id, &refresh.token);
            }
            Some(Frame::PresenceSubscribe(subscribe)) => match users(&subscribe) {
                Ok(users) if users.is_empty() => return self.watch(slot, Vec::new()),
                Ok(users) => Ok(AskKind::PresenceAuthorize(users)),
                Err(error) => Err(error),
            },
            Some(Frame::Send(send)) => check_send(&send).map(|()| AskKind::Send(send)),
            Some(Frame::Ack(ack)) => {
                id("conversation_id", &ack.conversation_id).map(|_| AskKind::Ack(ack))
            }
            Some(Frame::Typing(typing)) => {
                id("conversation_id", &typing.conversation_id).map(|_| AskKind::Typing(typing))
            }
            Some(Frame::Sync(sync)) => check_cursors(&sync.cursors).map(|()| {
                let limit = sync.limit.min(SYNC_EVENTS_MAX);
                AskKind::Sync { resume: false, cursors: sync.cursors, limit }
            }),
            None => return,
        };
        if let Err(error) = asked.and_then(|kind| self.ask(slot, request_id, kind)) {
            self.reply_error(slot, request_id, error);
        }
    }

    /// Before its hello a connection is nobody's, and has its address's limits.
    fn check_rate(&self, slot: u32) -> Result<(), Error> {
        let Some(session) = self.table.session(slot) else { return Ok(()) };
        let retry = match self.settings.limits.frame(&session.user, self.now.since_start_us()) {
            Ok(()) => return Ok(()),
            Err(retry) => retry,
        };
        self.counts.frames_limited.increment();
        let mut error = ErrorCode::TooManyRequests.to_frame("too many frames of one user");
        error.retry_after_ms = u32::try_from(retry.0).unwrap_or(u32::MAX);
        Err(error)
    }

    /// Asks for the session in the slot; an error is for the client.
    pub(super) fn ask(&mut self, slot: u32, request_id: u64, kind: AskKind) -> Result<(), Error> {
        let Some(session_ref) = self.session_ref(slot) else { return Ok(()) };
        let Some(session) = self.table.session_mut(slot) else { return Ok(()) };
        // Typing is answered only when it is refused.
        let answered = !matches!(kind, AskKind::Typing(_));
        if answered && session.in_flight >= IN_FLIGHT_MAX {
            self.counts.asks_refused.increment();
            let message = format!("at most {IN_FLIGHT_MAX} requests may be unanswered");
            return Err(ErrorCode::Overloaded.to_frame(message));
        }
        let ask = Ask {
            session: session_ref,
            request_id,
            user: session.user,
            device: session.device,
            traceparent: new_traceparent(),
            kind,
        };
        if self.beyond.ask(ask).is_err() {
            self.counts.asks_refused.increment();
            return Err(ErrorCode::Overloaded.to_frame("the gateway's queue is full; try again"));
        }
        session.in_flight += u8::from(answered);
        Ok(())
    }

    pub(super) fn reply(&mut self, slot: u32, request_id: u64, frame: ServerFrameKind) {
        let Some(connection) = self.table.get(slot) else { return };
        let frame = ServerFrame { request_id, frame: Some(frame) };
        let handle = self.payloads.add_reply(&frame, connection.conn.encoding());
        self.enqueue(slot, handle, Priority::High);
        self.payloads.release(handle);
    }

    pub(super) fn reply_error(&mut self, slot: u32, request_id: u64, error: Error) {
        self.reply(slot, request_id, ServerFrameKind::Error(error));
    }
}

fn id(field: &'static str, bytes: &[u8]) -> Result<Uuid, Error> {
    proto::id::from_field(field, bytes)
        .map_err(|error| ErrorCode::InvalidArgument.to_frame(error.to_string()))
}

fn check_send(send: &client::Send) -> Result<(), Error> {
    id("conversation_id", &send.conversation_id)?;
    let (text, key) = (send.text.len(), send.idempotency_key.len());
    if key == 0 {
        let message = format!("idempotency_key must have 1 to {IDEMPOTENCY_KEY_BYTES_MAX} bytes");
        return Err(ErrorCode::IdempotencyKeyMissing.to_frame(message));
    }
    if key > IDEMPOTENCY_KEY_BYTES_MAX {
        let message = format!(
            "idempotency_key has {key} bytes; 1 to {IDEMPOTENCY_KEY_BYTES_MAX} are allowed"
        );
        return Err(ErrorCode::InvalidArgument.to_frame(message));
    }
    if text > MESSAGE_TEXT_BYTES_MAX {
        let message =
            format!("text has {text} bytes; at most {MESSAGE_TEXT_BYTES_MAX} are allowed");
        return Err(ErrorCode::MessageTooLong.to_frame(message));
    }
    Ok(())
}

pub(super) fn check_cursors(cursors: &[client::Cursor]) -> Result<(), Error> {
    if cursors.len() > CURSORS_MAX {
        let message = format!("{} cursors; at most {CURSORS_MAX} are allowed", cursors.len());
        return Err(ErrorCode::InvalidArgument.to_frame(message));
    }
    cursors.iter().try_for_each(|it| id("conversation_id", &it.conversation_id).map(drop))
}

fn users(subscribe: &client::PresenceSubscribe) -> Result<Vec<Uuid>, Error> {
    let count = subscribe.user_ids.len();
    if count > PRESENCE_USERS_MAX {
        let message = format!("{count} user_ids; at most {PRESENCE_USERS_MAX} are allowed");
        return Err(ErrorCode::InvalidArgument.to_frame(message));
    }
    let mut users: Vec<_> =
        subscribe.user_ids.iter().map(|it| id("user_ids", it)).collect::<Result<_, _>>()?;
    users.sort_unstable();
    users.dedup();
    Ok(users)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(key: usize, text: usize) -> Option<String> {
        let send = client::Send {
            conversation_id: vec![1; 16],
            idempotency_key: "k".repeat(key),
            text: "t".repeat(text),
        };
        check_send(&send).err().map(|error| error.code)
    }

    #[test]
    fn a_send_has_its_limits() {
        assert_eq!(send(1, 0), None);
        assert_eq!(send(IDEMPOTENCY_KEY_BYTES_MAX, MESSAGE_TEXT_BYTES_MAX), None);
        assert_eq!(send(0, 1).as_deref(), Some("idempotency_key_missing"));
        assert_eq!(send(IDEMPOTENCY_KEY_BYTES_MAX + 1, 1).as_deref(), Some("invalid_argument"));
        assert_eq!(send(1, MESSAGE_TEXT_BYTES_MAX + 1).as_deref(), Some("message_too_long"));
    }

    #[test]
    fn users_are_named_once_each() {
        let subscribe = |ids: &[&[u8]]| client::PresenceSubscribe {
            user_ids: ids.iter().map(|it| it.to_vec()).collect(),
        };
        assert_eq!(users(&subscribe(&[&[2; 16], &[1; 16], &[2; 16]])).unwrap().len(), 2);
        assert_eq!(users(&subscribe(&[&[2; 15]])).unwrap_err().code, "invalid_argument");
    }
}
