//! A database in trouble: what is asked meanwhile is done once or refused with a time to try again, never
//! half-done, and never acknowledged when in doubt.

use crate::support::{Chatd, Database, PATIENCE, Person, wait_for};
use crate::write::assert_no_hole;
use proto::Uuid;
use proto::client::{Error, Sent};
use proto::link::response::Response;
use serde_json::json;

struct Stage {
    database: Database,
    chatd: Chatd,
    alice: Person,
    conversation_id: Uuid,
}

/// Alice has a conversation, at a chatd that tries a batch again for so long.
fn stage(retry_ms: &str) -> Stage {
    let database = Database::new();
    let chatd = Chatd::start_with(&database, &[("writers.retry_ms", retry_ms)]);
    let alice = Person::register(&chatd, "alice");
    let conversation_id = alice.create(&chatd, &[]);
    Stage { database, chatd, alice, conversation_id }
}

/// The first `count` inserts of events end with this SQLSTATE.
fn plant(database: &Database, sqlstate: &str, count: i64) {
    let sql = format!(
        "CREATE SEQUENCE IF NOT EXISTS public.trouble;
         CREATE OR REPLACE FUNCTION public.trouble() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
         AS $$ BEGIN
             IF nextval('public.trouble') <= {count} THEN
                 RAISE EXCEPTION 'planted' USING ERRCODE = '{sqlstate}';
             END IF;
             RETURN NULL;
         END $$;
         CREATE OR REPLACE TRIGGER trouble AFTER INSERT ON messaging.events
             FOR EACH STATEMENT EXECUTE FUNCTION public.trouble();
         SELECT setval('public.trouble', 1, false)"
    );
    database.superuser().batch_execute(&sql).unwrap();
}

fn end(database: &Database) {
    database.superuser().batch_execute("DROP TRIGGER trouble ON messaging.events").unwrap();
}

/// What may pass: serialization failure, deadlock, lock time-out, statement time-out, shutdown, crash,
/// read-only, disk full, memory, connections, input and output.
const PASSING: [&str; 13] = [
    "40001", "40P01", "55P03", "57014", "57P01", "57P02", "57P03", "25006", "53100", "53200",
    "53300", "58030", "08006",
];

#[test]
fn what_may_pass_is_tried_again_and_done_once() {
    let Stage { database, chatd, alice, conversation_id } = stage("20000");
    for (number, sqlstate) in PASSING.iter().enumerate() {
        plant(&database, sqlstate, 3);
        let pending: Vec<_> = (0..10)
            .map(|it| alice.submit(&chatd, conversation_id, &format!("{sqlstate}-{it}"), "hi"))
            .collect();
        for receiver in pending {
            let answer = receiver.recv_timeout(PATIENCE).unwrap().unwrap();
            assert!(matches!(answer, Response::Sent(_)), "{sqlstate}: {answer:?}");
        }
        assert_eq!(assert_no_hole(&database, conversation_id), 1 + 10 * (number + 1), "{sqlstate}");
    }
}

#[test]
fn what_does_not_pass_is_refused_for_now_and_its_key_is_good_afterwards() {
    let Stage { database, chatd, alice, conversation_id } = stage("200");
    for (number, sqlstate) in PASSING.iter().enumerate() {
        plant(&database, sqlstate, i64::MAX);
        let error = alice.send(&chatd, conversation_id, sqlstate, "hi").unwrap_err();
        assert_eq!((error.code.as_str(), error.retryable), ("unavailable", true), "{sqlstate}");
        assert!(error.retry_after_ms > 0 && error.message.contains("same idempotency_key"));
        assert_eq!(assert_no_hole(&database, conversation_id), 1 + number, "{sqlstate}");
        end(&database);
        let sent = alice.send(&chatd, conversation_id, sqlstate, "hi").unwrap();
        assert_eq!((sent.sequence_number, sent.repeated), (2 + number as u64, false), "{sqlstate}");
    }
}

#[test]
fn what_is_wrong_with_one_request_is_not_the_others_trouble() {
    let Stage { database, chatd, alice, conversation_id } = stage("2000");
    let check = "ALTER TABLE messaging.events ADD CONSTRAINT trouble CHECK (text <> 'refused')";
    database.superuser().batch_execute(check).unwrap();
    let text = |number: usize| if number % 20 == 7 { "refused" } else { "hi" };
    let pending: Vec<_> = (0..100)
        .map(|it| alice.submit(&chatd, conversation_id, &it.to_string(), text(it)))
        .collect();
    for (number, receiver) in pending.into_iter().enumerate() {
        match receiver.recv_timeout(PATIENCE).unwrap().unwrap() {
            Response::Sent(_) => assert_eq!(text(number), "hi"),
            Response::Error(Error { code, retryable, .. }) => {
                assert_eq!((text(number), code.as_str(), retryable), ("refused", "internal", true));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(assert_no_hole(&database, conversation_id), 1 + 95);
}

#[test]
fn a_database_that_becomes_read_only_refuses_for_now_and_goes_on_afterwards() {
    let Stage { database, chatd, alice, conversation_id } = stage("300");
    let mut superuser = database.superuser();
    let read_only = |superuser: &mut postgres::Client, value: &str| {
        let set = format!(
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = {value}',
                 current_database()); END $$"
        );
        superuser.batch_execute("SET default_transaction_read_only = off").unwrap();
        superuser.batch_execute(&set).unwrap();
        // As after a switch to a standby: everybody connects anew.
        database.cut_connections();
    };
    read_only(&mut superuser, "on");
    let error = alice.send(&chatd, conversation_id, "k", "hi").unwrap_err();
    assert_eq!((error.code.as_str(), error.retryable), ("unavailable", true));
    // What only reads goes on.
    let page = wait_for("a read", || {
        let target = format!("/v1/conversations/{conversation_id}/events");
        let (status, page) = alice.call(&chatd, "GET", &target, json!(null));
        (status == 200).then_some(page)
    });
    assert_eq!(page["events"].as_array().map(Vec::len), Some(1));
    read_only(&mut superuser, "off");
    let sent = wait_for("a write", || alice.send(&chatd, conversation_id, "k", "hi").ok());
    assert_eq!((sent.sequence_number, assert_no_hole(&database, conversation_id)), (2, 2));
}

#[test]
fn many_chatds_on_the_same_conversations_never_deadlock() {
    let database = Database::new();
    let chatds: Vec<Chatd> = (0..3).map(|_| Chatd::start(&database)).collect();
    let [alice, bob] = ["alice", "bob"].map(|name| Person::register(&chatds[0], name));
    let conversations: Vec<_> = (0..12).map(|_| alice.create(&chatds[0], &[&bob])).collect();
    let sent: Vec<Sent> = std::thread::scope(|scope| {
        let senders: Vec<_> = (0..6)
            .map(|thread| {
                let chatd = &chatds[thread % 3];
                let person = if thread < 3 { &alice } else { &bob };
                let conversations = &conversations;
                scope.spawn(move || {
                    let submit = |number: usize| {
                        let id = conversations[(number * 7 + thread * 5) % conversations.len()];
                        if number.is_multiple_of(10) {
                            person.ack(chatd, id, 1, 1).unwrap();
                        }
                        person.submit(chatd, id, &format!("{thread}-{number}"), "hi")
                    };
                    let pending: Vec<_> = (0..400).map(submit).collect();
                    let answer = |it: crossbeam_channel::Receiver<
                        crate::support::chatd::Outcome,
                    >| {
                        match it.recv_timeout(PATIENCE).unwrap().unwrap() {
                            Response::Sent(sent) => sent,
                            other => panic!("{other:?}"),
                        }
                    };
                    pending.into_iter().map(answer).collect::<Vec<_>>()
                })
            })
            .collect();
        senders.into_iter().flat_map(|it| it.join().unwrap()).collect()
    });
    assert_eq!(sent.len(), 2_400);
    let events: usize = conversations.iter().map(|id| assert_no_hole(&database, *id)).sum();
    assert_eq!(events, 2_400 + 12);
    // Sessions tell their counts when they end, at the latest.
    drop(chatds);
    let mut superuser = database.superuser();
    let others = "SELECT count(*) FROM pg_stat_activity
                  WHERE usename = 'realchat' AND datname = current_database()";
    wait_for("the sessions' end", || {
        let count: i64 = superuser.query_one(others, &[]).unwrap().get(0);
        (count == 0).then_some(())
    });
    let query = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    let deadlocks: i64 = superuser.query_one(query, &[]).unwrap().get(0);
    assert_eq!(deadlocks, 0);
}
