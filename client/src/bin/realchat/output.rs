//! What is printed: a line for people, or an object a line for programs.

use crate::failure::{Exit, Failure};
use serde::Serialize;
use std::io::{self, Write};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    pub(crate) json: bool,
}

impl Output {
    /// Prints one line and flushes it: `object` for programs, `text` for people.
    pub(crate) fn line(self, object: &impl Serialize, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.json {
            serde_json::to_writer(&mut out, object)?;
            out.write_all(b"\n")?;
        } else {
            writeln!(out, "{}", printable(text))?;
        }
        out.flush()
    }

    /// Something to know, on standard error; programs are not told.
    pub(crate) fn note(self, text: &str) {
        if !self.json {
            // There is nobody left to tell if this fails.
            let _ = writeln!(io::stderr(), "{}", printable(text));
        }
    }

    pub(crate) fn failure(self, failure: &Failure) {
        if failure.exit == Exit::Done {
            return;
        }
        let mut err = io::stderr().lock();
        // There is nobody left to tell if this fails.
        let _ = if self.json {
            let text = serde_json::to_string(failure).unwrap_or_default();
            writeln!(err, "{text}")
        } else {
            writeln!(err, "realchat: {} ({})", printable(&failure.message), failure.code)
        };
    }
}

/// Prints lines that are objects already.
pub(crate) fn raw(lines: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(lines.as_bytes())?;
    out.flush()
}

/// Others' text must not steer the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|it| if it.is_control() && it != '\t' { '\u{fffd}' } else { it }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\tc\n"), "a\u{fffd}[2Jb\tc\u{fffd}");
    }
}
