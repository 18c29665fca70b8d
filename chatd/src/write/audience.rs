//! Who receives a conversation's events, and a writer's cache of that.

use super::generations::Generations;
use crate::limits::AUDIENCE_CACHE_MEMBERS_MAX;
use proto::Uuid;
use proto::id::ID_BYTES;
use std::sync::Arc;

/// A conversation's members, sorted and packed as they travel in a record's headers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Audience {
    packed: Vec<u8>,
}

impl Audience {
    pub fn new(members: &[Uuid]) -> Self {
        let mut members = members.to_vec();
        members.sort_unstable();
        members.dedup();
        Self { packed: proto::id::pack(&members) }
    }

    fn ids(&self) -> &[[u8; ID_BYTES]] {
        self.packed.as_chunks().0
    }

    pub(crate) fn len(&self) -> usize {
        self.ids().len()
    }

    pub fn contains(&self, user_id: &Uuid) -> bool {
        self.ids().binary_search(user_id.as_bytes()).is_ok()
    }

    /// 16 bytes a user, back to back.
    pub fn packed(&self) -> &[u8] {
        &self.packed
    }

    /// With `users`, whether or not they were there.
    pub fn with(&self, users: &[Uuid]) -> Self {
        let mut ids: Vec<[u8; ID_BYTES]> = self.ids().to_vec();
        ids.extend(users.iter().map(|it| *it.as_bytes()));
        // Two runs that are sorted: one pass.
        ids.sort();
        ids.dedup();
        Self { packed: ids.into_flattened() }
    }

    pub fn without(&self, user_id: &Uuid) -> Self {
        let mut audience = self.clone();
        if let Ok(index) = self.ids().binary_search(user_id.as_bytes()) {
            audience.packed.drain(index * ID_BYTES..(index + 1) * ID_BYTES);
        }
        audience
    }
}

/// Audiences by conversation, valid for one version of its membership. Bounded by members.
#[derive(Debug)]
pub(crate) struct AudienceCache(Generations<(u64, Arc<Audience>)>);

impl Default for AudienceCache {
    fn default() -> Self {
        Self(Generations::new(AUDIENCE_CACHE_MEMBERS_MAX))
    }
}

impl AudienceCache {
    /// The audience, if it is known for exactly this version.
    pub(crate) fn get(&mut self, conversation_id: &Uuid, version: u64) -> Option<Arc<Audience>> {
        let (known, audience) = self.0.get(conversation_id)?;
        (*known == version).then(|| Arc::clone(audience))
    }

    pub(crate) fn put(&mut self, conversation_id: Uuid, version: u64, audience: Arc<Audience>) {
        // An empty audience still costs an entry.
        let weight = audience.len() + 1;
        self.0.put(conversation_id, (version, audience), weight);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(range: std::ops::Range<u128>) -> Vec<Uuid> {
        range.map(Uuid::from_u128).collect()
    }

    #[test]
    fn members_come_and_go_and_stay_sorted() {
        let audience = Audience::new(&[Uuid::from_u128(3), Uuid::from_u128(1), Uuid::from_u128(3)]);
        assert_eq!(audience.len(), 2);
        let more = audience.with(&[Uuid::from_u128(2)]).with(&[Uuid::from_u128(2)]);
        assert_eq!(more, Audience::new(&ids(1..4)));
        assert_eq!(more.without(&Uuid::from_u128(2)).without(&Uuid::from_u128(9)), audience);
        assert!(more.contains(&Uuid::from_u128(3)) && !more.contains(&Uuid::from_u128(4)));
    }

    #[test]
    fn the_cache_answers_for_one_version_and_forgets_what_is_not_used() {
        let mut cache = AudienceCache::default();
        let large = Arc::new(Audience::new(&ids(0..1024)));
        cache.put(Uuid::from_u128(1), 7, Arc::clone(&large));
        assert!(cache.get(&Uuid::from_u128(1), 6).is_none());
        for id in 2..10_000 {
            cache.put(Uuid::from_u128(id), 1, Arc::clone(&large));
            assert!(cache.get(&Uuid::from_u128(1), 7).is_some(), "what is used stays");
        }
        assert!(cache.get(&Uuid::from_u128(2), 1).is_none());
        let held = cache.0.len();
        assert!(held * 1024 <= AUDIENCE_CACHE_MEMBERS_MAX, "{held}");
    }
}
