use super::*;
use proto::Message;
use proto::client::event::Kind;
use proto::client::server_frame::Frame;
use proto::client::{Event, MembershipChanged, ServerFrame};

const ALICE: Uuid = Uuid::from_u128(1);
const BOB: Uuid = Uuid::from_u128(2);
const A: Uuid = Uuid::from_u128(10);
const B: Uuid = Uuid::from_u128(11);

fn delivery(conversation: Uuid, sequence_number: u64, offset: i64, users: &[Uuid]) -> Delivery {
    Delivery {
        recipients: Recipients::Own(users.into()),
        frame: Bytes::from(vec![u8::try_from(sequence_number).unwrap(); 100]),
        conversation,
        sequence_number,
        priority: crate::mail::Priority::Normal,
        lane: crate::metrics::Lane::NONE,
        created_at_us: 0,
        partition: u16::from(conversation == B),
        offset,
        membership: false,
    }
}

/// Some of its recipients join with it.
fn joining(
    conversation: Uuid,
    sequence_number: u64,
    offset: i64,
    added: &[Uuid],
    users: &[Uuid],
) -> Delivery {
    let added_user_ids = added.iter().map(|id| id.as_bytes().to_vec()).collect();
    let change = MembershipChanged { added_user_ids, ..MembershipChanged::default() };
    let kind = Some(Kind::MembershipChanged(change));
    let frame = Some(Frame::Event(Event { sequence_number, kind, ..Event::default() }));
    let frame = ServerFrame { request_id: 0, frame }.encode_to_vec().into();
    let delivery = delivery(conversation, sequence_number, offset, users);
    Delivery { frame, membership: true, ..delivery }
}

fn cursor(conversation: Uuid, sequence_number: u64) -> Cursor {
    Cursor { conversation_id: conversation.as_bytes().to_vec(), sequence_number }
}

fn numbers(found: Option<(Vec<Missed>, Vec<Verdict>)>) -> Option<Vec<(Uuid, u64)>> {
    let (missed, _) = found?;
    Some(missed.iter().map(|it| (it.conversation, it.sequence_number)).collect())
}

fn started() -> Recent {
    let mut recent = Recent::new(1 << 20);
    assert!(recent.watermark().is_empty());
    recent.advance(7, &[(0, 100), (1, 50)], false);
    recent
}

#[test]
fn a_device_gets_what_came_since_its_watermark_and_beyond_its_cursors() {
    let mut recent = started();
    let watermark = recent.watermark();
    for number in 1..=5 {
        recent.add(delivery(A, number, 100 + i64::try_from(number).unwrap(), &[ALICE, BOB]));
    }
    recent.add(delivery(B, 9, 50, &[BOB]));
    let since = |user, cursors: &[Cursor]| numbers(recent.since(user, &watermark, cursors, 10));
    assert_eq!(since(&ALICE, &[cursor(A, 3)]), Some(vec![(A, 4), (A, 5)]));
    assert_eq!(since(&ALICE, &[cursor(A, 5)]), Some(vec![]));
    assert_eq!(since(&ALICE, &[cursor(A, 5), cursor(B, 8)]), Some(vec![]), "not a recipient");
    assert_eq!(since(&BOB, &[cursor(B, 8)]), Some(vec![(B, 9)]));
    assert_eq!(since(&BOB, &[cursor(B, 7)]), None, "a hole");
    assert_eq!(since(&BOB, &[cursor(B, 8), cursor(B, 8)]), None, "named twice");
    assert_eq!(since(&ALICE, &[cursor(A, 6)]), None, "of the future");
    assert!(recent.since(&ALICE, &watermark, &[cursor(A, 0)], 5).is_some());
    assert!(recent.since(&ALICE, &watermark, &[cursor(A, 0)], 4).is_none(), "too many");
    let (_, verdicts) = recent.since(&BOB, &watermark, &[cursor(B, 8)], 10).unwrap();
    assert_eq!(verdicts[0].complete_to_sequence_number, 8);
    assert!(recent.since(&BOB, &recent.watermark(), &[cursor(A, 5)], 10).is_some());
}

#[test]
fn a_watermark_of_another_log_of_before_the_cache_or_of_the_future_is_not_answered() {
    let mut recent = started();
    let known = |log, offsets: &[i64], recent: &Recent| {
        recent.since(&ALICE, &Watermark::encode(log, offsets), &[], 10).is_some()
    };
    assert!(known(7, &[100, 50], &recent));
    assert!(!known(8, &[100, 50], &recent));
    assert!(!known(7, &[99, 50], &recent));
    assert!(!known(7, &[101, 50], &recent));
    assert!(!known(7, &[100], &recent));
    assert!(recent.since(&ALICE, b"", &[], 10).is_none());
    recent.advance(7, &[(0, 200)], false);
    assert!(known(7, &[100, 50], &recent) && known(7, &[200, 50], &recent));
    recent.advance(7, &[(0, 300)], true);
    assert!(!known(7, &[200, 50], &recent) && known(7, &[300, 50], &recent));
}

#[test]
fn a_conversation_that_the_device_does_not_know_is_told_from_its_first_event() {
    let mut recent = started();
    let watermark = recent.watermark();
    recent.add(delivery(A, 6, 100, &[BOB]));
    recent.add(joining(A, 7, 101, &[ALICE], &[ALICE, BOB]));
    recent.add(delivery(A, 8, 102, &[ALICE, BOB]));
    let found = recent.since(&ALICE, &watermark, &[], 10).unwrap();
    assert_eq!(found.1[0].complete_to_sequence_number, 6);
    assert_eq!(numbers(Some(found)), Some(vec![(A, 7), (A, 8)]));
    let later = recent.watermark();
    assert_eq!(numbers(recent.since(&ALICE, &later, &[], 10)), Some(vec![]));
}

#[test]
fn a_conversation_of_which_the_device_should_have_known_is_left_to_chatd() {
    let mut recent = started();
    let watermark = recent.watermark();
    recent.add(joining(A, 7, 100, &[BOB], &[ALICE, BOB]));
    assert!(recent.since(&ALICE, &watermark, &[], 10).is_none());
    assert!(recent.since(&ALICE, &watermark, &[cursor(A, 6)], 10).is_some());
    assert!(recent.since(&BOB, &watermark, &[], 10).is_some());
}

#[test]
fn the_oldest_make_way_and_leave_nothing_behind() {
    let entry = RECENT_ENTRY_BYTES + 100 + 16;
    let mut recent = Recent::new(3 * entry);
    recent.advance(7, &[(0, 0), (1, 0)], false);
    let start = recent.watermark();
    for number in 1..=3 {
        recent.add(delivery(A, number, i64::try_from(number).unwrap(), &[ALICE]));
    }
    assert_eq!(recent.bytes(), 3 * entry);
    assert!(recent.since(&ALICE, &start, &[cursor(A, 0)], 10).is_some());
    recent.add(delivery(B, 1, 1, &[ALICE]));
    assert_eq!(recent.bytes(), 3 * entry);
    assert!(recent.since(&ALICE, &start, &[cursor(A, 0)], 10).is_none());
    let reaching = Watermark::encode(7, &[2, 0]);
    let found = recent.since(&ALICE, &reaching, &[cursor(A, 1), cursor(B, 0)], 10);
    assert_eq!(found.unwrap().0.len(), 3);
    for number in 2..=4 {
        recent.add(delivery(B, number, i64::try_from(number).unwrap(), &[ALICE]));
    }
    assert_eq!((recent.last.len(), recent.entries.len()), (1, 3));
    recent.add(delivery(B, 4, 4, &[ALICE]));
    assert_eq!(recent.entries.len(), 3, "one that comes again is there already");
}

/// A device that goes and comes back at random, by one seed: what the cache answers is exactly what
/// the device has missed, or it answers nothing.
#[test]
fn what_is_answered_is_what_was_missed_for_any_seed() {
    for seed in 0..500 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut recent = Recent::new(random.usize(500..6_000));
        recent.advance(7, &[(0, 0), (1, 0)], false);
        let (mut last, mut offsets) = ([0_u64; 2], [0_i64; 2]);
        let (mut seen, mut watermark) = ([0_u64; 2], recent.watermark());
        for _ in 0..200 {
            let index = random.usize(0..2);
            if random.u8(0..10) > 0 {
                last[index] += 1;
                offsets[index] += random.i64(1..3);
                let number = last[index];
                let event = Delivery {
                    frame: Bytes::from_static(&[0; 50]),
                    ..delivery([A, B][index], 1, 0, &[ALICE])
                };
                let offset = offsets[index];
                recent.add(Delivery { sequence_number: number, offset, ..event });
                continue;
            }
            let cursors = [cursor(A, seen[0]), cursor(B, seen[1])];
            if let Some((missed, _)) = recent.since(&ALICE, &watermark, &cursors, 1_000) {
                for (at, conversation) in [A, B].into_iter().enumerate() {
                    let of: Vec<_> = missed
                        .iter()
                        .filter(|it| it.conversation == conversation)
                        .map(|it| it.sequence_number)
                        .collect();
                    assert_eq!(of, (seen[at] + 1..=last[at]).collect::<Vec<_>>(), "seed {seed}");
                }
            }
            (seen, watermark) = (last, recent.watermark());
        }
    }
}

#[test]
fn what_may_come_late_is_not_claimed_before_it_came() {
    let mut recent = started();
    recent.late(0, Some(100));
    recent.add(delivery(B, 1, 60, &[ALICE]));
    recent.add(Delivery { partition: 0, ..delivery(B, 2, 105, &[ALICE]) });
    assert_eq!(recent.watermark(), Watermark::encode(7, &[100, 61]));
    let watermark = recent.watermark();
    recent.add(delivery(A, 1, 100, &[ALICE]));
    recent.late(0, None);
    assert_eq!(recent.watermark(), Watermark::encode(7, &[106, 61]));
    let since = numbers(recent.since(&ALICE, &watermark, &[cursor(A, 0)], 10));
    assert_eq!(since, Some(vec![(A, 1)]));
}

#[test]
fn recipients_that_events_share_are_counted_once_and_until_the_last_is_forgotten() {
    let all: std::sync::Arc<[Uuid]> = (1..=1_000).map(Uuid::from_u128).collect();
    let part = |from, to| Recipients::Shared { all: all.clone(), from, to };
    let shared = |number: u64| Delivery {
        recipients: part(0, 10),
        ..delivery(A, number, 99 + i64::try_from(number).unwrap(), &[])
    };
    let mut recent = started();
    recent.add(shared(1));
    let one = recent.bytes();
    assert!(one > 16_000);
    recent.add(shared(2));
    assert!(recent.bytes() - one < 1_000);
    let found =
        recent.since(&Uuid::from_u128(900), &Watermark::encode(7, &[100, 50]), &[cursor(A, 0)], 10);
    assert_eq!(numbers(found), Some(vec![(A, 1), (A, 2)]), "who is in another part");
    let mut recent = Recent::new(one + 100);
    recent.advance(7, &[(0, 100)], false);
    for number in 1..=20 {
        recent.add(shared(number));
        assert!(recent.bytes() <= one + 100);
    }
    assert_eq!(recent.bytes(), one);
    recent.add(Delivery { recipients: Recipients::Own(Box::default()), ..shared(21) });
    assert!(recent.bytes() < 1_000 && recent.shared.is_empty());
}

#[test]
fn so_many_changes_of_membership_are_remembered_and_then_the_oldest_events_go() {
    let mut recent = Recent::new(1 << 30);
    recent.advance(7, &[(0, 100), (1, 50)], false);
    let from_the_first = recent.watermark();
    let change = |number: usize| Delivery {
        sequence_number: number as u64,
        membership: true,
        ..delivery(A, 1, 99 + i64::try_from(number).unwrap(), &[ALICE])
    };
    for number in 1..=RECENT_MEMBERSHIPS_MAX {
        recent.add(change(number));
    }
    let missed = |recent: &Recent| {
        numbers(recent.since(&ALICE, &from_the_first, &[cursor(A, 0)], usize::MAX))
    };
    assert_eq!(missed(&recent).map(|it| it.len()), Some(RECENT_MEMBERSHIPS_MAX));
    recent.add(change(RECENT_MEMBERSHIPS_MAX + 1));
    assert_eq!(missed(&recent), None);
}
