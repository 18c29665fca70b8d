//! What concerns Kafka: the relay's binary, beside this one, does the work, since it speaks Kafka.

use crate::failure::Failure;
use std::path::PathBuf;
use std::process::{Command, Output};

/// Where Kafka is: the variable that a stack's `env` file sets, and the relay's own.
const BROKERS: &str = "KAFKA_BROKERS";
const RELAY_BROKERS: &str = "REALCHAT_RELAY_KAFKA_BROKERS";

/// Is it known where Kafka is?
pub(crate) fn has_brokers() -> bool {
    [BROKERS, RELAY_BROKERS].iter().any(|name| std::env::var(name).is_ok_and(|it| !it.is_empty()))
}

/// Runs a command of the relay's.
pub(crate) fn run(words: &[&str]) -> Result<Output, Failure> {
    let relay = binary()?;
    let mut command = Command::new(&relay);
    if let Ok(brokers) = std::env::var(BROKERS)
        && std::env::var_os(RELAY_BROKERS).is_none()
    {
        command.env(RELAY_BROKERS, brokers);
    }
    command.env("REALCHAT_RELAY_LOG_LEVEL", "error").args(words);
    command.output().map_err(|error| Failure::file(&relay, &error))
}

/// The last thing that a command that failed said.
pub(crate) fn complaint(output: &Output) -> Option<String> {
    let errors = String::from_utf8_lossy(&output.stderr);
    errors.trim_end().lines().last().map(str::to_owned)
}

fn binary() -> Result<PathBuf, Failure> {
    let own = std::env::current_exe()
        .map_err(|error| Failure::refused("local_file", error.to_string()))?;
    let relay = own.with_file_name("relay");
    if relay.is_file() {
        return Ok(relay);
    }
    let message = format!("{} is not there; it is what speaks Kafka", relay.display());
    Err(Failure::refused("local_file", message))
}
