//! presenced as a process, against a real Redis and a real Kafka (KAFKA_BROKERS; without it the tests are
//! skipped), with timings twenty times shorter than usual.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use proto::Uuid;
use proto::error::ErrorCode;
use proto::link::{PresenceReport, PresenceSession, response};
use std::time::{Duration, Instant};
use support::{Gateway, HEARTBEAT, Kafka, Presenced, Redis, session, wait_until};

struct Stage {
    kafka: Kafka,
    redis: Redis,
    presenced: Presenced,
}

fn stage() -> Option<Stage> {
    let kafka = Kafka::from_environment()?;
    let redis = Redis::start();
    let presenced = Presenced::start(&redis, &kafka.brokers);
    wait_until(20, "ready", || presenced.is_ready());
    Some(Stage { kafka, redis, presenced })
}

fn id() -> Uuid {
    proto::id::new()
}

/// Heartbeats for that long, whatever the answers; whether all of them were accepted.
fn beat(gateway: &Gateway, sessions: &[PresenceSession], how_long: Duration) -> bool {
    let end = Instant::now() + how_long;
    let mut all = true;
    while Instant::now() < end {
        let answer = gateway.heartbeat(sessions);
        all &= matches!(answer, Ok(response::Response::Accepted(_)));
        std::thread::sleep(HEARTBEAT / 2);
    }
    all
}

#[test]
fn the_first_and_the_last_device_are_announced_and_redis_holds_the_sessions() {
    let Some(Stage { mut kafka, redis, presenced }) = stage() else { return };
    let (one, two) = (
        Gateway::connect("gateway-1", &presenced.link),
        Gateway::connect("gateway-2", &presenced.link),
    );
    let (user, phone, laptop) = (id(), id(), id());
    beat(&one, &[], HEARTBEAT * 2);
    one.connected(vec![session(user, phone, 1)]);
    two.connected(vec![session(user, laptop, 1)]);
    let value: String = redis.ask(&["GET", &format!("user:{user}:{phone}")]);
    assert!(value.starts_with("gateway-1/") && value.ends_with("/1"), "{value}");
    let gateways: String = redis.ask(&["GET", &format!("user:{user}")]);
    assert_eq!(gateways, "gateway-1,gateway-2");
    let expires_ms: i64 = redis.ask(&["PTTL", &format!("user:{user}:{phone}")]);
    assert!((2_000..=3_500).contains(&expires_ms));
    assert_eq!(kafka.wait_for(&[user], 1, 5), [(user, true)]);
    let states = one.query(&[user]);
    assert!(states[0].1 && states[0].2 > 0);
    one.disconnected(vec![session(user, phone, 1)]);
    // A late goodbye of a connection that is no more.
    one.disconnected(vec![session(user, laptop, 1)]);
    assert!(beat(&two, &[session(user, laptop, 1)], Duration::from_secs(2)));
    assert_eq!(kafka.announced(&[user], Duration::from_millis(500)), [(user, true)]);
    two.disconnected(vec![session(user, laptop, 1)]);
    let gone: Option<String> = redis.ask(&["GET", &format!("user:{user}")]);
    assert_eq!(gone, None);
    assert_eq!(kafka.wait_for(&[user], 2, 5), [(user, true), (user, false)]);
    wait_until(5, "last seen", || one.query(&[user])[0].2 > 0);
    assert!(!one.query(&[user])[0].1);
    let seen: Option<String> = redis.ask(&["GET", &format!("seen:{user}")]);
    assert!(seen.is_some());
}

#[test]
fn a_gateway_that_dies_takes_its_users_offline_and_a_reconnect_elsewhere_does_not_flicker() {
    let Some(Stage { mut kafka, presenced, redis: _redis }) = stage() else { return };
    let one = Gateway::connect("gateway-1", &presenced.link);
    let two = Gateway::connect("gateway-2", &presenced.link);
    let (stays, leaves) = (id(), id());
    let (stays_device, leaves_device) = (id(), id());
    let sessions = [session(stays, stays_device, 1), session(leaves, leaves_device, 2)];
    one.connected(sessions.to_vec());
    assert!(beat(&one, &sessions, Duration::from_secs(3)));
    drop(one);
    let died = Instant::now();
    two.connected(vec![session(stays, stays_device, 1)]);
    let (mut seen, end) = (Vec::new(), Instant::now() + Duration::from_secs(6));
    while Instant::now() < end && !seen.contains(&(leaves, false)) {
        beat(&two, &[session(stays, stays_device, 1)], HEARTBEAT / 2);
        seen = kafka.announced(&[stays, leaves], Duration::from_millis(50));
    }
    println!("offline {:?} after the gateway's death", died.elapsed());
    assert!(seen.contains(&(leaves, false)), "{seen:?}");
    beat(&two, &[session(stays, stays_device, 1)], Duration::from_secs(4));
    let seen = kafka.announced(&[stays], Duration::from_millis(200));
    assert_eq!(seen, [(stays, true)]);
}

#[test]
fn redis_being_away_or_emptied_is_no_false_offline_and_everything_is_rebuilt() {
    let Some(Stage { mut kafka, mut redis, presenced }) = stage() else { return };
    let gateway = Gateway::connect("gateway-1", &presenced.link);
    let (user, other) = (id(), id());
    let sessions = [session(user, id(), 1), session(other, id(), 2)];
    gateway.connected(sessions.to_vec());
    assert_eq!(kafka.wait_for(&[user, other], 2, 5).len(), 2);
    redis.stop();
    let begun = Instant::now();
    let answer = gateway.heartbeat(&sessions);
    assert!(begun.elapsed() < Duration::from_millis(1_500), "{:?}", begun.elapsed());
    let Ok(response::Response::Error(error)) = answer else { panic!("{answer:?}") };
    assert_eq!((error.code.as_str(), error.retryable), (ErrorCode::Unavailable.as_str(), true));
    assert!(!beat(&gateway, &sessions, Duration::from_secs(5)));
    assert!(presenced.ready().contains("redis"), "not ready without Redis");
    assert_eq!(gateway.query(&[user]).len(), 1, "queries are answered meanwhile");
    redis.restart();
    wait_until(5, "ready", || presenced.is_ready());
    assert!(beat(&gateway, &sessions, Duration::from_secs(2)));
    let members: Vec<String> = redis.ask(&["SMEMBERS", "presence:online"]);
    assert_eq!(members.len(), 2);
    let (): () = redis.ask(&["FLUSHALL"]);
    wait_until(5, "rebuilt after a flush", || {
        let members: Vec<String> = redis.ask(&["SMEMBERS", "presence:online"]);
        let session: Option<String> = redis.ask(&["GET", &format!("user:{user}")]);
        members.len() == 2 && session.is_some()
    });
    beat(&gateway, &sessions, Duration::from_secs(4));
    // Paused, not gone: connections stay open and nothing answers.
    redis.signal("STOP");
    beat(&gateway, &sessions, Duration::from_secs(3));
    redis.signal("CONT");
    beat(&gateway, &sessions, Duration::from_secs(4));
    let seen = kafka.announced(&[user, other], Duration::from_millis(200));
    assert_eq!(seen.len(), 2, "online once each and nothing else: {seen:?}");
    wait_until(5, "ready", || presenced.is_ready());
}

#[test]
fn a_restarted_presenced_tells_nobody_offline_who_is_there_and_those_who_are_gone() {
    let Some(Stage { mut kafka, redis, mut presenced }) = stage() else { return };
    let gateway = Gateway::connect("gateway-1", &presenced.link);
    let (stays, leaves) = (id(), id());
    let here = [session(stays, id(), 1)];
    gateway.connected(vec![here[0].clone(), session(leaves, id(), 2)]);
    assert_eq!(kafka.wait_for(&[stays, leaves], 2, 5).len(), 2);
    presenced.kill();
    let mut again = Presenced::start_at(presenced.link.clone(), &redis, &kafka.brokers);
    wait_until(10, "the link", || gateway.is_connected());
    beat(&gateway, &here, Duration::from_secs(6));
    let seen = kafka.announced(&[stays, leaves], Duration::from_millis(200));
    let offline: Vec<_> = seen.iter().filter(|it| !it.1).collect();
    assert_eq!(offline, [&(leaves, false)]);
    assert_eq!(again.terminate(), Some(0));
}

#[test]
fn only_a_run_that_found_redis_empty_says_that_it_began_blank_and_not_before_it_has_heard_everybody()
 {
    let Some(Stage { kafka, redis, mut presenced }) = stage() else { return };
    let gateway = Gateway::connect("gateway-1", &presenced.link);
    // The very first run, too: nobody knows what was before.
    assert!(gateway.blank_run().is_empty());
    beat(&gateway, &[], HEARTBEAT * 2);
    let first = gateway.blank_run();
    assert_eq!(first.len(), 16);
    presenced.kill();
    let mut again = Presenced::start_at(presenced.link.clone(), &redis, &kafka.brokers);
    wait_until(10, "the link", || gateway.is_connected());
    beat(&gateway, &[], HEARTBEAT * 3);
    assert!(gateway.blank_run().is_empty(), "Redis knows what the earlier run announced");
    let (): () = redis.ask(&["FLUSHALL"]);
    wait_until(5, "rebuilt", || {
        redis.ask::<Option<String>>(&["GET", "presence:complete"]).is_some()
    });
    assert!(gateway.blank_run().is_empty(), "the run itself knows it");
    again.kill();
    let (): () = redis.ask(&["FLUSHALL"]);
    let _third = Presenced::start_at(presenced.link.clone(), &redis, &kafka.brokers);
    wait_until(10, "the link", || gateway.is_connected());
    beat(&gateway, &[], HEARTBEAT * 3);
    assert!(!gateway.blank_run().is_empty() && gateway.blank_run() != first);
}

#[test]
fn a_bad_report_is_refused_with_what_is_wrong() {
    let Some(Stage { presenced, redis: _redis, .. }) = stage() else { return };
    let gateway = Gateway::connect("gateway-1", &presenced.link);
    let mut bad = session(id(), id(), 1);
    bad.user_id.pop();
    let report = PresenceReport { connected: vec![bad], ..PresenceReport::default() };
    let Ok(response::Response::Error(error)) = gateway.report(report) else { panic!("taken") };
    assert_eq!(error.code, ErrorCode::InvalidArgument.as_str());
    assert!(error.message.contains("user_id is 15 bytes"), "{}", error.message);
}

/// Run with `--ignored --nocapture` to have the figure.
#[test]
#[ignore = "a measurement"]
fn heartbeats_a_second() {
    let Some(Stage { presenced, redis: _redis, .. }) = stage() else { return };
    let gateway = Gateway::connect("gateway-1", &presenced.link);
    let sessions: Vec<_> = (0..20_000).map(|number| session(id(), id(), number)).collect();
    for part in sessions.chunks(1_000) {
        gateway.connected(part.to_vec());
    }
    let begun = Instant::now();
    let rounds: u32 = 5;
    for _ in 0..rounds {
        for part in sessions.chunks(1_000) {
            assert!(matches!(gateway.heartbeat(part), Ok(response::Response::Accepted(_))));
        }
    }
    let rate = f64::from(rounds) * 20_000.0 / begun.elapsed().as_secs_f64();
    println!("{rate:.0} sessions a second, one report at a time");
}
