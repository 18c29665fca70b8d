//! Messages: send, history, trace.

use crate::args::{History, Send};
use crate::context::Context;
use crate::failure::Failure;
use crate::rows::{Names, Row, id};
use client::Uuid;
use proto::client::Sent;
use serde_json::json;
use std::time::{Duration, Instant};

/// How long a send waits for its first connection, and how long in all.
const CONNECT_SECONDS_MAX: u64 = 10;
const ANSWER_SECONDS_MAX: u64 = 60;

pub(crate) fn send(context: &Context, send: &Send) -> Result<(), Failure> {
    // Who is not signed in is told so at once.
    context.identity()?;
    let key = send.key.clone().unwrap_or_else(|| proto::id::new().to_string());
    let (mut options, connection) = context.options()?;
    options.acknowledge = false;
    let (session, events) = context.connect(options)?;
    drop(events);
    let pending = session.send(send.conversation, &key, &send.text);
    let began = Instant::now();
    let outcome = loop {
        if let Some(outcome) = pending.wait_for(Duration::from_millis(100)) {
            break outcome;
        }
        let waited = began.elapsed().as_secs();
        let max = if connection.welcomed() { ANSWER_SECONDS_MAX } else { CONNECT_SECONDS_MAX };
        if waited >= max {
            return Err(connection.failure(&context.server, "answer"));
        }
    };
    session.close();
    let sent: Sent = outcome?;
    let message_id = id(&sent.message_id);
    let object = json!({
        "message_id": message_id,
        "sequence_number": sent.sequence_number,
        "message_number": sent.message_number,
        "conversation_id": id(&sent.conversation_id),
        "created_at_us": sent.created_at_us,
        "repeated": sent.repeated,
        "key": key,
    });
    let text = format!("message_id {message_id}  sequence_number {}", sent.sequence_number);
    Ok(context.out.line(&object, &text)?)
}

pub(crate) fn history(context: &Context, asked: &History) -> Result<(), Failure> {
    let token = context.token()?;
    let page = context.api.events(&token, asked.conversation, asked.before, asked.limit)?;
    let mut names = Names::new(context);
    if let Ok(members) = context.api.members(&token, asked.conversation) {
        names.learn(&members);
    }
    for event in &page.events {
        let row = Row::new(event, None, &mut names);
        context.out.line(&row, &row.text())?;
    }
    Ok(())
}

/// A line a stage: committed, relayed, and how far each device of each member has come.
pub(crate) fn trace(context: &Context, message: Uuid) -> Result<(), Failure> {
    let trace = context.api.trace(&context.token()?, message)?;
    let (conversation, number) = (trace.conversation_id, trace.sequence_number);
    let object = json!({
        "message_id": message,
        "conversation_id": conversation,
        "sequence_number": number,
        "stage": "committed",
        "done": true,
        "at_us": trace.created_at_us,
    });
    let text = format!("committed  as {number} of {conversation}  at {} us", trace.created_at_us);
    context.out.line(&object, &text)?;
    let object = json!({ "message_id": message, "stage": "relayed", "done": trace.relayed });
    let word = if trace.relayed { "to Kafka" } else { "not yet: it waits in the outbox" };
    context.out.line(&object, &format!("relayed    {word}"))?;
    let mut names = Names::new(context);
    for receipt in &trace.receipts {
        let name = names.of(receipt.user_id);
        for (stage, cursor) in [
            ("delivered", receipt.delivered_sequence_number),
            ("read", receipt.read_sequence_number),
        ] {
            let done = cursor >= number;
            let object = json!({
                "message_id": message,
                "stage": stage,
                "done": done,
                "user": name,
                "user_id": receipt.user_id,
                "device_id": receipt.device_id,
            });
            let word = if done { "" } else { "not yet: " };
            let text = format!("{stage:<9}  {word}{name}  device {}", receipt.device_id);
            context.out.line(&object, &text)?;
        }
    }
    Ok(())
}
