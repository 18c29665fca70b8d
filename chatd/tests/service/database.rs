//! The schema: migrations, roles and their rights, and what chatd demands of the server.

use crate::support::chatd::{command, run};
use crate::support::postgres::{Server, free_port};
use crate::support::{Chatd, Database, metric, wait_for};
use postgres::error::SqlState;

#[test]
fn migrations_may_be_applied_again_and_by_several_at_once() {
    let database = Database::new();
    let runs: Vec<_> =
        (0..4).map(|_| command(&database, &[]).arg("migrate").spawn().unwrap()).collect();
    for mut run in runs {
        assert!(run.wait().unwrap().success());
    }
    assert!(run(&database, &["migrate"]).status.success());
    let mut owner = database.owner();
    let count: i64 =
        owner.query_one("SELECT count(*) FROM realchat.migrations", &[]).unwrap().get(0);
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../sql")).unwrap();
    let files = files.filter(|it| it.as_ref().unwrap().path().extension().unwrap() == "sql");
    assert_eq!(count, i64::try_from(files.count()).unwrap());
    // The files themselves are idempotent, too: as if the record had been lost.
    owner.batch_execute("DELETE FROM realchat.migrations").unwrap();
    assert!(run(&database, &["migrate"]).status.success());
}

#[test]
fn a_migration_that_was_changed_after_it_was_applied_is_refused() {
    let database = Database::new();
    assert!(run(&database, &["migrate"]).status.success());
    let change = "UPDATE realchat.migrations SET sha256 = 'other' WHERE number = 2";
    database.owner().batch_execute(change).unwrap();
    let output = run(&database, &["migrate"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && error.contains("0002_accounts"), "{error}");
}

#[test]
fn each_role_has_the_rights_of_its_own_service_alone() {
    let database = Database::new();
    assert!(run(&database, &["migrate"]).status.success());
    let may = [
        ("realchat_messaging", "SELECT count(*) FROM messaging.events"),
        ("realchat_messaging", "SELECT count(*) FROM messaging.outbox"),
        ("realchat_accounts", "SELECT count(*) FROM accounts.credentials"),
        ("realchat_profiles", "SELECT count(*) FROM profiles.profiles"),
        ("realchat_relay", "DELETE FROM messaging.outbox"),
        ("realchat_relay", "UPDATE messaging.outbox SET attempts = 1"),
        ("realchat_relay", "DELETE FROM messaging.outbox_leases"),
    ];
    let may_not = [
        ("realchat_messaging", "SELECT * FROM accounts.users"),
        ("realchat_messaging", "SELECT * FROM accounts.credentials"),
        ("realchat_messaging", "SELECT * FROM profiles.profiles"),
        ("realchat_messaging", "DELETE FROM messaging.events"),
        ("realchat_messaging", "DELETE FROM messaging.outbox"),
        ("realchat_messaging", "SELECT * FROM messaging.outbox_leases"),
        ("realchat_messaging", "SELECT * FROM realchat.migrations"),
        ("realchat_accounts", "SELECT * FROM messaging.events"),
        ("realchat_accounts", "SELECT * FROM profiles.profiles"),
        ("realchat_profiles", "SELECT * FROM accounts.credentials"),
        ("realchat_profiles", "SELECT * FROM messaging.members"),
        ("realchat_relay", "SELECT * FROM messaging.events"),
        ("realchat_relay", "UPDATE messaging.outbox SET value = ''"),
        (
            "realchat_relay",
            "INSERT INTO messaging.outbox (shard, topic, key, value, headers, \
            created_at_us) VALUES (1, '', '', '', '', 1)",
        ),
        ("realchat_relay", "SELECT * FROM accounts.users"),
    ];
    let mut client = database.owner();
    for (role, statement) in may {
        client.batch_execute(&format!("SET ROLE {role}")).unwrap();
        client
            .batch_execute(statement)
            .unwrap_or_else(|error| panic!("{role} {statement}: {error}"));
        client.batch_execute("RESET ROLE").unwrap();
    }
    for (role, statement) in may_not {
        client.batch_execute(&format!("SET ROLE {role}")).unwrap();
        let error = client.batch_execute(statement).expect_err(&format!("{role} {statement}"));
        assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{role} {statement}");
        client.batch_execute("RESET ROLE").unwrap();
    }
    let login = client.query(
        "SELECT rolname FROM pg_roles WHERE rolname LIKE 'realchat\\_%' AND rolcanlogin",
        &[],
    );
    assert!(login.unwrap().is_empty(), "the services' roles cannot log in");
}

#[test]
fn a_server_that_may_lose_what_it_acknowledged_is_refused_unless_allowed() {
    let server = Server::start(&["fsync=off"]);
    let database = server.database();
    let refused = command(&database, &[("link.secret", "a secret of enough bytes")])
        .env("REALCHAT_CHATD_LINK_LISTEN", "127.0.0.1:0")
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && error.contains("fsync off"), "{error}");
    assert!(error.contains("postgres.allow_data_loss"), "{error}");
    drop(Chatd::start_with(&database, &[("postgres.allow_data_loss", "true")]));
}

#[test]
fn synchronous_commit_is_looked_at_as_well() {
    let database = Database::new();
    let mut owner = database.owner();
    let name: String = owner.query_one("SELECT current_database()", &[]).unwrap().get(0);
    owner.batch_execute(&format!("ALTER DATABASE {name} SET synchronous_commit = off")).unwrap();
    let refused = command(&database, &[("link.secret", "a secret of enough bytes")])
        .env("REALCHAT_CHATD_LINK_LISTEN", "127.0.0.1:0")
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(error.contains("synchronous_commit off"), "{error}");
}

#[test]
fn the_seed_is_there_once_and_its_codes_are_fresh_each_time() {
    let database = Database::new();
    let seed = || -> serde_json::Value {
        let output = run(&database, &["seed"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let (first, second) = (seed(), seed());
    assert_eq!(first["conversation_id"], second["conversation_id"]);
    assert_eq!(first["users"][0]["user_id"], second["users"][0]["user_id"]);
    assert_ne!(first["users"][0]["code"], second["users"][0]["code"]);
    assert_eq!(
        (&first["users"][1]["name"], &first["bot"]["name"]),
        (&"bob".into(), &"echo".into())
    );
    let chatd = Chatd::start(&database);
    let code = serde_json::json!({ "code": first["users"][0]["code"], "device_name": "browser" });
    let (status, alice) = chatd.http("POST", "/v1/auth/code", None, &code);
    assert_eq!((status, &alice["name"]), (200, &"alice".into()));
    let (status, again) = chatd.http("POST", "/v1/auth/code", None, &code);
    assert_eq!((status, &again["code"]), (401, &"wrong_credentials".into()));
    let alice = crate::support::Person::from_json(&alice);
    let list = alice.get(&chatd, "/v1/conversations");
    let welcome = &list["conversations"][0];
    assert_eq!(list["conversations"].as_array().unwrap().len(), 1);
    assert_eq!((&welcome["title"], &welcome["message_count"]), (&"Welcome".into(), &1.into()));
    assert_eq!(welcome["members"].as_array().unwrap().len(), 3);
    assert_eq!(welcome["unread_count"], 1);
}

#[test]
fn a_large_outbox_is_estimated_rather_than_counted() {
    const ROWS: i64 = 300_000;
    let database = Database::new();
    let admin = format!("127.0.0.1:{}", free_port());
    let _chatd = Chatd::start_with(&database, &[("admin.listen", &admin)]);
    let pending = || metric(&admin, "realchat_chatd_outbox_pending_count");
    let mut superuser = database.superuser();
    let insert = "INSERT INTO messaging.outbox (shard, topic, key, value, headers, created_at_us)
        SELECT number % 16, 't', '', '', '', 1 FROM generate_series(1, $1::bigint) AS all_of (number)";
    superuser.execute(insert, &[&7_i64]).unwrap();
    wait_for("the few to be counted", || (pending() == Some(7)).then_some(()));
    superuser.execute(insert, &[&ROWS]).unwrap();
    wait_for("the many to be estimated", || pending().filter(|it| *it >= ROWS * 9 / 10));
    let read = "SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables
        WHERE relname = 'outbox'";
    let read: i64 = superuser.query_one(read, &[]).unwrap().get(0);
    assert!(read < ROWS / 2, "{read} rows were read");
}
