//! A chatd: a writer with the real engine, and queries answered from the model of the database.

use crate::Outside;
use crate::bus::Process;
use crate::database::{Handle, Link};
use crate::edits;
use crate::gateway;
use crate::limits::{ASK_US_MAX, BATCH_MAX, COMMIT_RETRY_US_MAX, RELAYS};
use crate::relay;
use ::chatd::rules::{
    Append, Appended, Attempts, Change, CommitError, Engine, Failure, Next, Outcome, ReceiptCommand,
};
use proto::Uuid;
use proto::client::{Accepted, Ack, Cursor, Error, Send, Sent};
use proto::error::ErrorCode;
use proto::link::response::Response;
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// What a gateway asks.
#[derive(Debug)]
pub(crate) enum Ask {
    Send(Send),
    Ack(Ack),
    Sync { resume: bool, cursors: Vec<Cursor>, limit: u32 },
}

/// A question, and who waits for the answer.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) gateway: usize,
    pub(crate) number: u64,
    pub(crate) user: Uuid,
    pub(crate) device: Uuid,
    pub(crate) ask: Ask,
}

/// A change of a conversation that somebody asked for by other means, and of which nobody awaits the answer.
#[derive(Debug)]
pub(crate) struct Changed {
    pub(crate) sender: Uuid,
    pub(crate) key: String,
    pub(crate) change: Change,
}

#[derive(Debug)]
pub(crate) enum Event {
    Asked(Box<Request>),
    Changed(Box<Changed>),
    /// The batch in hand is given to the engine, again perhaps.
    Attempt,
    /// What became of it is known.
    Over,
}

#[derive(Debug)]
enum Command {
    Append(Append),
    Receipt(ReceiptCommand),
}

#[derive(Debug)]
struct Work {
    command: Command,
    /// None: nobody waits.
    gateway: Option<usize>,
    number: u64,
    deadline_us: u64,
}

impl Work {
    fn conversation(&self) -> &Uuid {
        match &self.command {
            Command::Append(it) => &it.conversation_id,
            Command::Receipt(it) => &it.conversation_id,
        }
    }
}

/// A batch on its way into the database.
struct Batch {
    works: Vec<Work>,
    attempts: Attempts,
    begun_us: u64,
    /// What the engine said, and the transaction whose commit it asked for.
    said: Option<(Result<Outcome, CommitError>, Option<u64>)>,
}

pub(crate) struct Chatd {
    me: usize,
    link: Rc<RefCell<Link>>,
    engine: Engine<Handle>,
    queue: VecDeque<Work>,
    batch: Option<Batch>,
    /// Halves of a batch that could not be committed whole, and when that was begun.
    halves: Vec<(Vec<Work>, u64)>,
}

impl Chatd {
    pub(crate) fn new(me: usize, outside: &mut Outside) -> Self {
        let link = Rc::new(RefCell::new(Link {
            database: Rc::clone(&outside.database),
            is_up: true,
            is_stormy: true,
            wall_us: 0,
            random: outside.bus.random.fork(),
            begun: None,
            wakes: false,
            chatd: me,
        }));
        let engine = Engine::new(Handle(Rc::clone(&link)));
        Self { me, link, engine, queue: VecDeque::new(), batch: None, halves: Vec::new() }
    }

    pub(crate) fn step(&mut self, outside: &mut Outside, event: Event) {
        match event {
            Event::Asked(request) => self.asked(outside, *request),
            Event::Changed(changed) => self.changed(outside, *changed),
            Event::Attempt => self.attempt(outside),
            Event::Over => self.over(outside),
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.batch.is_none() && self.halves.is_empty()
    }

    fn process(&self) -> Process {
        Process::Chatd(self.me)
    }

    fn changed(&mut self, outside: &mut Outside, changed: Changed) {
        let Changed { mut sender, key, mut change } = changed;
        if !edits::aim(outside, &mut sender, &mut change) {
            return;
        }
        let sender = (sender, sender);
        let append = Append::new(outside.revolving, sender, key, String::new(), change);
        if let Ok(append) = append {
            self.queue(outside, Command::Append(append), None, 0);
        }
    }

    fn queue(
        &mut self,
        outside: &mut Outside,
        command: Command,
        gateway: Option<usize>,
        number: u64,
    ) {
        let deadline_us = outside.bus.now_us() + ASK_US_MAX;
        self.queue.push_back(Work { command, gateway, number, deadline_us });
        self.begin(outside);
    }

    fn asked(&mut self, outside: &mut Outside, request: Request) {
        let Request { gateway, number, user, device, ask } = request;
        let command = match ask {
            Ask::Sync { resume, cursors, limit } => {
                let outcome = self.sync(outside, user, resume, &cursors, limit);
                return self.answer(outside, Some(gateway), number, outcome);
            }
            Ask::Send(send) => append(send, (user, device)).map(Command::Append),
            Ask::Ack(ack) => receipt(&ack, (user, device)).map(Command::Receipt),
        };
        match command {
            Ok(command) => self.queue(outside, command, Some(gateway), number),
            Err(failure) => self.answer(outside, Some(gateway), number, Err(failure.to_frame())),
        }
    }

    fn sync(
        &self,
        outside: &Outside,
        user: Uuid,
        resume: bool,
        cursors: &[Cursor],
        limit: u32,
    ) -> Result<Response, Error> {
        if !outside.bus.reaches(self.process(), Process::Postgres) {
            return Err(ErrorCode::Unavailable.to_frame("the database is away"));
        }
        let cursor = |it: &Cursor| {
            (Uuid::from_slice(&it.conversation_id).unwrap_or_default(), it.sequence_number)
        };
        let cursors: HashMap<Uuid, u64> = cursors.iter().map(cursor).collect();
        let database = outside.database.borrow();
        Ok(Response::Sync(database.sync(user, &cursors, resume, limit)))
    }

    /// Takes what waits, as the writer does.
    fn begin(&mut self, outside: &mut Outside) {
        if self.batch.is_some() {
            return;
        }
        let Some((works, begun_us)) = self.take(outside) else { return };
        self.batch = Some(Batch { works, attempts: Attempts::default(), begun_us, said: None });
        let delay_us = outside.bus.delay_us();
        outside.bus.after(self.process(), delay_us, crate::Event::Chatd(Event::Attempt));
    }

    /// What is to be done next, and since when.
    fn take(&mut self, outside: &mut Outside) -> Option<(Vec<Work>, u64)> {
        if let Some(half) = self.halves.pop() {
            return Some(half);
        }
        while !self.queue.is_empty() {
            let count = self.queue.len().min(BATCH_MAX);
            let works: Vec<Work> = self.queue.drain(..count).collect();
            let mut fresh = self.refuse_expired(outside, works, &Failure::expired());
            fresh.sort_by_key(|work| *work.conversation());
            if !fresh.is_empty() {
                return Some((fresh, outside.bus.now_us()));
            }
        }
        None
    }

    /// The whole transaction up to its commit, which happens a while later.
    fn attempt(&mut self, outside: &mut Outside) {
        let process = self.process();
        let Some(batch) = &mut self.batch else { return };
        let database = Rc::clone(&outside.database);
        if database.borrow().is_locked(batch.works.iter().map(Work::conversation)) {
            let delay_us = outside.bus.delay_us();
            return outside.bus.after(process, delay_us, crate::Event::Chatd(Event::Attempt));
        }
        {
            let mut link = self.link.borrow_mut();
            link.is_up = outside.bus.reaches(process, Process::Postgres);
            link.is_stormy = outside.bus.is_stormy;
            link.wall_us = outside.bus.wall_us(process);
            link.begun = None;
        }
        let (mut appends, mut receipts) = (Vec::new(), Vec::new());
        for work in &batch.works {
            match &work.command {
                Command::Append(it) => appends.push(it),
                Command::Receipt(it) => receipts.push(it),
            }
        }
        let outcome = self.engine.commit(&appends, &receipts);
        let begun = self.link.borrow_mut().begun.take();
        outside.bus.note(|| format!("chatd {} begins {begun:?}: {outcome:?}", self.me));
        batch.said = Some((outcome, begun));
        let mut delay_us = outside.bus.delay_us();
        if let Some(transaction) = begun {
            outside.bus.after(Process::Postgres, delay_us, crate::Event::Postgres(transaction));
            delay_us += outside.bus.delay_us();
        }
        outside.bus.after(process, delay_us, crate::Event::Chatd(Event::Over));
    }

    fn over(&mut self, outside: &mut Outside) {
        let Some(mut batch) = self.batch.take() else { return };
        let Some((outcome, begun)) = batch.said.take() else { return };
        let is_done = begun.is_some_and(|it| outside.database.borrow().is_done(it));
        match outcome {
            Ok(outcome) if is_done => self.answer_all(outside, batch.works, outcome),
            Ok(_) => {
                // The server died before it committed: the engine would have been told.
                self.engine = Engine::new(Handle(Rc::clone(&self.link)));
                self.failed(outside, batch, &CommitError::Temporary("the server died".into()));
            }
            Err(error) => self.failed(outside, batch, &error),
        }
        self.begin(outside);
    }

    fn answer_all(&mut self, outside: &mut Outside, works: Vec<Work>, outcome: Outcome) {
        let mut appended = outcome.appended.into_iter();
        let mut receipts = outcome.receipts.into_iter();
        for work in works {
            let answer = match &work.command {
                Command::Append(append) => appended.next().map(|it| it.map(|it| sent(append, &it))),
                Command::Receipt(_) => {
                    receipts.next().map(|it| it.map(|()| Response::Accepted(Accepted {})))
                }
            };
            if let Some(answer) = answer {
                let answer = answer.map_err(|failure| failure.to_frame());
                self.answer(outside, work.gateway, work.number, answer);
            }
        }
        self.engine.wake_relay();
        if std::mem::take(&mut self.link.borrow_mut().wakes) {
            for relay in 0..RELAYS {
                let to = Process::Relay(relay);
                outside.bus.send(self.process(), to, crate::Event::Relay(relay::Event::Wake));
            }
        }
    }

    fn failed(&mut self, outside: &mut Outside, mut batch: Batch, error: &CommitError) {
        let waited = Duration::from_micros(outside.bus.now_us() - batch.begun_us);
        let retry = Duration::from_micros(COMMIT_RETRY_US_MAX);
        let random = &mut outside.bus.random;
        match batch.attempts.failed(error, waited, retry, |most| random.u64(..=most)) {
            Next::Retry { after_ms } => {
                batch.works = self.refuse_expired(outside, batch.works, &in_doubt());
                if !batch.works.is_empty() {
                    self.batch = Some(batch);
                    let event = crate::Event::Chatd(Event::Attempt);
                    outside.bus.after(self.process(), after_ms * 1_000, event);
                }
            }
            Next::Split if batch.works.len() > 1 => {
                let rest = batch.works.split_off(batch.works.len() / 2);
                self.halves.extend([(rest, batch.begun_us), (batch.works, batch.begun_us)]);
            }
            Next::Split => {
                let failure = Failure::new(ErrorCode::Internal, "it could not be done");
                self.refuse(outside, batch.works, &failure);
            }
            Next::GiveUp => {
                let waiting: Vec<Work> = self.queue.drain(..).collect();
                self.refuse(outside, batch.works, &in_doubt());
                self.refuse(outside, waiting, &in_doubt());
            }
        }
    }

    fn refuse_expired(
        &self,
        outside: &mut Outside,
        works: Vec<Work>,
        failure: &Failure,
    ) -> Vec<Work> {
        let now_us = outside.bus.now_us();
        let (fresh, expired): (Vec<_>, Vec<_>) =
            works.into_iter().partition(|work| work.deadline_us > now_us);
        self.refuse(outside, expired, failure);
        fresh
    }

    fn refuse(&self, outside: &mut Outside, works: Vec<Work>, failure: &Failure) {
        for work in works {
            self.answer(outside, work.gateway, work.number, Err(failure.to_frame()));
        }
    }

    fn answer(
        &self,
        outside: &mut Outside,
        gateway: Option<usize>,
        number: u64,
        outcome: Result<Response, Error>,
    ) {
        let Some(gateway) = gateway else { return };
        let event = crate::Event::Gateway(gateway::Event::Answer { number, outcome });
        outside.bus.send(self.process(), Process::Gateway(gateway), event);
    }
}

fn in_doubt() -> Failure {
    Failure::unavailable("the request may or may not have been done")
}

fn append(send: Send, sender: (Uuid, Uuid)) -> Result<Append, Failure> {
    let Send { conversation_id, idempotency_key, text } = send;
    let conversation_id = proto::id::from_field("conversation_id", &conversation_id)?;
    let change = Change::Message { text };
    Append::new(conversation_id, sender, idempotency_key, String::new(), change)
}

fn receipt(ack: &Ack, (user_id, device_id): (Uuid, Uuid)) -> Result<ReceiptCommand, Failure> {
    let conversation_id = proto::id::from_field("conversation_id", &ack.conversation_id)?;
    ReceiptCommand {
        conversation_id,
        user_id,
        device_id,
        delivered_sequence_number: ack.delivered_sequence_number,
        read_sequence_number: ack.read_sequence_number,
        traceparent: String::new(),
    }
    .checked()
}

fn sent(append: &Append, appended: &Appended) -> Response {
    Response::Sent(Sent {
        conversation_id: append.conversation_id.as_bytes().to_vec(),
        message_id: appended.message_id.map(|id| id.as_bytes().to_vec()).unwrap_or_default(),
        sequence_number: appended.sequence_number,
        message_number: appended.message_number,
        created_at_us: appended.created_at_us,
        repeated: appended.repeated,
    })
}
