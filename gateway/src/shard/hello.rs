//! From hello to welcome: whose session it is, in which shard it lives, and the resume.

use super::Shard;
use super::frames::check_cursors;
use super::handover::Errand;
use super::table::{NO_SLOT, Session, Tick};
use crate::close::Reason;
use crate::conn::Offer;
use crate::inbound::token::{Claims, TokenError};
use crate::limits::{GAP_BUFFER_EVENTS_MAX, SESSION_RETRY_MS};
use crate::mail::{AskKind, Priority};
use crate::metrics::Lane;
use crate::outbound::payload::Tag;
use crate::recovery::catchup::Held;
use crate::recovery::recent::Missed;
use proto::Uuid;
use proto::client::server_frame::Frame;
use proto::client::{Error, Hello, TokenAccepted, Welcome};
use proto::error::ErrorCode;
use proto::limits::{CLIENT_FRAME_BYTES_MAX, SYNC_EVENTS_DEFAULT};

impl Shard {
    pub(super) fn hello(&mut self, slot: u32, request_id: u64, hello: Hello) {
        let Some(connection) = self.table.get_mut(slot) else { return };
        let offered = connection.conn.take_offer();
        let own = (!hello.token.is_empty()).then(|| Offer::Token(hello.token.clone()));
        let Some(offer) = own.or(offered) else {
            let message = "a token is required: in Authorization, in a bearer. subprotocol entry, or in hello";
            self.reply_error(slot, request_id, ErrorCode::TokenMissing.to_frame(message));
            return self.close(slot, Reason::Unauthenticated, None);
        };
        let outcome = match offer {
            Offer::Token(token) => self.verifier.verify(&token, self.now.wall_s()),
            Offer::Claims(claims) if claims.expires_at_s > self.now.wall_s() => Ok(claims),
            Offer::Claims(_) => Err(TokenError::Expired),
        };
        let claims = match outcome {
            Ok(claims) => claims,
            Err(error) => {
                let reason = match error {
                    TokenError::NoKeys => Reason::Overloaded,
                    TokenError::Expired => Reason::TokenExpired,
                    _ => Reason::Unauthenticated,
                };
                self.reply_error(slot, request_id, error.code().to_frame(error.to_string()));
                return self.close(slot, reason, None);
            }
        };
        self.at_home(slot, Errand::Session { claims, request_id, hello });
    }

    /// Begins the session, in its home shard.
    pub(super) fn begin(&mut self, slot: u32, request_id: u64, claims: Claims, hello: Hello) {
        let Claims { user, device, expires_at_s } = claims;
        if let Some(error) = self.too_many_sessions(&user) {
            self.reply_error(slot, request_id, error);
            return self.close(slot, Reason::UserLimited, None);
        }
        let token_due = self.token_tick(expires_at_s);
        let is_stream = self.table.get(slot).is_some_and(|it| it.conn.is_stream());
        let ping_ms = if is_stream { self.settings.events_ms } else { self.settings.ping_ms };
        let ping_due = Tick::grouped(self.now, ping_ms);
        let Some(connection) = self.table.get_mut(slot) else { return };
        let number = connection.generation;
        let session = Session { user, device, next_of_user: NO_SLOT, in_flight: 0, extra: None };
        connection.session = Some(session);
        connection.deadlines.token = token_due;
        connection.deadlines.ping = ping_due;
        connection.conn.go_on();
        connection.kick = connection.conn.has_stash();
        self.registry.add(&mut self.table, slot);
        self.inbox.arrived(&user);
        self.follow_stage(slot);
        self.arm(slot);
        self.mark_ready(slot);
        self.beyond.connected(user, device, self.connection_number(number));
        let session_id = proto::id::new();
        tracing::debug!(shard = self.id, %session_id, user_id = %user, device_id = %device, client = hello.client, "session began");
        let welcome = Welcome {
            session_id: session_id.as_bytes().to_vec(),
            user_id: user.as_bytes().to_vec(),
            device_id: device.as_bytes().to_vec(),
            gateway_id: self.settings.instance.clone(),
            server_time_us: self.now.wall_us,
            heartbeat_interval_ms: u32::try_from(ping_ms).unwrap_or(u32::MAX),
            frame_bytes_max: u32::try_from(CLIENT_FRAME_BYTES_MAX).unwrap_or(u32::MAX),
            watermark: self.recent.watermark(),
            token_expires_at_us: expires_at_s.saturating_mul(1_000_000),
        };
        self.reply(slot, request_id, Frame::Welcome(welcome));
        if self.drain_until_ms.is_some() {
            return self.say_goaway(slot);
        }
        if is_stream {
            self.remember_told(slot, !hello.resume);
            self.resume(slot, request_id, hello);
        } else if hello.resume {
            self.resume(slot, request_id, hello);
        }
    }

    /// Why the user may have no further session, if so. All of a user's sessions are here, in its home shard.
    pub(super) fn too_many_sessions(&self, user: &Uuid) -> Option<Error> {
        let max = self.settings.sessions_per_user_max;
        let mut slot = self.registry.first(&self.table, user);
        for _ in 0..max {
            slot = self.table.session(slot)?.next_of_user;
        }
        (max > 0).then(|| {
            let message = format!("at most {max} sessions of one user are allowed; close one");
            let mut error = ErrorCode::TooManyRequests.to_frame(message);
            error.retry_after_ms = SESSION_RETRY_MS;
            error
        })
    }

    /// Live events wait from here on, until chatd has answered.
    fn resume(&mut self, slot: u32, request_id: u64, hello: Hello) {
        let refused = match check_cursors(&hello.cursors) {
            Err(error) => Some(error),
            Ok(()) if self.backlog_bytes > self.settings.backlog_bytes_max => Some(
                ErrorCode::Overloaded.to_frame("too many sessions are catching up; sync later"),
            ),
            Ok(()) => None,
        };
        if let Some(error) = refused {
            return self.reply_error(slot, request_id, error);
        }
        let Some(session) = self.table.session_mut(slot) else { return };
        session.extra().catch_up.get_or_insert_default().begin_resume();
        // Of what a new stream does not want, the least.
        let limit = if session.is_fresh_stream() { 1 } else { SYNC_EVENTS_DEFAULT };
        if self.resume_from_cache(slot, request_id, &hello) {
            return self.counts.resumes_from_cache.increment();
        }
        self.counts.resumes_from_chatd.increment();
        let kind = AskKind::Sync { resume: true, cursors: hello.cursors, limit };
        if let Err(error) = self.ask(slot, request_id, kind) {
            self.resume_failed(slot, request_id, error);
        }
    }

    /// Answers a device that was away briefly: what it has missed waits as if it came now, and the
    /// verdicts say that this is all.
    fn resume_from_cache(&mut self, slot: u32, request_id: u64, hello: &Hello) -> bool {
        let Some(session) = self.table.session_mut(slot) else { return false };
        let since = self.recent.since(
            &session.user,
            &hello.watermark,
            &hello.cursors,
            GAP_BUFFER_EVENTS_MAX,
        );
        let Some((missed, verdicts)) = since else { return false };
        let Some(catch_up) = session.catch_up() else { return false };
        for Missed { conversation, sequence_number, frame } in missed {
            let (priority, lane) = (Priority::Normal, Lane::NONE);
            let tag = Tag { conversation, sequence_number, priority, lane };
            let handle = self.payloads.add_event(frame, 0, tag);
            if let Held::Waits(Some(handle)) | Held::Refused(handle) | Held::Free(handle) =
                catch_up.hold(conversation, sequence_number, handle)
            {
                self.payloads.release(handle);
            }
        }
        let before = catch_up.bytes();
        // The cache's verdicts name every conversation of which something waits.
        for handle in catch_up.resumed(request_id, Vec::new(), verdicts, |_| false) {
            self.payloads.release(handle);
        }
        self.backlog_bytes += catch_up.bytes() - before;
        self.mark_dirty(slot);
        true
    }

    pub(super) fn refresh_token(&mut self, slot: u32, request_id: u64, token: &str) {
        let outcome = self.verifier.verify(token, self.now.wall_s());
        let Some(session) = self.table.session(slot) else { return };
        let error = match outcome {
            Ok(claims) if claims.user == session.user && claims.device == session.device => {
                let due = self.token_tick(claims.expires_at_s);
                if let Some(connection) = self.table.get_mut(slot) {
                    connection.deadlines.token = due;
                }
                self.arm(slot);
                let expires_at_us = claims.expires_at_s.saturating_mul(1_000_000);
                let accepted = TokenAccepted { expires_at_us };
                return self.reply(slot, request_id, Frame::TokenAccepted(accepted));
            }
            Ok(_) => ErrorCode::TokenInvalid
                .to_frame("the token is for another user or device than the session's"),
            Err(error) => error.code().to_frame(error.to_string()),
        };
        self.reply_error(slot, request_id, error);
    }

    fn token_tick(&self, expires_at_s: u64) -> Tick {
        let left_us = expires_at_s.saturating_mul(1_000_000).saturating_sub(self.now.wall_us);
        Tick::after(self.now, left_us.div_ceil(1_000))
    }
}
