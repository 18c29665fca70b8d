//! Which sessions of this shard are told of which users' presence.

use crate::shard::registry::IdHash;
use proto::Uuid;
use std::collections::HashMap;

pub(crate) struct Watchers {
    slots: HashMap<Uuid, Vec<u32>, IdHash>,
}

impl Watchers {
    pub(crate) fn new() -> Self {
        Self { slots: HashMap::with_hasher(IdHash::new()) }
    }

    /// The slots of the sessions that watch `user`.
    pub(crate) fn of(&self, user: &Uuid) -> &[u32] {
        self.slots.get(user).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn add(&mut self, slot: u32, users: &[Uuid]) {
        for user in users {
            self.slots.entry(*user).or_default().push(slot);
        }
    }

    pub(crate) fn remove(&mut self, slot: u32, users: &[Uuid]) {
        for user in users {
            let Some(slots) = self.slots.get_mut(user) else { continue };
            if let Some(at) = slots.iter().position(|it| *it == slot) {
                slots.swap_remove(at);
            }
            if slots.is_empty() {
                self.slots.remove(user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watcher_that_is_removed_leaves_nothing_behind() {
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let mut watchers = Watchers::new();
        watchers.add(1, &[a, b]);
        watchers.add(2, &[a]);
        assert_eq!(watchers.of(&a), [1, 2]);
        watchers.remove(1, &[a, b]);
        assert_eq!(watchers.of(&a), [2]);
        watchers.remove(2, &[a]);
        assert!(watchers.slots.is_empty());
    }
}
