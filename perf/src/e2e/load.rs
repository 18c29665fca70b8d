//! The sessions' side: what was sent, what came back, and what that amounts to.

use super::Scale;
use crate::clock;
use crate::failure::{Failure, Outcome};
use crate::latency::Latencies;
use crate::load::tracker::{Sight, Tracker};
use crate::load::{Driver, Handler};
use crate::population::Population;
use crate::report::{progress, rounded};
use fastrand::Rng;
use proto::client::{ClientFrame, Send, ServerFrame, client_frame, event, server_frame};
use proto::{Message, Uuid};
use serde::Serialize;
use std::collections::VecDeque;
use std::time::Duration;

/// The first request id of a send; below are the session's own.
const FIRST_REQUEST: u64 = 16;
/// Wait before a send that met a retryable error is tried again.
const RETRY_US: u64 = 100_000;

/// What a run came to.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) sent: u64,
    acked: u64,
    pub(crate) delivered: u64,
    lost: u64,
    duplicates: u64,
    reordered: u64,
    ack_p50_ms: f64,
    ack_p99_ms: f64,
    delivery_p50_ms: f64,
    delivery_p99_ms: f64,
    delivery_max_ms: f64,
    rate: u64,
    connections: u64,
    seconds: u64,
    retried: u64,
    sessions_closed: u64,
    lost_in_database: u64,
}

/// One message from when it is due to its acknowledgement.
pub(super) struct Sending {
    session: usize,
    pub(super) conversation: usize,
    due_us: u64,
    /// Message id and sequence number, once acknowledged.
    pub(super) answer: Option<(Uuid, u64)>,
}

pub(super) struct Load {
    pub(super) population: Population,
    text_bytes: usize,
    pub(super) tracker: Tracker,
    pub(super) sendings: Vec<Sending>,
    retries: VecDeque<(u64, usize)>,
    acks: Latencies,
    deliveries: Latencies,
    acked: u64,
    /// Deliveries that the acknowledgements so far promise.
    expected: u64,
    retried: u64,
    closed: u64,
    refusal: Option<String>,
}

impl Load {
    pub(super) fn new(population: Population, text_bytes: usize) -> Self {
        let ids: Vec<_> = population.conversations.iter().map(|it| it.id).collect();
        // Event 1 is each conversation's creation.
        let tracker = Tracker::new(ids, &population.conversations_by_user(), 1);
        Self {
            population,
            text_bytes,
            tracker,
            sendings: Vec::new(),
            retries: VecDeque::new(),
            acks: Latencies::new(),
            deliveries: Latencies::new(),
            acked: 0,
            expected: 0,
            retried: 0,
            closed: 0,
            refusal: None,
        }
    }

    pub(super) fn plan(&mut self, due_us: u64, random: &mut Rng) -> usize {
        let conversation = random.usize(..self.population.conversations.len());
        let members = &self.population.conversations[conversation].members;
        let session = members[random.usize(..members.len())];
        self.sendings.push(Sending { session, conversation, due_us, answer: None });
        self.sendings.len() - 1
    }

    pub(super) fn write(&mut self, driver: &mut Driver, index: usize) {
        let sending = &self.sendings[index];
        let session = sending.session;
        let mut text = format!("{} ", sending.due_us);
        text.extend(std::iter::repeat_n('x', self.text_bytes.saturating_sub(text.len())));
        let send = Send {
            conversation_id: self.population.conversations[sending.conversation]
                .id
                .as_bytes()
                .to_vec(),
            idempotency_key: format!("perf-{index}"),
            text,
        };
        let frame = ClientFrame {
            request_id: FIRST_REQUEST + index as u64,
            frame: Some(client_frame::Frame::Send(send)),
        };
        driver.send(session, &frame.encode_to_vec(), self);
    }

    pub(super) fn retry_due(&mut self, driver: &mut Driver, now: u64) {
        while let Some((at_us, index)) = self.retries.front().copied() {
            if at_us > now {
                break;
            }
            self.retries.pop_front();
            self.retried += 1;
            self.write(driver, index);
        }
    }

    fn is_settled(&self) -> bool {
        self.acked == self.sendings.len() as u64 && self.tracker.delivered >= self.expected
    }

    pub(super) fn settle(&mut self, driver: &mut Driver, until_us: u64) -> Outcome {
        while !self.is_settled() && clock::now_us() < until_us && driver.open_count() > 0 {
            self.retry_due(driver, clock::now_us());
            driver.run(Duration::from_millis(20), self)?;
        }
        // What should not come, like a duplicate, has some time to come, too.
        let until_us = clock::now_us() + 300_000;
        driver.run_until(until_us, self, |_| false)
    }

    fn answered(&mut self, request_id: u64, message_id: &[u8], seq: u64) {
        let index = usize::try_from(request_id.wrapping_sub(FIRST_REQUEST)).unwrap_or(usize::MAX);
        let Some(sending) = self.sendings.get_mut(index) else { return };
        if sending.answer.is_none() {
            self.acks.record_us(clock::now_us().saturating_sub(sending.due_us));
            // Of bytes that are no id nothing is stored: the message counts as lost.
            let message_id = Uuid::from_slice(message_id).unwrap_or_default();
            sending.answer = Some((message_id, seq));
            self.acked += 1;
            let members = self.population.conversations[sending.conversation].members.len();
            self.expected += members as u64;
        }
    }

    pub(super) fn report(
        &self,
        scale: &Scale,
        lost_by_sessions: u64,
        lost_in_database: u64,
    ) -> Report {
        Report {
            sent: self.sendings.len() as u64,
            acked: self.acked,
            delivered: self.tracker.delivered,
            lost: lost_by_sessions + lost_in_database,
            duplicates: self.tracker.duplicates,
            reordered: self.tracker.reordered,
            ack_p50_ms: rounded(self.acks.ms_at(0.5)),
            ack_p99_ms: rounded(self.acks.ms_at(0.99)),
            delivery_p50_ms: rounded(self.deliveries.ms_at(0.5)),
            delivery_p99_ms: rounded(self.deliveries.ms_at(0.99)),
            delivery_max_ms: rounded(self.deliveries.ms_max()),
            rate: scale.rate,
            connections: scale.connections,
            seconds: scale.seconds,
            retried: self.retried,
            sessions_closed: self.closed,
            lost_in_database,
        }
    }

    pub(super) fn verdict(&self, report: &Report) -> Outcome {
        if let Some(refusal) = &self.refusal {
            return Err(Failure::Refused(format!("a send was refused: {refusal}")));
        }
        if report.lost + report.reordered > 0 {
            let words = format!("{} lost, {} reordered", report.lost, report.reordered);
            return Err(Failure::Refused(words));
        }
        if report.acked < report.sent {
            let missing = report.sent - report.acked;
            return Err(Failure::Refused(format!("{missing} sends were never acknowledged")));
        }
        Ok(())
    }
}

impl Handler for Load {
    fn frame(&mut self, session: usize, payload: &[u8]) {
        let now_us = clock::now_us();
        let Ok(ServerFrame { request_id, frame: Some(frame) }) = ServerFrame::decode(payload)
        else {
            self.refusal = Some("a frame could not be read".into());
            return;
        };
        match frame {
            server_frame::Frame::Sent(sent) => {
                self.answered(request_id, &sent.message_id, sent.sequence_number);
            }
            server_frame::Frame::Error(error) => {
                let index = usize::try_from(request_id.wrapping_sub(FIRST_REQUEST));
                match index {
                    Ok(index) if error.retryable && index < self.sendings.len() => {
                        self.retries.push_back((now_us + RETRY_US, index));
                    }
                    _ => self.refusal = Some(format!("{}: {}", error.code, error.message)),
                }
            }
            server_frame::Frame::Event(event) => {
                let Some(event::Kind::Message(message)) = &event.kind else { return };
                let seq = event.sequence_number;
                let sight = self.tracker.see(session, &event.conversation_id, seq);
                let due_us = message.text.split(' ').next().and_then(|it| it.parse::<u64>().ok());
                if let (Sight::New | Sight::Late, Some(due_us)) = (sight, due_us) {
                    self.deliveries.record_us(now_us.saturating_sub(due_us));
                }
            }
            _ => {}
        }
    }

    fn closed(&mut self, session: usize, code: u16) {
        self.closed += 1;
        progress!("perf: session {session} was closed with code {code}");
    }
}
