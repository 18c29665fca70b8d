//! The model against plans that were made by hand, and what must be so of every plan.

use super::*;
use crate::plan::costs::tests::round;

fn inputs() -> Inputs {
    Inputs {
        users: 1_000_000,
        messages_per_day: 86_400_000,
        online_percent: 20.0,
        members: 11.0,
        peak_factor: 4.0,
        cores: 8,
        memory_gib: 32,
        utilisation: 0.5,
        message_bytes: 256,
        retention_days: 100,
        redundant: false,
    }
}

#[test]
fn a_plan_that_was_made_by_hand() {
    let plan = plan(&inputs(), &round()).unwrap();
    let load = Load { sessions: 200_000.0, sends_per_s: 4_000.0, deliveries_per_s: 12_000.0 };
    assert_eq!(plan.load, load);
    // 4 cores of a machine may be busy, 0.04 of them with the tail. Deliveries take 0.24, sends 0.12,
    // sessions 0.2 cores: one gateway.
    assert_eq!(plan.tail.cores_busy, 0.04);
    assert_eq!(plan.tail.routed_needed_from_records_per_s, Some(400_000.0));
    assert_eq!(plan.tail.routed_gateways, 1);
    let expected = Parts {
        gateway: 0.6,
        chatd: 0.2,
        relay: 0.08,
        presenced: 0.4,
        postgresql: 0.4,
        kafka: 0.2,
        redis: 0.2,
    };
    assert_eq!(plan.cores_busy, expected);
    assert_eq!((plan.machines.all(), plan.total), ([1; 7], 7));
    // 86.4 million messages of 800 and 600 bytes for 100 and 3 days.
    assert_eq!((plan.disk_gib.postgresql, plan.disk_gib.kafka), (6_437.302, 144.839));
    assert_eq!(plan.notes, ["no part fills a machine: several can share one"]);
}

#[test]
fn every_gateway_pays_for_every_record() {
    // 400,000 records a second fill 4 cores.
    let busy = Inputs { messages_per_day: 8_640_000_000, ..inputs() };
    let words = plan(&busy, &round()).unwrap_err().to_string();
    assert!(words.contains("fills the 4.00 cores that may be busy, from 400000 rec"), "{words}");
    // Deliveries take 24 cores, sends 12, sessions 0.2, and the records of three devices 12.
    assert!(words.ends_with("of which 13 would do"), "{words}");
    let nearly = Inputs { messages_per_day: 7_776_000_000, ..inputs() };
    let nearly = plan(&nearly, &round()).unwrap();
    assert_eq!(nearly.tail.percent_of_a_gateway, 90.0);
    // 0.4 cores are left of each for deliveries (21.6 cores), sends (10.8) and sessions (0.2).
    assert_eq!(nearly.machines.gateway, 82);
    // Three devices' records are 10.8 cores more, and nothing is each gateway's own.
    assert_eq!(nearly.tail.routed_gateways, 11);
    assert!(nearly.notes[1].starts_with("90 % of what a gateway may do"), "{:?}", nearly.notes);
}

#[test]
fn more_users_or_messages_never_take_fewer_machines() {
    let mut random = fastrand::Rng::with_seed(11);
    for _ in 0..500 {
        let some = Inputs {
            users: random.u64(1..50_000_000),
            messages_per_day: random.u64(0..500_000_000),
            online_percent: random.f64() * 100.0,
            members: 1.0 + random.f64() * 100.0,
            cores: random.u64(1..64),
            memory_gib: random.u64(1..256),
            redundant: random.bool(),
            ..inputs()
        };
        let more_users = Inputs { users: some.users * 2, ..some.clone() };
        let more_messages = Inputs { messages_per_day: some.messages_per_day * 2, ..some.clone() };
        let Ok(plan) = plan(&some, &round()) else {
            // What cannot be served is not served with more of it.
            assert!(plan(&more_messages, &round()).is_err());
            continue;
        };
        let least = if some.redundant { 2 } else { 1 };
        assert!(plan.machines.all().iter().all(|it| *it >= least), "{some:?}: {plan:?}");
        for more in [more_users, more_messages] {
            let Ok(more) = super::plan(&more, &round()) else { continue };
            let mut pairs = plan.machines.all().into_iter().zip(more.machines.all());
            assert!(pairs.all(|(few, many)| few <= many), "{some:?}: {plan:?} and {more:?}");
        }
    }
}

#[test]
fn one_machine_more_of_each_part_and_never_fewer_than_two() {
    let redundant = Inputs { redundant: true, ..inputs() };
    let (one, two) = (plan(&inputs(), &round()).unwrap(), plan(&redundant, &round()).unwrap());
    assert_eq!(two.machines, one.machines.map(|it| it + 1));
    assert_eq!(two.total, one.total + 7);
}

#[test]
fn memory_alone_can_ask_for_gateways() {
    let small = Inputs { users: 100_000_000, messages_per_day: 0, memory_gib: 4, ..inputs() };
    let free = Costs { gateway_cpu_us_per_session_and_s: 0.0, ..round() };
    // 20 million sessions of 3,500 bytes, and 3 GiB less 100 MB in each.
    assert_eq!(plan(&small, &free).unwrap().machines.gateway, 23);
    let tiny = Costs { gateway_bytes: 1e12, ..free };
    assert_eq!(plan(&small, &tiny).unwrap().machines.gateway, 20_000_000);
}

#[test]
fn absurd_inputs_are_refused_with_what_is_allowed() {
    let good = inputs();
    let cases: [(Inputs, &str); 12] = [
        (Inputs { users: 0, ..good.clone() }, "--users is 0, but 1 to 10000000000 is allowed"),
        (
            Inputs { users: 10_000_000_001, ..good.clone() },
            "--users is 10000000001, but 1 to 10000000000 is allowed",
        ),
        (
            Inputs { messages_per_day: 100_000_000_000_001, ..good.clone() },
            "--messages-per-day is 100000000000001, but 0 to 100000000000000 is allowed",
        ),
        (
            Inputs { online_percent: 100.5, ..good.clone() },
            "--online-percent is 100.5, but 0 to 100 is allowed",
        ),
        (Inputs { members: 0.5, ..good.clone() }, "--members is 0.5, but 1 to 1000000 is allowed"),
        (
            Inputs { peak_factor: 0.9, ..good.clone() },
            "--peak-factor is 0.9, but 1 to 1000 is allowed",
        ),
        (Inputs { cores: 0, ..good.clone() }, "--cores is 0, but 1 to 1024 is allowed"),
        (
            Inputs { memory_gib: 65_537, ..good.clone() },
            "--memory-gib is 65537, but 1 to 65536 is allowed",
        ),
        (
            Inputs { utilisation: 0.96, ..good.clone() },
            "--utilisation is 0.96, but 0.05 to 0.95 is allowed",
        ),
        (
            Inputs { utilisation: f64::NAN, ..good.clone() },
            "--utilisation is NaN, but 0.05 to 0.95 is allowed",
        ),
        (
            Inputs { message_bytes: 31, ..good.clone() },
            "--message-bytes is 31, but 32 to 16384 is allowed",
        ),
        (
            Inputs { retention_days: 36_501, ..good },
            "--retention-days is 36501, but 1 to 36500 is allowed",
        ),
    ];
    for (inputs, words) in cases {
        assert_eq!(plan(&inputs, &round()).unwrap_err().to_string(), words);
    }
}
