//! Signing in: passwords, refresh tokens and their reuse, devices.

use crate::support::people::PASSWORD;
use crate::support::{Chatd, Database, Person};
use serde_json::{Value, json};

fn refresh(chatd: &Chatd, token: &str) -> (u32, Value) {
    chatd.http("POST", "/v1/auth/refresh", None, &json!({ "refresh_token": token }))
}

fn login(chatd: &Chatd, body: &Value) -> (u32, Value) {
    chatd.http("POST", "/v1/auth/login", None, body)
}

/// Lets the first uses of all refresh tokens have been longer ago.
fn age(database: &Database, seconds: i64) {
    let query = "UPDATE accounts.refresh_tokens
        SET used_at_us = used_at_us - $1, issued_at_us = issued_at_us - $1";
    database.owner().execute(query, &[&(seconds * 1_000_000)]).unwrap();
}

fn refreshed(chatd: &Chatd, token: &str) -> String {
    let (status, body) = refresh(chatd, token);
    assert_eq!(status, 200, "{body}");
    body["refresh_token"].as_str().unwrap().to_owned()
}

#[test]
fn a_refresh_token_that_is_used_twice_ends_its_whole_family() {
    let database = Database::new();
    let chatd = Chatd::start(&database);
    let alice = Person::register(&chatd, "alice");
    let (status, other) = login(&chatd, &json!({ "name": "alice", "password": PASSWORD }));
    assert_eq!(status, 200);
    let (status, second) = refresh(&chatd, &alice.refresh_token);
    assert_eq!(status, 200, "{second}");
    assert_eq!(Person::from_json(&second).device_id, alice.device_id);
    // The second was used: its answer arrived, so that a reuse of the first is no lost answer.
    let third = refreshed(&chatd, second["refresh_token"].as_str().unwrap());
    let (status, reused) = refresh(&chatd, &alice.refresh_token);
    assert_eq!((status, &reused["code"]), (401, &"token_invalid".into()));
    let (status, ended) = refresh(&chatd, &third);
    assert_eq!((status, &ended["code"]), (401, &"token_invalid".into()), "its family has ended");
    let (status, _) = refresh(&chatd, other["refresh_token"].as_str().unwrap());
    assert_eq!(status, 200, "another sign-in goes on");
    assert_eq!(refresh(&chatd, "never issued").0, 401);
}

#[test]
fn a_lost_answer_to_a_refresh_signs_nobody_out() {
    let database = Database::new();
    let chatd = Chatd::start(&database);
    let alice = Person::register(&chatd, "alice");
    let lost = refreshed(&chatd, &alice.refresh_token);
    age(&database, 29);
    let again = refreshed(&chatd, &alice.refresh_token);
    assert_ne!(lost, again);
    let next = refreshed(&chatd, &again);
    age(&database, 31);
    // The answer to the last one was not lost, or came too late: this is somebody else's use.
    let (status, body) = refresh(&chatd, &again);
    assert_eq!((status, &body["code"]), (401, &"token_invalid".into()));
    for token in [&lost, &next, &alice.refresh_token] {
        assert_eq!(refresh(&chatd, token).0, 401, "the family has ended");
    }
}

#[test]
fn the_grace_is_for_a_short_while_and_a_few_uses() {
    let database = Database::new();
    let chatd = Chatd::start(&database);
    let late = Person::register(&chatd, "late");
    let unused = refreshed(&chatd, &late.refresh_token);
    age(&database, 31);
    assert_eq!(refresh(&chatd, &late.refresh_token).0, 401);
    assert_eq!(refresh(&chatd, &unused).0, 401, "the family has ended");
    let alice = Person::register(&chatd, "alice");
    let statuses: Vec<u32> = std::thread::scope(|scope| {
        let use_it = || refresh(&chatd, &alice.refresh_token).0;
        let threads: Vec<_> = (0..12).map(|_| scope.spawn(use_it)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(statuses.iter().filter(|it| **it == 200).count(), 8, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|it| **it == 401).count(), 4);
}

#[test]
fn secrets_are_stored_as_hashes_only() {
    let database = Database::new();
    let chatd = Chatd::start(&database);
    let alice = Person::register(&chatd, "alice");
    let mut owner = database.owner();
    let hash: String =
        owner.query_one("SELECT password_hash FROM accounts.credentials", &[]).unwrap().get(0);
    assert!(hash.starts_with("$argon2id$") && !hash.contains(PASSWORD));
    let query = "SELECT t::text FROM accounts.refresh_tokens t";
    let row: String = owner.query_one(query, &[]).unwrap().get(0);
    assert!(!row.contains(&alice.refresh_token));
}

#[test]
fn names_and_passwords_are_checked() {
    let database = Database::new();
    let chatd = Chatd::start(&database);
    let register = |name: &str, password: &str| {
        let body = json!({ "name": name, "password": password });
        let (status, body) = chatd.http("POST", "/v1/auth/register", None, &body);
        (status, body["code"].as_str().unwrap_or("").to_owned())
    };
    assert_eq!(register("alice", PASSWORD).0, 201);
    assert_eq!(register("alice", PASSWORD), (409, "name_taken".into()));
    assert_eq!(register("Al ice", PASSWORD), (400, "invalid_argument".into()));
    assert_eq!(register("bob", "short"), (400, "invalid_argument".into()));
    assert_eq!(register("bo\0b", PASSWORD), (400, "invalid_argument".into()));
    for (name, password) in [("alice", "wrong password"), ("nobody", PASSWORD), ("a\0", PASSWORD)] {
        let (status, body) = login(&chatd, &json!({ "name": name, "password": password }));
        assert_eq!((status, &body["code"]), (401, &"wrong_credentials".into()), "{name}");
    }
    let (status, body) = chatd.http("POST", "/v1/auth/login", None, &Value::Null);
    assert_eq!((status, &body["code"]), (400, &"malformed_frame".into()));
}

#[test]
fn a_device_that_is_removed_cannot_refresh() {
    let database = Database::new();
    let chatd = Chatd::start(&database);
    let alice = Person::register(&chatd, "alice");
    let body = json!({ "name": "alice", "password": PASSWORD, "device_name": "phone" });
    let phone = Person::from_json(&login(&chatd, &body).1);
    assert_ne!(phone.device_id, alice.device_id);
    let again = json!({ "name": "alice", "password": PASSWORD, "device_id": phone.device_id });
    assert_eq!(Person::from_json(&login(&chatd, &again).1).device_id, phone.device_id);
    let devices = alice.get(&chatd, "/v1/devices")["devices"].as_array().unwrap().clone();
    assert_eq!(devices.len(), 2);
    let current: Vec<_> = devices.iter().filter(|it| it["current"] == true).collect();
    assert_eq!(current.len(), 1);
    assert_eq!(current[0]["device_id"], json!(alice.device_id));
    let target = format!("/v1/devices/{}", phone.device_id);
    let mallory = Person::register(&chatd, "mallory");
    assert_eq!(mallory.call(&chatd, "DELETE", &target, Value::Null).0, 404);
    assert_eq!(alice.call(&chatd, "DELETE", &target, Value::Null).0, 204);
    assert_eq!(refresh(&chatd, &phone.refresh_token).0, 401);
    assert_eq!(alice.call(&chatd, "DELETE", &target, Value::Null).0, 404);
    assert_eq!(refresh(&chatd, &alice.refresh_token).0, 200);
}

#[test]
fn after_logging_out_the_refresh_token_is_worth_nothing() {
    let database = Database::new();
    let chatd = Chatd::start(&database);
    let alice = Person::register(&chatd, "alice");
    let body = json!({ "refresh_token": alice.refresh_token });
    assert_eq!(chatd.http("POST", "/v1/auth/logout", None, &body).0, 204);
    assert_eq!(chatd.http("POST", "/v1/auth/logout", None, &body).0, 204);
    assert_eq!(refresh(&chatd, &alice.refresh_token).0, 401);
}

#[test]
fn an_expired_access_token_is_told_apart_from_a_wrong_one() {
    let database = Database::new();
    let chatd = Chatd::start_with(&database, &[("tokens.access_lifetime_s", "5")]);
    let alice = Person::register(&chatd, "alice");
    assert_eq!(alice.call(&chatd, "GET", "/v1/me", Value::Null).0, 200);
    let code = |token: Option<&str>| {
        let (status, body) = chatd.http("GET", "/v1/me", token, &Value::Null);
        (status, body["code"].as_str().unwrap_or("").to_owned())
    };
    assert_eq!(code(None), (401, "token_missing".into()));
    assert_eq!(code(Some("x.y.z")), (401, "token_invalid".into()));
    let (_, jwks) = chatd.http("GET", "/v1/jwks.json", None, &Value::Null);
    assert_eq!(jwks["keys"][0]["crv"], "Ed25519");
    crate::support::wait_for("the token's end", || {
        (code(Some(&alice.token)) == (401, "token_expired".into())).then_some(())
    });
}
