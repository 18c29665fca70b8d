//! The thread with a real link to a presenced that takes notes.

use super::*;
use crate::mailbox::{Inbox, pair};
use crossbeam_channel::unbounded;
use daemon::config::load_from;
use daemon::link::{Handler, Incoming, Reply, Server, ServerSettings, serve};
use proto::client::Accepted;
use proto::link::PresenceQueryResult;
use std::collections::HashMap;
use std::sync::Arc;

const PATIENCE: Duration = Duration::from_secs(60);
const SECRET: &str = "a secret of enough bytes";

struct Notes(Sender<PresenceReport>);

impl Handler for Notes {
    fn handle(&self, incoming: Incoming, reply: Reply) {
        match incoming.request {
            Request::PresenceReport(report) => {
                self.0.send(report).unwrap();
                reply.send(Response::Accepted(Accepted {}));
            }
            _ => reply.send(Response::PresenceQuery(PresenceQueryResult {
                blank_run_id: vec![7; 16],
                ..PresenceQueryResult::default()
            })),
        }
    }
}

fn presenced(address: &str) -> (Server, Receiver<PresenceReport>) {
    let (sender, reports) = unbounded();
    let settings = ServerSettings {
        address: address.to_owned(),
        secret: SECRET.into(),
        instance: "presenced".into(),
    };
    (serve(settings, Arc::new(Notes(sender))).unwrap(), reports)
}

fn gateway(address: &str) -> (Presence, Inbox) {
    let variables = HashMap::from([
        ("REALCHAT_GATEWAY_PRESENCED_LINK".to_owned(), address.to_owned()),
        ("REALCHAT_GATEWAY_LINK_SECRET".to_owned(), SECRET.to_owned()),
    ]);
    let config = load_from("gateway", crate::config::KEYS, None, variables).unwrap();
    let (mailbox, inbox) = pair(64, None);
    let metrics = Metrics::new("gateway");
    let presence = start(&config, "gateway-1", &metrics, Mailboxes::new(vec![mailbox])).unwrap();
    (presence, inbox)
}

fn wait_for(inbox: &Inbox, what: &str, is_it: impl Fn(&Mail) -> bool) {
    let start = Instant::now();
    while !inbox.take().is_some_and(|mail| is_it(&mail)) {
        assert!(start.elapsed() < PATIENCE, "{what} did not come");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn wait_for_census(inbox: &Inbox) {
    wait_for(inbox, "a census", |mail| matches!(mail, Mail::Census));
}

#[test]
fn changes_and_censuses_reach_presenced_in_order() {
    let (server, reports) = presenced("127.0.0.1:0");
    let (presence, inbox) = gateway(server.address());
    wait_for_census(&inbox);
    let [user, device] = [proto::id::new(), proto::id::new()];
    presence.report(PresenceChange::Connected { user, device, connection: 1 });
    presence.report(PresenceChange::Connected { user, device, connection: 2 });
    presence.census(0, vec![(user, device, 1), (user, device, 2)]);
    presence.report(PresenceChange::Disconnected { user, device, connection: 2 });
    presence.stop(Duration::from_secs(1));
    let all: Vec<PresenceReport> = reports.try_iter().collect();
    assert!(all.iter().all(|it| it.gateway_id == "gateway-1" && it.gateway_run_id.len() == 16));
    let connections = |sessions: &[PresenceSession]| {
        let mut all: Vec<u64> = sessions.iter().map(|it| it.connection).collect();
        all.sort_unstable();
        all
    };
    let seen: Vec<_> = all
        .iter()
        .map(|it| [&it.connected, &it.heartbeats, &it.disconnected].map(|it| connections(it)))
        .collect();
    let expected =
        [[vec![1, 2], vec![], vec![]], [vec![], vec![1, 2], vec![]], [vec![], vec![], vec![2]]];
    assert_eq!(seen, expected);
}

#[test]
fn without_presenced_nothing_waits() {
    let (presence, _inbox) = gateway("127.0.0.1:1");
    let start = Instant::now();
    for connection in 0..100_000 {
        let (user, device) = (proto::id::new(), proto::id::new());
        presence.report(PresenceChange::Connected { user, device, connection });
    }
    presence.stop(Duration::from_secs(1));
    assert!(start.elapsed() < PATIENCE);
}

#[test]
fn the_shards_are_told_once_that_presenced_began_blank() {
    let (server, _reports) = presenced("127.0.0.1:0");
    let (presence, inbox) = gateway(server.address());
    wait_for(&inbox, "what was forgotten", |mail| matches!(mail, Mail::PresenceForgotten));
    // The same run says the same with every census.
    presence.note(Note::LinkUp);
    wait_for_census(&inbox);
    presence.stop(Duration::from_secs(1));
    assert!(inbox.take().is_none());
}
