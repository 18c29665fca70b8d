//! The outcomes of what was asked of chatd and presenced.

use super::Shard;
use crate::close::Reason;
use crate::inbound::http::Refusal;
use crate::inbound::respond;
use crate::mail::{Answer, Asked};
use crate::outbound::payload::Handle;
use crate::recovery::beginning::is_beginning;
use proto::client::server_frame::Frame;
use proto::client::{Accepted, Error};
use proto::error::ErrorCode;
use proto::link::response::Response;
use proto::link::{HttpResult, SyncResult};

impl Shard {
    pub(super) fn take_answer(&mut self, answer: Answer) {
        let Answer { session, request_id, asked, outcome } = answer;
        // The session may have ended meanwhile.
        let Some(slot) = self.find(session) else { return };
        if asked == Asked::Http {
            return match outcome {
                Ok(Response::Http(result)) => self.respond(slot, result),
                Ok(_) => self.respond_error(slot, &mismatch()),
                Err(error) => self.respond_error(slot, &error),
            };
        }
        if asked != Asked::Typing
            && let Some(session) = self.table.session_mut(slot)
        {
            session.in_flight = session.in_flight.saturating_sub(1);
        }
        match (asked, outcome) {
            (Asked::Resume, Ok(Response::Sync(result))) => self.resumed(slot, request_id, result),
            (Asked::Resume, Ok(_)) => self.resume_failed(slot, request_id, mismatch()),
            (Asked::Resume, Err(error)) => self.resume_failed(slot, request_id, error),
            (Asked::PresenceRefresh, Err(_)) => {
                self.mark_presence_stale(slot);
            }
            (_, Err(error)) => self.reply_error(slot, request_id, error),
            (Asked::Send, Ok(Response::Sent(sent))) => {
                self.reply(slot, request_id, Frame::Sent(sent))
            }
            (Asked::Ack, Ok(Response::Accepted(_))) if request_id == 0 => {}
            (Asked::Ack, Ok(Response::Accepted(_))) => {
                self.reply(slot, request_id, Frame::Accepted(Accepted {}));
            }
            (Asked::Sync, Ok(Response::Sync(result))) => self.synced(slot, request_id, result),
            (Asked::PresenceAuthorize, Ok(Response::PresenceAuthorize(allowed))) => {
                self.authorized(slot, request_id, &allowed.user_ids);
            }
            (
                Asked::PresenceQuery | Asked::PresenceRefresh,
                Ok(Response::PresenceQuery(result)),
            ) => self.tell_presence(slot, request_id, result.states),
            (Asked::Typing, Ok(_)) => {}
            (_, Ok(_)) => self.reply_error(slot, request_id, mismatch()),
        }
        self.close_if_drained(slot);
    }

    fn respond(&mut self, slot: u32, result: HttpResult) {
        let Some(connection) = self.table.get_mut(slot) else { return };
        let response = connection
            .conn
            .respond(|is_head, keep_alive| respond::passed_on(result, is_head, keep_alive));
        self.write_response(slot, response);
    }

    pub(super) fn respond_error(&mut self, slot: u32, error: &Error) {
        let code = ErrorCode::parse(&error.code).unwrap_or(ErrorCode::Internal);
        let refusal = Refusal::new(code.http_status(), code, error.message.clone());
        let retry_s = error.retry_after_ms.div_ceil(1_000);
        let headers = if retry_s > 0 { respond::retry_after(retry_s) } else { String::new() };
        let Some(connection) = self.table.get_mut(slot) else { return };
        let response = connection
            .conn
            .respond(|_, keep_alive| respond::problem(&refusal, &headers, keep_alive));
        self.write_response(slot, response);
    }

    fn write_response(&mut self, slot: u32, response: Option<respond::Response>) {
        let Some(response) = response else { return };
        self.enqueue_raw(slot, response.head);
        if !response.body.is_empty() {
            self.enqueue_raw(slot, response.body);
        }
        self.follow_stage(slot);
    }

    fn resumed(&mut self, slot: u32, request_id: u64, result: SyncResult) {
        if self.backlog_bytes > self.settings.backlog_bytes_max {
            return self.resume_failed(slot, request_id, too_much_backlog());
        }
        let Some(session) = self.table.session_mut(slot) else { return };
        let (user, fresh) = (session.user, session.is_fresh_stream());
        let Some(catch_up) = session.catch_up() else { return };
        let before = catch_up.bytes();
        let SyncResult { mut pages, mut verdicts } = result;
        if fresh {
            pages.clear();
            catch_up.begin_at_the_end(&mut verdicts);
        }
        let payloads = &self.payloads;
        // A fresh stream wants nothing of what was before.
        let begins = |handle: &Handle| {
            fresh || payloads.frame(*handle).is_some_and(|frame| is_beginning(frame, &user))
        };
        let dropped = catch_up.resumed(request_id, pages, verdicts, begins);
        self.backlog_bytes += catch_up.bytes() - before;
        for handle in dropped {
            self.counts.lane(self.payloads.lane(handle)).shed.increment();
            self.payloads.release(handle);
        }
        self.mark_dirty(slot);
    }

    /// The session is live from here on; the client syncs again.
    pub(super) fn resume_failed(&mut self, slot: u32, request_id: u64, error: Error) {
        self.reply_error(slot, request_id, error);
        let Some(session) = self.table.session_mut(slot) else { return };
        if let Some(catch_up) = session.catch_up() {
            catch_up.resume_failed();
        }
        session.tidy();
        self.mark_dirty(slot);
        // A stream has no other way to ask: it comes again, with what it has.
        if self.table.get(slot).is_some_and(|it| it.conn.is_stream()) {
            self.close(slot, Reason::Overloaded, None);
        }
    }

    fn synced(&mut self, slot: u32, request_id: u64, result: SyncResult) {
        if self.backlog_bytes > self.settings.backlog_bytes_max {
            return self.reply_error(slot, request_id, too_much_backlog());
        }
        let Some(session) = self.table.session_mut(slot) else { return };
        let catch_up = session.extra().catch_up.get_or_insert_default();
        let before = catch_up.bytes();
        catch_up.synced(request_id, result.pages, result.verdicts);
        self.backlog_bytes += catch_up.bytes() - before;
        self.mark_dirty(slot);
    }
}

pub(super) fn mismatch() -> Error {
    ErrorCode::Internal.to_frame("the answer is of another kind than what was asked")
}

fn too_much_backlog() -> Error {
    ErrorCode::Overloaded.to_frame("too many sessions are catching up; sync later")
}
