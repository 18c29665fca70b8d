//! What the library tells the application.

use proto::Uuid;
use proto::client::{Event, Sent};

/// How an event came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Path {
    /// Pushed as it happened.
    Live,
    /// Asked for: by a resume, or to heal a gap.
    Sync,
}

impl Path {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Sync => "sync",
        }
    }
}

/// One event for the application. Of each conversation's log (sequence numbers from 1) every event
/// comes once and in order; events without a sequence number come as the server pushes them.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    pub conversation: Uuid,
    /// 0 for what is not in the log: receipts and their summaries, typing, presence, profiles.
    pub sequence_number: u64,
    pub path: Path,
    /// The request that this answers (presence states); 0 for what was pushed.
    pub request_id: u64,
    pub event: Event,
}

/// What a session's consumer receives.
#[derive(Debug, Clone, PartialEq)]
pub enum Update {
    Event(Delivery),
    Notice(Notice),
}

/// What happened to the connection. Every notice goes to the hook; those for which
/// [`Notice::is_status`] holds go to the event queue, too.
#[derive(Debug, Clone, PartialEq)]
pub enum Notice {
    /// An attempt to connect begins; `url` is an index into the session's URLs.
    Dialing {
        url: usize,
    },
    DialFailed {
        url: usize,
        problem: String,
        status: Option<u16>,
    },
    /// The WebSocket is open; the hello is on its way.
    Opened {
        url: usize,
    },
    Welcomed(Box<proto::client::Welcome>),
    /// All gaps are healed: from here on events come as they happen.
    Live,
    /// The connection is gone; the library connects again unless `Ended` follows.
    Closed {
        code: Option<u16>,
        reason: String,
        by_us: bool,
    },
    /// The server answered the hello with an error.
    Refused {
        code: String,
        message: String,
        retryable: bool,
    },
    /// An error frame that belongs to no send.
    Trouble {
        request_id: u64,
        code: String,
        message: String,
    },
    Goaway {
        reason: String,
        delay_ms: u64,
    },
    /// An event of a conversation's log as it came, before healing and de-duplication.
    Received {
        conversation: Uuid,
        sequence_number: u64,
        message_id: Option<Uuid>,
        path: Path,
        duplicate: bool,
    },
    /// The server told of events that it did not push.
    Gap {
        conversation: Uuid,
        from: u64,
        to: u64,
        reason: String,
    },
    /// The library asks for what lies beyond these cursors.
    Healing {
        cursors: Vec<(Uuid, u64)>,
    },
    /// A resume or a sync ended.
    Synced {
        verdicts: Vec<proto::client::Verdict>,
    },
    /// Events that the server says this user cannot see (from before a second joining).
    Skipped {
        conversation: Uuid,
        from: u64,
        to: u64,
    },
    /// The server was set back: it knows of no event beyond `to`, and of those up to `from`, the last
    /// that this device was given, no more. What comes next begins behind `to`.
    Rewound {
        conversation: Uuid,
        from: u64,
        to: u64,
    },
    /// The conversation is no longer this user's.
    Reset {
        conversation: Uuid,
    },
    TokenRefreshed {
        expires_at_us: u64,
    },
    /// The session is over: it was closed, or its token source gave up for good.
    Ended {
        reason: String,
    },
}

impl Notice {
    /// Does it go to the event queue?
    #[must_use]
    pub const fn is_status(&self) -> bool {
        !matches!(
            self,
            Self::Dialing { .. }
                | Self::Opened { .. }
                | Self::Received { .. }
                | Self::Healing { .. }
                | Self::Synced { .. }
        )
    }
}

/// Why a send will not be answered with a [`Sent`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The server's final word. Nothing was stored under this key by this send.
    #[error("{message} ({code})")]
    Refused { code: String, message: String },
    /// Too many sends wait for their answer already; this one was not taken.
    #[error("{PENDING} sends wait for their answer already", PENDING = crate::limits::PENDING_SENDS_MAX)]
    Overloaded,
    /// The session ended before an answer came: the message may or may not have been stored.
    #[error("the session ended before an answer came: {reason}")]
    Ended { reason: String },
}

/// The outcome of a send.
pub type SendOutcome = Result<Sent, SendError>;
