//! Tests of the planning: single rules, and a seeded simulation of many batches.

use super::*;
use fastrand::Rng;
use proto::client::{ServerFrame, server_frame};
use proto::limits::INLINE_RECIPIENTS_MAX;
use proto::record::RecordHeaders;
use std::collections::HashSet;

#[path = "plan_about_tests.rs"]
mod about;

const NOW_US: u64 = 1_700_000_000_000_000;

fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

fn append(conversation: u128, sender: u128, key: &str, change: Change) -> Append {
    let sender = (id(sender), id(1_000 + sender));
    Append::new(id(conversation), sender, key.into(), String::new(), change).unwrap()
}

fn add(user_ids: Vec<Uuid>) -> Change {
    Change::Add { user_ids, is_keyed: true }
}

fn message(conversation: u128, sender: u128, key: &str, text: &str) -> Append {
    append(conversation, sender, key, Change::Message { text: text.into() })
}

fn locked(members: &[u128]) -> Locked {
    let members: Vec<_> = members.iter().map(|it| id(*it)).collect();
    Locked {
        last_sequence_number: 10,
        last_message_number: 4,
        membership_version: 3,
        created_by: members[0],
        last_event_at_us: NOW_US - 5,
        audience: Arc::new(Audience::new(&members)),
    }
}

fn found(members: &[u128]) -> Found {
    Found { conversations: HashMap::from([(id(1), locked(members))]), ..Found::default() }
}

fn planned<'a>(appends: &'a [Append], found: Found) -> Plan<'a> {
    let mut next = 5_000;
    let mut next_id = || {
        next += 1;
        id(next)
    };
    plan(&appends.iter().collect::<Vec<_>>(), found, NOW_US, &mut next_id)
}

fn codes(plan: &Plan<'_>) -> Vec<Option<ErrorCode>> {
    plan.answers.iter().map(|it| it.as_ref().err().map(|failure| failure.code)).collect()
}

fn numbers(plan: &Plan<'_>) -> Vec<u64> {
    plan.answers.iter().flatten().map(|it| it.sequence_number).collect()
}

fn decoded(row: &OutboxRow) -> (Event, RecordHeaders) {
    let frame = ServerFrame::decode(row.value.as_slice()).unwrap();
    let Some(server_frame::Frame::Event(event)) = frame.frame else { panic!("no event") };
    (event, RecordHeaders::decode(row.headers.as_slice()).unwrap())
}

#[test]
fn bad_requests_leave_no_hole_between_good_ones() {
    let appends = [
        message(1, 1, "a", "one"),
        message(1, 9, "a", "a stranger"),
        message(2, 1, "a", "no such conversation"),
        message(1, 2, "a", "two"),
        append(1, 2, "b", Change::Remove { user_id: id(3) }),
        message(1, 3, "a", "three"),
    ];
    let plan = planned(&appends, found(&[1, 2, 3]));
    let not_a_member = Some(ErrorCode::NotAMember);
    let forbidden = Some(ErrorCode::Forbidden);
    assert_eq!(codes(&plan), [None, not_a_member, not_a_member, None, forbidden, None]);
    assert_eq!(numbers(&plan), [11, 12, 13]);
    let row = &plan.conversations[&id(1)];
    assert_eq!(row.before_sequence_number, Some(10));
    assert_eq!((row.after.last_sequence_number, row.after.last_message_number), (13, 7));
    assert_eq!(plan.events.len(), 3);
}

#[test]
fn a_repeated_key_gets_the_first_answer_and_another_body_a_conflict() {
    let appends = [
        message(1, 1, "k", "hi"),
        message(1, 1, "k", "hi"),
        message(1, 1, "k", "ho"),
        message(1, 2, "k", "hi"),
        append(1, 1, "k", Change::Title { title: "hi".into() }),
    ];
    let plan = planned(&appends, found(&[1, 2]));
    let conflict = Some(ErrorCode::IdempotencyKeyConflict);
    assert_eq!(codes(&plan), [None, None, conflict, None, conflict]);
    let (first, second) = (plan.answers[0].as_ref().unwrap(), plan.answers[1].as_ref().unwrap());
    assert_eq!(*second, Appended { repeated: true, ..first.clone() });
    assert_eq!(plan.answers[3].as_ref().unwrap().sequence_number, 12, "another sender's key");
    assert_eq!(plan.events.len(), 2);
}

#[test]
fn a_key_of_an_earlier_batch_is_answered_even_after_leaving() {
    let appends = [message(1, 9, "k", "hi"), message(1, 9, "k", "ho")];
    let answer = Appended {
        message_id: Some(id(77)),
        sequence_number: 6,
        message_number: 2,
        created_at_us: 5,
        repeated: true,
    };
    let known = Known { body_hash: appends[0].body_hash.to_vec(), answer: answer.clone() };
    let known = HashMap::from([(0, known.clone()), (1, known)]);
    let plan = planned(&appends, Found { known, ..found(&[1]) });
    assert_eq!(plan.answers[0], Ok(answer));
    assert_eq!(codes(&plan)[1], Some(ErrorCode::IdempotencyKeyConflict));
    assert!(plan.events.is_empty() && plan.conversations.is_empty() && plan.outbox.is_empty());
}

#[test]
fn a_refused_request_does_not_use_up_its_key() {
    let appends = [
        message(1, 3, "k", "too early"),
        append(1, 1, "add", add(vec![id(3)])),
        message(1, 3, "k", "too early"),
    ];
    let plan = planned(&appends, found(&[1, 2]));
    assert_eq!(codes(&plan), [Some(ErrorCode::NotAMember), None, None]);
    assert!(!plan.answers[2].as_ref().unwrap().repeated);
}

#[test]
fn who_is_added_and_removed_is_told_and_bounded() {
    let appends = [
        append(1, 2, "a", add(vec![id(2), id(3)])),
        message(1, 3, "m", "here"),
        append(1, 1, "r", Change::Remove { user_id: id(3) }),
        message(1, 3, "n", "gone"),
        append(1, 2, "n", add(vec![id(1)])),
        append(1, 2, "o", Change::Add { user_ids: vec![id(1)], is_keyed: false }),
        append(1, 2, "l", Change::Remove { user_id: id(2) }),
    ];
    let plan = planned(&appends, found(&[1, 2]));
    let not_a_member = Some(ErrorCode::NotAMember);
    assert_eq!(codes(&plan), [None, None, None, not_a_member, None, None, None]);
    // Who is there already is added once more for the key's sake alone.
    assert_eq!(numbers(&plan), [11, 12, 13, 14, 14, 15]);
    let third = plan.members[&(id(1), id(3))];
    assert_eq!((third.joined_sequence_number, third.left_sequence_number), (Some(11), Some(13)));
    let second = plan.members[&(id(1), id(2))];
    assert_eq!((second.joined_sequence_number, second.left_sequence_number), (None, Some(15)));
    assert_eq!(plan.conversations[&id(1)].after.membership_version, 6);
    let removal: Vec<_> =
        plan.outbox.iter().map(decoded).filter(|it| it.0.sequence_number == 13).collect();
    assert_eq!(removal.len(), 2, "the log's topic and membership's");
    for (event, headers) in removal {
        let Some(event::Kind::MembershipChanged(change)) = event.kind else { panic!("{event:?}") };
        assert_eq!(change.removed_user_ids, [id(3).as_bytes().to_vec()]);
        assert_eq!(headers.recipients, proto::id::pack(&[id(1), id(2), id(3)]));
    }
}

#[test]
fn leaving_and_coming_back_in_one_batch_starts_anew() {
    let appends =
        [append(1, 2, "l", Change::Remove { user_id: id(2) }), append(1, 1, "a", add(vec![id(2)]))];
    let plan = planned(&appends, found(&[1, 2]));
    let second = plan.members[&(id(1), id(2))];
    assert_eq!((second.joined_sequence_number, second.left_sequence_number), (Some(12), None));
}

#[test]
fn others_are_removed_by_the_creator_or_once_it_is_gone_by_anybody() {
    let remove = |sender, user| append(1, sender, "r", Change::Remove { user_id: id(user) });
    assert_eq!(codes(&planned(&[remove(2, 3)], found(&[1, 2, 3]))), [Some(ErrorCode::Forbidden)]);
    assert_eq!(codes(&planned(&[remove(1, 3)], found(&[1, 2, 3]))), [None]);
    assert_eq!(codes(&planned(&[remove(1, 9)], found(&[1, 2, 3]))), [Some(ErrorCode::NotFound)]);
    let orphaned = Found {
        conversations: HashMap::from([(id(1), Locked { created_by: id(8), ..locked(&[1, 2, 3]) })]),
        ..Found::default()
    };
    assert_eq!(codes(&planned(&[remove(2, 3)], orphaned)), [None]);
}

#[test]
fn a_conversation_begins_with_its_creation() {
    let create = |sender| {
        let member_ids = vec![id(2), id(3)];
        append(7, sender, "c", Change::Create { title: "Team".into(), member_ids })
    };
    let appends = [create(1), create(1), message(7, 2, "m", "hi"), create(2)];
    let plan = planned(&appends, Found::default());
    assert_eq!(codes(&plan), [None, None, None, Some(ErrorCode::Forbidden)]);
    assert!(plan.answers[1].as_ref().unwrap().repeated);
    let row = &plan.conversations[&id(7)];
    assert_eq!((row.before_sequence_number, row.title), (None, Some("Team")));
    assert_eq!((row.after.last_sequence_number, row.after.created_by), (2, id(1)));
    assert_eq!(plan.members.len(), 3);
    let (event, headers) = decoded(&plan.outbox[0]);
    let Some(event::Kind::MembershipChanged(change)) = event.kind else { panic!("{event:?}") };
    assert!(change.created && change.added_user_ids.len() == 3);
    assert_eq!(headers.recipients.len(), 48);
}

#[test]
fn members_are_bounded() {
    let members: Vec<u128> = (1..=MEMBERS_MAX as u128).collect();
    let add = append(1, 1, "a", add(vec![id(999_999)]));
    let plan = planned(std::slice::from_ref(&add), found(&members));
    assert_eq!(codes(&plan), [Some(ErrorCode::InvalidArgument)]);
    assert!(plan.members.is_empty() && plan.conversations.is_empty());
}

#[test]
fn recipients_are_named_up_to_a_limit_and_counted_beyond_it() {
    let most = INLINE_RECIPIENTS_MAX as u128;
    let headers_of = |members: u128, change: Change| {
        let members: Vec<u128> = (1..=members).collect();
        let append = append(1, 1, "a", change);
        let plan = planned(std::slice::from_ref(&append), found(&members));
        let headers: Vec<_> = plan.outbox.iter().map(|it| decoded(it).1).collect();
        let told = |it: &RecordHeaders| (it.recipients.len() / 16, it.member_count);
        assert!(headers.iter().all(|it| told(it) == told(&headers[0])));
        told(&headers[0])
    };
    let said = || Change::Message { text: "x".to_owned() };
    assert_eq!(headers_of(most, said()), (1_024, 0));
    assert_eq!(headers_of(most + 1, said()), (0, 1_025));
    let add = add(vec![id(9_999), id(2)]);
    assert_eq!(headers_of(most, add), (0, 1_025), "who comes is told");
    let remove = Change::Remove { user_id: id(7) };
    assert_eq!(headers_of(most + 1, remove), (0, 1_025), "who goes is told");
}

#[test]
fn times_never_go_back_and_direct_messages_are_urgent() {
    let ahead = Locked { last_event_at_us: NOW_US + 99, ..locked(&[1, 2]) };
    let conversations = HashMap::from([(id(1), ahead), (id(2), locked(&[1, 2, 3]))]);
    let appends = [message(1, 1, "a", "x"), message(2, 1, "a", "y")];
    let plan = planned(&appends, Found { conversations, ..Found::default() });
    assert_eq!(plan.answers[0].as_ref().unwrap().created_at_us, NOW_US + 99);
    assert_eq!(plan.answers[1].as_ref().unwrap().created_at_us, NOW_US);
    let priorities: Vec<_> = plan.outbox.iter().map(|it| decoded(it).1.priority()).collect();
    assert_eq!(priorities, [Priority::High, Priority::Normal]);
}

/// The database as the simulation keeps it.
#[derive(Default)]
struct Model {
    conversations: HashMap<Uuid, Locked>,
    keys: HashMap<(Uuid, Uuid, String), Known>,
    log: HashMap<Uuid, Vec<u64>>,
    published: HashMap<Uuid, Vec<u64>>,
    message_ids: HashSet<Uuid>,
}

impl Model {
    fn commit(&mut self, appends: &[Append], random: &mut Rng) {
        let known = appends.iter().enumerate().filter_map(|(index, append)| {
            let key = (append.conversation_id, append.sender_id, append.key.clone());
            Some((index, self.keys.get(&key)?.clone()))
        });
        let found = Found {
            conversations: self.conversations.clone(),
            known: known.collect(),
            targets: HashMap::new(),
        };
        let mut next_id = || Uuid::from_u128(random.u128(..));
        let plan = plan(&appends.iter().collect::<Vec<_>>(), found, NOW_US, &mut next_id);
        assert_eq!(plan.answers.len(), appends.len());
        for (append, answer) in appends.iter().zip(&plan.answers) {
            let Ok(answer) = answer else { continue };
            let key = (append.conversation_id, append.sender_id, append.key.clone());
            match self.keys.get(&key) {
                Some(known) => {
                    assert!(answer.repeated && known.body_hash == append.body_hash);
                    assert_eq!(answer.sequence_number, known.answer.sequence_number);
                    assert_eq!(answer.message_id, known.answer.message_id);
                }
                None => {
                    let body_hash = append.body_hash.to_vec();
                    self.keys.insert(key, Known { body_hash, answer: answer.clone() });
                }
            }
        }
        for row in &plan.events {
            self.log.entry(row.append.conversation_id).or_default().push(row.sequence_number);
            if let Some(message_id) = row.message_id {
                assert!(self.message_ids.insert(message_id));
            }
        }
        for row in plan.outbox.iter().filter(|it| it.topic == topics::MESSAGE_CREATED) {
            self.published.entry(row.key).or_default().push(decoded(row).0.sequence_number);
        }
        for (conversation_id, row) in plan.conversations {
            let before = self.conversations.get(&conversation_id);
            assert_eq!(row.before_sequence_number, before.map(|it| it.last_sequence_number));
            assert!(row.after.last_message_number <= row.after.last_sequence_number);
            self.conversations.insert(conversation_id, row.after);
        }
    }
}

fn random_append(random: &mut Rng) -> Append {
    let (conversation, sender) = (random.u128(1..4), random.u128(1..7));
    let key = random.u32(..200).to_string();
    let text = random.u8(..2).to_string();
    let change = match random.u8(..10) {
        0 => Change::Create { title: text, member_ids: vec![id(1), id(2), id(3)] },
        1 => add(vec![id(random.u128(1..7))]),
        2 => Change::Remove { user_id: id(random.u128(1..7)) },
        3 => Change::Title { title: text },
        _ => Change::Message { text },
    };
    append(conversation, sender, &key, change)
}

/// Many batches of random requests: whatever is refused or repeated, every log is 1, 2, 3, ...,
/// is published in that order, and a key has one answer for ever.
#[test]
fn simulated_batches_keep_the_invariants() {
    let seeds = match std::env::var("REALCHAT_SEED").ok().and_then(|it| it.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => 0..200_u64,
    };
    for seed in seeds {
        let mut random = Rng::with_seed(seed);
        let mut model = Model::default();
        for _ in 0..20 {
            let size = random.usize(1..40);
            let batch: Vec<_> = (0..size).map(|_| random_append(&mut random)).collect();
            model.commit(&batch, &mut random);
        }
        for (conversation_id, log) in &model.log {
            let expected: Vec<u64> = (1..=log.len() as u64).collect();
            assert_eq!(*log, expected, "REALCHAT_SEED={seed}: the log of {conversation_id}");
            assert_eq!(model.published[conversation_id], expected, "REALCHAT_SEED={seed}");
            let last = model.conversations[conversation_id].last_sequence_number;
            assert_eq!(last, log.len() as u64, "REALCHAT_SEED={seed}");
        }
    }
}
