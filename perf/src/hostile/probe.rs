//! Does a message still get through?

use crate::clock;
use crate::failure::Outcome;
use crate::load::{self, Driver, Handler};
use crate::population::Population;
use crate::stack::Stack;
use crate::tokens::Minter;
use fastrand::Rng;
use proto::Message;
use proto::client::{ClientFrame, Send, ServerFrame, client_frame, event, server_frame};
use std::collections::HashSet;

#[derive(Default)]
struct Probe {
    acked: bool,
    shown: HashSet<usize>,
    closed: bool,
}

impl Probe {
    fn is_done(&self) -> bool {
        self.acked && self.shown.len() == 2 || self.closed
    }
}

impl Handler for Probe {
    fn frame(&mut self, session: usize, payload: &[u8]) {
        match ServerFrame::decode(payload).ok().and_then(|it| it.frame) {
            Some(server_frame::Frame::Sent(_)) => self.acked = true,
            Some(server_frame::Frame::Event(event)) => {
                if matches!(event.kind, Some(event::Kind::Message(_))) {
                    self.shown.insert(session);
                }
            }
            _ => {}
        }
    }

    fn closed(&mut self, _: usize, _: u16) {
        self.closed = true;
    }
}

/// Two users of one conversation: a message of one is acknowledged, and both are shown it.
pub(super) fn is_delivered(stack: &Stack, minter: &Minter, until_us: u64) -> Outcome<bool> {
    let population = Population::plan(&mut Rng::new(), 2, 1, 2);
    population.insert(&stack.database_url()?)?;
    let mut probe = Probe::default();
    let mut driver = Driver::new()?;
    let specs = load::specs(&stack.gateways()?, minter, population.users.iter().copied())?;
    driver.open_all(specs, &mut probe)?;
    let send = Send {
        conversation_id: population.conversations[0].id.as_bytes().to_vec(),
        idempotency_key: "probe".into(),
        text: "still there".into(),
    };
    let frame = ClientFrame { request_id: 2, frame: Some(client_frame::Frame::Send(send)) };
    driver.send(0, &frame.encode_to_vec(), &mut probe);
    while !probe.is_done() && clock::now_us() < until_us {
        driver.run_until(until_us, &mut probe, Probe::is_done)?;
    }
    driver.close_all();
    Ok(probe.acked && probe.shown.len() == 2)
}
