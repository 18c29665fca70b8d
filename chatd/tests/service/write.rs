//! The write engine against a real PostgreSQL: keys, order, neighbours, crashes of connections.

use crate::support::postgres::free_port;
use crate::support::{Chatd, Database, PATIENCE, Person, metric};
use proto::Uuid;
use proto::client::Sent;
use proto::link::response::Response;
use serde_json::{Value, json};
use std::collections::HashSet;

/// The numbers in a conversation's log, as the database has them.
fn log(database: &Database, conversation_id: Uuid) -> Vec<i64> {
    let query = "SELECT sequence_number FROM messaging.events WHERE conversation_id = $1
                 ORDER BY sequence_number";
    let rows = database.owner().query(query, &[&conversation_id]).unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

pub(crate) fn assert_no_hole(database: &Database, conversation_id: Uuid) -> usize {
    let log = log(database, conversation_id);
    let expected: Vec<i64> = (1..).take(log.len()).collect();
    assert_eq!(log, expected);
    let query = "SELECT last_sequence_number, last_message_number FROM messaging.conversations
                 WHERE conversation_id = $1";
    let row = database.owner().query_one(query, &[&conversation_id]).unwrap();
    assert_eq!(row.get::<_, i64>(0), log.len() as i64);
    let query = "SELECT count(*), max(message_number) FROM messaging.events
                 WHERE conversation_id = $1 AND kind = 1";
    let messages = database.owner().query_one(query, &[&conversation_id]).unwrap();
    assert_eq!(messages.get::<_, i64>(0), row.get::<_, i64>(1));
    // Every event is in the outbox, in order of id.
    let query = "SELECT headers FROM messaging.outbox
                 WHERE key = $1 AND topic = 'chat.message.created.v1' ORDER BY id";
    let rows = database.owner().query(query, &[&conversation_id.as_bytes().as_slice()]).unwrap();
    let published: Vec<i64> = rows
        .iter()
        .map(|row| {
            let headers: &[u8] = row.get(0);
            let headers: proto::record::RecordHeaders = proto::Message::decode(headers).unwrap();
            headers.sequence_number as i64
        })
        .collect();
    assert_eq!(published, expected);
    log.len()
}

#[test]
fn one_key_is_one_message_however_concurrently_it_is_sent() {
    let database = Database::new();
    let (one, two) = (Chatd::start(&database), Chatd::start(&database));
    let alice = Person::register(&one, "alice");
    let conversation_id = alice.create(&one, &[]);
    for round in 0..20 {
        let key = format!("round-{round}");
        let sents: Vec<Sent> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|thread| {
                    let chatd = if thread % 2 == 0 { &one } else { &two };
                    let (alice, key) = (&alice, &key);
                    scope.spawn(move || alice.send(chatd, conversation_id, key, "hi").unwrap())
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let ids: HashSet<_> = sents.iter().map(|it| (&it.message_id, it.sequence_number)).collect();
        assert_eq!(ids.len(), 1, "{sents:?}");
        assert_eq!(sents.iter().filter(|it| !it.repeated).count(), 1, "one was the first");
        let conflict = alice.send(&two, conversation_id, &key, "ho").unwrap_err();
        assert_eq!(conflict.code, "idempotency_key_conflict");
    }
    assert_eq!(assert_no_hole(&database, conversation_id), 21);
}

/// Sends texts under keys, all at once; the answers in that order.
fn send_all(
    person: &Person,
    chatd: &Chatd,
    conversation_id: Uuid,
    messages: &[(String, &str)],
) -> Vec<Response> {
    let pending: Vec<_> = messages
        .iter()
        .map(|(key, text)| person.submit(chatd, conversation_id, key, text))
        .collect();
    pending.into_iter().map(|it| it.recv_timeout(PATIENCE).unwrap().unwrap()).collect()
}

#[test]
fn a_key_keeps_its_answer_among_many_and_after_its_sender_left() {
    let database = Database::new();
    let chatd = Chatd::start(&database);
    let [alice, bob] = ["alice", "bob"].map(|name| Person::register(&chatd, name));
    let conversation_id = alice.create(&chatd, &[&bob]);
    let message = |number: usize| (format!("key-{number}"), "hi");
    let first: Vec<_> = (0..100).map(message).collect();
    let sent = send_all(&bob, &chatd, conversation_id, &first);
    // New ones, and among them repeated ones and one with another text.
    let mut second: Vec<_> = (0..200).map(message).collect();
    second[50].1 = "ho";
    let answers = send_all(&bob, &chatd, conversation_id, &second);
    for (number, answer) in answers.iter().enumerate() {
        match (answer, sent.get(number)) {
            (Response::Error(error), _) if number == 50 => {
                assert_eq!(error.code, "idempotency_key_conflict");
            }
            (Response::Sent(again), Some(Response::Sent(sent))) => {
                assert_eq!(again, &Sent { repeated: true, ..sent.clone() });
            }
            (Response::Sent(new), None) => assert!(!new.repeated),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(assert_no_hole(&database, conversation_id), 201);
    let target = format!("/v1/conversations/{conversation_id}/members/{}", bob.user_id);
    bob.done(&chatd, "DELETE", &target, json!({ "idempotency_key": "leave" }));
    // Another process, which has not yet seen any repeated key.
    let chatd = Chatd::start(&database);
    let Response::Sent(before) = &sent[7] else { panic!("{:?}", sent[7]) };
    let again = bob.send(&chatd, conversation_id, "key-7", "hi").unwrap();
    assert_eq!(again, Sent { repeated: true, ..before.clone() });
    let refused = bob.send(&chatd, conversation_id, "key-new", "hi").unwrap_err();
    assert_eq!(refused.code, "not_a_member");
    assert_eq!(assert_no_hole(&database, conversation_id), 202);
}

#[test]
fn adding_who_is_there_already_keeps_its_answer_when_they_have_gone() {
    let database = Database::new();
    let (one, two) = (Chatd::start(&database), Chatd::start(&database));
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| Person::register(&one, name));
    let conversation_id = alice.create(&one, &[&bob]);
    let members = format!("/v1/conversations/{conversation_id}/members");
    let add = |who: &Person| json!({ "user_ids": [who.user_id], "idempotency_key": "add" });
    let first = alice.done(&one, "POST", &members, add(&bob));
    let gone = format!("{members}/{}", bob.user_id);
    alice.done(&one, "DELETE", &gone, json!({ "idempotency_key": "remove" }));
    for chatd in [&one, &two] {
        let again = alice.done(chatd, "POST", &members, add(&bob));
        assert_eq!(again["sequence_number"], first["sequence_number"]);
        let (status, body) = alice.call(chatd, "POST", &members, add(&carol));
        assert_eq!((status, &body["code"]), (409, &"idempotency_key_conflict".into()));
    }
    assert_eq!(bob.send(&two, conversation_id, "k", "hi").unwrap_err().code, "not_a_member");
    assert_eq!(assert_no_hole(&database, conversation_id), 3);
}

#[test]
fn one_creation_key_is_one_conversation() {
    let database = Database::new();
    let (one, two) = (Chatd::start(&database), Chatd::start(&database));
    let alice = Person::register(&one, "alice");
    let body = json!({ "title": "Team", "idempotency_key": "k" });
    let ids: HashSet<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|thread| {
                let chatd = if thread % 2 == 0 { &one } else { &two };
                let (alice, body) = (&alice, body.clone());
                scope.spawn(move || alice.done(chatd, "POST", "/v1/conversations", body))
            })
            .collect();
        let bodies = threads.into_iter().map(|thread| thread.join().unwrap());
        bodies.map(|it| crate::support::people::text(&it["conversation_id"])).collect()
    });
    assert_eq!(ids.len(), 1);
    let other = json!({ "title": "Other", "idempotency_key": "k" });
    let (status, body) = alice.call(&one, "POST", "/v1/conversations", other);
    assert_eq!((status, &body["code"]), (409, &"idempotency_key_conflict".into()));
}

#[test]
fn bad_requests_get_their_own_errors_and_leave_no_hole() {
    let database = Database::new();
    let chatds = [Chatd::start(&database), Chatd::start(&database)];
    let people: Vec<_> =
        ["alice", "bob", "carol"].iter().map(|name| Person::register(&chatds[0], name)).collect();
    let stranger = Person::register(&chatds[0], "mallory");
    let conversations: Vec<Uuid> =
        (0..3).map(|_| people[0].create(&chatds[0], &[&people[1], &people[2]])).collect();
    let mut pending = Vec::new();
    for number in 0..3_000_usize {
        let chatd = &chatds[number % 2];
        let person = &people[number % 3];
        let conversation_id = conversations[number / 7 % 3];
        let key = format!("{}-{number}", person.name);
        let submit = |key: &str, text: &str| person.submit(chatd, conversation_id, key, text);
        let (receiver, expected) = match number % 10 {
            3 => (submit(&key, "a\0b"), Some("invalid_argument")),
            5 => (submit("", "hi"), Some("idempotency_key_missing")),
            7 => (stranger.submit(chatd, conversation_id, &key, "hi"), Some("not_a_member")),
            9 => (person.submit(chatd, Uuid::from_u128(5), &key, "hi"), Some("not_a_member")),
            1 => (submit(&key, &"x".repeat(17_000)), Some("message_too_long")),
            _ => (submit(&key, &"text ".repeat(number % 50 + 1)), None),
        };
        pending.push((receiver, expected));
    }
    for (receiver, expected) in pending {
        match (receiver.recv_timeout(PATIENCE).unwrap().unwrap(), expected) {
            (Response::Sent(_), None) => {}
            (Response::Error(error), Some(code)) => assert_eq!(error.code, code),
            (other, expected) => panic!("{other:?} instead of {expected:?}"),
        }
    }
    let events: usize = conversations.iter().map(|id| assert_no_hole(&database, *id)).sum();
    assert_eq!(events, 1_500 + 3);
}

#[test]
fn connections_that_are_cut_lose_and_double_nothing() {
    let database = Database::new();
    let chatd = Chatd::start_with(&database, &[("writers.retry_ms", "20000")]);
    let alice = Person::register(&chatd, "alice");
    let conversation_id = alice.create(&chatd, &[]);
    let mut acked = Vec::new();
    for round in 0..30 {
        let pending: Vec<_> = (0..40)
            .map(|number| alice.submit(&chatd, conversation_id, &format!("{round}-{number}"), "hi"))
            .collect();
        database.cut_connections();
        for receiver in pending {
            match receiver.recv_timeout(PATIENCE).unwrap().unwrap() {
                Response::Sent(sent) => acked.push((sent.sequence_number, sent.message_id)),
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(acked.iter().collect::<HashSet<_>>().len(), 1_200);
    assert_eq!(assert_no_hole(&database, conversation_id), 1_201);
}

#[test]
fn a_queue_that_is_full_says_so() {
    let database = Database::new();
    let settings =
        [("writers.count", "1"), ("writers.queue_max", "16"), ("writers.batch_max", "4")];
    let chatd = Chatd::start_with(&database, &settings);
    let alice = Person::register(&chatd, "alice");
    let conversation_id = alice.create(&chatd, &[]);
    let submit = |number: usize| alice.submit(&chatd, conversation_id, &number.to_string(), "hi");
    // While another transaction holds the conversation, its writer waits.
    let pending: Vec<_> = database.hold(conversation_id, || (0..40).map(submit).collect());
    let answers: Vec<_> =
        pending.iter().map(|it| it.recv_timeout(PATIENCE).unwrap().unwrap()).collect();
    let refused: Vec<_> = answers
        .iter()
        .filter_map(|it| match it {
            Response::Error(error) => Some(error),
            _ => None,
        })
        .collect();
    assert!((20..=32).contains(&refused.len()), "{}", refused.len());
    assert!(refused.iter().all(|it| it.code == "overloaded" && it.retryable));
    assert!(refused.iter().all(|it| it.retry_after_ms > 0));
    assert!(refused.iter().all(|it| it.message.contains("the conversation's write queue is full")));
    assert_eq!(assert_no_hole(&database, conversation_id), 41 - refused.len());
}

#[test]
fn a_busy_conversation_neither_holds_up_the_others_nor_takes_their_room() {
    let database = Database::new();
    let settings =
        [("writers.count", "1"), ("writers.queue_max", "4000"), ("writers.batch_max", "64")];
    let chatd = Chatd::start_with(&database, &settings);
    let alice = Person::register(&chatd, "alice");
    let hot = alice.create(&chatd, &[]);
    let cold: Vec<Uuid> = (0..20).map(|_| alice.create(&chatd, &[])).collect();
    // Everything waits until all is submitted.
    let submit = |number: usize| alice.submit(&chatd, hot, &number.to_string(), "hi");
    let (busy, others) = database.hold(hot, || {
        let busy: Vec<_> = (0..3_000).map(submit).collect();
        let others = cold.iter().map(|id| alice.submit(&chatd, *id, "k", "hi"));
        (busy, others.collect::<Vec<_>>())
    });
    for receiver in &others {
        let answer = receiver.recv_timeout(PATIENCE).unwrap().unwrap();
        assert!(matches!(answer, Response::Sent(_)), "{answer:?}");
    }
    let waiting = busy.iter().filter(|it| it.is_empty()).count();
    assert!(waiting > 1_000, "the others waited until only {waiting} of the busy one were left");
    let answers: Vec<_> =
        busy.iter().map(|it| it.recv_timeout(PATIENCE).unwrap().unwrap()).collect();
    let sent = answers.iter().filter(|it| matches!(it, Response::Sent(_))).count();
    // Half of the queue, and what the first batch may have held.
    assert!((2_000..=2_064).contains(&sent), "{sent}");
    assert_eq!(assert_no_hole(&database, hot), 1 + sent);
}

#[test]
fn a_stopping_chatd_finishes_what_it_took() {
    let database = Database::new();
    let mut chatd = Chatd::start(&database);
    let alice = Person::register(&chatd, "alice");
    let conversation_id = alice.create(&chatd, &[]);
    let pending: Vec<_> = (0..2_000)
        .map(|number| alice.submit(&chatd, conversation_id, &number.to_string(), "hi"))
        .collect();
    assert_eq!(chatd.terminate().code(), Some(0));
    let sent = |it: &crossbeam_channel::Receiver<crate::support::chatd::Outcome>| {
        matches!(it.recv_timeout(PATIENCE), Ok(Ok(Response::Sent(_))))
    };
    let acked = pending.iter().filter(|it| sent(it)).count();
    assert!(assert_no_hole(&database, conversation_id) > acked, "what was acked is there");
}

#[test]
fn receipts_only_move_forward_and_are_told_once() {
    let database = Database::new();
    let chatd = Chatd::start(&database);
    let (alice, bob) = (Person::register(&chatd, "alice"), Person::register(&chatd, "bob"));
    let mallory = Person::register(&chatd, "mallory");
    let conversation_id = alice.create(&chatd, &[&bob]);
    for number in 0..5 {
        alice.send(&chatd, conversation_id, &number.to_string(), "hi").unwrap();
    }
    bob.ack(&chatd, conversation_id, 4, 2).unwrap();
    bob.ack(&chatd, conversation_id, 3, 1).unwrap();
    bob.ack(&chatd, conversation_id, 4, 2).unwrap();
    bob.ack(&chatd, conversation_id, 0, 6).unwrap();
    assert_eq!(bob.ack(&chatd, conversation_id, 7, 0).unwrap_err().code, "invalid_argument");
    assert_eq!(mallory.ack(&chatd, conversation_id, 1, 0).unwrap_err().code, "not_a_member");
    let target = format!("/v1/conversations/{conversation_id}/receipts");
    let receipts = alice.get(&chatd, &target);
    assert_eq!(
        receipts["receipts"],
        json!([{
            "user_id": bob.user_id, "device_id": bob.device_id,
            "delivered_sequence_number": 6, "read_sequence_number": 6,
        }])
    );
    let query =
        "SELECT count(*) FROM messaging.outbox WHERE topic = 'chat.message.acknowledged.v1'";
    let count: i64 = database.owner().query_one(query, &[]).unwrap().get(0);
    assert_eq!(count, 2, "only what moved was published");
    assert_eq!(bob.get(&chatd, "/v1/conversations")["conversations"][0]["unread_count"], 0);
    let list = alice.get(&chatd, "/v1/conversations");
    assert_eq!(list["conversations"][0]["last_message"]["text"], Value::from("hi"));
    assert_eq!(list["conversations"][0]["unread_count"], 0, "one's own messages are not unread");
}

#[test]
fn unread_is_what_others_wrote_beyond_the_read_cursor() {
    let database = Database::new();
    let chatd = Chatd::start(&database);
    let (alice, bob) = (Person::register(&chatd, "alice"), Person::register(&chatd, "bob"));
    let conversation_id = alice.create(&chatd, &[&bob]);
    let unread = |person: &Person| {
        let list = person.get(&chatd, "/v1/conversations");
        let one = person.get(&chatd, &format!("/v1/conversations/{conversation_id}"));
        assert_eq!(list["conversations"][0]["unread_count"], one["unread_count"]);
        one["unread_count"].as_u64().unwrap()
    };
    // Numbers 2 to 9: alice three times, then bob once, and again.
    for (number, person) in [&alice, &alice, &alice, &bob].iter().cycle().take(8).enumerate() {
        person.send(&chatd, conversation_id, &number.to_string(), "hi").unwrap();
    }
    assert_eq!((unread(&alice), unread(&bob)), (2, 6));
    let target = format!("/v1/conversations/{conversation_id}");
    alice.done(&chatd, "PATCH", &target, json!({ "title": "not a message" }));
    bob.ack(&chatd, conversation_id, 10, 3).unwrap();
    assert_eq!((unread(&alice), unread(&bob)), (2, 4));
    alice.ack(&chatd, conversation_id, 5, 5).unwrap();
    bob.ack(&chatd, conversation_id, 10, 10).unwrap();
    assert_eq!((unread(&alice), unread(&bob)), (1, 0));
}

#[test]
fn what_is_committed_is_counted_by_topic_and_shard() {
    let database = Database::new();
    let admin = format!("127.0.0.1:{}", free_port());
    let chatd = Chatd::start_with(&database, &[("admin.listen", &admin)]);
    let (alice, bob) = (Person::register(&chatd, "alice"), Person::register(&chatd, "bob"));
    for _ in 0..20 {
        let conversation_id = alice.create(&chatd, &[&bob]);
        alice.send(&chatd, conversation_id, "k", "hi").unwrap();
        bob.ack(&chatd, conversation_id, 2, 2).unwrap();
    }
    alice.done(&chatd, "PATCH", "/v1/me", json!({ "about": "here" }));
    let query = "SELECT topic, shard, count(*) FROM messaging.outbox GROUP BY topic, shard";
    let rows = database.owner().query(query, &[]).unwrap();
    let topics: HashSet<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(topics.len(), 4, "the log, membership, receipts and profiles: {topics:?}");
    for row in &rows {
        let (topic, shard, count): (String, i16, i64) = (row.get(0), row.get(1), row.get(2));
        let labels = format!("{{topic=\"{topic}\",shard=\"{shard}\"}}");
        let name = format!("realchat_chatd_ledger_committed_total{labels}");
        assert_eq!(metric(&admin, &name), Some(count), "{name}");
    }
}
