//! A shard's mailbox: a bounded channel, and a bell that is rung once however many letters wait.

use crate::attendance::Attendance;
use crate::mail::{Delivery, Mail};
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use mio::Waker;
use proto::Uuid;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The shard that this mailbox belongs to has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the shard has ended")]
pub(crate) struct ShardEnded;

/// The sending end; every thread has its own clone.
#[derive(Clone)]
pub(crate) struct Mailbox {
    letters: Sender<Mail>,
    bell: Arc<Bell>,
    attendance: Arc<Attendance>,
}

/// The receiving end, on the shard's thread.
pub(crate) struct Inbox {
    letters: Receiver<Mail>,
    bell: Arc<Bell>,
    attendance: Arc<Attendance>,
}

struct Bell {
    /// Rung and not yet heard: whoever finds it so need not wake the shard again.
    rung: AtomicBool,
    /// None only where nobody polls, as in tests of the sending threads.
    waker: Option<Waker>,
}

/// A mailbox of `capacity` letters whose bell wakes through `waker`.
#[cfg(test)]
pub(crate) fn pair(capacity: usize, waker: Option<Waker>) -> (Mailbox, Inbox) {
    pair_for(0, capacity, waker)
}

/// A mailbox of `capacity` letters whose bell wakes through `waker`, of a shard that is made for so
/// many sessions.
pub(crate) fn pair_for(sessions: usize, capacity: usize, waker: Option<Waker>) -> (Mailbox, Inbox) {
    let (sender, letters) = bounded(capacity);
    let bell = Arc::new(Bell { rung: AtomicBool::new(false), waker });
    let attendance = Arc::new(Attendance::new(sessions));
    let inbox = Inbox { letters, bell: Arc::clone(&bell), attendance: Arc::clone(&attendance) };
    (Mailbox { letters: sender, bell, attendance }, inbox)
}

impl Mailbox {
    /// Waits while the mailbox is full. Never called by a shard: two shards could wait for each
    /// other.
    pub(crate) fn send(&self, mail: Mail) -> Result<(), ShardEnded> {
        self.letters.send(mail).map_err(|_| ShardEnded)?;
        self.bell.ring();
        Ok(())
    }

    /// As [`Self::send`], but the shard need not hear of it before [`Self::ring`]: one bell for many
    /// letters. Where it must wait for room it rings first.
    pub(crate) fn post(&self, mail: Mail) -> Result<(), ShardEnded> {
        match self.letters.try_send(mail) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(mail)) => {
                self.bell.ring();
                self.letters.send(mail).map_err(|_| ShardEnded)
            }
            Err(TrySendError::Disconnected(_)) => Err(ShardEnded),
        }
    }

    /// As [`Self::post`], and says whether the shard is to be woken: not if none of the recipients
    /// has a session there. Such a letter is for the cache of recent events alone.
    pub(crate) fn deliver(&self, delivery: Delivery) -> Result<bool, ShardEnded> {
        let before = self.attendance.expects(&delivery.recipients);
        self.post(Mail::Deliver(delivery))?;
        Ok(self.attendance.is_wanted(&before))
    }

    /// Wakes the shard for what was posted.
    pub(crate) fn ring(&self) {
        self.bell.ring();
    }

    /// Never waits; what cannot be taken comes back.
    #[allow(clippy::result_large_err, reason = "the letter itself comes back, unboxed as it came")]
    pub(crate) fn try_send(&self, mail: Mail) -> Result<(), Mail> {
        match self.letters.try_send(mail) {
            Ok(()) => {
                self.bell.ring();
                Ok(())
            }
            Err(TrySendError::Full(mail) | TrySendError::Disconnected(mail)) => Err(mail),
        }
    }
}

impl Bell {
    fn ring(&self) {
        // A letter is in the channel before this swap; the shard clears the flag before it looks
        // into the channel. So either the shard sees the letter, or this sees the flag cleared.
        if !self.rung.swap(true, Ordering::AcqRel)
            && let Some(waker) = &self.waker
            && let Err(error) = waker.wake()
        {
            tracing::error!(%error, "a shard could not be woken");
        }
    }
}

impl Inbox {
    /// To be called before letters are taken; later letters ring again.
    pub(crate) fn hush(&self) {
        self.bell.rung.swap(false, Ordering::AcqRel);
    }

    /// A session of the user began; tells those who post letters. To be called before letters are
    /// taken.
    pub(crate) fn arrived(&self, user: &Uuid) {
        self.attendance.arrive(user);
    }

    /// A session of the user ended.
    pub(crate) fn left(&self, user: &Uuid) {
        self.attendance.leave(user);
    }

    /// The next letter, or None when there is none now.
    pub(crate) fn take(&self) -> Option<Mail> {
        self.letters.try_recv().ok()
    }

    /// Whether letters wait.
    pub(crate) fn is_empty(&self) -> bool {
        self.letters.is_empty()
    }
}

/// Every shard's mailbox, in the order of the shards.
#[derive(Clone)]
pub(crate) struct Mailboxes {
    all: Arc<[Mailbox]>,
}

impl Mailboxes {
    /// At least one and at most 65,535 mailboxes.
    pub(crate) fn new(all: Vec<Mailbox>) -> Self {
        debug_assert!(!all.is_empty() && u16::try_from(all.len()).is_ok());
        Self { all: all.into() }
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// The home shard of a user.
    pub(crate) fn home(&self, user: &Uuid) -> u16 {
        let shards = self.all.len() as u64;
        u16::try_from(mix(user) % shards.max(1)).unwrap_or_default()
    }

    pub(crate) fn get(&self, shard: u16) -> &Mailbox {
        &self.all[usize::from(shard)]
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &Mailbox> {
        self.all.iter()
    }
}

/// Spreads ids that differ in few bits (UUIDv7s of one millisecond) over all 64 bits: a folded
/// 128-bit product of the two halves, each with its own odd constant, then the finish of MurmurHash3.
pub(crate) fn mix(id: &Uuid) -> u64 {
    let (high, low) = id.as_u64_pair();
    let product =
        u128::from(high ^ 0x9e37_79b9_7f4a_7c15) * u128::from(low ^ 0xd1b5_4a32_d192_ed03);
    let [low, high] = [product & u128::from(u64::MAX), product >> 64]
        .map(|half| u64::try_from(half).unwrap_or_default());
    let mut hash = low ^ high;
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_come_in_order_and_a_full_box_gives_them_back() {
        let (mailbox, inbox) = pair(2, None);
        mailbox.send(Mail::Census).unwrap();
        assert!(mailbox.try_send(Mail::Drain).is_ok());
        assert!(matches!(mailbox.try_send(Mail::Census), Err(Mail::Census)));
        inbox.hush();
        assert!(matches!(inbox.take(), Some(Mail::Census)));
        assert!(matches!(inbox.take(), Some(Mail::Drain)));
        assert!(inbox.take().is_none());
        drop(inbox);
        assert_eq!(mailbox.send(Mail::Drain), Err(ShardEnded));
    }

    #[test]
    fn the_bell_is_rung_once_until_it_is_heard() {
        let mut poll = mio::Poll::new().unwrap();
        let waker = Waker::new(poll.registry(), mio::Token(7)).unwrap();
        let (mailbox, inbox) = pair(16, Some(waker));
        for _ in 0..10 {
            mailbox.send(Mail::Census).unwrap();
        }
        let mut events = mio::Events::with_capacity(4);
        poll.poll(&mut events, Some(std::time::Duration::from_secs(5))).unwrap();
        assert_eq!(events.iter().count(), 1);
        inbox.hush();
        assert_eq!(std::iter::from_fn(|| inbox.take()).count(), 10);
        mailbox.send(Mail::Census).unwrap();
        poll.poll(&mut events, Some(std::time::Duration::from_secs(5))).unwrap();
        assert_eq!(events.iter().count(), 1);
    }

    #[test]
    fn posted_letters_ring_once_and_a_full_box_rings_before_it_waits() {
        let mut poll = mio::Poll::new().unwrap();
        let waker = Waker::new(poll.registry(), mio::Token(7)).unwrap();
        let (mailbox, inbox) = pair(4, Some(waker));
        let mut events = mio::Events::with_capacity(4);
        for _ in 0..4 {
            mailbox.post(Mail::Census).unwrap();
        }
        poll.poll(&mut events, Some(std::time::Duration::ZERO)).unwrap();
        assert!(events.is_empty());
        std::thread::scope(|scope| {
            let fifth = scope.spawn(|| mailbox.post(Mail::Drain));
            poll.poll(&mut events, Some(std::time::Duration::from_secs(5))).unwrap();
            assert_eq!(events.iter().count(), 1);
            inbox.hush();
            assert!(matches!(inbox.take(), Some(Mail::Census)));
            fifth.join().unwrap().unwrap();
        });
        mailbox.ring();
        poll.poll(&mut events, Some(std::time::Duration::from_secs(5))).unwrap();
        assert_eq!(events.iter().count(), 1);
        drop(inbox);
        assert_eq!(mailbox.post(Mail::Drain), Err(ShardEnded));
    }

    #[test]
    fn users_of_one_moment_spread_evenly_over_the_shards() {
        let boxes = Mailboxes::new((0..7).map(|_| pair(1, None).0).collect());
        let mut counts = [0_u32; 7];
        for _ in 0..70_000 {
            counts[usize::from(boxes.home(&proto::id::new()))] += 1;
        }
        assert!(counts.iter().all(|count| (9_000..11_000).contains(count)), "{counts:?}");
    }
}
