//! A hierarchical timer wheel: one timer for each connection slot, 16 bytes a slot, no allocation
//! while running; setting and clearing a timer take constant time.
//!
//! Level 0 has one bucket for each of the next 64 ticks, level 1 one for each of the next 64 turns of
//! level 0, and so on. A bucket of a higher level is dealt out to the lower ones when its time comes.

use crate::limits::TIMER_TICK_MS;

const LEVELS: usize = 4;
const BUCKETS: usize = 64;
const BUCKET_BITS: u32 = BUCKETS.trailing_zeros();
/// A level's bucket spans `1 << SHIFTS[level]` ticks; the last entry is the wheel's reach.
const SHIFTS: [u32; LEVELS + 1] =
    [0, BUCKET_BITS, 2 * BUCKET_BITS, 3 * BUCKET_BITS, 4 * BUCKET_BITS];
const NONE: u32 = u32::MAX;
/// Timers beyond the last level's reach (74 hours) are looked at again when that time has passed.
const REACH: u64 = 1 << SHIFTS[LEVELS];

/// A node of a bucket's doubly linked list; the index in `nodes` is the connection's slot.
#[derive(Debug, Clone, Copy)]
struct Node {
    next: u32,
    previous: u32,
    /// In ticks since the wheel's start.
    due: u32,
    /// `level * BUCKETS + index`, or NONE when no timer is set.
    bucket: u32,
}

const UNSET: Node = Node { next: NONE, previous: NONE, due: 0, bucket: NONE };

pub(crate) struct Wheel {
    nodes: Vec<Node>,
    heads: [u32; LEVELS * BUCKETS],
    /// One bit for each bucket that is not empty.
    occupied: [u64; LEVELS],
    /// Every tick up to and including this one has been fired.
    tick: u64,
}

impl Wheel {
    /// For slots below `capacity`, without allocating; larger slots grow the wheel.
    pub(crate) fn new(capacity: usize) -> Self {
        let nodes = Vec::with_capacity(capacity);
        Self { nodes, heads: [NONE; LEVELS * BUCKETS], occupied: [0; LEVELS], tick: 0 }
    }

    /// Sets the slot's timer, in place of the one it had.
    pub(crate) fn set(&mut self, slot: u32, due_ms: u64) {
        let index = slot as usize;
        if index >= self.nodes.len() {
            self.nodes.resize(index + 1, UNSET);
        }
        let due = due_ms.div_ceil(TIMER_TICK_MS).max(self.tick + 1);
        let due = u32::try_from(due).unwrap_or(u32::MAX);
        if self.nodes[index].bucket != NONE {
            if self.nodes[index].due == due {
                return;
            }
            self.unlink(slot);
        }
        self.link(slot, due);
    }

    pub(crate) fn clear(&mut self, slot: u32) {
        if self.nodes.get(slot as usize).is_some_and(|node| node.bucket != NONE) {
            self.unlink(slot);
        }
    }

    /// Moves the wheel to `now_ms` and appends the slots whose time has come to `fired`; their
    /// timers are no longer set.
    pub(crate) fn advance(&mut self, now_ms: u64, fired: &mut Vec<u32>) {
        let target = now_ms / TIMER_TICK_MS;
        while self.tick < target {
            if self.occupied == [0; LEVELS] {
                self.tick = target;
                return;
            }
            self.tick += 1;
            self.deal();
            let bucket = bucket_of(self.tick, 0);
            while self.heads[bucket] != NONE {
                let slot = self.heads[bucket];
                self.unlink(slot);
                if u64::from(self.nodes[slot as usize].due) <= self.tick {
                    fired.push(slot);
                } else {
                    self.link(slot, self.nodes[slot as usize].due);
                }
            }
        }
    }

    /// When [`Self::advance`] next has something to do, at the latest; None when no timer is set.
    pub(crate) fn next_ms(&self) -> Option<u64> {
        let mut next: Option<u64> = None;
        for (level, occupied) in self.occupied.iter().enumerate() {
            if *occupied == 0 {
                continue;
            }
            let shift = SHIFTS[level];
            let turn = self.tick >> shift;
            // The first occupied bucket after this level's current one, which lies behind.
            let start = (turn + 1) % u64::from(u64::BITS);
            let turned = occupied.rotate_right(u32::try_from(start).unwrap_or_default());
            let ahead = u64::from(turned.trailing_zeros());
            let due = (turn + 1 + ahead) << shift;
            next = Some(next.map_or(due, |found| found.min(due)));
        }
        next.map(|tick| tick * TIMER_TICK_MS)
    }

    /// Deals the buckets of the higher levels whose turn begins with this tick to the lower ones.
    fn deal(&mut self) {
        for level in (1..LEVELS).rev() {
            if self.tick & ((1 << SHIFTS[level]) - 1) != 0 {
                continue;
            }
            let bucket = bucket_of(self.tick, level);
            let mut slot = std::mem::replace(&mut self.heads[bucket], NONE);
            self.occupied[level] &= !(1 << (bucket % BUCKETS));
            while slot != NONE {
                let Node { next, due, .. } = self.nodes[slot as usize];
                self.link(slot, due);
                slot = next;
            }
        }
    }

    fn link(&mut self, slot: u32, due: u32) {
        // A timer that is dealt out in its very tick goes to the bucket that is about to fire.
        let distance = u64::from(due).saturating_sub(self.tick);
        let place =
            if distance < REACH { u64::from(due).max(self.tick) } else { self.tick + REACH - 1 };
        let distance = place - self.tick;
        let reached = |level: &usize| distance >> SHIFTS[level + 1] == 0;
        let level = (0..LEVELS - 1).find(reached).unwrap_or(LEVELS - 1);
        let bucket = bucket_of(place, level);
        let head = self.heads[bucket];
        self.nodes[slot as usize] =
            Node { next: head, previous: NONE, due, bucket: u32::try_from(bucket).unwrap_or(NONE) };
        if head != NONE {
            self.nodes[head as usize].previous = slot;
        }
        self.heads[bucket] = slot;
        self.occupied[level] |= 1 << (bucket % BUCKETS);
    }

    fn unlink(&mut self, slot: u32) {
        let Node { next, previous, bucket, .. } = self.nodes[slot as usize];
        let bucket = bucket as usize;
        if next != NONE {
            self.nodes[next as usize].previous = previous;
        }
        if previous == NONE {
            self.heads[bucket] = next;
            if next == NONE {
                self.occupied[bucket / BUCKETS] &= !(1 << (bucket % BUCKETS));
            }
        } else {
            self.nodes[previous as usize].next = next;
        }
        self.nodes[slot as usize].bucket = NONE;
    }
}

/// The bucket of a level in which a tick lies.
fn bucket_of(tick: u64, level: usize) -> usize {
    let index = (tick >> SHIFTS[level]) % BUCKETS as u64;
    level * BUCKETS + usize::try_from(index).unwrap_or_default()
}

const _: () = assert!(BUCKETS == u64::BITS as usize);

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// A wheel against a plain map of slot to due time, driven by one seed.
    #[test]
    fn timers_fire_once_in_time_and_never_early() {
        for seed in 0..10 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut wheel, mut model) = (Wheel::new(0), BTreeMap::<u32, u64>::new());
            let mut now_ms = 0;
            for _ in 0..2_000 {
                let slot = random.u32(0..50);
                match random.u8(0..10) {
                    0..5 => {
                        let reach =
                            [40, 2_000, 100_000, 6_000_000, 400_000_000][random.usize(0..5)];
                        let due_ms = now_ms + random.u64(0..reach);
                        wheel.set(slot, due_ms);
                        model.insert(slot, due_ms);
                    }
                    5 => {
                        wheel.clear(slot);
                        model.remove(&slot);
                    }
                    _ => {
                        now_ms += [5, 100, 3_000, 500_000][random.usize(0..4)] * random.u64(0..3);
                        check(&mut wheel, &mut model, now_ms, seed);
                    }
                }
            }
        }
    }

    fn check(wheel: &mut Wheel, model: &mut BTreeMap<u32, u64>, now_ms: u64, seed: u64) {
        let mut fired = Vec::new();
        wheel.advance(now_ms, &mut fired);
        for slot in fired {
            let due = model.remove(&slot).unwrap_or_else(|| panic!("{slot} unset, seed {seed}"));
            assert!(due <= now_ms, "slot {slot} fired {} ms early, seed {seed}", due - now_ms);
        }
        for (slot, due) in &*model {
            assert!(*due + 2 * TIMER_TICK_MS > now_ms, "slot {slot} is late, seed {seed}");
        }
        match (wheel.next_ms(), model.values().min()) {
            (None, None) => {}
            (Some(next), Some(due)) => assert!(next <= due + 2 * TIMER_TICK_MS, "seed {seed}"),
            (next, due) => panic!("next {next:?} for {due:?}, seed {seed}"),
        }
    }

    #[test]
    fn an_hour_away_is_not_looked_at_in_every_tick() {
        let mut wheel = Wheel::new(1);
        wheel.set(0, 3_600_000);
        let mut fired = Vec::new();
        let mut looks = 0;
        while let Some(next) = wheel.next_ms() {
            wheel.advance(next, &mut fired);
            looks += 1;
            assert!(looks < 10);
        }
        assert_eq!(fired, [0]);
    }
}
