//! What the HTTP API answers. Fields that an older or newer server does not send have defaults.

use proto::Uuid;
use proto::client::{Event, ReceiptSummary};
use serde::{Deserialize, Serialize};

/// Signed in: the account, its device and its tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    pub user_id: Uuid,
    pub device_id: Uuid,
    /// Not told by a refresh.
    #[serde(default)]
    pub name: String,
    pub access_token: String,
    pub refresh_token: String,
    /// Seconds for which the access token is valid from now on.
    pub expires_in: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Me {
    pub user_id: Uuid,
    pub name: String,
    pub display_name: String,
    pub about: String,
    pub device_id: Uuid,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct User {
    pub user_id: Uuid,
    pub name: String,
    pub display_name: String,
    pub about: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Conversation {
    pub conversation_id: Uuid,
    pub title: String,
    /// The newest event of the log.
    pub last_sequence_number: u64,
    pub message_count: u64,
    pub unread_count: u64,
    /// How far this user has read.
    pub read_sequence_number: u64,
    /// The first event that this user may see.
    pub joined_sequence_number: u64,
    /// Until then there are no push requests of it; nothing: it is not muted.
    pub muted_until_us: Option<u64>,
    pub members: Vec<Member>,
    pub last_message: Option<LastMessage>,
    pub created_at_us: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Member {
    pub user_id: Uuid,
    pub name: String,
    pub display_name: String,
    /// 0 where a list of conversations names the member.
    pub joined_sequence_number: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LastMessage {
    pub sequence_number: u64,
    pub sender_id: Uuid,
    pub text: String,
    pub created_at_us: u64,
}

/// A page of a conversation's log, in ascending order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventPage {
    pub events: Vec<Event>,
    pub last_sequence_number: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SentMessage {
    pub message_id: Uuid,
    pub sequence_number: u64,
    pub message_number: u64,
    pub created_at_us: u64,
    /// The key was known: this is the first answer again.
    pub repeated: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Receipt {
    pub user_id: Uuid,
    pub device_id: Uuid,
    pub delivered_sequence_number: u64,
    pub read_sequence_number: u64,
}

/// How far the members of a conversation have come.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Receipts {
    /// Of as many devices as one answer names.
    pub receipts: Vec<Receipt>,
    /// Of a conversation that is, or was, too large to tell of each receipt.
    pub summary: Option<ReceiptSummary>,
}

/// What became of a message.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Trace {
    pub message_id: Uuid,
    pub conversation_id: Uuid,
    pub sequence_number: u64,
    pub created_at_us: u64,
    /// The relay has published it.
    pub relayed: bool,
    pub receipts: Vec<Receipt>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    pub device_id: Uuid,
    pub name: String,
    pub created_at_us: u64,
    pub last_seen_at_us: u64,
    /// This is the device that asks.
    pub current: bool,
}

/// A change of membership took this sequence number.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Changed {
    pub sequence_number: u64,
}
