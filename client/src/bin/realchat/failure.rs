//! What went wrong, as the user and the exit code are told.

use client::{ApiError, SendError};
use proto::error::ErrorCode;
use serde::Serialize;
use std::io;
use std::process::ExitCode;

/// A command that did not get done.
#[derive(Debug, Serialize)]
pub(crate) struct Failure {
    /// A stable word: the server's error codes, or `usage`, `unreachable`, `unexpected_answer`,
    /// `not_signed_in`, `local_file`.
    pub(crate) code: String,
    pub(crate) message: String,
    /// May the same command succeed later?
    pub(crate) retryable: bool,
    #[serde(skip)]
    pub(crate) exit: Exit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Done,
    Refused,
    Usage,
    Unreachable,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Refused => 1,
            Exit::Usage => 2,
            Exit::Unreachable => 3,
        })
    }
}

impl Failure {
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { code: "usage".into(), message: message.into(), retryable: false, exit: Exit::Usage }
    }

    pub(crate) fn unreachable(message: impl Into<String>) -> Self {
        let (code, message) = ("unreachable".into(), message.into());
        Self { code, message, retryable: true, exit: Exit::Unreachable }
    }

    pub(crate) fn refused(code: impl Into<String>, message: impl Into<String>) -> Self {
        let code = code.into();
        let retryable = ErrorCode::parse(&code).is_some_and(ErrorCode::retryable);
        Self { code, message: message.into(), retryable, exit: Exit::Refused }
    }

    pub(crate) fn not_signed_in(name: &str) -> Self {
        let message = format!("{name} is not signed in here: realchat --as {name} login");
        Self::refused("not_signed_in", message)
    }

    /// A file of ours cannot be read or written.
    pub(crate) fn file(path: &std::path::Path, error: &io::Error) -> Self {
        Self::refused("local_file", format!("{}: {error}", path.display()))
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        let part_is_away = matches!(
            ErrorCode::parse(error.code()),
            Some(ErrorCode::Unavailable | ErrorCode::DeadlineExceeded)
        );
        let exit = match &error {
            ApiError::Refused { .. } if !part_is_away => Exit::Refused,
            _ => Exit::Unreachable,
        };
        let message = match &error {
            ApiError::Refused { detail, .. } => detail.clone(),
            other => other.to_string(),
        };
        Self { code: error.code().to_owned(), message, retryable: error.retryable(), exit }
    }
}

impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Refused { code, message } => Self::refused(code, message),
            SendError::Overloaded => Self::refused("overloaded", error.to_string()),
            SendError::Ended { reason } => Self::refused("session_ended", reason),
        }
    }
}

/// Nobody reads our output any more: that is no failure.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let exit = match error.kind() {
            io::ErrorKind::BrokenPipe => Exit::Done,
            _ => Exit::Refused,
        };
        Self { code: "output".into(), message: error.to_string(), retryable: false, exit }
    }
}
