//! A shard: its mailbox, its recent events, and what it gives the sessions of its users.

use super::{Event, Gateway};
use crate::Outside;
use crate::limits::GATEWAY_SHARDS;
use ::gateway::rules::{Delivery, Recent};
use std::collections::{BTreeSet, VecDeque};

/// What a shard's mailbox takes.
pub(super) enum Letter {
    Deliver(Delivery),
    Ticket(u64),
    Tail(Vec<(u16, i64)>),
}

pub(super) struct Shard {
    pub(super) letters: VecDeque<Letter>,
    /// It was rung for.
    pub(super) wakes: bool,
    /// The last ticket that it took.
    pub(super) stored: u64,
    pub(super) recent: Recent,
    /// Positions that it was last told.
    pub(super) told: Vec<(u16, i64)>,
    /// Partition and offset of what it enqueued.
    pub(super) taken: BTreeSet<(usize, i64)>,
}

impl Shard {
    pub(super) fn new(recent_bytes_max: usize) -> Self {
        Self {
            letters: VecDeque::new(),
            wakes: false,
            stored: 0,
            recent: Recent::new(recent_bytes_max),
            told: Vec::new(),
            taken: BTreeSet::new(),
        }
    }
}

impl Gateway {
    pub(super) fn take_letters(&mut self, outside: &mut Outside, shard: u16) {
        let most = outside.bus.random.usize(1..6);
        for _ in 0..most {
            let place = &mut self.shards[usize::from(shard)];
            let Some(letter) = place.letters.pop_front() else { break };
            match letter {
                Letter::Deliver(delivery) => {
                    place.taken.insert((usize::from(delivery.partition), delivery.offset));
                    self.deliver(outside, &delivery);
                    self.shards[usize::from(shard)].recent.add(delivery);
                }
                Letter::Ticket(ticket) => place.stored = ticket,
                Letter::Tail(positions) => place.recent.advance(1, &positions, false),
            }
        }
        let place = &mut self.shards[usize::from(shard)];
        place.wakes = !place.letters.is_empty();
        if place.wakes {
            let delay_us = outside.bus.delay_us();
            self.after(outside, delay_us, Event::Letters { shard });
        }
    }

    /// Tells sessions that miss nothing how far they have come.
    pub(super) fn tell_watermarks(&mut self, outside: &mut Outside) {
        for shard in 0..GATEWAY_SHARDS {
            let watermark = self.shards[usize::from(shard)].recent.watermark();
            if !watermark.is_empty() && outside.bus.random.u8(..3) == 0 {
                self.tell_watermark(outside, shard, &watermark);
            }
        }
    }
}
