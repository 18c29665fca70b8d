//! A conversation whose members come and go during the run, and who may be shown what of it.
//!
//! Whoever is a member from one event on to another is shown these and all between them, the one that ends it
//! included, and nothing else. Who joins again begins with that: what was missed before is no longer theirs.

use crate::database::{Conversation, Logged, State};
use crate::limits::{MEMBERSHIP_CHANGES, STORM_US, USERS};
use crate::{Outside, chatd};
use ::chatd::rules::Change;
use fastrand::Rng;
use proto::Uuid;
use proto::client::event::Kind;
use std::collections::BTreeMap;

/// Something of it that an application was shown.
#[derive(Debug)]
pub(crate) struct Shown {
    /// The session, as the history names it.
    pub(crate) name: String,
    pub(crate) user: Uuid,
    pub(crate) sequence_number: u64,
}

/// From the event that began a membership to the one that ended it, if it is over.
type Stay = (u64, Option<u64>);

/// Its members at the beginning, of whom the first made it and stays.
pub(crate) fn first_members(random: &mut Rng, users: &[Uuid]) -> Vec<Uuid> {
    users[..random.usize(1..=USERS)].to_vec()
}

/// Somebody joins, is removed or leaves, at these times.
pub(crate) fn plan(random: &mut Rng, users: &[Uuid]) -> Vec<(u64, chatd::Changed)> {
    let mut changes = Vec::new();
    for number in 0..random.usize(MEMBERSHIP_CHANGES) {
        let user_id = users[random.usize(1..users.len())];
        let (sender, change) = match random.u8(..3) {
            0 => (users[0], Change::Add { user_ids: vec![user_id], is_keyed: true }),
            1 => (users[0], Change::Remove { user_id }),
            _ => (user_id, Change::Remove { user_id }),
        };
        let changed = chatd::Changed { sender, key: format!("change-{number}"), change };
        changes.push((random.u64(..STORM_US), changed));
    }
    changes
}

/// What each user could ever be shown, by the log.
fn stays(state: &State, conversation: Uuid) -> BTreeMap<Uuid, Vec<Stay>> {
    let mut stays: BTreeMap<Uuid, Vec<Stay>> = BTreeMap::new();
    let rows = state.log.range((conversation, 0)..=(conversation, u64::MAX));
    for ((_, sequence_number), Logged { event, .. }) in rows {
        let Some(Kind::MembershipChanged(change)) = &event.kind else { continue };
        let ids = |packed: &[Vec<u8>]| -> Vec<Uuid> {
            packed.iter().filter_map(|id| Uuid::from_slice(id).ok()).collect()
        };
        for user in ids(&change.added_user_ids) {
            stays.entry(user).or_default().push((*sequence_number, None));
        }
        for user in ids(&change.removed_user_ids) {
            if let Some(stay) = stays.entry(user).or_default().last_mut() {
                stay.1 = Some(*sequence_number);
            }
        }
    }
    stays
}

/// Has somebody who was shown it up to `seen` everything? Who never was there has. `is_late`: the device first came
/// when all changes were made.
pub(crate) fn has_all(outside: &Outside, user: Uuid, is_late: bool, seen: Option<u64>) -> bool {
    let (state, conversation) = (&outside.database.borrow().state, outside.revolving);
    let last =
        state.conversations.get(&conversation).map(|it: &Conversation| it.last_sequence_number);
    match (state.members.get(&(conversation, user)), seen) {
        (None, seen) => seen.is_none(),
        (Some((_, None)), seen) => seen == last,
        // Who never heard of it need not hear of its end.
        (Some((_, Some(_))), None) => true,
        // A device that came after the removal may be pushed the joining alone, if that is read or published again;
        // its next resume tells it.
        (Some((joined, Some(left))), Some(seen)) => seen < *joined || seen == *left || is_late,
    }
}

/// Says of everything that was shown whether it was to be shown, and after what.
pub(crate) fn judge(outside: &Outside) -> Vec<String> {
    let database = outside.database.borrow();
    let stays = stays(&database.state, outside.revolving);
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    let mut violations = Vec::new();
    for Shown { name, user, sequence_number: seq } in &outside.shown {
        let stays = stays.get(user).map_or(&[][..], Vec::as_slice);
        let stay = stays.iter().find(|(from, to)| seq >= from && to.is_none_or(|to| *seq <= to));
        let Some((from, _)) = stay else {
            violations.push(format!("{name} was shown {seq}, but was a member in {stays:?}"));
            continue;
        };
        let before = last.insert(name, *seq);
        if before.is_none_or(|before| before < *from) && seq == from {
            continue;
        }
        // What nobody could ask for any more was told as passed over.
        let has_joined_again = stays.iter().any(|(later, _)| later > seq);
        if before.is_some_and(|before| before >= *seq)
            || (before != Some(seq - 1) && !has_joined_again)
        {
            violations
                .push(format!("{name} was shown {seq} after {before:?}, a member in {stays:?}"));
        }
    }
    violations
}
