//! A fixed number of threads that run queries, each with its own connections, and one bounded queue.

use super::connection::{Connection, Role, Settings, ensure};
use crate::failure::Failure;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, select_biased};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::thread::JoinHandle;
use std::time::Instant;

/// A thread's connections, one a schema, opened when they are first needed.
pub(crate) struct Databases {
    settings: Settings,
    messaging: Option<Connection>,
    accounts: Option<Connection>,
    profiles: Option<Connection>,
}

impl Databases {
    pub(crate) fn new(settings: Settings) -> Self {
        Self { settings, messaging: None, accounts: None, profiles: None }
    }

    pub(crate) fn messaging(&mut self) -> Result<&mut Connection, Failure> {
        ensure(&mut self.messaging, &self.settings, Role::Messaging)
    }

    pub(crate) fn accounts(&mut self) -> Result<&mut Connection, Failure> {
        ensure(&mut self.accounts, &self.settings, Role::Accounts)
    }

    pub(crate) fn profiles(&mut self) -> Result<&mut Connection, Failure> {
        ensure(&mut self.profiles, &self.settings, Role::Profiles)
    }
}

/// Gets the thread's connections, or why it was not run. Must answer in either case.
type Job = Box<dyn FnOnce(Result<&mut Databases, Failure>) + Send>;

struct Queued {
    deadline: Instant,
    job: Job,
}

/// Dropped, it finishes what is queued.
pub(crate) struct Pool {
    name: &'static str,
    queue: Sender<Queued>,
    stop: Mutex<Option<Sender<()>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Pool {
    pub(crate) fn start(
        name: &'static str,
        settings: &Settings,
        threads: usize,
        queue_max: usize,
    ) -> std::io::Result<Self> {
        let (queue, waiting) = bounded(queue_max);
        let (stop, stopped) = bounded(0);
        let mut handles = Vec::with_capacity(threads);
        for number in 1..=threads {
            let (waiting, stopped, settings) = (waiting.clone(), stopped.clone(), settings.clone());
            let thread = std::thread::Builder::new().name(format!("{name}-{number}"));
            handles.push(thread.spawn(move || work(&waiting, &stopped, settings))?);
        }
        Ok(Self { name, queue, stop: Mutex::new(Some(stop)), threads: Mutex::new(handles) })
    }

    /// Queues `job`, or calls it at once with the reason why not.
    pub(crate) fn submit(
        &self,
        deadline: Instant,
        job: impl FnOnce(Result<&mut Databases, Failure>) + Send + 'static,
    ) {
        match self.queue.try_send(Queued { deadline, job: Box::new(job) }) {
            Ok(()) => {}
            Err(TrySendError::Full(queued)) => (queued.job)(Err(Failure::overloaded(self.name))),
            Err(TrySendError::Disconnected(queued)) => (queued.job)(Err(Failure::stopping())),
        }
    }

    /// Finishes what is queued; more that is submitted meanwhile may go unanswered.
    pub(crate) fn stop(&self) {
        drop(self.stop.lock().unwrap_or_else(PoisonError::into_inner).take());
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            let _ = thread.join();
        }
    }
}

fn work(waiting: &Receiver<Queued>, stopped: &Receiver<()>, settings: Settings) {
    let mut databases = Databases::new(settings);
    loop {
        let queued = select_biased! {
            recv(waiting) -> queued => queued.ok(),
            recv(stopped) -> _ => None,
        };
        let Some(queued) = queued else { return };
        if Instant::now() >= queued.deadline {
            (queued.job)(Err(Failure::expired()));
        } else {
            (queued.job)(Ok(&mut databases));
        }
    }
}
