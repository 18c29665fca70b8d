//! Rings: what waits to be written to each session, as handles of payloads. A session has a ring
//! only while something waits.

use crate::limits::RINGS_PER_CHUNK;
use crate::mail::Priority;
use crate::outbound::payload::Handle;

/// A session's ring, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RingId(u32);

impl RingId {
    pub(crate) const NONE: Self = Self(u32::MAX);
}

/// How much one ring may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RingLimits {
    pub(crate) entries: u16,
    pub(crate) bytes_max: u32,
}

/// What waits in one ring.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Queued {
    pub(crate) entries: u16,
    pub(crate) bytes: u32,
}

/// What becomes of one more payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Take,
    /// An ephemeral payload that the session does without.
    Shed,
    /// The session is too slow.
    Overflow,
}

/// The slow-consumer verdict, the only one: by entries and by bytes. An empty ring takes one payload
/// of any size; ephemeral payloads are shed once half of the ring is taken, and its last eighth is for
/// high priority.
pub(crate) fn verdict(
    queued: Queued,
    bytes: u32,
    priority: Priority,
    limits: RingLimits,
) -> Verdict {
    if queued.entries == 0 {
        return Verdict::Take;
    }
    let after = queued.bytes.saturating_add(bytes);
    let RingLimits { entries, bytes_max } = limits;
    let (entries_max, bytes_max) = match priority {
        Priority::Ephemeral => (entries / 2, bytes_max / 2),
        Priority::Normal => (entries - entries / 8, bytes_max - bytes_max / 8),
        Priority::High => (entries, bytes_max),
    };
    match (queued.entries < entries_max && after <= bytes_max, priority) {
        (true, _) => Verdict::Take,
        (false, Priority::Ephemeral) => Verdict::Shed,
        (false, _) => Verdict::Overflow,
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Ring {
    head: u16,
    queued: Queued,
    /// Bytes of the first payload that are already written.
    written: u32,
}

/// The rings of one shard.
pub(crate) struct Rings {
    limits: RingLimits,
    rings: Vec<Ring>,
    /// The entries of `RINGS_PER_CHUNK` rings each, so that growing never copies.
    chunks: Vec<Box<[Handle]>>,
    free: Vec<u32>,
}

impl Rings {
    pub(crate) fn new(limits: RingLimits) -> Self {
        debug_assert!(limits.entries > 0);
        Self { limits, rings: Vec::new(), chunks: Vec::new(), free: Vec::new() }
    }

    pub(crate) fn limits(&self) -> RingLimits {
        self.limits
    }

    pub(crate) fn queued(&self, id: RingId) -> Queued {
        if id == RingId::NONE { Queued::default() } else { self.rings[id.0 as usize].queued }
    }

    /// Appends a payload of `bytes`; borrows a ring if the session has none. A full ring refuses.
    pub(crate) fn push(&mut self, id: &mut RingId, handle: Handle, bytes: u32) -> bool {
        if *id == RingId::NONE {
            *id = self.borrow();
        }
        let ring = &mut self.rings[id.0 as usize];
        if ring.queued.entries == self.limits.entries {
            return false;
        }
        let position = (u32::from(ring.head) + u32::from(ring.queued.entries))
            % u32::from(self.limits.entries);
        ring.queued.entries += 1;
        ring.queued.bytes = ring.queued.bytes.saturating_add(bytes);
        *self.entry(*id, position) = handle;
        true
    }

    /// The queued payloads, first to last.
    pub(crate) fn iter(&self, id: RingId) -> impl ExactSizeIterator<Item = Handle> + '_ {
        let ring = if id == RingId::NONE { Ring::default() } else { self.rings[id.0 as usize] };
        (0..ring.queued.entries).map(move |offset| {
            let position =
                (u32::from(ring.head) + u32::from(offset)) % u32::from(self.limits.entries);
            let (chunk, index) = self.place(id, position);
            self.chunks[chunk][index]
        })
    }

    /// The payload that is written first.
    pub(crate) fn first(&self, id: RingId) -> Option<Handle> {
        self.iter(id).next()
    }

    /// Bytes of the first payload that are already written.
    pub(crate) fn written(&self, id: RingId) -> usize {
        if id == RingId::NONE { 0 } else { self.rings[id.0 as usize].written as usize }
    }

    /// Takes the first payload off, of `bytes`; the ring goes back when it was the last.
    pub(crate) fn pop(&mut self, id: &mut RingId, bytes: u32) -> Option<Handle> {
        if *id == RingId::NONE {
            return None;
        }
        let ring = &mut self.rings[id.0 as usize];
        let position = u32::from(ring.head);
        ring.head = (ring.head + 1) % self.limits.entries;
        ring.queued.entries -= 1;
        ring.queued.bytes = ring.queued.bytes.saturating_sub(bytes);
        ring.written = 0;
        let emptied = ring.queued.entries == 0;
        let handle = *self.entry(*id, position);
        if emptied {
            self.free.push(id.0);
            *id = RingId::NONE;
        }
        Some(handle)
    }

    /// Notes that `bytes` more of the first payload are written.
    pub(crate) fn advance(&mut self, id: RingId, bytes: u32) {
        if id != RingId::NONE {
            self.rings[id.0 as usize].written += bytes;
        }
    }

    /// Takes the last payload off, of `bytes`, unless it is the only one and partly written.
    pub(crate) fn pop_last(
        &mut self,
        id: &mut RingId,
        bytes_of: impl Fn(Handle) -> u32,
    ) -> Option<Handle> {
        if *id == RingId::NONE {
            return None;
        }
        let ring = self.rings[id.0 as usize];
        if ring.queued.entries == 1 && ring.written > 0 {
            return None;
        }
        let last = u32::from(ring.head) + u32::from(ring.queued.entries) - 1;
        let handle = *self.entry(*id, last % u32::from(self.limits.entries));
        let ring = &mut self.rings[id.0 as usize];
        ring.queued.entries -= 1;
        ring.queued.bytes = ring.queued.bytes.saturating_sub(bytes_of(handle));
        if ring.queued.entries == 0 {
            self.free.push(id.0);
            *id = RingId::NONE;
        }
        Some(handle)
    }

    /// Takes out what `is_shed`, in its order, but for a payload that is partly written.
    pub(crate) fn shed(
        &mut self,
        id: &mut RingId,
        is_shed: impl Fn(Handle) -> bool,
        bytes_of: impl Fn(Handle) -> u32,
    ) -> Vec<Handle> {
        if *id == RingId::NONE {
            return Vec::new();
        }
        let all: Vec<Handle> = self.iter(*id).collect();
        let ring = &mut self.rings[id.0 as usize];
        let fixed = usize::from(ring.written > 0);
        ring.queued = Queued::default();
        let head = u32::from(ring.head);
        let mut shed = Vec::new();
        for (index, handle) in all.into_iter().enumerate() {
            if index >= fixed && is_shed(handle) {
                shed.push(handle);
                continue;
            }
            let ring = &mut self.rings[id.0 as usize];
            let position = (head + u32::from(ring.queued.entries)) % u32::from(self.limits.entries);
            ring.queued.entries += 1;
            ring.queued.bytes = ring.queued.bytes.saturating_add(bytes_of(handle));
            *self.entry(*id, position) = handle;
        }
        if self.rings[id.0 as usize].queued.entries == 0 {
            self.free.push(id.0);
            *id = RingId::NONE;
        }
        shed
    }

    /// Puts a payload of `bytes` in the place of the first that `is_replaced` and is not partly
    /// written, and gives that back.
    pub(crate) fn replace(
        &mut self,
        id: RingId,
        handle: Handle,
        bytes: u32,
        is_replaced: impl Fn(Handle) -> bool,
        bytes_of: impl Fn(Handle) -> u32,
    ) -> Option<Handle> {
        let fixed = usize::from(self.written(id) > 0);
        let index = self.iter(id).skip(fixed).position(is_replaced)? + fixed;
        let head = u32::from(self.rings[id.0 as usize].head);
        let position = (head + u32::try_from(index).ok()?) % u32::from(self.limits.entries);
        let before = std::mem::replace(self.entry(id, position), handle);
        let queued = &mut self.rings[id.0 as usize].queued;
        queued.bytes = queued.bytes.saturating_sub(bytes_of(before)).saturating_add(bytes);
        Some(before)
    }

    /// Rings that are borrowed.
    pub(crate) fn borrowed(&self) -> usize {
        self.rings.len() - self.free.len()
    }

    fn borrow(&mut self) -> RingId {
        let index = self.free.pop().unwrap_or_else(|| {
            let index = self.rings.len();
            self.rings.push(Ring::default());
            if index / RINGS_PER_CHUNK == self.chunks.len() {
                let entries = RINGS_PER_CHUNK * usize::from(self.limits.entries);
                self.chunks.push(vec![Handle(0); entries].into());
            }
            u32::try_from(index).unwrap_or(u32::MAX)
        });
        self.rings[index as usize] = Ring::default();
        RingId(index)
    }

    fn entry(&mut self, id: RingId, position: u32) -> &mut Handle {
        let (chunk, index) = self.place(id, position);
        &mut self.chunks[chunk][index]
    }

    fn place(&self, id: RingId, position: u32) -> (usize, usize) {
        let ring = id.0 as usize;
        let within = (ring % RINGS_PER_CHUNK) * usize::from(self.limits.entries);
        (ring / RINGS_PER_CHUNK, within + position as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    const LIMITS: RingLimits = RingLimits { entries: 8, bytes_max: 1_000 };

    #[test]
    fn the_verdict_is_by_entries_and_by_bytes() {
        let queued = |entries, bytes| Queued { entries, bytes };
        let of = |entries, queued_bytes, bytes, priority| {
            verdict(queued(entries, queued_bytes), bytes, priority, LIMITS)
        };
        assert_eq!(of(0, 0, 5_000, Priority::Normal), Verdict::Take);
        assert_eq!(of(7, 700, 300, Priority::High), Verdict::Take);
        assert_eq!(of(7, 700, 301, Priority::High), Verdict::Overflow);
        assert_eq!(of(8, 8, 1, Priority::High), Verdict::Overflow);
        assert_eq!(of(6, 700, 175, Priority::Normal), Verdict::Take);
        assert_eq!(of(6, 700, 176, Priority::Normal), Verdict::Overflow);
        assert_eq!(of(7, 7, 1, Priority::Normal), Verdict::Overflow);
        assert_eq!(of(3, 400, 100, Priority::Ephemeral), Verdict::Take);
        assert_eq!(of(4, 4, 1, Priority::Ephemeral), Verdict::Shed);
        assert_eq!(of(1, 400, 101, Priority::Ephemeral), Verdict::Shed);
    }

    /// Many rings against plain queues, driven by a seed.
    #[test]
    fn rings_behave_as_queues_and_go_back_when_empty() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut rings = Rings::new(LIMITS);
        let mut ids = vec![RingId::NONE; 200];
        let mut models = vec![VecDeque::<u32>::new(); 200];
        for step in 0..40_000 {
            let at = random.usize(0..200);
            match random.u8(0..9) {
                0..4 => {
                    let taken = rings.push(&mut ids[at], Handle(step), 10);
                    assert_eq!(taken, models[at].len() < 8);
                    if taken {
                        models[at].push_back(step);
                    }
                }
                4..8 => {
                    let popped = rings.pop(&mut ids[at], 10).map(|handle| handle.0);
                    assert_eq!(popped, models[at].pop_front());
                }
                _ => {
                    let popped = rings.pop_last(&mut ids[at], |_| 10).map(|handle| handle.0);
                    assert_eq!(popped, models[at].pop_back());
                }
            }
            let entries: Vec<_> = rings.iter(ids[at]).map(|handle| handle.0).collect();
            assert_eq!(entries, Vec::from(models[at].clone()));
            assert_eq!(rings.queued(ids[at]).bytes as usize, models[at].len() * 10);
            assert_eq!(ids[at] == RingId::NONE, models[at].is_empty());
        }
        let waiting = models.iter().filter(|model| !model.is_empty()).count();
        assert_eq!(rings.borrowed(), waiting);
    }

    #[test]
    fn what_is_shed_or_replaced_leaves_the_rest_in_order() {
        let mut rings = Rings::new(LIMITS);
        let mut id = RingId::NONE;
        for number in 0..8 {
            rings.push(&mut id, Handle(number), 10);
        }
        // So that the ring wraps round.
        for number in 8..12 {
            rings.pop(&mut id, 10);
            rings.push(&mut id, Handle(number), 10);
        }
        rings.advance(id, 3);
        assert_eq!(rings.replace(id, Handle(99), 15, |it| it.0 == 4, |_| 10), None);
        let replaced = rings.replace(id, Handle(50), 15, |it| it.0 == 10, |_| 10);
        assert_eq!((replaced, rings.queued(id).bytes), (Some(Handle(10)), 85));
        let shed = rings.shed(&mut id, |it| it.0 % 2 == 0, |_| 10);
        assert_eq!(shed, [6, 8, 50].map(Handle));
        assert_eq!(rings.iter(id).collect::<Vec<_>>(), [4, 5, 7, 9, 11].map(Handle));
        assert_eq!((rings.queued(id).bytes, rings.written(id)), (50, 3));
        rings.advance(id, 0);
        assert_eq!(rings.shed(&mut id, |_| true, |_| 10).len(), 4);
        rings.pop(&mut id, 10);
        assert_eq!((id, rings.borrowed()), (RingId::NONE, 0));
    }

    #[test]
    fn a_payload_that_is_partly_written_stays() {
        let mut rings = Rings::new(LIMITS);
        let mut id = RingId::NONE;
        rings.push(&mut id, Handle(1), 10);
        rings.push(&mut id, Handle(2), 10);
        rings.advance(id, 4);
        assert_eq!(rings.pop_last(&mut id, |_| 10), Some(Handle(2)));
        assert_eq!(rings.pop_last(&mut id, |_| 10), None);
        assert_eq!(rings.written(id), 4);
    }
}
