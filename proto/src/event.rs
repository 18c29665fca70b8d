//! What is asked of events by servers and clients alike.

use crate::Uuid;
use crate::client::{Event, event::Kind};

impl Event {
    /// Does it make `user` a member? Then nothing before it is this user's to see.
    #[must_use]
    pub fn adds(&self, user: &Uuid) -> bool {
        match &self.kind {
            Some(Kind::MembershipChanged(change)) => {
                change.added_user_ids.iter().any(|id| id.as_slice() == user.as_bytes())
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::MembershipChanged;

    #[test]
    fn only_a_change_of_members_that_names_the_user_as_added_adds_it() {
        let [user, other] = [1, 2].map(Uuid::from_u128);
        let change = |added: Uuid, removed: Uuid| Event {
            kind: Some(Kind::MembershipChanged(MembershipChanged {
                added_user_ids: vec![added.as_bytes().to_vec()],
                removed_user_ids: vec![removed.as_bytes().to_vec()],
                ..MembershipChanged::default()
            })),
            ..Event::default()
        };
        assert!(change(user, other).adds(&user));
        assert!(!change(other, user).adds(&user) && !Event::default().adds(&user));
    }
}
