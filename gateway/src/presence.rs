//! The presence thread: tells presenced which sessions came and went, and every 20 s which are
//! there. It is never waited for: what it could not report, the next census makes up for.
//!
//! One report is on its way at a time, so that presenced learns of a session's end after it learned
//! of the session, and a census never brings back a session that ended after it was taken.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the shell: this is the presence thread, not a shard"
)]

mod batch;

use crate::limits::{
    PRESENCE_BATCH_MS, PRESENCE_CENSUS_MS, PRESENCE_HEARTBEATS_MAX, PRESENCE_QUEUE_MAX,
    PRESENCE_REPORT_MS_MAX,
};
use crate::mail::Mail;
use crate::mailbox::Mailboxes;
use batch::Batch;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use daemon::link::{Client, ClientSettings, LinkError};
use daemon::{Config, Metrics};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use proto::Uuid;
use proto::link::request::Request;
use proto::link::response::Response;
use proto::link::{PresenceQuery, PresenceReport, PresenceSession};
use std::time::{Duration, Instant};

const BATCH: Duration = Duration::from_millis(PRESENCE_BATCH_MS);
const CENSUS: Duration = Duration::from_millis(PRESENCE_CENSUS_MS);
const REPORT: Duration = Duration::from_millis(PRESENCE_REPORT_MS_MAX);

/// A session came or went. `connection` is unique within this run of the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PresenceChange {
    Connected { user: Uuid, device: Uuid, connection: u64 },
    Disconnected { user: Uuid, device: Uuid, connection: u64 },
}

enum Note {
    Change(PresenceChange),
    /// A shard's sessions: user, device, connection.
    Census(u16, Vec<(Uuid, Uuid, u64)>),
    /// presenced may have forgotten everything.
    LinkUp,
    Stop(Sender<()>),
}

/// The shards' end; every shard has its own clone.
#[derive(Clone)]
pub(crate) struct Presence {
    notes: Sender<Note>,
    lost: Counter,
}

struct Worker {
    notes: Receiver<Note>,
    link: Client<()>,
    answers: Receiver<Result<Response, LinkError>>,
    /// The link came up: the census is due.
    mailboxes: Mailboxes,
    gateway_id: String,
    run_id: Uuid,
    /// Of presenced, as it was last told.
    blank_run_id: Vec<u8>,
    reported: Counter,
    failed: Counter,
}

/// Starts the thread and its link; presenced need not be there.
pub(crate) fn start(
    config: &Config,
    instance: &str,
    metrics: &Metrics,
    mailboxes: Mailboxes,
) -> Result<Presence, String> {
    let counter = |name, help| metrics.register(name, help, Counter::default());
    let lost = counter(
        "presence_notes_lost",
        "Presence changes and censuses that did not fit the presence thread's queue",
    );
    let reported = counter("presence_sessions_reported", "Sessions in reports that presenced took");
    let failed =
        counter("presence_sessions_failed", "Sessions in reports that presenced did not take");
    let is_up = metrics.register(
        "presence_link_up",
        "1 if the link to presenced is up, else 0",
        Gauge::<i64>::default(),
    );
    // One report is on its way at a time; a late answer to one that was given up is made room for.
    let (answer, answers) = bounded(2);
    let settings = ClientSettings {
        address: config.text("presenced.link").to_owned(),
        secret: config.text("link.secret").to_owned(),
        instance: instance.to_owned(),
        in_flight_max: 1,
    };
    let (notes, receiver) = bounded(PRESENCE_QUEUE_MAX);
    let state_notes = notes.clone();
    let on_state = move |up: bool| {
        is_up.set(i64::from(up));
        if up {
            // Where it does not fit, the next census is at most an interval away.
            let _ = state_notes.try_send(Note::LinkUp);
        }
    };
    let on_answer = move |(), outcome| {
        let _ = answer.try_send(outcome);
    };
    let link = Client::start(settings, on_answer, on_state)
        .map_err(|error| format!("presenced.link: {error}"))?;
    let worker = Worker {
        notes: receiver,
        link,
        answers,
        mailboxes,
        gateway_id: instance.to_owned(),
        run_id: proto::id::new(),
        blank_run_id: Vec::new(),
        reported,
        failed,
    };
    std::thread::Builder::new()
        .name("presence".into())
        .spawn(move || worker.run())
        .map_err(|error| format!("thread presence: {error}"))?;
    Ok(Presence { notes, lost })
}

impl Presence {
    /// Never blocks; a change that does not fit is counted.
    pub(crate) fn report(&self, change: PresenceChange) {
        self.note(Note::Change(change));
    }

    /// A shard's answer to [`Mail::Census`]: every session with its user, device and connection.
    /// Never blocks; a shard's changes and censuses keep their order.
    pub(crate) fn census(&self, shard: u16, sessions: Vec<(Uuid, Uuid, u64)>) {
        self.note(Note::Census(shard, sessions));
    }

    /// Reports what is left, and ends the thread; waits twice as long at most. To be called when the shards
    /// have reported their last disconnects.
    pub(crate) fn stop(&self, patience: Duration) {
        let (done, is_done) = bounded(1);
        if self.notes.send_timeout(Note::Stop(done), patience).is_ok() {
            let _ = is_done.recv_timeout(patience);
        }
    }

    fn note(&self, note: Note) {
        if self.notes.try_send(note).is_err() {
            self.lost.inc();
        }
    }
}

impl Worker {
    fn run(mut self) {
        let mut batch = Batch::default();
        let mut flush_at = None;
        let mut census_at = Instant::now() + CENSUS;
        loop {
            let wake_at = flush_at.map_or(census_at, |at: Instant| at.min(census_at));
            let patience = wake_at.saturating_duration_since(Instant::now());
            match self.notes.recv_timeout(patience) {
                Ok(Note::Change(change)) => {
                    batch.add(change);
                    flush_at.get_or_insert_with(|| Instant::now() + BATCH);
                }
                Ok(Note::Census(shard, sessions)) => {
                    // Before it, what happened before it.
                    self.flush(&mut batch);
                    self.heartbeat(shard, sessions);
                }
                Ok(Note::LinkUp) => census_at = Instant::now(),
                Ok(Note::Stop(done)) => {
                    self.flush(&mut batch);
                    let _ = done.send(());
                    return;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let now = Instant::now();
            if batch.is_full() || flush_at.is_some_and(|at| now >= at) {
                self.flush(&mut batch);
            }
            if batch.is_empty() {
                flush_at = None;
            }
            if now >= census_at {
                census_at = now + CENSUS;
                self.tell_shards(|| Mail::Census);
                self.ask_what_was_forgotten();
            }
        }
    }

    fn tell_shards(&self, mail: impl Fn() -> Mail) {
        for mailbox in self.mailboxes.iter() {
            // A shard that has ended is one of a gateway that stops.
            let _ = mailbox.send(mail());
        }
    }

    /// Did presenced begin without knowing who was announced as online? Then who left meanwhile is never
    /// announced, and those who watch must be told anew.
    fn ask_what_was_forgotten(&mut self) {
        // Without an answer it is asked with the next census.
        let query = Request::PresenceQuery(PresenceQuery::default());
        let Ok(Response::PresenceQuery(result)) = self.ask(query) else { return };
        let blank_run_id = result.blank_run_id;
        if !blank_run_id.is_empty() && blank_run_id != self.blank_run_id {
            tracing::info!("presenced began blank; whoever watches presence is told anew");
            self.blank_run_id = blank_run_id;
            self.tell_shards(|| Mail::PresenceForgotten);
        }
    }

    fn flush(&self, batch: &mut Batch) {
        if !batch.is_empty() {
            let (connected, disconnected) = batch.take();
            self.report(connected, disconnected, Vec::new());
        }
    }

    fn heartbeat(&self, shard: u16, sessions: Vec<(Uuid, Uuid, u64)>) {
        tracing::debug!(shard, sessions = sessions.len(), "census");
        for chunk in sessions.chunks(PRESENCE_HEARTBEATS_MAX) {
            let heartbeats = chunk
                .iter()
                .map(|(user, device, connection)| batch::session(user, device, *connection));
            self.report(Vec::new(), Vec::new(), heartbeats.collect());
        }
    }

    /// Waits for the answer. Without one nothing is lost for long: the next census, at the latest
    /// after 20 s, brings back who is there, and presenced itself forgets who is not.
    fn report(
        &self,
        connected: Vec<PresenceSession>,
        disconnected: Vec<PresenceSession>,
        heartbeats: Vec<PresenceSession>,
    ) {
        let sessions = (connected.len() + disconnected.len() + heartbeats.len()) as u64;
        let report = PresenceReport {
            gateway_id: self.gateway_id.clone(),
            gateway_run_id: self.run_id.as_bytes().to_vec(),
            connected,
            disconnected,
            heartbeats,
        };
        match self.ask(Request::PresenceReport(report)) {
            Ok(Response::Accepted(_)) => {
                self.reported.inc_by(sessions);
            }
            Ok(Response::Error(error)) => {
                self.failed.inc_by(sessions);
                tracing::warn!(error_code = error.code, error.message, "presence not reported");
            }
            Ok(_) => {
                self.failed.inc_by(sessions);
                tracing::error!("presenced answered a report with something else");
            }
            Err(error) => {
                self.failed.inc_by(sessions);
                tracing::debug!(%error, sessions, "presence not reported");
            }
        }
    }

    /// Asks, and waits for the answer.
    fn ask(&self, request: Request) -> Result<Response, LinkError> {
        while self.answers.try_recv().is_ok() {}
        let asked = self.link.submit(request, String::new(), REPORT, ());
        // The link answers every request that it took, at its deadline at the latest.
        asked.map_err(|((), error)| error).and_then(|()| {
            self.answers.recv_timeout(2 * REPORT).unwrap_or(Err(LinkError::Deadline))
        })
    }
}

#[cfg(test)]
mod tests;
