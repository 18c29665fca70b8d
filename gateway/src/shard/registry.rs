//! Which sessions a user has in this shard: a table of the first ones, which holds slots alone (5
//! bytes a user), and a list through the sessions.

use crate::mailbox::mix;
use crate::shard::table::{NO_SLOT, Table};
use hashbrown::HashTable;
use proto::Uuid;
use std::hash::{BuildHasher, Hasher};

/// Ids are well spread by [`mix`]; the seed keeps chosen ids from meeting in one bucket.
#[derive(Clone)]
pub(crate) struct IdHash {
    seed: u64,
}

pub(crate) struct IdHasher {
    hash: IdHash,
    state: u64,
}

impl IdHash {
    pub(crate) fn new() -> Self {
        Self { seed: fastrand::u64(..) }
    }

    fn of(&self, id: &Uuid) -> u64 {
        let hash = (self.seed ^ mix(id)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash ^ (hash >> 32)
    }
}

impl BuildHasher for IdHash {
    type Hasher = IdHasher;

    fn build_hasher(&self) -> IdHasher {
        IdHasher { hash: self.clone(), state: 0 }
    }
}

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        if let Ok(id) = Uuid::from_slice(bytes) {
            self.state = self.hash.of(&id);
        }
    }

    /// The length in front of the id's bytes says nothing.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.state
    }
}

pub(crate) struct Registry {
    /// The slot of each user's first session. The user itself is in the session.
    first: HashTable<u32>,
    hash: IdHash,
    sessions: usize,
}

impl Registry {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { first: HashTable::with_capacity(capacity), hash: IdHash::new(), sessions: 0 }
    }

    /// The first of a user's sessions; each session names the next.
    pub(crate) fn first(&self, table: &Table, user: &Uuid) -> u32 {
        let found = self.first.find(self.hash.of(user), |slot| is_of(table, *slot, user));
        found.copied().unwrap_or(NO_SLOT)
    }

    /// As [`Self::first`] of each of the users, into `slots`. Two short passes, so that what the
    /// processor has to fetch for one user, it fetches while it waits for others.
    pub(crate) fn first_of_each(&self, table: &Table, users: &[Uuid], slots: &mut Vec<u32>) {
        slots.clear();
        slots.extend(users.iter().map(|user| {
            // Whoever is found first under the hash is hardly ever somebody else.
            self.first.find(self.hash.of(user), |_| true).copied().unwrap_or(NO_SLOT)
        }));
        for (slot, user) in slots.iter_mut().zip(users) {
            if *slot != NO_SLOT && !is_of(table, *slot, user) {
                *slot = self.first(table, user);
            }
        }
    }

    /// Puts the slot's session, which is in the table, in front of the user's others.
    pub(crate) fn add(&mut self, table: &mut Table, slot: u32) {
        let Some(user) = table.session(slot).map(|session| session.user) else { return };
        let hash = self.hash.of(&user);
        let before = match self.first.find_mut(hash, |it| is_of(table, *it, &user)) {
            Some(first) => std::mem::replace(first, slot),
            None => {
                let again = |it: &u32| table.session(*it).map_or(0, |it| self.hash.of(&it.user));
                self.first.insert_unique(hash, slot, again);
                NO_SLOT
            }
        };
        if let Some(session) = table.session_mut(slot) {
            session.next_of_user = before;
        }
        self.sessions += 1;
    }

    /// Takes the slot's session, which is still in the table, out of the user's list.
    pub(crate) fn remove(&mut self, table: &mut Table, slot: u32) {
        let Some((user, next)) = table.session(slot).map(|it| (it.user, it.next_of_user)) else {
            return;
        };
        let hash = self.hash.of(&user);
        if let Ok(mut first) = self.first.find_entry(hash, |it| *it == slot) {
            if next == NO_SLOT {
                first.remove();
            } else {
                *first.get_mut() = next;
            }
            self.sessions -= 1;
            return;
        }
        let mut at = self.first(table, &user);
        while let Some(session) = table.session_mut(at) {
            if session.next_of_user == slot {
                session.next_of_user = next;
                self.sessions -= 1;
                return;
            }
            at = session.next_of_user;
        }
    }

    pub(crate) fn sessions(&self) -> usize {
        self.sessions
    }
}

fn is_of(table: &Table, slot: u32, user: &Uuid) -> bool {
    table.session(slot).is_some_and(|session| session.user == *user)
}
