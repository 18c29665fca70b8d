//! A stack of the command's own: brought up in a temporary folder, and taken down with all that it
//! left, however the command ends.

pub(crate) mod mount;

use super::Stack;
use crate::failure::{Context, Failure, Outcome};
use crate::report::progress;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

/// Ports that a stack uses, from its base on (scripts/up).
const STACK_PORTS: u16 = 44;

/// Variables that the stack's processes are given.
pub(crate) type Environment = Vec<(&'static str, String)>;

/// The stack of this process's own, if any, so that an interrupted run takes it down, too.
static OWNED: Mutex<Option<(PathBuf, PathBuf)>> = Mutex::new(None);

impl Drop for Stack {
    fn drop(&mut self) {
        if self.owned {
            take_down();
        }
    }
}

pub(super) fn bring_up(
    gateways: u64,
    more: &[&str],
    prepare: impl FnOnce(&Path) -> Outcome<Environment>,
) -> Outcome<Stack> {
    let scripts = scripts()?;
    let dir = std::env::temp_dir().join(format!("realchat-perf-{}", proto::id::new()));
    take_down_on_signals(&scripts, &dir)?;
    let stack = Stack { dir, owned: true };
    // scripts/up takes a folder that has settings for one of its own, and with empty ones the defaults hold.
    std::fs::create_dir_all(&stack.dir).doing(stack.dir.display())?;
    std::fs::write(stack.dir.join("settings"), "").doing("the settings")?;
    let environment = prepare(&stack.dir)?;
    let base = free_port_base()?;
    progress!("perf: bringing a stack up in {} at port {base}", stack.dir.display());
    let status = Command::new(scripts.join("up"))
        .args(["--bare", "--port-base", &base.to_string()])
        .args(more)
        .args(["--gateways", &gateways.to_string(), "--dir"])
        .arg(&stack.dir)
        .envs(environment)
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status()
        .doing("scripts/up")?;
    if status.success() {
        Ok(stack)
    } else {
        Err(Failure::Unreachable(format!("scripts/up brought no stack up: {status}")))
    }
}

/// The scripts' folder: of the repository that this binary was built in, or of the working folder.
pub(crate) fn scripts() -> Outcome<PathBuf> {
    let starts = [std::env::current_exe().ok(), std::env::current_dir().ok()];
    let folders = starts.iter().flatten().flat_map(|start| start.ancestors());
    let found = folders.map(|it| it.join("scripts")).find(|it| it.join("up").is_file());
    found.ok_or_else(|| {
        let words = "scripts/up was not found; give --dir with the folder of a running stack";
        Failure::Usage(words.into())
    })
}

/// A base whose ports are all free now.
fn free_port_base() -> Outcome<u16> {
    for _ in 0..100 {
        // Below the range from which the system takes ports for outgoing connections.
        let base = fastrand::u16(11_000..32_000 - STACK_PORTS);
        if (base..base + STACK_PORTS).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return Ok(base);
        }
    }
    Err(Failure::Unreachable(format!("no {STACK_PORTS} consecutive ports are free")))
}

fn take_down_on_signals(scripts: &Path, dir: &Path) -> Outcome {
    if let Ok(mut owned) = OWNED.lock() {
        *owned = Some((scripts.to_owned(), dir.to_owned()));
    }
    let signals = [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM];
    let mut signals = signal_hook::iterator::Signals::new(signals).doing("signal handlers")?;
    let wait = move || {
        if signals.forever().next().is_some() {
            take_down();
            std::process::exit(130);
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait).doing("a thread")?;
    Ok(())
}

fn take_down() {
    let owned = OWNED.lock().ok().and_then(|mut it| it.take());
    let Some((scripts, dir)) = owned else { return };
    progress!("perf: taking the stack in {} down", dir.display());
    let down = |options: &[&str]| {
        let mut command = Command::new(scripts.join("down"));
        command.args(options).arg("--dir").arg(&dir);
        let status = command.stdin(Stdio::null()).stdout(std::io::stderr()).status();
        status.is_ok_and(|it| it.success())
    };
    // What was mounted is let go once nothing runs on it any more.
    let is_down = down(&[]) && mount::release(&dir);
    if !is_down || !down(&["--wipe"]) {
        progress!("perf: scripts/down --wipe --dir {} did not work", dir.display());
    }
}
