//! Dead letters.

use crate::args::Dlq;
use crate::failure::Failure;
use crate::relay;

/// Runs `relay dlq`. What it prints is an object a line, with `--json` or without.
pub(crate) fn run(dlq: &Dlq) -> Result<(), Failure> {
    let words: Vec<&str> = std::iter::once("dlq").chain(dlq.words()).collect();
    let output = relay::run(&words)?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    crate::output::raw(&printed)
        .map_err(|error| Failure::refused("standard_output", error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let message = relay::complaint(&output).unwrap_or_else(|| "relay dlq failed".to_owned());
    Err(Failure::refused("dead_letters", message))
}
