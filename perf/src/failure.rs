//! How a command ends when it does not end well.

use std::fmt::Display;
use std::process::ExitCode;

/// One line a person can act on, and the exit code.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// What was measured breaks a promise, or could not be measured.
    #[error("{0}")]
    Refused(String),
    /// An option's value is not allowed.
    #[error("{0}")]
    Usage(String),
    /// A part of the stack does not answer.
    #[error("{0}")]
    Unreachable(String),
}

pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Refused(_) => ExitCode::from(1),
            Self::Usage(_) => ExitCode::from(2),
            Self::Unreachable(_) => ExitCode::from(3),
        }
    }
}

/// Adds what was being done to an error from below.
pub(crate) trait Context<T> {
    /// Something did not work.
    fn doing(self, what: impl Display) -> Outcome<T>;
    /// A part of the stack did not answer.
    fn reaching(self, what: impl Display) -> Outcome<T>;
}

impl<T, E: Display> Context<T> for Result<T, E> {
    fn doing(self, what: impl Display) -> Outcome<T> {
        self.map_err(|error| Failure::Refused(format!("{what}: {error}")))
    }

    fn reaching(self, what: impl Display) -> Outcome<T> {
        self.map_err(|error| Failure::Unreachable(format!("{what}: {error}")))
    }
}
