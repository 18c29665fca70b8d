//! The API's JSON forms.

use crate::profiles::Profile;
use crate::read::View;
use proto::Uuid;
use serde_json::{Value, json};
use std::collections::HashMap;

pub(super) fn user(profile: &Profile) -> Value {
    json!({
        "user_id": profile.user_id,
        "name": profile.name,
        "display_name": profile.display_name,
        "about": profile.about,
    })
}

pub(super) fn receipts(receipts: &[(Uuid, Uuid, u64, u64)]) -> Vec<Value> {
    let receipt = |(user_id, device_id, delivered, read): &(Uuid, Uuid, u64, u64)| {
        json!({
            "user_id": user_id,
            "device_id": device_id,
            "delivered_sequence_number": delivered,
            "read_sequence_number": read,
        })
    };
    receipts.iter().map(receipt).collect()
}

/// A member; a user without a profile here has empty names.
pub(super) fn member(
    user_id: Uuid,
    joined_sequence_number: u64,
    profiles: &HashMap<Uuid, Profile>,
) -> Value {
    let profile = profiles.get(&user_id);
    json!({
        "user_id": user_id,
        "name": profile.map_or("", |it| it.name.as_str()),
        "display_name": profile.map_or("", |it| it.display_name.as_str()),
        "joined_sequence_number": joined_sequence_number,
    })
}

pub(super) fn conversation(view: &View, profiles: &HashMap<Uuid, Profile>) -> Value {
    let last_message = view.last_message.as_ref().map(|it| {
        json!({
            "sequence_number": it.sequence_number,
            "sender_id": it.sender_id,
            "text": it.text,
            "created_at_us": it.created_at_us,
        })
    });
    let members = view.members.iter();
    let members: Vec<_> =
        members.map(|it| member(it.user_id, it.joined_sequence_number, profiles)).collect();
    json!({
        "conversation_id": view.conversation_id,
        "title": view.title,
        "last_sequence_number": view.last_sequence_number,
        "message_count": view.message_count,
        "unread_count": view.unread_count,
        "read_sequence_number": view.read_sequence_number,
        "joined_sequence_number": view.joined_sequence_number,
        "muted_until_us": view.muted_until_us,
        "member_count": view.member_count,
        "members": members,
        "last_message": last_message,
        "created_at_us": view.created_at_us,
    })
}
