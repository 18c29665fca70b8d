//! Users on their way to being routed, in a gateway that is sent what its users need: whose session may begin, and
//! who waits for that.

use super::Shard;
use super::handover::Errand;
use super::registry::IdHash;
use super::table::NO_SLOT;
use crate::close::Reason;
use crate::limits::ROUTES_KEPT_MAX;
use crate::mail::RouteNote;
use proto::Uuid;
use std::collections::{BTreeMap, HashMap, VecDeque};

pub(super) struct Routes {
    users: HashMap<Uuid, Route, IdHash>,
    /// What connections wait with, by their slots.
    parked: BTreeMap<u32, Errand>,
    tickets: u64,
    /// What the routes thread has still to be told, in order.
    notes: VecDeque<RouteNote>,
}

struct Route {
    /// Of the note that said so.
    ticket: u64,
    is_known: bool,
    /// Connections that wait.
    waiting: u32,
}

impl Routes {
    pub(super) fn new() -> Self {
        Self {
            users: HashMap::with_hasher(IdHash::new()),
            parked: BTreeMap::new(),
            tickets: 0,
            notes: VecDeque::new(),
        }
    }

    fn park(&mut self, slot: u32, shard: u16, errand: Errand) {
        let user = *errand.user();
        let route = self.users.entry(user).or_insert_with(|| {
            self.tickets += 1;
            let ticket = self.tickets;
            self.notes.push_back(RouteNote::Enter { user, ticket, shard });
            Route { ticket, is_known: false, waiting: 0 }
        });
        route.waiting += 1;
        self.parked.insert(slot, errand);
    }

    fn unpark(&mut self, slot: u32) -> Option<Errand> {
        let errand = self.parked.remove(&slot)?;
        if let Some(route) = self.users.get_mut(errand.user()) {
            route.waiting = route.waiting.saturating_sub(1);
        }
        Some(errand)
    }

    fn is_known(&self, user: &Uuid) -> bool {
        self.users.get(user).is_some_and(|route| route.is_known)
    }

    /// Forgets a user of whom nobody waits.
    fn leave(&mut self, user: &Uuid) {
        if self.users.get(user).is_some_and(|route| route.waiting == 0) {
            self.users.remove(user);
            self.notes.push_back(RouteNote::Leave { user: *user });
        }
    }
}

impl Shard {
    /// Gives the errand back if it may be done now; else the connection waits with it until its user is routed.
    pub(super) fn when_routed(&mut self, slot: u32, errand: Errand) -> Option<Errand> {
        let Some(routes) = &mut self.routes else { return Some(errand) };
        if matches!(errand, Errand::Upgrade { .. }) || routes.is_known(errand.user()) {
            return Some(errand);
        }
        if routes.notes.len() >= ROUTES_KEPT_MAX {
            self.close(slot, Reason::Overloaded, None);
            return None;
        }
        routes.park(slot, self.id, errand);
        self.tell_routes();
        if let Some(stage) = self.table.get(slot).map(|it| it.conn.stage()) {
            // For that the time of the stage begins anew.
            self.begin_stage(slot, stage);
        }
        None
    }

    /// Users are routed: whoever waited for that goes on.
    pub(super) fn routed(&mut self, users: &[(Uuid, u64)]) {
        let Some(routes) = &mut self.routes else { return };
        for (user, ticket) in users {
            if let Some(route) = routes.users.get_mut(user).filter(|it| it.ticket == *ticket) {
                route.is_known = true;
            }
        }
        let may_go_on =
            |(slot, errand): (&u32, &Errand)| routes.is_known(errand.user()).then_some(*slot);
        let slots: Vec<u32> = routes.parked.iter().filter_map(may_go_on).collect();
        for slot in slots {
            let Some(errand) = self.routes.as_mut().and_then(|it| it.unpark(slot)) else {
                continue;
            };
            let user = *errand.user();
            self.do_errand_now(slot, errand);
            self.unroute(&user);
        }
    }

    /// The connection waits no more: it has ended.
    pub(super) fn forget_parked(&mut self, slot: u32) {
        let errand = self.routes.as_mut().and_then(|it| it.unpark(slot));
        if let Some(errand) = errand {
            self.unroute(errand.user());
        }
    }

    /// A user who has no session here any more, and for whom none waits, need not be routed.
    pub(super) fn unroute(&mut self, user: &Uuid) {
        if let Some(routes) = &mut self.routes
            && self.registry.first(&self.table, user) == NO_SLOT
        {
            routes.leave(user);
            self.tell_routes();
        }
    }

    /// What the routes thread does not take now it is told later.
    pub(super) fn tell_routes(&mut self) {
        let Some(routes) = &mut self.routes else { return };
        while let Some(note) = routes.notes.front() {
            if !self.beyond.route(*note) {
                return;
            }
            routes.notes.pop_front();
        }
    }
}
