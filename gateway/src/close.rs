//! Why a connection ends: one table of reason, close code, metric label, and what a client may do.

/// Every way in which the gateway ends a connection, or sees it end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Reason {
    /// The peer said goodbye with a close frame.
    PeerClosed,
    /// The peer's end of the connection is gone, without a close frame.
    PeerGone,
    /// An HTTP exchange came to its end.
    HttpDone,
    /// An HTTP request was refused in a way that ends the connection.
    HttpRefused,
    /// The request's head did not come in time.
    HandshakeDeadline,
    /// The request's body did not come in time.
    BodyDeadline,
    /// No further request came in time.
    KeepAliveIdle,
    /// The TLS handshake did not end in time.
    TlsDeadline,
    /// The peer does not speak TLS, or broke it.
    TlsFailed,
    /// A listed proxy's connection did not begin with a PROXY header, or not in time.
    ProxyHeader,
    ProtocolViolation,
    /// A binary frame on a text session, or the other way round.
    UnsupportedData,
    InvalidUtf8,
    MessageTooLarge,
    Flood,
    Unauthenticated,
    TokenExpired,
    HelloDeadline,
    BackpressureOverflow,
    HeartbeatMissed,
    /// Events were deleted from the log before this gateway read them.
    EventsLost,
    WriteDeadline,
    /// The address has too many connections, or opens them too fast.
    AddressLimited,
    /// The user has too many sessions.
    UserLimited,
    Draining,
    Overloaded,
    Internal,
}

/// What a client should do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retry {
    /// Connect again, with backoff.
    Backoff,
    /// Connect again with a fresh token.
    FreshToken,
    /// The same again would end the same way.
    Never,
}

/// Every reason, in the order of the metrics' slots.
pub(crate) const ALL: [Reason; 27] = [
    Reason::PeerClosed,
    Reason::PeerGone,
    Reason::HttpDone,
    Reason::HttpRefused,
    Reason::HandshakeDeadline,
    Reason::BodyDeadline,
    Reason::KeepAliveIdle,
    Reason::TlsDeadline,
    Reason::TlsFailed,
    Reason::ProxyHeader,
    Reason::ProtocolViolation,
    Reason::UnsupportedData,
    Reason::InvalidUtf8,
    Reason::MessageTooLarge,
    Reason::Flood,
    Reason::Unauthenticated,
    Reason::TokenExpired,
    Reason::HelloDeadline,
    Reason::BackpressureOverflow,
    Reason::HeartbeatMissed,
    Reason::EventsLost,
    Reason::WriteDeadline,
    Reason::AddressLimited,
    Reason::UserLimited,
    Reason::Draining,
    Reason::Overloaded,
    Reason::Internal,
];

/// One row of the table.
struct Row {
    /// None where no close frame can or need be sent.
    code: Option<u16>,
    label: &'static str,
    /// The close frame's reason, for people; at most 123 bytes.
    text: &'static str,
    retry: Retry,
}

impl Reason {
    const fn row(self) -> Row {
        use Retry::{Backoff, FreshToken, Never};
        let (code, label, text, retry) = match self {
            Self::PeerClosed => (Some(1000), "peer_closed", "", Backoff),
            Self::PeerGone => (None, "peer_gone", "", Backoff),
            Self::HttpDone => (None, "http_done", "", Backoff),
            Self::HttpRefused => (None, "http_refused", "", Never),
            Self::HandshakeDeadline => (None, "handshake_deadline", "", Backoff),
            Self::BodyDeadline => (None, "body_deadline", "", Backoff),
            Self::KeepAliveIdle => (None, "keep_alive_idle", "", Backoff),
            Self::TlsDeadline => (None, "tls_deadline", "", Backoff),
            Self::TlsFailed => (None, "tls_failed", "", Never),
            Self::ProxyHeader => (None, "proxy_header", "", Never),
            Self::ProtocolViolation => {
                (Some(1002), "protocol_violation", "WebSocket protocol violated", Never)
            }
            Self::UnsupportedData => (
                Some(1003),
                "unsupported_data",
                "text frames for realchat.v1+json, binary for realchat.v1+proto",
                Never,
            ),
            Self::InvalidUtf8 => (Some(1007), "invalid_utf8", "text is not UTF-8", Never),
            Self::Flood => (
                Some(1008),
                "flood",
                "at most 256 fragments of a message, and 200 control and 200 refused frames in 10 s",
                Backoff,
            ),
            Self::MessageTooLarge => (
                Some(1009),
                "message_too_large",
                "at most 131072 bytes of a message are allowed",
                Never,
            ),
            Self::Internal => (Some(1011), "internal", "internal error", Backoff),
            Self::Draining => (Some(1012), "draining", "the gateway is stopping", Backoff),
            Self::Overloaded => (Some(1013), "overloaded", "try again later", Backoff),
            Self::Unauthenticated => (Some(4001), "unauthenticated", "no valid token", FreshToken),
            Self::TokenExpired => (Some(4002), "token_expired", "token expired", FreshToken),
            Self::HelloDeadline => {
                (Some(4003), "hello_deadline", "no hello within the deadline", Backoff)
            }
            Self::BackpressureOverflow => {
                (Some(4008), "backpressure_overflow", "backpressure overflow", Backoff)
            }
            Self::HeartbeatMissed => {
                (Some(4009), "heartbeat_missed", "no pong within the deadline", Backoff)
            }
            Self::EventsLost => {
                (Some(4010), "events_lost", "events may be missing: resume", Backoff)
            }
            Self::WriteDeadline => (None, "write_deadline", "", Backoff),
            Self::AddressLimited => (None, "address_limited", "", Backoff),
            Self::UserLimited => {
                (Some(4029), "user_limited", "too many sessions of one user", Backoff)
            }
        };
        Row { code, label, text, retry }
    }

    /// The WebSocket close code (RFC 6455 section 7.4).
    pub(crate) const fn code(self) -> Option<u16> {
        self.row().code
    }

    pub(crate) const fn label(self) -> &'static str {
        self.row().label
    }

    pub(crate) const fn text(self) -> &'static str {
        self.row().text
    }

    pub(crate) const fn retry(self) -> Retry {
        self.row().retry
    }

    /// The slot in the metrics' counters.
    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

/// May an endpoint send this code in a close frame (RFC 6455 section 7.4.2)?
pub(crate) const fn is_valid_on_the_wire(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_reason_has_its_own_slot_label_and_code() {
        let labels: HashSet<_> = ALL.iter().map(|reason| reason.label()).collect();
        assert_eq!(labels.len(), ALL.len());
        let codes: Vec<_> = ALL.iter().filter_map(|reason| reason.code()).collect();
        assert_eq!(codes.iter().collect::<HashSet<_>>().len(), codes.len());
        for (index, reason) in ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), index);
            assert!(reason.text().len() <= 123);
            assert!(reason.code().is_none_or(is_valid_on_the_wire));
        }
    }

    #[test]
    fn a_refusal_names_its_limit() {
        use crate::limits::{
            CONTROL_FRAMES_MAX, FLOOD_WINDOW_MS, FRAGMENTS_MAX, REFUSED_FRAMES_MAX,
        };
        let flood = format!(
            "at most {FRAGMENTS_MAX} fragments of a message, and {CONTROL_FRAMES_MAX} control and \
             {REFUSED_FRAMES_MAX} refused frames in {} s",
            FLOOD_WINDOW_MS / 1_000
        );
        assert_eq!(Reason::Flood.text(), flood);
        let bytes = proto::limits::CLIENT_FRAME_BYTES_MAX.to_string();
        assert!(Reason::MessageTooLarge.text().contains(&bytes));
    }

    #[test]
    fn a_client_gets_a_fresh_token_only_where_that_helps() {
        for reason in ALL {
            let wants = matches!(reason, Reason::Unauthenticated | Reason::TokenExpired);
            assert_eq!(reason.retry() == Retry::FreshToken, wants, "{reason:?}");
        }
    }

    #[test]
    fn codes_that_must_not_be_sent_are_refused() {
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535] {
            assert!(!is_valid_on_the_wire(code), "{code}");
        }
    }
}
