//! An uplink with a real link to a chatd that answers as it is told.

use super::*;
use crate::inbound::token::TokenError;
use crate::mail::{Asked, SessionRef};
use crate::mailbox::{Inbox, pair};
use daemon::config::load_from;
use daemon::link::{Handler, Incoming, Reply, Server, ServerSettings, serve};
use proto::client::{Accepted, Sent};
use proto::link::request::Request;
use proto::link::{AudienceResult, HttpResult, JwksResult};
use std::collections::HashMap;
use std::time::Instant;

const PATIENCE: Duration = Duration::from_secs(60);
const SECRET: &str = "a secret of enough bytes";
const JWKS: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k",
    "x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

/// Answers sends with their text's length, and everybody's audience with the asking user alone;
/// refuses the audience of the conversation of zeros.
struct Chatd;

impl Handler for Chatd {
    fn handle(&self, incoming: Incoming, reply: Reply) {
        reply.send(match incoming.request {
            Request::Jwks(_) => Response::Jwks(JwksResult {
                jwks: JWKS.into(),
                issuer: "realchat".into(),
                audience: "realchat".into(),
            }),
            Request::Send(send) => {
                let sequence_number = send.send.unwrap_or_default().text.len() as u64;
                Response::Sent(Sent { sequence_number, ..Sent::default() })
            }
            Request::Audience(audience) if audience.conversation_id == [0; 16] => {
                Response::Error(ErrorCode::NotAMember.to_frame("no"))
            }
            Request::Audience(audience) => Response::Audience(AudienceResult {
                is_large: false,
                user_ids: audience.user_id,
                membership_version: 1,
            }),
            Request::Http(_) => Response::Http(HttpResult { status: 204, ..HttpResult::default() }),
            _ => Response::Accepted(Accepted {}),
        });
    }
}

fn chatd() -> Server {
    let settings = ServerSettings {
        address: "127.0.0.1:0".into(),
        secret: SECRET.into(),
        instance: "chatd".into(),
    };
    serve(settings, Arc::new(Chatd)).unwrap()
}

struct Gateway {
    uplink: Uplink,
    inbox: Inbox,
    health: Health,
}

fn gateway(chatd: &str, uplinks: &str) -> Gateway {
    let variables = HashMap::from([
        ("REALCHAT_GATEWAY_CHATD_LINK".to_owned(), chatd.to_owned()),
        ("REALCHAT_GATEWAY_PRESENCED_LINK".to_owned(), "127.0.0.1:1".to_owned()),
        ("REALCHAT_GATEWAY_LINK_SECRET".to_owned(), SECRET.to_owned()),
        ("REALCHAT_GATEWAY_KAFKA_BROKERS".to_owned(), "127.0.0.1:1".to_owned()),
        ("REALCHAT_GATEWAY_UPLINKS".to_owned(), uplinks.to_owned()),
    ]);
    let config = load_from("gateway", crate::config::KEYS, None, variables).unwrap();
    let (mailbox, inbox) = pair(1_024, None);
    let (health, metrics) = (Health::default(), Metrics::new("gateway"));
    let uplink = start(Setup {
        config: &config,
        instance: "gateway-1",
        health: &health,
        metrics: &metrics,
        mailboxes: Mailboxes::new(vec![mailbox]),
        audiences: Audiences::new(),
        publisher: Publisher::start(&config, "gateway-1", &metrics).unwrap(),
    });
    Gateway { uplink: uplink.unwrap(), inbox, health }
}

impl Gateway {
    fn letter(&self) -> Mail {
        let start = Instant::now();
        loop {
            if let Some(letter) = self.inbox.take() {
                return letter;
            }
            assert!(start.elapsed() < PATIENCE, "no letter came");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn answer(&self) -> Answer {
        loop {
            if let Mail::Answer(answer) = self.letter() {
                return answer;
            }
        }
    }

    fn wait_ready(&self) {
        let start = Instant::now();
        while !self.health.missing().is_empty() {
            assert!(start.elapsed() < PATIENCE, "{:?}", self.health.missing());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn ask(&self, request_id: u64, kind: AskKind) {
        assert!(self.uplink.ask(ask(request_id, kind)).is_ok());
    }
}

fn ask(request_id: u64, kind: AskKind) -> Ask {
    Ask {
        session: SessionRef { shard: 0, slot: 7, generation: 3 },
        request_id,
        user: proto::id::new(),
        device: proto::id::new(),
        traceparent: String::new(),
        kind,
    }
}

fn send(conversation: Uuid, text: &str) -> AskKind {
    AskKind::Send(proto::client::Send {
        conversation_id: conversation.as_bytes().to_vec(),
        idempotency_key: "k".into(),
        text: text.into(),
    })
}

fn typing(conversation: &[u8]) -> AskKind {
    let conversation_id = conversation.to_vec();
    AskKind::Typing(proto::client::Typing { conversation_id, active: true })
}

#[test]
fn keys_come_first_and_asks_are_answered_to_their_sessions() {
    let chatd = chatd();
    let gateway = gateway(chatd.address(), "2");
    let Mail::Keys(verifier) = gateway.letter() else { panic!("no keys") };
    assert_eq!(verifier.verify("a.b.c", 0), Err(TokenError::Malformed));
    gateway.wait_ready();
    for round in 1..=200 {
        gateway.ask(round, send(proto::id::new(), &"x".repeat(usize::try_from(round).unwrap())));
    }
    let mut answered: Vec<u64> = (0..200)
        .map(|_| {
            let answer = gateway.answer();
            assert_eq!((answer.session.slot, answer.session.generation), (7, 3));
            let Ok(Response::Sent(sent)) = answer.outcome else { panic!("not sent") };
            assert_eq!((answer.asked, sent.sequence_number), (Asked::Send, answer.request_id));
            answer.request_id
        })
        .collect();
    answered.sort_unstable();
    assert_eq!(answered, (1..=200).collect::<Vec<_>>());
    gateway.ask(1, AskKind::Http(proto::link::Http::default()));
    let answer = gateway.answer();
    assert!(matches!(answer.outcome, Ok(Response::Http(http)) if http.status == 204));
}

#[test]
fn one_conversation_keeps_the_order_of_its_sends() {
    let chatd = chatd();
    let gateway = gateway(chatd.address(), "4");
    gateway.wait_ready();
    let conversation = proto::id::new();
    for round in 1..=500 {
        gateway.ask(round, send(conversation, ""));
    }
    for round in 1..=500 {
        assert_eq!(gateway.answer().request_id, round);
    }
}

#[test]
fn what_cannot_be_asked_is_answered_with_a_named_error() {
    let gateway = gateway("127.0.0.1:1", "1");
    gateway.ask(1, send(proto::id::new(), "x"));
    let error = gateway.answer().outcome.unwrap_err();
    assert_eq!((error.code.as_str(), error.retryable), ("unavailable", true));
    gateway.ask(2, AskKind::PresenceQuery(vec![proto::id::new()]));
    let answer = gateway.answer();
    assert_eq!(answer.asked, Asked::PresenceQuery);
    assert!(answer.outcome.unwrap_err().message.contains("presence service"));
    let missing: Vec<_> = gateway.health.missing().iter().map(|it| it.0).collect();
    assert_eq!(missing, ["chatd", "keys"]);
}

#[test]
fn typing_is_answered_only_when_refused() {
    let chatd = chatd();
    let gateway = gateway(chatd.address(), "1");
    gateway.wait_ready();
    gateway.ask(1, typing(proto::id::new().as_bytes()));
    gateway.ask(2, typing(&[0; 16]));
    let answer = gateway.answer();
    assert_eq!((answer.request_id, answer.asked), (2, Asked::Typing));
    assert_eq!(answer.outcome.unwrap_err().code, "not_a_member");
    gateway.ask(3, typing(b"short"));
    let answer = gateway.answer();
    assert_eq!(answer.request_id, 3);
    assert_eq!(answer.outcome.unwrap_err().code, "invalid_argument");
}

#[test]
fn a_full_queue_gives_back_what_it_cannot_take() {
    // Nobody takes anything out of it.
    let (queue, waiting) = bounded(UPLINK_QUEUE_MAX);
    let uplink = Uplink { queues: vec![queue].into(), refused: Counter::default() };
    let ask = |request_id: u64| uplink.ask(ask(request_id, send(Uuid::from_u128(9), "hi")));
    for request_id in 0..UPLINK_QUEUE_MAX as u64 {
        assert!(ask(request_id).is_ok(), "{request_id}");
    }
    let back = ask(u64::MAX).unwrap_err();
    assert_eq!((back.request_id, uplink.refused.get()), (u64::MAX, 1));
    let error = refusal();
    assert!(error.retryable && error.retry_after_ms == UPLINK_RETRY_AFTER_MS, "{error:?}");
    drop(waiting.try_recv().unwrap());
    assert!(ask(1).is_ok());
}
