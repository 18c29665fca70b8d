//! What each frame of a server means.

use super::log::Outcome;
use super::{Core, Open, Phase, TokenFailure};
use crate::limits::{
    GOAWAY_MS_MAX, HEARTBEAT_MS_DEFAULT, REFUSED_MS_MAX, RESUME_MS_MAX, SEND_RETRY_MS_MAX,
    TOKEN_MARGIN_MS, TOKEN_RETRY_MS,
};
use crate::update::{Delivery, Notice, Path, SendError, Update};
use proto::Uuid;
use proto::client::{
    Error, Event, Gap, Goaway, Sent, ServerFrame, SyncPage, Synced, TokenRefresh, Welcome,
    client_frame, event::Kind, server_frame::Frame,
};
use proto::error::ErrorCode;
use std::time::Duration;

impl Core {
    pub(super) fn frame(&mut self, frame: ServerFrame) {
        let request_id = frame.request_id;
        match (frame.frame, &self.phase) {
            (Some(Frame::Welcome(welcome)), Phase::Greeting { .. }) => self.welcome(welcome),
            (Some(Frame::Error(error)), Phase::Greeting { .. }) => self.refused(error),
            (Some(frame), Phase::Open(_)) => self.open_frame(request_id, frame),
            // A frame of a kind that a later server sends, or one that has no place here.
            _ => {}
        }
    }

    fn open_frame(&mut self, request_id: u64, frame: Frame) {
        match frame {
            Frame::Sent(sent) => self.sent(request_id, sent),
            Frame::Event(event) => self.event(request_id, event),
            Frame::Gap(gap) => self.gap(&gap),
            Frame::SyncPage(page) => self.page(page),
            Frame::Synced(synced) => self.synced(request_id, synced),
            Frame::Error(error) => self.error(request_id, error),
            Frame::Goaway(goaway) => self.goaway(goaway),
            Frame::Accepted(_) => {
                self.receipts.settle(request_id);
            }
            Frame::TokenAccepted(accepted) => self.token_accepted(accepted.expires_at_us),
            Frame::Watermark(told) => self.told_watermark(told.watermark),
            Frame::Welcome(_) => {}
        }
    }

    fn welcome(&mut self, welcome: Welcome) {
        let heartbeat = match welcome.heartbeat_interval_ms {
            0 => HEARTBEAT_MS_DEFAULT,
            told => u64::from(told),
        };
        let silence = self.config.silence_ms_max.unwrap_or(heartbeat.saturating_mul(2)).max(2);
        let clock_offset_us = i128::from(welcome.server_time_us) - us(self.now);
        let resuming = self.config.resume.then(|| self.now + Duration::from_millis(RESUME_MS_MAX));
        self.phase = Phase::Open(Box::new(Open {
            user: Uuid::from_slice(&welcome.user_id).unwrap_or_default(),
            resuming,
            heal: None,
            live_since: None,
            goaway_at: None,
            silence: Duration::from_millis(silence),
            pinged: false,
            clock_offset_us,
            refresh_at: None,
            refresh: None,
        }));
        if resuming.is_none() {
            self.logs.mark_all_stale();
        }
        self.watermark_next.clone_from(&welcome.watermark);
        self.plan_refresh(welcome.token_expires_at_us);
        self.notice(Notice::Welcomed(Box::new(welcome)));
        self.subscribe();
    }

    /// The hello was answered with an error. The server closes, and tells why; if it does not, this
    /// side closes soon.
    fn refused(&mut self, error: Error) {
        let token_is_why = matches!(
            ErrorCode::parse(&error.code),
            Some(ErrorCode::TokenMissing | ErrorCode::TokenInvalid | ErrorCode::TokenExpired)
        );
        self.fresh_token |= token_is_why;
        let hint = Duration::from_millis(u64::from(error.retry_after_ms).min(GOAWAY_MS_MAX));
        self.not_before = self.not_before.max(self.now + hint);
        let Error { code, message, retryable, .. } = error;
        self.notice(Notice::Refused { code, message, retryable });
        self.phase = Phase::Greeting { until: self.now + Duration::from_millis(REFUSED_MS_MAX) };
    }

    fn sent(&mut self, request_id: u64, sent: Sent) {
        if let Some(ticket) = self.outbox.settle(request_id) {
            self.settle(ticket, Ok(sent));
        }
    }

    fn event(&mut self, request_id: u64, event: Event) {
        let Phase::Open(open) = &self.phase else { return };
        let user = open.user;
        let conversation = Uuid::from_slice(&event.conversation_id).unwrap_or_default();
        if event.sequence_number == 0 {
            let delivery =
                Delivery { conversation, sequence_number: 0, path: Path::Live, request_id, event };
            self.actions.push(super::Action::Deliver(Update::Event(delivery)));
            return;
        }
        let traced = self.config.trace.then(|| (event.sequence_number, message_id(&event)));
        let outcome = self.logs.pushed(conversation, user, event);
        self.trace(conversation, traced, Path::Live, outcome.duplicate);
        self.hand_out(conversation, outcome);
    }

    fn page(&mut self, page: SyncPage) {
        let Ok(conversation) = Uuid::from_slice(&page.conversation_id) else { return };
        for event in page.events.into_iter().filter(|event| event.sequence_number > 0) {
            let traced = self.config.trace.then(|| (event.sequence_number, message_id(&event)));
            let outcome = self.logs.synced(conversation, event);
            self.trace(conversation, traced, Path::Sync, outcome.duplicate);
            self.hand_out(conversation, outcome);
        }
    }

    fn trace(
        &mut self,
        conversation: Uuid,
        traced: Option<(u64, Option<Uuid>)>,
        path: Path,
        duplicate: bool,
    ) {
        if let Some((sequence_number, message_id)) = traced {
            let notice =
                Notice::Received { conversation, sequence_number, message_id, path, duplicate };
            self.notice(notice);
        }
    }

    /// Gives the application what is ready.
    fn hand_out(&mut self, conversation: Uuid, outcome: Outcome) {
        if let Some((from, to)) = outcome.skipped {
            self.notice(Notice::Skipped { conversation, from, to });
        }
        let mut last = 0;
        for (event, path) in outcome.ready {
            last = event.sequence_number;
            let delivery =
                Delivery { conversation, sequence_number: last, path, request_id: 0, event };
            self.actions.push(super::Action::Deliver(Update::Event(delivery)));
        }
        if self.config.acknowledge && last > 0 {
            self.receipts.add(self.now, conversation, last, 0);
        }
    }

    /// All that lies before it has come, or is known to be missing.
    fn told_watermark(&mut self, watermark: Vec<u8>) {
        let Phase::Open(open) = &self.phase else { return };
        match open.live_since {
            None => self.watermark_next = watermark,
            Some(_) if self.logs.is_well() => self.watermark = watermark,
            Some(_) => {}
        }
    }

    fn gap(&mut self, gap: &Gap) {
        let Ok(conversation) = Uuid::from_slice(&gap.conversation_id) else { return };
        let (from, to) = (gap.from_sequence_number, gap.to_sequence_number);
        self.notice(Notice::Gap { conversation, from, to, reason: gap.reason.clone() });
        self.logs.gap(conversation, from, to);
    }

    fn synced(&mut self, request_id: u64, synced: Synced) {
        let Phase::Open(open) = &mut self.phase else { return };
        let mut asked = Vec::new();
        if open.heal.as_ref().is_some_and(|heal| heal.request_id == request_id) {
            asked = open.heal.take().map(|heal| heal.asked).unwrap_or_default();
        } else if request_id == self.hello {
            open.resuming = None;
        } else {
            return;
        }
        for verdict in &synced.verdicts {
            let Ok(id) = Uuid::from_slice(&verdict.conversation_id) else { continue };
            let position = asked.iter().position(|(asked, _)| *asked == id);
            let cursor = position.map(|position| asked.swap_remove(position).1);
            if verdict.reset {
                self.reset(id);
            } else {
                // What a question from beyond the end did not bring is not held against the server.
                let was_ahead = self.rewind(id, verdict.rewind_to_sequence_number);
                let cursor = cursor.filter(|_| !was_ahead);
                let outcome = self.logs.verdict(self.now, verdict, id, cursor, &mut self.rng);
                self.hand_out(id, outcome);
            }
        }
        let unanswered: Vec<Uuid> = asked.into_iter().map(|(id, _)| id).collect();
        self.logs.unanswered(self.now, &unanswered, &mut self.rng);
        self.notice(Notice::Synced { verdicts: synced.verdicts });
    }

    /// The server was set back to `to`, if that is not 0: what it says from there on is new.
    fn rewind(&mut self, conversation: Uuid, to: u64) -> bool {
        let rewound = (to > 0).then(|| self.logs.rewind(conversation, to)).flatten();
        if let Some(from) = rewound {
            self.notice(Notice::Rewound { conversation, from, to });
        }
        rewound.is_some()
    }

    fn reset(&mut self, conversation: Uuid) {
        if let Some(outcome) = self.logs.reset(conversation) {
            self.hand_out(conversation, outcome);
            self.notice(Notice::Reset { conversation });
        }
    }

    fn error(&mut self, request_id: u64, error: Error) {
        let Error { code, message, retryable, retry_after_ms } = error;
        // Whatever a token's error refuses is asked again once the token is fresh.
        let token = code.starts_with("token_");
        if retryable || token {
            if self.outbox.retry(self.now, request_id, retry_after_ms, &mut self.rng)
                || self.receipts.retry(self.now, request_id)
            {
                return;
            }
        } else if let Some(ticket) = self.outbox.settle(request_id) {
            return self.settle(ticket, Err(SendError::Refused { code, message }));
        } else if self.receipts.settle(request_id) {
            return;
        }
        self.notice(Notice::Trouble { request_id, code: code.clone(), message });
        if self.watching.as_ref().is_some_and(|(request, _)| *request == request_id) && retryable {
            self.watch_again_at = Some(self.now + Duration::from_millis(SEND_RETRY_MS_MAX));
        }
        let Phase::Open(open) = &mut self.phase else { return };
        if open.heal.as_ref().is_some_and(|heal| heal.request_id == request_id) {
            let asked = open.heal.take().map(|heal| heal.asked).unwrap_or_default();
            let ids: Vec<Uuid> = asked.into_iter().map(|(id, _)| id).collect();
            self.logs.unanswered(self.now, &ids, &mut self.rng);
        } else if open.refresh == Some(request_id) {
            open.refresh = None;
            open.refresh_at = Some(self.now + Duration::from_millis(TOKEN_RETRY_MS));
        } else if request_id == self.hello && open.resuming.is_some() {
            // Without the resume nobody knows what is missing.
            let hint = Duration::from_millis(u64::from(retry_after_ms).min(GOAWAY_MS_MAX));
            self.not_before = self.not_before.max(self.now + hint);
            self.hangup(1000, &code);
        }
    }

    fn goaway(&mut self, goaway: Goaway) {
        let delay_ms = u64::from(goaway.reconnect_delay_ms).min(GOAWAY_MS_MAX);
        if let Phase::Open(open) = &mut self.phase {
            open.goaway_at.get_or_insert(self.now + Duration::from_millis(delay_ms));
        }
        self.notice(Notice::Goaway { reason: goaway.reason, delay_ms });
    }

    pub(super) fn token(&mut self, token: Result<String, TokenFailure>) {
        let Phase::Open(_) = &self.phase else { return };
        match token {
            Ok(token) => {
                let request_id = self.next_request_id();
                if let Phase::Open(open) = &mut self.phase {
                    open.refresh = Some(request_id);
                }
                let frame = client_frame::Frame::TokenRefresh(TokenRefresh { token });
                self.write(request_id, frame);
            }
            Err(TokenFailure::Temporary(message)) => {
                if let Phase::Open(open) = &mut self.phase {
                    open.refresh_at = Some(self.now + Duration::from_millis(TOKEN_RETRY_MS));
                }
                let code = "token_unavailable".to_owned();
                self.notice(Notice::Trouble { request_id: 0, code, message });
            }
            // The session lives as long as its token; then the next attempt ends it.
            Err(TokenFailure::Final(message)) => {
                let code = ErrorCode::TokenInvalid.as_str().to_owned();
                self.notice(Notice::Trouble { request_id: 0, code, message });
            }
        }
    }

    fn token_accepted(&mut self, expires_at_us: u64) {
        if let Phase::Open(open) = &mut self.phase {
            open.refresh = None;
        }
        self.plan_refresh(expires_at_us);
        self.notice(Notice::TokenRefreshed { expires_at_us });
    }

    /// When the token is to be refreshed, by the server's clock (ours may be wrong).
    fn plan_refresh(&mut self, expires_at_us: u64) {
        let Phase::Open(open) = &mut self.phase else { return };
        open.refresh_at = None;
        if expires_at_us == 0 {
            return;
        }
        let server_now_us = us(self.now) + open.clock_offset_us;
        let left_ms = u64::try_from((i128::from(expires_at_us) - server_now_us) / 1_000);
        let left_ms = left_ms.unwrap_or(0);
        let wait_ms = (left_ms / 5 * 4).max(left_ms.saturating_sub(TOKEN_MARGIN_MS));
        let wait_ms = wait_ms.min(left_ms);
        open.refresh_at = Some(self.now + Duration::from_millis(wait_ms));
    }
}

fn us(time: Duration) -> i128 {
    i128::try_from(time.as_micros()).unwrap_or(i128::MAX)
}

fn message_id(event: &Event) -> Option<Uuid> {
    match &event.kind {
        Some(Kind::Message(message)) => Uuid::from_slice(&message.message_id).ok(),
        _ => None,
    }
}
