use super::metrics::Counted;
use super::stages::{Partition, Stage};
use super::*;

/// Two topics: `t` with four partitions, `u` with three.
const CHATD: &str = "# TYPE x counter
realchat_chatd_ledger_committed_total{topic=\"t\",shard=\"1\"} 40
realchat_chatd_ledger_committed_total{topic=\"t\",shard=\"5\"} 20
realchat_chatd_ledger_committed_total{topic=\"t\",shard=\"2\"} 30
realchat_chatd_ledger_committed_total{topic=\"u\",shard=\"15\"} 10
realchat_chatd_outbox_pending_count 3
realchat_chatd_other 7.5
";
const RELAY: &str = "realchat_relay_relayed_total{topic=\"t\",partition=\"1\"} 58
realchat_relay_relayed_total{topic=\"t\",partition=\"2\"} 28
realchat_relay_relayed_total{topic=\"u\",partition=\"2\"} 10
realchat_relay_dead_lettered_total{topic=\"t\"} 1
";
const GATEWAY: &str = "realchat_gateway_records_consumed_total{topic=\"t\",partition=\"0\"} 0
realchat_gateway_records_consumed_total{topic=\"t\",partition=\"1\"} 60
realchat_gateway_records_consumed_total{topic=\"t\",partition=\"2\"} 30
realchat_gateway_records_consumed_total{topic=\"t\",partition=\"3\"} 0
realchat_gateway_records_consumed_total{topic=\"u\",partition=\"0\"} 0
realchat_gateway_records_consumed_total{topic=\"u\",partition=\"1\"} 0
realchat_gateway_records_consumed_total{topic=\"u\",partition=\"2\"} 10
realchat_gateway_records_consumed_total{topic=\"presence\",partition=\"0\"} 5
realchat_gateway_recipients_mailed_total{topic=\"t\",partition=\"1\"} 120
realchat_gateway_recipients_mailed_total{topic=\"t\",partition=\"2\"} 80
realchat_gateway_recipients_reached_total{topic=\"\",partition=\"\"} 0
realchat_gateway_recipients_reached_total{topic=\"t\",partition=\"1\"} 90
realchat_gateway_recipients_reached_total{topic=\"t\",partition=\"2\"} 60
realchat_gateway_events_no_session_total{topic=\"t\",partition=\"1\"} 30
realchat_gateway_events_no_session_total{topic=\"t\",partition=\"2\"} 20
realchat_gateway_events_enqueued_total{topic=\"t\",partition=\"1\"} 160
realchat_gateway_events_written_total{topic=\"t\",partition=\"1\"} 158
realchat_gateway_events_shed_total{topic=\"t\",partition=\"2\"} 2
realchat_gateway_send_queue_depth 1
";

fn reading(texts: [&str; 3]) -> Reading {
    let names = ["chatd", "relay", "gateway-1"];
    let counts = names.into_iter().zip(texts);
    let daemons = counts.map(|(name, text)| (name.to_owned(), Counts::parse(text))).collect();
    Reading { daemons }
}

fn all(reading: &Reading) -> (Vec<Partition>, Vec<Stage>) {
    let partitions = partitions(reading, reading);
    let stages = stages(reading, &partitions);
    (partitions, stages)
}

/// Partitions and stages with losses.
fn unaccounted(reading: &Reading) -> (Vec<String>, Vec<(String, u64)>) {
    let (partitions, stages) = all(reading);
    let lost = partitions.iter().filter(|it| it.unaccounted > 0);
    let partitions =
        lost.map(|it| format!("{} {} {}: {}", it.part, it.topic, it.partition, it.unaccounted));
    let lost = stages.iter().filter(|it| it.unaccounted > 0);
    (partitions.collect(), lost.map(|it| (it.stage.clone(), it.unaccounted)).collect())
}

fn changed(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from}");
    text.replace(from, to)
}

#[test]
fn what_balances_is_accounted_for_in_every_partition() {
    let reading = reading([CHATD, RELAY, GATEWAY]);
    assert_eq!(unaccounted(&reading), (vec![], vec![]));
    let (partitions, stages) = all(&reading);
    let names: Vec<&str> = stages.iter().map(|it| it.stage.as_str()).collect();
    let expected =
        ["committed", "gateway-1 t", "gateway-1 u", "gateway-1 recipients", "gateway-1 sessions"];
    assert_eq!(names, expected);
    assert_eq!((stages[1].entered, stages[1].again), (86, 4), "four came twice");
    assert_eq!(stages[4].left["ended_before"], 1);
    let places: Vec<_> =
        partitions.iter().map(|it| (it.part.as_str(), it.topic.as_str(), it.partition)).collect();
    let relay = [("relay", "t", 1), ("relay", "t", 2), ("relay", "u", 0)];
    assert_eq!(places[..3], relay);
    // Shards 1 and 5 are one of four partitions; shards and three partitions have nothing in common.
    assert_eq!((partitions[0].counts["committed"], partitions[0].modulo), (60, None));
    assert_eq!((partitions[2].counts["relayed"], partitions[2].modulo), (10, Some(1)));
    let gateway = [
        ("gateway-1", "presence", 0),
        ("gateway-1", "t", 1),
        ("gateway-1", "t", 2),
        ("gateway-1", "u", 2),
    ];
    assert_eq!(places[3..], gateway);
    assert!(partitions[4].words().contains("written 158"), "{}", partitions[4].words());
}

#[test]
fn what_is_missing_at_any_stage_is_told_of_with_its_partition() {
    let told = |partition: &str, stage: &str, count| {
        (vec![partition.to_owned()], vec![(stage.to_owned(), count)])
    };
    let relay = changed(RELAY, "\"1\"} 58", "\"1\"} 56");
    let expected = told("relay t 2: 2", "committed", 2);
    assert_eq!(unaccounted(&reading([CHATD, &relay, GATEWAY])), expected, "four are explained");
    let gateway = changed(GATEWAY, "\"u\",partition=\"2\"} 10", "\"u\",partition=\"2\"} 9");
    let expected = told("gateway-1 u 2: 1", "gateway-1 u", 1);
    assert_eq!(unaccounted(&reading([CHATD, RELAY, &gateway])), expected);
    let gateway = changed(
        GATEWAY,
        "no_session_total{topic=\"t\",partition=\"2\"} 20",
        "no_session_total{topic=\"t\",partition=\"2\"} 13",
    );
    let expected = told("gateway-1 t 2: 7", "gateway-1 recipients", 7);
    assert_eq!(unaccounted(&reading([CHATD, RELAY, &gateway])), expected);
}

#[test]
fn what_one_partition_has_twice_does_not_make_up_for_what_another_lost() {
    let gateway = changed(GATEWAY, "partition=\"1\"} 60", "partition=\"1\"} 64");
    let gateway = changed(&gateway, "partition=\"2\"} 30", "partition=\"2\"} 26");
    let expected = (vec!["gateway-1 t 2: 2".to_owned()], vec![("gateway-1 t".to_owned(), 2)]);
    assert_eq!(unaccounted(&reading([CHATD, RELAY, &gateway])), expected);
    let relay = changed(RELAY, "\"1\"} 58", "\"1\"} 68");
    let relay = changed(&relay, "\"t\",partition=\"2\"} 28", "\"t\",partition=\"2\"} 18");
    let (partitions, stages) = unaccounted(&reading([CHATD, &relay, GATEWAY]));
    assert_eq!(partitions[0], "relay t 2: 8");
    assert_eq!(
        stages[0],
        ("committed".to_owned(), 8),
        "but for one dead letter and three that wait"
    );
}

#[test]
fn recipients_of_partitions_that_a_gateway_does_not_count_one_by_one_are_not_lost() {
    let gateway =
        changed(GATEWAY, "reached_total{topic=\"t\",partition=\"2\"} 60", "reached_total 60");
    assert_eq!(unaccounted(&reading([CHATD, RELAY, &gateway])), (vec![], vec![]));
}

#[test]
fn only_what_came_since_counts_and_a_restart_is_noticed() {
    let before = reading([
        "realchat_chatd_ledger_committed_total{topic=\"t\",shard=\"1\"} 20\nrealchat_chatd_outbox_pending_count 9",
        "realchat_relay_relayed_total{topic=\"t\",partition=\"1\"} 5",
        "",
    ]);
    let now = reading([CHATD, RELAY, GATEWAY]);
    let since = now.since(&before).unwrap();
    // 80 committed; 91 relayed, 1 dead and 3 waiting: nothing is missing.
    let stage = all(&since).1.remove(0);
    assert_eq!((stage.entered, stage.left["waiting"], stage.again), (80, 3, 15));
    assert_eq!(stage.unaccounted, 0);
    assert_eq!(before.since(&now), Err("chatd".to_owned()));
    let text = serde_json::to_string(&now).unwrap();
    assert_eq!(serde_json::from_str::<Reading>(&text).unwrap(), now);
    assert_eq!(now.daemons["relay"].of(Counted::Relayed, "t", 2), 28);
}

/// One partition: what was committed, relayed and consumed.
fn flowing(committed: u64, relayed: u64, consumed: u64) -> Reading {
    reading([
        &format!("realchat_chatd_ledger_committed_total{{topic=\"t\",shard=\"0\"}} {committed}"),
        &format!("realchat_relay_relayed_total{{topic=\"t\",partition=\"0\"}} {relayed}"),
        &format!(
            "realchat_gateway_records_consumed_total{{topic=\"t\",partition=\"0\"}} {consumed}"
        ),
    ])
}

/// The words of the rows, after readings a second apart.
fn watched(readings: impl IntoIterator<Item = Reading>) -> Vec<String> {
    let mut window = Window::default();
    for (at, reading) in (1..).zip(readings) {
        window.add(Duration::from_secs(at), reading);
    }
    let words = window.rows().iter().map(watch::Row::words).collect::<Vec<_>>();
    words.iter().map(|it| it.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn what_is_under_way_is_not_taken_for_lost_while_it_moves() {
    let busy = (1..=20).map(|at| flowing(100 * at, 100 * at - 5, 100 * at - 5 - at % 3));
    let expected = [
        "gateway-1 entered 1995 under way 2 unaccounted 0",
        "relay entered 2000 under way 5 unaccounted 0 to 5",
    ];
    assert_eq!(watched(busy), expected);
}

#[test]
fn what_never_comes_out_is_bounded_while_messages_flow_and_told_once_they_pause() {
    // Seven are lost at the fifth second.
    let lost = |at: u64| if at < 5 { 0 } else { 7 };
    let busy = move |at| flowing(100 * at, 100 * at, 100 * at - lost(at) - at % 3);
    assert_eq!(
        watched((1..=20).map(busy))[0],
        "gateway-1 entered 2000 under way 9 unaccounted 0 to 7"
    );
    // From the tenth second on, nothing more is sent.
    assert_eq!(
        watched((1..=19).map(|at| busy(at.min(9))))[0],
        "gateway-1 entered 900 under way 7 unaccounted 7"
    );
    assert_eq!(
        watched((1..=18).map(|at| busy(at.min(9))))[0],
        "gateway-1 entered 900 under way 7 unaccounted 0 to 7",
        "the first of these have not had their ten seconds"
    );
}

#[test]
fn what_waits_in_the_outbox_is_late_and_not_lost() {
    let stalled = |_| {
        reading([
            "realchat_chatd_ledger_committed_total{topic=\"t\",shard=\"0\"} 9\nrealchat_chatd_outbox_pending_count 9",
            "realchat_relay_relayed_total{topic=\"t\",partition=\"0\"} 0",
            "",
        ])
    };
    let expected = [
        "gateway-1 entered 0 under way 0 unaccounted 0",
        "relay entered 9 under way 9 unaccounted 0 to 9",
    ];
    assert_eq!(watched((1..=20).map(stalled)), expected);
}
