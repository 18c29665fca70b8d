//! Messages through chatd's link, as a gateway asks for its sessions.

use crate::clock;
use crate::failure::{Context, Failure, Outcome};
use crate::limits::STORM_SENDS_IN_FLIGHT;
use crate::stack::Link;
use crossbeam_channel::unbounded;
use daemon::link::{Client, ClientSettings};
use proto::Uuid;
use proto::link::{Send, request, response};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

/// One message for each conversation and sender, each acknowledged.
pub(super) fn all(link: &Link, sends: impl Iterator<Item = (Uuid, Uuid)>) -> Outcome {
    let (done, answers) = unbounded();
    let settings = ClientSettings {
        address: link.address.clone(),
        secret: link.secret.clone(),
        instance: "perf".into(),
        in_flight_max: STORM_SENDS_IN_FLIGHT,
    };
    // The receiver is gone only when the run is over.
    let on_answer = move |(), outcome| drop(done.send(outcome));
    let client = Client::start(settings, on_answer, |_| {}).reaching("chatd's link")?;
    let until_us = clock::now_us() + 10_000_000;
    while !client.is_connected() {
        if clock::now_us() > until_us {
            return Err(Failure::Unreachable("chatd's link does not come up".into()));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let take = || -> Outcome {
        let answer = answers.recv_timeout(PATIENCE);
        match answer.reaching("chatd")?.reaching("chatd")? {
            response::Response::Sent(_) => Ok(()),
            response::Response::Error(error) => {
                Err(Failure::Refused(format!("{}: {}", error.code, error.message)))
            }
            _ => Err(Failure::Refused("chatd answered a send with something else".into())),
        }
    };
    let mut in_flight = 0;
    for (number, (conversation, sender)) in sends.enumerate() {
        let send = proto::client::Send {
            conversation_id: conversation.as_bytes().to_vec(),
            idempotency_key: format!("storm-{number}"),
            text: format!("missed {number}"),
        };
        let id = sender.as_bytes().to_vec();
        let send = Send { sender_id: id.clone(), device_id: id, send: Some(send) };
        let asked = client.submit(request::Request::Send(send), String::new(), PATIENCE, ());
        asked.map_err(|((), error)| error).reaching("chatd's link")?;
        in_flight += 1;
        if in_flight == STORM_SENDS_IN_FLIGHT {
            take()?;
            in_flight -= 1;
        }
    }
    (0..in_flight).try_for_each(|_| take())
}
