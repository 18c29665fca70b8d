//! Typing: checked against the conversation's audience, and published as an ephemeral event to
//! everybody in it but the one who types. It may be lost, and it costs chatd one lookup for each
//! conversation and ten seconds. A conversation of more members than a record can name is not told.

use super::answer::{self, Failure};
use super::request::{Peer, Pending};
use crate::audience::{Audience, Audiences, Found};
use crate::limits::{
    AUDIENCE_LOOKUP_MS_MAX, TYPING_PER_WINDOW_MAX, TYPING_SESSIONS_MAX, TYPING_WINDOW_MS,
};
use crate::mail::{Ask, Asked, SessionRef};
use crate::outbound::publish::Publisher;
use daemon::link::LinkError;
use proto::Message;
use proto::Uuid;
use proto::client::{Error, Event, ServerFrame, TypingChanged, event, server_frame};
use proto::error::ErrorCode;
use proto::headers::{SCHEMA_VERSION_NOW, event_type};
use proto::link::request::Request;
use proto::link::response::Response;
use proto::record::{Priority, RecordHeaders};
use std::collections::HashMap;
use std::time::Duration;

pub(super) const LOOKUP_DEADLINE: Duration = Duration::from_millis(AUDIENCE_LOOKUP_MS_MAX);

/// Who types, while the audience is looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TypingSession {
    pub(super) session: SessionRef,
    pub(super) request_id: u64,
    user: Uuid,
    active: bool,
    traceparent: String,
}

impl TypingSession {
    pub(super) fn of(ask: &Ask) -> Self {
        let active = matches!(&ask.kind, crate::mail::AskKind::Typing(notice) if notice.active);
        Self {
            session: ask.session,
            request_id: ask.request_id,
            user: ask.user,
            active,
            traceparent: ask.traceparent.clone(),
        }
    }

    /// For tests of those who share the audiences.
    #[cfg(test)]
    pub(crate) fn example(user: Uuid) -> Self {
        let session = SessionRef { shard: 0, slot: 0, generation: 0 };
        Self { session, request_id: 0, user, active: true, traceparent: String::new() }
    }

    fn pending(&self) -> Pending {
        Pending {
            session: self.session,
            request_id: self.request_id,
            asked: Asked::Typing,
            peer: Peer::Chatd,
            deadline: LOOKUP_DEADLINE,
        }
    }
}

pub(super) struct Typing {
    audiences: Audiences<TypingSession>,
    publisher: Publisher,
}

impl Typing {
    pub(super) fn new(audiences: Audiences<TypingSession>, publisher: Publisher) -> Self {
        Self { audiences, publisher }
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.audiences.now_ms()
    }

    /// Publishes at once if the audience is known, else returns the lookup that is to be asked,
    /// unless it has been asked already.
    pub(super) fn notice(
        &self,
        ask: &Ask,
        notice: &proto::client::Typing,
    ) -> Result<Option<(Uuid, Request)>, Error> {
        let conversation = proto::id::from_field("conversation_id", &notice.conversation_id)
            .map_err(|error| ErrorCode::InvalidArgument.to_frame(error.to_string()))?;
        let now_ms = self.now_ms();
        let found =
            self.audiences.lock().find(conversation, ask.user, TypingSession::of(ask), now_ms);
        match found {
            Found::Known(who, audience) => {
                self.publish(conversation, &who, &audience).map(|()| None)
            }
            Found::Wait => Ok(None),
            Found::Full(_) => Err(super::refusal()),
            Found::Ask => {
                let user_id = ask.user.as_bytes().to_vec();
                let conversation_id = conversation.as_bytes().to_vec();
                let lookup = proto::link::Audience { user_id, conversation_id };
                Ok(Some((conversation, Request::Audience(lookup))))
            }
        }
    }

    /// The outcome of a lookup: publishes for those who waited, and returns who is refused and why.
    pub(super) fn audience(
        &self,
        conversation: Uuid,
        user: Uuid,
        outcome: Result<Response, LinkError>,
    ) -> Vec<(TypingSession, Error)> {
        let members = match outcome {
            Ok(Response::Audience(found)) => proto::id::unpack("user_ids", &found.user_ids)
                .map(|users| Audience::new(&users.collect::<Vec<_>>(), found.is_large))
                .map_err(|error| Refusal::Told(ErrorCode::Internal.to_frame(error.to_string()))),
            Ok(Response::Error(error)) => Err(Refusal::Told(error)),
            Ok(_) => Err(Refusal::Told(ErrorCode::Internal.to_frame("an answer of another kind"))),
            Err(error) => Err(Refusal::NotAnswered(error)),
        };
        let (members, refusal) = match members {
            Ok(audience) => (Some(audience), None),
            Err(refusal) => (None, Some(refusal)),
        };
        let now_ms = self.now_ms();
        let (waiting, audience) =
            self.audiences.lock().answered(conversation, user, members, now_ms);
        let mut refused = Vec::new();
        for who in waiting {
            let outcome = match (&audience, &refusal) {
                (Some(audience), _) => self.publish(conversation, &who, audience),
                (None, Some(Refusal::Told(error))) => Err(error.clone()),
                (None, Some(Refusal::NotAnswered(error))) => {
                    Err(answer::failure(&who.pending(), Failure::NotAnswered(*error)))
                }
                (None, None) => Ok(()),
            };
            if let Err(error) = outcome {
                refused.push((who, error));
            }
        }
        refused
    }

    fn publish(
        &self,
        conversation: Uuid,
        who: &TypingSession,
        audience: &Audience,
    ) -> Result<(), Error> {
        if audience.is_large() {
            return Ok(());
        }
        if !audience.contains(&who.user) {
            let message = "there is no such conversation, or you are no member of it";
            return Err(ErrorCode::NotAMember.to_frame(message));
        }
        let created_at_us = daemon::clock::now_us();
        let headers = RecordHeaders {
            event_type: event_type::TYPING.to_owned(),
            schema_version: SCHEMA_VERSION_NOW,
            created_at_us,
            traceparent: who.traceparent.clone(),
            priority: Priority::Ephemeral.into(),
            sequence_number: 0,
            recipients: audience.pack_without(&who.user),
            member_count: 0,
        };
        if !headers.recipients.is_empty() {
            let frame = frame(conversation, who, created_at_us);
            self.publisher.ephemeral(&conversation, &frame, &headers);
        }
        Ok(())
    }
}

enum Refusal {
    Told(Error),
    NotAnswered(LinkError),
}

fn frame(conversation: Uuid, who: &TypingSession, created_at_us: u64) -> Vec<u8> {
    let event = Event {
        conversation_id: conversation.as_bytes().to_vec(),
        sequence_number: 0,
        created_at_us,
        sender_id: who.user.as_bytes().to_vec(),
        kind: Some(event::Kind::TypingChanged(TypingChanged { active: who.active })),
    };
    let frame = Some(server_frame::Frame::Event(event));
    ServerFrame { request_id: 0, frame }.encode_to_vec()
}

/// Counts typing notices of each session in windows of fixed length.
#[derive(Default)]
pub(super) struct Limiter {
    window: u64,
    counts: HashMap<SessionRef, u32>,
}

impl Limiter {
    pub(super) fn admit(&mut self, session: SessionRef, now_ms: u64) -> Result<(), Error> {
        let window = now_ms / TYPING_WINDOW_MS;
        if window != self.window {
            self.window = window;
            self.counts.clear();
        }
        if self.counts.len() >= TYPING_SESSIONS_MAX && !self.counts.contains_key(&session) {
            return Err(super::refusal());
        }
        let count = self.counts.entry(session).or_insert(0);
        *count += 1;
        if *count <= TYPING_PER_WINDOW_MAX {
            return Ok(());
        }
        let message = format!(
            "too many typing frames; {TYPING_PER_WINDOW_MAX} in {} s are allowed",
            TYPING_WINDOW_MS / 1_000
        );
        let mut error = ErrorCode::TooManyRequests.to_frame(message);
        let left_ms = TYPING_WINDOW_MS - now_ms % TYPING_WINDOW_MS;
        error.retry_after_ms = u32::try_from(left_ms).unwrap_or(u32::MAX);
        Err(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(slot: u32) -> SessionRef {
        SessionRef { shard: 0, slot, generation: 1 }
    }

    #[test]
    fn a_session_that_types_too_much_is_told_until_the_window_ends() {
        let mut limiter = Limiter::default();
        for _ in 0..TYPING_PER_WINDOW_MAX {
            limiter.admit(session(1), 10).unwrap();
        }
        let error = limiter.admit(session(1), 10).unwrap_err();
        assert_eq!(error.code, "too_many_requests");
        assert_eq!(u64::from(error.retry_after_ms), TYPING_WINDOW_MS - 10);
        limiter.admit(session(2), 10).unwrap();
        limiter.admit(session(1), TYPING_WINDOW_MS).unwrap();
    }

    #[test]
    fn the_table_of_typing_sessions_is_bounded() {
        let mut limiter = Limiter::default();
        for slot in 0..u32::try_from(TYPING_SESSIONS_MAX).unwrap() {
            limiter.admit(session(slot), 0).unwrap();
        }
        assert_eq!(limiter.admit(session(u32::MAX), 0).unwrap_err().code, "overloaded");
        limiter.admit(session(0), 0).unwrap();
    }
}
