//! Real parts for the tests: a Redis of their own, the Kafka that KAFKA_BROKERS names, presenced itself,
//! and the gateway's end of the link.

use daemon::link::{Client, ClientSettings, LinkError};
use proto::client::{ServerFrame, event, server_frame};
use proto::link::{PresenceQuery, PresenceReport, PresenceSession, request, response};
use proto::{Message, Uuid, topics};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message as _;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

pub(crate) const SECRET: &str = "a secret of enough bytes";
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// How much longer than it should take a busy machine may need: what is asserted is that it happens.
const SLOWNESS: u32 = 10;

/// Waits until `done` holds, which should take at most `seconds`.
pub(crate) fn wait_until(seconds: u64, what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + SLOWNESS * Duration::from_secs(seconds);
    while !done() {
        assert!(Instant::now() < end, "not within {SLOWNESS} times {seconds} s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) struct Redis {
    pub(crate) port: u16,
    child: Option<Child>,
}

impl Redis {
    pub(crate) fn start() -> Self {
        let mut redis = Self { port: free_port(), child: None };
        redis.restart();
        redis
    }

    /// Starts it, with nothing in it.
    pub(crate) fn restart(&mut self) {
        let child = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--save", "", "--bind", "127.0.0.1"])
            .current_dir(std::env::temp_dir())
            .stdout(Stdio::null())
            .spawn();
        self.child = Some(child.unwrap());
        let client = redis::Client::open(self.url()).unwrap();
        wait_until(10, "redis", || {
            client.get_connection().is_ok_and(|mut it| redis::cmd("PING").exec(&mut it).is_ok())
        });
    }

    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").arg(format!("-{name}")).arg(pid).status().unwrap().success());
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    pub(crate) fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let mut connection = redis::Client::open(self.url()).unwrap().get_connection().unwrap();
        let mut command = redis::cmd(words[0]);
        words[1..].iter().for_each(|word| {
            command.arg(*word);
        });
        command.query(&mut connection).unwrap()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The presence topics of a real Kafka, from where they ended when the test began.
pub(crate) struct Kafka {
    pub(crate) brokers: String,
    consumer: BaseConsumer,
    seen: Vec<(Uuid, bool)>,
}

impl Kafka {
    /// Nothing if the environment names no broker; the reason is printed.
    pub(crate) fn from_environment() -> Option<Self> {
        let Some(brokers) = std::env::var("KAFKA_BROKERS").ok().filter(|it| !it.is_empty()) else {
            eprintln!("skipped: KAFKA_BROKERS does not name a running Kafka");
            return None;
        };
        let config = || {
            let mut config = ClientConfig::new();
            config.set("bootstrap.servers", &brokers).set("group.id", "presenced-tests");
            config
        };
        let admin: AdminClient<DefaultClientContext> = config().create().unwrap();
        let new = [topics::USER_ONLINE, topics::USER_OFFLINE]
            .map(|name| NewTopic::new(name, 8, TopicReplication::Fixed(1)));
        // They may be there already.
        let _ = pollster::block_on(admin.create_topics(&new, &AdminOptions::new()));
        let consumer: BaseConsumer = config().set("enable.auto.commit", "false").create().unwrap();
        let mut list = TopicPartitionList::new();
        for topic in [topics::USER_ONLINE, topics::USER_OFFLINE] {
            let partitions = || {
                let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).ok()?;
                Some(metadata.topics()[0].partitions().len()).filter(|number| *number > 0)
            };
            wait_until(20, "the topics", || partitions().is_some());
            for partition in 0..i32::try_from(partitions().unwrap()).unwrap() {
                let end = || consumer.fetch_watermarks(topic, partition, PATIENCE).ok();
                wait_until(20, "the topic's end", || end().is_some());
                let at = Offset::Offset(end().unwrap().1);
                list.add_partition_offset(topic, partition, at).unwrap();
            }
        }
        consumer.assign(&list).unwrap();
        Some(Self { brokers, consumer, seen: Vec::new() })
    }

    /// What was announced of these users, read for that long.
    pub(crate) fn announced(&mut self, users: &[Uuid], read_for: Duration) -> Vec<(Uuid, bool)> {
        let end = Instant::now() + read_for;
        while Instant::now() < end {
            let Some(Ok(message)) = self.consumer.poll(Duration::from_millis(20)) else { continue };
            let frame = ServerFrame::decode(message.payload().unwrap()).unwrap();
            let Some(server_frame::Frame::Event(event)) = frame.frame else { panic!("no event") };
            let Some(event::Kind::PresenceChanged(it)) = event.kind else { panic!("no presence") };
            assert_eq!(message.key().unwrap(), it.user_id);
            assert_eq!(message.topic() == topics::USER_ONLINE, it.online);
            self.seen.push((Uuid::from_slice(&it.user_id).unwrap(), it.online));
        }
        self.seen.iter().filter(|it| users.contains(&it.0)).copied().collect()
    }

    /// Waits until that many announcements of these users came; returns them.
    pub(crate) fn wait_for(
        &mut self,
        users: &[Uuid],
        number: usize,
        seconds: u64,
    ) -> Vec<(Uuid, bool)> {
        let end = Instant::now() + Duration::from_secs(seconds);
        loop {
            let seen = self.announced(users, Duration::from_millis(50));
            if seen.len() >= number || Instant::now() > end {
                return seen;
            }
        }
    }
}

/// A running presenced, with timings twenty times shorter than usual.
pub(crate) struct Presenced {
    child: Child,
    admin: String,
    pub(crate) link: String,
}

pub(crate) const HEARTBEAT: Duration = Duration::from_millis(1_000);

impl Presenced {
    pub(crate) fn start(redis: &Redis, brokers: &str) -> Self {
        Self::start_at(format!("127.0.0.1:{}", free_port()), redis, brokers)
    }

    pub(crate) fn start_at(link: String, redis: &Redis, brokers: &str) -> Self {
        let admin = format!("127.0.0.1:{}", free_port());
        let child = Command::new(env!("CARGO_BIN_EXE_presenced"))
            .env("REALCHAT_PRESENCED_ADMIN_LISTEN", &admin)
            .env("REALCHAT_PRESENCED_LINK_LISTEN", &link)
            .env("REALCHAT_PRESENCED_LINK_SECRET", SECRET)
            .env("REALCHAT_PRESENCED_REDIS_URL", redis.url())
            .env("REALCHAT_PRESENCED_KAFKA_BROKERS", brokers)
            .env("REALCHAT_PRESENCED_PRESENCE_EXPIRY_MS", "3500")
            .env("REALCHAT_PRESENCED_PRESENCE_HEARTBEAT_MS", "1000")
            .env("REALCHAT_PRESENCED_PRESENCE_GATEWAY_LEASE_MS", "2500")
            .env("REALCHAT_PRESENCED_PRESENCE_GRACE_MS", "500")
            .env("REALCHAT_PRESENCED_PRESENCE_RESTART_GRACE_MS", "1000")
            .spawn();
        Self { child: child.unwrap(), admin, link }
    }

    pub(crate) fn ready(&self) -> String {
        let Ok(mut stream) = TcpStream::connect(&self.admin) else { return "no answer".into() };
        let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
        let _ = write!(stream, "GET /readyz HTTP/1.1\r\n\r\n");
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready().starts_with("HTTP/1.1 200")
    }

    pub(crate) fn terminate(&mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.child.wait().unwrap().code()
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Presenced {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

type Answer = Result<response::Response, LinkError>;

/// The gateway's end of the link.
pub(crate) struct Gateway {
    name: &'static str,
    run: Uuid,
    client: Client<Sender<Answer>>,
}

pub(crate) fn session(user: Uuid, device: Uuid, connection: u64) -> PresenceSession {
    let (user_id, device_id) = (user.as_bytes().to_vec(), device.as_bytes().to_vec());
    PresenceSession { user_id, device_id, connection }
}

impl Gateway {
    pub(crate) fn connect(name: &'static str, link: &str) -> Self {
        let settings = ClientSettings {
            address: link.to_owned(),
            secret: SECRET.into(),
            instance: name.into(),
            in_flight_max: 100,
        };
        let on_answer = |to: Sender<Answer>, answer| {
            let _ = to.send(answer);
        };
        let client = Client::start(settings, on_answer, |_| {}).unwrap();
        wait_until(10, "the link", || client.is_connected());
        Self { name, run: proto::id::new(), client }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.client.is_connected()
    }

    pub(crate) fn report(&self, report: PresenceReport) -> Answer {
        let report = PresenceReport {
            gateway_id: self.name.into(),
            gateway_run_id: self.run.as_bytes().to_vec(),
            ..report
        };
        self.ask(request::Request::PresenceReport(report))
    }

    pub(crate) fn connected(&self, sessions: Vec<PresenceSession>) {
        let report = PresenceReport { connected: sessions, ..PresenceReport::default() };
        assert!(matches!(self.report(report), Ok(response::Response::Accepted(_))));
    }

    pub(crate) fn disconnected(&self, sessions: Vec<PresenceSession>) {
        let report = PresenceReport { disconnected: sessions, ..PresenceReport::default() };
        assert!(matches!(self.report(report), Ok(response::Response::Accepted(_))));
    }

    /// As heartbeats; what is answered.
    pub(crate) fn heartbeat(&self, sessions: &[PresenceSession]) -> Answer {
        let heartbeats = sessions.to_vec();
        self.report(PresenceReport { heartbeats, ..PresenceReport::default() })
    }

    /// (online, last seen) of each user that presenced has a state for.
    pub(crate) fn query(&self, users: &[Uuid]) -> Vec<(Uuid, bool, u64)> {
        let query = PresenceQuery { user_ids: proto::id::pack(users) };
        match self.ask(request::Request::PresenceQuery(query)) {
            Ok(response::Response::PresenceQuery(result)) => {
                let state = |it: &proto::client::PresenceChanged| {
                    let user = Uuid::from_slice(&it.user_id).unwrap();
                    (user, it.online, it.last_seen_at_us)
                };
                result.states.iter().map(state).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    /// The run that began without knowing who was online, if presenced's is such a one.
    pub(crate) fn blank_run(&self) -> Vec<u8> {
        match self.ask(request::Request::PresenceQuery(PresenceQuery::default())) {
            Ok(response::Response::PresenceQuery(result)) => result.blank_run_id,
            other => panic!("{other:?}"),
        }
    }

    fn ask(&self, request: request::Request) -> Answer {
        let (to, answers): (_, Receiver<Answer>) = channel();
        if let Err((_, error)) = self.client.submit(request, String::new(), PATIENCE, to) {
            return Err(error);
        }
        answers.recv_timeout(PATIENCE).unwrap()
    }
}
