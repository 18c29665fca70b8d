//! What can be done to a stack. Its supervisors start again whatever ends.

use crate::clock;
use crate::failure::{Failure, Outcome};
use crate::process;
use crate::stack::Stack;
use fastrand::Rng;
use std::time::Duration;

/// Wait for a part to end, and for its supervisor to start it again.
const RESTART_US_MAX: u64 = 90_000_000;
/// The parts that can be hit.
const PARTS: [&str; 7] = ["gateway", "chatd", "relay", "presenced", "redis", "kafka", "postgres"];
/// Those that are stores: they are restarted cleanly, too, unless a list says otherwise.
const STORES: [&str; 3] = ["redis", "kafka", "postgres"];
const CLEAN: &str = "-clean";

/// Ends one part: by kill -9, or as an operator would.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    part: &'static str,
    clean: bool,
}

/// Reads `--faults`: parts (kill -9), or parts with `-clean`; nothing: everything.
pub(super) fn parse(words: &[String]) -> Outcome<Vec<Fault>> {
    if words.is_empty() {
        let kills = PARTS.map(|part| Fault { part, clean: false });
        let clean = STORES.map(|part| Fault { part, clean: true });
        return Ok(kills.into_iter().chain(clean).collect());
    }
    let read = |word: &String| {
        let (name, clean) = match word.trim().strip_suffix(CLEAN) {
            Some(name) => (name, true),
            None => (word.trim(), false),
        };
        let part = PARTS.into_iter().find(|part| *part == name);
        part.map(|part| Fault { part, clean }).ok_or_else(|| {
            let allowed = PARTS.join(", ");
            Failure::Usage(format!(
                "--faults holds {word:?}, but {allowed} are allowed (kill -9), each also with \
                 {CLEAN} (an orderly restart)"
            ))
        })
    };
    words.iter().map(read).collect()
}

impl Fault {
    pub(super) fn name(&self) -> String {
        format!("{}{}", self.part, if self.clean { CLEAN } else { "" })
    }

    /// Ends the part (of several gateways one) and waits until it is started again.
    pub(super) fn inflict(&self, stack: &Stack, random: &mut Rng) -> Outcome {
        let parts = stack.parts(&self.part.to_uppercase())?;
        let Some(part) = random.choice(parts) else {
            return Err(Failure::Refused(format!("the stack runs no {} of its own", self.part)));
        };
        let before = stack.pid(&part)?;
        process::signal(before, self.signal())?;
        let until_us = clock::now_us() + RESTART_US_MAX;
        while stack.pid(&part).is_ok_and(|pid| pid == before) {
            if clock::now_us() > until_us {
                return Err(Failure::Unreachable(format!("{part} was not started again")));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn signal(&self) -> i32 {
        match (self.clean, self.part) {
            (false, _) => libc::SIGKILL,
            // PostgreSQL's fast shutdown; SIGTERM would wait for every client to leave.
            (true, "postgres") => libc::SIGINT,
            (true, _) => libc::SIGTERM,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_unknown_names_refused() {
        assert_eq!(parse(&[]).unwrap().len(), PARTS.len() + STORES.len());
        let words = ["chatd".to_owned(), "kafka-clean".to_owned()];
        let names: Vec<_> = parse(&words).unwrap().iter().map(Fault::name).collect();
        assert_eq!(names, words);
        let failure = parse(&["disk".into()]).unwrap_err();
        assert!(failure.to_string().starts_with("--faults holds \"disk\", but gateway, "));
    }
}
