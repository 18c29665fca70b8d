//! Edits, deletions and reactions, against a real PostgreSQL.

use crate::support::{Chatd, Database, Person};
use crate::write::assert_no_hole;
use proto::Uuid;
use serde_json::{Value, json};

struct Place {
    conversation_id: Uuid,
    message_id: Uuid,
}

impl Place {
    /// A message of `sender`.
    fn of(chatd: &Chatd, sender: &Person, conversation_id: Uuid, key: &str) -> Self {
        let sent = sender.send(chatd, conversation_id, key, "helo").unwrap();
        Self { conversation_id, message_id: Uuid::from_slice(&sent.message_id).unwrap() }
    }

    fn target(&self) -> String {
        format!("/v1/conversations/{}/messages/{}", self.conversation_id, self.message_id)
    }

    fn edit(&self, person: &Person, chatd: &Chatd, key: &str, text: &str) -> (u32, Value) {
        let body = json!({ "text": text, "idempotency_key": key });
        person.call(chatd, "PATCH", &self.target(), body)
    }

    fn delete(&self, person: &Person, chatd: &Chatd, key: &str) -> (u32, Value) {
        let target = format!("{}?idempotency_key={key}", self.target());
        person.call(chatd, "DELETE", &target, Value::Null)
    }

    fn react(&self, person: &Person, chatd: &Chatd, key: &str, removed: bool) -> (u32, Value) {
        let target = format!("{}/reactions", self.target());
        let body = json!({ "reaction": "👍", "removed": removed, "idempotency_key": key });
        person.call(chatd, "POST", &target, body)
    }
}

fn events(person: &Person, chatd: &Chatd, conversation_id: Uuid) -> Vec<Value> {
    let page = person.get(chatd, &format!("/v1/conversations/{conversation_id}/events?limit=200"));
    page["events"].as_array().unwrap().clone()
}

fn number(answer: &(u32, Value)) -> u64 {
    assert_eq!(answer.0, 200, "{}", answer.1);
    answer.1["sequence_number"].as_u64().unwrap()
}

fn refusal(answer: &(u32, Value)) -> (u32, &str) {
    (answer.0, answer.1["code"].as_str().unwrap())
}

#[test]
fn the_log_tells_of_edits_and_reactions_and_the_message_has_its_last_text() {
    let database = Database::new();
    let (one, two) = (Chatd::start(&database), Chatd::start(&database));
    let [alice, bob] = ["alice", "bob"].map(|name| Person::register(&one, name));
    let conversation_id = alice.create(&one, &[&bob]);
    let place = Place::of(&one, &bob, conversation_id, "k");
    // By another chatd, which knows nothing of the conversation yet, and by the first again.
    assert_eq!(number(&place.edit(&bob, &two, "e1", "hello")), 3);
    assert_eq!(number(&place.react(&alice, &one, "r1", false)), 4);
    assert_eq!(number(&place.edit(&bob, &one, "e2", "hello!")), 5);
    assert_eq!(number(&place.react(&alice, &two, "r2", true)), 6);
    // The same keys are the same answers, through either; another body is refused.
    for chatd in [&one, &two] {
        assert_eq!(number(&place.edit(&bob, chatd, "e1", "hello")), 3);
        assert_eq!(number(&place.react(&alice, chatd, "r1", false)), 4);
        let conflict = (409, "idempotency_key_conflict");
        assert_eq!(refusal(&place.edit(&bob, chatd, "e1", "other")), conflict);
        assert_eq!(refusal(&place.react(&alice, chatd, "r1", true)), conflict);
    }
    let log = events(&alice, &one, conversation_id);
    let id = json!(place.message_id);
    assert_eq!(log[1]["message"]["text"], "hello!");
    assert_eq!(log[2]["message_edited"], json!({ "message_id": id, "text": "hello" }));
    let reaction = |removed| json!({ "message_id": id, "reaction": "👍", "removed": removed });
    assert_eq!(log[3]["reaction"], reaction(false));
    assert_eq!(log[5]["reaction"], reaction(true));
    // A sent message's key gives its own answer still, and what is unread is messages alone.
    let sent = bob.send(&two, conversation_id, "k", "helo").unwrap();
    assert!(sent.repeated && sent.sequence_number == 2 && sent.message_number == 1);
    let after = bob.send(&one, conversation_id, "k2", "next").unwrap();
    assert_eq!((after.sequence_number, after.message_number), (7, 2));
    assert_eq!(assert_no_hole(&database, conversation_id), 7);
}

#[test]
fn nothing_of_a_deleted_message_is_kept_in_the_log() {
    let database = Database::new();
    let chatd = Chatd::start(&database);
    let [alice, bob] = ["alice", "bob"].map(|name| Person::register(&chatd, name));
    let conversation_id = alice.create(&chatd, &[&bob]);
    let [kept, gone] = ["a", "b"].map(|key| Place::of(&chatd, &bob, conversation_id, key));
    for place in [&kept, &gone] {
        place.edit(&bob, &chatd, &format!("edit-{}", place.message_id), "secret");
    }
    // By whoever made the conversation.
    assert_eq!(number(&gone.delete(&alice, &chatd, "d")), 6);
    assert_eq!(number(&gone.delete(&alice, &chatd, "d")), 6);
    for late in [
        gone.delete(&bob, &chatd, "d2"),
        gone.edit(&bob, &chatd, "e2", "again"),
        gone.react(&bob, &chatd, "r2", false),
    ] {
        assert_eq!(refusal(&late), (404, "not_found"));
    }
    let log = events(&bob, &chatd, conversation_id);
    assert_eq!(
        (&log[1]["message"]["text"], &log[3]["message_edited"]["text"]),
        (&json!("secret"), &json!("secret"))
    );
    let id = json!(gone.message_id);
    assert_eq!((&log[2]["message"]["text"], &log[2]["message"]["message_id"]), (&json!(""), &id));
    assert_eq!(log[4]["message_edited"], json!({ "message_id": id, "text": "" }));
    assert_eq!(log[5]["message_deleted"], json!({ "message_id": id }));
    let query = "SELECT count(*) FROM messaging.events
                 WHERE message_id = $1 AND (text IS NOT NULL OR position('secret'::bytea IN details) > 0)";
    let left = database.owner().query_one(query, &[&gone.message_id]).unwrap();
    assert_eq!(left.get::<_, i64>(0), 0);
    // Its key still has the first answer.
    let again = bob.send(&chatd, conversation_id, "b", "helo").unwrap();
    assert!(again.repeated && again.sequence_number == 3);
    assert_eq!(assert_no_hole(&database, conversation_id), 6);
}

#[test]
fn who_may_not_is_told_so_and_who_may_not_see_it_is_told_nothing() {
    let database = Database::new();
    let chatd = Chatd::start(&database);
    let [alice, bob, carol, mallory] =
        ["alice", "bob", "carol", "mallory"].map(|name| Person::register(&chatd, name));
    let conversation_id = alice.create(&chatd, &[&bob]);
    let place = Place::of(&chatd, &alice, conversation_id, "k");
    let members = format!("/v1/conversations/{conversation_id}/members");
    alice.done(&chatd, "POST", &members, json!({ "user_ids": [carol.user_id] }));
    assert_eq!(refusal(&place.edit(&bob, &chatd, "a", "x")), (403, "forbidden"));
    assert_eq!(refusal(&place.delete(&bob, &chatd, "b")), (403, "forbidden"));
    // Carol joined after it; Mallory never did.
    assert_eq!(refusal(&place.react(&carol, &chatd, "a", false)), (404, "not_found"));
    assert_eq!(refusal(&place.react(&mallory, &chatd, "a", false)), (403, "not_a_member"));
    // A message of another conversation, and one that nobody sent.
    let other = alice.create(&chatd, &[]);
    let elsewhere = Place { conversation_id: other, message_id: place.message_id };
    assert_eq!(refusal(&elsewhere.edit(&alice, &chatd, "a", "x")), (404, "not_found"));
    let nowhere = Place { conversation_id, message_id: Uuid::from_u128(5) };
    assert_eq!(refusal(&nowhere.delete(&alice, &chatd, "a")), (404, "not_found"));
    let (status, body) = place.edit(&alice, &chatd, "a", "");
    assert_eq!((status, &body["code"]), (400, &json!("invalid_argument")), "{body}");
    assert_eq!(number(&place.react(&bob, &chatd, "c", false)), 4);
    assert_eq!(assert_no_hole(&database, conversation_id), 4);
}

#[test]
fn edits_deletions_and_messages_at_once_through_two_chatds_leave_no_hole() {
    let database = Database::new();
    let chatds = [Chatd::start(&database), Chatd::start(&database)];
    let [alice, bob] = ["alice", "bob"].map(|name| Person::register(&chatds[0], name));
    let conversation_id = alice.create(&chatds[0], &[&bob]);
    let places: Vec<Place> = (0..4)
        .map(|number| Place::of(&chatds[0], &alice, conversation_id, &format!("m{number}")))
        .collect();
    let granted: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|thread| {
                let (chatd, places, alice, bob) = (&chatds[thread % 2], &places, &alice, &bob);
                scope.spawn(move || {
                    let mut granted = 0;
                    for round in 0..20 {
                        let (place, key) = (&places[round % 4], format!("{thread}-{round}"));
                        let answer = match (thread + round) % 4 {
                            0 => place.edit(alice, chatd, &key, &key),
                            1 => place.react(bob, chatd, &key, false),
                            2 if round > 14 => place.delete(alice, chatd, &key),
                            _ => {
                                alice.send(chatd, conversation_id, &key, "hi").unwrap();
                                granted += 1;
                                continue;
                            }
                        };
                        match answer.0 {
                            200 => granted += 1,
                            404 => {}
                            _ => panic!("{answer:?}"),
                        }
                    }
                    granted
                })
            })
            .collect();
        threads.into_iter().map(|it| it.join().unwrap()).sum()
    });
    assert_eq!(assert_no_hole(&database, conversation_id), 5 + granted);
    // Each message says what its last edit said, or nothing where it was deleted.
    let log = events(&bob, &chatds[0], conversation_id);
    for place in &places {
        let id = json!(place.message_id);
        let mut text = "helo".to_owned();
        for event in &log {
            if event["message_edited"]["message_id"] == id {
                text = event["message_edited"]["text"].as_str().unwrap().to_owned();
            } else if event["message_deleted"]["message_id"] == id {
                text = String::new();
            }
        }
        let message = log.iter().find(|it| it["message"]["message_id"] == id).unwrap();
        assert_eq!(message["message"]["text"], json!(text));
    }
}
