use super::*;

const LEASE_MS: u64 = 1_000;

fn record(id: i64) -> Record {
    let topic = proto::topics::MESSAGE_CREATED.to_owned();
    Record { id, topic, key: vec![1; 16], ..Record::default() }
}

fn begin(rounds: &mut Rounds) -> Vec<Action> {
    rounds.step(0, Event::Begun { grants: vec![(0, 7)] })
}

/// Publishes these records; the outcomes' actions without what is told.
fn publish(rounds: &mut Rounds, records: Vec<Record>, outcomes: Vec<Outcome>) -> Vec<Action> {
    let read = Event::Read { records, valid_until_ms: Some(LEASE_MS), wall_ms: 5 };
    let publish = Action::Publish { send_by_ms: 280, acked_by_ms: 650 };
    assert_eq!(rounds.step(0, read), [publish]);
    let mut actions = rounds.step(100, Event::Published { outcomes });
    actions.retain(|it| !matches!(it, Action::Tell(_)));
    actions
}

fn marks(token: Token, ids: &[i64]) -> Marks {
    let rows = ids.iter().map(|id| record(*id).row()).collect();
    Marks::from([(0, (token, rows))])
}

#[test]
fn a_wave_is_marked_only_as_far_as_the_broker_has_it() {
    let mut rounds = Rounds::new(LEASE_MS, 8);
    assert_eq!(begin(&mut rounds), [Action::Read { rows_max: 8 }]);
    let stalled = Outcome::Stalled("slow".into());
    let outcomes = vec![Outcome::Acked(0), stalled, Outcome::Acked(0)];
    let actions = publish(&mut rounds, vec![record(1), record(2), record(3)], outcomes);
    assert_eq!(actions, [Action::Mark(marks(7, &[1]))]);
    let actions = rounds.step(110, Event::Marked { deleted: 1 });
    assert_eq!(actions.last(), Some(&Action::Done(Done::Stalled("slow".into()))));
    assert_eq!(begin(&mut rounds), [Action::ReadLog]);
    let unsure: Vec<i64> = rounds.doubt().unwrap().records.iter().map(|it| it.id).collect();
    assert_eq!(unsure, [2, 3]);
}

#[test]
fn marks_that_failed_come_first_in_the_next_round_and_not_under_a_lost_lease() {
    let mut rounds = Rounds::new(LEASE_MS, 8);
    begin(&mut rounds);
    let actions = publish(&mut rounds, vec![record(1)], vec![Outcome::Acked(0)]);
    assert_eq!(actions, [Action::Mark(marks(7, &[1]))]);
    assert_eq!(begin(&mut rounds), [Action::Mark(marks(7, &[1]))]);
    let actions = rounds.step(0, Event::Begun { grants: vec![(1, 9)] });
    assert_eq!(actions, [Action::Tell(Fact::Unmarked(1)), Action::Read { rows_max: 8 }]);
}

#[test]
fn a_refused_mark_puts_the_grants_in_doubt() {
    let mut rounds = Rounds::new(LEASE_MS, 8);
    begin(&mut rounds);
    publish(&mut rounds, vec![record(1), record(2)], vec![Outcome::Acked(0), Outcome::Acked(0)]);
    let actions = rounds.step(0, Event::Marked { deleted: 1 });
    assert!(actions.contains(&Action::DoubtGrants), "{actions:?}");
    assert_eq!(actions.last(), Some(&Action::Done(Done::Busy)));
}

#[test]
fn no_wave_is_begun_that_the_lease_may_not_outlast() {
    let mut rounds = Rounds::new(LEASE_MS, 8);
    let read =
        |valid_until_ms| Event::Read { records: vec![record(1)], valid_until_ms, wall_ms: 0 };
    for ended in [None, Some(0), Some(720)] {
        begin(&mut rounds);
        assert_eq!(rounds.step(0, read(ended)), [Action::Done(Done::Busy)], "{ended:?}");
    }
    begin(&mut rounds);
    assert!(matches!(rounds.step(0, read(Some(721)))[..], [Action::Publish { .. }]));
}

#[test]
fn a_slow_broker_is_given_less_and_then_more_again() {
    let mut rounds = Rounds::new(LEASE_MS, 8);
    for expected in [4, 2, 1, 1] {
        begin(&mut rounds);
        publish(&mut rounds, vec![record(1)], vec![Outcome::Stalled("slow".into())]);
        begin(&mut rounds);
        let actions = rounds.step(0, Event::LogRead(Ok(())));
        assert_eq!(actions.last(), Some(&Action::Read { rows_max: expected }));
    }
    for expected in [2, 4, 8, 8] {
        publish(&mut rounds, vec![record(1)], vec![Outcome::Acked(0)]);
        rounds.step(0, Event::Marked { deleted: 1 });
        assert_eq!(begin(&mut rounds), [Action::Read { rows_max: expected }]);
    }
}

#[test]
fn a_log_that_cannot_be_read_is_asked_again_and_then_given_up() {
    let mut rounds = Rounds::new(LEASE_MS, 8);
    begin(&mut rounds);
    publish(&mut rounds, vec![record(1)], vec![Outcome::Stalled("slow".into())]);
    for _ in 1..DOUBT_TRIES_MAX {
        assert_eq!(begin(&mut rounds), [Action::ReadLog]);
        let actions = rounds.step(0, Event::LogRead(Err("away".into())));
        assert_eq!(actions, [Action::Done(Done::Stalled("away".into()))]);
    }
    begin(&mut rounds);
    let actions = rounds.step(0, Event::LogRead(Err("away".into())));
    assert_eq!(actions[0], Action::Tell(Fact::Unseen(1, "away".into())));
    assert_eq!(actions.last(), Some(&Action::Read { rows_max: 4 }));
}
