//! The bookkeeping of large conversations: single rules, and a seeded simulation.

use super::*;
use crate::limits::HELD_MS_MAX;
use std::collections::BTreeSet;

const A: Uuid = Uuid::from_u128(1);
const SHARDS: usize = 3;

fn home(user: &Uuid) -> u16 {
    u16::try_from(user.as_u128() % 3).unwrap()
}

fn ids(range: std::ops::RangeInclusive<u128>) -> Vec<Uuid> {
    range.map(Uuid::from_u128).collect()
}

fn said(sequence_number: u64, member_count: usize) -> Incoming<u64> {
    Incoming {
        conversation: A,
        sequence_number,
        member_count,
        change: None,
        bytes: 100,
        record: sequence_number,
    }
}

fn changed(
    sequence_number: u64,
    member_count: usize,
    added: &[u128],
    removed: &[u128],
) -> Incoming<u64> {
    let ids = |ids: &[u128]| ids.iter().copied().map(Uuid::from_u128).collect();
    let change = Some(Change { added: ids(added), removed: ids(removed) });
    Incoming { change, ..said(sequence_number, member_count) }
}

fn take(large: &mut Large<u64>, incoming: Incoming<u64>) -> Vec<Action<u64>> {
    let mut actions = Vec::new();
    large.take(incoming, &home, 0, &mut actions).unwrap();
    actions
}

fn answer(large: &mut Large<u64>, number: u64, users: Vec<Uuid>) -> Vec<Action<u64>> {
    let mut actions = Vec::new();
    large.answered(A, number, users, &home, 0, &mut actions);
    actions
}

/// What was delivered, and to how many.
fn delivered(actions: &[Action<u64>]) -> Vec<(u64, usize)> {
    let all = actions.iter().map(|action| match action {
        Action::Deliver(number, roster) => (*number, roster.members()),
        other => panic!("{other:?}"),
    });
    all.collect()
}

fn hold(sequence_number: u64) -> Action<u64> {
    Action::Hold(Place { conversation: A, sequence_number })
}

/// One that knows the 2,000 members of A, up to event 10.
fn ready() -> Large<u64> {
    let mut large = Large::new(SHARDS);
    assert_eq!(take(&mut large, said(10, 2_000)), [Action::Ask(A, 10), hold(10)]);
    assert_eq!(delivered(&answer(&mut large, 10, ids(1..=2_000))), [(10, 2_000)]);
    large
}

#[test]
fn records_wait_in_order_until_the_members_are_known() {
    let mut large = Large::new(SHARDS);
    assert!(!large.knows(&A));
    assert_eq!(take(&mut large, said(5, 1_500)), [Action::Ask(A, 5), hold(5)]);
    assert!(large.knows(&A) && large.is_waiting());
    assert_eq!(take(&mut large, said(6, 1_500)), [hold(6)]);
    assert_eq!(take(&mut large, changed(7, 1_500, &[], &[3])), [hold(7)]);
    assert_eq!(take(&mut large, said(8, 1_499)), [hold(8)]);
    assert_eq!(large.held_records(), 4);
    assert!(answer(&mut large, 4, ids(1..=9)).is_empty(), "not what was asked");
    // That answer was for nothing that is awaited; the awaited one still comes.
    assert_eq!(large.held_records(), 4);
    let actions = answer(&mut large, 5, ids(1..=1_500));
    assert_eq!(delivered(&actions), [(5, 1_500), (6, 1_500), (7, 1_500), (8, 1_499)]);
    assert!(!large.is_waiting() && large.held_records() == 0 && large.held_bytes == 0);
    assert_eq!(delivered(&take(&mut large, said(9, 1_499))), [(9, 1_499)]);
}

#[test]
fn who_goes_is_told_of_it_and_of_nothing_after_and_who_comes_of_nothing_before() {
    let mut large = ready();
    let goes = take(&mut large, changed(11, 2_000, &[], &[7]));
    let after = take(&mut large, said(12, 1_999));
    let comes = take(&mut large, changed(13, 2_001, &[9_001, 9_002], &[]));
    let is_told = |actions: &[Action<u64>], user: u128| match &actions[0] {
        Action::Deliver(_, roster) => {
            roster.parts(100).any(|(_, users)| users.contains(&Uuid::from_u128(user)))
        }
        other => panic!("{other:?}"),
    };
    assert!(is_told(&goes, 7) && !is_told(&after, 7) && !is_told(&comes, 7));
    assert!(!is_told(&after, 9_001) && is_told(&comes, 9_001));
}

#[test]
fn who_are_members_is_known_between_two_events_and_never_while_they_are_asked_for() {
    let mut large = Large::new(SHARDS);
    assert_eq!(large.roster(&A), None);
    take(&mut large, said(10, 2_000));
    assert_eq!(large.roster(&A), None, "they are being asked for");
    answer(&mut large, 10, ids(1..=2_000));
    assert_eq!(large.roster(&A).map(Roster::members), Some(2_000));
    take(&mut large, changed(11, 2_000, &[], &[7]));
    let after = large.roster(&A).unwrap();
    let is_told = |user| after.parts(100).any(|(_, users)| users.contains(&Uuid::from_u128(user)));
    assert!(!is_told(7) && is_told(8), "whoever went is told of nothing more");
    take(&mut large, said(13, 1_999));
    assert_eq!(large.roster(&A), None, "an event is missing");
}

#[test]
fn what_comes_twice_changes_nothing() {
    let mut large = ready();
    delivered(&take(&mut large, changed(11, 2_001, &[9_001], &[])));
    delivered(&take(&mut large, changed(12, 2_001, &[], &[9_001])));
    assert_eq!(take(&mut large, changed(11, 2_001, &[9_001], &[])), [Action::Skip(11)]);
    assert_eq!(delivered(&take(&mut large, said(13, 2_000))), [(13, 2_000)]);
}

#[test]
fn a_hole_or_a_count_that_differs_is_asked_about() {
    let mut large = ready();
    assert_eq!(take(&mut large, said(12, 2_000)), [Action::Ask(A, 12), hold(12)]);
    delivered(&answer(&mut large, 12, ids(1..=2_000)));
    assert_eq!(take(&mut large, said(13, 1_999)), [Action::Ask(A, 13), hold(13)]);
    // Of a user who left and came back, chatd knows the later time alone.
    assert_eq!(delivered(&answer(&mut large, 13, ids(1..=1_998))), [(13, 1_998)]);
}

#[test]
fn a_conversation_that_shrank_names_its_recipients_itself() {
    let mut large = ready();
    assert_eq!(take(&mut large, said(11, 0)), [Action::DeliverNamed(11)]);
    assert!(!large.knows(&A) && large.bytes() == 0);
    assert_eq!(take(&mut large, said(12, 1_025)), [Action::Ask(A, 12), hold(12)]);
    assert_eq!(take(&mut large, said(13, 0)), [hold(13)], "the order stays");
    let actions = answer(&mut large, 12, ids(1..=1_025));
    assert!(matches!(actions[..], [Action::Deliver(12, _), Action::DeliverNamed(13)]));
}

#[test]
fn what_waits_too_long_becomes_a_gap_that_is_told_once_it_is_known_to_whom() {
    let mut large = Large::new(SHARDS);
    take(&mut large, said(5, 2_000));
    take(&mut large, said(6, 2_000));
    let mut actions = Vec::new();
    large.tick(HELD_MS_MAX - 1, &mut actions);
    assert!(actions.is_empty());
    large.tick(HELD_MS_MAX, &mut actions);
    assert_eq!(actions, [Action::Shed(5), Action::Shed(6)]);
    assert_eq!(take(&mut large, said(7, 2_000)), [hold(7)]);
    let tell = |actions: &[Action<u64>]| match &actions[0] {
        Action::Tell { conversation: A, from, to, roster } => (*from, *to, roster.members()),
        other => panic!("{other:?}"),
    };
    let actions = answer(&mut large, 5, ids(1..=2_000));
    assert_eq!((tell(&actions), &actions[1..]), ((5, 6, 2_000), &[Action::Ask(A, 6)][..]));
    // Who came with event 6 is told, too.
    let actions = answer(&mut large, 6, ids(1..=2_001));
    assert_eq!((tell(&actions), &actions[1..]), ((5, 6, 2_001), &[Action::Ask(A, 7)][..]));
    assert_eq!(delivered(&answer(&mut large, 7, ids(1..=2_001))), [(7, 2_001)]);
}

#[test]
fn what_waits_is_bounded_by_number_and_bytes() {
    let mut large = Large::new(SHARDS);
    for number in 1..=HELD_RECORDS_MAX as u64 {
        assert!(!take(&mut large, said(number, 2_000)).iter().any(is_shed));
    }
    let actions = take(&mut large, said(HELD_RECORDS_MAX as u64 + 1, 2_000));
    assert_eq!(actions.iter().filter(|it| is_shed(it)).count(), HELD_RECORDS_MAX + 1);
    assert_eq!((large.held_records(), large.held_bytes), (0, 0));
    let big = Incoming { bytes: HELD_BYTES_MAX - HELD_RECORD_BYTES, ..said(5_000, 2_000) };
    assert!(!take(&mut large, big.clone()).iter().any(is_shed), "just fits");
    let mut actions = Vec::new();
    large.tick(HELD_MS_MAX, &mut actions);
    let big = Incoming { bytes: big.bytes + 1, sequence_number: 5_001, ..big };
    assert!(take(&mut large, big).iter().any(is_shed), "one byte more");
    assert_eq!(large.held_bytes, 0);
}

fn is_shed(action: &Action<u64>) -> bool {
    matches!(action, Action::Shed(_))
}

#[test]
fn the_members_that_are_remembered_are_bounded_and_the_least_used_make_way() {
    let mut large = ready();
    large.bytes_max = 5 * large.bytes();
    for conversation in 2..20 {
        let conversation = Uuid::from_u128(conversation);
        let incoming = Incoming { conversation, ..said(1, 2_000) };
        let mut actions = take(&mut large, incoming);
        large.answered(conversation, 1, ids(1..=2_000), &home, 0, &mut actions);
        assert!(matches!(actions.last(), Some(Action::Deliver(1, _))), "{actions:?}");
        assert!(large.bytes() <= large.bytes_max);
        let next = 9 + u64::try_from(conversation.as_u128()).unwrap();
        delivered(&take(&mut large, said(next, 2_000)));
    }
    assert_eq!((large.known.len(), large.by_use.len()), (5, 5));
    let last: Vec<u128> = large.by_use.values().map(Uuid::as_u128).collect();
    assert_eq!(last, [16, 17, 18, 19, 1]);
    let one = large.bytes() / 5;
    large.bytes_max = one / 2;
    assert_eq!(delivered(&take(&mut large, said(29, 2_000))), [(29, 2_000)], "one always fits");
    assert_eq!(large.known.len(), 1);
}

#[test]
fn too_many_lists_are_not_asked_for() {
    let mut large = Large::new(SHARDS);
    let mut actions = Vec::new();
    for number in 0..ROSTERS_ASKED_MAX as u128 {
        let conversation = Uuid::from_u128(number);
        let incoming = Incoming { conversation, ..said(1, 2_000) };
        assert!(large.take(incoming, &home, 0, &mut actions).is_ok());
    }
    let incoming = Incoming { conversation: Uuid::max(), ..said(1, 2_000) };
    assert_eq!(large.take(incoming, &home, 0, &mut actions), Err(TooMany));
}

/// Whatever joins, leaves, repeats, is missing or late: an event goes to exactly those who were
/// members at its number, in order, or they are told that they were not pushed it.
#[test]
fn everybody_gets_every_event_or_is_told_for_any_seed() {
    for seed in 0..1_000 {
        Story::new(seed).run().check();
    }
}

type Users = BTreeSet<u128>;

struct Story {
    seed: u64,
    random: fastrand::Rng,
    large: Large<u64>,
    log: Vec<Incoming<u64>>,
    /// Who receives event n is at n.
    truth: Vec<Users>,
    now_ms: u64,
    /// Events that were read.
    at: usize,
    asked: Vec<u64>,
    missing: BTreeSet<u64>,
    seen: Vec<u64>,
    told: Vec<(u64, u64, Users)>,
}

impl Story {
    /// Nobody comes again: chatd forgets the earlier time then.
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut members: Users = (1..=30).collect();
        let (mut truth, mut log) = (vec![Users::new()], Vec::new());
        for number in 1..=60_u64 {
            let (mut added, mut removed) = (Vec::new(), Vec::new());
            match random.u8(0..4) {
                0 => added.push(100 + u128::from(number)),
                1 => removed.extend(members.iter().nth(random.usize(0..members.len())).copied()),
                _ => {}
            }
            members.extend(&added);
            truth.push(members.clone());
            log.push(changed(number, members.len(), &added, &removed));
            members.retain(|it| !removed.contains(it));
        }
        let large = Large::new(SHARDS);
        let (asked, missing, seen, told) = (Vec::new(), BTreeSet::new(), Vec::new(), Vec::new());
        Self { seed, random, large, log, truth, now_ms: 0, at: 0, asked, missing, seen, told }
    }

    fn run(mut self) -> Self {
        while self.at < self.log.len() || !self.asked.is_empty() {
            let mut actions = Vec::new();
            self.step(&mut actions);
            for action in actions {
                self.act(action);
            }
        }
        self
    }

    fn step(&mut self, actions: &mut Vec<Action<u64>>) {
        match self.random.u8(0..10) {
            0 if !self.asked.is_empty() => {
                let number = self.asked.remove(0);
                let users = self.truth[usize::try_from(number).unwrap()].iter();
                let users = users.copied().map(Uuid::from_u128).collect();
                self.large.answered(A, number, users, &home, self.now_ms, actions);
            }
            1 => {
                self.now_ms += HELD_MS_MAX / 3;
                self.large.tick(self.now_ms, actions);
            }
            // Published twice.
            2 if self.large.knows(&A) && !self.large.is_waiting() => {
                let again = self.log[self.random.usize(0..self.at)].clone();
                if !self.missing.contains(&again.sequence_number) {
                    self.large.take(again, &home, self.now_ms, actions).unwrap();
                    let is_skipped = matches!(actions[..], [Action::Skip(_)]);
                    assert!(is_skipped, "{actions:?}, seed {}", self.seed);
                }
            }
            3 if self.at > 0 && self.at + 1 < self.log.len() && self.random.u8(0..4) == 0 => {
                self.missing.insert(self.log[self.at].sequence_number);
                self.at += 1;
            }
            4..10 if self.at < self.log.len() => {
                let next = self.log[self.at].clone();
                self.large.take(next, &home, self.now_ms, actions).unwrap();
                self.at += 1;
            }
            _ => {}
        }
    }

    fn act(&mut self, action: Action<u64>) {
        let users = |roster: &Roster| -> Users {
            roster.parts(4).flat_map(|(_, it)| it.to_vec()).map(|it| it.as_u128()).collect()
        };
        match action {
            Action::Deliver(number, roster) => {
                let expected = &self.truth[usize::try_from(number).unwrap()];
                assert_eq!(&users(&roster), expected, "event {number}, seed {}", self.seed);
                self.seen.push(number);
            }
            Action::Tell { from, to, roster, .. } => self.told.push((from, to, users(&roster))),
            Action::Ask(_, number) => self.asked.push(number),
            Action::DeliverNamed(_) => panic!("none names its recipients, seed {}", self.seed),
            Action::Hold(_) | Action::Skip(_) | Action::Shed(_) => {}
        }
    }

    fn check(self) {
        let Self { seed, seen, missing, told, truth, .. } = self;
        assert!(seen.is_sorted_by(|a, b| a < b), "{seen:?}, seed {seed}");
        for number in (1..=60_u64).filter(|it| !missing.contains(it) && !seen.contains(it)) {
            let gaps: Vec<_> =
                told.iter().filter(|(from, to, _)| (*from..=*to).contains(&number)).collect();
            let users: Users = gaps.iter().flat_map(|it| it.2.iter().copied()).collect();
            let first = gaps.iter().map(|it| it.0).min().unwrap_or(number);
            let last = gaps.iter().map(|it| it.1).max().unwrap_or(number);
            let at = |number: u64| &truth[usize::try_from(number).unwrap()];
            for user in
                at(number).iter().filter(|it| at(first).contains(it) || at(last).contains(it))
            {
                assert!(users.contains(user), "{user} is not told of {number}, seed {seed}");
            }
        }
    }
}
