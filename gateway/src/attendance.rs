//! Which users have a session in a shard, for the threads that mail to it: a counting Bloom filter,
//! which one thread changes and others read without a lock. It may say that a user is there who is
//! not, never the reverse.

use crate::limits::{ATTENDANCE_CELLS_MIN, ATTENDANCE_CELLS_PER_SESSION, ATTENDANCE_PROBES};
use crate::mailbox::mix;
use proto::Uuid;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering, fence};

pub(crate) struct Attendance {
    /// How many sessions are counted in each cell; one that is full stays so. A power of two of them.
    /// Only the shard looks at them.
    cells: Box<[AtomicU8]>,
    /// Which cells count any: little enough to stay in a cache.
    taken: Box<[AtomicU64]>,
    /// Sessions that ever began.
    arrivals: AtomicU64,
}

/// What was known before a letter was posted.
pub(crate) struct Before {
    arrivals: u64,
    is_expected: bool,
}

impl Attendance {
    /// With more sessions than these, it is wrong more often.
    pub(crate) fn new(sessions: usize) -> Self {
        let cells = sessions.saturating_mul(ATTENDANCE_CELLS_PER_SESSION);
        let cells = cells.max(ATTENDANCE_CELLS_MIN).next_power_of_two();
        let taken = (0..cells.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        let cells = (0..cells).map(|_| AtomicU8::new(0)).collect();
        Self { cells, taken, arrivals: AtomicU64::new(0) }
    }

    /// By the shard: a session of the user began. To be called before the shard looks into its
    /// mailbox again.
    pub(crate) fn arrive(&self, user: &Uuid) {
        for index in self.probes(user) {
            let count = self.cells[index].load(Ordering::Relaxed);
            self.cells[index].store(count.saturating_add(1), Ordering::Relaxed);
            let word = self.taken[index / 64].load(Ordering::Relaxed);
            self.taken[index / 64].store(word | 1 << (index % 64), Ordering::Relaxed);
        }
        // One writer, here as with the cells.
        let arrivals = self.arrivals.load(Ordering::Relaxed) + 1;
        self.arrivals.store(arrivals, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// By the shard: a session of the user ended.
    pub(crate) fn leave(&self, user: &Uuid) {
        for index in self.probes(user) {
            let count = self.cells[index].load(Ordering::Relaxed);
            if count < u8::MAX {
                self.cells[index].store(count.saturating_sub(1), Ordering::Relaxed);
            }
            if count <= 1 {
                let word = self.taken[index / 64].load(Ordering::Relaxed);
                self.taken[index / 64].store(word & !(1 << (index % 64)), Ordering::Relaxed);
            }
        }
    }

    /// To be asked before a letter for these users is posted, and [`Self::is_wanted`] after it.
    pub(crate) fn expects(&self, users: &[Uuid]) -> Before {
        let arrivals = self.arrivals.load(Ordering::Acquire);
        Before { arrivals, is_expected: users.iter().any(|user| self.may_be_there(user)) }
    }

    /// Whether one of the users may be there. If not, the letter may lie until the shard looks into
    /// its mailbox for another reason: a user who arrives later makes the shard find it, for either
    /// the arrival is seen here, or the letter by the shard after the arrival.
    pub(crate) fn is_wanted(&self, before: &Before) -> bool {
        fence(Ordering::SeqCst);
        before.is_expected || self.arrivals.load(Ordering::Relaxed) != before.arrivals
    }

    fn may_be_there(&self, user: &Uuid) -> bool {
        let is_taken =
            |index: usize| self.taken[index / 64].load(Ordering::Relaxed) & 1 << (index % 64) != 0;
        self.probes(user).all(is_taken)
    }

    fn probes(&self, user: &Uuid) -> impl Iterator<Item = usize> + use<> {
        let (hash, mask) = (mix(user), self.cells.len() - 1);
        // The low bits choose the shard: take others. 21 bits for each probe.
        (0..ATTENDANCE_PROBES).map(move |probe| {
            let bits = hash.rotate_right(11 + 21 * probe).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            usize::try_from(bits >> 32).unwrap_or_default() & mask
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_wanted(attendance: &Attendance, users: &[Uuid]) -> bool {
        attendance.is_wanted(&attendance.expects(users))
    }

    #[test]
    fn who_is_there_is_always_found_and_who_is_not_hardly_ever() {
        const SESSIONS: usize = 10_000;
        let attendance = Attendance::new(SESSIONS);
        let there: Vec<Uuid> = (0..SESSIONS / 2).map(|_| proto::id::new()).collect();
        there.iter().for_each(|user| attendance.arrive(user));
        assert!(there.iter().all(|user| is_wanted(&attendance, &[*user])));
        let absent: Vec<Uuid> = (0..SESSIONS).map(|_| proto::id::new()).collect();
        let wrong = absent.iter().filter(|user| is_wanted(&attendance, &[**user])).count();
        assert!(wrong < SESSIONS / 200, "{wrong} of {SESSIONS}");
        there.iter().for_each(|user| attendance.leave(user));
        assert!(!there.iter().any(|user| is_wanted(&attendance, &[*user])));
    }

    #[test]
    fn a_user_is_there_until_the_last_session_ends() {
        let (attendance, user) = (Attendance::new(1), proto::id::new());
        attendance.arrive(&user);
        attendance.arrive(&user);
        attendance.leave(&user);
        assert!(is_wanted(&attendance, &[proto::id::new(), user]));
        attendance.leave(&user);
        assert!(!is_wanted(&attendance, &[user]));
    }

    #[test]
    fn a_full_cell_stays_full() {
        let (attendance, user) = (Attendance::new(1), proto::id::new());
        (0..300).for_each(|_| attendance.arrive(&user));
        (0..300).for_each(|_| attendance.leave(&user));
        assert!(is_wanted(&attendance, &[user]));
    }

    #[test]
    fn whoever_arrives_between_the_question_and_the_letter_is_seen() {
        let (attendance, user) = (Attendance::new(1), proto::id::new());
        let before = attendance.expects(&[user]);
        assert!(!attendance.is_wanted(&before));
        attendance.arrive(&user);
        assert!(attendance.is_wanted(&before));
    }

    #[test]
    fn a_letter_and_an_arrival_at_once_never_miss_each_other() {
        use std::sync::Barrier;
        use std::sync::atomic::AtomicBool;
        const ROUNDS: usize = 2_000;
        for _ in 0..ROUNDS {
            let (attendance, user) = (Attendance::new(1), proto::id::new());
            let (letter, start) = (AtomicBool::new(false), Barrier::new(2));
            let (wanted, found) = std::thread::scope(|scope| {
                let shard = scope.spawn(|| {
                    start.wait();
                    attendance.arrive(&user);
                    letter.load(Ordering::Relaxed)
                });
                start.wait();
                let before = attendance.expects(&[user]);
                letter.store(true, Ordering::Relaxed);
                (attendance.is_wanted(&before), shard.join().unwrap())
            });
            assert!(wanted || found);
        }
    }
}
