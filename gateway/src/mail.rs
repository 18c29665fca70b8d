//! What reaches a shard from other threads, and what a shard asks of them. Nothing else crosses
//! a shard's border: shards share no state and take no lock.

use crate::inbound::listen::Listening;
use crate::inbound::token::Verifier;
use crate::metrics::Lane;
use crate::shard::handover::Handover;
use bytes::Bytes;
use proto::Uuid;
use proto::link::response::Response;
use rustls::ServerConfig;
use std::ops::Deref;
use std::sync::Arc;

/// A connection on its shard. The generation tells a reused slot from the one that was meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct SessionRef {
    pub(crate) shard: u16,
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

/// What a shard's mailbox takes.
pub(crate) enum Mail {
    /// A connection accepted elsewhere whose user's home is here.
    Adopt(Box<Handover>),
    /// An event for users whose home is here.
    Deliver(Delivery),
    /// A user came or went; the shard knows which of its sessions watch that user.
    Presence { user: Uuid, frame: Bytes },
    /// Whoever left before now was perhaps not announced: sessions that watch are told anew.
    PresenceForgotten,
    /// Everything that Kafka thread `consumer` mailed before this is enqueued to the sessions once
    /// this is taken: the shard then stores `ticket` in that consumer's progress slot.
    Ticket { consumer: u16, ticket: u64 },
    /// Everything of these partitions of the log below these offsets was mailed before this, except
    /// for what `skipped` tells.
    Tail { log: u64, positions: Arc<[(u16, i64)]>, skipped: Skipped },
    /// Records of this partition of the log from this offset on may come later than those behind
    /// them; None: no longer.
    Late { partition: u16, from: Option<i64> },
    /// Events of a conversation that its members whose home is here were not pushed.
    Missed(Missed),
    /// The outcome of an [`Ask`].
    Answer(Answer),
    /// These users, each with the ticket of its entering, are routed: whatever is published for them from now on is
    /// sent to this gateway.
    Routed(Vec<(Uuid, u64)>),
    /// New verification keys, valid from here on.
    Keys(Arc<Verifier>),
    /// The presence thread wants every session of this shard, for the heartbeat.
    Census,
    /// Listeners of this shard's own: from here on it accepts connections.
    Listen(Vec<Listening>),
    /// The certificate for handshakes from here on.
    Certificate(Arc<ServerConfig>),
    /// SIGTERM: accept no more, say goaway, close.
    Drain,
    /// The end, once the connections are closed; nothing is mailed after this.
    Stop,
}

/// A user came to a gateway that is routed to, or left it. An entering has a number of its own, so that its
/// confirmation is not taken for a later one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RouteNote {
    Enter { user: Uuid, ticket: u64, shard: u16 },
    Leave { user: Uuid },
}

/// What of the log was not mailed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Skipped {
    Nothing,
    /// Who misses some of it is told, see [`Mail::Missed`].
    Told,
    /// It was deleted unread, and nobody knows whose it was.
    Unknown,
}

/// What is given up first where not everything can be kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Replaced by a later one of its kind, and shed first.
    Ephemeral,
    #[default]
    Normal,
    /// Shed last.
    High,
}

/// Who gets an event.
#[derive(Debug, Clone)]
pub enum Recipients {
    Own(Box<[Uuid]>),
    /// A part of a large conversation's members, all of whom are shared by its events.
    Shared {
        all: Arc<[Uuid]>,
        from: usize,
        to: usize,
    },
}

impl Recipients {
    /// Whether it is the only part, or the first.
    pub fn is_first(&self) -> bool {
        matches!(self, Self::Own(_) | Self::Shared { from: 0, .. })
    }
}

impl Deref for Recipients {
    type Target = [Uuid];

    fn deref(&self) -> &[Uuid] {
        match self {
            Self::Own(users) => users,
            Self::Shared { all, from, to } => all.get(*from..*to).unwrap_or_default(),
        }
    }
}

/// A gap that is not one session's own.
pub(crate) struct Missed {
    pub(crate) recipients: Recipients,
    pub(crate) conversation: Uuid,
    /// Sequence numbers, inclusive.
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// One record of Kafka, as far as one shard is concerned.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Those of the record's recipients whose home is this shard.
    pub recipients: Recipients,
    /// The record's value: an encoded `ServerFrame`, ready for binary sessions.
    pub frame: Bytes,
    pub conversation: Uuid,
    /// 0 for what is not in the conversation's log.
    pub sequence_number: u64,
    pub priority: Priority,
    /// What it is counted under.
    pub lane: Lane,
    /// Of a log record: where it is in Kafka, and whether it changes who is a member.
    pub partition: u16,
    pub offset: i64,
    pub membership: bool,
    /// When the record's event was created, for the delivery latency; 0 if unknown.
    pub created_at_us: u64,
}

/// A request of one session to what lies behind the gateway.
pub(crate) struct Ask {
    pub(crate) session: SessionRef,
    /// The client's request id.
    pub(crate) request_id: u64,
    pub(crate) user: Uuid,
    pub(crate) device: Uuid,
    pub(crate) traceparent: String,
    pub(crate) kind: AskKind,
}

pub(crate) enum AskKind {
    Send(proto::client::Send),
    Sync {
        resume: bool,
        cursors: Vec<proto::client::Cursor>,
        limit: u32,
    },
    Ack(proto::client::Ack),
    /// Answered only when refused.
    Typing(proto::client::Typing),
    /// Which of these users may the session's user watch?
    PresenceAuthorize(Vec<Uuid>),
    /// Who of these users is online?
    PresenceQuery(Vec<Uuid>),
    /// The same, which the session's client did not ask.
    PresenceRefresh(Vec<Uuid>),
    Http(proto::link::Http),
}

/// What was asked, so that the answer finds its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Send,
    Resume,
    Sync,
    Ack,
    Typing,
    PresenceAuthorize,
    PresenceQuery,
    PresenceRefresh,
    Http,
}

pub(crate) struct Answer {
    pub(crate) session: SessionRef,
    pub(crate) request_id: u64,
    pub(crate) asked: Asked,
    /// An error is ready to be told to the client.
    pub(crate) outcome: Result<Response, proto::client::Error>,
}
