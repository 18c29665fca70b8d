//! `relay dlq`: looking at dead letters, publishing them again, putting them aside.
//!
//! Kafka cannot delete a single record, so that a letter is settled by a further record in its
//! partition, which names its offset. What is settled is no longer listed. What several gateways could
//! not read is one letter here, and settled at once.

mod broker;
mod letter;

use crate::config::Settings;
use crate::limits::DEAD_LETTERS_HELD_MAX;
use broker::Broker;
use daemon::Config;
use letter::{Letter, Place};
use std::collections::HashSet;
use std::io::Write;

const USAGE: &str = "relay dlq list | show PLACE | replay PLACE... | drop PLACE...; \
    a PLACE is what list prints first, TOPIC:PARTITION:OFFSET, or `all` for replay and drop";

/// How a letter was settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settlement {
    Replayed,
    Dropped,
}

impl Settlement {
    const fn word(self) -> &'static str {
        match self {
            Self::Replayed => "replayed",
            Self::Dropped => "dropped",
        }
    }
}

/// Runs the command. An error is one line for a person.
pub(crate) fn run(config: &Config, arguments: &[String]) -> Result<(), String> {
    let settings = Settings::new(config, "dlq".to_owned())?;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["list"] => list(&Broker::connect(&settings)?),
        ["show", place] => show(&Broker::connect(&settings)?, &place.parse()?),
        ["replay", places @ ..] if !places.is_empty() => {
            settle(&Broker::connect(&settings)?, places, Settlement::Replayed)
        }
        ["drop", places @ ..] if !places.is_empty() => {
            settle(&Broker::connect(&settings)?, places, Settlement::Dropped)
        }
        _ => Err(format!("usage: {USAGE}")),
    }
}

/// A line a letter: an object, for programs and people alike.
fn list(broker: &Broker) -> Result<(), String> {
    broker.letters(&|_| false)?.iter().try_for_each(|letter| print(&letter.summary()))
}

fn show(broker: &Broker, place: &Place) -> Result<(), String> {
    let letters = broker.letters(&|it| it == place)?;
    print(&find(&letters, place)?.whole())
}

fn settle(broker: &Broker, places: &[&str], settlement: Settlement) -> Result<(), String> {
    let mut letters = broker.letters(&|_| false)?;
    if places != ["all"] {
        let places: Result<HashSet<Place>, String> = places.iter().map(|it| it.parse()).collect();
        let places = places?;
        places.iter().try_for_each(|place| find(&letters, place).map(drop))?;
        letters.retain(|it| it.places().any(|place| places.contains(place)));
    }
    match settlement {
        Settlement::Dropped => {
            letters.iter().try_for_each(|letter| done(broker, letter, settlement))
        }
        // A part at a time, since whole letters may be large.
        Settlement::Replayed => {
            letters.chunks(DEAD_LETTERS_HELD_MAX).try_for_each(|part| replay(broker, part))
        }
    }
}

/// Publishing comes first and settling second: after a crash between the two the letter is still
/// listed, and a repeated event is one that every consumer knows how to leave out.
fn replay(broker: &Broker, part: &[Letter]) -> Result<(), String> {
    let places: HashSet<&Place> = part.iter().map(|it| &it.place).collect();
    let whole = broker.letters(&|it| places.contains(it))?;
    whole.iter().filter(|it| places.contains(&it.place)).try_for_each(|letter| {
        broker.replay(letter)?;
        done(broker, letter, Settlement::Replayed)
    })
}

fn done(broker: &Broker, letter: &Letter, settlement: Settlement) -> Result<(), String> {
    broker.settle(letter, settlement)?;
    print(&letter.settled(settlement))
}

fn find<'a>(letters: &'a [Letter], place: &Place) -> Result<&'a Letter, String> {
    let found = letters.iter().find(|it| it.places().any(|it| it == place));
    found.ok_or_else(|| {
        format!("{place}: no such dead letter; relay dlq list shows which there are")
    })
}

fn print(line: &serde_json::Value) -> Result<(), String> {
    let mut out = std::io::stdout();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(|error| error.to_string())
}
