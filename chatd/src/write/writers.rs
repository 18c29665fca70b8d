//! The writer threads: each takes what waits in its queue, commits it, and only then answers.

use super::attempts::{Attempts, Next};
use super::command::{Append, Appended, ReceiptCommand};
use super::engine::{CommitError, Engine, Outcome};
use super::queue::{Queue, Refusal};
use super::store::Postgres;
use super::waker::Waker;
use crate::db::Settings;
use crate::failure::Failure;
use crossbeam_channel::bounded;
use daemon::failpoint::{CHATD_AFTER_ACK, reach};
use proto::Uuid;
use proto::error::ErrorCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What is done with an outcome; it must not block.
pub(crate) type Answer<T> = Box<dyn FnOnce(Result<T, Failure>) + Send>;

/// A checked request and the way back.
pub(crate) enum Command {
    Append(Append, Answer<Appended>),
    Receipt(ReceiptCommand, Answer<()>),
}

impl Command {
    fn conversation_id(&self) -> &Uuid {
        match self {
            Self::Append(append, _) => &append.conversation_id,
            Self::Receipt(receipt, _) => &receipt.conversation_id,
        }
    }

    fn refuse(self, failure: Failure) {
        match self {
            Self::Append(_, answer) => answer(Err(failure)),
            Self::Receipt(_, answer) => answer(Err(failure)),
        }
    }
}

struct Work {
    command: Command,
    deadline: Instant,
}

/// How the writers are set up.
pub(crate) struct WritersSettings {
    pub(crate) count: usize,
    pub(crate) batch_max: usize,
    pub(crate) queue_max: usize,
    /// How long a batch is tried again before its requests are answered as unavailable.
    pub(crate) retry: Duration,
}

/// The writers' queues.
pub(crate) struct Writers {
    queues: Vec<Arc<Queue<Work>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Writers {
    pub(crate) fn start(db: &Settings, settings: &WritersSettings) -> std::io::Result<Self> {
        let (waker, waker_thread) = Waker::start(db)?;
        let (mut queues, mut threads) = (Vec::new(), Vec::new());
        for number in 1..=settings.count {
            let waiting = Arc::new(Queue::new(settings.queue_max));
            queues.push(Arc::clone(&waiting));
            let writer = Writer {
                engine: Engine::new(Postgres { settings: db.clone(), waker: waker.clone() }),
                waiting,
                batch_max: settings.batch_max,
                retry: settings.retry,
                metrics: db.metrics().clone(),
            };
            let thread = std::thread::Builder::new().name(format!("writer-{number}"));
            threads.push(thread.spawn(move || writer.run())?);
        }
        // Joined last: it ends with the writers, which hold all that can ask it.
        threads.push(waker_thread);
        Ok(Self { queues, threads: Mutex::new(threads) })
    }

    /// Queues a command with the writer of its conversation, or answers at once why not.
    pub(crate) fn submit(&self, command: Command, deadline: Instant) {
        // The last bytes of a UUID are random in every version that is in use.
        let (_, low) = command.conversation_id().as_u64_pair();
        let index = usize::try_from(low % self.queues.len() as u64).unwrap_or(0);
        let conversation_id = *command.conversation_id();
        let Err((refusal, work)) =
            self.queues[index].push(conversation_id, Work { command, deadline })
        else {
            return;
        };
        work.command.refuse(match refusal {
            Refusal::Full => Failure::overloaded("write"),
            Refusal::ConversationFull => Failure::overloaded("conversation's write"),
            Refusal::Stopped => Failure::stopping(),
        });
    }

    /// Submits an append and waits for its outcome, for threads that may wait.
    pub(crate) fn append(&self, append: Append, deadline: Instant) -> Result<Appended, Failure> {
        let (sender, receiver) = bounded(1);
        let answer: Answer<Appended> = Box::new(move |outcome| {
            // The one who asked may have stopped waiting.
            let _ = sender.send(outcome);
        });
        self.submit(Command::Append(append, answer), deadline);
        match receiver.recv_deadline(deadline) {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::new(
                ErrorCode::DeadlineExceeded,
                "no answer within the deadline; what was asked may or may not have been done",
            )),
        }
    }

    /// Requests that wait, over all writers.
    pub(crate) fn depth(&self) -> usize {
        self.queues.iter().map(|queue| queue.len()).sum()
    }

    /// Commits and answers what is queued; more that is submitted meanwhile is refused.
    pub(crate) fn stop(&self) {
        self.queues.iter().for_each(|queue| queue.stop());
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            let _ = thread.join();
        }
    }
}

struct Writer {
    engine: Engine<Postgres>,
    waiting: Arc<Queue<Work>>,
    batch_max: usize,
    retry: Duration,
    metrics: crate::metrics::ChatdMetrics,
}

impl Writer {
    fn run(mut self) {
        loop {
            let batch = self.waiting.take(self.batch_max);
            if batch.is_empty() {
                return;
            }
            let start = Instant::now();
            let mut fresh = self.refuse_expired(batch, &Failure::expired());
            // Rows of one conversation side by side: they share pages of every index, and a page of
            // history is read from few blocks. The sort keeps a conversation's order.
            fresh.sort_by_key(|work| *work.command.conversation_id());
            if fresh.is_empty() {
                continue;
            }
            self.metrics.write_batch_size.observe(fresh.len() as f64);
            self.process(fresh, start);
            self.metrics.write_commit_latency.observe(start.elapsed().as_secs_f64());
        }
    }

    /// Commits a batch, tries again, and splits it if something in it cannot be committed.
    fn process(&mut self, mut batch: Vec<Work>, start: Instant) {
        let mut attempts = Attempts::default();
        loop {
            let error = match self.commit(&batch) {
                Ok(outcome) => {
                    answer(batch, outcome, &self.metrics);
                    // All is done: only a crash is of interest here.
                    let _ = reach(CHATD_AFTER_ACK);
                    self.engine.wake_relay();
                    return;
                }
                Err(error) => error,
            };
            self.metrics.write_retries.inc();
            let next =
                attempts.failed(&error, start.elapsed(), self.retry, |most| fastrand::u64(..=most));
            if next == Next::Split {
                return self.split(batch, start, error.reason());
            }
            tracing::warn!(
                reason = error.reason(),
                requests = batch.len(),
                "a batch was not committed"
            );
            let Next::Retry { after_ms } = next else {
                return self.give_up(batch);
            };
            std::thread::sleep(Duration::from_millis(after_ms));
            batch = self.refuse_expired(batch, &in_doubt());
            if batch.is_empty() {
                return;
            }
        }
    }

    fn commit(&mut self, batch: &[Work]) -> Result<Outcome, CommitError> {
        let (mut appends, mut receipts) = (Vec::with_capacity(batch.len()), Vec::new());
        for work in batch {
            match &work.command {
                Command::Append(append, _) => appends.push(append),
                Command::Receipt(receipt, _) => receipts.push(receipt),
            }
        }
        self.engine.commit(&appends, &receipts)
    }

    /// Halves the batch until what cannot be committed stands alone.
    fn split(&mut self, mut batch: Vec<Work>, start: Instant, reason: &str) {
        if batch.len() > 1 {
            let rest = batch.split_off(batch.len() / 2);
            self.process(batch, start);
            return self.process(rest, start);
        }
        for work in batch {
            let conversation_id = work.command.conversation_id();
            tracing::error!(%conversation_id, reason, error_code = "internal", "a request failed");
            self.refuse(work, Failure::new(ErrorCode::Internal, "the request could not be done"));
        }
    }

    /// PostgreSQL is away for longer than a batch waits: neither it nor what waits behind it may
    /// be held until every deadline has passed.
    fn give_up(&mut self, batch: Vec<Work>) {
        for work in batch.into_iter().chain(self.waiting.take_all()) {
            self.refuse(work, in_doubt());
        }
    }

    fn refuse_expired(&self, batch: Vec<Work>, failure: &Failure) -> Vec<Work> {
        let now = Instant::now();
        let (fresh, expired): (Vec<_>, Vec<_>) =
            batch.into_iter().partition(|work| work.deadline > now);
        for work in expired {
            self.refuse(work, failure.clone());
        }
        fresh
    }

    fn refuse(&self, work: Work, failure: Failure) {
        self.metrics.error(failure.code);
        work.command.refuse(failure);
    }
}

fn in_doubt() -> Failure {
    Failure::unavailable(
        "the database does not answer; the request may or may not have been done: send it again \
         with the same idempotency_key",
    )
}

/// After the commit: tells everybody.
fn answer(batch: Vec<Work>, outcome: Outcome, metrics: &crate::metrics::ChatdMetrics) {
    let mut appended = outcome.appended.into_iter();
    let mut receipts = outcome.receipts.into_iter();
    for work in batch {
        match work.command {
            Command::Append(_, answer) => {
                if let Some(outcome) = appended.next() {
                    count(metrics, &outcome);
                    answer(outcome);
                }
            }
            Command::Receipt(_, answer) => {
                if let Some(outcome) = receipts.next() {
                    count(metrics, &outcome);
                    answer(outcome);
                }
            }
        }
    }
}

fn count<T>(metrics: &crate::metrics::ChatdMetrics, outcome: &Result<T, Failure>) {
    if let Err(failure) = outcome {
        metrics.error(failure.code);
    }
}
