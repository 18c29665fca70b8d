//! Who is online after all faults: some users sign off, and somebody who watches must be told so of them,
//! and of nobody else.

use super::fleet::{Fleet, Journal, websocket_urls};
use crate::clock;
use crate::failure::{Context, Outcome};
use crate::limits::PRESENCE_MS_MAX;
use crate::population::Population;
use crate::report::progress;
use crate::stack::Stack;
use crate::tokens::Minter;
use checker::history::Operation;
use client::{Events, Options, Session, Update, Waited};
use proto::Uuid;
use proto::client::event;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

/// Of so many users who are watched, one signs off.
const SIGN_OFF_OF: usize = 3;

/// Writes down what is so and what was told, once that is the same, or no later than it must be.
pub(super) fn check(
    stack: &Stack,
    minter: &Minter,
    population: &Population,
    fleet: &Fleet,
    folder: &Path,
) -> Outcome {
    let (watcher, others) = watched(population);
    let leave = |number: usize| number.is_multiple_of(SIGN_OFF_OF);
    let (session, events) = watch(stack, minter, population, watcher, &others)?;
    let mut wanted = BTreeMap::new();
    for (number, user) in others.iter().enumerate() {
        wanted.insert(population.users[*user], !leave(number));
        if leave(number) {
            fleet.sign_off(*user);
        }
    }
    let until_us = clock::now_us() + PRESENCE_MS_MAX * 1_000;
    let told = listen(&events, &wanted, until_us);
    session.close();
    let right = wanted.iter().filter(|(user, online)| told.get(user) == Some(online)).count();
    progress!("perf: presence of {right} of {} users is told rightly", wanted.len());
    let journal = Journal::create(&folder.join("presence.jsonl"))?;
    for (user, online) in wanted {
        let told = told.get(&user).copied();
        journal.write(&Operation::Presence { user: user.to_string(), online, told });
    }
    journal.finish()
}

/// The user who shares conversations with the most others, and these.
fn watched(population: &Population) -> (usize, Vec<usize>) {
    let by_user = population.conversations_by_user();
    let others = |user: usize| -> BTreeSet<usize> {
        let shared = by_user[user].iter().flat_map(|at| &population.conversations[*at].members);
        shared.copied().filter(|other| *other != user).collect()
    };
    let watcher = (0..by_user.len()).max_by_key(|user| others(*user).len()).unwrap_or_default();
    (watcher, others(watcher).into_iter().collect())
}

fn watch(
    stack: &Stack,
    minter: &Minter,
    population: &Population,
    watcher: usize,
    others: &[usize],
) -> Outcome<(Session, Events)> {
    let token = minter.mint(population.users[watcher], proto::id::new())?;
    let mut options = Options::new(websocket_urls(stack)?, Options::fixed_token(token));
    options.acknowledge = false;
    let (session, events) = Session::connect(options).doing("a client")?;
    session.watch(others.iter().map(|it| population.users[*it]).collect());
    Ok((session, events))
}

/// What was told of each user last.
fn listen(events: &Events, wanted: &BTreeMap<Uuid, bool>, until_us: u64) -> BTreeMap<Uuid, bool> {
    let mut told = BTreeMap::new();
    while told != *wanted {
        let Some(left_us) = until_us.checked_sub(clock::now_us()) else { break };
        match events.recv_for(Duration::from_micros(left_us)) {
            Waited::Update(Update::Event(delivery)) => {
                if let Some(event::Kind::PresenceChanged(changed)) = &delivery.event.kind
                    && let Ok(user) = Uuid::from_slice(&changed.user_id)
                    && wanted.contains_key(&user)
                {
                    told.insert(user, changed.online);
                }
            }
            Waited::Update(Update::Notice(_)) => {}
            Waited::Nothing | Waited::Ended => break,
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastrand::Rng;

    #[test]
    fn whoever_is_watched_shares_a_conversation_with_the_watcher() {
        let population = Population::plan(&mut Rng::with_seed(7), 40, 20, 6);
        let (watcher, others) = watched(&population);
        assert!(others.len() >= 5 && !others.contains(&watcher), "{others:?}");
        for other in others {
            let shared = population.conversations.iter();
            let mut shared = shared.map(|it| &it.members);
            assert!(shared.any(|it| it.contains(&watcher) && it.contains(&other)));
        }
    }
}
