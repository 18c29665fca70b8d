//! Sessions: a stream down to each client, and the real rules of a resume.

use super::{Ask, Asked, Event, Gateway, home};
use crate::bugs::Bug;
use crate::bus::Process;
use crate::client;
use crate::limits::HEARTBEAT_MS;
use crate::presence::Said;
use crate::{Outside, chatd};
use ::gateway::rules::{
    CatchUp, Delivery, GAP_BUFFER_EVENTS_MAX, Held, Missed, Step, is_beginning,
};
use presenced::rules::Named;
use proto::client::client_frame::Frame as Up;
use proto::client::server_frame::Frame;
use proto::client::{
    Accepted, ClientFrame, Cursor, Error, Gap, Hello, ServerFrame, Verdict, Watermark, Welcome,
};
use proto::error::ErrorCode;
use proto::limits::SYNC_EVENTS_DEFAULT;
use proto::link::response::Response;
use proto::{Message, Uuid};

pub(super) struct Session {
    gateway: usize,
    pub(super) client: usize,
    pub(super) user: Uuid,
    pub(super) device: Uuid,
    /// It said hello.
    pub(super) begun: bool,
    catch_up: Option<CatchUp<Vec<u8>>>,
    /// What is sent down arrives no earlier: a stream keeps its order.
    down_us: u64,
    /// Something was not carried: nothing more arrives, and nobody says so.
    pub(super) is_broken: bool,
}

impl Session {
    pub(super) fn named(&self, connection: u64) -> Named {
        Named { user: self.user, device: self.device, connection }
    }

    fn down(&mut self, outside: &mut Outside, event: client::Event) {
        let (from, to) = (Process::Gateway(self.gateway), Process::Client(self.client));
        self.is_broken |= !outside.bus.reaches(from, to);
        self.is_broken |= outside.bus.is_stormy && outside.bus.random.u16(..400) == 0;
        if self.is_broken {
            return;
        }
        let at_us = (outside.bus.now_us() + outside.bus.delay_us()).max(self.down_us + 1);
        self.down_us = at_us;
        outside.bus.at(to, at_us, crate::Event::Client(event));
    }

    fn frame(&mut self, outside: &mut Outside, connection: u64, request_id: u64, frame: Frame) {
        let frame = Box::new(ServerFrame { request_id, frame: Some(frame) });
        self.down(outside, client::Event::Frame { connection, frame });
    }

    fn event(&mut self, outside: &mut Outside, connection: u64, bytes: &[u8]) {
        if let Ok(frame) = ServerFrame::decode(bytes) {
            self.down(outside, client::Event::Frame { connection, frame: Box::new(frame) });
        }
    }

    pub(super) fn tell_closed(mut self, outside: &mut Outside, connection: u64) {
        self.down(outside, client::Event::Closed { connection });
    }
}

/// The verdict of the defect.
fn nothing_missed(cursor: Cursor) -> Verdict {
    let Cursor { conversation_id, sequence_number } = cursor;
    Verdict { conversation_id, complete_to_sequence_number: sequence_number, ..Verdict::default() }
}

impl Gateway {
    pub(super) fn dialed(
        &mut self,
        outside: &mut Outside,
        client: usize,
        attempt: u64,
        (user, device): (Uuid, Uuid),
    ) {
        let to = Process::Client(client);
        if !self.listens {
            let event = crate::Event::Client(client::Event::Refused { attempt });
            return outside.bus.send(self.process(), to, event);
        }
        let connection = outside.bus.fresh();
        let down_us = outside.bus.now_us();
        let gateway = self.me;
        let mut session = Session {
            gateway,
            client,
            user,
            device,
            begun: false,
            catch_up: None,
            down_us,
            is_broken: false,
        };
        session.down(outside, client::Event::Opened { attempt, connection, gateway });
        self.sessions.insert(connection, session);
    }

    pub(super) fn up(&mut self, outside: &mut Outside, connection: u64, frame: ClientFrame) {
        let request_id = frame.request_id;
        match frame.frame {
            Some(Up::Hello(hello)) => self.hello(outside, connection, request_id, hello),
            Some(Up::Send(send)) => {
                self.ask(outside, connection, request_id, Asked::Send, chatd::Ask::Send(send));
            }
            Some(Up::Ack(ack)) => {
                self.ask(outside, connection, request_id, Asked::Ack, chatd::Ask::Ack(ack));
            }
            Some(Up::Sync(sync)) => {
                let (cursors, limit) = (sync.cursors, sync.limit);
                let ask = chatd::Ask::Sync { resume: false, cursors, limit };
                self.ask(outside, connection, request_id, Asked::Sync, ask);
            }
            _ => {}
        }
    }

    pub(super) fn pong(&mut self, outside: &mut Outside, connection: u64) {
        if let Some(session) = self.sessions.get_mut(&connection) {
            session.down(outside, client::Event::Bytes { connection });
        }
    }

    /// The connection is over; `tells`: the client hears of it.
    pub(super) fn close(&mut self, outside: &mut Outside, connection: u64, tells: bool) {
        let Some(session) = self.sessions.remove(&connection) else { return };
        if session.begun {
            self.report(outside, Said::Disconnected(session.named(connection)));
        }
        if tells {
            session.tell_closed(outside, connection);
        }
    }

    fn hello(&mut self, outside: &mut Outside, connection: u64, request_id: u64, hello: Hello) {
        let wall_us = outside.bus.wall_us(self.process());
        let Some(session) = self.sessions.get_mut(&connection) else { return };
        session.begun = true;
        let named = session.named(connection);
        let shard = &self.shards[usize::from(home(&session.user))];
        let welcome = Welcome {
            user_id: session.user.as_bytes().to_vec(),
            device_id: session.device.as_bytes().to_vec(),
            gateway_id: format!("gateway-{}", self.me),
            server_time_us: wall_us,
            heartbeat_interval_ms: HEARTBEAT_MS,
            watermark: shard.recent.watermark(),
            ..Welcome::default()
        };
        session.frame(outside, connection, request_id, Frame::Welcome(welcome));
        self.report(outside, Said::Connected(named));
        if hello.resume {
            self.resume(outside, connection, request_id, hello);
        }
    }

    /// Live events wait from here on, until the cache or chatd has answered.
    fn resume(&mut self, outside: &mut Outside, connection: u64, request_id: u64, hello: Hello) {
        let Some(session) = self.sessions.get_mut(&connection) else { return };
        let catch_up = session.catch_up.insert(CatchUp::default());
        catch_up.begin_resume();
        let recent = &self.shards[usize::from(home(&session.user))].recent;
        let most = GAP_BUFFER_EVENTS_MAX;
        let since = recent.since(&session.user, &hello.watermark, &hello.cursors, most);
        if let Some((missed, verdicts)) = since {
            outside.met.resumes_from_cache += 1;
            for Missed { conversation, sequence_number, frame } in missed {
                let _ = catch_up.hold(conversation, sequence_number, frame.to_vec());
            }
            catch_up.resumed(request_id, Vec::new(), verdicts, |_| false);
            return self.pump(outside, connection);
        }
        if outside.bug == Some(Bug::BlindResume) {
            let verdicts = hello.cursors.into_iter().map(nothing_missed).collect();
            catch_up.resumed(request_id, Vec::new(), verdicts, |_| false);
            return self.pump(outside, connection);
        }
        outside.met.resumes_from_chatd += 1;
        let ask =
            chatd::Ask::Sync { resume: true, cursors: hello.cursors, limit: SYNC_EVENTS_DEFAULT };
        self.ask(outside, connection, request_id, Asked::Resume, ask);
    }

    pub(super) fn deliver(&mut self, outside: &mut Outside, delivery: &Delivery) {
        let is_for = |it: &Session| it.begun && delivery.recipients.contains(&it.user);
        let concerned = self.sessions.iter().filter(|(_, it)| is_for(it)).map(|(id, _)| *id);
        for connection in concerned.collect::<Vec<_>>() {
            self.deliver_to(outside, connection, delivery);
        }
    }

    fn deliver_to(&mut self, outside: &mut Outside, connection: u64, delivery: &Delivery) {
        let Some(session) = self.sessions.get_mut(&connection) else { return };
        let (id, number) = (delivery.conversation, delivery.sequence_number);
        if let Some(catch_up) = session.catch_up.as_mut().filter(|_| number > 0) {
            match catch_up.hold(id, number, delivery.frame.to_vec()) {
                Held::Waits(_) => return,
                Held::Refused(_) => return self.close(outside, connection, true),
                Held::Free(_) => {}
            }
        }
        let fate = if outside.bus.is_stormy { outside.bus.random.u8(..100) } else { u8::MAX };
        match fate {
            // A ring that is full: the event is shed and the client is told, or the session ends.
            0..2 if number > 0 => {
                let gap = Gap {
                    conversation_id: id.as_bytes().to_vec(),
                    from_sequence_number: number,
                    to_sequence_number: number,
                    reason: "shed".into(),
                };
                session.frame(outside, connection, 0, Frame::Gap(gap));
            }
            2..3 => self.close(outside, connection, true),
            _ => session.event(outside, connection, &delivery.frame),
        }
    }

    /// As much of what waits for the session as its socket takes.
    pub(super) fn pump(&mut self, outside: &mut Outside, connection: u64) {
        let most = outside.bus.random.usize(1..9);
        let Some(session) = self.sessions.get_mut(&connection) else { return };
        for _ in 0..most {
            let Some(catch_up) = session.catch_up.as_mut() else { return };
            match catch_up.next_step() {
                Some(Step::Frame(ServerFrame { request_id, frame: Some(frame) })) => {
                    session.frame(outside, connection, request_id, frame);
                }
                Some(Step::Frame(_)) => {}
                Some(Step::Event(bytes)) => session.event(outside, connection, &bytes),
                // What is awaited comes with an answer, which pumps again.
                None => {
                    session.catch_up = session.catch_up.take().filter(|it| !it.is_done());
                    return;
                }
            }
        }
        if session.catch_up.as_ref().is_some_and(CatchUp::is_done) {
            session.catch_up = None;
        } else {
            let delay_us = outside.bus.delay_us();
            self.after(outside, delay_us, Event::Pump { connection });
        }
    }

    pub(super) fn tell_watermark(&mut self, outside: &mut Outside, shard: u16, watermark: &[u8]) {
        let here = |it: &Session| it.begun && it.catch_up.is_none() && home(&it.user) == shard;
        for (connection, session) in self.sessions.iter_mut().filter(|(_, it)| here(it)) {
            let told = Watermark { watermark: watermark.to_vec() };
            session.frame(outside, *connection, 0, Frame::Watermark(told));
        }
    }

    pub(super) fn ask_over(&mut self, outside: &mut Outside, number: u64) {
        let error = ErrorCode::Unavailable.to_frame("no answer in time");
        self.answered(outside, number, Err(error));
    }

    pub(super) fn answered(
        &mut self,
        outside: &mut Outside,
        number: u64,
        outcome: Result<Response, Error>,
    ) {
        let Some(Ask { connection, request_id, asked }) = self.asks.remove(&number) else { return };
        let Some(session) = self.sessions.get_mut(&connection) else { return };
        match (asked, outcome) {
            (Asked::Resume, Ok(Response::Sync(result))) => {
                let user = session.user;
                let begins = |frame: &Vec<u8>| is_beginning(frame, &user);
                if let Some(catch_up) = session.catch_up.as_mut() {
                    catch_up.resumed(request_id, result.pages, result.verdicts, begins);
                }
                self.pump(outside, connection);
            }
            (Asked::Resume, Err(error)) => {
                session.frame(outside, connection, request_id, Frame::Error(error));
                if let Some(catch_up) = session.catch_up.as_mut() {
                    catch_up.resume_failed();
                }
                self.pump(outside, connection);
            }
            (Asked::Sync, Ok(Response::Sync(result))) => {
                let catch_up = session.catch_up.get_or_insert_default();
                catch_up.synced(request_id, result.pages, result.verdicts);
                self.pump(outside, connection);
            }
            (Asked::Send, Ok(Response::Sent(sent))) => {
                session.frame(outside, connection, request_id, Frame::Sent(sent));
            }
            (Asked::Ack, Ok(Response::Accepted(_))) => {
                session.frame(outside, connection, request_id, Frame::Accepted(Accepted {}));
            }
            (_, Err(error)) => {
                session.frame(outside, connection, request_id, Frame::Error(error));
            }
            _ => {}
        }
    }
}
