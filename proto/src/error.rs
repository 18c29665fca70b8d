//! The errors that a client can be told, in one place: word, whether to try again, HTTP status.

use crate::client::Error;

/// A stable word a client can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// The bytes are no frame of the encoding.
    MalformedFrame,
    /// A frame, but of no kind that this server knows.
    UnknownFrame,
    /// A field's value is not allowed.
    InvalidArgument,
    /// The first frame was no hello, or a second hello came.
    UnexpectedFrame,
    TokenMissing,
    TokenInvalid,
    TokenExpired,
    /// No such conversation, or not one of this user's: the same answer, so that nobody can probe.
    NotAMember,
    /// Signed in, a member even, but not allowed to do this.
    Forbidden,
    MessageTooLong,
    IdempotencyKeyMissing,
    /// The key was used before with another text.
    IdempotencyKeyConflict,
    NotFound,
    MethodNotAllowed,
    NameTaken,
    WrongCredentials,
    PayloadTooLarge,
    TooManyRequests,
    /// A queue is full; try again after the hint.
    Overloaded,
    /// A part behind the gateway does not answer; what was asked may or may not have been done.
    Unavailable,
    /// No answer within the deadline; what was asked may or may not have been done.
    DeadlineExceeded,
    Internal,
}

/// Every code, for documents and tests.
pub const ALL: [ErrorCode; 22] = {
    use ErrorCode as Code;
    [
        Code::MalformedFrame,
        Code::UnknownFrame,
        Code::InvalidArgument,
        Code::UnexpectedFrame,
        Code::TokenMissing,
        Code::TokenInvalid,
        Code::TokenExpired,
        Code::NotAMember,
        Code::Forbidden,
        Code::MessageTooLong,
        Code::IdempotencyKeyMissing,
        Code::IdempotencyKeyConflict,
        Code::NotFound,
        Code::MethodNotAllowed,
        Code::NameTaken,
        Code::WrongCredentials,
        Code::PayloadTooLarge,
        Code::TooManyRequests,
        Code::Overloaded,
        Code::Unavailable,
        Code::DeadlineExceeded,
        Code::Internal,
    ]
};

impl ErrorCode {
    /// The word on the wire and in logs (`error_code`).
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MalformedFrame => "malformed_frame",
            Self::UnknownFrame => "unknown_frame",
            Self::InvalidArgument => "invalid_argument",
            Self::UnexpectedFrame => "unexpected_frame",
            Self::TokenMissing => "token_missing",
            Self::TokenInvalid => "token_invalid",
            Self::TokenExpired => "token_expired",
            Self::NotAMember => "not_a_member",
            Self::Forbidden => "forbidden",
            Self::MessageTooLong => "message_too_long",
            Self::IdempotencyKeyMissing => "idempotency_key_missing",
            Self::IdempotencyKeyConflict => "idempotency_key_conflict",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::NameTaken => "name_taken",
            Self::WrongCredentials => "wrong_credentials",
            Self::PayloadTooLarge => "payload_too_large",
            Self::TooManyRequests => "too_many_requests",
            Self::Overloaded => "overloaded",
            Self::Unavailable => "unavailable",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Internal => "internal",
        }
    }

    /// May the same request, with the same idempotency key, succeed later?
    #[must_use]
    pub const fn retryable(self) -> bool {
        matches!(
            self,
            Self::TooManyRequests
                | Self::Overloaded
                | Self::Unavailable
                | Self::DeadlineExceeded
                | Self::Internal
        )
    }

    /// The status of the JSON API's answer (RFC 9110 section 15).
    #[must_use]
    pub const fn http_status(self) -> u16 {
        match self {
            Self::MalformedFrame
            | Self::UnknownFrame
            | Self::InvalidArgument
            | Self::UnexpectedFrame
            | Self::IdempotencyKeyMissing => 400,
            Self::TokenMissing
            | Self::TokenInvalid
            | Self::TokenExpired
            | Self::WrongCredentials => 401,
            Self::NotAMember | Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::NameTaken | Self::IdempotencyKeyConflict => 409,
            Self::MessageTooLong | Self::PayloadTooLarge => 413,
            Self::TooManyRequests => 429,
            Self::Internal => 500,
            Self::Overloaded | Self::Unavailable => 503,
            Self::DeadlineExceeded => 504,
        }
    }

    /// The error frame that tells a client.
    #[must_use]
    pub fn to_frame(self, message: impl Into<String>) -> Error {
        Error {
            code: self.as_str().to_owned(),
            message: message.into(),
            retryable: self.retryable(),
            retry_after_ms: 0,
        }
    }

    /// The code of a word, if it is one of ours.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        ALL.into_iter().find(|code| code.as_str() == word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_its_own_and_reads_back() {
        for code in ALL {
            assert_eq!(ErrorCode::parse(code.as_str()), Some(code));
            assert!((400..600).contains(&code.http_status()));
            assert_eq!(code.to_frame("").retryable, code.retryable());
        }
    }
}
