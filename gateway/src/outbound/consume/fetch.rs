//! Asks chatd for the members of large conversations, page by page, on a thread and a link of their
//! own, so that neither a Kafka thread nor anybody's request waits for them. A page that gets no
//! answer is asked for again, at growing intervals, until it does.

use crate::limits::{
    AUDIENCE_LOOKUP_MS_MAX, ROSTER_FETCHES_MAX, ROSTER_RETRY_MS_MAX, ROSTER_RETRY_MS_MIN,
    ROSTER_USERS_MAX, ROSTERS_ASKED_MAX,
};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use daemon::link::{Client, ClientSettings, LinkError};
use prometheus_client::metrics::counter::Counter;
use proto::Uuid;
use proto::limits::AUDIENCE_PAGE_USERS_MAX;
use proto::link::AudiencePage;
use proto::link::request::Request;
use proto::link::response::Response;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_millis(AUDIENCE_LOOKUP_MS_MAX);
const IDLE: Duration = Duration::from_secs(60);
/// Answers that a Kafka thread has not taken yet.
const ANSWERS_MAX: usize = 2;

/// Who receives one event.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) conversation: Uuid,
    pub(super) sequence_number: u64,
    pub(super) users: Vec<Uuid>,
}

/// A Kafka thread's end.
pub(super) struct Fetcher {
    lane: usize,
    jobs: Sender<Job>,
    answers: Receiver<Fetched>,
}

enum Job {
    Fetch(Fetch),
    Page(Fetch, Result<Response, LinkError>),
}

struct Fetch {
    lane: usize,
    fetched: Fetched,
    attempts: u32,
}

struct Worker {
    jobs: Receiver<Job>,
    lanes: Vec<Sender<Fetched>>,
    link: Client<Fetch>,
    waiting: VecDeque<Fetch>,
    /// Those that are tried again, and when.
    retries: Vec<(Instant, Fetch)>,
    under_way: usize,
    failures: Counter,
}

/// Starts the thread; returns an end for each of `lanes` Kafka threads.
pub(super) fn start(
    settings: ClientSettings,
    lanes: usize,
    failures: Counter,
) -> Result<Vec<Fetcher>, String> {
    // A thread asks for a conversation's members once at a time, and a page is one of those.
    let (jobs, received) = bounded(lanes * ROSTERS_ASKED_MAX + ROSTER_FETCHES_MAX);
    let pages = jobs.clone();
    let address = settings.address.clone();
    let on_answer = move |fetch, outcome| {
        // The thread has ended: the gateway stops.
        let _ = pages.send(Job::Page(fetch, outcome));
    };
    let link = Client::start(settings, on_answer, |_| {})
        .map_err(|error| format!("link {address}: {error}"))?;
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..lanes).map(|_| bounded(ANSWERS_MAX)).unzip();
    let worker = Worker {
        jobs: received,
        lanes: senders,
        link,
        waiting: VecDeque::new(),
        retries: Vec::new(),
        under_way: 0,
        failures,
    };
    super::spawn("members".to_owned(), move || worker.run())?;
    let ends = receivers.into_iter().enumerate();
    Ok(ends.map(|(lane, answers)| Fetcher { lane, jobs: jobs.clone(), answers }).collect())
}

impl Fetcher {
    /// Asks who receives one event; asked once, answered once.
    pub(super) fn ask(&self, conversation: Uuid, sequence_number: u64) {
        let fetched = Fetched { conversation, sequence_number, users: Vec::new() };
        let fetch = Fetch { lane: self.lane, fetched, attempts: 0 };
        // There is room for all that can be asked; a thread that has ended is a stopping gateway's.
        let _ = self.jobs.try_send(Job::Fetch(fetch));
    }

    pub(super) fn answer(&self) -> Option<Fetched> {
        self.answers.try_recv().ok()
    }
}

impl Worker {
    fn run(mut self) {
        loop {
            let due = self.retries.iter().map(|(at, _)| *at).min();
            let patience = due.map_or(IDLE, |at| at.saturating_duration_since(Instant::now()));
            match self.jobs.recv_timeout(patience) {
                Ok(Job::Fetch(fetch)) => self.waiting.push_back(fetch),
                Ok(Job::Page(fetch, outcome)) => {
                    if !self.page(fetch, outcome) {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let now = Instant::now();
            let due = self.retries.extract_if(.., |(at, _)| *at <= now);
            for (_, fetch) in due.collect::<Vec<_>>() {
                self.submit(fetch);
            }
            while self.under_way < ROSTER_FETCHES_MAX
                && let Some(fetch) = self.waiting.pop_front()
            {
                self.under_way += 1;
                self.submit(fetch);
            }
        }
    }

    fn submit(&mut self, fetch: Fetch) {
        let Fetched { conversation, sequence_number, users } = &fetch.fetched;
        let page = AudiencePage {
            conversation_id: conversation.as_bytes().to_vec(),
            sequence_number: *sequence_number,
            after_user_id: users.last().map(|it| it.as_bytes().to_vec()).unwrap_or_default(),
            limit: u32::try_from(AUDIENCE_PAGE_USERS_MAX).unwrap_or(u32::MAX),
        };
        let request = Request::AudiencePage(page);
        if let Err((fetch, error)) = self.link.submit(request, String::new(), DEADLINE, fetch) {
            self.again(fetch, &error.to_string());
        }
    }

    /// Whether the Kafka thread that asked is still there.
    fn page(&mut self, mut fetch: Fetch, outcome: Result<Response, LinkError>) -> bool {
        let page = match outcome {
            Ok(Response::AudiencePage(page)) => page,
            Ok(Response::Error(error)) => {
                self.again(fetch, &error.message);
                return true;
            }
            Ok(_) => {
                self.again(fetch, "an answer of another kind");
                return true;
            }
            Err(error) => {
                self.again(fetch, &error.to_string());
                return true;
            }
        };
        let users = &mut fetch.fetched.users;
        let before = users.len();
        match proto::id::unpack("user_ids", &page.user_ids) {
            Ok(page) => users.extend(page),
            Err(error) => {
                self.again(fetch, &error.to_string());
                return true;
            }
        }
        fetch.attempts = 0;
        let goes_on = page.more && before < users.len() && users.len() < ROSTER_USERS_MAX;
        if goes_on {
            self.submit(fetch);
            return true;
        }
        self.under_way -= 1;
        self.lanes[fetch.lane].send(fetch.fetched).is_ok()
    }

    fn again(&mut self, mut fetch: Fetch, reason: &str) {
        self.failures.inc();
        let pause_ms = ROSTER_RETRY_MS_MIN << fetch.attempts.min(10);
        let pause = Duration::from_millis(pause_ms.min(ROSTER_RETRY_MS_MAX));
        let conversation_id = fetch.fetched.conversation;
        tracing::warn!(%conversation_id, reason, ?pause, "members not fetched; trying again");
        fetch.attempts += 1;
        self.retries.push((Instant::now() + pause, fetch));
    }
}
