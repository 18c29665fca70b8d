//! `perf soak`: the load of `perf e2e` for a long time, and what grows meanwhile.

mod sampler;

use crate::e2e::{self, Run, Scale};
use crate::failure::Outcome;
use crate::limits::{SECONDS_MAX, SOAK_WARM_UP_PERCENT};
use crate::options::{SoakOptions, within};
use crate::outbox_size::OutboxSize;
use crate::population;
use crate::report::{self, rounded};
use crate::slope::{self, Sample};
use crate::stack::Stack;
use sampler::{Sampler, Track};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

type ByProcess<T> = BTreeMap<String, T>;

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    e2e: e2e::Report,
    minutes: u64,
    rss_slope_bytes_per_hour: ByProcess<Option<f64>>,
    fd_slope_per_hour: ByProcess<Option<f64>>,
    /// Why a slope is null.
    slopes_missing: ByProcess<String>,
    rss_bytes_end: ByProcess<u64>,
    fd_end: ByProcess<u64>,
    warm_up_s: u64,
    outbox_bytes_start: i64,
    outbox_bytes_end: i64,
    outbox_index_bytes_start: i64,
    outbox_index_bytes_end: i64,
    rss_is: &'static str,
}

pub(crate) fn run(options: &SoakOptions) -> Outcome {
    let scale = scale(options)?;
    let stack = Arc::new(Stack::of(&options.common, 2)?);
    let database_url = stack.database_url()?;
    let mut run = Run::open(&stack, scale, options.common.seed)?;
    let mut database = population::connect(&database_url)?;
    let before = OutboxSize::look(&mut database)?;
    let sampler = Sampler::start(Arc::clone(&stack), scale.seconds)?;
    let sent = run.send();
    let tracks = sampler.finish()?;
    sent?;
    let after = OutboxSize::look(&mut database)?;
    let (e2e, verdict) = run.finish(&stack)?;
    let warm_up_s = scale.seconds * SOAK_WARM_UP_PERCENT / 100;
    let mut report = Report {
        e2e,
        minutes: options.minutes,
        rss_slope_bytes_per_hour: BTreeMap::new(),
        fd_slope_per_hour: BTreeMap::new(),
        slopes_missing: BTreeMap::new(),
        rss_bytes_end: BTreeMap::new(),
        fd_end: BTreeMap::new(),
        warm_up_s,
        outbox_bytes_start: before.table,
        outbox_bytes_end: after.table,
        outbox_index_bytes_start: before.indexes,
        outbox_index_bytes_end: after.indexes,
        rss_is: "resident memory of the process and its children, shared memory (PostgreSQL's \
                 buffers) aside",
    };
    for (name, track) in tracks {
        report.add(name, &track, warm_up_s * 1_000_000);
    }
    report::print(&report, options.common.json)?;
    verdict
}

fn scale(options: &SoakOptions) -> Outcome<Scale> {
    let minutes = within("--minutes", options.minutes, 1..=SECONDS_MAX / 60)?;
    let scale = Scale {
        rate: options.rate,
        connections: options.connections,
        seconds: minutes * 60,
        conversations: options.conversations.unwrap_or(e2e::conversations(options.connections)),
        members: options.members,
        text_bytes: options.text_bytes,
    };
    scale.check().map(|()| scale)
}

impl Report {
    fn add(&mut self, name: String, track: &Track, warm_up_us: u64) {
        let slope = |samples: &[Sample]| match track.restarted_s {
            Some(at_s) => Err(format!("it was another process from second {at_s} on")),
            None => slope::per_hour(after_warm_up(samples, warm_up_us)),
        };
        let slopes = [slope(&track.rss_bytes), slope(&track.descriptors)];
        if let Some(reason) = slopes.iter().find_map(|it| it.as_ref().err()) {
            self.slopes_missing.insert(name.clone(), reason.clone());
        }
        let [rss, descriptors] = slopes.map(|it| it.ok().map(rounded));
        let last = |samples: &[Sample]| samples.last().map_or(0, |it| it.1);
        self.rss_bytes_end.insert(name.clone(), last(&track.rss_bytes));
        self.fd_end.insert(name.clone(), last(&track.descriptors));
        self.rss_slope_bytes_per_hour.insert(name.clone(), rss);
        self.fd_slope_per_hour.insert(name, descriptors);
    }
}

fn after_warm_up(samples: &[Sample], warm_up_us: u64) -> &[Sample] {
    let from_us = samples.first().map_or(0, |it| it.0 + warm_up_us);
    let first = samples.partition_point(|it| it.0 < from_us);
    &samples[first..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{Command, Options};
    use clap::Parser;

    fn options(words: &[&str]) -> SoakOptions {
        let words = ["perf", "soak"].iter().chain(words);
        match Options::parse_from(words).command {
            Command::Soak(options) => options,
            other => unreachable!("{other:?}"),
        }
    }

    #[test]
    fn minutes_have_a_limit_and_the_load_is_modest_unless_told() {
        let scale_of = |words: &[&str]| scale(&options(words));
        let scale = scale_of(&["--minutes", "3"]).unwrap();
        assert_eq!((scale.seconds, scale.rate, scale.conversations), (180, 20, 50));
        assert_eq!(scale_of(&["--minutes", "10080"]).unwrap().seconds, SECONDS_MAX);
        for words in [["--minutes", "0"], ["--minutes", "10081"]] {
            let failure = scale_of(&words).unwrap_err().to_string();
            assert!(failure.ends_with("but 1 to 10080 is allowed"), "{failure}");
        }
        let failure = scale_of(&["--minutes", "10080", "--rate", "1000"]).unwrap_err().to_string();
        assert!(failure.starts_with("the number of sends"), "{failure}");
    }

    #[test]
    fn the_warm_up_is_left_out_and_a_process_that_was_restarted_has_no_slope() {
        let samples: Vec<Sample> = (0..100).map(|second| (second * 1_000_000, second)).collect();
        assert_eq!(after_warm_up(&samples, 25_000_000).first(), Some(&(25_000_000, 25)));
        assert!(after_warm_up(&[], 1).is_empty());
        let mut track = Track { rss_bytes: samples.clone(), descriptors: samples, ..Track::new(1) };
        let mut report = Report {
            e2e: e2e::Report::default(),
            minutes: 1,
            rss_slope_bytes_per_hour: BTreeMap::new(),
            fd_slope_per_hour: BTreeMap::new(),
            slopes_missing: BTreeMap::new(),
            rss_bytes_end: BTreeMap::new(),
            fd_end: BTreeMap::new(),
            warm_up_s: 25,
            outbox_bytes_start: 0,
            outbox_bytes_end: 0,
            outbox_index_bytes_start: 0,
            outbox_index_bytes_end: 0,
            rss_is: "",
        };
        report.add("relay".into(), &track, 25_000_000);
        track.restarted_s = Some(40);
        report.add("kafka".into(), &track, 25_000_000);
        assert_eq!(report.rss_slope_bytes_per_hour["relay"], Some(3_600.0));
        assert_eq!(report.fd_slope_per_hour["kafka"], None);
        assert_eq!(report.slopes_missing["kafka"], "it was another process from second 40 on");
        assert!(!report.slopes_missing.contains_key("relay"));
        let json = serde_json::to_value(&report).unwrap();
        assert!(json["sent"].is_number() && json["rss_slope_bytes_per_hour"]["kafka"].is_null());
    }
}
