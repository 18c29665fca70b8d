//! Segments: what rings are made of. A ring takes them as it fills and gives them back as it empties, so
//! that one with a frame or two costs no more than that.

use crate::limits::SEGMENTS_PER_CHUNK;
use crate::outbound::payload::Handle;

/// Two cache lines: handles, and the neighbours in the ring.
const SEGMENT_BYTES: usize = 128;
/// Handles in one segment.
pub(super) const SEGMENT_ENTRIES: usize =
    (SEGMENT_BYTES - 2 * size_of::<SegmentId>()) / size_of::<Handle>();

/// A segment, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentId(u32);

impl SegmentId {
    pub(super) const NONE: Self = Self(u32::MAX);
}

#[derive(Debug, Clone, Copy)]
struct Segment {
    entries: [Handle; SEGMENT_ENTRIES],
    previous: SegmentId,
    /// In the ring, or in the list of those that are free.
    next: SegmentId,
}

const _: () = assert!(size_of::<Segment>() == SEGMENT_BYTES);

/// The most bytes of segments that a ring of so many entries takes: the first and the last may each be
/// used in part.
pub(super) const fn ring_bytes(entries: usize) -> usize {
    (entries + SEGMENT_ENTRIES - 1).div_ceil(SEGMENT_ENTRIES) * SEGMENT_BYTES
}

/// The segments of one shard.
pub(super) struct Segments {
    /// `SEGMENTS_PER_CHUNK` each, so that growing never copies.
    chunks: Vec<Box<[Segment]>>,
    free: SegmentId,
    taken: usize,
}

impl Segments {
    pub(super) fn new() -> Self {
        Self { chunks: Vec::new(), free: SegmentId::NONE, taken: 0 }
    }

    /// A segment behind `previous`.
    pub(super) fn take(&mut self, previous: SegmentId) -> SegmentId {
        if self.free == SegmentId::NONE {
            self.grow();
        }
        let id = self.free;
        self.free = self.get(id).next;
        let segment = self.at(id);
        (segment.previous, segment.next) = (previous, SegmentId::NONE);
        if previous != SegmentId::NONE {
            self.at(previous).next = id;
        }
        self.taken += 1;
        id
    }

    /// Gives back a segment; its neighbours, if it has any, no longer have it.
    pub(super) fn give_back(&mut self, id: SegmentId) {
        let free = self.free;
        let segment = self.at(id);
        let (previous, next) = (segment.previous, segment.next);
        segment.next = free;
        self.free = id;
        self.taken -= 1;
        if previous != SegmentId::NONE {
            self.at(previous).next = SegmentId::NONE;
        }
        if next != SegmentId::NONE {
            self.at(next).previous = SegmentId::NONE;
        }
    }

    pub(super) fn next(&self, id: SegmentId) -> SegmentId {
        self.get(id).next
    }

    pub(super) fn previous(&self, id: SegmentId) -> SegmentId {
        self.get(id).previous
    }

    pub(super) fn entry(&self, id: SegmentId, offset: usize) -> Handle {
        self.get(id).entries[offset]
    }

    pub(super) fn entry_mut(&mut self, id: SegmentId, offset: usize) -> &mut Handle {
        &mut self.at(id).entries[offset]
    }

    /// Segments that are part of a ring.
    #[cfg(test)]
    pub(super) fn taken(&self) -> usize {
        self.taken
    }

    fn grow(&mut self) {
        let empty = Segment {
            entries: [Handle(0); SEGMENT_ENTRIES],
            previous: SegmentId::NONE,
            next: SegmentId::NONE,
        };
        let first = self.chunks.len() * SEGMENTS_PER_CHUNK;
        let mut chunk = vec![empty; SEGMENTS_PER_CHUNK].into_boxed_slice();
        for (index, segment) in chunk.iter_mut().enumerate().take(SEGMENTS_PER_CHUNK - 1) {
            segment.next = SegmentId(u32::try_from(first + index + 1).unwrap_or(u32::MAX));
        }
        self.chunks.push(chunk);
        self.free = SegmentId(u32::try_from(first).unwrap_or(u32::MAX));
    }

    fn get(&self, id: SegmentId) -> &Segment {
        let index = id.0 as usize;
        &self.chunks[index / SEGMENTS_PER_CHUNK][index % SEGMENTS_PER_CHUNK]
    }

    fn at(&mut self, id: SegmentId) -> &mut Segment {
        let index = id.0 as usize;
        &mut self.chunks[index / SEGMENTS_PER_CHUNK][index % SEGMENTS_PER_CHUNK]
    }
}
