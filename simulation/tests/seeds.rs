//! Runs the seeds. `REALCHAT_SIMULATION_SEEDS=N` tries so many; `REALCHAT_SIMULATION_SEED=N` replays one
//! and prints all that happened.

#![allow(clippy::print_stdout, clippy::panic, reason = "tests")]

use simulation::{Met, Run, run};

const SEEDS: u64 = 10_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|it| it.parse().expect("a number"))
}

/// Failing seeds that are told at once.
const TOLD_MAX: usize = 10;

fn tell(failed: &[Run]) {
    for run in failed {
        println!(
            "seed {seed} broke promises; to replay it: REALCHAT_SIMULATION_SEED={seed} \
             cargo test --release --workspace --locked --test seeds -- --nocapture\n  {words}",
            seed = run.seed,
            words = run.violations.join("\n  ")
        );
    }
    assert!(failed.is_empty(), "seeds broke promises");
}

#[test]
fn whatever_fails_every_promise_is_kept() {
    if let Some(seed) = number("REALCHAT_SIMULATION_SEED") {
        let run = run(seed, None, true);
        println!("{}", run.trace);
        println!("seed {seed}: {:?}", run.met);
        let is_good = run.violations.is_empty();
        return tell(if is_good { &[] } else { std::slice::from_ref(&run) });
    }
    let (mut met, mut failed) = (Met::default(), Vec::new());
    for seed in 0..number("REALCHAT_SIMULATION_SEEDS").unwrap_or(SEEDS) {
        let run = run(seed, None, false);
        met += run.met;
        if !run.violations.is_empty() {
            failed.push(run);
        }
        if failed.len() >= TOLD_MAX {
            break;
        }
    }
    println!("{met:?}");
    tell(&failed);
    // A simulation that comes across nothing proves nothing.
    assert!(met.acked > 0 && met.wire_duplicates > 0 && met.published_twice > 0, "{met:?}");
    assert!(met.resumes_from_cache > 0 && met.resumes_from_chatd > 0, "{met:?}");
    assert!(met.dead_letters > 0, "{met:?}");
}
