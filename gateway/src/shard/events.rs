//! Streams of server-sent events: sessions that only listen.

use super::Shard;
use super::handover::Errand;
use super::table::Told;
use crate::inbound::token::Claims;
use crate::inbound::{events, respond};
use crate::limits::EVENTS_PER_ID;
use crate::mail::Delivery;
use bytes::Bytes;
use proto::client::Hello;
use proto::error::ErrorCode;

impl Shard {
    /// Begins a stream, or says why not with a status of HTTP.
    pub(super) fn stream(&mut self, slot: u32, request: events::Request) {
        let Some(token) = request.token else {
            let message = "a token is required: Authorization: Bearer TOKEN";
            return self.respond_error(slot, &ErrorCode::TokenMissing.to_frame(message));
        };
        let claims = match self.verifier.verify(&token, self.now.wall_s()) {
            Ok(claims) => claims,
            Err(error) => {
                let error = error.code().to_frame(error.to_string());
                return self.respond_error(slot, &error);
            }
        };
        let resume = request.cursors.is_some();
        let cursors = request.cursors.unwrap_or_default();
        let hello = Hello { resume, cursors, client: "events".to_owned(), ..Hello::default() };
        self.at_home(slot, Errand::Stream { claims, hello });
    }

    pub(super) fn stream_at_home(&mut self, slot: u32, claims: Claims, hello: Hello) {
        if let Some(error) = self.too_many_sessions(&claims.user) {
            return self.respond_error(slot, &error);
        }
        let Some(connection) = self.table.get_mut(slot) else { return };
        connection.conn.begin_stream();
        self.enqueue_raw(slot, Bytes::from_static(respond::EVENTS_HEAD.as_bytes()));
        self.begin(slot, 0, claims, hello);
    }

    /// From here on what the client has is remembered, for its next id.
    pub(super) fn remember_told(&mut self, slot: u32, fresh: bool) {
        if let Some(session) = self.table.session_mut(slot) {
            session.extra().told = Some(Told::new(fresh));
        }
    }

    /// An event of a conversation's log is on its way to the session.
    pub(super) fn note_told(&mut self, slot: u32, delivery: &Delivery) {
        if delivery.sequence_number > 0
            && let Some(told) = self.table.session_mut(slot).and_then(|it| it.told())
        {
            told.event(delivery.conversation, delivery.sequence_number);
        }
    }

    /// Not after every event: an id names all conversations.
    pub(super) fn tell_id_if_due(&mut self, slot: u32) {
        let Some(session) = self.table.session_mut(slot) else { return };
        if session.told().is_some_and(|told| told.events >= EVENTS_PER_ID) {
            self.tell_id(slot, "");
        }
    }

    /// The heartbeat: a comment, and the id if it has changed.
    pub(super) fn tell_that_we_are_here(&mut self, slot: u32) {
        self.tell_id(slot, ":\n\n");
    }

    /// While the session catches up, an id would claim what still waits.
    fn tell_id(&mut self, slot: u32, comment: &str) {
        let Some(session) = self.table.session_mut(slot) else { return };
        let waits = session.catch_up().is_some();
        let mut text = comment.to_owned();
        if let Some(told) = session.told().filter(|told| told.events > 0 && !waits) {
            text += &format!("id: {}\n\n", told.id());
            told.events = 0;
        }
        if !text.is_empty() {
            self.enqueue_raw(slot, text.into());
        }
    }
}
