//! The recent events of a shard's users, so that a device that was away briefly is caught up without
//! a call to chatd: with its cursors it brings the watermark up to which it had everything, and the
//! cache reaches back to it or it does not. Bounded by bytes: the oldest event makes way. Pure.

use crate::limits::{RECENT_ENTRY_BYTES, RECENT_MEMBERSHIPS_MAX};
use crate::mail::{Delivery, Recipients};
use crate::recovery::beginning::is_beginning;
use crate::recovery::watermark::Watermark;
use crate::shard::registry::IdHash;
use bytes::Bytes;
use proto::Uuid;
use proto::client::{Cursor, Verdict};
use proto::limits::CURSORS_MAX;
use std::collections::{HashMap, VecDeque};

/// There is no earlier event of the conversation.
const NONE: u64 = u64::MAX;

struct Entry {
    conversation: Uuid,
    sequence_number: u64,
    partition: usize,
    offset: i64,
    /// The conversation's event before this one, or [`NONE`].
    previous: u64,
    recipients: Recipients,
    frame: Bytes,
}

/// What one partition of the log is known of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reach {
    /// Everything for this shard's users from here on is in the cache,
    low: i64,
    /// up to here, where the next record is to come,
    next: i64,
    /// except that those from here on may still come.
    late: Option<i64>,
}

pub struct Recent {
    bytes_max: usize,
    bytes: usize,
    entries: VecDeque<Entry>,
    /// The number of the first entry; numbers only ever grow.
    first: u64,
    /// The last event of each conversation.
    last: HashMap<Uuid, u64, IdHash>,
    /// Events that changed who is a member.
    memberships: VecDeque<u64>,
    /// By partition; empty until the start positions are known.
    reach: Vec<Reach>,
    log: u64,
    /// Events by the list of recipients that they share, which is told by its address.
    shared: HashMap<usize, usize>,
}

/// One event that a device has missed.
pub struct Missed {
    pub conversation: Uuid,
    pub sequence_number: u64,
    pub frame: Bytes,
}

impl Recent {
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            bytes: 0,
            entries: VecDeque::new(),
            first: 0,
            last: HashMap::with_hasher(IdHash::new()),
            memberships: VecDeque::new(),
            reach: Vec::new(),
            log: 0,
            shared: HashMap::new(),
        }
    }

    /// Everything below these offsets was taken. A partition that is new is known from there on;
    /// with `skipped`, so is one of which records before it were skipped.
    pub fn advance(&mut self, log: u64, positions: &[(u16, i64)], skipped: bool) {
        self.log = log;
        for (partition, next) in positions {
            let partition = usize::from(*partition);
            if partition >= self.reach.len() {
                // A partition in between that nothing was heard of yet covers nothing.
                self.reach.resize(partition + 1, Reach { low: i64::MAX, next: -1, late: None });
            }
            let reach = &mut self.reach[partition];
            if skipped || reach.next < 0 {
                *reach = Reach { low: *next, next: *next, ..*reach };
            }
            reach.next = reach.next.max(*next);
        }
    }

    /// Records of a partition from this offset on may come after others; None: they have come, or
    /// the sessions are told otherwise.
    pub fn late(&mut self, partition: u16, from: Option<i64>) {
        if let Some(reach) = self.reach.get_mut(usize::from(partition)) {
            reach.late = from;
        }
    }

    /// An event of a conversation's log that was delivered.
    pub fn add(&mut self, delivery: Delivery) {
        let partition = usize::from(delivery.partition);
        let Some(reach) = self.reach.get_mut(partition) else { return };
        let is_new = delivery.offset >= reach.next.min(reach.late.unwrap_or(i64::MAX));
        if self.bytes_max == 0 || delivery.sequence_number == 0 || !is_new {
            return;
        }
        reach.next = reach.next.max(delivery.offset + 1);
        let number = self.first + self.entries.len() as u64;
        let previous = self.last.insert(delivery.conversation, number).unwrap_or(NONE);
        if delivery.membership {
            self.memberships.push_back(number);
        }
        let entry = Entry {
            conversation: delivery.conversation,
            sequence_number: delivery.sequence_number,
            partition,
            offset: delivery.offset,
            previous,
            recipients: delivery.recipients,
            frame: delivery.frame,
        };
        self.bytes += bytes_of(&entry) + self.share(&entry.recipients);
        self.entries.push_back(entry);
        while self.bytes > self.bytes_max || self.memberships.len() > RECENT_MEMBERSHIPS_MAX {
            self.forget_first();
        }
    }

    /// Bytes that the recipients take, if no other event has the same.
    fn share(&mut self, recipients: &Recipients) -> usize {
        let Recipients::Shared { all, .. } = recipients else { return 0 };
        let events = self.shared.entry(all.as_ptr().addr()).or_default();
        *events += 1;
        if *events == 1 { size_of_val(&**all) } else { 0 }
    }

    fn unshare(&mut self, recipients: &Recipients) -> usize {
        let Recipients::Shared { all, .. } = recipients else { return 0 };
        let key = all.as_ptr().addr();
        let Some(events) = self.shared.get_mut(&key) else { return 0 };
        *events -= 1;
        if *events > 0 {
            return 0;
        }
        self.shared.remove(&key);
        size_of_val(&**all)
    }

    fn forget_first(&mut self) {
        let Some(entry) = self.entries.pop_front() else { return };
        self.bytes -= bytes_of(&entry) + self.unshare(&entry.recipients);
        if self.last.get(&entry.conversation) == Some(&self.first) {
            self.last.remove(&entry.conversation);
        }
        if self.memberships.front() == Some(&self.first) {
            self.memberships.pop_front();
        }
        let reach = &mut self.reach[entry.partition];
        reach.low = reach.low.max(entry.offset + 1);
        self.first += 1;
    }

    /// What a session is told of how far it has come; empty while nothing is known.
    pub fn watermark(&self) -> Vec<u8> {
        if self.bytes_max == 0 || self.reach.is_empty() {
            return Vec::new();
        }
        let offsets: Vec<i64> =
            self.reach.iter().map(|it| it.next.min(it.late.unwrap_or(i64::MAX)).max(0)).collect();
        Watermark::encode(self.log, &offsets)
    }

    /// All that the user has missed since the watermark and beyond its cursors, and where each
    /// conversation stood at the device; None if the cache does not know it all, or if it is more
    /// than `events_max`.
    pub fn since(
        &self,
        user: &Uuid,
        watermark: &[u8],
        cursors: &[Cursor],
        events_max: usize,
    ) -> Option<(Vec<Missed>, Vec<Verdict>)> {
        if self.bytes_max == 0 || cursors.len() >= CURSORS_MAX {
            // Nothing is kept; or there may be conversations that had no place among them.
            return None;
        }
        let watermark = Watermark::decode(watermark, self.reach.len())?;
        let reaches = |(offset, reach): (&i64, &Reach)| (reach.low..=reach.next).contains(offset);
        if watermark.log != self.log || !watermark.offsets.iter().zip(&self.reach).all(reaches) {
            return None;
        }
        let mut from = HashMap::with_capacity_and_hasher(cursors.len(), IdHash::new());
        for cursor in cursors {
            let conversation = Uuid::from_slice(&cursor.conversation_id).ok()?;
            if from.insert(conversation, cursor.sequence_number).is_some() {
                return None;
            }
        }
        // Conversations that the user came into meanwhile are known from the first event on that
        // concerns the user.
        for number in &self.memberships {
            let entry = self.entry(*number)?;
            if entry.offset >= watermark.offsets[entry.partition]
                && entry.is_for(user)
                && !from.contains_key(&entry.conversation)
            {
                if !is_beginning(&entry.frame, user) {
                    // It began earlier, and the device was not told of that.
                    return None;
                }
                from.insert(entry.conversation, entry.sequence_number - 1);
            }
        }
        let (mut missed, mut verdicts) = (Vec::new(), Vec::with_capacity(from.len()));
        for (conversation, cursor) in from {
            self.missed(user, conversation, cursor, &mut missed)?;
            if missed.len() > events_max {
                return None;
            }
            verdicts.push(Verdict {
                conversation_id: conversation.as_bytes().to_vec(),
                complete_to_sequence_number: cursor,
                ..Verdict::default()
            });
        }
        Some((missed, verdicts))
    }

    /// The user's events of one conversation behind the cursor; None if there is a hole.
    fn missed(
        &self,
        user: &Uuid,
        conversation: Uuid,
        cursor: u64,
        missed: &mut Vec<Missed>,
    ) -> Option<()> {
        let start = missed.len();
        let mut number = self.last.get(&conversation).copied().unwrap_or(NONE);
        if self.entry(number).is_some_and(|last| last.sequence_number < cursor) {
            // The device knows of events that the log does not: chatd tells who is right.
            return None;
        }
        while let Some(entry) = self.entry(number)
            && entry.sequence_number > cursor
        {
            if entry.is_for(user) {
                missed.push(Missed {
                    conversation,
                    sequence_number: entry.sequence_number,
                    frame: entry.frame.clone(),
                });
            }
            number = entry.previous;
        }
        missed[start..].reverse();
        let mut expected = cursor;
        missed[start..]
            .iter()
            .all(|it| {
                expected += 1;
                it.sequence_number == expected
            })
            .then_some(())
    }

    fn entry(&self, number: u64) -> Option<&Entry> {
        let index = number.checked_sub(self.first)?;
        self.entries.get(usize::try_from(index).ok()?)
    }

    /// Bytes that the events take, as they are counted.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Entry {
    fn is_for(&self, user: &Uuid) -> bool {
        match &self.recipients {
            Recipients::Own(users) => users.contains(user),
            Recipients::Shared { all, .. } => all.binary_search(user).is_ok(),
        }
    }
}

/// Of its own: what it shares is counted once.
fn bytes_of(entry: &Entry) -> usize {
    let own = match &entry.recipients {
        Recipients::Own(users) => size_of_val(&**users),
        Recipients::Shared { .. } => 0,
    };
    RECENT_ENTRY_BYTES + entry.frame.len() + own
}

#[cfg(test)]
mod tests;
