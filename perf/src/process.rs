//! What the kernel knows of processes: CPU time, memory, sockets.

use crate::failure::{Context, Failure, Outcome};
use crate::limits::DESCRIPTORS_RESERVED;
use std::fs;

const KIB: u64 = 1_024;

/// CPU time of a process, all threads, user and system, in nanoseconds.
pub(crate) fn cpu_ns(pid: i32) -> Outcome<u64> {
    let mut clock: libc::clockid_t = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both places are valid to write to; a process that is gone gives an error.
    let failed = unsafe {
        libc::clock_getcpuclockid(pid, &raw mut clock) != 0
            || libc::clock_gettime(clock, &raw mut time) != 0
    };
    if failed {
        return Err(Failure::Refused(format!("process {pid} is gone")));
    }
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Ok(seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or_default())
}

/// CPU time of several processes together.
pub(crate) fn cpu_ns_sum(pids: &[i32]) -> Outcome<u64> {
    pids.iter().map(|pid| cpu_ns(*pid)).sum()
}

/// The kernel's part of the CPU time of several processes, in nanoseconds. The kernel tells it from
/// samples of the clock's ticks: good for seconds, not for milliseconds.
pub(crate) fn system_ns_sum(pids: &[i32]) -> Outcome<u64> {
    let of = |pid: &i32| -> Outcome<u64> {
        let path = format!("/proc/{pid}/stat");
        let text = fs::read_to_string(&path).doing(&path)?;
        // stime is field 15 of proc(5).
        let ticks: u64 = stat_fields(&text).nth(12).and_then(|it| it.parse().ok()).unwrap_or(0);
        Ok(ticks * (1_000_000_000 / ticks_per_s()))
    };
    pids.iter().map(of).sum()
}

/// The fields behind the name, which, in brackets, may hold anything: the third of proc(5) first.
fn stat_fields(text: &str) -> impl Iterator<Item = &str> {
    text.rsplit_once(") ").map_or("", |it| it.1).split(' ')
}

/// CPU time of a process and of its children, those that have ended included.
pub(crate) fn cpu_ns_with_children(pid: i32) -> Outcome<u64> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).doing(&path)?;
    // cutime and cstime are fields 16 and 17.
    let ended = stat_fields(&text).skip(13).take(2).filter_map(|it| it.parse::<u64>().ok());
    let ended_ns = ended.sum::<u64>() * (1_000_000_000 / ticks_per_s());
    let children = with_children(pid).into_iter().skip(1);
    // A child may be gone by now.
    let children_ns: u64 = children.filter_map(|it| cpu_ns(it).ok()).sum();
    Ok(cpu_ns(pid)? + ended_ns + children_ns)
}

fn ticks_per_s() -> u64 {
    // SAFETY: sysconf has no preconditions.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    u64::try_from(ticks).unwrap_or(100).max(1)
}

/// Private anonymous memory of a process in bytes, swapped out pages included.
pub(crate) fn anonymous_bytes(pid: i32) -> Outcome<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).doing(&path)?;
    Ok((field(&text, "Anonymous:") + field(&text, "Swap:")) * KIB)
}

/// Memory of several processes together.
pub(crate) fn anonymous_bytes_sum(pids: &[i32]) -> Outcome<u64> {
    pids.iter().map(|pid| anonymous_bytes(*pid)).sum()
}

/// A process and its children; those of them that live.
pub(crate) fn with_children(pid: i32) -> Vec<i32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.unwrap_or_default();
    std::iter::once(pid)
        .chain(children.split_whitespace().filter_map(|it| it.parse().ok()))
        .collect()
}

/// Resident memory of a process and its children in bytes, without what is shared between them.
pub(crate) fn resident_bytes(pid: i32) -> Outcome<u64> {
    let of = |pid: i32| -> Outcome<u64> {
        let path = format!("/proc/{pid}/status");
        let text = fs::read_to_string(&path).doing(&path)?;
        Ok((field(&text, "RssAnon:") + field(&text, "RssFile:")) * KIB)
    };
    // A child may be gone by now.
    let children: u64 = with_children(pid).iter().skip(1).filter_map(|it| of(*it).ok()).sum();
    Ok(of(pid)? + children)
}

/// Open files, sockets and the like of a process and its children.
pub(crate) fn descriptors(pid: i32) -> Outcome<u64> {
    let of = |pid: i32| -> Outcome<u64> {
        let path = format!("/proc/{pid}/fd");
        Ok(fs::read_dir(&path).doing(&path)?.count() as u64)
    };
    let children: u64 = with_children(pid).iter().skip(1).filter_map(|it| of(*it).ok()).sum();
    Ok(of(pid)? + children)
}

/// Memory that the kernel uses for sockets and in slabs, in bytes, on the whole machine.
pub(crate) fn kernel_bytes() -> Outcome<u64> {
    let sockets = fs::read_to_string("/proc/net/sockstat").doing("/proc/net/sockstat")?;
    let tcp = sockets.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default();
    let pages = field(tcp, "mem");
    let memory = fs::read_to_string("/proc/meminfo").doing("/proc/meminfo")?;
    Ok(pages * page_bytes() + field(&memory, "SUnreclaim:") * KIB)
}

fn page_bytes() -> u64 {
    // SAFETY: sysconf has no preconditions.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes).unwrap_or(4_096)
}

/// The number that follows a word.
fn field(text: &str, name: &str) -> u64 {
    let mut words = text.split_whitespace().skip_while(|word| *word != name);
    words.nth(1).and_then(|it| it.parse().ok()).unwrap_or_default()
}

/// The user that this process acts as.
pub(crate) fn user() -> u32 {
    // SAFETY: geteuid has no preconditions.
    unsafe { libc::geteuid() }
}

/// Is there a process of this id?
pub(crate) fn is_alive(pid: i32) -> bool {
    // SAFETY: signal 0 only asks.
    unsafe { libc::kill(pid, 0) == 0 }
}

/// Sends a signal to one process.
pub(crate) fn signal(pid: i32, signal: i32) -> Outcome {
    // SAFETY: kill has no memory preconditions; ids of 1 and below are refused where they are read.
    if pid > 1 && unsafe { libc::kill(pid, signal) } == 0 {
        return Ok(());
    }
    Err(std::io::Error::last_os_error()).doing(format!("signal {signal} to process {pid}"))
}

/// Takes all descriptors that this process may have, and says how many sockets that allows.
pub(crate) fn connections_max() -> Outcome<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place, and what is set is what was read.
    let failed = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) != 0 || {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) != 0
        }
    };
    if failed {
        return Err(std::io::Error::last_os_error()).doing("the limit of open files");
    }
    Ok(limit.rlim_cur.saturating_sub(DESCRIPTORS_RESERVED).max(1))
}

/// Gives the calling thread a descriptor table of its own: what it opens from here on counts against
/// a limit of its own, and only it may use.
pub(crate) fn own_descriptors() -> Outcome {
    // SAFETY: unshare takes no memory; descriptors that are open already are in both tables.
    if unsafe { libc::unshare(libc::CLONE_FILES) } == 0 {
        return Ok(());
    }
    Err(std::io::Error::last_os_error()).doing("a descriptor table for a thread")
}

/// Makes the calling thread give way to those that wake it: it runs once they sleep, or in its turn
/// (`SCHED_BATCH`, sched(7)). For clients' threads: people's devices take no core from the server that
/// writes to them, and one that shares its core would else stop it after every single write. Threads
/// that this one starts are not concerned.
pub(crate) fn give_way() -> Outcome {
    let plain = libc::sched_param { sched_priority: 0 };
    let policy = libc::SCHED_BATCH | libc::SCHED_RESET_ON_FORK;
    // SAFETY: `plain` is valid to read, and 0 is the calling thread.
    if unsafe { libc::sched_setscheduler(0, policy, &raw const plain) } == 0 {
        return Ok(());
    }
    Err(std::io::Error::last_os_error()).doing("the scheduling of a thread")
}

/// Leaves the calling thread what nobody else wants of the processor (nice 19).
pub(crate) fn give_way_to_all() -> Outcome {
    // SAFETY: setpriority takes no memory; 0 is the calling thread.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) } == 0 {
        return Ok(());
    }
    Err(std::io::Error::last_os_error()).doing("the niceness of a thread")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_uses_time() {
        let own = i32::try_from(std::process::id()).unwrap();
        let before = cpu_ns(own).unwrap();
        let mut sum = 0_u64;
        while cpu_ns(own).unwrap() - before < 1_000_000 {
            sum = sum.wrapping_mul(3).wrapping_add(1);
        }
        assert!(system_ns_sum(&[own]).unwrap() <= cpu_ns(own).unwrap() + 1_000_000_000);
        assert!(anonymous_bytes(own).unwrap() > 0 && kernel_bytes().unwrap() > 0, "{sum}");
        assert!(is_alive(own) && connections_max().unwrap() > 0);
        assert!(cpu_ns_with_children(own).unwrap() >= before);
        assert!(resident_bytes(own).unwrap() > 0 && descriptors(own).unwrap() > 2);
    }

    #[test]
    fn children_count_with_their_parent() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        let id = i32::try_from(child.id()).unwrap();
        // Children are told by the thread that made them: here a test's own.
        assert_eq!(with_children(id), [id]);
        assert!(resident_bytes(id).unwrap() > 0);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(resident_bytes(id).is_err() && with_children(own).contains(&own));
    }

    #[test]
    fn fields_are_found_by_name() {
        let text = "TCP: inuse 1 orphan 0 mem 18\nSwap:   4 kB";
        assert_eq!((field(text, "mem"), field(text, "Swap:"), field(text, "none")), (18, 4, 0));
    }
}
