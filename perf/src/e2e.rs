//! `perf e2e`: open-loop sends through every gateway, each followed to every member's session.

mod load;
mod verify;

use crate::clock::{self, Schedule};
use crate::failure::Outcome;
use crate::limits::{SENDS_MAX, STRAGGLERS_MS_MAX};
use crate::load::{self as sessions, Driver};
use crate::options::{E2eOptions, count, seconds, within};
use crate::population::Population;
use crate::process::connections_max;
use crate::report::{self, progress};
use crate::stack::Stack;
use crate::tokens::Minter;
use fastrand::Rng;
use load::Load;
use std::time::Duration;

pub(crate) use load::Report;

/// How much is sent, by how many, to how many.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    /// Messages a second, over all connections.
    pub(crate) rate: u64,
    pub(crate) connections: u64,
    pub(crate) seconds: u64,
    pub(crate) conversations: u64,
    /// Members of each conversation.
    pub(crate) members: u64,
    pub(crate) text_bytes: u64,
}

impl Scale {
    /// Refuses what no run can do.
    pub(crate) fn check(&self) -> Outcome {
        within("--connections", self.connections, 1..=connections_max()?)?;
        within("--rate", self.rate, 1..=100_000)?;
        within("--members", self.members, 1..=self.connections.min(1_024))?;
        within("--conversations", self.conversations, 1..=1_000_000)?;
        within("--text-bytes", self.text_bytes, 32..=16_384)?;
        let sends = self.rate.saturating_mul(self.seconds);
        within("the number of sends (--rate times the seconds)", sends, 1..=SENDS_MAX).map(|_| ())
    }
}

/// Conversations, if it is not said how many.
pub(crate) fn conversations(connections: u64) -> u64 {
    (connections / 4).max(1)
}

/// Open sessions and their conversations.
pub(crate) struct Run {
    scale: Scale,
    driver: Driver,
    load: Load,
    random: Rng,
}

pub(crate) fn run(options: &E2eOptions) -> Outcome {
    let scale = Scale {
        rate: options.rate,
        connections: options.connections,
        seconds: seconds(options.seconds)?,
        conversations: options.conversations.unwrap_or(conversations(options.connections)),
        members: options.members,
        text_bytes: options.text_bytes,
    };
    scale.check()?;
    let stack = Stack::of(&options.common, 2)?;
    let mut run = Run::open(&stack, scale, options.common.seed)?;
    run.send()?;
    let (report, verdict) = run.finish(&stack)?;
    report::print(&report, options.common.json)?;
    verdict
}

impl Run {
    /// Makes users and conversations, and opens a session for each user.
    pub(crate) fn open(stack: &Stack, scale: Scale, seed: u64) -> Outcome<Self> {
        let Scale { connections, conversations, members, .. } = scale;
        let mut random = Rng::with_seed(seed);
        let population =
            Population::plan(&mut random, count(connections), count(conversations), count(members));
        progress!("perf: inserting {connections} users and {conversations} conversations");
        population.insert(&stack.database_url()?)?;
        let minter = Minter::open(&stack.signing_key()?)?;
        let specs = sessions::specs(&stack.gateways()?, &minter, population.users.iter().copied())?;
        let mut load = Load::new(population, count(scale.text_bytes));
        let mut driver = Driver::new()?;
        driver.open_all(specs, &mut load)?;
        Ok(Self { scale, driver, load, random })
    }

    /// Sends at the rate, whatever comes back, and waits for what is still under way.
    pub(crate) fn send(&mut self) -> Outcome {
        let Self { scale: Scale { rate, seconds, .. }, driver, load, random } = self;
        progress!("perf: sending {rate} messages a second for {seconds} s");
        let schedule = Schedule::new(clock::now_us() + 200_000, *rate, *seconds);
        let mut next = 0;
        while let Some(due_us) = schedule.due_us(next) {
            let now = clock::now_us();
            if due_us <= now {
                let index = load.plan(due_us, random);
                load.write(driver, index);
                next += 1;
                continue;
            }
            load.retry_due(driver, now);
            driver.run(Duration::from_micros((due_us - now).min(50_000)), load)?;
        }
        load.settle(driver, clock::now_us() + STRAGGLERS_MS_MAX * 1_000)
    }

    /// Ends the sessions, and compares what they saw with PostgreSQL: the report, and whether it is good.
    pub(crate) fn finish(mut self, stack: &Stack) -> Outcome<(Report, Outcome)> {
        self.driver.close_all();
        let checked = verify::against_database(&stack.database_url()?, &self.load)?;
        let lost_by_sessions = self.load.tracker.lost(&checked.last);
        let report = self.load.report(&self.scale, lost_by_sessions, checked.lost);
        let verdict = self.load.verdict(&report);
        Ok((report, verdict))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_is_refused_one_past_each_limit() {
        let good = Scale {
            rate: 1_000,
            connections: 4,
            seconds: SENDS_MAX / 1_000,
            conversations: 1_000_000,
            members: 4,
            text_bytes: 32,
        };
        good.check().unwrap();
        for bad in [
            Scale { rate: 0, ..good },
            Scale { rate: 100_001, seconds: 1, ..good },
            Scale { seconds: SENDS_MAX / 1_000 + 1, ..good },
            Scale { connections: 0, ..good },
            Scale { members: 5, ..good },
            Scale { conversations: 1_000_001, ..good },
            Scale { text_bytes: 31, ..good },
            Scale { text_bytes: 16_385, ..good },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
