//! What sessions ask of chatd and presenced: one thread and one link for each of U uplinks.
//!
//! ```text
//!  shards --Ask--> queue (bounded) --> uplink thread --request--> link --> chatd, presenced
//!    ^                                      |  typing.rs: audience, then Kafka
//!    |                                      |  keys.rs: verification keys, every minute
//!    +---- Mail::Answer, Mail::Keys --------+---- link thread (answer.rs) <--response
//! ```
//!
//! A conversation's sends and typing go through one uplink, so that they keep their order; the rest
//! goes by shard. Nothing here makes a shard wait.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the shell: these are the uplink threads, not shards"
)]

mod answer;
mod keys;
mod request;
mod typing;

pub(crate) use typing::TypingSession;

use crate::audience::Audiences;
use crate::limits::{
    UPLINK_IN_FLIGHT_MAX, UPLINK_QUEUE_MAX, UPLINK_RETRY_AFTER_MS, UPLINK_TICK_MS,
};
use crate::mail::{Answer, Ask, AskKind, Mail};
use crate::mailbox::{Mailboxes, mix};
use crate::outbound::publish::Publisher;
use answer::Failure;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use daemon::link::{Client, ClientSettings, LinkError};
use daemon::{Config, Health, Metrics};
use keys::Keys;
use prometheus_client::metrics::counter::Counter;
use proto::Uuid;
use proto::error::ErrorCode;
use proto::link::response::Response;
use request::{Peer, Pending};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use typing::Typing;

/// The health condition: every link to chatd is up.
const CONDITION: &str = "chatd";

/// What the uplinks are given to start with.
pub(crate) struct Setup<'a> {
    pub(crate) config: &'a Config,
    pub(crate) instance: &'a str,
    pub(crate) health: &'a Health,
    pub(crate) metrics: &'a Metrics,
    pub(crate) mailboxes: Mailboxes,
    pub(crate) audiences: Audiences<TypingSession>,
    pub(crate) publisher: Publisher,
}

/// The shards' end; every shard has its own clone.
#[derive(Clone)]
pub(crate) struct Uplink {
    queues: Arc<[Sender<Job>]>,
    refused: Counter,
}

enum Job {
    Ask(Box<Ask>),
    /// A link came up: look whether the keys are due.
    LinkUp,
}

/// What a link's answer is for.
enum Context {
    Session(Pending),
    /// Of a conversation, on behalf of a user.
    Audience(Uuid, Uuid),
    Keys,
}

/// What the threads of all uplinks and links share.
struct Shared {
    mailboxes: Mailboxes,
    typing: Typing,
    keys: Keys,
    failed: Counter,
}

struct Worker {
    jobs: Receiver<Job>,
    shared: Arc<Shared>,
    chatd: Client<Context>,
    presenced: Client<Context>,
    limiter: typing::Limiter,
    /// One uplink alone fetches the keys.
    fetches_keys: bool,
}

/// Starts the threads; links connect by themselves, whether chatd and presenced are there or not.
pub(crate) fn start(setup: Setup<'_>) -> Result<Uplink, String> {
    let Setup { config, instance, health, metrics, mailboxes, audiences, publisher } = setup;
    let count = config.count("uplinks");
    health.require(CONDITION, "the link is not up yet");
    let counter = |name, help| metrics.register(name, help, Counter::default());
    let refused = counter("uplink_refused", "Requests refused because an uplink's queue was full");
    let failed = counter("uplink_failures", "Requests to chatd and presenced without an answer");
    let (queues, receivers): (Vec<_>, Vec<_>) =
        (0..count).map(|_| bounded(UPLINK_QUEUE_MAX)).unzip();
    let shared = Arc::new(Shared {
        typing: Typing::new(audiences, publisher),
        keys: Keys::new(health.clone(), mailboxes.clone()),
        mailboxes,
        failed,
    });
    let settings = |address: &str| ClientSettings {
        address: config.text(address).to_owned(),
        secret: config.text("link.secret").to_owned(),
        instance: instance.to_owned(),
        in_flight_max: UPLINK_IN_FLIGHT_MAX,
    };
    let presenced = link(settings("presenced.link"), &shared, |_| {})?;
    let links_up = Arc::new(AtomicUsize::new(0));
    for (index, jobs) in receivers.into_iter().enumerate() {
        let on_state = chatd_state(&shared, health, &links_up, queues.clone());
        let worker = Worker {
            jobs,
            chatd: link(settings("chatd.link"), &shared, on_state)?,
            presenced: presenced.clone(),
            shared: Arc::clone(&shared),
            limiter: typing::Limiter::default(),
            fetches_keys: index == 0,
        };
        let started =
            std::thread::Builder::new().name(format!("uplink-{index}")).spawn(move || worker.run());
        started.map_err(|error| format!("thread uplink-{index}: {error}"))?;
    }
    Ok(Uplink { queues: queues.into(), refused })
}

fn link(
    settings: ClientSettings,
    shared: &Arc<Shared>,
    on_state: impl Fn(bool) + Send + Sync + 'static,
) -> Result<Client<Context>, String> {
    let address = settings.address.clone();
    let shared = Arc::clone(shared);
    let on_answer = move |context, outcome| shared.answered(context, outcome);
    Client::start(settings, on_answer, on_state).map_err(|error| format!("link {address}: {error}"))
}

/// Keeps the health condition, and has the keys fetched when a link comes up.
fn chatd_state(
    shared: &Arc<Shared>,
    health: &Health,
    links_up: &Arc<AtomicUsize>,
    queues: Vec<Sender<Job>>,
) -> impl Fn(bool) + Send + Sync + 'static {
    let (shared, health) = (Arc::clone(shared), health.clone());
    let links_up = Arc::clone(links_up);
    move |is_up| {
        if is_up {
            let up = links_up.fetch_add(1, Ordering::AcqRel) + 1;
            if up == queues.len() {
                health.ready(CONDITION);
            }
            shared.keys.expire();
            // A full queue looks at the keys soon enough by itself.
            let _ = queues[0].try_send(Job::LinkUp);
        } else {
            links_up.fetch_sub(1, Ordering::AcqRel);
            health.not_ready(CONDITION, "the link is down");
        }
    }
}

impl Uplink {
    /// Never blocks. An ask that cannot be queued comes back; [`refusal`] is what to tell the client.
    pub(crate) fn ask(&self, ask: Ask) -> Result<(), Box<Ask>> {
        let queue = self.queue(&ask);
        match queue.try_send(Job::Ask(Box::new(ask))) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => {
                self.refused.inc();
                match job {
                    Job::Ask(ask) => Err(ask),
                    Job::LinkUp => Ok(()),
                }
            }
        }
    }

    fn queue(&self, ask: &Ask) -> &Sender<Job> {
        let conversation = match &ask.kind {
            AskKind::Send(send) => Some(&send.conversation_id),
            AskKind::Typing(typing) => Some(&typing.conversation_id),
            _ => None,
        };
        let hash = conversation
            .and_then(|id| Uuid::from_slice(id).ok())
            .map_or(u64::from(ask.session.shard), |id| mix(&id));
        let index = usize::try_from(hash % self.queues.len() as u64).unwrap_or_default();
        &self.queues[index]
    }
}

/// What a client is told whose ask was not queued.
pub(crate) fn refusal() -> proto::client::Error {
    let message = "too many requests are waiting; nothing was done; try again";
    let mut error = ErrorCode::Overloaded.to_frame(message);
    error.retry_after_ms = UPLINK_RETRY_AFTER_MS;
    error
}

impl Worker {
    fn run(mut self) {
        let tick = Duration::from_millis(UPLINK_TICK_MS);
        loop {
            match self.jobs.recv_timeout(tick) {
                Ok(Job::Ask(ask)) => self.ask(*ask),
                Ok(Job::LinkUp) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.fetches_keys && self.chatd.is_connected() && self.shared.keys.take_due() {
                let Err((_, error)) = self.chatd.submit(
                    keys::request(),
                    String::new(),
                    keys::DEADLINE,
                    Context::Keys,
                ) else {
                    continue;
                };
                self.shared.keys.failed(&error.to_string());
            }
        }
    }

    fn ask(&mut self, ask: Ask) {
        if let AskKind::Typing(notice) = &ask.kind {
            return self.typing(&ask, notice);
        }
        let (pending, request, traceparent) = request::of(ask);
        let link = match pending.peer {
            Peer::Chatd => &self.chatd,
            Peer::Presenced => &self.presenced,
        };
        let deadline = pending.deadline;
        let context = Context::Session(pending);
        if let Err((Context::Session(pending), error)) =
            link.submit(request, traceparent, deadline, context)
        {
            self.shared.failed.inc();
            let error = answer::failure(&pending, Failure::NotAsked(error));
            self.shared.tell(&pending, Err(error));
        }
    }

    fn typing(&mut self, ask: &Ask, notice: &proto::client::Typing) {
        let outcome = self.limiter.admit(ask.session, self.shared.typing.now_ms());
        let outcome = outcome.and_then(|()| self.shared.typing.notice(ask, notice));
        match outcome {
            Ok(None) => {}
            Ok(Some((conversation, request))) => {
                let context = Context::Audience(conversation, ask.user);
                let deadline = typing::LOOKUP_DEADLINE;
                let asked = self.chatd.submit(request, ask.traceparent.clone(), deadline, context);
                if let Err((context, error)) = asked {
                    self.shared.answered(context, Err(error));
                }
            }
            Err(error) => self.shared.refuse_typing(&TypingSession::of(ask), error),
        }
    }
}

impl Shared {
    /// On a link's thread, or on an uplink's where a request could not be asked.
    fn answered(&self, context: Context, outcome: Result<Response, LinkError>) {
        match context {
            Context::Session(pending) => {
                let outcome = match outcome {
                    Ok(Response::Error(error)) => Err(error),
                    Ok(response) => answer::matching(&pending, response),
                    Err(error) => {
                        self.failed.inc();
                        Err(answer::failure(&pending, Failure::NotAnswered(error)))
                    }
                };
                self.tell(&pending, outcome);
            }
            Context::Audience(conversation, user) => {
                if outcome.is_err() {
                    self.failed.inc();
                }
                for (session, error) in self.typing.audience(conversation, user, outcome) {
                    self.refuse_typing(&session, error);
                }
            }
            Context::Keys => self.keys.answered(outcome),
        }
    }

    fn tell(&self, pending: &Pending, outcome: Result<Response, proto::client::Error>) {
        let Pending { session, request_id, asked, .. } = *pending;
        let answer = Answer { session, request_id, asked, outcome };
        // A shard that has ended is one of a gateway that stops.
        let _ = self.mailboxes.get(session.shard).send(Mail::Answer(answer));
    }

    fn refuse_typing(&self, who: &TypingSession, error: proto::client::Error) {
        let answer = Answer {
            session: who.session,
            request_id: who.request_id,
            asked: crate::mail::Asked::Typing,
            outcome: Err(error),
        };
        let _ = self.mailboxes.get(who.session.shard).send(Mail::Answer(answer));
    }
}

#[cfg(test)]
mod tests;
