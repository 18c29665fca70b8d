//! Single behaviours of the core, each as a short dialogue.

use super::*;
use proto::client::{
    Error, Event, Gap, Goaway, Message, Sent, Synced, TokenAccepted, Verdict, Watermark, Welcome,
    event::Kind, server_frame,
};
use proto::error::ErrorCode;

const USER: Uuid = Uuid::from_u128(7);
const CHAT: Uuid = Uuid::from_u128(1);

struct Dialogue {
    core: Core,
    now: Duration,
}

impl Dialogue {
    fn new(config: Config) -> Self {
        Self { core: Core::new(config), now: Duration::ZERO }
    }

    fn after_ms(&mut self, ms: u64, input: Input) -> Vec<Action> {
        self.now += Duration::from_millis(ms);
        self.core.step(self.now, input)
    }

    fn say(&mut self, request_id: u64, frame: server_frame::Frame) -> Vec<Action> {
        self.after_ms(1, Input::Frame(ServerFrame { request_id, frame: Some(frame) }))
    }

    /// Dials and is welcomed; the token lives so long.
    fn open(&mut self, token_ms: u64) -> Vec<Action> {
        let attempt = loop {
            let actions = self.core.step(self.now, Input::Tick);
            if let Some(attempt) = dialed(&actions) {
                break attempt;
            }
            self.now = self.core.deadline().unwrap();
        };
        let hello = writes(&self.after_ms(1, Input::Dialed { attempt }));
        let server_time_us = 1_700_000_000_000_000;
        let token_expires_at_us = server_time_us + token_ms * 1_000;
        let user_id = USER.as_bytes().to_vec();
        let welcome =
            Welcome { server_time_us, token_expires_at_us, user_id, ..Welcome::default() };
        self.say(hello[0].request_id, server_frame::Frame::Welcome(welcome))
    }
}

fn dialed(actions: &[Action]) -> Option<u64> {
    actions.iter().find_map(|action| match action {
        Action::Dial { attempt, .. } => Some(*attempt),
        _ => None,
    })
}

fn writes(actions: &[Action]) -> Vec<ClientFrame> {
    let frames = actions.iter().filter_map(|action| match action {
        Action::Write(frame) => Some(frame.clone()),
        _ => None,
    });
    frames.collect()
}

fn notices(actions: &[Action]) -> Vec<Notice> {
    let notices = actions.iter().filter_map(|action| match action {
        Action::Deliver(Update::Notice(notice)) => Some(notice.clone()),
        _ => None,
    });
    notices.collect()
}

fn delivered(actions: &[Action]) -> Vec<u64> {
    let numbers = actions.iter().filter_map(|action| match action {
        Action::Deliver(Update::Event(delivery)) => Some(delivery.sequence_number),
        _ => None,
    });
    numbers.collect()
}

fn message(sequence_number: u64) -> server_frame::Frame {
    server_frame::Frame::Event(Event {
        conversation_id: CHAT.as_bytes().to_vec(),
        sequence_number,
        kind: Some(Kind::Message(Message::default())),
        ..Event::default()
    })
}

fn send(ticket: u64) -> Input {
    let send = Send {
        conversation_id: CHAT.as_bytes().to_vec(),
        idempotency_key: format!("k{ticket}"),
        text: "hello".into(),
    };
    Input::Send { ticket, send }
}

#[test]
fn a_send_waits_for_the_connection_and_keeps_its_key_over_reconnects() {
    let mut talk = Dialogue::new(Config::default());
    talk.after_ms(0, send(1));
    let first = writes(&talk.open(0));
    assert!(matches!(&first[0].frame, Some(Frame::Send(send)) if send.idempotency_key == "k1"));
    talk.after_ms(5, Input::Closed { code: Some(1006), reason: "reset".into() });
    let second = writes(&talk.open(0));
    assert!(matches!(&second[0].frame, Some(Frame::Send(send)) if send.idempotency_key == "k1"));
    assert_ne!(first[0].request_id, second[0].request_id);
    let sent = Sent { sequence_number: 9, ..Sent::default() };
    let actions = talk.say(second[0].request_id, server_frame::Frame::Sent(sent.clone()));
    assert!(matches!(&actions[..], [Action::Settle { ticket: 1, outcome: Ok(it) }] if *it == sent));
}

#[test]
fn a_final_error_settles_a_send_and_a_retryable_one_does_not() {
    let mut talk = Dialogue::new(Config::default());
    talk.open(0);
    let written = writes(&talk.after_ms(1, send(1)));
    let busy = Error { retry_after_ms: 40, ..ErrorCode::Overloaded.to_frame("busy") };
    let actions = talk.say(written[0].request_id, server_frame::Frame::Error(busy));
    assert!(actions.is_empty());
    let again = writes(&talk.after_ms(100, Input::Tick));
    let refused = ErrorCode::NotAMember.to_frame("no");
    let actions = talk.say(again[0].request_id, server_frame::Frame::Error(refused));
    assert!(matches!(
        &actions[..],
        [Action::Settle { ticket: 1, outcome: Err(SendError::Refused { code, .. }) }]
            if code == "not_a_member"
    ));
}

#[test]
fn a_send_that_no_frame_can_hold_is_refused_here() {
    let mut talk = Dialogue::new(Config::default());
    let text = "x".repeat(CLIENT_FRAME_BYTES_MAX);
    let actions =
        talk.after_ms(0, Input::Send { ticket: 1, send: Send { text, ..Send::default() } });
    let refused = actions.iter().any(|action| {
        matches!(action, Action::Settle { ticket: 1, outcome: Err(SendError::Refused { code, .. }) }
            if code == "message_too_long")
    });
    assert!(refused, "{actions:?}");
}

#[test]
fn attempts_go_round_the_gateways_and_back_off_by_rounds() {
    let mut talk = Dialogue::new(Config { urls: 2, ..Config::default() });
    let mut waits = Vec::new();
    let mut urls = Vec::new();
    for _ in 0..12 {
        let actions = talk.core.step(talk.now, Input::Tick);
        let Some(Action::Dial { attempt, url, .. }) =
            actions.into_iter().find(|action| matches!(action, Action::Dial { .. }))
        else {
            panic!("no dial at {:?}", talk.now)
        };
        urls.push(url);
        let failure = DialFailure::Connect { problem: "refused".into(), status: None };
        talk.core.step(talk.now, Input::DialFailed { attempt, failure });
        let until = talk.core.deadline().unwrap();
        waits.push(u64::try_from((until - talk.now).as_millis()).unwrap());
        talk.now = until;
    }
    assert_eq!(urls[..4], [0, 1, 0, 1]);
    for (index, wait) in waits.iter().enumerate() {
        let longest = (BACKOFF_MS_MIN << (index / 2)).min(BACKOFF_MS_MAX);
        assert!((longest / 2..=longest).contains(wait), "wait {index} is {wait} ms");
    }
}

#[test]
fn a_silent_server_is_pinged_and_then_left() {
    let config = Config { silence_ms_max: Some(1_000), ..Config::default() };
    let mut talk = Dialogue::new(config);
    talk.open(0);
    let actions = talk.after_ms(500, Input::Tick);
    assert!(matches!(&actions[..], [Action::Ping]));
    assert!(talk.after_ms(100, Input::Bytes).is_empty());
    assert!(matches!(&talk.after_ms(501, Input::Tick)[..], [Action::Ping]));
    let actions = talk.after_ms(500, Input::Tick);
    assert!(matches!(&actions[0], Action::Hangup { .. }));
    assert!(matches!(&notices(&actions)[0], Notice::Closed { by_us: true, .. }));
}

#[test]
fn goaway_is_followed_after_its_delay_even_if_the_server_closes_first() {
    let mut talk = Dialogue::new(Config::default());
    talk.open(0);
    let goaway = Goaway { reason: "draining".into(), reconnect_delay_ms: 3_000 };
    talk.say(0, server_frame::Frame::Goaway(goaway.clone()));
    talk.after_ms(10, Input::Closed { code: Some(1012), reason: "draining".into() });
    let wait = talk.core.deadline().unwrap() - talk.now;
    assert!((2_900..3_000).contains(&wait.as_millis()), "{wait:?}");
    talk.open(0);
    talk.say(0, server_frame::Frame::Goaway(goaway));
    assert!(talk.after_ms(2_999, Input::Tick).is_empty());
    let actions = talk.after_ms(1, Input::Tick);
    assert!(matches!(&actions[0], Action::Hangup { code: 1000 }));
}

#[test]
fn the_last_watermark_is_kept_by_who_misses_nothing() {
    let mut talk = Dialogue::new(Config { resume: true, ..Config::default() });
    let told =
        |bytes: &[u8]| server_frame::Frame::Watermark(Watermark { watermark: bytes.to_vec() });
    talk.open(0);
    talk.say(0, told(b"early"));
    assert!(talk.core.watermark.is_empty(), "not live yet");
    let hello = talk.core.hello;
    talk.say(hello, server_frame::Frame::Synced(Synced::default()));
    assert_eq!(talk.core.watermark, b"early");
    talk.say(0, told(b"later"));
    assert_eq!(talk.core.watermark, b"later");
    let gap = Gap {
        conversation_id: CHAT.as_bytes().to_vec(),
        from_sequence_number: 3,
        to_sequence_number: 4,
        ..Gap::default()
    };
    talk.say(0, server_frame::Frame::Gap(gap));
    talk.say(0, told(b"behind a gap"));
    assert_eq!(talk.core.watermark, b"later");
}

#[test]
fn a_token_is_refreshed_before_it_expires_by_the_servers_clock() {
    let mut talk = Dialogue::new(Config { silence_ms_max: Some(u64::MAX), ..Config::default() });
    talk.open(900_000);
    assert!(talk.after_ms(839_900, Input::Tick).is_empty());
    let actions = talk.after_ms(200, Input::Tick);
    assert!(matches!(&actions[..], [Action::FetchToken]));
    let written = writes(&talk.after_ms(1, Input::Token(Ok("fresh".into()))));
    assert!(matches!(&written[0].frame, Some(Frame::TokenRefresh(it)) if it.token == "fresh"));
    let expires_at_us = 1_700_000_000_000_000 + 1_740_000_000;
    let accepted = server_frame::Frame::TokenAccepted(TokenAccepted { expires_at_us });
    talk.say(written[0].request_id, accepted);
    assert!(talk.after_ms(839_000, Input::Tick).is_empty());
    assert!(matches!(&talk.after_ms(1_000, Input::Tick)[..], [Action::FetchToken]));
}

#[test]
fn a_refused_token_is_replaced_and_a_final_failure_ends_the_session() {
    let mut talk = Dialogue::new(Config::default());
    talk.open(0);
    talk.after_ms(1, send(1));
    talk.after_ms(1, Input::Closed { code: Some(4002), reason: "token expired".into() });
    talk.now = talk.core.deadline().unwrap();
    let actions = talk.core.step(talk.now, Input::Tick);
    let Some(Action::Dial { attempt, fresh_token: true, .. }) = actions.last() else {
        panic!("{actions:?}")
    };
    let failure = DialFailure::Token(TokenFailure::Final("signed out".into()));
    let actions = talk.after_ms(1, Input::DialFailed { attempt: *attempt, failure });
    assert!(matches!(
        &actions[0],
        Action::Settle { ticket: 1, outcome: Err(SendError::Ended { .. }) }
    ));
    assert!(talk.core.ended() && talk.core.deadline().is_none());
}

#[test]
fn without_a_resume_a_gap_is_healed_before_the_session_calls_itself_live() {
    let cursors = BTreeMap::from([(CHAT, 4)]);
    let mut talk = Dialogue::new(Config { cursors, ..Config::default() });
    let actions = talk.open(0);
    let asked = writes(&actions);
    assert!(matches!(
        &asked[0].frame,
        Some(Frame::Sync(sync)) if sync.cursors[0].sequence_number == 4
    ));
    assert!(!notices(&actions).contains(&Notice::Live));
    assert!(delivered(&talk.say(0, message(6))).is_empty());
    let page = proto::client::SyncPage {
        conversation_id: CHAT.as_bytes().to_vec(),
        events: vec![match message(5) {
            server_frame::Frame::Event(event) => event,
            _ => unreachable!(),
        }],
    };
    let id = asked[0].request_id;
    assert_eq!(delivered(&talk.say(id, server_frame::Frame::SyncPage(page))), [5, 6]);
    let verdict = Verdict {
        conversation_id: CHAT.as_bytes().to_vec(),
        complete_to_sequence_number: 5,
        ..Verdict::default()
    };
    let synced = server_frame::Frame::Synced(Synced { verdicts: vec![verdict] });
    assert!(notices(&talk.say(id, synced)).contains(&Notice::Live));
    assert!(delivered(&talk.say(0, message(6))).is_empty());
}

#[test]
fn a_conversation_that_is_no_longer_ours_is_reset_and_not_asked_for_again() {
    let cursors = BTreeMap::from([(CHAT, 4)]);
    let mut talk = Dialogue::new(Config { cursors, ..Config::default() });
    let asked = writes(&talk.open(0));
    let conversation_id = CHAT.as_bytes().to_vec();
    let verdict = Verdict { conversation_id, reset: true, ..Verdict::default() };
    let synced = server_frame::Frame::Synced(Synced { verdicts: vec![verdict] });
    let notices = notices(&talk.say(asked[0].request_id, synced));
    assert!(notices.contains(&Notice::Reset { conversation: CHAT }));
    assert!(notices.contains(&Notice::Live));
    assert!(talk.core.cursors().is_empty());
    // A gateway that is behind pushes what is known, and tells of what it has no room for.
    for number in [3, 4] {
        let actions = talk.say(0, message(number));
        assert!(delivered(&actions).is_empty() && writes(&actions).is_empty());
    }
    let conversation_id = CHAT.as_bytes().to_vec();
    let gap = |from, to| {
        server_frame::Frame::Gap(Gap {
            conversation_id: conversation_id.clone(),
            from_sequence_number: from,
            to_sequence_number: to,
            ..Gap::default()
        })
    };
    assert!(writes(&talk.say(0, gap(3, 4))).is_empty());
    // What is beyond is of another membership, and asked for.
    let asked = writes(&talk.say(0, gap(9, 9)));
    assert!(matches!(&asked[0].frame, Some(Frame::Sync(_))));
}

#[test]
fn a_server_that_was_set_back_is_followed_from_where_it_goes_on() {
    let cursors = BTreeMap::from([(CHAT, 9)]);
    let mut talk = Dialogue::new(Config { cursors, ..Config::default() });
    let asked = writes(&talk.open(0));
    // Its number was another event's before.
    assert!(delivered(&talk.say(0, message(6))).is_empty());
    let verdict = Verdict {
        conversation_id: CHAT.as_bytes().to_vec(),
        complete_to_sequence_number: 6,
        rewind_to_sequence_number: 5,
        ..Verdict::default()
    };
    let synced = server_frame::Frame::Synced(Synced { verdicts: vec![verdict] });
    let actions = talk.say(asked[0].request_id, synced);
    assert!(notices(&actions).contains(&Notice::Rewound { conversation: CHAT, from: 9, to: 5 }));
    let healing = writes(&actions);
    assert!(matches!(
        &healing[0].frame,
        Some(Frame::Sync(sync)) if sync.cursors[0].sequence_number == 5
    ));
    let event = match message(6) {
        server_frame::Frame::Event(event) => event,
        _ => unreachable!(),
    };
    let conversation_id = CHAT.as_bytes().to_vec();
    let page = proto::client::SyncPage { conversation_id, events: vec![event] };
    let page = server_frame::Frame::SyncPage(page);
    assert_eq!(delivered(&talk.say(healing[0].request_id, page)), [6]);
    assert_eq!(delivered(&talk.say(0, message(7))), [7]);
}

#[test]
fn what_was_delivered_is_acknowledged_once_a_while() {
    let mut talk = Dialogue::new(Config::default());
    talk.open(0);
    for number in 1..=3 {
        talk.say(0, message(number));
    }
    let written = writes(&talk.after_ms(300, Input::Tick));
    assert_eq!(written.len(), 1);
    assert!(matches!(
        &written[0].frame,
        Some(Frame::Ack(ack)) if ack.delivered_sequence_number == 3
    ));
}

#[test]
fn a_failed_resume_starts_over_since_nobody_knows_what_is_missing() {
    let mut talk = Dialogue::new(Config { resume: true, ..Config::default() });
    talk.open(0);
    let error = Error { retry_after_ms: 2_000, ..ErrorCode::Unavailable.to_frame("no answer") };
    let hello = talk.core.hello;
    let actions = talk.say(hello, server_frame::Frame::Error(error));
    assert!(actions.iter().any(|action| matches!(action, Action::Hangup { .. })));
    assert!(talk.core.deadline().unwrap() >= talk.now + Duration::from_secs(2));
}
