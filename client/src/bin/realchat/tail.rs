//! Events as they come, healed of gaps.

use crate::args::Tail;
use crate::context::Context;
use crate::failure::Failure;
use crate::rows::{Names, Row};
use client::{Delivery, Notice, Update, Uuid, Waited};
use proto::client::event::Kind;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A wait without an end, for a clock that wants one.
const FOR_EVER: Duration = Duration::from_secs(365 * 86_400);

pub(crate) fn tail(context: &Context, asked: &Tail) -> Result<(), Failure> {
    let limit = asked.seconds.map_or(FOR_EVER, Duration::from_secs_f64);
    let until = Instant::now() + limit;
    let mut names = Names::new(context);
    let (mut options, _connection) = context.options()?;
    // What happens between this look and the session's start lies beyond the cursors, so it comes.
    options.cursors = cursors(context, asked, &mut names)?;
    // All conversations: also those that are joined later, or while the connection is away.
    options.resume = asked.conversation.is_none();
    let (session, events) = context.connect(options)?;
    let mut left = asked.count.unwrap_or(u64::MAX);
    while left > 0 {
        match events.recv_for(until.saturating_duration_since(Instant::now())) {
            Waited::Update(Update::Event(delivery)) if wanted(asked, &delivery) => {
                let row = Row::new(&delivery.event, Some(delivery.path.as_str()), &mut names);
                context.out.line(&row, &row.text())?;
                left -= 1;
            }
            Waited::Update(Update::Event(_)) => {}
            Waited::Update(Update::Notice(notice)) => tell(context, asked, &notice)?,
            Waited::Nothing | Waited::Ended => break,
        }
    }
    session.close();
    Ok(())
}

/// Where to begin: before `--from`, or after what there is now.
fn cursors(
    context: &Context,
    asked: &Tail,
    names: &mut Names,
) -> Result<BTreeMap<Uuid, u64>, Failure> {
    let token = context.token()?;
    let conversations = match asked.conversation {
        Some(id) => vec![context.api.conversation(&token, id)?],
        None => context.api.conversations(&token)?,
    };
    let mut cursors = BTreeMap::new();
    for it in &conversations {
        names.learn(&it.members);
        let cursor = asked.from.map_or(it.last_sequence_number, |from| from - 1);
        cursors.insert(it.conversation_id, cursor);
    }
    Ok(cursors)
}

fn wanted(asked: &Tail, delivery: &Delivery) -> bool {
    let is_receipt =
        matches!(delivery.event.kind, Some(Kind::Receipt(_) | Kind::ReceiptSummary(_)));
    // A conversation that is no longer read from its cursor begins at its beginning.
    let is_new = delivery.sequence_number > 0
        && asked.from.is_none_or(|from| delivery.sequence_number >= from);
    (is_new || (asked.receipts && is_receipt))
        && asked.conversation.is_none_or(|id| id == delivery.conversation)
}

fn tell(context: &Context, asked: &Tail, notice: &Notice) -> Result<(), Failure> {
    match notice {
        Notice::Live => context.out.note("-- live"),
        Notice::DialFailed { problem, .. } => context.out.note(&format!("-- {problem}")),
        Notice::Closed { reason, code, .. } => {
            let code = code.map(|code| format!(" ({code})")).unwrap_or_default();
            context.out.note(&format!("-- closed: {reason}{code}"));
        }
        Notice::Skipped { conversation, from, to } => {
            context.out.note(&format!("-- {from} to {to} of {conversation} are not yours to see"));
        }
        Notice::Rewound { conversation, from, to } => context.out.note(&format!(
            "-- the server was set back: {} to {from} of {conversation} are no more",
            to + 1
        )),
        Notice::Reset { conversation }
            if asked.conversation.is_none_or(|it| it == *conversation) =>
        {
            let text = format!("{conversation} is no longer one of your conversations");
            if asked.conversation.is_some() {
                return Err(Failure::refused("not_a_member", text));
            }
            context.out.note(&format!("-- {text}"));
        }
        Notice::Ended { reason } => return Err(Failure::refused("session_ended", reason.clone())),
        _ => {}
    }
    Ok(())
}
