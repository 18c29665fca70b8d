//! Copies for gateways that have topics of their own, as Redis knows whom they have.

use crate::support::{
    Kafka, Postgres, Redis, Relay, Seen, Tail, commit, new_key, relay_command, wait_until,
    waiting_rows,
};
use proto::routes::{Claim, claim_key, member, run_id, user_key};
use proto::{Uuid, topics};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;

/// Whom every row of these tests is for.
const USER: Uuid = Uuid::from_bytes([1; 16]);
const EPOCH: &str = "epoch";

/// Two gateways' topics, deleted when dropped: other tests' relays would go on filling them.
struct Gateways {
    admin: AdminClient<DefaultClientContext>,
    names: [String; 2],
}

impl Gateways {
    fn new(kafka: &Kafka) -> Self {
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", &kafka.brokers).create().unwrap();
        let names = ["a", "b"].map(|name| format!("{name}-{}", Uuid::now_v7().simple()));
        let topics = names.each_ref().map(|name| topics::of_gateway(name).unwrap());
        let new = topics.each_ref().map(|it| NewTopic::new(it, 8, TopicReplication::Fixed(1)));
        let made = pollster::block_on(admin.create_topics(&new, &AdminOptions::new())).unwrap();
        assert!(made.iter().all(Result::is_ok), "{made:?}");
        Self { admin, names }
    }

    fn tails(&self, kafka: &Kafka) -> [Tail; 2] {
        self.names.each_ref().map(|name| kafka.tail(&topics::of_gateway(name).unwrap()))
    }
}

impl Drop for Gateways {
    fn drop(&mut self) {
        let topics = self.names.each_ref().map(|name| topics::of_gateway(name).unwrap());
        let topics = topics.each_ref().map(String::as_str);
        let _ = pollster::block_on(self.admin.delete_topics(&topics, &AdminOptions::new()));
    }
}

fn claim(redis: &Redis, gateway: &str, run: &str) {
    let claim = Claim { epoch: EPOCH.to_owned(), run_id: run.to_owned() };
    redis.ask(&["SET", &claim_key(gateway), &claim.to_string()]);
}

fn run(redis: &Redis) -> String {
    let info: String = redis::cmd("INFO").arg("server").query(&mut redis.connection()).unwrap();
    run_id(&info).unwrap().to_owned()
}

#[test]
fn a_gateway_gets_copies_of_what_its_users_need_and_of_everything_while_redis_does_not_know() {
    let Some(kafka) = Kafka::from_environment() else { return };
    let (postgres, mut redis) = (Postgres::start(), Redis::start());
    let gateways_there = Gateways::new(&kafka);
    let [a, b] = &gateways_there.names;
    let url = redis.url();
    let relay = Relay::start_with(
        "relay-routes",
        &postgres,
        &kafka.brokers,
        &[("REALCHAT_RELAY_REDIS_URL", &url)],
    );
    wait_until(30, "ready", || kafka.has_topics() && relay.is_ready());
    let mut tails = gateways_there.tails(&kafka);
    let mut log = kafka.tail(topics::MESSAGE_CREATED);
    let (mut client, key) = (postgres.client(), new_key());
    let mut number = 0;
    // Publishes the next record; which gateways get it.
    let mut publish = |what: &str| {
        number += 1;
        commit(&mut client, &[(key, number)]);
        let arrived = |seen: &[Seen]| seen.iter().any(|it| it.number() == number);
        assert!(log.read_until(20, |it| *it == key, arrived), "{what}");
        wait_until(20, "all marked", || waiting_rows(&mut client) == 0);
        // Whatever was copied was acknowledged before the row was marked.
        tails.each_mut().map(|tail| tail.read_for_ms(500, |it| *it == key, arrived))
    };
    assert_eq!(publish("nothing is claimed"), [true, true]);
    let here = run(&redis);
    claim(&redis, a, &here);
    assert_eq!(publish("the user is not at a"), [false, true]);
    redis.ask(&["SADD", &user_key(USER), &member(a, EPOCH)]);
    assert_eq!(publish("the user is at a"), [true, true]);
    claim(&redis, b, &here);
    assert_eq!(publish("and not at b"), [true, false]);
    redis.ask(&["SADD", &user_key(USER), &member(b, "earlier")]);
    assert_eq!(publish("where it was before"), [true, false]);
    redis.ask(&["SREM", &user_key(USER), &member(a, EPOCH)]);
    assert_eq!(publish("it left"), [false, false]);
    claim(&redis, b, "another run");
    assert_eq!(publish("told to another Redis"), [false, true]);
    redis.ask(&["FLUSHALL"]);
    assert_eq!(publish("all was lost"), [true, true]);
    claim(&redis, a, &here);
    assert_eq!(publish("claimed again"), [false, true]);
    redis.stop();
    assert_eq!(publish("Redis is away"), [true, true]);
    redis.restart();
    claim(&redis, a, &run(&redis));
    wait_until(10, "asked again", || publish("Redis is back") == [false, true]);
    assert!(relay.metric("copied_total") > 0.0);

    let gateways = |arguments: &[&str]| {
        let settings = [("REDIS_URL", url.as_str()), ("KAFKA_BROKERS", &kafka.brokers)];
        relay_command(&settings, &[&["gateways"], arguments].concat())
    };
    let (_, listed) = gateways(&["list"]);
    assert!(listed.contains(&format!("\"gateway\":\"{a}\",\"is_routed\":true")), "{listed}");
    assert!(listed.contains(&format!("\"gateway\":\"{b}\",\"is_routed\":false")), "{listed}");
    let (is_done, refused) = gateways(&["forget", a]);
    assert!(!is_done && refused.contains("stop it first"), "{refused}");
    let (is_done, refused) = gateways(&["forget", "nobody"]);
    assert!(!is_done && refused.contains("no gateway \"nobody\""), "{refused}");
    let (is_done, words) = gateways(&["forget", b]);
    assert!(is_done, "{words}");
    wait_until(10, "forgotten", || !gateways(&["list"]).1.contains(b));
    // Nothing waits for it.
    publish("b is forgotten");
}
