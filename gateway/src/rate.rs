//! Limits by address and by user: tables of atomics that all shards share, without a lock, of a
//! fixed size, whoever comes.
//!
//! A key has one cell in each of several rows, found by a seeded hash. Whoever is beyond a limit is
//! so in every row; who shares a busy cell in one row by chance has others. So nobody gets more than
//! the limit, and hardly anybody less.

use crate::limits::{LIMIT_BURST_S, LIMIT_CELLS};
use proto::Uuid;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

const ROWS: usize = 4;
const US: u64 = 1_000_000;

/// How much one address, or one user, may do; 0: as much as it likes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Allowed {
    /// Open connections of one address.
    pub(crate) connections: u64,
    /// New connections of one address, a second.
    pub(crate) connects_per_s: u64,
    /// HTTP requests of one address, a second.
    pub(crate) requests_per_s: u64,
    /// Frames of one user, a second.
    pub(crate) frames_per_s: u64,
}

/// Somebody, as far as limits are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key(NonZeroU64);

/// What is left of a refusal: the milliseconds after which the next attempt may succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RetryAfterMs(pub(crate) u64);

/// All limits of one gateway.
#[derive(Debug)]
pub(crate) struct Limits {
    seed: u64,
    connections: Option<Counts>,
    connects: Option<Rates>,
    requests: Option<Rates>,
    frames: Option<Rates>,
}

impl Limits {
    pub(crate) fn new(allowed: Allowed) -> Self {
        let rates = |per_s| (per_s > 0).then(|| Rates::new(per_s));
        let connections = u32::try_from(allowed.connections).unwrap_or(u32::MAX);
        Self {
            seed: fastrand::u64(..),
            connections: (connections > 0).then(|| Counts::new(connections)),
            connects: rates(allowed.connects_per_s),
            requests: rates(allowed.requests_per_s),
            frames: rates(allowed.frames_per_s),
        }
    }

    /// The key of an address. An IPv6 host has all of its /64.
    fn address(&self, address: IpAddr) -> Key {
        match address.to_canonical() {
            IpAddr::V4(it) => self.key(u64::from(it.to_bits()), 4),
            IpAddr::V6(it) => self.key(u64::try_from(it.to_bits() >> 64).unwrap_or(0), 6),
        }
    }

    fn key(&self, value: u64, kind: u64) -> Key {
        Key(NonZeroU64::new(mix(mix(value ^ self.seed) ^ kind)).unwrap_or(NonZeroU64::MIN))
    }

    /// A connection of this address begins; [`Self::leave`] takes what is given back.
    pub(crate) fn enter(&self, address: IpAddr, now_us: u64) -> Result<Key, RetryAfterMs> {
        let key = self.address(address);
        take(self.connects.as_ref(), key, now_us)?;
        match &self.connections {
            Some(counts) if !counts.enter(key) => Err(RetryAfterMs(1_000)),
            _ => Ok(key),
        }
    }

    /// The connection has ended.
    pub(crate) fn leave(&self, key: Key) {
        if let Some(counts) = &self.connections {
            counts.leave(key);
        }
    }

    pub(crate) fn request(&self, address: IpAddr, now_us: u64) -> Result<(), RetryAfterMs> {
        take(self.requests.as_ref(), self.address(address), now_us)
    }

    pub(crate) fn frame(&self, user: &Uuid, now_us: u64) -> Result<(), RetryAfterMs> {
        let (high, low) = user.as_u64_pair();
        take(self.frames.as_ref(), self.key(high ^ mix(low), 0), now_us)
    }
}

fn take(rates: Option<&Rates>, key: Key, now_us: u64) -> Result<(), RetryAfterMs> {
    rates.map_or(Ok(()), |rates| rates.take(key, now_us))
}

/// Token buckets, each as the time at which it will be full again (the generic cell rate algorithm).
#[derive(Debug)]
struct Rates {
    cells: Box<[AtomicU64]>,
    /// What one token takes to come back.
    token_us: u64,
}

impl Rates {
    fn new(per_s: u64) -> Self {
        let cells = (0..ROWS * LIMIT_CELLS).map(|_| AtomicU64::new(0)).collect();
        Self { cells, token_us: (US / per_s).max(1) }
    }

    fn take(&self, key: Key, now_us: u64) -> Result<(), RetryAfterMs> {
        let latest = now_us + LIMIT_BURST_S * US;
        // Shards read the clock at moments of their own.
        let after = |full_us: u64| full_us.clamp(now_us, latest) + self.token_us;
        let cells = places(key).map(|place| &self.cells[place]);
        let soonest = cells.iter().map(|cell| after(cell.load(Ordering::Relaxed))).min();
        let soonest = soonest.unwrap_or(0);
        if soonest > latest {
            return Err(RetryAfterMs((soonest - latest).div_ceil(1_000)));
        }
        for cell in cells {
            let spend = |full_us| Some(after(full_us).min(latest));
            // It is never None, so it always succeeds.
            let _ = cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend);
        }
        Ok(())
    }
}

/// How many there are of each key.
#[derive(Debug)]
struct Counts {
    cells: Box<[AtomicU32]>,
    max: u32,
}

impl Counts {
    fn new(max: u32) -> Self {
        Self { cells: (0..ROWS * LIMIT_CELLS).map(|_| AtomicU32::new(0)).collect(), max }
    }

    fn enter(&self, key: Key) -> bool {
        let places = places(key);
        let counts = places.map(|place| self.cells[place].fetch_add(1, Ordering::Relaxed));
        let allowed = counts.iter().any(|count| *count < self.max);
        if !allowed {
            self.leave(key);
        }
        allowed
    }

    fn leave(&self, key: Key) {
        for place in places(key) {
            self.cells[place].fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// The key's cell in each row.
fn places(key: Key) -> [usize; ROWS] {
    let mut hash = key.0.get();
    std::array::from_fn(|row| {
        hash = mix(hash);
        // As many low bits as there are cells; the assertion below says that they suffice.
        row * LIMIT_CELLS + usize::try_from(hash % LIMIT_CELLS as u64).unwrap_or(0)
    })
}

/// A finalizer that spreads every bit (Stafford's variant 13).
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000 * US;

    fn address(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    #[test]
    fn a_burst_then_the_rate_then_again_a_burst() {
        let limits = Limits::new(Allowed { requests_per_s: 10, ..Allowed::default() });
        let one = address(1);
        let taken = (0..1_000).filter(|_| limits.request(one, NOW).is_ok()).count();
        assert_eq!(taken, 10 * usize::try_from(LIMIT_BURST_S).unwrap());
        assert_eq!(limits.request(one, NOW), Err(RetryAfterMs(100)));
        assert_eq!(limits.request(one, NOW + 99_000), Err(RetryAfterMs(1)));
        assert_eq!(limits.request(one, NOW + 100_000), Ok(()));
        assert!(limits.request(one, NOW + 100_000).is_err());
        assert_eq!(limits.request(address(2), NOW), Ok(()));
        let later = NOW + 60 * US;
        let taken = (0..1_000).filter(|_| limits.request(one, later).is_ok()).count();
        assert_eq!(taken, 10 * usize::try_from(LIMIT_BURST_S).unwrap());
    }

    #[test]
    fn connections_are_counted_to_the_limit_and_not_one_further() {
        let limits = Limits::new(Allowed { connections: 3, ..Allowed::default() });
        let keys: Vec<_> = (0..3).map(|_| limits.enter(address(1), NOW).unwrap()).collect();
        assert!(limits.enter(address(1), NOW).is_err());
        assert!(limits.enter(address(2), NOW).is_ok());
        limits.leave(keys[0]);
        assert!(limits.enter(address(1), NOW).is_ok());
        assert!(limits.enter(address(1), NOW).is_err());
        let host = |text: &str| limits.enter(text.parse().unwrap(), NOW);
        for host_part in 1..=3 {
            assert!(host(&format!("2001:db8::{host_part}")).is_ok());
        }
        assert!(host("2001:db8::ffff").is_err(), "one /64 is one host");
        assert!(host("2001:db8:0:1::1").is_ok());
        assert!(host("::ffff:0.0.0.1").is_err(), "an IPv4 address is the same in IPv6 clothes");
    }

    #[test]
    fn many_addresses_do_not_get_in_each_others_way() {
        let allowed = Allowed { connections: 64, requests_per_s: 20, ..Allowed::default() };
        let limits = Limits::new(allowed);
        let refused = (0..20_000).filter(|number| {
            let entered = limits.enter(address(*number), NOW).is_ok();
            !(entered && (0..20).all(|_| limits.request(address(*number), NOW).is_ok()))
        });
        assert!(refused.count() < 20, "one in a thousand is unlucky at most");
    }

    #[test]
    fn without_limits_everything_is_allowed() {
        let limits = Limits::new(Allowed::default());
        for _ in 0..10_000 {
            assert!(limits.enter(address(1), NOW).is_ok());
            assert!(limits.request(address(1), NOW).is_ok());
            assert!(limits.frame(&Uuid::nil(), NOW).is_ok());
        }
    }

    #[test]
    fn what_enters_from_several_threads_leaves_nothing_behind() {
        let limits = Limits::new(Allowed { connections: 8, ..Allowed::default() });
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for number in 0..20_000 {
                        if let Ok(key) = limits.enter(address(number % 5), NOW) {
                            limits.leave(key);
                        }
                    }
                });
            }
        });
        let counts = limits.connections.unwrap();
        assert!(counts.cells.iter().all(|cell| cell.load(Ordering::Relaxed) == 0));
    }
}
