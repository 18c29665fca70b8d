//! The JSON API and the link's questions: who may see what, and within which bounds.

use crate::support::people::sequence_numbers;
use crate::support::postgres::free_port;
use crate::support::{Chatd, Database, Person, metric};
use proto::Uuid;
use proto::limits::CURSORS_MAX;
use proto::link::{Audience, PresenceAuthorize, request::Request, response::Response};
use serde_json::{Value, json};

struct Stage {
    database: Database,
    chatd: Chatd,
    alice: Person,
    bob: Person,
    mallory: Person,
    conversation_id: Uuid,
}

/// Alice made a conversation with Bob; Mallory is in none of theirs.
fn stage() -> Stage {
    let database = Database::new();
    let chatd = Chatd::start(&database);
    let register = |name| Person::register(&chatd, name);
    let (alice, bob, mallory) = (register("alice"), register("bob"), register("mallory"));
    let conversation_id = alice.create(&chatd, &[&bob]);
    Stage { database, chatd, alice, bob, mallory, conversation_id }
}

fn synced(person: &Person, chatd: &Chatd, cursors: &[(Uuid, u64)]) -> (Vec<u64>, u64, bool) {
    let result = person.sync(chatd, false, cursors, 0);
    let events = result.pages.iter().flat_map(|page| &page.events);
    let verdict = &result.verdicts[0];
    (
        events.map(|it| it.sequence_number).collect(),
        verdict.complete_to_sequence_number,
        verdict.reset,
    )
}

#[test]
fn nobody_reads_or_writes_outside_its_conversations() {
    let Stage { chatd, alice, bob, mallory, conversation_id, .. } = stage();
    let base = format!("/v1/conversations/{conversation_id}");
    let sent = alice.send(&chatd, conversation_id, "k", "secret").unwrap();
    let message_id = Uuid::from_slice(&sent.message_id).unwrap();
    let one = format!("{base}/messages/{message_id}");
    let message = json!({ "text": "hi", "idempotency_key": "h" });
    let calls = [
        ("GET", base.clone(), Value::Null, "not_a_member"),
        ("PATCH", base.clone(), json!({ "title": "mine" }), "not_a_member"),
        ("PATCH", one.clone(), json!({ "text": "mine" }), "not_a_member"),
        ("DELETE", one.clone(), Value::Null, "not_a_member"),
        ("POST", format!("{one}/reactions"), json!({ "reaction": "no" }), "not_a_member"),
        ("PUT", format!("{base}/mute"), json!({ "until_us": null }), "not_a_member"),
        ("GET", format!("{base}/members"), Value::Null, "not_a_member"),
        ("POST", format!("{base}/members"), json!({ "names": ["mallory"] }), "not_a_member"),
        ("DELETE", format!("{base}/members/{}", bob.user_id), Value::Null, "not_a_member"),
        ("GET", format!("{base}/events"), Value::Null, "not_a_member"),
        ("POST", format!("{base}/messages"), message.clone(), "not_a_member"),
        ("GET", format!("{base}/receipts"), Value::Null, "not_a_member"),
        ("GET", format!("/v1/messages/{message_id}/trace"), Value::Null, "not_found"),
    ];
    for (method, target, body, code) in &calls {
        let (status, answer) = mallory.call(&chatd, method, target, body.clone());
        assert_eq!((&answer["code"], status >= 400), (&json!(code), true), "{method} {target}");
        let (status, answer) = chatd.http(method, target, None, body);
        assert_eq!((status, &answer["code"]), (401, &json!("token_missing")), "{method} {target}");
        if !matches!(*method, "DELETE" | "PATCH") && !target.ends_with("/members") {
            let (status, answer) = bob.call(&chatd, method, target, body.clone());
            assert_eq!(status, 200, "{method} {target}: {answer}");
        }
    }
    assert_eq!(mallory.send(&chatd, conversation_id, "k", "x").unwrap_err().code, "not_a_member");
    assert_eq!(synced(&mallory, &chatd, &[(conversation_id, 0)]), (vec![], 0, true));
    let audience = |person: &Person| {
        chatd.ask(Request::Audience(Audience {
            user_id: person.user_id.as_bytes().to_vec(),
            conversation_id: conversation_id.as_bytes().to_vec(),
        }))
    };
    assert_eq!(audience(&mallory).unwrap_err().code, "not_a_member");
    let Response::Audience(members) = audience(&bob).unwrap() else { panic!("no audience") };
    assert_eq!((members.user_ids.len(), members.membership_version), (32, 1));
    let watch = PresenceAuthorize {
        user_id: alice.user_id.as_bytes().to_vec(),
        user_ids: proto::id::pack(&[alice.user_id, bob.user_id, mallory.user_id]),
    };
    let answer = chatd.ask(Request::PresenceAuthorize(watch)).unwrap();
    let Response::PresenceAuthorize(allowed) = answer else { panic!("{answer:?}") };
    let allowed: std::collections::HashSet<_> =
        proto::id::unpack("user_ids", &allowed.user_ids).unwrap().collect();
    assert_eq!(allowed, [alice.user_id, bob.user_id].into());
    let list = mallory.get(&chatd, "/v1/conversations");
    assert_eq!(list["conversations"], json!([]));
}

#[test]
fn members_see_what_lies_between_joining_and_leaving() {
    let Stage { chatd, alice, bob, mallory, conversation_id, .. } = stage();
    let base = format!("/v1/conversations/{conversation_id}");
    alice.send(&chatd, conversation_id, "2", "before").unwrap();
    let add = json!({ "names": ["mallory"] });
    let target = format!("{base}/members");
    assert_eq!(alice.done(&chatd, "POST", &target, add.clone())["sequence_number"], 3);
    assert_eq!(alice.done(&chatd, "POST", &target, add)["sequence_number"], 3, "she is one");
    alice.send(&chatd, conversation_id, "4", "during").unwrap();
    let page = mallory.get(&chatd, &format!("{base}/events"));
    assert_eq!(sequence_numbers(&page), [3, 4]);
    assert_eq!(mallory.get(&chatd, &base)["unread_count"], 1);
    let older = mallory.get(&chatd, &format!("{base}/events?before=3"));
    assert_eq!(sequence_numbers(&older), [0; 0]);
    assert_eq!(synced(&mallory, &chatd, &[(conversation_id, 0)]), (vec![3, 4], 4, false));
    let remove = format!("{base}/members/{}", mallory.user_id);
    let (status, answer) = bob.call(&chatd, "DELETE", &remove, Value::Null);
    assert_eq!((status, &answer["code"]), (403, &json!("forbidden")), "bob did not make it");
    assert_eq!(alice.done(&chatd, "DELETE", &remove, Value::Null)["sequence_number"], 5);
    alice.send(&chatd, conversation_id, "6", "after").unwrap();
    assert_eq!(mallory.call(&chatd, "GET", &base, Value::Null).0, 403);
    assert_eq!(mallory.send(&chatd, conversation_id, "7", "x").unwrap_err().code, "not_a_member");
    assert_eq!(mallory.ack(&chatd, conversation_id, 4, 4).unwrap_err().code, "not_a_member");
    assert_eq!(synced(&mallory, &chatd, &[(conversation_id, 4)]), (vec![5], 5, false));
    assert_eq!(synced(&mallory, &chatd, &[(conversation_id, 5)]), (vec![], 5, true));
    assert!(mallory.sync(&chatd, true, &[], 0).verdicts.is_empty());
    alice.done(&chatd, "POST", &target, json!({ "user_ids": [mallory.user_id] }));
    assert_eq!(synced(&mallory, &chatd, &[(conversation_id, 0)]), (vec![7], 7, false));
    let leave = format!("{base}/members/{}", bob.user_id);
    assert_eq!(bob.done(&chatd, "DELETE", &leave, Value::Null)["sequence_number"], 8);
    let unknown = json!({ "names": ["alice", "nobody-here"] });
    let (status, answer) = alice.call(&chatd, "POST", &target, unknown);
    assert_eq!((status, &answer["code"]), (404, &json!("not_found")));
}

#[test]
fn a_removal_that_is_repeated_with_its_key_removes_nobody_again() {
    let Stage { chatd, alice, bob, conversation_id, .. } = stage();
    let members = format!("/v1/conversations/{conversation_id}/members");
    let gone = format!("{members}/{}", bob.user_id);
    let ways = [
        (&alice, format!("{gone}?idempotency_key=q"), Value::Null),
        (&alice, gone.clone(), json!({ "idempotency_key": "b" })),
        (&bob, gone.clone(), json!({ "idempotency_key": "leave" })),
    ];
    for (person, target, body) in ways {
        let first = person.done(&chatd, "DELETE", &target, body.clone());
        alice.done(&chatd, "POST", &members, json!({ "user_ids": [bob.user_id] }));
        assert_eq!(person.done(&chatd, "DELETE", &target, body), first);
        bob.get(&chatd, &format!("/v1/conversations/{conversation_id}"));
    }
    let long = format!("{gone}?idempotency_key={}", "k".repeat(129));
    let (status, answer) = alice.call(&chatd, "DELETE", &long, Value::Null);
    assert_eq!((status, &answer["code"]), (400, &json!("invalid_argument")));
}

#[test]
fn a_sync_from_the_future_is_told_where_the_conversation_ends() {
    let database = Database::new();
    let admin = format!("127.0.0.1:{}", free_port());
    let chatd = Chatd::start_with(&database, &[("admin.listen", &admin)]);
    let (alice, bob) = (Person::register(&chatd, "alice"), Person::register(&chatd, "bob"));
    let conversation_id = alice.create(&chatd, &[&bob]);
    let other = bob.create(&chatd, &[&alice]);
    alice.send(&chatd, conversation_id, "k", "hi").unwrap();
    for cursor in [3, i64::MAX.unsigned_abs(), u64::MAX] {
        for resume in [false, true] {
            let result = bob.sync(&chatd, resume, &[(conversation_id, cursor), (other, 1)], 0);
            assert_eq!(result.pages, []);
            let told = |id: Uuid| {
                let verdict = result.verdicts.iter().find(|it| it.conversation_id == id.as_bytes());
                let it = verdict.unwrap();
                (it.complete_to_sequence_number, it.rewind_to_sequence_number, it.reset)
            };
            assert_eq!((told(conversation_id), told(other)), ((2, 2, false), (1, 0, false)));
        }
    }
    let counted = metric(&admin, "realchat_chatd_sync_rewound_conversations_total");
    assert_eq!(counted, Some(6));
}

#[test]
fn a_sync_takes_so_many_cursors_and_none_more() {
    let Stage { chatd, bob, conversation_id, .. } = stage();
    let mut cursors: Vec<_> = (1..CURSORS_MAX).map(|_| (proto::id::new(), 7)).collect();
    cursors.push((conversation_id, 0));
    let result = bob.sync(&chatd, false, &cursors, 0);
    assert_eq!((result.pages.len(), result.verdicts.len()), (1, CURSORS_MAX));
    assert_eq!(result.verdicts.iter().filter(|it| it.reset).count(), CURSORS_MAX - 1);
    for count in [CURSORS_MAX + 1, 10_000] {
        cursors.resize(count, (proto::id::new(), 7));
        let error = bob.try_sync(&chatd, false, &cursors, 0).unwrap_err();
        assert_eq!(error.code, "invalid_argument");
        let expected = format!("{count} cursors are too many; at most {CURSORS_MAX} are allowed");
        assert_eq!(error.message, expected);
    }
}

#[test]
fn a_sync_of_many_conversations_is_bounded_and_heals_in_steps() {
    let Stage { chatd, alice, bob, conversation_id, .. } = stage();
    let other = bob.create(&chatd, &[&alice]);
    let pending: Vec<_> = (0..300)
        .map(|number| alice.submit(&chatd, conversation_id, &number.to_string(), "hi"))
        .collect();
    for receiver in pending {
        receiver.recv().unwrap().unwrap();
    }
    let mut cursor = 0;
    let mut seen = Vec::new();
    for round in 0.. {
        assert!(round < 10, "the gap does not heal");
        let result = bob.sync(&chatd, true, &[(conversation_id, cursor)], 100);
        let of =
            |id: Uuid| move |page: &&proto::client::SyncPage| page.conversation_id == id.as_bytes();
        for page in result.pages.iter().filter(of(conversation_id)) {
            assert!(page.events.len() <= proto::limits::SYNC_PAGE_EVENTS_MAX);
            seen.extend(page.events.iter().map(|it| it.sequence_number));
        }
        assert_eq!(result.pages.iter().filter(of(other)).count(), 1, "it was not named");
        let id = conversation_id.as_bytes();
        let verdict = result.verdicts.iter().find(|it| it.conversation_id == id).unwrap();
        cursor = verdict.complete_to_sequence_number;
        if verdict.gap_to_sequence_number == 0 {
            break;
        }
        let gap = (verdict.gap_from_sequence_number, verdict.gap_to_sequence_number);
        assert_eq!(gap, (cursor + 1, 301));
    }
    assert_eq!(seen, (1..=301).collect::<Vec<u64>>());
}

#[test]
fn a_large_sync_stops_before_the_frame_is_full() {
    let Stage { chatd, alice, bob, conversation_id, .. } = stage();
    let text = "x".repeat(16 * 1024);
    let pending: Vec<_> = (0..700)
        .map(|number| alice.submit(&chatd, conversation_id, &number.to_string(), &text))
        .collect();
    for receiver in pending {
        receiver.recv().unwrap().unwrap();
    }
    let result = bob.sync(&chatd, true, &[], 1_024);
    let events: usize = result.pages.iter().map(|it| it.events.len()).sum();
    let verdict = &result.verdicts[0];
    assert_eq!(verdict.complete_to_sequence_number, events as u64);
    assert_eq!(verdict.gap_from_sequence_number, events as u64 + 1);
    assert!((400..701).contains(&events), "{events}");
}

#[test]
fn history_is_paged_in_both_directions() {
    let Stage { chatd, alice, conversation_id, .. } = stage();
    for number in 2..=120 {
        alice.send(&chatd, conversation_id, &number.to_string(), "hi").unwrap();
    }
    let get = |query: &str| {
        let target = format!("/v1/conversations/{conversation_id}/events{query}");
        alice.call(&chatd, "GET", &target, Value::Null)
    };
    let numbers = |query: &str| sequence_numbers(&get(query).1);
    assert_eq!(numbers(""), (71..=120).collect::<Vec<u64>>());
    assert_eq!(numbers("?before=71&limit=3"), [68, 69, 70]);
    assert_eq!(numbers("?after=118"), [119, 120]);
    assert_eq!(numbers("?after=0&limit=2"), [1, 2]);
    assert_eq!(get("?limit=201").0, 400);
    assert_eq!(get("?before=-1").0, 400);
    let (_, page) = get("?after=0&limit=2");
    assert_eq!(page["last_sequence_number"], 120);
    assert_eq!(page["events"][0]["membership_changed"]["created"], true);
    assert_eq!(page["events"][1]["message"]["text"], "hi");
    assert_eq!(page["events"][1]["message"]["message_number"], 1);
}

#[test]
fn conversations_are_listed_by_activity_and_paged() {
    let Stage { chatd, alice, bob, conversation_id, .. } = stage();
    let more: Vec<Uuid> = (0..5).map(|_| alice.create(&chatd, &[&bob])).collect();
    alice.send(&chatd, conversation_id, "k", "newest").unwrap();
    let mut seen = Vec::new();
    loop {
        let before = seen.last().map(|it| format!("&before={it}")).unwrap_or_default();
        let page = alice.get(&chatd, &format!("/v1/conversations?limit=2{before}"));
        let page = page["conversations"].as_array().unwrap().clone();
        seen.extend(page.iter().map(|it| crate::support::people::id(&it["conversation_id"])));
        if page.len() < 2 {
            break;
        }
    }
    let expected: Vec<Uuid> =
        std::iter::once(conversation_id).chain(more.into_iter().rev()).collect();
    assert_eq!(seen, expected);
    let target = format!("/v1/conversations/{conversation_id}");
    let renamed = alice.done(&chatd, "PATCH", &target, json!({ "title": "Renamed" }));
    assert_eq!(
        (&renamed["title"], &renamed["last_sequence_number"]),
        (&json!("Renamed"), &json!(3))
    );
    let (status, _) = alice.call(&chatd, "PATCH", &target, json!({ "title": "t".repeat(300) }));
    assert_eq!(status, 400);
}

#[test]
fn a_member_mutes_a_conversation_for_itself_alone() {
    const FOR_EVER: u64 = (1 << 53) - 1;
    let Stage { database, chatd, alice, bob, conversation_id, .. } = stage();
    let target = format!("/v1/conversations/{conversation_id}/mute");
    let muted = |person: &Person| {
        let list = person.get(&chatd, "/v1/conversations");
        list["conversations"][0]["muted_until_us"].clone()
    };
    assert_eq!(muted(&bob), Value::Null);
    let answer = bob.done(&chatd, "PUT", &target, json!({ "until_us": FOR_EVER }));
    assert_eq!(answer["muted_until_us"], FOR_EVER);
    assert_eq!((muted(&bob), muted(&alice)), (json!(FOR_EVER), Value::Null));
    assert_eq!(answer["last_sequence_number"], 1, "it is not in the log");
    // Until a time that is past: not muted.
    let past = bob.done(&chatd, "PUT", &target, json!({ "until_us": 1 }));
    assert_eq!(past["muted_until_us"], Value::Null);
    bob.done(&chatd, "PUT", &target, json!({ "until_us": FOR_EVER }));
    assert_eq!(
        bob.done(&chatd, "PUT", &target, json!({ "until_us": null }))["muted_until_us"],
        Value::Null
    );
    let wrong = [
        json!({}),
        json!({ "until_us": FOR_EVER + 1 }),
        json!({ "until_us": -1 }),
        json!({ "until_us": "x" }),
    ];
    for body in wrong {
        let (status, answer) = bob.call(&chatd, "PUT", &target, body.clone());
        assert_eq!((status, &answer["code"]), (400, &json!("invalid_argument")), "{body}");
    }
    let may_read = "SET ROLE realchat_relay; SELECT muted_until_us FROM messaging.members";
    database.owner().batch_execute(may_read).unwrap();
}

#[test]
fn a_changed_profile_is_published_to_those_who_share_a_conversation() {
    let Stage { database, chatd, alice, bob, mallory, .. } = stage();
    let body = json!({ "display_name": "Alice A.", "about": "here" });
    let me = alice.done(&chatd, "PATCH", "/v1/me", body);
    assert_eq!((&me["display_name"], &me["name"]), (&json!("Alice A."), &json!("alice")));
    assert_eq!(mallory.get(&chatd, &format!("/v1/users/{}", alice.user_id))["about"], "here");
    let query = "SELECT key, headers FROM messaging.outbox WHERE topic = 'chat.profile.updated.v1'";
    let row = database.owner().query_one(query, &[]).unwrap();
    assert_eq!(row.get::<_, &[u8]>(0), alice.user_id.as_bytes());
    let headers: proto::record::RecordHeaders =
        proto::Message::decode(row.get::<_, &[u8]>(1)).unwrap();
    let recipients: std::collections::HashSet<_> =
        proto::id::unpack("recipients", &headers.recipients).unwrap().collect();
    assert_eq!(recipients, [alice.user_id, bob.user_id].into());
    assert_eq!(alice.call(&chatd, "PATCH", "/v1/me", json!({ "about": "a\0" })).0, 400);
    assert_eq!(alice.call(&chatd, "PATCH", "/v1/me", json!({})).0, 400);
}

#[test]
fn the_directory_is_searched_by_prefix_and_canaries_stay_text() {
    let Stage { chatd, alice, .. } = stage();
    let names = |query: &str| -> Vec<String> {
        let found = alice.get(&chatd, &format!("/v1/users?{query}"));
        let users = found["users"].as_array().unwrap();
        users.iter().map(|it| crate::support::people::text(&it["name"])).collect()
    };
    assert_eq!(names("query=AL"), ["alice"]);
    assert_eq!(names("query="), ["alice", "bob", "mallory"]);
    assert_eq!(names("query=%25"), [""; 0]);
    assert_eq!(names("query=%27%20OR%201%3D1--"), [""; 0]);
    assert_eq!(names("names=bob,nobody,alice"), ["alice", "bob"]);
    assert_eq!(names(&format!("ids={},{}", alice.user_id, Uuid::nil())), ["alice"]);
    assert_eq!(alice.call(&chatd, "GET", "/v1/users", Value::Null).0, 400);
    assert_eq!(alice.call(&chatd, "GET", "/v1/users?ids=x", Value::Null).0, 400);
    assert_eq!(alice.call(&chatd, "GET", "/v1/users?names=a%00", Value::Null).0, 400);
    let missing = format!("/v1/users/{}", Uuid::nil());
    assert_eq!(alice.call(&chatd, "GET", &missing, Value::Null).0, 404);
    let canary = "'; DROP TABLE messaging.events; --";
    let body = json!({ "title": canary });
    assert_eq!(alice.done(&chatd, "POST", "/v1/conversations", body)["title"], canary);
}

#[test]
fn a_message_is_traced_from_its_commit_to_its_receipts() {
    let Stage { database, chatd, alice, bob, conversation_id, .. } = stage();
    let target = format!("/v1/conversations/{conversation_id}/messages");
    let body = json!({ "text": "hi", "idempotency_key": "k" });
    let sent = alice.done(&chatd, "POST", &target, body.clone());
    assert_eq!((&sent["sequence_number"], &sent["repeated"]), (&json!(2), &json!(false)));
    let again = alice.done(&chatd, "POST", &target, body);
    assert_eq!((&again["message_id"], &again["repeated"]), (&sent["message_id"], &json!(true)));
    let target =
        format!("/v1/messages/{}/trace", crate::support::people::text(&sent["message_id"]));
    let trace = bob.get(&chatd, &target);
    assert_eq!((&trace["relayed"], &trace["receipts"]), (&json!(false), &json!([])));
    database
        .owner()
        .batch_execute("SET ROLE realchat_relay; DELETE FROM messaging.outbox")
        .unwrap();
    bob.ack(&chatd, conversation_id, 2, 0).unwrap();
    let trace = alice.get(&chatd, &target);
    assert_eq!(trace["relayed"], true);
    assert_eq!(trace["receipts"][0]["user_id"], json!(bob.user_id));
    assert_eq!(trace["sequence_number"], 2);
}

#[test]
fn unknown_paths_and_methods_are_told_apart() {
    let Stage { chatd, alice, .. } = stage();
    let code = |method: &str, target: &str| {
        let (status, body) = alice.call(&chatd, method, target, Value::Null);
        (status, crate::support::people::text(&body["code"]))
    };
    assert_eq!(code("GET", "/v1/nothing"), (404, "not_found".into()));
    assert_eq!(code("PUT", "/v1/me"), (405, "method_not_allowed".into()));
    assert_eq!(code("GET", "/v1/conversations/x"), (400, "invalid_argument".into()));
    assert_eq!(code("GET", "/v1/users?query=%ff"), (400, "invalid_argument".into()));
    assert_eq!(code("POST", "/v1/conversations"), (400, "malformed_frame".into()));
    let huge = Value::from("x".repeat(300_000));
    assert_eq!(alice.call(&chatd, "POST", "/v1/conversations", huge).0, 413);
}
