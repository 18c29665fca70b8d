//! Who is asked to be pushed, of what, and when; and that faults lose nothing.

use super::{Chat, World, message_id, new_id, new_ids, requests, stop, world};
use crate::support::{Relay, Seen, wait_until};
use proto::Uuid;
use proto::record::Priority;
use std::collections::BTreeSet;
use std::time::Duration;

fn suppressed(relay: &Relay, reason: &str) -> f64 {
    relay.metric(&format!("push_suppressed_total{{reason=\"{reason}\"}}"))
}

fn chat<'a>(conversation: Uuid, members: &'a [Uuid], sequence_number: u64) -> Chat<'a> {
    let (sender, priority) = (members[0], Priority::Normal);
    Chat { conversation, sender, members, sequence_number, priority }
}

fn say(
    world: &World,
    conversation: Uuid,
    members: &[Uuid],
    numbers: std::ops::RangeInclusive<u64>,
) {
    let messages: Vec<_> = numbers.map(|number| chat(conversation, members, number)).collect();
    world.say(&messages);
}

#[test]
fn an_absent_member_is_told_once_of_a_windows_messages_and_others_are_not() {
    let Some(world) = world() else { return };
    let users: [Uuid; 6] = new_ids();
    let [_, absent, online, muted, reader, gone] = users;
    let conversation = world.conversation(&users);
    world.redis.connect(online);
    let mute = "UPDATE messaging.members SET muted_until_us = 9007199254740991
        WHERE conversation_id = $1 AND user_id = $2";
    world.execute(mute, conversation, muted);
    let read = "INSERT INTO messaging.receipts (conversation_id, user_id, device_id,
        delivered_sequence_number, read_sequence_number, updated_at_us)
        VALUES ($1, $2, gen_random_uuid(), 4, 4, 0)";
    world.execute(read, conversation, reader);
    let leave = "UPDATE messaging.members SET left_sequence_number = 5
        WHERE conversation_id = $1 AND user_id = $2";
    world.execute(leave, conversation, gone);
    let mut tail = world.tail();
    let relay = world.relay(2_000, &[]);
    say(&world, conversation, &users, 2..=4);
    let came = requests(&mut tail, &users, 1);
    let request = &came[0];
    assert_eq!(request.user_id, absent.as_bytes());
    assert_eq!(request.conversation_id, conversation.as_bytes());
    let numbers = (request.first_sequence_number, request.last_sequence_number);
    assert_eq!((request.message_count, numbers), (3, (2, 4)));
    assert_eq!(request.latest_message_id, message_id(4).as_bytes());
    assert_eq!(
        (request.latest_sender_id.as_slice(), request.created_at_us),
        (users[0].as_bytes().as_slice(), 1_002)
    );
    assert_eq!((request.kind.as_str(), request.priority()), ("message", Priority::Normal));
    let headers = &tail.seen[0].headers;
    assert_eq!(headers["event-type"], b"push");
    assert_eq!(headers["schema-version"], b"1");
    assert!(headers["traceparent"].starts_with(b"00-4bf92f35"));
    assert!(headers.contains_key("created-at-us"));
    wait_until(10, "all suppressed", || {
        let reasons = ["muted", "read", "left"].map(|reason| suppressed(&relay, reason));
        (suppressed(&relay, "online"), reasons) == (3.0, [1.0; 3])
    });
    assert_eq!(relay.metric("push_coalesced_total"), 8.0, "two for each who has a window");
    // What kept them from being told is gone, and the next message is one for all three.
    let unmute = "UPDATE messaging.members SET muted_until_us = 1
        WHERE conversation_id = $1 AND user_id = $2";
    world.execute(unmute, conversation, muted);
    world.say(&[chat(conversation, &[users[0], muted, reader], 5)]);
    let came = requests(&mut tail, &users, 3);
    let told: BTreeSet<&[u8]> = came[1..].iter().map(|it| it.user_id.as_slice()).collect();
    assert_eq!(told, BTreeSet::from([muted, reader].each_ref().map(|it| it.as_bytes().as_slice())));
    assert_eq!(came.len(), 3);
    // Counted once the broker has answered, which may be after a consumer saw them.
    wait_until(10, "all counted", || relay.metric("push_requested_total") == 3.0);
    stop(relay);
}

#[test]
fn who_comes_online_within_the_window_is_not_pushed() {
    let Some(world) = world() else { return };
    let users: [Uuid; 3] = new_ids();
    let conversation = world.conversation(&users);
    let mut tail = world.tail();
    let relay = world.relay(3_000, &[]);
    say(&world, conversation, &users, 2..=3);
    wait_until(10, "two windows", || relay.metric("push_pending") == 2.0);
    world.redis.connect(users[1]);
    let came = requests(&mut tail, &users, 1);
    assert_eq!(came[0].user_id, users[2].as_bytes());
    wait_until(10, "suppressed", || suppressed(&relay, "online") == 1.0);
    wait_until(10, "settled", || relay.metric("push_pending") == 0.0);
    wait_until(10, "counted", || relay.metric("push_requested_total") == 1.0);
    stop(relay);
}

#[test]
fn high_priority_is_pushed_at_once_and_a_relay_that_stops_leaves_nothing_waiting() {
    let Some(world) = world() else { return };
    let users: [Uuid; 2] = new_ids();
    let (quiet, urgent) = (world.conversation(&users), world.conversation(&users));
    let mut tail = world.tail();
    let relay = world.relay(600_000, &[]);
    say(&world, quiet, &users, 2..=3);
    wait_until(10, "a window", || relay.metric("push_pending") == 1.0);
    world.say(&[Chat { priority: Priority::High, ..chat(urgent, &users, 2) }]);
    let came = requests(&mut tail, &users, 1);
    assert_eq!((came.len(), came[0].priority()), (1, Priority::High));
    assert_eq!(came[0].conversation_id, urgent.as_bytes());
    assert_eq!(tail.seen[0].headers["priority"], b"high");
    stop(relay);
    let came = requests(&mut tail, &users, 2);
    assert_eq!(
        (came[1].message_count, came[1].conversation_id.as_slice()),
        (2, quiet.as_bytes().as_slice())
    );
    // It committed that, too: a later relay does not push it again.
    let relay = world.relay(500, &[]);
    say(&world, urgent, &users, 3..=3);
    let came = requests(&mut tail, &users, 3);
    assert_eq!((came.len(), came[2].last_sequence_number), (3, 3));
    wait_until(10, "settled", || relay.metric("push_pending") == 0.0);
    wait_until(10, "counted", || relay.metric("push_requested_total") == 1.0);
    stop(relay);
}

#[test]
fn a_killed_relay_loses_no_request() {
    let Some(world) = world() else { return };
    let users: [Uuid; 4] = new_ids();
    let conversation = world.conversation(&users);
    let mut tail = world.tail();
    let mut relay = world.relay(600_000, &[]);
    say(&world, conversation, &users, 2..=4);
    wait_until(10, "windows", || {
        (relay.metric("push_pending"), relay.metric("push_coalesced_total")) == (3.0, 6.0)
    });
    // Longer than between two commits.
    std::thread::sleep(Duration::from_secs(2));
    relay.signal("KILL");
    relay.wait();
    let relay = world.relay(500, &[]);
    let came = requests(&mut tail, &users, 3);
    let told: BTreeSet<Vec<u8>> = came.iter().map(|it| it.user_id.clone()).collect();
    assert_eq!((came.len(), told.len()), (3, 3));
    for request in came {
        let numbers = (request.first_sequence_number, request.last_sequence_number);
        assert_eq!((request.message_count, numbers), (3, (2, 4)));
    }
    stop(relay);
}

#[test]
fn relays_share_the_log_and_one_takes_over_from_another() {
    let Some(world) = world() else { return };
    let pairs: Vec<[Uuid; 2]> = (0..60).map(|_| new_ids()).collect();
    let conversations: Vec<Uuid> = pairs.iter().map(|pair| world.conversation(pair)).collect();
    let absent: Vec<Uuid> = pairs.iter().map(|pair| pair[1]).collect();
    let tell = |number| {
        let pairs = conversations.iter().zip(&pairs);
        let messages: Vec<_> = pairs.map(|(it, pair)| chat(*it, pair, number)).collect();
        world.say(&messages);
    };
    let mut tail = world.tail();
    let start = |name| world.relay(1_000, &[("REALCHAT_RELAY_INSTANCE", name)]);
    let (one, two) = (start("relay-one"), start("relay-two"));
    let partitions = |relay: &Relay| relay.metric("push_partitions");
    wait_until(30, "shares", || (partitions(&one), partitions(&two)) == (4.0, 4.0));
    tell(2);
    assert_eq!(requests(&mut tail, &absent, 60).len(), 60, "each once");
    let counts = [&one, &two].map(|relay| relay.metric("push_requested_total"));
    assert!(counts.iter().all(|it| *it > 0.0) && counts.iter().sum::<f64>() == 60.0, "{counts:?}");
    two.signal("KILL");
    tell(3);
    wait_until(30, "all taken over", || partitions(&one) == 8.0);
    let told = |seen: &[Seen]| {
        let second = seen.iter().filter(|it| it.headers["sequence-number"] == b"3");
        second.map(|it| it.key).collect::<BTreeSet<_>>().len()
    };
    let mine = |key: &[u8; 16]| absent.contains(&Uuid::from_bytes(*key));
    assert!(tail.read_until(30, mine, |seen| told(seen) == 60), "{} of 60", told(&tail.seen));
    stop(one);
}

#[test]
fn while_redis_or_postgres_is_away_requests_wait() {
    let Some(mut world) = world() else { return };
    let users: [Uuid; 2] = new_ids();
    let conversation = world.conversation(&users);
    let mut tail = world.tail();
    let relay = world.relay(500, &[]);
    let stalled = || relay.metric("push_stalled") == 1.0;
    world.redis.stop();
    say(&world, conversation, &users, 2..=2);
    wait_until(10, "stalled without redis", stalled);
    // An empty Redis knows of nobody: that everybody is absent is not concluded from it.
    world.redis.restart();
    std::thread::sleep(Duration::from_secs(3));
    assert!(stalled() && relay.log().contains("push requests wait"));
    assert_eq!(relay.metric("push_requested_total"), 0.0);
    world.redis.complete();
    assert_eq!(requests(&mut tail, &users, 1)[0].last_sequence_number, 2);
    wait_until(10, "going on", || !stalled());
    say(&world, conversation, &users, 3..=3);
    wait_until(10, "a window", || relay.metric("push_pending") == 1.0);
    world.postgres.crash_and_restart(Duration::from_secs(3));
    assert_eq!(requests(&mut tail, &users, 2)[1].last_sequence_number, 3);
    stop(relay);
}

#[test]
fn of_a_large_conversation_the_absent_members_are_told_page_by_page() {
    let Some(world) = world() else { return };
    let users: Vec<Uuid> = (0..2_600).map(|_| new_id()).collect();
    let conversation = world.conversation(&users);
    // The first two speak, the next three are online, and one muted it.
    users[2..5].iter().for_each(|user| world.redis.connect(*user));
    let mute = "UPDATE messaging.members SET muted_until_us = 9007199254740991
        WHERE conversation_id = $1 AND user_id = $2";
    world.execute(mute, conversation, users[5]);
    let mut tail = world.tail();
    let relay = world.relay(1_000, &[]);
    let second = Chat { sender: users[1], ..chat(conversation, &users, 3) };
    world.say(&[chat(conversation, &users, 2), second]);
    let came = requests(&mut tail, &users, 2_594);
    let told: BTreeSet<&[u8]> = came.iter().map(|it| it.user_id.as_slice()).collect();
    let expected: BTreeSet<&[u8]> = users[6..].iter().map(|it| it.as_bytes().as_slice()).collect();
    assert_eq!(told, expected);
    assert!(came.iter().all(|it| (it.message_count, it.last_sequence_number) == (2, 3)));
    wait_until(10, "settled", || relay.metric("push_pending") == 0.0);
    assert_eq!((suppressed(&relay, "online"), suppressed(&relay, "muted")), (3.0, 1.0));
    assert_eq!(relay.metric("push_requested_total"), 2_594.0);
    stop(relay);
}
