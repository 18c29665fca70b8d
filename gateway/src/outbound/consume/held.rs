//! A Kafka thread's part in large conversations: what `large.rs` decides is mailed, and a record that
//! waits keeps its partition's offset from being committed and its shards' watermarks from passing it.

use super::fetch::{Fetched, Fetcher};
use super::large::{Action, Incoming, Large};
use super::record::{self, Headers, RecordError};
use super::roster::Roster;
use super::worker::Routing;
use crate::limits::RECIPIENTS_PER_LETTER_MAX;
use crate::mail::{Delivery, Mail, Missed, Recipients, Skipped};
use crate::metrics::Lane;
use crate::outbound::offsets::ShardSet;
use bytes::Bytes;
use proto::Uuid;
use std::time::Instant;

/// A record of the log that may have to wait.
#[derive(Debug)]
pub(super) struct Record {
    /// The partition, by its place among the thread's.
    index: usize,
    /// Recipients that it names.
    named: Box<[Uuid]>,
    /// Without recipients.
    delivery: Delivery,
}

/// What a Kafka thread keeps for large conversations.
pub(super) struct Crowds {
    large: Large<Record>,
    fetcher: Fetcher,
    actions: Vec<Action<Record>>,
    started_at: Instant,
}

impl Crowds {
    pub(super) fn new(shards: usize, fetcher: Fetcher) -> Self {
        let (large, actions) = (Large::new(shards), Vec::new());
        Self { large, fetcher, actions, started_at: Instant::now() }
    }

    /// Whether a record of the log is to be given to [`Routing::take_large`].
    pub(super) fn concern(&self, conversation: &Uuid, headers: &Headers<'_>) -> bool {
        headers.member_count > 0 || (headers.sequence_number > 0 && self.large.knows(conversation))
    }

    /// Whether an answer is awaited.
    pub(super) fn are_awaited(&self) -> bool {
        self.large.is_waiting()
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started_at.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Routing {
    /// A record of a large conversation's log; says which shards were mailed.
    pub(super) fn take_large(
        &mut self,
        index: usize,
        headers: &Headers<'_>,
        delivery: Delivery,
    ) -> Result<ShardSet, RecordError> {
        if headers.sequence_number == 0 {
            return Ok(self.tell_members(index, &delivery));
        }
        let named: Box<[Uuid]> = headers.named()?.collect();
        if headers.member_count == 0 {
            record::check_named(named.len())?;
        }
        let change = headers.membership.then(|| record::change(&delivery.frame)).transpose()?;
        let incoming = Incoming {
            conversation: delivery.conversation,
            sequence_number: delivery.sequence_number,
            member_count: usize::try_from(headers.member_count).unwrap_or(usize::MAX),
            change,
            bytes: delivery.frame.len() + headers.recipients.len(),
            record: Record { index, named, delivery },
        };
        let offset = incoming.record.delivery.offset;
        let mailboxes = self.shared.mailboxes.clone();
        let home = |user: &Uuid| mailboxes.home(user);
        let Some(crowds) = &mut self.crowds else { return Err(RecordError::NoRecipients) };
        let now_ms = crowds.now_ms();
        let mut actions = std::mem::take(&mut crowds.actions);
        let taken = crowds.large.take(incoming, &home, now_ms, &mut actions);
        // Before anything behind it is mailed.
        if actions.iter().any(|it| matches!(it, Action::Hold(_))) {
            self.tracker.hold(index, offset);
            self.tell_late(index);
        }
        let concerned = self.act(actions);
        taken.map_err(|_| RecordError::TooManyLarge)?;
        Ok(concerned)
    }

    /// Delivers what has waited for answers that have come; gives up what has waited for too long.
    pub(super) fn take_answers(&mut self) {
        let Some(crowds) = &mut self.crowds else { return };
        if !crowds.are_awaited() {
            return;
        }
        let mailboxes = self.shared.mailboxes.clone();
        let home = |user: &Uuid| mailboxes.home(user);
        let now_ms = crowds.now_ms();
        let mut actions = std::mem::take(&mut crowds.actions);
        while let Some(Fetched { conversation, sequence_number, users }) = crowds.fetcher.answer() {
            self.ledger.rosters_fetched.inc();
            crowds.large.answered(
                conversation,
                sequence_number,
                users,
                &home,
                now_ms,
                &mut actions,
            );
        }
        crowds.large.tick(now_ms, &mut actions);
        let concerned = self.act(actions);
        self.concerned.union(&concerned);
        self.wanted.union(&concerned);
        for index in 0..self.partitions.len() {
            self.tell_late(index);
        }
    }

    fn act(&mut self, mut actions: Vec<Action<Record>>) -> ShardSet {
        let mut all = ShardSet::default();
        for action in actions.drain(..) {
            let concerned = match action {
                Action::Deliver(record, roster) => self.deliver(record, Some(&roster)),
                Action::DeliverNamed(record) => self.deliver(record, None),
                Action::Hold(_) => ShardSet::default(),
                Action::Ask(conversation, sequence_number) => {
                    if let Some(crowds) = &self.crowds {
                        crowds.fetcher.ask(conversation, sequence_number);
                    }
                    ShardSet::default()
                }
                Action::Skip(record) => {
                    self.let_go(&record, &ShardSet::default());
                    ShardSet::default()
                }
                Action::Shed(record) => {
                    self.shed(&record);
                    ShardSet::default()
                }
                Action::Tell { conversation, from, to, roster } => {
                    self.tell_missed(conversation, (from, to), &roster)
                }
            };
            all.union(&concerned);
        }
        if let Some(crowds) = &mut self.crowds {
            crowds.actions = actions;
            let gauge = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
            self.ledger.roster_bytes.set(gauge(crowds.large.bytes()));
            self.ledger.records_held.set(gauge(crowds.large.held_records()));
        }
        all
    }

    fn deliver(&mut self, record: Record, roster: Option<&Roster>) -> ShardSet {
        let named = roster.is_none().then(|| {
            Roster::new(record.named.iter().copied(), self.shared.mailboxes.len(), &|user| {
                self.shared.mailboxes.home(user)
            })
        });
        let Some(roster) = roster.or(named.as_ref()) else { return ShardSet::default() };
        let concerned = self.mail(record.index, &record.delivery, roster);
        self.let_go(&record, &concerned);
        concerned
    }

    /// What stands beside the log, to whoever is a member at that place of it. Where they are not known
    /// it is shed: it is not worth asking for them, and nothing has to wait for it.
    fn tell_members(&self, index: usize, delivery: &Delivery) -> ShardSet {
        let roster = self.crowds.as_ref().and_then(|it| it.large.roster(&delivery.conversation));
        let Some(roster) = roster else {
            self.ledger.summaries_shed.inc();
            return ShardSet::default();
        };
        self.mail(index, delivery, roster)
    }

    fn mail(&self, index: usize, delivery: &Delivery, roster: &Roster) -> ShardSet {
        let mut concerned = ShardSet::default();
        for (shard, recipients) in roster.parts(RECIPIENTS_PER_LETTER_MAX) {
            concerned.insert(shard);
            self.ledger.deliveries.inc();
            self.ledger.partitions[index].recipients.inc_by(recipients.len() as u64);
            let delivery = Delivery { recipients, ..delivery.clone() };
            // A shard that has ended is one of a gateway that stops.
            let _ = self.shared.mailboxes.get(shard).post(Mail::Deliver(delivery));
        }
        concerned
    }

    /// A record that waited waits no more, once these shards have it.
    fn let_go(&mut self, record: &Record, shards: &ShardSet) {
        self.tracker.release(record.index, record.delivery.offset, self.ticket + 1, shards);
    }

    fn shed(&mut self, record: &Record) {
        self.ledger.records_shed.inc();
        self.let_go(record, &ShardSet::default());
        let (conversation_id, sequence_number) =
            (record.delivery.conversation, record.delivery.sequence_number);
        tracing::warn!(%conversation_id, sequence_number, "members not known in time: a gap");
        self.forget_before_now(record.index);
    }

    /// Members are told to sync, and what the cache of recent events has of the partition so far
    /// answers nobody any more.
    fn tell_missed(
        &mut self,
        conversation: Uuid,
        (from, to): (u64, u64),
        roster: &Roster,
    ) -> ShardSet {
        let mut concerned = ShardSet::default();
        for (shard, recipients) in roster.parts(RECIPIENTS_PER_LETTER_MAX) {
            concerned.insert(shard);
            let missed = Missed { recipients, conversation, from, to };
            let _ = self.shared.mailboxes.get(shard).post(Mail::Missed(missed));
        }
        for index in 0..self.partitions.len() {
            self.forget_before_now(index);
        }
        concerned
    }

    fn forget_before_now(&mut self, index: usize) {
        let partition = u16::try_from(self.partitions[index].partition).unwrap_or(u16::MAX);
        let Some(next) = self.tracker.next_offset(index) else { return };
        for mailbox in self.shared.mailboxes.iter() {
            let positions = [(partition, next)].as_slice().into();
            let _ = mailbox.send(Mail::Tail {
                log: self.shared.log,
                positions,
                skipped: Skipped::Told,
            });
        }
    }

    /// Tells the shards from where on a partition's records may come late, if that has changed.
    fn tell_late(&mut self, index: usize) {
        let Some(from) = self.tracker.held_changed(index) else { return };
        let partition = u16::try_from(self.partitions[index].partition).unwrap_or(u16::MAX);
        for mailbox in self.shared.mailboxes.iter() {
            let _ = mailbox.post(Mail::Late { partition, from });
        }
    }
}

/// A delivery whose recipients are still to be found.
pub(super) fn undirected(
    conversation: Uuid,
    headers: &Headers<'_>,
    frame: Bytes,
    (partition, offset): (u16, i64),
    lane: Lane,
) -> Delivery {
    Delivery {
        recipients: Recipients::Own(Box::default()),
        frame,
        conversation,
        sequence_number: headers.sequence_number,
        priority: headers.priority,
        lane,
        partition,
        offset,
        membership: headers.membership,
        created_at_us: headers.created_at_us,
    }
}
