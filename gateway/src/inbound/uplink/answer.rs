//! From the link's answer, or the want of one, to what the client is told, pure.

use super::request::{Peer, Pending};
use crate::limits::UPLINK_RETRY_AFTER_MS;
use crate::mail::Asked;
use daemon::link::LinkError;
use proto::client::Error;
use proto::error::ErrorCode;
use proto::link::response::Response;

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// The request was not written: surely nothing was done.
    NotAsked(LinkError),
    /// It may or may not have been done.
    NotAnswered(LinkError),
}

/// The error that a client is told.
pub(super) fn failure(pending: &Pending, failure: Failure) -> Error {
    let (Failure::NotAsked(error) | Failure::NotAnswered(error)) = failure;
    let what = match pending.peer {
        Peer::Chatd => "the message service",
        Peer::Presenced => "the presence service",
    };
    let (code, happened) = match error {
        LinkError::Disconnected => {
            (ErrorCode::Unavailable, format!("{what} cannot be reached now"))
        }
        LinkError::Deadline => {
            let deadline_ms = pending.deadline.as_millis();
            (ErrorCode::DeadlineExceeded, format!("{what} did not answer within {deadline_ms} ms"))
        }
        LinkError::Full => (ErrorCode::Overloaded, format!("{what} has too many requests waiting")),
    };
    let advice = match (failure, pending.asked) {
        (Failure::NotAsked(_), _) | (_, Asked::Resume | Asked::Sync | Asked::PresenceQuery) => {
            "nothing was done; try again"
        }
        (Failure::NotAnswered(_), Asked::Send) => {
            "the message may or may not be stored; send it again with the same idempotency key"
        }
        (Failure::NotAnswered(_), _) => "it may or may not have been done; try again",
    };
    let mut frame = code.to_frame(format!("{happened}; {advice}"));
    if code == ErrorCode::Overloaded {
        frame.retry_after_ms = UPLINK_RETRY_AFTER_MS;
    }
    frame
}

/// The answer, if it is of the kind that was asked for.
pub(super) fn matching(pending: &Pending, response: Response) -> Result<Response, Error> {
    let matches = matches!(
        (pending.asked, &response),
        (Asked::Send, Response::Sent(_))
            | (Asked::Resume | Asked::Sync, Response::Sync(_))
            | (Asked::Ack, Response::Accepted(_))
            | (Asked::PresenceAuthorize, Response::PresenceAuthorize(_))
            | (Asked::PresenceQuery | Asked::PresenceRefresh, Response::PresenceQuery(_))
            | (Asked::Http, Response::Http(_))
    );
    if matches {
        return Ok(response);
    }
    tracing::error!(asked = ?pending.asked, peer = ?pending.peer, "an answer of another kind");
    Err(ErrorCode::Internal.to_frame("the answer was not of the kind asked for; try again"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::SessionRef;
    use proto::client::{Accepted, Sent};
    use std::time::Duration;

    fn pending(asked: Asked) -> Pending {
        Pending {
            session: SessionRef { shard: 0, slot: 0, generation: 0 },
            request_id: 1,
            asked,
            peer: Peer::Chatd,
            deadline: Duration::from_secs(5),
        }
    }

    #[test]
    fn a_client_learns_what_happened_and_what_to_do() {
        let send = pending(Asked::Send);
        let lost = failure(&send, Failure::NotAnswered(LinkError::Disconnected));
        assert_eq!((lost.code.as_str(), lost.retryable), ("unavailable", true));
        assert!(lost.message.contains("same idempotency key"), "{}", lost.message);
        let down = failure(&send, Failure::NotAsked(LinkError::Disconnected));
        assert!(down.message.contains("nothing was done"), "{}", down.message);
        let late = failure(&send, Failure::NotAnswered(LinkError::Deadline));
        assert_eq!(late.code, "deadline_exceeded");
        assert!(late.message.contains("5000 ms"), "{}", late.message);
        let full = failure(&pending(Asked::Http), Failure::NotAsked(LinkError::Full));
        assert_eq!((full.code.as_str(), full.retry_after_ms > 0), ("overloaded", true));
    }

    #[test]
    fn an_answer_of_another_kind_is_an_internal_error() {
        let sent = || Response::Sent(Sent::default());
        assert_eq!(matching(&pending(Asked::Send), sent()), Ok(sent()));
        assert_eq!(matching(&pending(Asked::Sync), sent()).unwrap_err().code, "internal");
        let accepted = Response::Accepted(Accepted {});
        assert_eq!(matching(&pending(Asked::Send), accepted).unwrap_err().code, "internal");
    }
}
