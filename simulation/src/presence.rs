//! presenced with its real rules, Redis as a model, and the announcements' way to the broker.

use crate::Outside;
use crate::broker::{LogRecord, partition};
use crate::bugs::Bug;
use crate::bus::Process;
use crate::kafka;
use crate::limits::{ANNOUNCE_AGAIN_US, PRESENCE_TICK_US, REDIS_RETRY_US, TIMINGS};
use presenced::rules::{Action, Event as Happened, Known, Named, Now, Report, Rules, Store};
use presenced::{Announcement, Waiting};
use proto::record::RecordHeaders;
use proto::{Uuid, topics};
use std::collections::{BTreeMap, BTreeSet};

/// What a gateway reports.
#[derive(Debug)]
pub(crate) enum Said {
    Connected(Named),
    Disconnected(Named),
    Heartbeats(Vec<Named>),
}

#[derive(Debug)]
pub(crate) enum Event {
    Reported {
        gateway: usize,
        run: Uuid,
        said: Said,
    },
    Tick,
    /// Redis may be there.
    Connect,
    /// The broker has the announcement of that number.
    Announced {
        request: usize,
    },
    /// It was not heard of: it goes again.
    AnnounceAgain {
        request: usize,
    },
}

/// What Redis holds that outlives presenced; a restart of Redis forgets it all.
#[derive(Debug, Default)]
pub(crate) struct Redis {
    online: BTreeSet<Uuid>,
    changing: BTreeSet<Uuid>,
    is_complete: bool,
    /// Grows with every restart: connections of before are dead.
    epoch: u64,
}

impl Redis {
    pub(crate) fn restart(&mut self) {
        *self = Self { epoch: self.epoch + 1, ..Self::default() };
    }

    /// Users that Redis calls online, surely or perhaps.
    pub(crate) fn online(&self) -> &BTreeSet<Uuid> {
        &self.online
    }

    fn write(&mut self, store: &Store) {
        match store {
            Store::Changing { user } => {
                self.changing.insert(*user);
            }
            Store::Online { user } => {
                self.online.insert(*user);
                self.changing.remove(user);
            }
            Store::Offline { user, .. } => {
                self.online.remove(user);
                self.changing.remove(user);
            }
            // What expires is not needed here: nobody reads it.
            Store::Session { .. }
            | Store::Gone { .. }
            | Store::Gateways { .. }
            | Store::Gateway { .. } => {}
        }
    }
}

pub(crate) struct Presence {
    rules: Rules,
    /// The connection to Redis, by the epoch in which it was made.
    redis: Option<u64>,
    stores: Vec<Store>,
    announcements: Vec<Announcement>,
    waiting: Waiting,
    /// Announcements on their way, by their number.
    sent: BTreeMap<usize, Announcement>,
}

impl Presence {
    pub(crate) fn new(outside: &mut Outside) -> Self {
        let this = Self {
            rules: Rules::new(TIMINGS, now(outside)),
            redis: None,
            stores: Vec::new(),
            announcements: Vec::new(),
            waiting: Waiting::default(),
            sent: BTreeMap::new(),
        };
        after(outside, PRESENCE_TICK_US, Event::Tick);
        after(outside, 0, Event::Connect);
        this
    }

    pub(crate) fn step(&mut self, outside: &mut Outside, event: Event) {
        match event {
            Event::Reported { gateway, run, said } => self.reported(outside, gateway, run, said),
            Event::Tick => {
                self.happened(outside, Happened::Tick);
                self.check_redis(outside);
                after(outside, PRESENCE_TICK_US, Event::Tick);
            }
            Event::Connect => self.connect(outside),
            Event::Announced { request } => self.announced(outside, request),
            Event::AnnounceAgain { request } => {
                if let Some(announcement) = self.sent.remove(&request) {
                    self.waiting.returned(announcement, false);
                    self.announce(outside);
                }
            }
        }
    }

    fn reported(&mut self, outside: &mut Outside, gateway: usize, run: Uuid, said: Said) {
        let (mut connected, mut disconnected, mut heartbeats) = (vec![], vec![], vec![]);
        match said {
            Said::Connected(named) => connected.push(named),
            Said::Disconnected(named) => disconnected.push(named),
            Said::Heartbeats(named) => heartbeats = named,
        }
        let gateway = format!("gateway-{gateway}").as_str().into();
        let report = Report { gateway, run, connected, disconnected, heartbeats };
        self.happened(outside, Happened::Report(report));
    }

    fn happened(&mut self, outside: &mut Outside, event: Happened) {
        // A report of a run that is over is refused, and changes nothing.
        for action in self.rules.step(now(outside), event).unwrap_or_default() {
            match action {
                Action::Store(store) => self.stores.push(store),
                Action::Announce { user, online, at_us } => {
                    if online || outside.bug != Some(Bug::NeverOffline) {
                        self.announcements.push(Announcement { user, online, at_us });
                    }
                }
            }
        }
        self.write(outside);
    }

    /// First Redis, then the announcements.
    fn write(&mut self, outside: &mut Outside) {
        let stores = std::mem::take(&mut self.stores);
        if !stores.is_empty() && self.redis.is_some() {
            if self.has_redis(outside) {
                stores.iter().for_each(|store| outside.redis.write(store));
            } else {
                self.redis_is_lost(outside);
            }
        }
        let written = self.redis.is_some();
        for announcement in std::mem::take(&mut self.announcements) {
            let Announcement { user, online, at_us } = announcement;
            if !written && !online {
                // Refused only for reports; nothing follows from it before Redis is back.
                let _ = self.rules.step(now(outside), Happened::Withheld { user, at_us });
                continue;
            }
            self.waiting.add(announcement);
        }
        self.announce(outside);
    }

    fn has_redis(&self, outside: &Outside) -> bool {
        outside.bus.reaches(Process::Presenced, Process::Redis)
            && self.redis == Some(outside.redis.epoch)
    }

    fn redis_is_lost(&mut self, outside: &mut Outside) {
        self.redis = None;
        // Refused only for reports; it tells nobody anything.
        let _ = self.rules.step(now(outside), Happened::RedisLost);
        after(outside, REDIS_RETRY_US, Event::Connect);
    }

    fn connect(&mut self, outside: &mut Outside) {
        if !outside.bus.reaches(Process::Presenced, Process::Redis) {
            return after(outside, REDIS_RETRY_US, Event::Connect);
        }
        self.redis = Some(outside.redis.epoch);
        let online = outside.redis.online.iter().copied().collect();
        let changing = outside.redis.changing.iter().copied().collect();
        self.happened(outside, Happened::Known(Known { online, changing }));
        self.fill_redis(outside);
    }

    fn fill_redis(&mut self, outside: &mut Outside) {
        self.happened(outside, Happened::RedisBack);
        if self.has_redis(outside) {
            outside.redis.is_complete = true;
        }
    }

    fn check_redis(&mut self, outside: &mut Outside) {
        if self.redis.is_none() {
            return;
        }
        if !self.has_redis(outside) {
            self.redis_is_lost(outside);
        } else if !outside.redis.is_complete {
            self.fill_redis(outside);
        }
    }

    fn announce(&mut self, outside: &mut Outside) {
        let mut ready = self.waiting.take(usize::MAX);
        ready.sort_by_key(|it| it.user);
        for announcement in ready {
            let number = outside.bus.fresh();
            let request = usize::try_from(number).unwrap_or(usize::MAX);
            self.sent.insert(request, announcement);
            let Announcement { user, online, at_us } = announcement;
            let topic = if online { topics::USER_ONLINE } else { topics::USER_OFFLINE };
            // Each is a producer of its own: what is sent again may be there twice.
            let headers = RecordHeaders { created_at_us: at_us, ..RecordHeaders::default() };
            let record = LogRecord::new(topic, user.as_bytes(), &at_us.to_be_bytes(), &headers);
            let event = crate::Event::Kafka(kafka::Event::Produce {
                from: Process::Presenced,
                producer: number,
                request,
                partition: partition(user.as_bytes()),
                number: 0,
                records: vec![record],
            });
            // One connection: requests do not overtake each other.
            outside.send_in_order(Process::Presenced, Process::Kafka, 0, event);
            after(outside, ANNOUNCE_AGAIN_US, Event::AnnounceAgain { request });
        }
    }

    fn announced(&mut self, outside: &mut Outside, request: usize) {
        let Some(announcement) = self.sent.remove(&request) else { return };
        self.waiting.returned(announcement, true);
        let Announcement { user, online, at_us } = announcement;
        self.happened(outside, Happened::Announced { user, online, at_us });
    }
}

fn after(outside: &mut Outside, for_us: u64, event: Event) {
    outside.bus.after(Process::Presenced, for_us, crate::Event::Presence(event));
}

fn now(outside: &Outside) -> Now {
    Now { ms: outside.bus.now_ms(), us: outside.bus.wall_us(Process::Presenced) }
}
