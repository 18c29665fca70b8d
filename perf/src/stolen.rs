//! Time that a virtual machine wanted and did not get, because its host ran others meanwhile. What
//! is measured in such a time is slower than the machine: reports say how much of it there was.

use crate::failure::{Context, Outcome};
use crate::latency::per;
use std::fs;

/// Ticks since the machine's start, of all cores; see `proc_stat(5)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ticks {
    /// Run, or stolen: what was wanted.
    busy: u64,
    stolen: u64,
}

pub(crate) struct Stolen(Ticks);

impl Stolen {
    pub(crate) fn start() -> Outcome<Self> {
        Ok(Self(Ticks::now()?))
    }

    /// Of the time that was wanted since the start, how much was stolen.
    pub(crate) fn percent(&self) -> Outcome<f64> {
        let now = Ticks::now()?;
        let stolen = now.stolen.saturating_sub(self.0.stolen);
        Ok(per(100 * stolen, now.busy.saturating_sub(self.0.busy)))
    }
}

impl Ticks {
    fn now() -> Outcome<Self> {
        let text = fs::read_to_string("/proc/stat").doing("/proc/stat")?;
        Ok(Self::of(&text))
    }

    /// cpu, user, nice, system, idle, iowait, irq, softirq, steal, and what is counted in these.
    fn of(stat: &str) -> Self {
        let all = stat.lines().find(|line| line.starts_with("cpu ")).unwrap_or_default();
        let ticks: Vec<u64> =
            all.split_whitespace().skip(1).take(8).map(|it| it.parse().unwrap_or(0)).collect();
        let idle: u64 = ticks.iter().skip(3).take(2).sum();
        Self {
            busy: ticks.iter().sum::<u64>() - idle,
            stolen: ticks.get(7).copied().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_wanted_is_all_but_idle_time() {
        let stat = "cpu  10 1 20 500 40 2 3 14 7 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(Ticks::of(stat), Ticks { busy: 50, stolen: 14 });
        assert_eq!(Ticks::of(""), Ticks { busy: 0, stolen: 0 });
    }

    #[test]
    fn a_share_is_never_over_the_whole() {
        let percent = Stolen::start().unwrap().percent().unwrap();
        assert!((0.0..=100.0).contains(&percent), "{percent}");
    }
}
