//! One thread a client: asks it for metadata now and then, and shows it the brokers if it has none.

use crate::limits::{
    ANXIOUS_PROBE_MS, CONNECT_MS_MAX, PROBE_MS, PROBE_MS_MAX, REMIND_PROBES_MAX, STACK_BYTES,
};
use rdkafka::ClientContext;
use rdkafka::admin::AdminClient;
use rdkafka::bindings;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::producer::{BaseProducer, Producer, ProducerContext};
use rdkafka::types::{RDKafka, RDKafkaRespErr};
use std::ffi::CString;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::ptr;
use std::sync::{Arc, Weak};
use std::time::Duration;

const CONNECT: Duration = Duration::from_millis(CONNECT_MS_MAX);
/// The port of a broker that is named without one, as librdkafka has it.
const PORT: u16 = 9092;

/// A client of librdkafka.
pub trait Client: Send + Sync + 'static {
    /// The library's client, which lives as long as this.
    fn native(&self) -> *mut RDKafka;
}

impl<C: ConsumerContext + 'static> Client for BaseConsumer<C> {
    fn native(&self) -> *mut RDKafka {
        self.client().native_ptr()
    }
}

impl<C: ProducerContext + 'static> Client for BaseProducer<C> {
    fn native(&self) -> *mut RDKafka {
        self.client().native_ptr()
    }
}

impl<C: ClientContext + 'static> Client for AdminClient<C> {
    fn native(&self) -> *mut RDKafka {
        self.inner().native_ptr()
    }
}

/// Sees to it, as long as somebody has the client, that it has brokers. `brokers`: its `bootstrap.servers`.
/// An error is one line for a person.
pub fn guard<T: Client>(client: T, brokers: &str) -> Result<Arc<T>, String> {
    let listed = CString::new(brokers)
        .map_err(|_| "kafka.brokers: a zero byte is in no address".to_owned())?;
    let client = Arc::new(client);
    let (guarded, brokers) = (Arc::downgrade(&client), brokers.to_owned());
    std::thread::Builder::new()
        .name("kafka-guard".into())
        .stack_size(STACK_BYTES)
        .spawn(move || run(&guarded, &brokers, &listed))
        .map(|_| client)
        .map_err(|error| format!("thread kafka-guard: {error}"))
}

fn run<T: Client>(client: &Weak<T>, brokers: &str, listed: &CString) {
    let mut reminders = Reminders::default();
    let mut pause_ms = PROBE_MS;
    loop {
        std::thread::sleep(Duration::from_millis(pause_ms));
        let Some(client) = client.upgrade() else { return };
        let found = probe(&*client);
        pause_ms = if found == Found::Answering { PROBE_MS } else { ANXIOUS_PROBE_MS };
        if found != Found::Nobody {
            reminders = Reminders::default();
        } else if is_reachable(brokers) && reminders.is_due() {
            tracing::warn!(brokers, "a Kafka client has no broker left; it is told them again");
            // SAFETY: the client is alive while it is borrowed; the list ends with a zero and is copied.
            unsafe { bindings::rd_kafka_brokers_add(client.native(), listed.as_ptr()) };
        }
    }
}

/// What a client has for a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Answering,
    /// It gives no answer, or none in time, or an error.
    Silent,
    Nobody,
}

fn probe<T: Client>(client: &T) -> Found {
    let mut metadata = ptr::null();
    let patience = i32::try_from(PROBE_MS_MAX).unwrap_or(i32::MAX);
    // SAFETY: the client is alive while it is borrowed; no topic is named (only those are asked for that
    // the client uses); `metadata` is an out parameter, which stays null or is ours to free.
    let error = unsafe {
        let (native, out) = (client.native(), &raw mut metadata);
        let error = bindings::rd_kafka_metadata(native, 0, ptr::null_mut(), out, patience);
        if !metadata.is_null() {
            bindings::rd_kafka_metadata_destroy(metadata);
        }
        error
    };
    match error {
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Found::Answering,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR__TRANSPORT => Found::Nobody,
        _ => Found::Silent,
    }
}

/// Whether something listens at one of the addresses: while Kafka is down, there is nothing to tell.
fn is_reachable(brokers: &str) -> bool {
    let addresses = brokers.split(',').flat_map(|it| resolve(it.trim()));
    addresses.into_iter().any(|it| TcpStream::connect_timeout(&it, CONNECT).is_ok())
}

/// None of an address that is not known (now).
fn resolve(broker: &str) -> Vec<SocketAddr> {
    let address = broker.split_once("://").map_or(broker, |it| it.1);
    let found = address.to_socket_addrs().or_else(|_| (address, PORT).to_socket_addrs());
    found.map(Iterator::collect).unwrap_or_default()
}

/// When the client is told again: at the first probe, then after 1, 2, 4, ... probes.
#[derive(Debug, Default)]
struct Reminders {
    next: u32,
    left: u32,
}

impl Reminders {
    fn is_due(&mut self) -> bool {
        if self.left > 0 {
            self.left -= 1;
            return false;
        }
        self.left = self.next;
        self.next = (self.next * 2 + 1).min(REMIND_PROBES_MAX);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reminders_become_rare() {
        let mut reminders = Reminders::default();
        let due: Vec<u32> = (0..100).filter(|_| reminders.is_due()).collect();
        assert_eq!(due, [0, 1, 3, 7, 15, 31, 63, 96]);
    }

    #[test]
    fn an_address_is_found_as_the_library_finds_it() {
        let port = |broker: &str| resolve(broker).first().map(SocketAddr::port);
        assert_eq!(port("127.0.0.1:19092"), Some(19092));
        assert_eq!(port("PLAINTEXT://127.0.0.1:19093"), Some(19093));
        assert_eq!(port("[::1]:19094"), Some(19094));
        assert_eq!(port("127.0.0.1"), Some(9092));
        assert_eq!(port(""), None);
    }
}
