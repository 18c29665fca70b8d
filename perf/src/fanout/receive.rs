//! The receiving end of both sides: sessions 0..N are the gateway's, N..2N the floor's; session s
//! of either side is in that side's conversation s modulo the number of conversations.

use crate::clock;
use crate::latency::Latencies;
use crate::load::Handler;
use crate::load::tracker::{Sight, Tracker};
use crate::report::progress;
use proto::client::{ServerFrame, event, server_frame};
use proto::{Message, Uuid};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Gateway,
    Floor,
}

pub(super) struct Receiver {
    sessions: usize,
    /// Of the gateway first, then as many of the floor.
    conversations: Vec<Uuid>,
    tracker: Tracker,
    events: [u64; 2],
    latencies: [Latencies; 2],
    closed: u64,
}

impl Receiver {
    pub(super) fn new(sessions: usize, conversations: usize) -> Self {
        let ids: Vec<Uuid> = (0..2 * conversations).map(|_| proto::id::new()).collect();
        let members = |side: usize| {
            (0..sessions).map(move |it| vec![side * conversations + it % conversations])
        };
        let members: Vec<_> = members(0).chain(members(1)).collect();
        Self {
            sessions,
            tracker: Tracker::new(ids.iter().copied(), &members, 0),
            conversations: ids,
            events: [0; 2],
            latencies: [Latencies::new(), Latencies::new()],
            closed: 0,
        }
    }

    pub(super) fn conversations(&self, side: Side) -> &[Uuid] {
        let (gateway, floor) = self.conversations.split_at(self.conversations.len() / 2);
        if side == Side::Gateway { gateway } else { floor }
    }

    pub(super) fn sessions(&self) -> u64 {
        self.sessions as u64
    }

    pub(super) fn conversation_count(&self) -> u64 {
        self.conversations.len() as u64 / 2
    }

    /// Events that the side's sessions were shown, each once.
    pub(super) fn events(&self, side: Side) -> u64 {
        self.events[side as usize]
    }

    pub(super) fn latencies(&self, side: Side) -> &Latencies {
        &self.latencies[side as usize]
    }

    pub(super) fn forget_latencies(&mut self) {
        self.latencies = [Latencies::new(), Latencies::new()];
    }

    /// What the side's sessions never saw of `counts` events for each conversation.
    pub(super) fn lost(&self, side: Side, counts: &[u64]) -> u64 {
        let none = vec![0; counts.len()];
        let last = match side {
            Side::Gateway => [counts, &none].concat(),
            Side::Floor => [&none, counts].concat(),
        };
        self.tracker.lost(&last)
    }

    pub(super) fn duplicates(&self) -> u64 {
        self.tracker.duplicates
    }

    pub(super) fn reordered(&self) -> u64 {
        self.tracker.reordered
    }

    pub(super) fn closed(&self) -> u64 {
        self.closed
    }
}

impl Handler for Receiver {
    fn frame(&mut self, session: usize, payload: &[u8]) {
        let now_us = clock::now_us();
        let Ok(frame) = ServerFrame::decode(payload) else { return };
        let Some(server_frame::Frame::Event(event)) = frame.frame else { return };
        let Some(event::Kind::Message(message)) = &event.kind else { return };
        let side = usize::from(session >= self.sessions);
        let sight = self.tracker.see(session, &event.conversation_id, event.sequence_number);
        if matches!(sight, Sight::New | Sight::Late) {
            self.events[side] += 1;
            let due_us = message.text.split(' ').next().and_then(|it| it.parse::<u64>().ok());
            if let Some(due_us) = due_us {
                self.latencies[side].record_us(now_us.saturating_sub(due_us));
            }
        }
    }

    fn closed(&mut self, session: usize, code: u16) {
        self.closed += 1;
        progress!("perf: session {session} was closed with code {code}");
    }
}
