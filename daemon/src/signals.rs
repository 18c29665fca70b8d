//! The signals a daemon acts on.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// What the person or supervisor asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    Stop,
    Reload,
}

/// Catches SIGTERM, SIGINT (stop) and SIGHUP (reload) from here on.
pub(crate) fn catch() -> std::io::Result<Signals> {
    Signals::new([SIGTERM, SIGINT, SIGHUP])
}

/// Waits for the next one.
pub(crate) fn wait(signals: &mut Signals) -> Signal {
    match signals.forever().next() {
        Some(SIGHUP) => Signal::Reload,
        _ => Signal::Stop,
    }
}
