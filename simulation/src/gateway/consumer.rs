//! The log in: fetched, routed to the shards' mailboxes, and its offsets committed.

use super::shard::Letter;
use super::{Event, Gateway, home, partitions};
use crate::Outside;
use crate::broker::LogRecord;
use crate::bugs::Bug;
use crate::bus::Process;
use crate::kafka;
use crate::limits::{FETCH_AGAIN_US, FETCH_RECORDS_MAX, HOUSE_US, RECOMMIT_HOUSES};
use ::gateway::rules::{
    Delivery, Headers, Lane, Recipients, RecordError, ShardSet, check_value, choose,
};
use proto::{Uuid, topics};
use std::rc::Rc;

/// A record, its partition and its offset.
pub(crate) type Fetched = (usize, i64, Rc<LogRecord>);

impl Gateway {
    pub(super) fn fix_positions(&mut self, outside: &mut Outside) {
        for partition in partitions() {
            let end = outside.broker.end(topics::MESSAGE_CREATED, partition);
            let committed = outside.broker.committed(self.me, partition);
            // Now and then what was committed is too old to go on from.
            let recent = outside.bus.random.u8(..4) > 0;
            let start = choose(committed, recent.then_some(0), end);
            self.tracker.add_partition(Some(start));
        }
    }

    pub(super) fn fetch(&mut self, outside: &mut Outside) {
        let now_us = outside.bus.now_us();
        let is_waiting = self.fetching.is_some_and(|since| since + FETCH_AGAIN_US > now_us);
        if !self.listens || is_waiting {
            return;
        }
        self.fetching = None;
        if !outside.bus.reaches(self.process(), Process::Kafka) {
            return;
        }
        let mut records = Vec::new();
        for partition in partitions() {
            let Some(next) = self.tracker.next_offset(partition) else { continue };
            let topic = topics::MESSAGE_CREATED;
            let found = outside.broker.fetch(topic, partition, next, FETCH_RECORDS_MAX);
            records.extend(found.into_iter().map(|(at, it)| (partition, at, Rc::new(it))));
        }
        if records.is_empty() {
            return;
        }
        self.fetching = Some(now_us);
        // Read twice, as after a change of hands between the two readers.
        if outside.bus.is_stormy && outside.bus.random.u8(..30) == 0 {
            let event = crate::Event::Gateway(Event::Fetched(records.clone()));
            outside.bus.send(Process::Kafka, self.process(), event);
        }
        let event = crate::Event::Gateway(Event::Fetched(records));
        outside.bus.send(Process::Kafka, self.process(), event);
    }

    pub(super) fn fetched(&mut self, outside: &mut Outside, records: Vec<Fetched>) {
        self.fetching = None;
        let mut concerned = ShardSet::default();
        for (partition, offset, record) in records {
            if self.tracker.next_offset(partition).is_some_and(|next| offset > next) {
                // An answer to an earlier question; it is asked for again.
                continue;
            }
            let shards = match self.route(partition, offset, &record) {
                Ok(shards) => shards,
                Err(_) if outside.bug == Some(Bug::StopsAtPoison) => continue,
                // A dead letter, and concerns nobody.
                Err(_) => {
                    outside.met.dead_letters += 1;
                    ShardSet::default()
                }
            };
            concerned.union(&shards);
            self.tracker.record(partition, offset, self.ticket + 1, &shards);
        }
        self.ticket += 1;
        for shard in concerned.iter() {
            self.mail(outside, shard, Letter::Ticket(self.ticket));
        }
        self.after(outside, 0, Event::Fetch);
    }

    fn route(
        &mut self,
        partition: usize,
        offset: i64,
        record: &LogRecord,
    ) -> Result<ShardSet, RecordError> {
        let conversation = proto::id::from_field("the record's key", &record.key)?;
        check_value(&record.value)?;
        let pairs = record.headers.iter().map(|(name, value)| (name.as_bytes(), value.as_slice()));
        let headers = Headers::read(pairs)?;
        let frame = record.value.clone();
        let shards = &mut self.shards;
        self.router.route(headers.recipients, home, |shard, recipients: Box<[Uuid]>| {
            let delivery = Delivery {
                recipients: Recipients::Own(recipients),
                frame: frame.clone().into(),
                conversation,
                sequence_number: headers.sequence_number,
                priority: headers.priority,
                lane: Lane::NONE,
                partition: u16::try_from(partition).unwrap_or(0),
                offset,
                membership: headers.membership,
                created_at_us: headers.created_at_us,
            };
            shards[usize::from(shard)].letters.push_back(Letter::Deliver(delivery));
        })
    }

    pub(super) fn mail(&mut self, outside: &mut Outside, shard: u16, letter: Letter) {
        let place = &mut self.shards[usize::from(shard)];
        place.letters.push_back(letter);
        if !std::mem::replace(&mut place.wakes, true) {
            let delay_us = outside.bus.delay_us();
            self.after(outside, delay_us, Event::Letters { shard });
        }
    }

    /// Tells every shard how far the log was mailed to it.
    pub(super) fn tell_positions(&mut self, outside: &mut Outside) {
        let position = |partition: usize| {
            let next = self.tracker.next_offset(partition)?;
            Some((u16::try_from(partition).ok()?, next))
        };
        let positions: Vec<(u16, i64)> = partitions().filter_map(position).collect();
        for shard in 0..crate::limits::GATEWAY_SHARDS {
            if self.shards[usize::from(shard)].told != positions {
                self.shards[usize::from(shard)].told.clone_from(&positions);
                self.mail(outside, shard, Letter::Tail(positions.clone()));
            }
        }
    }

    pub(super) fn keep_house(&mut self, outside: &mut Outside) {
        let shards = &self.shards;
        let is_early = outside.bug == Some(Bug::CommitBeforeEnqueue);
        let stored =
            |shard: u16| if is_early { u64::MAX } else { shards[usize::from(shard)].stored };
        self.tracker.advance(stored);
        self.houses += 1;
        if self.houses.is_multiple_of(RECOMMIT_HOUSES) {
            self.tracker.commit_all();
        }
        let due = self.tracker.take_due();
        if !due.is_empty() {
            self.check_enqueued(outside, &due);
            let event = kafka::Event::Commit { group: self.me, offsets: due };
            outside.bus.send(self.process(), Process::Kafka, crate::Event::Kafka(event));
        }
        self.tell_positions(outside);
        self.tell_watermarks(outside);
        self.after(outside, HOUSE_US, Event::House);
        self.after(outside, 0, Event::Fetch);
    }

    /// A second opinion: what lies in a mailbox was not enqueued.
    fn check_enqueued(&self, outside: &mut Outside, due: &[(usize, i64)]) {
        let letters = self.shards.iter().flat_map(|shard| &shard.letters);
        let waiting = letters.filter_map(|letter| match letter {
            Letter::Deliver(it) => Some((usize::from(it.partition), it.offset)),
            _ => None,
        });
        for (partition, offset) in waiting {
            let committed = due.iter().find(|it| it.0 == partition).map(|it| it.1);
            // What was read twice lies there again.
            if committed.is_some_and(|it| it > offset && self.is_first(partition, offset)) {
                outside.violate(format!(
                    "gateway {} commits {committed:?} of partition {partition}, \
                     but {offset} is not enqueued",
                    self.me
                ));
            }
        }
    }

    /// No shard has had this record.
    fn is_first(&self, partition: usize, offset: i64) -> bool {
        !self.shards.iter().any(|shard| shard.taken.contains(&(partition, offset)))
    }
}
