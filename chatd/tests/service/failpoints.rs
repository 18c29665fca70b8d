//! Crashes at each place between chatd's durable actions, and failures there: whatever was acknowledged
//! is there once, and what is sent again gets the same answer.
//!
//! Skipped unless REALCHAT_FAILPOINT_BINARIES names binaries that have failpoints.

use crate::support::{Chatd, Database, PATIENCE, Person, admin_get, wait_for};
use crate::write::assert_no_hole;
use proto::client::Sent;
use proto::link::response::Response;
use std::ops::Range;
use std::path::PathBuf;

/// Sends, of which the first are answered before the failpoint is armed.
const SENDS: usize = 40;
const BEFORE: usize = 10;

fn binary() -> Option<PathBuf> {
    let folder = std::env::var_os("REALCHAT_FAILPOINT_BINARIES");
    if folder.is_none() {
        eprintln!("skipped: REALCHAT_FAILPOINT_BINARIES does not name binaries with failpoints");
    }
    folder.map(|folder| PathBuf::from(folder).join("chatd"))
}

struct Stage {
    database: Database,
    chatd: Chatd,
    admin: String,
    alice: Person,
    conversation_id: proto::Uuid,
}

fn stage(binary: &std::path::Path) -> Stage {
    let database = Database::new();
    let admin = format!("127.0.0.1:{}", crate::support::postgres::free_port());
    let settings = [("admin.listen", admin.as_str()), ("writers.retry_ms", "20000")];
    let chatd = Chatd::start_binary(binary, &database, &settings);
    let alice = Person::register(&chatd, "alice");
    let conversation_id = alice.create(&chatd, &[]);
    Stage { database, chatd, admin, alice, conversation_id }
}

fn arm(admin: &str, order: &str) {
    let answer = admin_get(admin, &format!("/failpoint/{order}")).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// What came of each of these sends; nothing where the connection ended first.
fn send(stage: &Stage, numbers: Range<usize>) -> Vec<Option<Sent>> {
    let submit = |number: usize| {
        let key = format!("key-{number}");
        stage.alice.submit(&stage.chatd, stage.conversation_id, &key, "hi")
    };
    let pending: Vec<_> = numbers.map(submit).collect();
    let answers = pending.iter().map(|it| match it.recv_timeout(PATIENCE) {
        Ok(Ok(Response::Sent(sent))) => Some(sent),
        _ => None,
    });
    answers.collect()
}

/// Crashes at `failpoint`; how many of the sends were committed by then.
fn crash_at(failpoint: &str) -> Option<usize> {
    let mut stage = stage(&binary()?);
    let mut acked = send(&stage, 0..BEFORE);
    arm(&stage.admin, &format!("{failpoint}=exit"));
    acked.extend(send(&stage, BEFORE..SENDS));
    assert!(!stage.chatd.wait().success(), "{failpoint}: it was killed");
    wait_for("the transaction's end", || {
        let query = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'realchat'
            AND datname = current_database() AND pid <> pg_backend_pid()";
        let others: i64 = stage.database.owner().query_one(query, &[]).unwrap().get(0);
        (others == 0).then_some(())
    });
    let committed = assert_no_hole(&stage.database, stage.conversation_id) - 1;
    let answered = acked.iter().flatten().count();
    assert!(committed >= answered, "{failpoint}: {answered} acknowledged, {committed} there");
    stage.chatd = Chatd::start(&stage.database);
    let again = send(&stage, 0..SENDS);
    for (before, after) in acked.iter().zip(&again) {
        let after = after.as_ref().expect("it is sent now");
        if let Some(before) = before {
            assert_eq!(after, &Sent { repeated: true, ..before.clone() }, "{failpoint}");
        }
    }
    let repeated = again.iter().flatten().filter(|it| it.repeated).count();
    assert_eq!(repeated, committed, "{failpoint}: what was there is what is repeated");
    assert_eq!(assert_no_hole(&stage.database, stage.conversation_id), 1 + SENDS);
    eprintln!("{failpoint}: of {SENDS} sends {answered} were acknowledged, {committed} committed");
    Some(committed - answered)
}

#[test]
fn a_crash_before_the_commit_leaves_nothing_of_the_batch() {
    for failpoint in ["chatd.before_insert", "chatd.after_insert", "chatd.before_commit"] {
        let Some(unanswered) = crash_at(failpoint) else { return };
        assert_eq!(unanswered, 0, "{failpoint}: what was committed was answered");
    }
}

#[test]
fn a_crash_after_the_commit_keeps_the_batch_and_its_answers() {
    let Some(unanswered) = crash_at("chatd.after_commit") else { return };
    assert!(unanswered > 0, "a batch was committed that nobody was told of");
    crash_at("chatd.after_ack");
}

#[test]
fn a_failure_anywhere_is_tried_again_and_doubles_nothing() {
    let Some(binary) = binary() else { return };
    let stage = stage(&binary);
    let places = ["before_insert", "after_insert", "before_commit", "after_commit"];
    for (number, place) in places.iter().enumerate() {
        arm(&stage.admin, &format!("chatd.{place}=error"));
        let key = format!("error-{number}");
        let sent = stage.alice.send(&stage.chatd, stage.conversation_id, &key, "hi").unwrap();
        // After the commit it was done already, and the second attempt found it.
        assert_eq!(sent.repeated, *place == "after_commit", "{place}");
    }
    let events = assert_no_hole(&stage.database, stage.conversation_id);
    assert_eq!(events, 1 + places.len());
    let refused = admin_get(&stage.admin, "/failpoint/chatd.nowhere=exit").unwrap();
    assert!(refused.starts_with("HTTP/1.1 400") && refused.contains("chatd.before_insert"));
}
