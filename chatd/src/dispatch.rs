//! From the link to whoever does the work. Runs on the link's reading threads, so it only checks
//! and hands on.

use crate::api::{ENDPOINTS, post_message, sent};
use crate::app::App;
use crate::db::{Connection, Databases};
use crate::failure::Failure;
use crate::http::{Access, Call, Endpoint, HttpAnswer, Missed, Target, Work, find};
use crate::limits::TRACEPARENT_BYTES_MAX;
use crate::read;
use crate::write::{Append, Appended, Change, Command, ReceiptCommand};
use daemon::link::{Handler, Incoming, Reply};
use proto::Uuid;
use proto::client::{Accepted, Sent};
use proto::error::ErrorCode;
use proto::id::from_field;
use proto::limits::HTTP_BODY_BYTES_MAX;
use proto::link::{Ack, Http, Send, request, response::Response};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// The link's handler.
pub(crate) struct Dispatch(pub(crate) Arc<App>);

/// A request without its kind.
struct Envelope {
    traceparent: String,
    deadline: Instant,
    reply: Reply,
}

impl Handler for Dispatch {
    fn handle(&self, incoming: Incoming, reply: Reply) {
        let app = &self.0;
        let Incoming { request, mut traceparent, deadline, .. } = incoming;
        if traceparent.len() > TRACEPARENT_BYTES_MAX {
            traceparent.clear();
        }
        let envelope = Envelope { traceparent, deadline, reply };
        if app.is_stopping.load(Ordering::Acquire) {
            return refuse(app, envelope.reply, &Failure::stopping());
        }
        match request {
            request::Request::Send(request) => send(app, request, envelope),
            request::Request::Ack(request) => ack(app, request, envelope),
            request::Request::Http(request) => http(app, request, envelope),
            request::Request::Sync(request) => {
                query(app, envelope, move |it| read::sync(it, &request).map(Response::Sync));
            }
            request::Request::Audience(request) => {
                query(app, envelope, move |it| read::audience(it, &request).map(Response::Audience))
            }
            request::Request::AudiencePage(request) => query(app, envelope, move |it| {
                read::audience_page(it, &request).map(Response::AudiencePage)
            }),
            request::Request::PresenceAuthorize(request) => query(app, envelope, move |it| {
                read::may_watch(it, &request).map(Response::PresenceAuthorize)
            }),
            request::Request::Jwks(_) => {
                envelope.reply.send(Response::Jwks(app.tokens.jwks_result()));
            }
            _ => {
                let message = "chatd does not do this";
                refuse(app, envelope.reply, &Failure::new(ErrorCode::UnknownFrame, message));
            }
        }
    }
}

fn send(app: &Arc<App>, request: Send, envelope: Envelope) {
    let Envelope { traceparent, deadline, reply } = envelope;
    let append = match checked_send(request, traceparent) {
        Ok(append) => append,
        Err(failure) => return refuse(app, reply, &failure),
    };
    let conversation_id = append.conversation_id;
    let sender_id = append.sender_id;
    let answer = move |outcome: Result<Appended, Failure>| match outcome {
        Ok(appended) => reply.send(Response::Sent(Sent {
            conversation_id: conversation_id.as_bytes().to_vec(),
            message_id: appended.message_id.map(|id| id.as_bytes().to_vec()).unwrap_or_default(),
            sequence_number: appended.sequence_number,
            message_number: appended.message_number,
            created_at_us: appended.created_at_us,
            repeated: appended.repeated,
        })),
        Err(failure) => {
            log_refusal(&failure, Some(sender_id), Some(conversation_id));
            reply.send(Response::Error(failure.to_frame()));
        }
    };
    app.writers.submit(Command::Append(append, Box::new(answer)), deadline);
}

fn checked_send(request: Send, traceparent: String) -> Result<Append, Failure> {
    let sender_id = from_field("sender_id", &request.sender_id)?;
    let device_id = from_field("device_id", &request.device_id)?;
    let send = request.send.unwrap_or_default();
    let conversation_id = from_field("conversation_id", &send.conversation_id)?;
    let change = Change::Message { text: send.text };
    let sender = (sender_id, device_id);
    Append::new(conversation_id, sender, send.idempotency_key, traceparent, change)
}

fn ack(app: &Arc<App>, request: Ack, envelope: Envelope) {
    let Envelope { traceparent, deadline, reply } = envelope;
    let command = match checked_ack(&request, traceparent) {
        Ok(command) => command,
        Err(failure) => return refuse(app, reply, &failure),
    };
    let (user_id, conversation_id) = (command.user_id, command.conversation_id);
    let answer = move |outcome: Result<(), Failure>| match outcome {
        Ok(()) => reply.send(Response::Accepted(Accepted {})),
        Err(failure) => {
            log_refusal(&failure, Some(user_id), Some(conversation_id));
            reply.send(Response::Error(failure.to_frame()));
        }
    };
    app.writers.submit(Command::Receipt(command, Box::new(answer)), deadline);
}

fn checked_ack(request: &Ack, traceparent: String) -> Result<ReceiptCommand, Failure> {
    let ack = request.ack.clone().unwrap_or_default();
    ReceiptCommand {
        conversation_id: from_field("conversation_id", &ack.conversation_id)?,
        user_id: from_field("user_id", &request.user_id)?,
        device_id: from_field("device_id", &request.device_id)?,
        delivered_sequence_number: ack.delivered_sequence_number,
        read_sequence_number: ack.read_sequence_number,
        traceparent,
    }
    .checked()
}

/// Runs a question on a thread for queries.
fn query(
    app: &Arc<App>,
    envelope: Envelope,
    ask: impl FnOnce(&mut Connection) -> Result<Response, Failure> + std::marker::Send + 'static,
) {
    let Envelope { deadline, reply, .. } = envelope;
    let shared = Arc::clone(app);
    app.queries.submit(deadline, move |databases| {
        match databases.and_then(Databases::messaging).and_then(ask) {
            Ok(response) => reply.send(response),
            Err(failure) => refuse(&shared, reply, &failure),
        }
    });
}

fn http(app: &Arc<App>, request: Http, envelope: Envelope) {
    let Envelope { traceparent, deadline, reply } = envelope;
    let (endpoint, call) = match find_endpoint(app, request, traceparent, deadline) {
        Ok(found) => found,
        Err(answer) => return reply.send(Response::Http(answer.into_result())),
    };
    match &endpoint.work {
        Work::Immediate(work) => reply.send(Response::Http(work(app).into_result())),
        Work::PostMessage => post(app, &call, reply),
        Work::Query(work) => run(app, false, *work, call, reply),
        Work::SignIn(work) => run(app, true, *work, call, reply),
    }
}

fn run(
    app: &Arc<App>,
    is_sign_in: bool,
    work: fn(&App, &mut Databases, &Call) -> Result<HttpAnswer, Failure>,
    call: Call,
    reply: Reply,
) {
    let shared = Arc::clone(app);
    let pool = if is_sign_in { &app.sign_ins } else { &app.queries };
    pool.submit(call.deadline, move |databases| {
        let outcome = databases.and_then(|databases| work(&shared, databases, &call));
        let user_id = call.identity.map(|it| it.user_id);
        let answer = outcome.unwrap_or_else(|failure| problem(&shared, &failure, user_id));
        reply.send(Response::Http(answer.into_result()));
    });
}

/// A message by HTTP: to the writer and back, without a thread that waits.
fn post(app: &Arc<App>, call: &Call, reply: Reply) {
    let user_id = call.identity.map(|it| it.user_id);
    let append = match post_message(call) {
        Ok(append) => append,
        Err(failure) => {
            let answer = problem(app, &failure, user_id);
            return reply.send(Response::Http(answer.into_result()));
        }
    };
    let conversation_id = append.conversation_id;
    let answer = move |outcome: Result<Appended, Failure>| {
        let answer = match outcome {
            Ok(appended) => sent(&appended),
            Err(failure) => {
                log_refusal(&failure, user_id, Some(conversation_id));
                HttpAnswer::problem(&failure)
            }
        };
        reply.send(Response::Http(answer.into_result()));
    };
    app.writers.submit(Command::Append(append, Box::new(answer)), call.deadline);
}

/// The endpoint and its call, or the answer that says why there is none.
fn find_endpoint(
    app: &App,
    request: Http,
    traceparent: String,
    deadline: Instant,
) -> Result<(&'static Endpoint, Call), HttpAnswer> {
    let refused = |failure: &Failure| problem(app, failure, None);
    let Some(target) = Target::parse(&request.target) else {
        return Err(refused(&Failure::invalid("the path or query is not well encoded")));
    };
    let (endpoint, ids) = match find(ENDPOINTS, &request.method, &target.segments) {
        Ok(found) => found,
        Err(Missed::Path) => {
            let message = "there is nothing at this path";
            return Err(refused(&Failure::new(ErrorCode::NotFound, message)));
        }
        Err(Missed::Method(allowed)) => {
            let message = format!("the method is not one of those allowed here: {allowed}");
            let answer = refused(&Failure::new(ErrorCode::MethodNotAllowed, message));
            return Err(answer.with_header("allow", allowed));
        }
        Err(Missed::Id(failure)) => return Err(refused(&failure)),
    };
    if request.body.len() > HTTP_BODY_BYTES_MAX {
        let message = format!("at most {HTTP_BODY_BYTES_MAX} bytes of body are allowed");
        return Err(refused(&Failure::new(ErrorCode::PayloadTooLarge, message)));
    }
    let identity = match endpoint.access {
        Access::Anybody => None,
        Access::User => match bearer(&request).and_then(|token| app.tokens.verify(token)) {
            Ok(identity) => Some(identity),
            Err(failure) => return Err(refused(&failure)),
        },
    };
    let body = request.body;
    Ok((endpoint, Call { identity, ids, target, body, deadline, traceparent }))
}

/// The token of `Authorization: Bearer` (RFC 6750 section 2.1).
fn bearer(request: &Http) -> Result<&str, Failure> {
    let mut headers = request.headers.iter();
    let value = headers
        .find(|it| it.name.eq_ignore_ascii_case("authorization"))
        .map_or("", |it| it.value.as_str());
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        _ => {
            let message = "an Authorization: Bearer header is required";
            Err(Failure::new(ErrorCode::TokenMissing, message))
        }
    }
}

fn refuse(app: &App, reply: Reply, failure: &Failure) {
    app.metrics.error(failure.code);
    log_refusal(failure, None, None);
    reply.send(Response::Error(failure.to_frame()));
}

fn problem(app: &App, failure: &Failure, user_id: Option<Uuid>) -> HttpAnswer {
    app.metrics.error(failure.code);
    log_refusal(failure, user_id, None);
    HttpAnswer::problem(failure)
}

/// At debug level: a client can cause as many as it likes.
fn log_refusal(failure: &Failure, user_id: Option<Uuid>, conversation_id: Option<Uuid>) {
    tracing::debug!(
        error_code = failure.code.as_str(),
        user_id = user_id.map(tracing::field::display),
        conversation_id = conversation_id.map(tracing::field::display),
        reason = failure.message,
        "refused"
    );
}
