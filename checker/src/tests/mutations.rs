//! Ways to spoil a good history, each with the promise that it breaks.

use super::good::History;
use super::{DatabaseEvent, Operation, Violation};
use crate::history::body_hash;
use fastrand::Rng;
use uuid::Uuid;

pub(crate) struct Mutation {
    pub(crate) name: &'static str,
    pub(crate) expected: Violation,
    pub(crate) spoil: fn(&mut History, &mut Rng),
}

macro_rules! mutations {
    ($($spoil:ident => $expected:ident,)*) => {
        pub(crate) const ALL: &[Mutation] = &[$(Mutation {
            name: stringify!($spoil),
            expected: Violation::$expected,
            spoil: $spoil,
        },)*];
    };
}

mutations! {
    acked_message_missing_in_database => Lost,
    newest_acked_message_missing_in_database => Lost,
    acked_message_missing_in_final_sync => Lost,
    final_sync_ends_early => Lost,
    session_misses_the_newest_message => Lost,
    session_misses_a_message_in_the_middle => Gap,
    session_sees_nothing_of_a_conversation => Lost,
    kafka_lacks_a_message => Lost,
    kafka_is_empty => Lost,
    kafka_holds_two_swapped => Reordered,
    kafka_holds_one_in_another_partition => Reordered,
    kafka_holds_another_id => Phantom,
    delivered_twice => VisibleDuplicate,
    delivered_twice_much_later => VisibleDuplicate,
    final_sync_shows_one_twice => VisibleDuplicate,
    deliveries_swapped => Reordered,
    final_sync_swapped => Reordered,
    delivered_under_another_number => Reordered,
    delivered_with_an_invented_id => Phantom,
    delivered_with_another_body => Phantom,
    delivered_without_a_body => Phantom,
    delivered_before_it_exists => Phantom,
    wild_sequence_number_delivered => Phantom,
    final_sync_shows_more_than_is_stored => Phantom,
    stored_but_never_sent => Phantom,
    stored_with_another_body => Phantom,
    refused_but_stored => Phantom,
    stored_for_another_sender => Phantom,
    stored_with_a_hole => Gap,
    stored_numbers_begin_at_zero => Gap,
    stored_under_one_id_twice => Reordered,
    stored_swapped => Reordered,
    one_number_stored_twice => Reordered,
    one_key_stored_twice => Conflict,
    one_key_acked_with_two_ids => Conflict,
    one_key_acked_with_two_numbers => Conflict,
    acked_with_another_id_than_stored => Conflict,
    acked_out_of_real_time => Reordered,
    ack_without_a_send => BrokenHistory,
    one_key_for_two_bodies => BrokenHistory,
    acked_with_no_id => BrokenHistory,
    member_again => BrokenHistory,
    told_of_somebody_the_contrary => WrongPresence,
    told_nothing_of_somebody => WrongPresence,
}

fn positions(history: &History, wanted: impl Fn(&Operation) -> bool) -> Vec<usize> {
    let all = history.operations.iter().enumerate();
    all.filter(|(_, it)| wanted(it)).map(|(index, _)| index).collect()
}

fn pick(history: &History, random: &mut Rng, wanted: impl Fn(&Operation) -> bool) -> usize {
    let positions = positions(history, wanted);
    positions[random.usize(..positions.len())]
}

fn is_message(operation: &Operation) -> bool {
    matches!(operation, Operation::Deliver { message_id: Some(_), .. })
}

fn is_final_message(operation: &Operation) -> bool {
    matches!(operation, Operation::Final { message_id: Some(_), .. })
}

fn invented(random: &mut Rng) -> Option<String> {
    Some(Uuid::from_u128(random.u128(..)).to_string())
}

/// The place of an acknowledged message: conversation, number.
fn acked(history: &History, random: &mut Rng) -> (String, u64) {
    let index = pick(history, random, |it| matches!(it, Operation::Ok { .. }));
    let Operation::Ok { conversation, seq, .. } = &history.operations[index] else {
        unreachable!("picked")
    };
    (conversation.clone(), *seq)
}

/// The newest acknowledged message of the conversation whose last event is acknowledged.
fn newest_acked(history: &History) -> (String, u64) {
    let mut found = None;
    for operation in &history.operations {
        if let Operation::Ok { conversation, seq, .. } = operation {
            let rows = history.dump.iter().filter(|row| row.conversation == *conversation);
            if rows.map(|row| row.seq).max() == Some(*seq) {
                found = Some((conversation.clone(), *seq));
            }
        }
    }
    found.unwrap()
}

fn at(operation: &Operation, place: &(String, u64)) -> bool {
    match operation {
        Operation::Deliver { conversation, seq, .. }
        | Operation::Final { conversation, seq, .. }
        | Operation::Kafka { conversation, seq, .. } => (conversation, seq) == (&place.0, &place.1),
        _ => false,
    }
}

fn remove_row(history: &mut History, place: &(String, u64)) {
    history.dump.retain(|row| (&row.conversation, &row.seq) != (&place.0, &place.1));
}

fn message_row(history: &History, random: &mut Rng) -> usize {
    let rows = history.dump.iter().enumerate().filter(|(_, row)| row.message_id.is_some());
    let rows: Vec<usize> = rows.map(|(index, _)| index).collect();
    rows[random.usize(..rows.len())]
}

fn acked_message_missing_in_database(history: &mut History, random: &mut Rng) {
    let place = acked(history, random);
    remove_row(history, &place);
}

fn newest_acked_message_missing_in_database(history: &mut History, _: &mut Rng) {
    let place = newest_acked(history);
    remove_row(history, &place);
    history.operations.retain(|it| !at(it, &place));
}

fn acked_message_missing_in_final_sync(history: &mut History, random: &mut Rng) {
    let place = acked(history, random);
    let index = pick(history, random, |it| matches!(it, Operation::Final { .. }) && at(it, &place));
    history.operations.remove(index);
}

fn final_sync_ends_early(history: &mut History, _: &mut Rng) {
    let place = newest_acked(history);
    history.operations.retain(|it| !(matches!(it, Operation::Final { .. }) && at(it, &place)));
}

fn session_misses_the_newest_message(history: &mut History, random: &mut Rng) {
    let place = newest_acked(history);
    let index = pick(history, random, |it| is_message(it) && at(it, &place));
    history.operations.remove(index);
}

fn session_misses_a_message_in_the_middle(history: &mut History, random: &mut Rng) {
    let index = pick(history, random, |it| matches!(it, Operation::Deliver { seq: 2, .. }));
    history.operations.remove(index);
}

fn session_sees_nothing_of_a_conversation(history: &mut History, random: &mut Rng) {
    let place = acked(history, random);
    history.operations.retain(|it| {
        !matches!(it, Operation::Deliver { session, conversation, .. }
            if session == "ann/desk" && *conversation == place.0)
    });
}

fn kafka_lacks_a_message(history: &mut History, random: &mut Rng) {
    let place = acked(history, random);
    history.operations.retain(|it| !(matches!(it, Operation::Kafka { .. }) && at(it, &place)));
}

fn kafka_is_empty(history: &mut History, random: &mut Rng) {
    let (conversation, _) = acked(history, random);
    history.operations.retain(|it| !matches!(it, Operation::Kafka { .. }));
    history.operations.push(Operation::KafkaFrom { conversation, from: 0 });
}

fn kafka_holds_one_in_another_partition(history: &mut History, random: &mut Rng) {
    let index = pick(history, random, |it| matches!(it, Operation::Kafka { seq: 2, .. }));
    if let Operation::Kafka { partition, .. } = &mut history.operations[index] {
        *partition += 1;
    }
}

fn kafka_holds_two_swapped(history: &mut History, random: &mut Rng) {
    let first = pick(history, random, |it| matches!(it, Operation::Kafka { seq: 1, .. }));
    history.operations.swap(first, first + 1);
}

fn kafka_holds_another_id(history: &mut History, random: &mut Rng) {
    let index = pick(history, random, |it| matches!(it, Operation::Kafka { seq: 2, .. }));
    if let Operation::Kafka { message_id, .. } = &mut history.operations[index] {
        *message_id = invented(random);
    }
}

fn delivered_twice(history: &mut History, random: &mut Rng) {
    let index = pick(history, random, is_message);
    history.operations.insert(index, history.operations[index].clone());
}

fn delivered_twice_much_later(history: &mut History, random: &mut Rng) {
    let index = pick(history, random, |it| matches!(it, Operation::Deliver { seq: 1, .. }));
    history.operations.push(history.operations[index].clone());
}

fn final_sync_shows_one_twice(history: &mut History, random: &mut Rng) {
    let index = pick(history, random, is_final_message);
    history.operations.insert(index, history.operations[index].clone());
}

fn deliveries_swapped(history: &mut History, random: &mut Rng) {
    let first = pick(history, random, |it| matches!(it, Operation::Deliver { seq: 1, .. }));
    let Operation::Deliver { session, conversation, .. } = history.operations[first].clone() else {
        unreachable!("picked")
    };
    let second = pick(history, random, |it| {
        matches!(it, Operation::Deliver { session: other, conversation: place, seq: 2, .. }
            if *other == session && *place == conversation)
    });
    history.operations.swap(first, second);
}

fn final_sync_swapped(history: &mut History, random: &mut Rng) {
    let first = pick(history, random, |it| matches!(it, Operation::Final { seq: 1, .. }));
    history.operations.swap(first, first + 1);
}

fn delivered_under_another_number(history: &mut History, random: &mut Rng) {
    let index = pick(history, random, |it| matches!(it, Operation::Deliver { seq: 3, .. }));
    let Operation::Deliver { conversation: wanted, .. } = history.operations[index].clone() else {
        unreachable!("picked")
    };
    let row = history.dump.iter().find(|row| row.conversation == wanted && row.seq == 2).unwrap();
    if let Operation::Deliver { message_id, .. } = &mut history.operations[index] {
        message_id.clone_from(&row.message_id);
    }
}

fn delivered_with_an_invented_id(history: &mut History, random: &mut Rng) {
    let index = pick(history, random, is_message);
    if let Operation::Deliver { message_id, .. } = &mut history.operations[index] {
        *message_id = invented(random);
    }
}

fn delivered_with_another_body(history: &mut History, random: &mut Rng) {
    let index = pick(history, random, is_message);
    if let Operation::Deliver { body_hash: body, .. } = &mut history.operations[index] {
        *body = Some(body_hash("something else"));
    }
}

fn delivered_without_a_body(history: &mut History, random: &mut Rng) {
    let index = pick(history, random, is_message);
    if let Operation::Deliver { body_hash, .. } = &mut history.operations[index] {
        *body_hash = None;
    }
}

fn delivered_before_it_exists(history: &mut History, random: &mut Rng) {
    let place = newest_acked(history);
    let index = pick(history, random, |it| is_message(it) && at(it, &place));
    let mut copy = history.operations[index].clone();
    if let Operation::Deliver { seq, .. } = &mut copy {
        *seq += 1;
    }
    history.operations.insert(index + 1, copy);
}

fn wild_sequence_number_delivered(history: &mut History, random: &mut Rng) {
    let index = pick(history, random, is_message);
    if let Operation::Deliver { seq, .. } = &mut history.operations[index] {
        *seq = u64::MAX;
    }
}

fn final_sync_shows_more_than_is_stored(history: &mut History, random: &mut Rng) {
    let place = newest_acked(history);
    let index = pick(history, random, |it| is_final_message(it) && at(it, &place));
    let mut copy = history.operations[index].clone();
    if let Operation::Final { seq, message_id, .. } = &mut copy {
        *seq += 1;
        *message_id = invented(random);
    }
    history.operations.insert(index + 1, copy);
}

fn stored_but_never_sent(history: &mut History, random: &mut Rng) {
    let conversation = history.dump[0].conversation.clone();
    let seq = history.dump.iter().filter(|row| row.conversation == conversation).count() as u64 + 1;
    history.dump.push(DatabaseEvent {
        conversation,
        seq,
        message_id: invented(random),
        sender: Some("ann".into()),
        key: Some("never".into()),
        body_hash: Some(body_hash("never")),
    });
}

fn stored_with_another_body(history: &mut History, random: &mut Rng) {
    let index = message_row(history, random);
    history.dump[index].body_hash = Some(body_hash("something else"));
}

fn refused_but_stored(history: &mut History, random: &mut Rng) {
    let index = pick(history, random, |it| matches!(it, Operation::Fail { .. }));
    let Operation::Fail { client, conversation, key, .. } = history.operations[index].clone()
    else {
        unreachable!("picked")
    };
    let seq = history.dump.iter().filter(|row| row.conversation == conversation).count() as u64 + 1;
    history.dump.push(DatabaseEvent {
        conversation,
        seq,
        message_id: invented(random),
        sender: client.split('/').next().map(str::to_owned),
        key: Some(key),
        body_hash: Some(body_hash("text 0")),
    });
}

fn stored_for_another_sender(history: &mut History, random: &mut Rng) {
    let index = message_row(history, random);
    history.dump[index].sender = Some("eve".into());
}

fn stored_with_a_hole(history: &mut History, random: &mut Rng) {
    let place = newest_acked(history);
    let _ = random;
    for row in &mut history.dump {
        if (&row.conversation, row.seq) == (&place.0, place.1) {
            row.seq += 1;
        }
    }
}

fn stored_numbers_begin_at_zero(history: &mut History, _: &mut Rng) {
    let conversation = history.dump[0].conversation.clone();
    for row in history.dump.iter_mut().filter(|row| row.conversation == conversation) {
        row.seq -= 1;
    }
}

fn stored_under_one_id_twice(history: &mut History, random: &mut Rng) {
    let index = message_row(history, random);
    let mut copy = history.dump[index].clone();
    let rows = history.dump.iter().filter(|row| row.conversation == copy.conversation);
    copy.seq = rows.count() as u64 + 1;
    history.dump.push(copy);
}

fn stored_swapped(history: &mut History, _: &mut Rng) {
    let first = history.dump.iter().position(|row| row.seq == 2).unwrap();
    history.dump[first].seq = 3;
    history.dump[first + 1].seq = 2;
}

fn one_number_stored_twice(history: &mut History, random: &mut Rng) {
    let index = message_row(history, random);
    let mut copy = history.dump[index].clone();
    copy.message_id = invented(random);
    history.dump.push(copy);
}

fn one_key_stored_twice(history: &mut History, random: &mut Rng) {
    let index = message_row(history, random);
    let mut copy = history.dump[index].clone();
    let rows = history.dump.iter().filter(|row| row.conversation == copy.conversation);
    copy.seq = rows.count() as u64 + 1;
    copy.message_id = invented(random);
    history.dump.push(copy);
}

fn one_key_acked_with_two_ids(history: &mut History, random: &mut Rng) {
    let index = pick(history, random, |it| matches!(it, Operation::Ok { .. }));
    let mut copy = history.operations[index].clone();
    if let (Operation::Ok { message_id, .. }, Some(other)) = (&mut copy, invented(random)) {
        *message_id = other;
    }
    history.operations.push(copy);
}

fn one_key_acked_with_two_numbers(history: &mut History, random: &mut Rng) {
    let index = pick(history, random, |it| matches!(it, Operation::Ok { .. }));
    let mut copy = history.operations[index].clone();
    if let Operation::Ok { seq, .. } = &mut copy {
        *seq += 1;
    }
    history.operations.push(copy);
}

fn acked_with_another_id_than_stored(history: &mut History, random: &mut Rng) {
    let (wanted, number) = acked(history, random);
    let other = invented(random).unwrap();
    for operation in &mut history.operations {
        if let Operation::Ok { conversation, seq, message_id, .. } = operation
            && *conversation == wanted
            && *seq == number
        {
            message_id.clone_from(&other);
        }
    }
}

/// The message was acknowledged before all others were sent, but stands last.
fn acked_out_of_real_time(history: &mut History, _: &mut Rng) {
    let place = newest_acked(history);
    let mut keys = Vec::new();
    for operation in &mut history.operations {
        if let Operation::Ok { conversation, seq, at_us, key, .. } = operation
            && (&*conversation, &*seq) == (&place.0, &place.1)
        {
            *at_us = 0;
            keys.push(key.clone());
        }
    }
    for operation in &mut history.operations {
        if let Operation::Invoke { at_us, key, .. } = operation
            && keys.contains(key)
        {
            *at_us = 0;
        }
    }
}

fn ack_without_a_send(history: &mut History, random: &mut Rng) {
    let (wanted, number) = acked(history, random);
    let mut sent = None;
    for operation in &history.operations {
        if let Operation::Ok { conversation, seq, key, .. } = operation
            && *conversation == wanted
            && *seq == number
        {
            sent = Some(key.clone());
        }
    }
    history
        .operations
        .retain(|it| !matches!(it, Operation::Invoke { key, .. } if Some(key) == sent.as_ref()));
}

fn one_key_for_two_bodies(history: &mut History, random: &mut Rng) {
    let index = pick(history, random, |it| matches!(it, Operation::Invoke { .. }));
    let mut copy = history.operations[index].clone();
    if let Operation::Invoke { body_hash: body, .. } = &mut copy {
        *body = body_hash("something else");
    }
    history.operations.push(copy);
}

fn acked_with_no_id(history: &mut History, random: &mut Rng) {
    let index = pick(history, random, |it| matches!(it, Operation::Ok { .. }));
    if let Operation::Ok { message_id, .. } = &mut history.operations[index] {
        *message_id = "none".into();
    }
}

fn member_again(history: &mut History, random: &mut Rng) {
    let index = pick(history, random, |it| matches!(it, Operation::Member { .. }));
    history.operations.push(history.operations[index].clone());
}

fn told_as(history: &mut History, random: &mut Rng, change: fn(bool) -> Option<bool>) {
    let at = pick(history, random, |it| matches!(it, Operation::Presence { .. }));
    if let Operation::Presence { online, told, .. } = &mut history.operations[at] {
        *told = change(*online);
    }
}

fn told_of_somebody_the_contrary(history: &mut History, random: &mut Rng) {
    told_as(history, random, |online| Some(!online));
}

fn told_nothing_of_somebody(history: &mut History, random: &mut Rng) {
    told_as(history, random, |_| None);
}
