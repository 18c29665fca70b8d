//! Why a request was not done, for whoever asked.

use crate::limits::RETRY_AFTER_MS;
use postgres::error::SqlState;
use proto::client::Error;
use proto::error::ErrorCode;

/// A named error with words for a person; never holds secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub code: ErrorCode,
    pub message: String,
    /// 0: the client's own backoff.
    pub retry_after_ms: u32,
}

impl Failure {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after_ms: 0 }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidArgument, message)
    }

    pub fn not_a_member() -> Self {
        Self::new(
            ErrorCode::NotAMember,
            "there is no such conversation, or you are not a member of it",
        )
    }

    pub fn overloaded(queue: &str) -> Self {
        let message = format!("the {queue} queue is full");
        Self { retry_after_ms: RETRY_AFTER_MS, ..Self::new(ErrorCode::Overloaded, message) }
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        let code = ErrorCode::Unavailable;
        Self { retry_after_ms: RETRY_AFTER_MS, ..Self::new(code, message) }
    }

    pub fn stopping() -> Self {
        Self::unavailable("the service is stopping")
    }

    /// Nobody waits any more, and nothing was begun.
    pub fn expired() -> Self {
        Self::new(ErrorCode::DeadlineExceeded, "the deadline passed before the work was begun")
    }

    pub fn to_frame(&self) -> Error {
        let frame = self.code.to_frame(self.message.clone());
        Error { retry_after_ms: self.retry_after_ms, ..frame }
    }
}

/// What a failed statement means for whoever asked.
impl From<postgres::Error> for Failure {
    fn from(error: postgres::Error) -> Self {
        let reason = describe(&error);
        if is_temporary(&error) {
            tracing::warn!(
                reason,
                error_code = "unavailable",
                "a query failed, and may be tried again"
            );
            Self::unavailable("the database does not answer; try again")
        } else {
            tracing::error!(reason, error_code = "internal", "a query failed");
            Self::new(ErrorCode::Internal, "the request could not be done")
        }
    }
}

impl From<proto::id::IdError> for Failure {
    fn from(error: proto::id::IdError) -> Self {
        Self::invalid(error.to_string())
    }
}

/// SQLSTATE and message, without the statement's values.
pub(crate) fn describe(error: &postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{} ({})", db.message(), db.code().code()),
        None => {
            let source = std::error::Error::source(error);
            source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
        }
    }
}

/// May the same statements succeed later? Connection trouble, shutdown, conflicts between
/// transactions, time-outs, and resources that ran out.
pub(crate) fn is_temporary(error: &postgres::Error) -> bool {
    let Some(state) = error.code() else {
        // No answer from the server at all, unless a value could not be written or read.
        return error.is_closed() || std::error::Error::source(error).is_some_and(is_io);
    };
    // 08 connection, 28 sign-in and 3D database (until an operator has set them right), 40 rollback,
    // 53 resources, 57 operator intervention (and statement time-outs), 58 system errors such as a
    // failing disk.
    let temporary_classes = ["08", "28", "3D", "40", "53", "57", "58"];
    temporary_classes.contains(&&state.code()[..2])
        || *state == SqlState::LOCK_NOT_AVAILABLE
        || *state == SqlState::READ_ONLY_SQL_TRANSACTION
        || *state == SqlState::IN_FAILED_SQL_TRANSACTION
}

fn is_io(error: &(dyn std::error::Error + 'static)) -> bool {
    error.is::<std::io::Error>()
}
