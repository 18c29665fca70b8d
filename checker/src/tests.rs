//! The checker checked: good histories pass, and every way of spoiling one is noticed.

mod good;
mod mutations;

use super::database::DatabaseEvent;
use super::history::{self, Operation, Writer};
use super::judge::Judge;
use super::verdict::{Verdict, Violation};
use good::History;

fn judge(history: &History) -> Verdict {
    let mut judge = Judge::new(history.dump.iter().cloned());
    for operation in &history.operations {
        judge.take(operation);
    }
    judge.finish()
}

#[test]
fn good_histories_pass() {
    for seed in 0..50 {
        let history = good::history(seed);
        let verdict = judge(&history);
        assert!(verdict.ok, "seed {seed}: {:?}", verdict.violations);
        assert!(verdict.acked > 20, "seed {seed}: {}", verdict.acked);
        assert!(verdict.wire_duplicates > 0, "seed {seed}");
    }
}

#[test]
fn every_mutation_is_caught() {
    for seed in 0..20 {
        let good = good::history(seed);
        for mutation in mutations::ALL {
            let mut history = good.clone();
            (mutation.spoil)(&mut history, &mut fastrand::Rng::with_seed(seed));
            assert_ne!(history, good, "{} changed nothing", mutation.name);
            let verdict = judge(&history);
            assert!(!verdict.ok, "{} passed with seed {seed}", mutation.name);
            assert!(
                verdict.count(mutation.expected) > 0,
                "{} with seed {seed}: expected {:?}, got {:?}",
                mutation.name,
                mutation.expected,
                verdict.violations
            );
        }
    }
    const { assert!(mutations::ALL.len() >= 20) };
}

#[test]
fn an_empty_history_is_not_a_good_one_and_a_torn_line_is_named() {
    let folder = std::env::temp_dir().join(format!("realchat-checker-{}", uuid::Uuid::now_v7()));
    std::fs::create_dir(&folder).unwrap();
    let error = super::check(&folder, []).unwrap_err();
    assert!(error.to_string().ends_with("no history there (no file named *.jsonl)"), "{error}");
    std::fs::write(folder.join("a.jsonl"), "{\"op\":\"settled\",\"session\":\"u/d\"}\n{\"op")
        .unwrap();
    let error = super::check(&folder, []).unwrap_err();
    assert!(error.to_string().contains("a.jsonl, line 2: "), "{error}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_history_in_files_is_read_as_it_was_written() {
    let folder = std::env::temp_dir().join(format!("realchat-checker-{}", uuid::Uuid::now_v7()));
    std::fs::create_dir(&folder).unwrap();
    let good = good::history(1);
    let mut writer = Writer::create(&folder.join("all.jsonl")).unwrap();
    for operation in &good.operations {
        writer.append(operation).unwrap();
    }
    writer.flush().unwrap();
    let mut writer = Writer::create(&folder.join(history::DATABASE_FILE)).unwrap();
    for row in &good.dump {
        writer.append(row).unwrap();
    }
    writer.flush().unwrap();
    let mut dump: Vec<DatabaseEvent> = Vec::new();
    history::read(&folder.join(history::DATABASE_FILE), |row| dump.push(row)).unwrap();
    assert_eq!(dump, good.dump);
    let verdict = super::check(&folder, dump).unwrap();
    assert!(verdict.ok, "{:?}", verdict.violations);
    assert_eq!(verdict.operations, good.operations.len() as u64);
    std::fs::remove_dir_all(folder).unwrap();
}
