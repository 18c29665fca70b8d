//! A simulation that finds nothing may be blind: every planted defect must be found.

#![allow(clippy::print_stdout, clippy::panic, reason = "tests")]

use simulation::{ALL, run};

/// So many seeds a defect may take to show.
const SEEDS_MAX: u64 = 1_000;

#[test]
fn every_planted_defect_is_found() {
    for bug in ALL {
        let found = (0..SEEDS_MAX).find_map(|seed| {
            let run = run(seed, Some(bug), false);
            run.violations.first().map(|words| (seed, words.clone()))
        });
        let Some((seed, words)) = found else { panic!("{bug:?} was not found") };
        println!("{bug:?}: seed {seed}: {words}");
    }
}

#[test]
fn a_seed_is_the_same_run_every_time() {
    for seed in 0..20 {
        let (once, again) = (run(seed, None, false), run(seed, None, true));
        assert_eq!((once.digest, once.met), (again.digest, again.met), "seed {seed}");
        assert!(again.trace.contains("Settled"), "the trace goes to the end");
    }
}
