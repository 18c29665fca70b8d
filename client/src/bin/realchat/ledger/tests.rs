use super::*;

const CHATD: &str = "# TYPE x counter
realchat_chatd_ledger_committed_total{topic=\"t\"} 90
realchat_chatd_ledger_committed_total{topic=\"u\"} 10
realchat_chatd_outbox_pending_count 3
realchat_chatd_other 7.5
";
const RELAY: &str = "realchat_relay_relayed_total{topic=\"t\"} 86
realchat_relay_relayed_total{topic=\"u\"} 10
realchat_relay_dead_lettered_total{topic=\"t\"} 1
";
const GATEWAY: &str = "realchat_gateway_records_consumed_total{topic=\"t\"} 90
realchat_gateway_records_consumed_total{topic=\"u\"} 10
realchat_gateway_records_consumed_total{topic=\"presence\"} 5
realchat_gateway_recipients_mailed_total 200
realchat_gateway_recipients_reached_total 150
realchat_gateway_events_no_session_total 50
realchat_gateway_events_enqueued_total 160
realchat_gateway_events_written_total 158
realchat_gateway_events_shed_total 2
realchat_gateway_send_queue_depth 1
";

fn reading(texts: [&str; 3]) -> Reading {
    let names = ["chatd", "relay", "gateway-1"];
    let counts = names.into_iter().zip(texts);
    let daemons = counts.map(|(name, text)| (name.to_owned(), Counts::parse(text))).collect();
    Reading { daemons }
}

fn unaccounted(reading: &Reading) -> Vec<(String, u64)> {
    let stages = reading.stages();
    let lost = stages.iter().filter(|it| it.unaccounted > 0);
    lost.map(|it| (it.stage.clone(), it.unaccounted)).collect()
}

#[test]
fn what_balances_is_accounted_for() {
    let reading = reading([CHATD, RELAY, GATEWAY]);
    assert_eq!(unaccounted(&reading), []);
    let stages = reading.stages();
    let names: Vec<&str> = stages.iter().map(|it| it.stage.as_str()).collect();
    let expected =
        ["committed", "gateway-1 t", "gateway-1 u", "gateway-1 recipients", "gateway-1 sessions"];
    assert_eq!(names, expected);
    assert_eq!((stages[1].entered, stages[1].again), (86, 4), "four came twice");
    assert_eq!(stages[4].left["ended_before"], 1);
}

#[test]
fn what_is_missing_at_any_stage_is_told_of() {
    let less = |text: &str, from: &str, to: &str| {
        assert!(text.contains(from));
        text.replace(from, to)
    };
    let relay = less(RELAY, "{topic=\"t\"} 86", "{topic=\"t\"} 84");
    assert_eq!(unaccounted(&reading([CHATD, &relay, GATEWAY])), [("committed".into(), 2)]);
    let gateway = less(GATEWAY, "{topic=\"u\"} 10", "{topic=\"u\"} 9");
    assert_eq!(unaccounted(&reading([CHATD, RELAY, &gateway])), [("gateway-1 u".into(), 1)]);
    let gateway = less(GATEWAY, "no_session_total 50", "no_session_total 43");
    let recipients = [("gateway-1 recipients".to_owned(), 7)];
    assert_eq!(unaccounted(&reading([CHATD, RELAY, &gateway])), recipients);
}

#[test]
fn only_what_came_since_counts_and_a_restart_is_noticed() {
    let before = reading([
        "realchat_chatd_ledger_committed_total{topic=\"t\"} 20\nrealchat_chatd_outbox_pending_count 9",
        "realchat_relay_relayed_total{topic=\"t\"} 5",
        "",
    ]);
    let now = reading([CHATD, RELAY, GATEWAY]);
    let since = now.since(&before).unwrap();
    // 80 committed; 91 relayed, 1 dead and 3 waiting: nothing is missing.
    let stage = since.stages().remove(0);
    assert_eq!((stage.entered, stage.left["waiting"], stage.again), (80, 3, 15));
    assert_eq!(before.since(&now), Err("chatd".to_owned()));
    let text = serde_json::to_string(&now).unwrap();
    assert_eq!(serde_json::from_str::<Reading>(&text).unwrap(), now);
}
