//! The receiving end of a side: session s is in conversation s modulo the number of conversations.

use crate::clock;
use crate::latency::Latencies;
use crate::load::Handler;
use crate::load::tracker::{Sight, Tracker};
use crate::report::progress;
use proto::client::{ServerFrame, event, server_frame};
use proto::{Message, Uuid};

pub(crate) struct Receiver {
    sessions: usize,
    conversations: Vec<Uuid>,
    tracker: Tracker,
    events: u64,
    latencies: Latencies,
    closed: u64,
}

impl Receiver {
    pub(crate) fn new(sessions: usize, conversations: usize) -> Self {
        let ids: Vec<Uuid> = (0..conversations).map(|_| proto::id::new()).collect();
        let members: Vec<_> = (0..sessions).map(|it| vec![it % conversations]).collect();
        Self {
            sessions,
            tracker: Tracker::new(ids.iter().copied(), &members, 0),
            conversations: ids,
            events: 0,
            latencies: Latencies::new(),
            closed: 0,
        }
    }

    pub(crate) fn conversations(&self) -> &[Uuid] {
        &self.conversations
    }

    pub(super) fn sessions(&self) -> u64 {
        self.sessions as u64
    }

    pub(super) fn conversation_count(&self) -> u64 {
        self.conversations.len() as u64
    }

    /// Events that the sessions were shown, each once.
    pub(crate) fn events(&self) -> u64 {
        self.events
    }

    /// Those since the last call.
    pub(super) fn take_latencies(&mut self) -> Latencies {
        std::mem::replace(&mut self.latencies, Latencies::new())
    }

    /// What the sessions never saw of `counts` events for each conversation.
    pub(super) fn lost(&self, counts: &[u64]) -> u64 {
        self.tracker.lost(counts)
    }

    pub(super) fn duplicates(&self) -> u64 {
        self.tracker.duplicates
    }

    pub(super) fn reordered(&self) -> u64 {
        self.tracker.reordered
    }

    pub(crate) fn closed(&self) -> u64 {
        self.closed
    }
}

impl Handler for Receiver {
    fn frame(&mut self, session: usize, payload: &[u8]) {
        let now_us = clock::now_us();
        let Ok(frame) = ServerFrame::decode(payload) else { return };
        let Some(server_frame::Frame::Event(event)) = frame.frame else { return };
        let Some(event::Kind::Message(message)) = &event.kind else { return };
        let sight = self.tracker.see(session, &event.conversation_id, event.sequence_number);
        if matches!(sight, Sight::New | Sight::Late) {
            self.events += 1;
            let due_us = message.text.split(' ').next().and_then(|it| it.parse::<u64>().ok());
            if let Some(due_us) = due_us {
                self.latencies.record_us(now_us.saturating_sub(due_us));
            }
        }
    }

    fn closed(&mut self, session: usize, code: u16) {
        self.closed += 1;
        progress!("perf: session {session} was closed with code {code}");
    }
}
