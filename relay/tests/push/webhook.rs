//! The webhook: what it is sent, and what becomes of what it does not take.

use super::{Chat, World, new_ids, stop, world};
use crate::support::{Delivery, Kafka, Receiver, Relay, Reply, Seen, dead_letters, wait_until};
use hmac::{Hmac, KeyInit, Mac};
use proto::record::Priority;
use proto::{Uuid, topics};
use sha2::Sha256;

const SECRET: &str = "a secret of the test";

fn relay(world: &World, receiver: &Receiver, more: &[(&str, &str)]) -> Relay {
    let url = receiver.url();
    let mut settings = vec![
        ("REALCHAT_RELAY_PUSH_WEBHOOK_URL", url.as_str()),
        ("REALCHAT_RELAY_PUSH_WEBHOOK_SECRET", SECRET),
        ("REALCHAT_RELAY_PUSH_WEBHOOK_RETRY_MS", "5"),
    ];
    settings.extend(more);
    world.relay(500, &settings)
}

/// One message of high priority to each of these users, in conversations of their own.
fn tell(world: &World, users: &[Uuid]) {
    let pairs: Vec<[Uuid; 2]> = users.iter().map(|user| [super::new_id(), *user]).collect();
    let conversations: Vec<Uuid> = pairs.iter().map(|pair| world.conversation(pair)).collect();
    let message = |(conversation, pair): (&Uuid, _)| -> Chat<'_> {
        let members: &[Uuid; 2] = pair;
        let (sender, priority) = (members[0], Priority::High);
        Chat { conversation: *conversation, sender, members, sequence_number: 2, priority }
    };
    let messages: Vec<Chat<'_>> = conversations.iter().zip(&pairs).map(message).collect();
    world.say(&messages);
}

/// How often a user was told of by these deliveries.
fn told(deliveries: &[Delivery], user: Uuid) -> usize {
    let requests = deliveries.iter().flat_map(Delivery::requests);
    requests.filter(|it| it["user_id"] == user.to_string()).count()
}

fn is_about(delivery: &Delivery, user: Uuid) -> bool {
    delivery.body.contains(&user.to_string())
}

fn check_signature(delivery: &Delivery) {
    let (time, mac) = delivery.signature.split_once(',').unwrap();
    let (time, mac) = (time.strip_prefix("t=").unwrap(), mac.strip_prefix("v1=").unwrap());
    let now_s = daemon::clock::now_us() / 1_000_000;
    assert!(now_s.abs_diff(time.parse().unwrap()) < 600, "{time}");
    let mut expected = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    expected.update(format!("{time}.{}", delivery.body).as_bytes());
    let expected: String =
        expected.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(mac, expected);
}

/// The dead letter of a user's request, once it is there.
fn letter(kafka: &Kafka, user: Uuid, cause: impl FnOnce()) -> Seen {
    let mut tail = kafka.tail(&topics::dead_letter(topics::PUSH_REQUESTED));
    cause();
    assert!(tail.read_until(30, |key| key == user.as_bytes(), |seen| !seen.is_empty()));
    tail.seen.pop().unwrap()
}

#[test]
fn the_webhook_gets_signed_batches_and_each_request_once() {
    let Some(world) = world() else { return };
    let receiver = Receiver::start(|_| Reply::Status(204));
    let users: [Uuid; 5] = new_ids();
    let batches = [("REALCHAT_RELAY_PUSH_WEBHOOK_BATCH_MAX", "2")];
    let relay = relay(&world, &receiver, &batches);
    tell(&world, &users);
    let all = |users: &[Uuid]| users.iter().all(|user| told(&receiver.deliveries(), *user) > 0);
    wait_until(20, "all told", || all(&users));
    stop(relay);
    // What was accepted was committed: a further relay delivers what comes, and that alone.
    let relay = self::relay(&world, &receiver, &[]);
    let [later] = new_ids();
    tell(&world, &[later]);
    wait_until(20, "told", || all(&[later]));
    stop(relay);
    let deliveries = receiver.deliveries();
    for user in users.iter().chain([&later]) {
        assert_eq!(told(&deliveries, *user), 1);
    }
    let mut ids: Vec<&str> = deliveries.iter().map(|it| it.batch_id.as_str()).collect();
    ids.sort_unstable();
    assert!(ids.windows(2).all(|pair| pair[0] != pair[1] && pair[0].len() == 32), "{ids:?}");
    for delivery in &deliveries {
        check_signature(delivery);
        assert_eq!(delivery.path, "/deliveries");
    }
    let mut full = deliveries.iter().filter(|it| users.iter().any(|user| is_about(it, *user)));
    assert!(full.clone().all(|it| it.requests().len() <= 2));
    let request = &full.next_back().unwrap().requests()[0];
    assert_eq!((&request["kind"], &request["priority"]), (&"message".into(), &"high".into()));
    assert_eq!((&request["message_count"], &request["created_at_us"]), (&1.into(), &1_002.into()));
}

#[test]
fn what_fails_is_tried_again_and_in_the_end_is_a_dead_letter() {
    let Some(world) = world() else { return };
    let users: [Uuid; 5] = new_ids();
    let [flaky, broken, refused, moved, fine] = users;
    let mut flaky_tries = 0;
    let receiver = Receiver::start(move |delivery| {
        if is_about(delivery, flaky) {
            flaky_tries += 1;
            return Reply::Status([500, 429, 503, 200][flaky_tries.min(4) - 1]);
        }
        match () {
            () if is_about(delivery, broken) => Reply::Status(502),
            () if is_about(delivery, refused) => Reply::Status(410),
            () if is_about(delivery, moved) => Reply::Redirect,
            () => Reply::Status(200),
        }
    });
    // One a batch, so that nobody's fate is another's.
    let relay = relay(&world, &receiver, &[("REALCHAT_RELAY_PUSH_WEBHOOK_BATCH_MAX", "1")]);
    let of = |user: Uuid| {
        let mut deliveries = receiver.deliveries();
        deliveries.retain(|it| is_about(it, user));
        deliveries
    };
    tell(&world, &[flaky]);
    wait_until(20, "accepted at last", || of(flaky).len() == 4);
    let tries = of(flaky);
    assert!(tries.iter().all(|it| it.batch_id == tries[0].batch_id && it.body == tries[0].body));
    tries.iter().for_each(check_signature);
    let expected = [
        (broken, "10", "the webhook answered 502"),
        (refused, "1", "the webhook answered 410"),
        (moved, "1", "the webhook answered 302; redirects are not followed"),
    ];
    for (user, attempts, error) in expected {
        let letter = letter(&world.kafka, user, || tell(&world, &[user]));
        assert_eq!(letter.headers["dlq-attempts"], attempts.as_bytes());
        assert_eq!(letter.headers["dlq-error"], error.as_bytes());
        assert_eq!(letter.headers["dlq-topic"], topics::PUSH_REQUESTED.as_bytes());
        assert_eq!(letter.headers["dlq-consumer"], b"relay-push");
        assert_eq!(letter.headers["event-type"], b"push");
        assert_eq!(of(user).len().to_string(), attempts);
    }
    assert!(receiver.deliveries().iter().all(|it| it.path == "/deliveries"));
    tell(&world, &[fine]);
    wait_until(20, "what comes after is delivered", || of(fine).len() == 1);
    wait_until(5, "counted", || relay.metric("push_dead_lettered_total") == 3.0);
    let class = |class| relay.metric(&format!("push_webhook_answers_total{{class=\"{class}\"}}"));
    assert_eq!((class("5xx"), class("429"), class("4xx"), class("3xx")), (12.0, 1.0, 1.0, 1.0));
    let (_, listed) = dead_letters(&world.kafka.brokers, &["list"]);
    let hex: String = broken.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let line = listed.lines().find(|line| line.contains(&hex)).unwrap();
    assert!(line.contains("\"place\":\"chat.push.requested.v1:"), "{line}");
    assert!(!relay.log().contains(SECRET));
    stop(relay);
}

#[test]
fn a_webhook_that_never_answers_holds_up_nothing_else() {
    let Some(world) = world() else { return };
    let receiver = Receiver::start(|_| Reply::Never);
    let users: [Uuid; 3] = new_ids();
    let mut tail = world.tail();
    let settings = [
        ("REALCHAT_RELAY_PUSH_WEBHOOK_TIMEOUT_MS", "2000"),
        ("REALCHAT_RELAY_PUSH_WEBHOOK_RETRY_MS", "30000"),
    ];
    let relay = relay(&world, &receiver, &settings);
    tell(&world, &users[..1]);
    wait_until(20, "a delivery that is not answered", || !receiver.deliveries().is_empty());
    tell(&world, &users[1..]);
    assert_eq!(super::requests(&mut tail, &users, 3).len(), 3, "requests are made all the same");
    let none = "push_webhook_answers_total{class=\"none\"}";
    wait_until(20, "given up on", || relay.metric(none) == 1.0);
    assert_eq!(relay.metric("push_delivered_total"), 0.0);
    assert!(relay.is_ready());
    // It stops at once, in the middle of its wait.
    let begun = std::time::Instant::now();
    stop(relay);
    assert!(begun.elapsed() < std::time::Duration::from_secs(10));
    // And what was not delivered is delivered by the next.
    let receiver = Receiver::start(|_| Reply::Status(200));
    let relay = self::relay(&world, &receiver, &[]);
    wait_until(30, "all told", || {
        users.iter().all(|user| told(&receiver.deliveries(), *user) == 1)
    });
    stop(relay);
}
