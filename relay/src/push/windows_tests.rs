//! Tests of the rules: what is asked for, and what may be committed.

use super::windows::{Action, Audience, Bounds, Event, Message, Need, Place, Request, Windows};
use crate::limits::{PUSH_SENDERS_MAX, PUSH_WINDOWS_MAX};
use proto::Uuid;
use std::collections::{BTreeMap, BTreeSet};

const WINDOW_MS: u64 = 5_000;

fn windows(windows_max: usize) -> Windows {
    Windows::new(Bounds { window_ms: WINDOW_MS, windows_max, senders_max: PUSH_SENDERS_MAX })
}

fn message(conversation: u128, sequence_number: u64) -> Message {
    Message {
        conversation_id: Uuid::from_u128(conversation),
        sender_id: Uuid::from_u128(1),
        message_id: Uuid::from_u128(u128::from(sequence_number)),
        sequence_number,
        created_at_us: sequence_number * 10,
        is_high: false,
        traceparent: String::new(),
    }
}

fn user(number: u128) -> Audience {
    Audience::User(Uuid::from_u128(number))
}

fn needs(audiences: &[Audience]) -> Vec<Need> {
    let need = |it: &Audience| Need { audience: *it, may_hurry: matches!(it, Audience::User(_)) };
    audiences.iter().map(need).collect()
}

fn read(offset: i64, message: Message, audiences: &[Audience]) -> Event {
    let place = Place { partition: 0, offset };
    Event::Read { place, message: Some((message, needs(audiences))) }
}

fn requests(actions: Vec<Action>) -> Vec<Request> {
    actions.into_iter().map(|Action::Request(request)| request).collect()
}

fn settle(windows: &mut Windows, requests: &[Request]) {
    let tickets = requests.iter().map(|it| it.ticket).collect();
    assert!(windows.step(0, Event::Settled(tickets)).is_empty());
}

fn offset(windows: &Windows) -> Option<i64> {
    windows.offsets().find(|(partition, _)| *partition == 0).map(|(_, offset)| offset)
}

#[test]
fn messages_of_a_window_become_one_request_when_it_ends() {
    let mut windows = windows(10);
    for (at_ms, number) in [(0, 4), (1_000, 5), (4_999, 9)] {
        let event = read(number, message(7, number.cast_unsigned()), &[user(2)]);
        assert!(windows.step(at_ms, event).is_empty());
    }
    assert_eq!(windows.next_due_ms(), Some(WINDOW_MS));
    assert!(windows.step(WINDOW_MS - 1, Event::Tick).is_empty());
    let ended = requests(windows.step(WINDOW_MS, Event::Tick));
    let [request] = &ended[..] else { panic!("{ended:?}") };
    let numbers = (request.message_count, request.first_sequence_number);
    assert_eq!((numbers, request.latest.sequence_number), ((3, 4), 9));
    assert_eq!(request.latest.message_id, Uuid::from_u128(9));
    assert_eq!((request.created_at_us, windows.coalesced()), (40, 2));
    // What comes now begins another window.
    windows.step(WINDOW_MS, read(10, message(7, 10), &[user(2)]));
    assert_eq!(windows.next_due_ms(), Some(2 * WINDOW_MS));
}

#[test]
fn users_and_conversations_have_windows_of_their_own() {
    let mut windows = windows(10);
    windows.step(0, read(0, message(7, 1), &[user(2), user(3)]));
    windows.step(0, read(1, message(8, 1), &[user(2)]));
    let ended = requests(windows.step(WINDOW_MS, Event::Tick));
    assert_eq!(ended.iter().map(|it| it.message_count).collect::<Vec<_>>(), [1, 1, 1]);
}

#[test]
fn a_message_of_high_priority_ends_its_window_at_once() {
    let mut windows = windows(10);
    windows.step(0, read(0, message(7, 1), &[user(2)]));
    for number in [2, 3] {
        // What is taken together is told together.
        let urgent = Message { is_high: true, ..message(7, number) };
        windows.step(1, read(number.cast_signed(), urgent, &[user(2)]));
    }
    assert_eq!(windows.next_due_ms(), Some(0));
    let ended = requests(windows.step(1, Event::Tick));
    assert_eq!((ended.len(), ended[0].message_count, ended[0].latest.is_high), (1, 3, true));
    let urgent = Message { is_high: true, ..message(7, 4) };
    windows.step(2, read(4, urgent, &[user(2)]));
    assert_eq!(requests(windows.step(2, Event::Tick))[0].message_count, 1);
    assert_eq!(windows.next_due_ms(), None);
}

#[test]
fn who_had_a_session_a_moment_ago_is_not_pushed_before_the_window_ends() {
    let mut windows = windows(10);
    let urgent = Message { is_high: true, ..message(7, 1) };
    let place = Place { partition: 0, offset: 0 };
    let need = Need { audience: user(2), may_hurry: false };
    windows.step(0, Event::Read { place, message: Some((urgent, vec![need])) });
    assert!(windows.step(1, Event::Tick).is_empty());
    // Now it is known to be without one.
    windows.step(2, read(1, Message { is_high: true, ..message(7, 2) }, &[user(2)]));
    assert_eq!(requests(windows.step(2, Event::Tick))[0].message_count, 2);
}

#[test]
fn a_message_that_comes_again_is_not_counted_again() {
    let mut windows = windows(10);
    for (offset, number) in [(0, 1), (1, 2), (2, 1), (3, 2)] {
        windows.step(0, read(offset, message(7, number), &[user(2)]));
    }
    assert_eq!(requests(windows.step(WINDOW_MS, Event::Tick))[0].message_count, 2);
    assert_eq!(windows.coalesced(), 1);
}

#[test]
fn only_what_nothing_needs_any_more_is_committed() {
    let mut windows = windows(10);
    assert_eq!(offset(&windows), None);
    windows.step(0, Event::Read { place: Place { partition: 0, offset: 4 }, message: None });
    assert_eq!(offset(&windows), Some(5), "nothing of interest is done with at once");
    windows.step(0, read(5, message(7, 1), &[user(2)]));
    windows.step(1, read(6, message(8, 1), &[user(2)]));
    windows.step(1, read(7, message(8, 2), &[]));
    assert_eq!(offset(&windows), Some(5));
    let first = requests(windows.step(WINDOW_MS, Event::Tick));
    let second = requests(windows.step(WINDOW_MS + 1, Event::Tick));
    assert_eq!((first.len(), second.len(), offset(&windows)), (1, 1, Some(5)));
    settle(&mut windows, &second);
    assert_eq!(offset(&windows), Some(5), "the one before is not settled");
    settle(&mut windows, &first);
    assert_eq!((offset(&windows), windows.pending()), (Some(8), 0));
}

#[test]
fn at_the_limit_of_windows_one_more_ends_the_oldest_and_loses_nothing() {
    let mut windows = windows(PUSH_WINDOWS_MAX);
    let most = i64::try_from(PUSH_WINDOWS_MAX).unwrap();
    for number in 0..most {
        let event = read(number, message(7, 1), &[user(100 + u128::from(number.cast_unsigned()))]);
        assert!(windows.step(0, event).is_empty());
    }
    let ended = requests(windows.step(1, read(most, message(7, 2), &[user(1)])));
    assert_eq!((ended.len(), ended[0].audience), (1, user(100)));
    assert_eq!(windows.pending(), PUSH_WINDOWS_MAX + 1);
    assert_eq!(offset(&windows), Some(0), "it is sent early, not forgotten");
    settle(&mut windows, &ended);
    assert_eq!(offset(&windows), Some(1));
    // A message of a window that is open needs no further one.
    assert!(windows.step(1, read(most + 1, message(7, 3), &[user(1)])).is_empty());
}

#[test]
fn a_large_conversation_has_one_window_and_only_one_such_ends_at_a_time() {
    let mut windows = windows(10);
    for (offset, conversation) in [(0, 7), (1, 8)] {
        windows.step(0, read(offset, message(conversation, 1), &[Audience::Members]));
    }
    let urgent = Message { is_high: true, sender_id: Uuid::from_u128(2), ..message(7, 2) };
    assert!(windows.step(1, read(2, urgent, &[Audience::Members])).is_empty());
    let first = requests(windows.step(WINDOW_MS, Event::Tick));
    assert_eq!((first.len(), first[0].message_count), (1, 2));
    assert_eq!(first[0].senders, BTreeSet::from([1, 2].map(Uuid::from_u128)));
    assert!(windows.step(2 * WINDOW_MS, Event::Tick).is_empty());
    settle(&mut windows, &first);
    let second = requests(windows.step(2 * WINDOW_MS, Event::Tick));
    assert_eq!(second[0].latest.conversation_id, Uuid::from_u128(8));
}

#[test]
fn a_members_window_remembers_so_many_senders_and_no_more() {
    let mut windows = windows(10);
    for number in 0..=PUSH_SENDERS_MAX as u64 {
        let sender_id = Uuid::from_u128(u128::from(number));
        let said = Message { sender_id, ..message(7, number + 1) };
        windows.step(0, read(number.cast_signed(), said, &[Audience::Members]));
        let held = windows.step(0, Event::Tick);
        assert!(held.is_empty());
    }
    let ended = requests(windows.step(WINDOW_MS, Event::Tick));
    assert_eq!(ended[0].senders.len(), PUSH_SENDERS_MAX);
    assert_eq!(ended[0].message_count as usize, PUSH_SENDERS_MAX + 1);
}

#[test]
fn a_partition_that_another_relay_reads_is_forgotten() {
    let mut windows = windows(10);
    windows.step(0, read(0, message(7, 1), &[user(2)]));
    let ended = requests(windows.step(WINDOW_MS, Event::Tick));
    windows.step(WINDOW_MS, read(1, message(8, 1), &[user(2)]));
    let place = Place { partition: 1, offset: 3 };
    let other = Some((message(9, 1), needs(&[user(2)])));
    windows.step(WINDOW_MS, Event::Read { place, message: other });
    assert!(windows.is_awaited(ended[0].ticket));
    windows.step(WINDOW_MS, Event::Lost(BTreeSet::from([0])));
    assert!(!windows.is_awaited(ended[0].ticket));
    assert_eq!(windows.offsets().collect::<Vec<_>>(), [(1, 3)]);
    settle(&mut windows, &ended);
    assert_eq!(windows.pending(), 1);
    assert_eq!(requests(windows.step(9 * WINDOW_MS, Event::Flush)).len(), 1);
}

/// Whatever is settled in whatever order: every message is in a settled request or still held.
#[test]
fn in_any_mixture_what_is_committed_was_settled() {
    for seed in 0..500 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut windows = windows(4);
        let (mut waiting, mut now_ms) = (Vec::new(), 0);
        // By user: offsets whose messages no settled request holds yet.
        let mut owed: BTreeMap<Audience, Vec<i64>> = BTreeMap::new();
        for offset in 0..200_i64 {
            now_ms += random.u64(0..2_000);
            let said =
                Message { is_high: random.u8(0..8) == 0, ..message(7, offset.cast_unsigned() + 1) };
            let to = user(u128::from(random.u8(0..6)));
            owed.entry(to).or_default().push(offset);
            let mut ended = windows.step(now_ms, read(offset, said, &[to]));
            ended.extend(windows.step(now_ms, Event::Tick));
            waiting.extend(requests(ended));
            while !waiting.is_empty() && random.bool() {
                let request = waiting.swap_remove(random.usize(0..waiting.len()));
                let last = request.latest.sequence_number.cast_signed() - 1;
                let held = owed.get_mut(&request.audience).unwrap();
                held.retain(|it| *it < request.place.offset || *it > last);
                settle(&mut windows, &[request]);
            }
            let first = owed.values().flatten().min();
            let expected = first.copied().unwrap_or(offset + 1);
            assert_eq!(self::offset(&windows), Some(expected), "seed {seed}");
        }
    }
}
