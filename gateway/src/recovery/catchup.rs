//! What a session gets besides its live events, in order, as fast as its ring takes it: the pages
//! and verdicts of its syncs, and the live events that must not overtake them.

use crate::limits::{GAP_BUFFER_EVENTS_MAX, GAP_OVERFLOWS_MAX};
use crate::recovery::gap::GapBuffer;
use proto::client::{ServerFrame, SyncPage, Synced, Verdict, server_frame::Frame};
use proto::{Message, Uuid};
use std::collections::VecDeque;

/// One thing to be queued to the session's ring.
pub enum Step<T> {
    Frame(ServerFrame),
    /// A live event that waited.
    Event(T),
}

/// Of one session; it has one only while something waits.
pub struct CatchUp<T> {
    steps: VecDeque<Step<T>>,
    /// Live events among the steps.
    events: usize,
    /// Bytes of the frames among the steps.
    bytes: usize,
    /// Live events that wait for the answer to the resume.
    gap: Option<GapBuffer<T>>,
    /// The steps are those of a resume: no live event may overtake them.
    in_order: bool,
}

/// What became of a live event.
pub enum Held<T> {
    /// It waits, or the client will be told of the gap, or it waited already; what is not kept comes
    /// back.
    Waits(Option<T>),
    /// Too much waits.
    Refused(T),
    /// Nothing is in its way.
    Free(T),
}

impl<T> Default for CatchUp<T> {
    fn default() -> Self {
        Self { steps: VecDeque::new(), events: 0, bytes: 0, gap: None, in_order: false }
    }
}

impl<T> CatchUp<T> {
    /// From here on live events wait for the answer.
    pub fn begin_resume(&mut self) {
        self.in_order = true;
        self.gap = Some(GapBuffer::new(GAP_BUFFER_EVENTS_MAX, GAP_OVERFLOWS_MAX));
    }

    /// A live event of the conversation's log.
    pub fn hold(&mut self, conversation: Uuid, sequence_number: u64, event: T) -> Held<T> {
        use crate::recovery::gap::Pushed;
        if let Some(gap) = &mut self.gap {
            return match gap.push(conversation, sequence_number, event) {
                Pushed::Kept => Held::Waits(None),
                Pushed::Duplicate(event) | Pushed::Dropped(event) => Held::Waits(Some(event)),
                Pushed::Refused(event) => Held::Refused(event),
            };
        }
        if !self.in_order {
            return Held::Free(event);
        }
        if self.events >= 2 * GAP_BUFFER_EVENTS_MAX {
            return Held::Refused(event);
        }
        self.events += 1;
        self.steps.push_back(Step::Event(event));
        Held::Waits(None)
    }

    /// The answer to the resume: its pages, then the live events that waited, then the verdicts.
    /// `is_beginning`: before that event there is nothing of its conversation for the user.
    /// Returns the events that are no longer needed.
    pub fn resumed(
        &mut self,
        request_id: u64,
        pages: Vec<SyncPage>,
        verdicts: Vec<Verdict>,
        is_beginning: impl Fn(&T) -> bool,
    ) -> Vec<T> {
        self.pages(request_id, pages);
        let Some(gap) = self.gap.take() else { return Vec::new() };
        let merged = gap.merge(verdicts, is_beginning);
        self.live(merged.live);
        self.frame(request_id, Frame::Synced(Synced { verdicts: merged.verdicts }));
        merged.dropped
    }

    /// For a client that wants nothing of what happened before it came: makes the verdicts say that
    /// it has all that, up to the events that wait.
    pub fn begin_at_the_end(&self, verdicts: &mut [Verdict]) {
        for verdict in verdicts {
            let conversation = Uuid::from_slice(&verdict.conversation_id).unwrap_or_default();
            let first = self.gap.as_ref().and_then(|gap| gap.first(conversation));
            let last = verdict.complete_to_sequence_number.max(verdict.gap_to_sequence_number);
            verdict.complete_to_sequence_number =
                first.map_or(last, |first| last.min(first.saturating_sub(1)));
            verdict.gap_from_sequence_number = 0;
            verdict.gap_to_sequence_number = 0;
        }
    }

    /// The resume failed: what waited goes out, and the client syncs again.
    pub fn resume_failed(&mut self) {
        if let Some(gap) = self.gap.take() {
            self.live(gap.into_events());
        }
        self.in_order &= !self.is_done();
    }

    /// The answer to a sync.
    pub fn synced(&mut self, request_id: u64, pages: Vec<SyncPage>, verdicts: Vec<Verdict>) {
        self.pages(request_id, pages);
        self.frame(request_id, Frame::Synced(Synced { verdicts }));
    }

    /// The next step, if one is ready.
    pub fn next_step(&mut self) -> Option<Step<T>> {
        let step = self.steps.pop_front()?;
        match &step {
            Step::Frame(frame) => self.bytes -= frame.encoded_len(),
            Step::Event(_) => self.events -= 1,
        }
        self.in_order &= !self.is_done();
        Some(step)
    }

    /// Nothing waits and nothing is awaited.
    pub fn is_done(&self) -> bool {
        self.steps.is_empty() && self.gap.is_none()
    }

    /// Bytes of the frames that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Every live event that waits, for a session that ends.
    pub fn into_events(self) -> impl Iterator<Item = T> {
        let steps = self.steps.into_iter().filter_map(|step| match step {
            Step::Event(event) => Some(event),
            Step::Frame(_) => None,
        });
        steps.chain(self.gap.into_iter().flat_map(GapBuffer::into_events))
    }

    fn pages(&mut self, request_id: u64, pages: Vec<SyncPage>) {
        for page in pages {
            self.frame(request_id, Frame::SyncPage(page));
        }
    }

    fn frame(&mut self, request_id: u64, frame: Frame) {
        let frame = ServerFrame { request_id, frame: Some(frame) };
        self.bytes += frame.encoded_len();
        self.steps.push_back(Step::Frame(frame));
    }

    fn live(&mut self, events: impl IntoIterator<Item = T>) {
        for event in events {
            self.events += 1;
            self.steps.push_back(Step::Event(event));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Uuid = Uuid::from_u128(1);

    fn drain(catch_up: &mut CatchUp<u64>) -> Vec<String> {
        std::iter::from_fn(|| catch_up.next_step())
            .map(|step| match step {
                Step::Event(event) => format!("event {event}"),
                Step::Frame(ServerFrame { request_id, frame: Some(Frame::Synced(synced)) }) => {
                    format!(
                        "synced {request_id} to {}",
                        synced.verdicts[0].complete_to_sequence_number
                    )
                }
                Step::Frame(frame) => format!("page {}", frame.request_id),
            })
            .collect()
    }

    #[test]
    fn so_many_events_and_then_so_many_gaps_wait_for_a_resume_and_no_more() {
        let mut catch_up = CatchUp::default();
        catch_up.begin_resume();
        for number in 1..=GAP_BUFFER_EVENTS_MAX as u64 {
            assert!(matches!(catch_up.hold(A, number, number), Held::Waits(None)), "{number}");
        }
        let other = |number: usize| Uuid::from_u128(number as u128 + 2);
        for number in 0..GAP_OVERFLOWS_MAX {
            assert!(matches!(catch_up.hold(other(number), 1, 1), Held::Waits(Some(1))), "{number}");
        }
        assert!(matches!(catch_up.hold(other(GAP_OVERFLOWS_MAX), 1, 1), Held::Refused(1)));
        // A gap that is remembered grows.
        assert!(matches!(catch_up.hold(other(0), 2, 2), Held::Waits(Some(2))));
    }

    #[test]
    fn a_resume_is_pages_then_events_then_verdicts_and_later_events_stay_behind() {
        let mut catch_up = CatchUp::default();
        catch_up.begin_resume();
        assert!(matches!(catch_up.hold(A, 6, 6), Held::Waits(None)));
        assert!(matches!(catch_up.hold(A, 5, 5), Held::Waits(None)));
        assert!(!catch_up.is_done() && catch_up.next_step().is_none());
        let conversation_id = A.as_bytes().to_vec();
        let verdict =
            Verdict { conversation_id, complete_to_sequence_number: 5, ..Verdict::default() };
        let dropped = catch_up.resumed(9, vec![SyncPage::default(); 2], vec![verdict], |_| true);
        assert_eq!(dropped, [5]);
        assert!(catch_up.bytes() > 0);
        assert!(matches!(catch_up.hold(A, 7, 7), Held::Waits(None)));
        let all = drain(&mut catch_up);
        assert_eq!(all, ["page 9", "page 9", "event 6", "synced 9 to 6", "event 7"]);
        assert!(catch_up.is_done() && catch_up.bytes() == 0);
        assert!(matches!(catch_up.hold(A, 8, 8), Held::Free(8)));
    }

    #[test]
    fn a_failed_resume_lets_the_events_go() {
        let mut catch_up = CatchUp::default();
        catch_up.begin_resume();
        let _ = catch_up.hold(A, 6, 6);
        catch_up.resume_failed();
        assert_eq!(drain(&mut catch_up), ["event 6"]);
    }
}
