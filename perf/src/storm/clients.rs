//! What the sessions of a storm know and see: cursors, watermarks, and every event once.

use crate::clock;
use crate::latency::Latencies;
use crate::load::Handler;
use crate::population::Population;
use crate::report::progress;
use proto::client::server_frame::Frame;
use proto::client::{Cursor, Event, Hello, ServerFrame, Verdict};
use proto::{Message, Uuid};

struct View {
    conversation: Uuid,
    /// The last event without a hole before it.
    last: u64,
    /// What the last event is to be in the end.
    expected: u64,
}

#[derive(Default)]
struct Client {
    views: Vec<View>,
    /// Given with the welcome, and kept once the session is synced.
    offered: Vec<u8>,
    watermark: Vec<u8>,
    opened_us: u64,
    synced: bool,
}

pub(super) struct Clients {
    clients: Vec<Client>,
    unsynced: u64,
    last_opened_us: u64,
    last_synced_us: u64,
    latencies: Latencies,
    caught_up: u64,
    duplicates: u64,
    resets: u64,
    gaps: u64,
    closed: u64,
}

impl Clients {
    pub(super) fn new(population: &Population) -> Self {
        let by_user = population.conversations_by_user();
        let view = |index: &usize| View {
            conversation: population.conversations[*index].id,
            last: 0,
            // The creation is the log's first event.
            expected: 1,
        };
        let client = |conversations: &Vec<usize>| Client {
            views: conversations.iter().map(view).collect(),
            ..Client::default()
        };
        Self::counting(by_user.iter().map(client).collect())
    }

    /// Nothing is counted yet.
    fn counting(clients: Vec<Client>) -> Self {
        Self {
            unsynced: clients.len() as u64,
            clients,
            last_opened_us: 0,
            last_synced_us: 0,
            latencies: Latencies::new(),
            caught_up: 0,
            duplicates: 0,
            resets: 0,
            gaps: 0,
            closed: 0,
        }
    }

    /// Everybody is gone, and misses so many events of each conversation.
    pub(super) fn gone(&mut self, gap: u64) {
        for client in &mut self.clients {
            client.synced = false;
            client.views.iter_mut().for_each(|view| view.expected += gap);
        }
        *self = Self::counting(std::mem::take(&mut self.clients));
    }

    /// What a session says first: that it resumes, and from where.
    pub(super) fn hello(&self, session: usize) -> Hello {
        let client = &self.clients[session];
        let seen = client.views.iter().filter(|view| view.last > 0);
        let cursors = seen.map(|view| Cursor {
            conversation_id: view.conversation.as_bytes().to_vec(),
            sequence_number: view.last,
        });
        Hello {
            resume: true,
            cursors: cursors.collect(),
            watermark: client.watermark.clone(),
            client: "perf".into(),
            ..Hello::default()
        }
    }

    pub(super) fn all_synced(&self) -> bool {
        self.unsynced == 0
    }

    pub(super) fn unsynced(&self) -> u64 {
        self.unsynced
    }

    pub(super) fn last_opened_us(&self) -> u64 {
        self.last_opened_us
    }

    pub(super) fn last_synced_us(&self) -> u64 {
        self.last_synced_us
    }

    pub(super) fn synced_ms_at(&self, quantile: f64) -> f64 {
        self.latencies.ms_at(quantile)
    }

    /// Events that came of those that were missed.
    pub(super) fn caught_up(&self) -> u64 {
        self.caught_up
    }

    /// Events that never came, or came behind a hole.
    pub(super) fn lost(&self) -> u64 {
        let views = self.clients.iter().flat_map(|client| &client.views);
        views.map(|view| view.expected.saturating_sub(view.last)).sum()
    }

    pub(super) fn duplicates(&self) -> u64 {
        self.duplicates
    }

    pub(super) fn resets(&self) -> u64 {
        self.resets
    }

    pub(super) fn gaps(&self) -> u64 {
        self.gaps
    }

    pub(super) fn closed(&self) -> u64 {
        self.closed
    }

    fn saw(&mut self, session: usize, event: &Event) {
        let Ok(conversation) = Uuid::from_slice(&event.conversation_id) else { return };
        let views = &mut self.clients[session].views;
        let Some(view) = views.iter_mut().find(|it| it.conversation == conversation) else {
            return;
        };
        if event.sequence_number == view.last + 1 {
            view.last += 1;
            self.caught_up += 1;
        } else if (1..=view.last).contains(&event.sequence_number) {
            self.duplicates += 1;
        }
    }

    fn synced(&mut self, session: usize, verdicts: &[Verdict]) {
        for verdict in verdicts {
            self.resets += u64::from(verdict.reset);
            self.gaps += u64::from(verdict.gap_to_sequence_number > 0);
        }
        let now_us = clock::now_us();
        let client = &mut self.clients[session];
        client.watermark = std::mem::take(&mut client.offered);
        if !std::mem::replace(&mut client.synced, true) {
            self.unsynced -= 1;
            self.last_synced_us = now_us;
            self.latencies.record_us(now_us - client.opened_us);
        }
    }
}

impl Handler for Clients {
    fn opened(&mut self, session: usize, welcome: &[u8]) {
        let client = &mut self.clients[session];
        client.opened_us = clock::now_us();
        self.last_opened_us = client.opened_us;
        if let Ok(ServerFrame { frame: Some(Frame::Welcome(welcome)), .. }) =
            ServerFrame::decode(welcome)
        {
            client.offered = welcome.watermark;
        }
    }

    fn frame(&mut self, session: usize, payload: &[u8]) {
        let Ok(ServerFrame { frame: Some(frame), .. }) = ServerFrame::decode(payload) else {
            return;
        };
        match frame {
            Frame::Event(event) => self.saw(session, &event),
            Frame::SyncPage(page) => page.events.iter().for_each(|it| self.saw(session, it)),
            Frame::Synced(synced) => self.synced(session, &synced.verdicts),
            Frame::Error(error) => {
                progress!("perf: session {session}: {}: {}", error.code, error.message);
            }
            _ => {}
        }
    }

    fn closed(&mut self, session: usize, code: u16) {
        self.closed += 1;
        progress!("perf: session {session} was closed with code {code}");
    }
}
