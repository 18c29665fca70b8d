//! The log, fetched by the Kafka thread itself: one request under way at each leader of its partitions,
//! in a fetch session, so that a record costs one request, one answer and no thread in between. All
//! that is not plain ends it, and the library reads on from the same offsets: a leader that moved, an
//! offset out of range, a compressed batch, a broker that is gone.

use super::client::Consumer;
use super::wire::{self, Record, Session, WireError};
use crate::limits::{
    KAFKA_ANSWER_BYTES_MAX, KAFKA_ASK_MS_MAX, KAFKA_CONNECT_MS_MAX, KAFKA_FETCH_MS_MAX,
    KAFKA_HEAD_BYTES, KAFKA_INPUT_BYTES, KAFKA_LOW_WATER_BYTES_MAX, KAFKA_OVERDUE_MS,
};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rdkafka::consumer::Consumer as _;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::ToSocketAddrs;
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

mod pace;
use pace::Pace;

const CONNECT: Duration = Duration::from_millis(KAFKA_CONNECT_MS_MAX);
/// A request's answer; it waits for records for a part of that.
const ANSWER: Duration = Duration::from_millis(KAFKA_ASK_MS_MAX + KAFKA_FETCH_MS_MAX as u64);
/// A request without an answer for so long has one without records, or none that wakes.
const OVERDUE: Duration = Duration::from_millis(KAFKA_OVERDUE_MS);
/// The broker has forgotten the session, or the answer to its last request was lost.
const SESSION_ERRORS: [i16; 2] = [70, 71];

/// Why it ended, for a person.
#[derive(Debug, thiserror::Error)]
pub(super) enum DirectError {
    #[error("the partitions' leaders are not known: {0}")]
    Leaders(String),
    #[error("broker {0}: {1}")]
    Connection(String, io::Error),
    #[error("a broker gave no answer in time")]
    Late,
    #[error("an answer of {0} bytes; at most {KAFKA_ANSWER_BYTES_MAX} are allowed")]
    AnswerSize(i32),
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// A partition and where its reading goes on.
struct Followed {
    partition: i32,
    next: i64,
    high_watermark: Option<i64>,
    /// The broker does not know `next` yet.
    is_new: bool,
}

struct Leader {
    name: String,
    stream: TcpStream,
    partitions: Vec<Followed>,
    session: Session,
    correlation: i32,
    /// A request is under way.
    is_asked: bool,
    /// When the last one was sent.
    asked_at: Option<Instant>,
    pace: Pace,
    output: Vec<u8>,
    written: usize,
    input: Vec<u8>,
    filled: usize,
    /// Bytes that wake the thread; see [`Leader::await_bytes`].
    low_water: usize,
}

pub(super) struct Direct {
    client: String,
    topic: &'static str,
    poll: Poll,
    events: Events,
    leaders: Vec<Leader>,
}

impl Direct {
    /// Connects to the leaders of these partitions, each with the offset at which to go on.
    pub(super) fn connect(
        consumer: &Consumer,
        client: &str,
        topic: &'static str,
        partitions: &[(i32, i64)],
    ) -> Result<Self, DirectError> {
        let unknown = |what: &str| DirectError::Leaders(what.to_owned());
        let metadata = consumer.fetch_metadata(Some(topic), CONNECT);
        let metadata = metadata.map_err(|error| DirectError::Leaders(error.to_string()))?;
        let found = metadata.topics().first().ok_or(unknown("no such topic"))?;
        let mut leaders: BTreeMap<String, Vec<(i32, i64)>> = BTreeMap::new();
        for (partition, next) in partitions {
            let known = found.partitions().iter().find(|it| it.id() == *partition);
            let known = known.filter(|it| it.error().is_none());
            let id = known.ok_or(unknown("a partition has none"))?.leader();
            let broker = metadata.brokers().iter().find(|it| it.id() == id);
            let broker = broker.ok_or(unknown("a leader is no broker"))?;
            let name = format!("{}:{}", broker.host(), broker.port());
            leaders.entry(name).or_default().push((*partition, *next));
        }
        Self::open(client, topic, leaders)
    }

    pub(super) fn topic(&self) -> &'static str {
        self.topic
    }

    /// With the partitions of each broker, by its host and port.
    fn open(
        client: &str,
        topic: &'static str,
        brokers: BTreeMap<String, Vec<(i32, i64)>>,
    ) -> Result<Self, DirectError> {
        let poll = Poll::new().map_err(|error| DirectError::Connection("epoll".into(), error))?;
        let mut leaders = Vec::with_capacity(brokers.len());
        for (name, partitions) in brokers {
            match connect(&name, &poll, Token(leaders.len())) {
                Ok(stream) => leaders.push(Leader::new(name, stream, &partitions)),
                Err(error) => return Err(DirectError::Connection(name, error)),
            }
        }
        let (client, events) = (client.to_owned(), Events::with_capacity(16));
        Ok(Self { client, topic, poll, events, leaders })
    }

    /// Waits for an answer up to `patience`, and hands on the records of those that came, each with
    /// its partition.
    pub(super) fn poll(
        &mut self,
        patience: Duration,
        mut take: impl FnMut(i32, Record<'_>),
    ) -> Result<(), DirectError> {
        let pause = self.leaders.iter().map(Leader::pause).min().unwrap_or_default();
        if self.leaders.iter().all(|it| !it.is_asked) {
            // The poll knows no less than a millisecond.
            std::thread::sleep(pause);
        }
        let mut patience = patience;
        for leader in &mut self.leaders {
            match leader.pause() {
                _ if leader.is_asked => {}
                Duration::ZERO => leader.ask(&self.client, self.topic)?,
                pause => patience = patience.min(pause),
            }
            if let Some(left) = leader.until_overdue() {
                // Not a little too early: what is overdue is looked at once.
                patience = patience.min(left + Duration::from_millis(1));
            }
        }
        match self.poll.poll(&mut self.events, Some(patience)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                return Err(DirectError::Connection("epoll".into(), error));
            }
            _ => {}
        }
        for event in &self.events {
            let Some(leader) = self.leaders.get_mut(event.token().0) else { continue };
            leader.write()?;
            leader.read(&mut take)?;
        }
        for leader in &mut self.leaders {
            if leader.until_overdue() == Some(Duration::ZERO) {
                leader.await_bytes(1);
                leader.read(&mut take)?;
            }
        }
        let is_late =
            |it: &Leader| it.is_asked && it.asked_at.is_some_and(|at| at.elapsed() > ANSWER);
        if self.events.is_empty() && self.leaders.iter().any(is_late) {
            return Err(DirectError::Late);
        }
        Ok(())
    }

    /// The offset of the record that will be produced next, as of the last answer.
    pub(super) fn high_watermark(&self, partition: i32) -> Option<i64> {
        let mut followed = self.leaders.iter().flat_map(|it| &it.partitions);
        followed.find(|it| it.partition == partition)?.high_watermark
    }
}

fn connect(name: &str, poll: &Poll, token: Token) -> io::Result<TcpStream> {
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in name.to_socket_addrs()? {
        match std::net::TcpStream::connect_timeout(&address, CONNECT) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                let mut stream = TcpStream::from_std(stream);
                let interest = Interest::READABLE | Interest::WRITABLE;
                poll.registry().register(&mut stream, token, interest)?;
                return Ok(stream);
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

impl Leader {
    fn new(name: String, stream: TcpStream, partitions: &[(i32, i64)]) -> Self {
        let followed = |(partition, next): &(i32, i64)| Followed {
            partition: *partition,
            next: *next,
            high_watermark: None,
            is_new: true,
        };
        Self {
            name,
            stream,
            partitions: partitions.iter().map(followed).collect(),
            session: Session::default(),
            correlation: 0,
            is_asked: false,
            asked_at: None,
            pace: Pace::new(Instant::now()),
            output: Vec::new(),
            written: 0,
            input: Vec::new(),
            filled: 0,
            low_water: 1,
        }
    }

    /// Until the next request may be sent.
    fn pause(&self) -> Duration {
        self.pace.pause(self.asked_at, Instant::now())
    }

    fn ask(&mut self, client: &str, topic: &str) -> Result<(), DirectError> {
        self.correlation = self.correlation.wrapping_add(1);
        (self.written, self.filled) = (0, 0);
        self.output.clear();
        let changed: Vec<(i32, i64)> = self
            .partitions
            .iter()
            .filter(|it| it.is_new)
            .map(|it| (it.partition, it.next))
            .collect();
        let changed = changed.into_iter();
        let (correlation, session) = (self.correlation, self.session);
        wire::request(client, correlation, session, topic, changed, &mut self.output);
        self.partitions.iter_mut().for_each(|it| it.is_new = false);
        (self.is_asked, self.asked_at) = (true, Some(Instant::now()));
        self.await_bytes(KAFKA_HEAD_BYTES);
        self.write()
    }

    /// Until an answer that did not wake the thread is to be looked for; none if any byte does wake it.
    fn until_overdue(&self) -> Option<Duration> {
        let asked_at = self.asked_at.filter(|_| self.is_asked && self.low_water > 1)?;
        Some(OVERDUE.saturating_sub(asked_at.elapsed()))
    }

    /// Wakes the thread once so many bytes are there (`SO_RCVLOWAT`): brokers send an answer piece by
    /// piece, its head and each partition's records, and no piece but the last is of use.
    fn await_bytes(&mut self, bytes: usize) {
        let bytes = bytes.clamp(1, KAFKA_LOW_WATER_BYTES_MAX);
        if bytes == self.low_water {
            return;
        }
        let value = libc::c_int::try_from(bytes).unwrap_or(1);
        // SAFETY: the descriptor is this stream's, and the value is an integer of the size that is told.
        let failed = unsafe {
            libc::setsockopt(
                self.stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVLOWAT,
                (&raw const value).cast(),
                libc::socklen_t::try_from(size_of_val(&value)).unwrap_or_default(),
            )
        };
        // Where it cannot be set, every piece wakes.
        self.low_water = if failed == 0 { bytes } else { 1 };
    }

    fn failed(&self, error: io::Error) -> DirectError {
        DirectError::Connection(self.name.clone(), error)
    }

    fn write(&mut self) -> Result<(), DirectError> {
        while self.written < self.output.len() {
            match self.stream.write(&self.output[self.written..]) {
                Ok(bytes) => self.written += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok(())
    }

    /// Reads until the answer is whole or the socket is empty.
    fn read(&mut self, take: &mut impl FnMut(i32, Record<'_>)) -> Result<(), DirectError> {
        while self.is_asked {
            let wanted = self.wanted()?;
            if self.input.len() < wanted {
                self.input.resize(wanted, 0);
            }
            let room = self.input.len() - self.filled;
            let mut is_empty = false;
            match self.stream.read(&mut self.input[self.filled..]) {
                Ok(0) => return Err(self.failed(io::ErrorKind::UnexpectedEof.into())),
                Ok(bytes) => {
                    self.filled += bytes;
                    is_empty = bytes < room;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(error)),
            }
            if self.filled >= 4 && self.filled >= self.wanted()? {
                self.answered(take)?;
            } else if is_empty {
                let is_sized = self.filled >= 4;
                let missing = if is_sized { self.wanted()? - self.filled } else { 1 };
                self.await_bytes(missing);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Bytes of the answer with its length in front, or of a first read while that is not here.
    fn wanted(&self) -> Result<usize, DirectError> {
        let Some(length) = self.input[..self.filled].first_chunk() else {
            return Ok(KAFKA_INPUT_BYTES);
        };
        let length = i32::from_be_bytes(*length);
        match usize::try_from(length) {
            Ok(bytes) if bytes <= KAFKA_ANSWER_BYTES_MAX => Ok(bytes + 4),
            _ => Err(DirectError::AnswerSize(length)),
        }
    }

    fn answered(&mut self, take: &mut impl FnMut(i32, Record<'_>)) -> Result<(), DirectError> {
        self.is_asked = false;
        let (partitions, mut records) = (&mut self.partitions, 0);
        let outcome = wire::answer(&self.input[4..self.filled], self.correlation, |part| {
            let followed = partitions.iter_mut().find(|it| it.partition == part.partition);
            let Some(followed) = followed else { return Ok(()) };
            followed.high_watermark = Some(part.high_watermark);
            let before = followed.next;
            // Also where reading fails: what was handed on must not come again.
            let read = wire::records(part.batches, before, |record| {
                followed.next = record.offset + 1;
                records += 1;
                take(part.partition, record);
            });
            followed.next = followed.next.max(read?);
            if followed.next == before && !part.batches.is_empty() {
                // Larger than what was asked for.
                return Err(WireError::NotPlain);
            }
            followed.is_new = followed.next != before;
            Ok(())
        });
        self.pace.count(records, Instant::now());
        match outcome {
            Ok(id) => self.session = self.session.after(id),
            Err(WireError::Refused(error)) if SESSION_ERRORS.contains(&error) => {
                self.session = Session::default();
            }
            Err(error) => return Err(error.into()),
        }
        if self.session == Session::default() {
            self.partitions.iter_mut().for_each(|it| it.is_new = true);
        }
        if self.input.len() > KAFKA_INPUT_BYTES {
            self.input.truncate(KAFKA_INPUT_BYTES);
            self.input.shrink_to_fit();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
