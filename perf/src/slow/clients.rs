//! What the sessions see: the others every event once and in order, the slow ones whatever they read.

use crate::clock;
use crate::latency::Latencies;
use crate::load::Handler;
use crate::report::progress;
use proto::client::{ServerFrame, event, server_frame};
use proto::{Message, Uuid};
use std::collections::HashMap;

/// How far one of the others has come in its conversation.
#[derive(Clone, Copy)]
enum View {
    /// It is connecting again: the first event that comes is where it goes on.
    Away,
    At(u64),
}

pub(super) struct Clients {
    others: usize,
    conversations: HashMap<Uuid, usize>,
    /// Of the others; each is in the conversation of its index modulo their number.
    views: Vec<View>,
    /// Events that were passed over.
    skipped: u64,
    reordered: u64,
    closed: u64,
    latencies: Latencies,
}

impl Clients {
    pub(super) fn new(others: usize, sessions: usize, conversations: &[Uuid]) -> Self {
        debug_assert!(others <= sessions);
        Self {
            others,
            conversations: conversations.iter().enumerate().map(|(at, id)| (*id, at)).collect(),
            views: vec![View::At(0); others],
            skipped: 0,
            reordered: 0,
            closed: 0,
            latencies: Latencies::new(),
        }
    }

    /// Sessions that read all they get; their indexes come first.
    pub(super) fn others(&self) -> usize {
        self.others
    }

    /// One of the others is about to reconnect; false if it is away already.
    pub(super) fn leave(&mut self, session: usize) -> bool {
        !matches!(std::mem::replace(&mut self.views[session], View::Away), View::Away)
    }

    /// Those since the last call.
    pub(super) fn take_latencies(&mut self) -> Latencies {
        std::mem::replace(&mut self.latencies, Latencies::new())
    }

    /// What the others never saw of `counts` events for each conversation.
    pub(super) fn lost(&self, counts: &[u64]) -> u64 {
        let behind = self.views.iter().enumerate().map(|(session, view)| match view {
            View::Away => 0,
            View::At(last) => counts[session % counts.len()].saturating_sub(*last),
        });
        self.skipped + behind.sum::<u64>()
    }

    pub(super) fn reordered(&self) -> u64 {
        self.reordered
    }

    pub(super) fn closed(&self) -> u64 {
        self.closed
    }
}

impl Handler for Clients {
    fn frame(&mut self, session: usize, payload: &[u8]) {
        let now_us = clock::now_us();
        if session >= self.others {
            return;
        }
        let Ok(frame) = ServerFrame::decode(payload) else { return };
        let Some(server_frame::Frame::Event(event)) = frame.frame else { return };
        let Some(event::Kind::Message(message)) = &event.kind else { return };
        let conversation = Uuid::from_slice(&event.conversation_id).ok();
        let is_own = conversation.and_then(|id| self.conversations.get(&id)).copied()
            == Some(session % self.conversations.len());
        if !is_own {
            return;
        }
        let number = event.sequence_number;
        match self.views[session] {
            View::Away => {}
            View::At(last) if number <= last => return self.reordered += 1,
            View::At(last) => self.skipped += number - last - 1,
        }
        self.views[session] = View::At(number);
        let due_us = message.text.split(' ').next().and_then(|it| it.parse::<u64>().ok());
        if let Some(due_us) = due_us {
            self.latencies.record_us(now_us.saturating_sub(due_us));
        }
    }

    fn closed(&mut self, session: usize, code: u16) {
        if session < self.others {
            self.closed += 1;
            progress!("perf: session {session} was closed with code {code}");
        }
    }
}
