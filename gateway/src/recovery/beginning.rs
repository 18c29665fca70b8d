//! Where a conversation begins for a user. Pure.

use proto::client::{ServerFrame, server_frame::Frame};
use proto::{Message, Uuid};

/// Does the frame hold an event before which there is nothing of its conversation for this user: the first one,
/// or the one that makes the user a member?
#[must_use]
pub fn is_beginning(frame: &[u8], user: &Uuid) -> bool {
    let Ok(ServerFrame { frame: Some(Frame::Event(event)), .. }) = ServerFrame::decode(frame)
    else {
        return false;
    };
    event.adds(user) || event.sequence_number == 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::client::{Event, MembershipChanged, event::Kind};

    #[test]
    fn a_conversation_begins_with_its_first_event_or_with_the_users_own_joining() {
        let [user, other] = [1, 2].map(Uuid::from_u128);
        let frame = |sequence_number, added: &[Uuid]| {
            let added_user_ids = added.iter().map(|id| id.as_bytes().to_vec()).collect();
            let change = MembershipChanged { added_user_ids, ..MembershipChanged::default() };
            let kind = (!added.is_empty()).then_some(Kind::MembershipChanged(change));
            let event = Event { sequence_number, kind, ..Event::default() };
            ServerFrame { request_id: 0, frame: Some(Frame::Event(event)) }.encode_to_vec()
        };
        assert!(
            is_beginning(&frame(1, &[]), &user) && is_beginning(&frame(7, &[other, user]), &user)
        );
        assert!(!is_beginning(&frame(7, &[]), &user) && !is_beginning(&frame(7, &[other]), &user));
        assert!(!is_beginning(b"no frame", &user));
    }
}
