//! Who receives a conversation's ephemeral events, remembered for a short while. The store is pure;
//! the threads that share it (uplink, link, Kafka) reach it through [`Audiences`].

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "shared by the edge threads; no shard comes here"
)]

use crate::limits::{AUDIENCE_BYTES_MAX, AUDIENCE_LOOKUPS_MAX, AUDIENCE_MS_MAX};
use proto::Uuid;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Members of one conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Audience {
    members: Arc<[Uuid]>,
    /// There are too many to be told that somebody types; none is known.
    is_large: bool,
}

impl Audience {
    pub(crate) fn contains(&self, user: &Uuid) -> bool {
        self.members.contains(user)
    }

    pub(crate) fn new(members: &[Uuid], is_large: bool) -> Self {
        Self { members: members.into(), is_large }
    }

    pub(crate) fn is_large(&self) -> bool {
        self.is_large
    }

    /// Packed as in a record's `recipients`.
    pub(crate) fn pack_without(&self, user: &Uuid) -> Vec<u8> {
        proto::id::pack(self.members.iter().filter(|member| *member != user))
    }
}

/// What to do about a question that waits for an audience.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found<W> {
    Known(W, Audience),
    /// Ask for it and call [`AudienceCache::answered`]; the question waits until then.
    Ask,
    /// It has been asked for already; the question waits.
    Wait,
    /// Too much is being asked for.
    Full(W),
}

struct Entry {
    audience: Audience,
    fetched_at_ms: u64,
}

struct Lookup<W> {
    waiting: Vec<W>,
    /// Membership changed since it was asked for: the answer is for those who wait, not to be kept.
    stale: bool,
}

/// Audiences by conversation, and lookups by conversation and asking user, since only a member is
/// answered. `W` is what waits for an answer. Everything is bounded: audiences by age and bytes,
/// lookups and those who wait by number.
pub(crate) struct AudienceCache<W> {
    entries: HashMap<Uuid, Entry>,
    /// Oldest first; an entry that was fetched again is in here twice, and only the later counts.
    by_age: VecDeque<(Uuid, u64)>,
    bytes: usize,
    lookups: HashMap<(Uuid, Uuid), Lookup<W>>,
    waiting: usize,
}

impl<W> Default for AudienceCache<W> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            by_age: VecDeque::new(),
            bytes: 0,
            lookups: HashMap::new(),
            waiting: 0,
        }
    }
}

impl<W> AudienceCache<W> {
    /// The conversation's audience, or what to do to get it on behalf of `user`.
    pub(crate) fn find(&mut self, conversation: Uuid, user: Uuid, who: W, now_ms: u64) -> Found<W> {
        self.expire(now_ms);
        if let Some(entry) = self.entries.get(&conversation) {
            return Found::Known(who, entry.audience.clone());
        }
        if self.waiting >= AUDIENCE_LOOKUPS_MAX {
            return Found::Full(who);
        }
        self.waiting += 1;
        if let Some(lookup) = self.lookups.get_mut(&(conversation, user)) {
            lookup.waiting.push(who);
            return Found::Wait;
        }
        let lookup = Lookup { waiting: vec![who], stale: false };
        self.lookups.insert((conversation, user), lookup);
        Found::Ask
    }

    /// The outcome of a lookup: returns those who waited for it, with the audience if there is one.
    pub(crate) fn answered(
        &mut self,
        conversation: Uuid,
        user: Uuid,
        audience: Option<Audience>,
        now_ms: u64,
    ) -> (Vec<W>, Option<Audience>) {
        let Some(lookup) = self.lookups.remove(&(conversation, user)) else {
            return (Vec::new(), None);
        };
        self.waiting -= lookup.waiting.len();
        if let Some(audience) = &audience
            && !lookup.stale
            // Only its members may learn that there is such a conversation.
            && !audience.is_large
        {
            self.keep(conversation, audience.clone(), now_ms);
        }
        (lookup.waiting, audience)
    }

    /// The conversation's membership changed.
    pub(crate) fn forget(&mut self, conversation: &Uuid) {
        self.remove(conversation);
        for (_, lookup) in self.lookups.iter_mut().filter(|(key, _)| key.0 == *conversation) {
            lookup.stale = true;
        }
    }

    fn keep(&mut self, conversation: Uuid, audience: Audience, now_ms: u64) {
        self.remove(&conversation);
        self.bytes += bytes_of(&audience);
        self.entries.insert(conversation, Entry { audience, fetched_at_ms: now_ms });
        self.by_age.push_back((conversation, now_ms));
        while self.bytes > AUDIENCE_BYTES_MAX
            && let Some((oldest, _)) = self.by_age.pop_front()
        {
            self.remove(&oldest);
        }
    }

    fn expire(&mut self, now_ms: u64) {
        while let Some((conversation, at_ms)) = self.by_age.front().copied()
            && now_ms.saturating_sub(at_ms) >= AUDIENCE_MS_MAX
        {
            self.by_age.pop_front();
            if self.entries.get(&conversation).is_some_and(|entry| entry.fetched_at_ms == at_ms) {
                self.remove(&conversation);
            }
        }
    }

    fn remove(&mut self, conversation: &Uuid) {
        if let Some(entry) = self.entries.remove(conversation) {
            self.bytes -= bytes_of(&entry.audience);
        }
    }
}

/// What an entry takes, its places in both tables included.
fn bytes_of(audience: &Audience) -> usize {
    const ENTRY_BYTES: usize = 128;
    ENTRY_BYTES + audience.members.len() * size_of::<Uuid>()
}

/// The cache as threads share it. Shards never touch it.
pub(crate) struct Audiences<W> {
    cache: Arc<Mutex<AudienceCache<W>>>,
    started_at: Instant,
}

impl<W> Clone for Audiences<W> {
    fn clone(&self) -> Self {
        Self { cache: Arc::clone(&self.cache), started_at: self.started_at }
    }
}

impl<W> Audiences<W> {
    pub(crate) fn new() -> Self {
        Self { cache: Arc::default(), started_at: Instant::now() }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, AudienceCache<W>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cache's clock.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.started_at.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::AUDIENCE_MS_MAX as TTL;

    fn cache() -> AudienceCache<u32> {
        AudienceCache::default()
    }

    fn ids<const N: usize>() -> [Uuid; N] {
        std::array::from_fn(|_| proto::id::new())
    }

    #[test]
    fn one_lookup_answers_all_who_wait_and_is_then_known_until_it_is_old() {
        let [conversation, alice, bob] = ids();
        let mut cache = cache();
        assert_eq!(cache.find(conversation, alice, 1, 0), Found::Ask);
        assert_eq!(cache.find(conversation, alice, 2, 0), Found::Wait);
        let (waiting, audience) =
            cache.answered(conversation, alice, Some(Audience::new(&[alice, bob], false)), 10);
        assert_eq!(waiting, [1, 2]);
        let audience = audience.unwrap();
        assert!(audience.contains(&bob) && !audience.contains(&conversation));
        assert_eq!(audience.pack_without(&alice), bob.as_bytes());
        let known = Found::Known(3, audience);
        assert_eq!(cache.find(conversation, bob, 3, 10 + TTL - 1), known);
        assert_eq!(cache.find(conversation, bob, 3, 10 + TTL), Found::Ask);
        assert_eq!(cache.bytes, 0);
    }

    #[test]
    fn a_user_who_is_no_member_spoils_nothing_for_a_member() {
        let [conversation, alice, mallory] = ids();
        let mut cache = cache();
        assert_eq!(cache.find(conversation, mallory, 1, 0), Found::Ask);
        assert_eq!(cache.find(conversation, alice, 2, 0), Found::Ask);
        assert_eq!(cache.answered(conversation, mallory, None, 1), (vec![1], None));
        assert_eq!(
            cache.answered(conversation, alice, Some(Audience::new(&[alice], false)), 1).0,
            [2]
        );
        assert_eq!(cache.answered(conversation, alice, None, 1), (vec![], None));
    }

    #[test]
    fn a_change_of_membership_is_not_hidden_by_an_answer_from_before_it() {
        let [conversation, alice, bob] = ids();
        let mut cache = cache();
        assert_eq!(cache.find(conversation, alice, 1, 0), Found::Ask);
        cache.forget(&conversation);
        let (waiting, _) =
            cache.answered(conversation, alice, Some(Audience::new(&[alice, bob], false)), 1);
        assert_eq!(waiting, [1]);
        assert_eq!(cache.find(conversation, alice, 2, 2), Found::Ask);
        cache.answered(conversation, alice, Some(Audience::new(&[alice], false)), 3);
        assert!(matches!(cache.find(conversation, alice, 3, 4), Found::Known(3, _)));
        cache.forget(&conversation);
        assert_eq!(cache.find(conversation, alice, 4, 5), Found::Ask);
    }

    #[test]
    fn of_a_large_conversation_nothing_is_remembered() {
        let [conversation, alice, mallory] = ids();
        let mut cache = cache();
        assert_eq!(cache.find(conversation, alice, 1, 0), Found::Ask);
        let large = Some(Audience::new(&[], true));
        let (waiting, audience) = cache.answered(conversation, alice, large, 0);
        assert!(waiting == [1] && audience.unwrap().is_large());
        assert_eq!(cache.find(conversation, mallory, 2, 0), Found::Ask);
    }

    #[test]
    fn bytes_and_lookups_are_bounded() {
        let mut cache = cache();
        let members: Vec<Uuid> = (0..1_024).map(|_| proto::id::new()).collect();
        for now_ms in 0..2_000 {
            let conversation = proto::id::new();
            assert_eq!(cache.find(conversation, members[0], 0, now_ms), Found::Ask);
            cache.answered(conversation, members[0], Some(Audience::new(&members, false)), now_ms);
            assert!(cache.bytes <= AUDIENCE_BYTES_MAX);
            assert!(cache.by_age.len() <= cache.entries.len() + 1);
        }
        for _ in 0..AUDIENCE_LOOKUPS_MAX {
            let [conversation, user] = ids();
            assert_eq!(cache.find(conversation, user, 0, 0), Found::Ask);
        }
        let [conversation, user] = ids();
        assert_eq!(cache.find(conversation, user, 7, 0), Found::Full(7));
    }
}
