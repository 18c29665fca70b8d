//! A bot that answers messages in its conversations.
//!
//! How far it has come is its read receipt, which the server keeps, so it needs no file of its own:
//! a restarted bot begins after what it has read. An answer's idempotency key is made of the id of
//! the message that it answers, so whatever is looked at twice is answered once.

use crate::account::login_with_code;
use crate::context::Context;
use crate::failure::Failure;
use crate::rows::{Names, id};
use crate::store::Identity;
use client::{Delivery, Notice, SendError, Session, Update, Uuid};
use proto::client::event::Kind;
use proto::limits::MESSAGE_TEXT_BYTES_MAX;
use std::collections::BTreeMap;

/// What is repeated of a message, so that an echo never becomes too long.
const ECHO_BYTES_MAX: usize = 1_000;
/// A text of more words than this is not addressed to the bot, so to say: it is repeated.
const SHORT_WORDS_MAX: usize = 4;
const _: () = assert!(ECHO_BYTES_MAX + 100 < MESSAGE_TEXT_BYTES_MAX);

pub(crate) fn run(context: &Context, code: Option<&str>) -> Result<(), Failure> {
    let identity = sign_in(context, code)?;
    let context = &context.named(&identity.name);
    let (mut options, _connection) = context.options()?;
    options.cursors = read_cursors(context)?;
    options.resume = true;
    let (session, events) = context.connect(options)?;
    let mut names = Names::new(context);
    for update in events {
        match update {
            Update::Event(delivery) if delivery.sequence_number > 0 => {
                handle(&session, identity.user_id, &delivery, &mut names)?;
            }
            Update::Notice(Notice::Live) => context.out.note("-- live"),
            Update::Notice(Notice::Closed { reason, .. }) => {
                context.out.note(&format!("-- closed: {reason}"));
            }
            Update::Notice(Notice::Ended { reason }) => {
                return Err(Failure::refused("session_ended", reason));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Uses the tokens that are kept, and the code only if there are none that work: after a restart
/// the code is spent.
fn sign_in(context: &Context, code: Option<&str>) -> Result<Identity, Failure> {
    match (context.identity(), code) {
        (Err(failure), Some(code)) if !failure.retryable => login_with_code(context, code),
        (kept, _) => kept,
    }
}

/// A conversation that was never read begins with what this user may see of it.
fn read_cursors(context: &Context) -> Result<BTreeMap<Uuid, u64>, Failure> {
    let conversations = context.api.conversations(&context.token()?)?;
    let cursor = |it: &client::api::Conversation| {
        it.read_sequence_number.max(it.joined_sequence_number.saturating_sub(1))
    };
    Ok(conversations.iter().map(|it| (it.conversation_id, cursor(it))).collect())
}

/// Answers one event, and marks it as read once the answer is durable. One after the other, so that
/// the receipt never passes a message that is not answered.
fn handle(
    session: &Session,
    user: Uuid,
    delivery: &Delivery,
    names: &mut Names,
) -> Result<(), Failure> {
    let (conversation, number) = (delivery.conversation, delivery.sequence_number);
    let sender = id(&delivery.event.sender_id);
    let answer = match &delivery.event.kind {
        Some(Kind::Message(message)) if sender != user => {
            let key = format!("answer:{}", id(&message.message_id));
            let at_us = delivery.event.created_at_us;
            Some((key, reply(&message.text, &names.of(sender), at_us)))
        }
        Some(Kind::MembershipChanged(change)) if sender != user && !change.created => {
            let me = change.added_user_ids.iter().any(|it| id(it) == user);
            me.then(|| (format!("joined:{number}"), GREETING.to_owned()))
        }
        _ => None,
    };
    if let Some((key, text)) = answer {
        match session.send(conversation, &key, &text).wait() {
            // A refusal is final: whoever removed the bot does not want its answer, and a key that
            // was used with another text has answered already.
            Ok(_) | Err(SendError::Refused { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    session.acknowledge(conversation, number, number);
    Ok(())
}

const GREETING: &str = "Hello, I am a bot: I answer what you write. Try \"help\".";
const HELP: &str = "I answer every message here. Try \"hello\", \"time\" or \"help\"; \
    anything else I repeat, so that you see it come back.";

/// What the bot says to a text. The time is the message's, so that the same message is always
/// answered alike (a repeated key with another text would be refused).
fn reply(text: &str, sender: &str, created_at_us: u64) -> String {
    let text = text.trim();
    let words: Vec<String> = text
        .split(|it: char| !it.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .take(SHORT_WORDS_MAX + 1)
        .map(str::to_lowercase)
        .collect();
    let is_short = words.len() <= SHORT_WORDS_MAX;
    let asks_for = |word: &str| is_short && words.iter().any(|it| it == word);
    match words.first().map_or("", String::as_str) {
        "hello" | "hi" | "hey" if is_short => format!("Hello, {sender}! Try \"help\"."),
        "thanks" | "thank" if is_short => format!("You are welcome, {sender}."),
        _ if asks_for("help") => HELP.to_owned(),
        _ if asks_for("time") => format!("Your message was stored at {}.", utc(created_at_us)),
        _ => {
            let mut end = text.len().min(ECHO_BYTES_MAX);
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            let more = if end < text.len() { " ..." } else { "" };
            format!("You wrote: {}{more}", &text[..end])
        }
    }
}

/// RFC 3339, whole seconds. Days become dates as in Howard Hinnant's "chrono-Compatible Low-Level
/// Date Algorithms", `civil_from_days`.
fn utc(at_us: u64) -> String {
    let seconds = at_us / 1_000_000;
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_greet_help_tell_the_time_and_echo() {
        assert_eq!(reply("Hello!", "ann", 0), "Hello, ann! Try \"help\".");
        assert_eq!(reply(" HELP ", "ann", 0), HELP);
        let leap_day_us = 1_709_208_000_000_000;
        assert!(reply("time?", "ann", leap_day_us).contains("2024-02-29T12:00:00Z"));
        assert!(reply("What time is it?", "ann", 0).contains("1970-01-01T00:00:00Z"));
        assert_eq!(reply("Hi there", "ann", 0), "Hello, ann! Try \"help\".");
        let long_ago = "It has been a long time, I did not think of it";
        assert_eq!(reply(long_ago, "ann", 0), format!("You wrote: {long_ago}"));
        assert_eq!(reply("what is up", "ann", 0), "You wrote: what is up");
        let long = reply(&"ü".repeat(5_000), "ann", 0);
        assert!(long.len() < ECHO_BYTES_MAX + 30 && long.ends_with(" ..."));
    }

    #[test]
    fn dates_are_right_at_the_edges() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_399_000_000), "2000-02-28T23:59:59Z");
        assert_eq!(utc(1_767_225_599_999_999), "2025-12-31T23:59:59Z");
    }
}
