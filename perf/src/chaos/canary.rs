//! A message that is followed from one user to another, to see whether everything works again.

use super::fleet::websocket_urls;
use crate::clock;
use crate::failure::{Context, Outcome};
use crate::population::Population;
use crate::stack::Stack;
use crate::tokens::Minter;
use client::{Events, Options, Session, Update, Waited};
use fastrand::Rng;
use proto::Uuid;
use proto::client::event;
use std::cell::Cell;
use std::time::Duration;

/// The longest wait between attempts to connect: what is measured is the system's recovery.
const BACKOFF_MS_MAX: u64 = 500;

/// Two users of one conversation, on the client library: one sends, wherever a gateway answers; the
/// other listens on a device at each gateway, which waits for that gateway to come back.
pub(super) struct Canary {
    conversation: Uuid,
    sender: (Session, Events),
    listeners: Vec<(Session, Events)>,
    songs: Cell<u64>,
}

impl Canary {
    pub(super) fn start(stack: &Stack, minter: &Minter, random: &mut Rng) -> Outcome<Self> {
        let population = Population::plan(random, 2, 1, 2);
        population.insert(&stack.database_url()?)?;
        let urls = websocket_urls(stack)?;
        let open = |user: Uuid, urls: &[String]| -> Outcome<(Session, Events)> {
            let token = Options::fixed_token(minter.mint(user, proto::id::new())?);
            let mut options = Options::new(urls.to_vec(), token);
            options.resume = true;
            options.acknowledge = false;
            options.backoff_ms_max = BACKOFF_MS_MAX;
            Session::connect(options).doing("a client")
        };
        let sender = open(population.users[0], &urls)?;
        let listeners = urls.chunks(1).map(|url| open(population.users[1], url));
        let listeners = listeners.collect::<Outcome<_>>()?;
        let conversation = population.conversations[0].id;
        Ok(Self { conversation, sender, listeners, songs: Cell::new(0) })
    }

    /// Sends a message and waits until every device was shown it; None if that takes too long.
    pub(super) fn sing(&self, patience: Duration) -> Option<Duration> {
        let start_us = clock::now_us();
        let until_us = start_us + u64::try_from(patience.as_micros()).unwrap_or(u64::MAX);
        let song = self.songs.get() + 1;
        self.songs.set(song);
        let text = format!("song {song}");
        // Whether it was acknowledged shows in its delivery.
        self.sender.0.send_then(self.conversation, &format!("song-{song}"), &text, |_| {});
        for (_, events) in self.listeners.iter().chain([&self.sender]) {
            hear(events, &text, until_us)?;
        }
        Some(Duration::from_micros(clock::now_us() - start_us))
    }
}

/// Waits for the event with this text.
fn hear(events: &Events, wanted: &str, until_us: u64) -> Option<()> {
    loop {
        let left_us = until_us.checked_sub(clock::now_us())?;
        match events.recv_for(Duration::from_micros(left_us)) {
            Waited::Update(Update::Event(delivery)) => {
                if let Some(event::Kind::Message(message)) = &delivery.event.kind
                    && message.text == wanted
                {
                    return Some(());
                }
            }
            Waited::Update(Update::Notice(_)) => {}
            Waited::Nothing | Waited::Ended => return None,
        }
    }
}
