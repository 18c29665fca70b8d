//! What a writer remembers of its conversations spares it a look at them, and deceives nobody.

use crate::support::postgres::free_port;
use crate::support::{Chatd, Database, PATIENCE, Person, admin_get};
use crate::write::assert_no_hole;
use serde_json::json;

/// How often a statement ran.
fn count(admin: &str, statement: &str) -> u64 {
    let name = "realchat_chatd_db_query_latency_seconds_count{";
    let label = format!("\"{statement}\"");
    let text = admin_get(admin, "/metrics").unwrap();
    let line = text.lines().find(|line| line.starts_with(name) && line.contains(&label));
    line.map_or(0, |line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
}

#[test]
fn a_lone_send_is_one_statement_and_many_are_not_locked_first() {
    let database = Database::new();
    let admin = format!("127.0.0.1:{}", free_port());
    let chatd = Chatd::start_with(&database, &[("admin.listen", &admin)]);
    let alice = Person::register(&chatd, "alice");
    let conversation_id = alice.create(&chatd, &[]);
    let locked = count(&admin, "lock_conversations");
    for number in 0..5 {
        alice.send(&chatd, conversation_id, &format!("lone-{number}"), "hi").unwrap();
    }
    assert_eq!(count(&admin, "append_one"), 5);
    let pending: Vec<_> = (0..300)
        .map(|number| alice.submit(&chatd, conversation_id, &format!("many-{number}"), "hi"))
        .collect();
    for answer in pending {
        answer.recv_timeout(PATIENCE).unwrap().unwrap();
    }
    assert!(count(&admin, "copy_events") > 0, "some came together");
    assert_eq!(count(&admin, "lock_conversations"), locked);
    // A repeated key writes nothing, and so is answered under the lock.
    let again = alice.send(&chatd, conversation_id, "lone-0", "hi").unwrap();
    assert!(again.repeated && again.sequence_number == 2);
    assert!(count(&admin, "lock_conversations") > locked);
    assert_eq!(assert_no_hole(&database, conversation_id), 306);
}

#[test]
fn a_lone_send_to_what_another_chatd_wrote_is_read_and_written_without_a_lock() {
    let database = Database::new();
    let admins = [(); 2].map(|()| format!("127.0.0.1:{}", free_port()));
    let chatds = admins.each_ref().map(|it| Chatd::start_with(&database, &[("admin.listen", it)]));
    let alice = Person::register(&chatds[0], "alice");
    let conversation_id = alice.create(&chatds[0], &[]);
    let locked = admins.each_ref().map(|it| count(it, "lock_conversations"));
    for number in 0..40 {
        let chatd = &chatds[number % 2];
        alice.send(chatd, conversation_id, &format!("{number}"), "hi").unwrap();
    }
    for (admin, locked) in admins.iter().zip(locked) {
        // All but one that nobody had written to in between.
        assert!(count(admin, "read_conversations") >= 19);
        assert_eq!(count(admin, "lock_conversations"), locked);
    }
    assert_eq!(assert_no_hole(&database, conversation_id), 41);
}

#[test]
fn what_another_chatd_changed_is_noticed_before_anything_is_answered() {
    let database = Database::new();
    let (one, two) = (Chatd::start(&database), Chatd::start(&database));
    let [alice, bob] = ["alice", "bob"].map(|name| Person::register(&one, name));
    let conversation_id = alice.create(&one, &[&bob]);
    let members = format!("/v1/conversations/{conversation_id}/members");
    let mut expected = 1;
    for round in 0..20 {
        let key = |name: &str| format!("{name}-{round}");
        bob.send(&one, conversation_id, &key("there"), "hi").unwrap();
        let gone = format!("{members}/{}", bob.user_id);
        alice.done(&two, "DELETE", &gone, json!({ "idempotency_key": key("remove") }));
        let refused = bob.send(&one, conversation_id, &key("gone"), "hi").unwrap_err();
        assert_eq!(refused.code, "not_a_member");
        let back = json!({ "user_ids": [bob.user_id], "idempotency_key": key("add") });
        alice.done(&two, "POST", &members, back);
        bob.send(&one, conversation_id, &key("back"), "hi").unwrap();
        let sent = bob.send(&two, conversation_id, &key("there"), "hi").unwrap();
        assert!(sent.repeated);
        expected += 4;
    }
    assert_eq!(assert_no_hole(&database, conversation_id), expected);
}

#[test]
fn chatds_that_remember_the_same_conversations_leave_no_hole_in_any() {
    let database = Database::new();
    let chatds = [Chatd::start(&database), Chatd::start(&database)];
    let alice = Person::register(&chatds[0], "alice");
    let conversations = [(); 3].map(|()| alice.create(&chatds[0], &[]));
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (alice, chatds) = (&alice, &chatds);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(thread);
                for number in 0..100 {
                    let conversation_id = conversations[random.usize(..conversations.len())];
                    let chatd = &chatds[random.usize(..chatds.len())];
                    let key = format!("{thread}-{number}");
                    alice.send(chatd, conversation_id, &key, "hi").unwrap();
                }
            });
        }
    });
    let written: usize = conversations.iter().map(|it| assert_no_hole(&database, *it)).sum();
    assert_eq!(written, 3 + 400);
}
