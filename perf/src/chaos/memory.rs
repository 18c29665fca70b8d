//! Memory that runs out: for a while a process and its children may have no more than they have.

use crate::failure::{Context, Failure, Outcome};
use crate::process;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Of util-linux. What may be set for a process is for its user to say: for another's, even root may lack
/// the capability.
const PRLIMIT: &str = "prlimit";
/// The resources as prlimit(1) names them, what proc(5) tells of their use, and of their limits: all of a
/// process' address space, and what of that it may write to, which an allocator may have set aside before.
const RESOURCES: [(&str, &str, &str); 2] =
    [("as", "VmSize:", "Max address space"), ("data", "VmData:", "Max data size")];

/// Can it be done here?
pub(super) fn can_be_limited() -> bool {
    Command::new(PRLIMIT).arg("--version").output().is_ok_and(|it| it.status.success())
}

/// Denies a part all further memory.
pub(super) fn deny(pid: i32) -> Outcome {
    each(pid, |pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let soft = |(name, used, _): (&str, &str, &str)| {
            let kib = status.lines().find_map(|line| line.strip_prefix(used))?;
            let kib: u64 = kib.trim().strip_suffix(" kB")?.parse().ok()?;
            Some(format!("--{name}={}:", kib * 1_024))
        };
        RESOURCES.into_iter().map(soft).collect()
    })
}

/// Gives it back what its hard limits allow.
pub(super) fn allow(pid: i32) -> Outcome {
    each(pid, |pid| {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
        let soft = |(name, _, limit): (&str, &str, &str)| {
            let values = limits.lines().find_map(|line| line.strip_prefix(limit))?;
            Some(format!("--{name}={}:", values.split_whitespace().nth(1)?))
        };
        RESOURCES.into_iter().map(soft).collect()
    })
}

/// Sets limits for a process and its children; those are left alone that are gone.
fn each(pid: i32, limits: impl Fn(i32) -> Option<Vec<String>>) -> Outcome {
    for pid in process::with_children(pid) {
        let Some(limits) = limits(pid) else { continue };
        set(pid, &limits).or_else(|failure| if is_gone(pid) { Ok(()) } else { Err(failure) })?;
    }
    Ok(())
}

fn is_gone(pid: i32) -> bool {
    // One that has ended and was not waited for has no memory.
    let status = fs::read_to_string(format!("/proc/{pid}/status"));
    !status.is_ok_and(|it| it.contains("VmSize:"))
}

fn set(pid: i32, limits: &[String]) -> Outcome {
    let what = format!("the memory limits of process {pid}");
    let owner = fs::metadata(format!("/proc/{pid}")).doing(&what)?;
    let mut command = Command::new(PRLIMIT);
    command.args(["--pid", &pid.to_string()]).args(limits);
    if owner.uid() != process::user() {
        command.uid(owner.uid()).gid(owner.gid());
    }
    let output = command.output().doing(&what)?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Failure::Refused(format!("{what}: {reason}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Stdio};

    fn shell(words: &str) -> (Child, i32) {
        let mut command = Command::new("sh");
        let child = command.args(["-c", words]).stdin(Stdio::piped()).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        (child, pid)
    }

    fn soft(pid: i32) -> Vec<String> {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let of = |name: &str| limits.lines().find_map(|it| it.strip_prefix(name)).unwrap();
        let first = |it: &str| it.split_whitespace().next().unwrap().to_owned();
        RESOURCES.iter().map(|it| first(of(it.2))).collect()
    }

    #[test]
    fn a_process_is_denied_memory_and_given_it_back() {
        let (mut shell, pid) = shell("read line");
        let before = soft(pid);
        deny(pid).unwrap();
        assert!(soft(pid).iter().all(|it| it.parse::<u64>().unwrap() < 100_000_000), "no limit");
        allow(pid).unwrap();
        assert_eq!(soft(pid), before);
        shell.kill().unwrap();
        shell.wait().unwrap();
        assert!(is_gone(pid) && deny(pid).is_ok(), "one that has ended is left alone");
    }

    #[test]
    fn a_process_that_is_denied_memory_gets_none() {
        // It asks for 64 MiB once it is told to.
        let words = "read line; exec head -c 1 /dev/zero | dd bs=64M count=1 of=/dev/null";
        let (mut shell, pid) = shell(words);
        deny(pid).unwrap();
        drop(shell.stdin.take());
        assert!(!shell.wait().unwrap().success());
    }
}
