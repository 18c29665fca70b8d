//! What is due: timers, and what waits to be written.

use super::{Action, Core, Heal, Phase, to_cursor};
use crate::limits::{HEAL_ANSWER_MS_MAX, TOKEN_RETRY_MS};
use crate::update::Notice;
use proto::client::{Sync, client_frame::Frame};
use proto::limits::SYNC_EVENTS_DEFAULT;
use std::time::Duration;

impl Core {
    /// When to step with a tick at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        let own = match &self.phase {
            Phase::Waiting { until } | Phase::Dialing { until } | Phase::Greeting { until } => {
                return Some(*until);
            }
            Phase::Ended => return None,
            Phase::Open(open) => open,
        };
        let silence = if own.pinged { own.silence } else { own.silence / 2 };
        let healing = match (&own.heal, own.resuming) {
            (Some(heal), _) => Some(heal.until),
            (None, Some(until)) => Some(until),
            (None, None) => self.logs.heal_deadline(),
        };
        [
            Some(self.last_bytes + silence),
            healing,
            own.goaway_at,
            own.refresh_at,
            self.watch_again_at,
            self.outbox.deadline(),
            self.receipts.deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    pub(super) fn fire_timers(&mut self) {
        let now = self.now;
        match &mut self.phase {
            Phase::Waiting { until } if *until <= now => self.dial(),
            Phase::Dialing { until } if *until <= now => {
                let failure = super::DialFailure::Connect {
                    problem: "no answer in time".to_owned(),
                    status: None,
                };
                self.dial_failed(self.attempt, failure);
            }
            Phase::Greeting { until } if *until <= now => {
                self.hangup(1000, "no welcome in time");
            }
            Phase::Open(_) => self.fire_open_timers(),
            _ => {}
        }
    }

    fn fire_open_timers(&mut self) {
        let now = self.now;
        let Phase::Open(open) = &mut self.phase else { return };
        if open.goaway_at.is_some_and(|at| at <= now) {
            return self.hangup(1000, "the server asked to reconnect");
        }
        let silent = now.saturating_sub(self.last_bytes);
        if silent >= open.silence {
            return self.hangup(1000, "the server is silent");
        }
        if open.resuming.is_some_and(|until| until <= now) {
            return self.hangup(1000, "the resume was not finished in time");
        }
        if silent >= open.silence / 2 && !open.pinged {
            open.pinged = true;
            self.actions.push(Action::Ping);
        }
        if open.refresh_at.is_some_and(|at| at <= now) {
            // Asked again in a while, unless an answer comes first.
            open.refresh_at = Some(now + Duration::from_millis(TOKEN_RETRY_MS * 4));
            self.actions.push(Action::FetchToken);
        }
        if open.heal.as_ref().is_some_and(|heal| heal.until <= now) {
            let asked = open.heal.take().map(|heal| heal.asked).unwrap_or_default();
            let ids: Vec<_> = asked.into_iter().map(|(id, _)| id).collect();
            self.logs.unanswered(now, &ids, &mut self.rng);
        }
        self.outbox.wake(now);
        if self.watch_again_at.is_some_and(|at| at <= now) {
            self.subscribe();
        }
    }

    /// Bytes came: the server lives.
    pub(super) fn bytes_came(&mut self) {
        self.last_bytes = self.now;
        if let Phase::Open(open) = &mut self.phase {
            open.pinged = false;
        }
    }

    /// Writes what can be written: questions about gaps, sends, receipts; and says that the session
    /// is live once nothing is missing.
    pub(super) fn write_what_waits(&mut self) {
        if !matches!(self.phase, Phase::Open(_)) {
            return;
        }
        self.heal();
        while self.outbox.has_next() {
            let request_id = self.next_request_id();
            if let Some(send) = self.outbox.next(self.now, request_id) {
                self.write(request_id, Frame::Send(send));
            }
        }
        let now = self.now;
        self.write_receipts(now);
        if let Phase::Open(open) = &mut self.phase
            && open.live_since.is_none()
            && open.resuming.is_none()
            && self.logs.is_well()
        {
            open.live_since = Some(now);
            self.watermark = std::mem::take(&mut self.watermark_next);
            self.notice(Notice::Live);
        }
    }

    /// Receipts that wait are worth a last frame.
    pub(super) fn flush_before_close(&mut self) {
        if matches!(self.phase, Phase::Open(_)) {
            self.write_receipts(Duration::MAX);
        }
    }

    fn write_receipts(&mut self, now: Duration) {
        let mut request_id = self.request_id;
        let acks = self.receipts.take(now, || {
            request_id += 1;
            request_id
        });
        self.request_id = request_id;
        for (request_id, ack) in acks {
            self.write(request_id, Frame::Ack(ack));
        }
    }

    /// Asks for what is missing; one question at a time.
    fn heal(&mut self) {
        let Phase::Open(open) = &mut self.phase else { return };
        if open.heal.is_some() || open.resuming.is_some() {
            return;
        }
        let asked = self.logs.to_heal(self.now);
        if asked.is_empty() {
            return;
        }
        self.request_id += 1;
        let request_id = self.request_id;
        let until = self.now + Duration::from_millis(HEAL_ANSWER_MS_MAX);
        open.heal = Some(Heal { request_id, until, asked: asked.clone() });
        self.notice(Notice::Healing { cursors: asked.clone() });
        let cursors = asked.into_iter().map(to_cursor).collect();
        self.write(request_id, Frame::Sync(Sync { cursors, limit: SYNC_EVENTS_DEFAULT }));
    }
}
