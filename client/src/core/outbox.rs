//! Sends until they are answered, and receipts until they are accepted.
//!
//! A send keeps its idempotency key over every connection and every retry, so that it becomes one
//! message however often it is written.

use super::backoff;
use crate::limits::{
    ACK_DELAY_MS, SEND_ANSWER_MS_MAX, SEND_RETRY_MS_MAX, SEND_RETRY_MS_MIN, SENDS_IN_FLIGHT_MAX,
};
use fastrand::Rng;
use proto::Uuid;
use proto::client::{Ack, Send};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

/// The application's number of a send, growing in the order in which sends were made.
pub(super) type Ticket = u64;

#[derive(Debug)]
struct Entry {
    send: Send,
    /// Retryable errors so far.
    errors: u32,
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Queued,
    Delayed,
    InFlight { request_id: u64, until: Duration },
}

#[derive(Debug, Default)]
pub(super) struct Outbox {
    entries: BTreeMap<Ticket, Entry>,
    queued: BTreeSet<Ticket>,
    /// Both retries that wait and answers that are waited for.
    deadlines: BTreeSet<(Duration, Ticket)>,
    in_flight: HashMap<u64, Ticket>,
}

impl Outbox {
    pub(super) fn push(&mut self, ticket: Ticket, send: Send) {
        self.entries.insert(ticket, Entry { send, errors: 0, state: State::Queued });
        self.queued.insert(ticket);
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The next send to write, if the window has room. `request_id` names it from now on.
    pub(super) fn next(&mut self, now: Duration, request_id: u64) -> Option<Send> {
        if self.in_flight.len() >= SENDS_IN_FLIGHT_MAX {
            return None;
        }
        let ticket = self.queued.pop_first()?;
        let entry = self.entries.get_mut(&ticket)?;
        let until = now + Duration::from_millis(SEND_ANSWER_MS_MAX);
        entry.state = State::InFlight { request_id, until };
        self.deadlines.insert((until, ticket));
        self.in_flight.insert(request_id, ticket);
        Some(entry.send.clone())
    }

    /// Is there a send that could be written now?
    pub(super) fn has_next(&self) -> bool {
        !self.queued.is_empty() && self.in_flight.len() < SENDS_IN_FLIGHT_MAX
    }

    /// The send is answered for good.
    pub(super) fn settle(&mut self, request_id: u64) -> Option<Ticket> {
        let ticket = self.in_flight.remove(&request_id)?;
        if let Some(Entry { state: State::InFlight { until, .. }, .. }) =
            self.entries.remove(&ticket)
        {
            self.deadlines.remove(&(until, ticket));
        }
        Some(ticket)
    }

    /// The send met a retryable error; false if `request_id` is no send.
    pub(super) fn retry(
        &mut self,
        now: Duration,
        request_id: u64,
        hint_ms: u32,
        rng: &mut Rng,
    ) -> bool {
        let Some(ticket) = self.in_flight.remove(&request_id) else { return false };
        if let Some(entry) = self.entries.get_mut(&ticket) {
            if let State::InFlight { until, .. } = entry.state {
                self.deadlines.remove(&(until, ticket));
            }
            let own = backoff::delay(rng, entry.errors, SEND_RETRY_MS_MIN, SEND_RETRY_MS_MAX);
            let hint = Duration::from_millis(u64::from(hint_ms).min(SEND_RETRY_MS_MAX));
            let until = now + own.max(hint);
            entry.errors = entry.errors.saturating_add(1);
            entry.state = State::Delayed;
            self.deadlines.insert((until, ticket));
        }
        true
    }

    /// Queues again what waited long enough: for its retry, or in vain for an answer.
    pub(super) fn wake(&mut self, now: Duration) {
        while let Some(&(until, ticket)) = self.deadlines.first() {
            if until > now {
                break;
            }
            self.deadlines.pop_first();
            self.requeue(ticket);
        }
    }

    fn requeue(&mut self, ticket: Ticket) {
        if let Some(entry) = self.entries.get_mut(&ticket) {
            if let State::InFlight { request_id, .. } = entry.state {
                self.in_flight.remove(&request_id);
            }
            entry.state = State::Queued;
            self.queued.insert(ticket);
        }
    }

    /// The connection is gone: what was in flight is written again on the next one, in order.
    pub(super) fn disconnected(&mut self) {
        let waiting: Vec<Ticket> = self.in_flight.drain().map(|(_, ticket)| ticket).collect();
        for ticket in waiting {
            if let Some(entry) = self.entries.get_mut(&ticket) {
                if let State::InFlight { until, .. } = entry.state {
                    self.deadlines.remove(&(until, ticket));
                }
                entry.state = State::Queued;
                self.queued.insert(ticket);
            }
        }
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|(until, _)| *until)
    }

    /// Everything that was never answered.
    pub(super) fn drain(&mut self) -> Vec<Ticket> {
        let tickets = self.entries.keys().copied().collect();
        *self = Self::default();
        tickets
    }
}

/// Receipts: only the newest of each conversation counts, since cursors only move forward.
#[derive(Debug, Default)]
pub(super) struct Receipts {
    waiting: BTreeMap<Uuid, Cursors>,
    in_flight: HashMap<u64, (Uuid, Cursors)>,
    due: Option<Duration>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Cursors {
    delivered: u64,
    read: u64,
}

impl Receipts {
    pub(super) fn add(&mut self, now: Duration, conversation: Uuid, delivered: u64, read: u64) {
        let cursors = self.waiting.entry(conversation).or_default();
        cursors.delivered = cursors.delivered.max(delivered);
        cursors.read = cursors.read.max(read);
        self.due.get_or_insert(now + Duration::from_millis(ACK_DELAY_MS));
    }

    /// When the next receipts are to be written.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.due
    }

    /// Receipts to write now; `request_id` gives each its number.
    pub(super) fn take(
        &mut self,
        now: Duration,
        mut request_id: impl FnMut() -> u64,
    ) -> Vec<(u64, Ack)> {
        if self.due.is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.due = None;
        let mut acks = Vec::new();
        for (conversation, cursors) in std::mem::take(&mut self.waiting) {
            let id = request_id();
            self.in_flight.insert(id, (conversation, cursors));
            let conversation_id = conversation.as_bytes().to_vec();
            acks.push((
                id,
                Ack {
                    conversation_id,
                    delivered_sequence_number: cursors.delivered,
                    read_sequence_number: cursors.read,
                },
            ));
        }
        acks
    }

    /// Accepted, or refused for good; false if `request_id` is no receipt.
    pub(super) fn settle(&mut self, request_id: u64) -> bool {
        self.in_flight.remove(&request_id).is_some()
    }

    /// Refused, but may be accepted later; false if `request_id` is no receipt.
    pub(super) fn retry(&mut self, now: Duration, request_id: u64) -> bool {
        let Some((conversation, cursors)) = self.in_flight.remove(&request_id) else {
            return false;
        };
        self.add(now, conversation, cursors.delivered, cursors.read);
        self.due = Some(now + Duration::from_millis(SEND_RETRY_MS_MAX));
        true
    }

    pub(super) fn disconnected(&mut self, now: Duration) {
        let in_flight: Vec<(Uuid, Cursors)> = self.in_flight.drain().map(|(_, it)| it).collect();
        for (conversation, cursors) in in_flight {
            self.add(now, conversation, cursors.delivered, cursors.read);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn send(key: &str) -> Send {
        Send { idempotency_key: key.into(), ..Send::default() }
    }

    fn write_all(outbox: &mut Outbox, now: Duration, first: u64) -> Vec<String> {
        let ids = first..;
        ids.map_while(|id| outbox.next(now, id)).map(|send| send.idempotency_key).collect()
    }

    #[test]
    fn unanswered_sends_are_written_again_in_order_after_a_disconnect() {
        let mut outbox = Outbox::default();
        for ticket in 0..3 {
            outbox.push(ticket, send(&format!("k{ticket}")));
        }
        assert_eq!(write_all(&mut outbox, SECOND, 10), ["k0", "k1", "k2"]);
        assert_eq!(outbox.settle(11), Some(1));
        outbox.disconnected();
        assert_eq!(write_all(&mut outbox, SECOND, 20), ["k0", "k2"]);
        assert_eq!(outbox.settle(11), None, "the old request is forgotten");
        assert_eq!((outbox.settle(20), outbox.settle(21), outbox.len()), (Some(0), Some(2), 0));
        assert_eq!(outbox.deadline(), None);
    }

    #[test]
    fn a_retryable_error_waits_at_least_the_hint_and_silence_is_a_reason_to_write_again() {
        let mut outbox = Outbox::default();
        let mut rng = Rng::with_seed(1);
        outbox.push(1, send("k"));
        assert_eq!(write_all(&mut outbox, SECOND, 1).len(), 1);
        assert!(outbox.retry(SECOND, 1, 700, &mut rng));
        outbox.wake(SECOND + Duration::from_millis(600));
        assert!(!outbox.has_next());
        outbox.wake(SECOND + Duration::from_millis(700));
        assert_eq!(write_all(&mut outbox, SECOND * 2, 2), ["k"]);
        outbox.wake(SECOND * 2 + Duration::from_millis(SEND_ANSWER_MS_MAX));
        assert_eq!(write_all(&mut outbox, SECOND * 60, 3), ["k"]);
        assert!(!outbox.retry(SECOND, 99, 0, &mut rng));
    }

    #[test]
    fn the_window_is_bounded() {
        let mut outbox = Outbox::default();
        for ticket in 0..1_000 {
            outbox.push(ticket, send("k"));
        }
        assert_eq!(write_all(&mut outbox, SECOND, 1).len(), SENDS_IN_FLIGHT_MAX);
        outbox.settle(1);
        assert_eq!(write_all(&mut outbox, SECOND, 5_000).len(), 1);
    }

    #[test]
    fn receipts_are_gathered_and_survive_a_disconnect() {
        let mut receipts = Receipts::default();
        let conversation = proto::id::new();
        receipts.add(SECOND, conversation, 3, 0);
        receipts.add(SECOND, conversation, 2, 1);
        assert!(receipts.take(SECOND, || 1).is_empty());
        let taken = receipts.take(SECOND * 2, || 7);
        assert_eq!((taken[0].1.delivered_sequence_number, taken[0].1.read_sequence_number), (3, 1));
        receipts.disconnected(SECOND * 2);
        assert_eq!(receipts.take(SECOND * 3, || 8).len(), 1);
        assert!(receipts.settle(8) && receipts.deadline().is_none());
    }
}
