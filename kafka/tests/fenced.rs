//! A client whose brokers were all fenced for a moment finds them again.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use kafka::limits::{PROBE_MS, PROBE_MS_MAX};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{BaseProducer, Producer as _};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const TOPIC: &str = "t";
const ASK: Duration = Duration::from_millis(500);
/// Two probes and what the client needs to connect.
const HEALED: Duration = Duration::from_millis(2 * (PROBE_MS + PROBE_MS_MAX) + 4_000);

/// A broker that knows two requests, the versions it has and its metadata, and can be fenced.
struct Broker {
    address: String,
    is_fenced: Arc<AtomicBool>,
}

impl Broker {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let is_fenced = Arc::new(AtomicBool::new(false));
        let fenced = Arc::clone(&is_fenced);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let fenced = Arc::clone(&fenced);
                std::thread::spawn(move || serve(stream.unwrap(), port, &fenced));
            }
        });
        Self { address: format!("127.0.0.1:{port}"), is_fenced }
    }

    /// Has whatever asks for metadata now hear of no broker; a client that `asks` has asked by then.
    fn fence_while(&self, asks: impl FnOnce() -> usize) {
        self.is_fenced.store(true, Ordering::Release);
        assert_eq!(asks(), 0, "brokers while the only one is fenced");
        self.is_fenced.store(false, Ordering::Release);
    }
}

/// Until the client goes.
fn serve(mut stream: TcpStream, port: u16, is_fenced: &AtomicBool) -> io::Result<()> {
    loop {
        let mut size = [0; 4];
        stream.read_exact(&mut size)?;
        let mut request = vec![0; u32::from_be_bytes(size) as usize];
        stream.read_exact(&mut request)?;
        let number = |at: usize| i16::from_be_bytes([request[at], request[at + 1]]);
        let mut answer = request[4..8].to_vec();
        match (number(0), number(2)) {
            (18, version) => answer.extend(versions(version)),
            (3, _) => answer.extend(metadata(port, is_fenced.load(Ordering::Acquire))),
            (key, _) => panic!("request {key}, which was not offered"),
        }
        stream.write_all(&u32::try_from(answer.len()).unwrap().to_be_bytes())?;
        stream.write_all(&answer)?;
    }
}

/// `ApiVersions` v0; a newer one is answered with an error (35) and the same list.
fn versions(asked: i16) -> Vec<u8> {
    let error: i16 = if asked == 0 { 0 } else { 35 };
    let mut out = error.to_be_bytes().to_vec();
    out.extend(2_i32.to_be_bytes());
    for (key, lowest, highest) in [(18_i16, 0_i16, 0_i16), (3, 1, 1)] {
        for it in [key, lowest, highest] {
            out.extend(it.to_be_bytes());
        }
    }
    out
}

/// `Metadata` v1: this broker, or none, and a topic of one partition.
fn metadata(port: u16, is_fenced: bool) -> Vec<u8> {
    let text =
        |text: &str| [&i16::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat();
    let (error, leader) = if is_fenced { (5_i16, -1_i32) } else { (0, 1) };
    let mut out = i32::from(!is_fenced).to_be_bytes().to_vec();
    if !is_fenced {
        out.extend(1_i32.to_be_bytes());
        out.extend(text("127.0.0.1"));
        out.extend(i32::from(port).to_be_bytes());
        out.extend((-1_i16).to_be_bytes());
    }
    out.extend(leader.to_be_bytes());
    out.extend(1_i32.to_be_bytes());
    out.extend(0_i16.to_be_bytes());
    out.extend(text(TOPIC));
    out.push(0);
    out.extend(1_i32.to_be_bytes());
    out.extend(error.to_be_bytes());
    out.extend(0_i32.to_be_bytes());
    out.extend(leader.to_be_bytes());
    for _ in ["replicas", "in sync"] {
        out.extend(1_i32.to_be_bytes());
        out.extend(1_i32.to_be_bytes());
    }
    out
}

fn config(broker: &Broker) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &broker.address).set("group.id", "g");
    config.set("reconnect.backoff.max.ms", "200");
    config
}

/// Whether an answer comes in time, again and again.
fn is_answered(mut ask: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + HEALED;
    while Instant::now() < until {
        if ask() {
            return true;
        }
    }
    false
}

#[test]
fn a_producer_whose_brokers_were_all_fenced_finds_them_again() {
    let broker = Broker::start();
    let producer: BaseProducer = config(&broker).create().unwrap();
    let producer = kafka::guard(producer, &broker.address).unwrap();
    let ask = || producer.client().fetch_metadata(Some(TOPIC), ASK).map(|it| it.brokers().len());
    assert!(is_answered(|| ask() == Ok(1)), "the broker was never found");
    for _ in 0..3 {
        broker.fence_while(|| ask().unwrap());
        assert!(is_answered(|| ask() == Ok(1)), "no broker was found again");
    }
}

#[test]
fn a_consumer_whose_brokers_were_all_fenced_finds_them_again() {
    let broker = Broker::start();
    let consumer: BaseConsumer = config(&broker).create().unwrap();
    let consumer = kafka::guard(consumer, &broker.address).unwrap();
    let ask = || consumer.fetch_metadata(Some(TOPIC), ASK).map(|it| it.brokers().len());
    assert!(is_answered(|| ask() == Ok(1)), "the broker was never found");
    for _ in 0..3 {
        broker.fence_while(|| ask().unwrap());
        assert!(is_answered(|| ask() == Ok(1)), "no broker was found again");
    }
}
