//! A shim between PostgreSQL and the C library, with which fsync can be made to fail. That takes a C
//! compiler, and a stack that is brought up with it.

use crate::failure::{Context, Failure, Outcome};
use crate::stack::{Environment, Stack, scripts};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const LIBRARY: &str = "fsync-error.so";
/// While this file is in the stack's folder, fsync fails.
const TRIGGER: &str = "fsync-error";

/// A PostgreSQL that runs with the shim.
#[derive(Debug)]
pub(super) struct Shim {
    trigger: PathBuf,
}

impl Shim {
    /// Compiles it into the folder of a stack that is about to be brought up.
    pub(super) fn make(dir: &Path) -> Outcome<Environment> {
        let library = dir.join(LIBRARY);
        let source = scripts()?.join("lib").join("fsync-error.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source);
        let output = compiler.stdin(Stdio::null()).output().doing("cc")?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(Failure::Refused(format!("cc: {}", words.trim())));
        }
        Ok(vec![
            ("REALCHAT_POSTGRES_PRELOAD", library.display().to_string()),
            ("REALCHAT_FSYNC_ERROR", dir.join(TRIGGER).display().to_string()),
        ])
    }

    /// That of a stack, if its PostgreSQL runs with one.
    pub(super) fn of(stack: &Stack) -> Option<Self> {
        let pid = stack.pid("POSTGRES").ok()?;
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
        maps.contains(LIBRARY).then(|| Self { trigger: stack.dir().join(TRIGGER) })
    }

    pub(super) fn fail(&self) -> Outcome {
        std::fs::write(&self.trigger, "").doing(self.trigger.display())
    }

    pub(super) fn heal(&self) -> Outcome {
        match std::fs::remove_file(&self.trigger) {
            // Another such fault of the same cycle was over first.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            outcome => outcome.doing(self.trigger.display()),
        }
    }
}
