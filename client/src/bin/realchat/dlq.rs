//! Dead letters: the relay's binary, beside this one, does the work, since it speaks Kafka.

use crate::args::Dlq;
use crate::failure::Failure;
use std::path::PathBuf;
use std::process::Command;

/// Where Kafka is: the variable that a stack's `env` file sets, and the relay's own.
const BROKERS: &str = "KAFKA_BROKERS";
const RELAY_BROKERS: &str = "REALCHAT_RELAY_KAFKA_BROKERS";

/// Runs `relay dlq`. What it prints is an object a line, with `--json` or without.
pub(crate) fn run(dlq: &Dlq) -> Result<(), Failure> {
    let relay = relay()?;
    let mut command = Command::new(&relay);
    if let Ok(brokers) = std::env::var(BROKERS)
        && std::env::var_os(RELAY_BROKERS).is_none()
    {
        command.env(RELAY_BROKERS, brokers);
    }
    command.env("REALCHAT_RELAY_LOG_LEVEL", "error").arg("dlq").args(dlq.words());
    let output = command.output().map_err(|error| Failure::file(&relay, &error))?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    crate::output::raw(&printed).map_err(|error| Failure::file(&relay, &error))?;
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let message = errors.trim_end().lines().last().unwrap_or("relay dlq failed").to_owned();
    Err(Failure::refused("dead_letters", message))
}

fn relay() -> Result<PathBuf, Failure> {
    let own = std::env::current_exe()
        .map_err(|error| Failure::refused("local_file", error.to_string()))?;
    let relay = own.with_file_name("relay");
    if relay.is_file() {
        return Ok(relay);
    }
    let message =
        format!("{} is not there; dead letters are read by the relay's binary", relay.display());
    Err(Failure::refused("local_file", message))
}
