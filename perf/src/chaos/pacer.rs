//! The load: messages at a steady rate from random devices to random conversations, open-loop,
//! whatever the faults do. Some acknowledged ones are sent again, with the same key, from another
//! device of the same user: that must give the same answer.

use super::fleet::Fleet;
use crate::clock::{self, Schedule};
use crate::population::Population;
use fastrand::Rng;
use proto::Uuid;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// One in so many messages is sent again after its acknowledgement.
const AGAIN_EVERY: u64 = 25;
/// Messages sent before the first fault may come.
const BEGUN: u64 = 50;

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    sent: AtomicU64,
}

pub(super) struct Pacer {
    shared: Arc<Shared>,
    messages: u64,
    thread: Option<JoinHandle<()>>,
}

/// A conversation and its members' devices.
type Place = (Uuid, Vec<Vec<Arc<super::fleet::Device>>>);

impl Pacer {
    pub(super) fn start(
        fleet: &Fleet,
        population: &Population,
        rate: u64,
        messages: u64,
        random: Rng,
    ) -> Self {
        let devices = |user: usize| {
            (0..fleet.devices_per_user()).map(move |device| fleet.device(user, device)).collect()
        };
        let place = |it: &crate::population::Conversation| {
            (it.id, it.members.iter().map(|user| devices(*user)).collect())
        };
        let places: Vec<Place> = population.conversations.iter().map(place).collect();
        let shared = Arc::<Shared>::default();
        let own = Arc::clone(&shared);
        let pace = move || pace(&own, &places, rate, random);
        let thread = std::thread::Builder::new().name("pacer".into()).spawn(pace).ok();
        Self { shared, messages, thread }
    }

    /// Waits until the load is under way.
    pub(super) fn wait_begun(&self) {
        self.wait_for(BEGUN.min(self.messages), u64::MAX);
    }

    /// Stops once all messages are sent, or at the time. Gives back how many were.
    pub(super) fn finish(mut self, until_us: u64) -> u64 {
        self.wait_for(self.messages, until_us);
        self.stop();
        self.shared.sent.load(Ordering::Acquire)
    }

    fn wait_for(&self, messages: u64, until_us: u64) {
        let lives = || self.thread.as_ref().is_some_and(|it| !it.is_finished());
        while lives()
            && clock::now_us() < until_us
            && self.shared.sent.load(Ordering::Acquire) < messages
        {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // What it may have panicked with was printed; the checker sees what is missing.
            let _ = thread.join();
        }
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn pace(shared: &Shared, places: &[Place], rate: u64, mut random: Rng) {
    // Longer than any run.
    let schedule = Schedule::new(clock::now_us(), rate, crate::limits::SECONDS_MAX);
    let mut next = 0;
    while let Some(due_us) = schedule.due_us(next) {
        let wake_us = clock::now_us() + 50_000;
        clock::sleep_until(due_us.min(wake_us));
        if shared.stop.load(Ordering::Acquire) {
            return;
        }
        if clock::now_us() < due_us {
            continue;
        }
        one(places, next, &mut random);
        next += 1;
        shared.sent.store(next, Ordering::Release);
    }
}

fn one(places: &[Place], number: u64, random: &mut Rng) {
    let (conversation, members) = &places[random.usize(..places.len())];
    let devices = &members[random.usize(..members.len())];
    let at = random.usize(..devices.len());
    let key = format!("chaos-{number}");
    let text = format!("message {number} {}", "x".repeat(random.usize(..200)));
    let again = (number.is_multiple_of(AGAIN_EVERY))
        .then(|| (Arc::clone(&devices[(at + 1) % devices.len()]), key.clone(), text.clone()));
    let conversation = *conversation;
    devices[at].send(conversation, key, &text, move || {
        if let Some((device, key, text)) = again {
            device.send(conversation, key, &text, || {});
        }
    });
}
