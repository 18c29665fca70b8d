//! The gap buffer: live events of a session that waits for chatd's answer to its resume, and how
//! they and the answer become one stream and one verdict for each conversation. Pure.

use proto::Uuid;
use proto::client::Verdict;

/// Live events that wait, sorted by conversation and sequence number.
#[derive(Debug)]
pub(crate) struct GapBuffer<T> {
    events: Vec<Waiting<T>>,
    overflows: Vec<Overflow>,
    events_max: usize,
    overflows_max: usize,
}

#[derive(Debug)]
struct Waiting<T> {
    conversation: Uuid,
    sequence_number: u64,
    event: T,
}

/// Events of a conversation that did not fit.
#[derive(Debug)]
struct Overflow {
    conversation: Uuid,
    from: u64,
    to: u64,
}

/// What became of an event; what is not kept comes back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pushed<T> {
    Kept,
    /// It waits already.
    Duplicate(T),
    /// The buffer is full: the conversation's verdict will name the gap.
    Dropped(T),
    /// Not even the gap can be remembered.
    Refused(T),
}

/// The end of a resume.
#[derive(Debug)]
pub(crate) struct Merged<T> {
    /// To be sent, in this order, after the answer's pages.
    pub live: Vec<T>,
    /// Already in the answer, or within the gap that the client heals.
    pub dropped: Vec<T>,
    pub verdicts: Vec<Verdict>,
}

impl<T> GapBuffer<T> {
    pub(crate) fn new(events_max: usize, overflows_max: usize) -> Self {
        Self { events: Vec::new(), overflows: Vec::new(), events_max, overflows_max }
    }

    pub(crate) fn push(&mut self, conversation: Uuid, sequence_number: u64, event: T) -> Pushed<T> {
        // What follows a dropped event of a conversation belongs to the same gap.
        if let Some(overflow) = self.overflows.iter_mut().find(|it| it.conversation == conversation)
        {
            overflow.from = overflow.from.min(sequence_number);
            overflow.to = overflow.to.max(sequence_number);
            return Pushed::Dropped(event);
        }
        let place = self.events.binary_search_by_key(&(conversation, sequence_number), |it| {
            (it.conversation, it.sequence_number)
        });
        match place {
            Ok(_) => Pushed::Duplicate(event),
            Err(_) if self.events.len() == self.events_max => {
                if self.overflows.len() == self.overflows_max {
                    return Pushed::Refused(event);
                }
                let (from, to) = (sequence_number, sequence_number);
                self.overflows.push(Overflow { conversation, from, to });
                Pushed::Dropped(event)
            }
            Err(index) => {
                self.events.insert(index, Waiting { conversation, sequence_number, event });
                Pushed::Kept
            }
        }
    }

    /// The first event of the conversation that came, kept or not.
    pub(crate) fn first(&self, conversation: Uuid) -> Option<u64> {
        let kept = self.events.iter().filter(|it| it.conversation == conversation);
        let dropped = self.overflows.iter().filter(|it| it.conversation == conversation);
        kept.map(|it| it.sequence_number).chain(dropped.map(|it| it.from)).min()
    }

    /// Everything that waits, in order: for a resume that failed or a session that ends.
    pub(crate) fn into_events(self) -> impl Iterator<Item = T> {
        self.events.into_iter().map(|waiting| waiting.event)
    }

    /// Puts what waits behind an answer that ends with `verdicts`. A conversation that these do not name began
    /// for this user after the answer, if its first event here `is_beginning`. Otherwise the user may have left
    /// it before the answer was given, and only a sync tells what there was before these events.
    pub(crate) fn merge(
        self,
        mut verdicts: Vec<Verdict>,
        is_beginning: impl Fn(&T) -> bool,
    ) -> Merged<T> {
        let (mut live, mut dropped) = (Vec::new(), Vec::new());
        for Waiting { conversation, sequence_number, event } in self.events {
            let before =
                || if is_beginning(&event) { sequence_number.saturating_sub(1) } else { 0 };
            let verdict = verdict_of(&mut verdicts, conversation, before);
            if sequence_number <= reach(verdict) {
                dropped.push(event);
                continue;
            }
            if std::mem::take(&mut verdict.reset) && is_beginning(&event) {
                // Who had left when the answer was given has joined again since then.
                verdict.complete_to_sequence_number = sequence_number - 1;
            }
            // The event is sent. Whatever is missing before it is the client's to heal.
            if sequence_number == reach(verdict) + 1 && verdict.gap_to_sequence_number == 0 {
                verdict.complete_to_sequence_number = sequence_number;
            } else if verdict.gap_to_sequence_number == 0 {
                verdict.gap_from_sequence_number = verdict.complete_to_sequence_number + 1;
                verdict.gap_to_sequence_number = sequence_number - 1;
            }
            live.push(event);
        }
        for Overflow { conversation, to, .. } in self.overflows {
            // Nobody knows any more whether the first of them was the beginning.
            let verdict = verdict_of(&mut verdicts, conversation, || 0);
            if to > reach(verdict) {
                verdict.reset = false;
                if verdict.gap_to_sequence_number == 0 {
                    verdict.gap_from_sequence_number = verdict.complete_to_sequence_number + 1;
                }
                verdict.gap_to_sequence_number = to;
            }
        }
        Merged { live, dropped, verdicts }
    }
}

/// The last event that the answer delivered or told the client to fetch.
fn reach(verdict: &Verdict) -> u64 {
    verdict.complete_to_sequence_number.max(verdict.gap_to_sequence_number)
}

/// The conversation's verdict; if the answer does not name it, a new one that is complete up to there.
fn verdict_of(
    verdicts: &mut Vec<Verdict>,
    conversation: Uuid,
    complete_to: impl FnOnce() -> u64,
) -> &mut Verdict {
    let found = verdicts.iter().position(|it| it.conversation_id == conversation.as_bytes());
    let index = found.unwrap_or_else(|| {
        verdicts.push(Verdict {
            conversation_id: conversation.as_bytes().to_vec(),
            complete_to_sequence_number: complete_to(),
            ..Verdict::default()
        });
        verdicts.len() - 1
    });
    &mut verdicts[index]
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Uuid = Uuid::from_u128(1);
    const B: Uuid = Uuid::from_u128(2);

    fn verdict(conversation: Uuid, complete: u64, gap: (u64, u64)) -> Verdict {
        Verdict {
            conversation_id: conversation.as_bytes().to_vec(),
            complete_to_sequence_number: complete,
            gap_from_sequence_number: gap.0,
            gap_to_sequence_number: gap.1,
            reset: false,
            rewind_to_sequence_number: 0,
        }
    }

    fn buffer(events: &[(Uuid, u64)]) -> GapBuffer<u64> {
        let mut buffer = GapBuffer::new(4, 1);
        for (conversation, number) in events {
            buffer.push(*conversation, *number, *number);
        }
        buffer
    }

    #[test]
    fn events_come_once_and_in_order_behind_the_answer() {
        let merged = buffer(&[(A, 12), (A, 10), (A, 11), (A, 11)])
            .merge(vec![verdict(A, 10, (0, 0))], |_| true);
        assert_eq!(merged.live, [11, 12]);
        assert_eq!(merged.dropped, [10]);
        assert_eq!(merged.verdicts, [verdict(A, 12, (0, 0))]);
    }

    #[test]
    fn what_lies_in_the_answers_gap_is_left_to_the_client() {
        let merged = buffer(&[(A, 498), (A, 500), (A, 501)])
            .merge(vec![verdict(A, 100, (101, 500))], |_| true);
        assert_eq!(merged.live, [501]);
        assert_eq!(merged.dropped, [498, 500]);
        assert_eq!(merged.verdicts, [verdict(A, 100, (101, 500))]);
    }

    #[test]
    fn a_hole_before_a_live_event_is_a_gap() {
        let merged = buffer(&[(A, 13), (A, 14)]).merge(vec![verdict(A, 10, (0, 0))], |_| true);
        assert_eq!(merged.live, [13, 14]);
        assert_eq!(merged.verdicts, [verdict(A, 10, (11, 12))]);
    }

    #[test]
    fn a_conversation_that_began_meanwhile_has_its_own_verdict() {
        let merged = buffer(&[(B, 7), (B, 8)]).merge(vec![verdict(A, 3, (0, 0))], |_| true);
        assert_eq!(merged.live, [7, 8]);
        assert_eq!(merged.verdicts, [verdict(A, 3, (0, 0)), verdict(B, 8, (0, 0))]);
    }

    #[test]
    fn a_conversation_that_may_have_ended_meanwhile_is_a_gap_up_to_what_came_of_it() {
        let waiting = buffer(&[(B, 7), (B, 8)]);
        let merged = waiting.merge(vec![verdict(A, 3, (0, 0))], |_| false);
        assert_eq!(merged.live, [7, 8]);
        assert_eq!(merged.verdicts, [verdict(A, 3, (0, 0)), verdict(B, 0, (1, 6))]);
    }

    #[test]
    fn a_conversation_that_was_joined_again_meanwhile_is_not_reset() {
        let reset = |complete| Verdict { reset: true, ..verdict(A, complete, (0, 0)) };
        let merged = buffer(&[(A, 10), (A, 11)]).merge(vec![reset(8)], |_| true);
        assert_eq!(merged.live, [10, 11]);
        assert_eq!(merged.verdicts, [verdict(A, 11, (0, 0))]);
        // Its beginning was not among what came.
        let merged = buffer(&[(A, 11)]).merge(vec![reset(8)], |_| false);
        assert_eq!(merged.verdicts, [verdict(A, 8, (9, 10))]);
        // The leaving itself, which the answer has.
        let merged = buffer(&[(A, 8)]).merge(vec![reset(8)], |_| false);
        assert_eq!((merged.dropped, merged.verdicts), (vec![8], vec![reset(8)]));
    }

    #[test]
    fn an_overflow_is_named_as_a_gap_and_a_second_one_is_refused() {
        let mut full = buffer(&[(A, 1), (A, 2), (A, 3), (A, 4)]);
        assert_eq!(full.push(A, 5, 5), Pushed::Dropped(5));
        assert_eq!(full.push(A, 6, 6), Pushed::Dropped(6));
        assert_eq!(full.push(B, 1, 1), Pushed::Refused(1));
        let merged = full.merge(vec![verdict(A, 2, (0, 0))], |_| true);
        assert_eq!(merged.live, [3, 4]);
        assert_eq!(merged.verdicts, [verdict(A, 4, (5, 6))]);
    }

    #[test]
    fn an_overflow_of_a_conversation_that_the_answer_does_not_name_is_a_gap_from_the_first_event_on()
     {
        let mut full = buffer(&[(A, 1), (A, 2), (A, 3), (A, 4)]);
        assert_eq!(full.push(B, 7, 7), Pushed::Dropped(7));
        let merged = full.merge(vec![verdict(A, 0, (0, 0))], |_| true);
        assert_eq!(merged.verdicts, [verdict(A, 4, (0, 0)), verdict(B, 0, (1, 7))]);
    }

    /// Whatever came live and however far the answer reached: nothing is sent twice, all is in order,
    /// and every number up to the last is either sent, or in the answer, or named in the gap.
    #[test]
    fn nothing_is_lost_or_repeated_for_any_seed() {
        for seed in 0..5_000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let first = random.u64(1..10);
            let last = first + random.u64(0..12);
            let mut buffer = GapBuffer::new(random.usize(1..8), 2);
            for number in (first..=last).flat_map(|it| vec![it; random.usize(1..3)]) {
                buffer.push(A, number, number);
            }
            let answered = random.u64(first - 1..=last);
            let gap = random.bool() && answered > 0;
            let complete = if gap { random.u64(0..answered) } else { answered };
            let start = verdict(A, complete, if gap { (complete + 1, answered) } else { (0, 0) });
            let Merged { live, verdicts, .. } = buffer.merge(vec![start], |_| true);
            assert!(live.is_sorted_by(|a, b| a < b), "seed {seed}");
            let verdict = &verdicts[0];
            for number in 1..=last {
                let sent = live.contains(&number);
                let answered = number <= complete;
                let in_gap = (verdict.gap_from_sequence_number..=verdict.gap_to_sequence_number)
                    .contains(&number);
                assert!(sent || answered || in_gap, "{number} is lost, seed {seed}");
                assert!(!(sent && answered), "{number} comes twice, seed {seed}");
                let claimed = number <= verdict.complete_to_sequence_number;
                assert!(!claimed || sent || answered, "{number} is claimed, seed {seed}");
            }
        }
    }
}
