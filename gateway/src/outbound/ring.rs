//! Rings: what waits to be written to each session, as handles of payloads. A session has a ring
//! only while something waits, and of that only the segments that are in use.

mod segments;

use crate::mail::Priority;
use crate::outbound::payload::Handle;
use segments::{SEGMENT_ENTRIES, SegmentId, Segments};

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

#[derive(Debug, Clone, Copy)]
struct Ring {
    first: SegmentId,
    last: SegmentId,
    /// Where the first payload is in the first segment.
    head: u16,
    queued: Queued,
    /// Bytes of the first payload that are already written.
    written: u32,
}

impl Ring {
    /// Where a payload is, counted from the first segment's beginning.
    fn position(&self, index: u16) -> usize {
        usize::from(self.head) + usize::from(index)
    }
}

/// Bytes that a session's ring takes at most.
pub(crate) const fn ring_bytes(entries: usize) -> usize {
    size_of::<Ring>() + segments::ring_bytes(entries)
}

/// The rings of one shard.
pub(crate) struct Rings {
    limits: RingLimits,
    rings: Vec<Ring>,
    segments: Segments,
    free: Vec<u32>,
}

impl Rings {
    pub(crate) fn new(limits: RingLimits) -> Self {
        debug_assert!(limits.entries > 0);
        Self { limits, rings: Vec::new(), segments: Segments::new(), free: Vec::new() }
    }

    pub(crate) fn limits(&self) -> RingLimits {
        self.limits
    }

    pub(crate) fn queued(&self, id: RingId) -> Queued {
        self.get(id).map_or_else(Queued::default, |ring| ring.queued)
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
        let offset = ring.position(ring.queued.entries) % SEGMENT_ENTRIES;
        if offset == 0 && ring.queued.entries > 0 {
            ring.last = self.segments.take(ring.last);
        }
        *self.segments.entry_mut(ring.last, offset) = handle;
        ring.queued.entries += 1;
        ring.queued.bytes = ring.queued.bytes.saturating_add(bytes);
        true
    }

    /// The queued payloads, first to last.
    pub(crate) fn iter(&self, id: RingId) -> Iter<'_> {
        let (segment, offset, left) = self.get(id).map_or((SegmentId::NONE, 0, 0), |ring| {
            (ring.first, usize::from(ring.head), usize::from(ring.queued.entries))
        });
        Iter { segments: &self.segments, segment, offset, left }
    }

    /// The payload that is written first.
    pub(crate) fn first(&self, id: RingId) -> Option<Handle> {
        self.iter(id).next()
    }

    /// Bytes of the first payload that are already written.
    pub(crate) fn written(&self, id: RingId) -> usize {
        self.get(id).map_or(0, |ring| ring.written as usize)
    }

    /// Takes the first payload off, of `bytes`; the ring goes back when it was the last.
    pub(crate) fn pop(&mut self, id: &mut RingId, bytes: u32) -> Option<Handle> {
        self.get(*id)?;
        let ring = &mut self.rings[id.0 as usize];
        let (first, head) = (ring.first, usize::from(ring.head));
        let handle = self.segments.entry(first, head);
        ring.head += 1;
        ring.queued.entries -= 1;
        ring.queued.bytes = ring.queued.bytes.saturating_sub(bytes);
        ring.written = 0;
        if ring.queued.entries == 0 {
            self.give_back(id);
        } else if head + 1 == SEGMENT_ENTRIES {
            (ring.first, ring.head) = (self.segments.next(first), 0);
            self.segments.give_back(first);
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
        let ring = self.get(*id)?;
        if ring.queued.entries == 1 && ring.written > 0 {
            return None;
        }
        let ring = &mut self.rings[id.0 as usize];
        let (last, offset) = (ring.last, ring.position(ring.queued.entries - 1) % SEGMENT_ENTRIES);
        let handle = self.segments.entry(last, offset);
        ring.queued.entries -= 1;
        ring.queued.bytes = ring.queued.bytes.saturating_sub(bytes_of(handle));
        if ring.queued.entries == 0 {
            self.give_back(id);
        } else if offset == 0 {
            ring.last = self.segments.previous(last);
            self.segments.give_back(last);
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
        let written = self.written(*id);
        let all: Vec<Handle> = self.iter(*id).collect();
        while self.pop(id, 0).is_some() {}
        let mut shed = Vec::new();
        for (index, handle) in all.into_iter().enumerate() {
            let is_fixed = index == 0 && written > 0;
            if !is_fixed && is_shed(handle) {
                shed.push(handle);
            } else {
                self.push(id, handle, bytes_of(handle));
            }
        }
        self.advance(*id, u32::try_from(written).unwrap_or(u32::MAX));
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
        let mut entries = self.iter(id);
        if self.written(id) > 0 {
            entries.next();
        }
        let (segment, offset) = entries.place(is_replaced)?;
        let before = std::mem::replace(self.segments.entry_mut(segment, offset), handle);
        let queued = &mut self.rings[id.0 as usize].queued;
        queued.bytes = queued.bytes.saturating_sub(bytes_of(before)).saturating_add(bytes);
        Some(before)
    }

    /// Rings that are borrowed.
    pub(crate) fn borrowed(&self) -> usize {
        self.rings.len() - self.free.len()
    }

    fn get(&self, id: RingId) -> Option<&Ring> {
        if id == RingId::NONE { None } else { Some(&self.rings[id.0 as usize]) }
    }

    fn borrow(&mut self) -> RingId {
        let segment = self.segments.take(SegmentId::NONE);
        let ring =
            Ring { first: segment, last: segment, head: 0, queued: Queued::default(), written: 0 };
        if let Some(index) = self.free.pop() {
            self.rings[index as usize] = ring;
            return RingId(index);
        }
        self.rings.push(ring);
        RingId(u32::try_from(self.rings.len() - 1).unwrap_or(u32::MAX))
    }

    /// The ring is empty: of its segments there is one left.
    fn give_back(&mut self, id: &mut RingId) {
        self.segments.give_back(self.rings[id.0 as usize].first);
        self.free.push(id.0);
        *id = RingId::NONE;
    }
}

/// The payloads of one ring, first to last.
pub(crate) struct Iter<'a> {
    segments: &'a Segments,
    segment: SegmentId,
    offset: usize,
    left: usize,
}

impl Iter<'_> {
    /// Where the first payload is that `is_wanted`.
    fn place(mut self, is_wanted: impl Fn(Handle) -> bool) -> Option<(SegmentId, usize)> {
        while !is_wanted(self.next()?) {}
        Some((self.segment, self.offset - 1))
    }
}

impl Iterator for Iter<'_> {
    type Item = Handle;

    fn next(&mut self) -> Option<Handle> {
        self.left = self.left.checked_sub(1)?;
        if self.offset == SEGMENT_ENTRIES {
            (self.segment, self.offset) = (self.segments.next(self.segment), 0);
        }
        self.offset += 1;
        Some(self.segments.entry(self.segment, self.offset - 1))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Iter<'_> {}

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

    /// Many rings against plain queues, driven by a seed; within a segment, and over several.
    #[test]
    fn rings_behave_as_queues_and_go_back_when_empty() {
        behave_as_queues(8);
        behave_as_queues(u16::try_from(3 * SEGMENT_ENTRIES).unwrap());
    }

    fn behave_as_queues(entries_max: u16) {
        let mut random = fastrand::Rng::with_seed(7);
        let mut rings = Rings::new(RingLimits { entries: entries_max, bytes_max: 1_000 });
        let mut ids = vec![RingId::NONE; 200];
        let mut models = vec![VecDeque::<u32>::new(); 200];
        for step in 0..120_000_u32 {
            let at = random.usize(0..200);
            // In turns more come than go, and the other way round.
            let pushes = if step / 10_000 % 2 == 0 { 7 } else { 3 };
            match random.u8(0..10) {
                it if it < pushes => {
                    let taken = rings.push(&mut ids[at], Handle(step), 10);
                    assert_eq!(taken, models[at].len() < usize::from(entries_max));
                    if taken {
                        models[at].push_back(step);
                    }
                }
                it if it < 9 => {
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
        for id in &mut ids {
            while rings.pop(id, 10).is_some() {}
        }
        assert_eq!((rings.borrowed(), rings.segments.taken()), (0, 0));
    }

    #[test]
    fn a_ring_takes_the_segments_that_it_needs_and_no_more_than_is_said() {
        let limits = RingLimits { entries: 256, bytes_max: 1_000 };
        let mut rings = Rings::new(limits);
        let mut id = RingId::NONE;
        rings.push(&mut id, Handle(0), 1);
        assert_eq!(rings.segments.taken(), 1);
        for number in 1..u32::try_from(SEGMENT_ENTRIES).unwrap() {
            rings.push(&mut id, Handle(number), 1);
        }
        assert_eq!(rings.segments.taken(), 1);
        for _ in 1..SEGMENT_ENTRIES {
            rings.pop(&mut id, 1);
        }
        while rings.push(&mut id, Handle(7), 1) {}
        assert_eq!((rings.queued(id).entries, rings.segments.taken()), (256, 10));
        assert_eq!(segments::ring_bytes(256), 10 * 128);
        assert_eq!(segments::ring_bytes(1), 128);
    }

    #[test]
    fn what_is_shed_or_replaced_over_several_segments_is_the_right_one() {
        let limits = RingLimits { entries: 256, bytes_max: 100_000 };
        let mut rings = Rings::new(limits);
        let mut id = RingId::NONE;
        for number in 0..100 {
            rings.push(&mut id, Handle(number), 10);
        }
        rings.pop(&mut id, 10);
        let segment = u32::try_from(SEGMENT_ENTRIES).unwrap();
        for number in [segment - 1, segment, segment + 1, 99] {
            let new = Handle(1_000 + number);
            let before = rings.replace(id, new, 10, |it| it.0 == number, |_| 10);
            assert_eq!(before, Some(Handle(number)));
        }
        let expected = |number: u32| match number {
            99 => 1_099,
            it if it.abs_diff(segment) <= 1 => 1_000 + it,
            it => it,
        };
        let all: Vec<u32> = rings.iter(id).map(|it| it.0).collect();
        assert_eq!(all, (1..100).map(expected).collect::<Vec<_>>());
        let shed = rings.shed(&mut id, |it| it.0 % 2 == 0, |_| 10);
        assert_eq!(shed.len() + rings.iter(id).len(), 99);
        assert!(rings.iter(id).all(|it| it.0 % 2 == 1));
        assert_eq!(rings.queued(id).bytes as usize, 10 * rings.iter(id).len());
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
