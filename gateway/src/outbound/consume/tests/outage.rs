//! A broker that is killed while records are read.

use super::*;

#[test]
fn a_broker_that_is_killed_and_comes_back_costs_no_event() {
    let Some((brokers, _turn)) = broker() else { return };
    let Ok(restart) = std::env::var("REALCHAT_TEST_KAFKA_RESTART") else { return };
    let producing = Producing::to(&brokers);
    let instance = format!("test-{}", proto::id::new());
    let gateway = Gateway::start(&brokers, &instance);
    let (conversation, users) = (proto::id::new(), ids(10));
    let mut restarting = None;
    for sequence_number in 1..=3_000 {
        producing.event(conversation, sequence_number, &users);
        if sequence_number == 1_000 {
            let command = std::process::Command::new("sh").args(["-c", &restart]).spawn();
            restarting = Some(command.unwrap());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(restarting.unwrap().wait().unwrap().success());
    producing.flush();
    gateway.wait("all events", |seen| {
        let all = by_recipient(seen);
        all.len() == users.len() && all.values().all(|it| it.len() >= 3_000)
    });
    let expected: Vec<u64> = (1..=3_000).collect();
    assert!(by_recipient(&gateway.seen()).values().all(|it| *it == expected));
    let start = Instant::now();
    while !gateway.health.missing().is_empty() {
        assert!(start.elapsed() < PATIENCE, "{:?}", gateway.health.missing());
        std::thread::sleep(Duration::from_millis(10));
    }
    let start = Instant::now();
    loop {
        let (offsets, ends) = committed(&brokers, &instance);
        if offsets == ends {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "{offsets:?} were committed, not {ends:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
    gateway.stop();
    let (offsets, ends) = committed(&brokers, &instance);
    assert_eq!(offsets, ends);
}
