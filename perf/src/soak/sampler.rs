//! Looks at a stack's processes now and then, on a thread of its own.

use crate::clock;
use crate::failure::{Context, Failure, Outcome};
use crate::limits::{SAMPLE_MS_MIN, SAMPLES_MAX};
use crate::process;
use crate::slope::Sample;
use crate::stack::Stack;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// How soon the thread notices that it is to end.
const STEP_US: u64 = 50_000;

/// What was seen of one process.
#[derive(Debug, Clone)]
pub(super) struct Track {
    pub(super) pid: i32,
    pub(super) rss_bytes: Vec<Sample>,
    pub(super) descriptors: Vec<Sample>,
    /// Since when, from the first look on, it is another process or none.
    pub(super) restarted_s: Option<u64>,
}

type Tracks = BTreeMap<String, Track>;

pub(super) struct Sampler {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Tracks>,
}

impl Track {
    pub(super) fn new(pid: i32) -> Self {
        Self { pid, rss_bytes: Vec::new(), descriptors: Vec::new(), restarted_s: None }
    }

    /// A process that is gone is noted and looked at no more.
    fn look(&mut self, pid: Option<i32>, at_us: u64) {
        if self.restarted_s.is_some() {
            return;
        }
        let begun_us = self.rss_bytes.first().map_or(at_us, |it| it.0);
        let seen = (pid == Some(self.pid))
            .then(|| {
                process::resident_bytes(self.pid).ok().zip(process::descriptors(self.pid).ok())
            })
            .flatten();
        match seen {
            Some((bytes, descriptors)) => {
                self.rss_bytes.push((at_us, bytes));
                self.descriptors.push((at_us, descriptors));
            }
            None => self.restarted_s = Some((at_us - begun_us) / 1_000_000),
        }
    }
}

impl Sampler {
    /// Looks at every process of the stack for so many seconds, or until it is finished.
    pub(super) fn start(stack: Arc<Stack>, seconds: u64) -> Outcome<Self> {
        let every_us = 1_000 * SAMPLE_MS_MIN.max(seconds * 1_000 / SAMPLES_MAX);
        let mut tracks = Tracks::new();
        for (name, pid) in stack.pids()? {
            tracks.insert(name, Track::new(pid));
        }
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        let body = move || {
            let mut due_us = clock::now_us();
            while !stopped.load(Ordering::Acquire) {
                if clock::now_us() >= due_us {
                    // A stack that cannot be read has no process.
                    let pids = stack.pids().unwrap_or_default();
                    for (name, track) in &mut tracks {
                        track.look(pids.get(name).copied(), clock::now_us());
                    }
                    due_us += every_us;
                }
                clock::sleep_until(due_us.min(clock::now_us() + STEP_US));
            }
            tracks
        };
        let thread = std::thread::Builder::new().name("sampler".into()).spawn(body);
        Ok(Self { stop, thread: thread.doing("a thread")? })
    }

    pub(super) fn finish(self) -> Outcome<Tracks> {
        self.stop.store(true, Ordering::Release);
        self.thread.join().map_err(|_| Failure::Refused("the sampler's thread ended".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_followed_until_it_is_another() {
        let own = i32::try_from(std::process::id()).unwrap();
        let mut track = Track::new(own);
        track.look(Some(own), 5_000_000);
        track.look(Some(own), 6_000_000);
        track.look(Some(own + 1), 9_000_000);
        track.look(Some(own), 10_000_000);
        assert_eq!((track.rss_bytes.len(), track.restarted_s), (2, Some(4)));
        assert!(track.rss_bytes[0].1 > 0 && track.descriptors[1].1 > 0);
    }
}
