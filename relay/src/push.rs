//! Push: members without a session are told of messages by whoever can reach their devices.
//!
//! ```text
//! chat.message.created --> requester --> chat.push.requested --> deliverer --> webhook (HTTP)
//!                            |    |                                 |
//!                         Redis  PostgreSQL                  chat.push.requested.dlq
//! ```
//!
//! Both are consumer groups of their own, beside the way from the outbox to the log: nothing that stalls
//! here holds up a message.

mod group;
mod metrics;
mod record;
mod requester;
mod sessions;
mod webhook;
mod windows;
#[cfg(test)]
mod windows_tests;
mod wishes;

use crate::config::{Push, Settings, Webhook};
use crate::database::Backoff;
use daemon::{Health, Metrics};
use group::{Group, Take};
use metrics::PushMetrics;
use proto::topics;
use requester::Requester;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use webhook::Deliverer;

/// The group that makes requests, and the one that delivers them.
const REQUESTERS: &str = "realchat-push";
const DELIVERERS: &str = "realchat-push-webhook";
/// Health conditions: from when on a message, or a request, is not missed.
const REQUESTS: &str = "push";
const DELIVERIES: &str = "push-webhook";

/// Starts what is configured. The threads end when `stop` is set.
pub(crate) fn start(
    settings: &Settings,
    health: &Health,
    metrics: &Metrics,
    stop: &Arc<AtomicBool>,
) -> Result<Vec<JoinHandle<()>>, String> {
    let mut threads = Vec::new();
    if settings.push.is_none() && settings.webhook.is_none() {
        return Ok(threads);
    }
    let shared = Shared {
        settings: settings.clone(),
        health: health.clone(),
        metrics: PushMetrics::new(metrics),
        stop: Arc::clone(stop),
    };
    if let Some(push) = settings.push.clone() {
        // Now, so that a URL that is none is told.
        sessions::Sessions::new(&push.redis_url)?;
        health.require(REQUESTS, "not looked at yet");
        let own = shared.clone();
        threads.push(crate::spawn("push", move || {
            give_way();
            own.request(&push);
        })?);
    }
    if let Some(webhook) = settings.webhook.clone() {
        health.require(DELIVERIES, "not looked at yet");
        threads.push(crate::spawn("push-webhook", move || {
            give_way();
            shared.deliver(webhook);
        })?);
    }
    Ok(threads)
}

/// Messages first: on a machine that is busy, this thread and those that it starts (Kafka's clients)
/// have next to nothing until the others are served. What waits, waits in Kafka.
fn give_way() {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: `parameters` is a valid place to read; Linux takes 0 for the calling thread alone.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) } != 0 {
        let error = std::io::Error::last_os_error();
        tracing::warn!(%error, "push has the priority of messages");
    }
}

#[derive(Clone)]
struct Shared {
    settings: Settings,
    health: Health,
    metrics: PushMetrics,
    stop: Arc<AtomicBool>,
}

impl Shared {
    fn request(self, push: &Push) {
        let Some(group) = self.join(REQUESTERS, topics::MESSAGE_CREATED, REQUESTS) else { return };
        match Requester::new(&self.settings, push, group, self.metrics, self.stop) {
            Ok(requester) => requester.run(),
            Err(error) => self.health.not_ready(REQUESTS, error),
        }
    }

    fn deliver(self, webhook: Webhook) {
        let Some(group) = self.join(DELIVERERS, topics::PUSH_REQUESTED, DELIVERIES) else { return };
        Deliverer::new(&self.settings, webhook, group, self.metrics, self.stop).run();
    }

    /// Tries until the broker answers and has the topic; nothing if the process stops before.
    fn join<T: Take>(
        &self,
        name: &str,
        topic: &'static str,
        condition: &'static str,
    ) -> Option<Group<T>> {
        let mut backoff = Backoff::default();
        while !self.stop.load(Ordering::Acquire) {
            match Group::join(&self.settings, name, topic) {
                Ok(group) => {
                    self.health.ready(condition);
                    return Some(group);
                }
                Err(error) => self.health.not_ready(condition, error),
            }
            std::thread::sleep(backoff.next());
        }
        None
    }
}
