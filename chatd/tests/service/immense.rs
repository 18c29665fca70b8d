//! A conversation with more events than 32 bits count: whatever is asked of it takes what is asked for, and
//! nothing takes longer for what lies before.

use crate::support::chatd::Chatd;
use crate::support::people::{Person, sequence_numbers};
use crate::support::postgres::Database;
use proto::Uuid;
use std::time::{Duration, Instant};

/// The last event before the test's own.
const LAST: u64 = 5_000_000_000;
/// Events that have rows, at the beginning and at the end.
const STORED: u64 = 2_000;
/// Each question is answered within this time; none reads more than its page.
const PATIENCE: Duration = Duration::from_secs(5);

/// Events 2 to 2,000, and the last 2,000, all said by `sender_id`.
fn fill(database: &Database, conversation_id: Uuid, sender_id: Uuid) {
    let mut owner = database.owner();
    let (last, stored) = (LAST.cast_signed(), STORED.cast_signed());
    let insert = "INSERT INTO messaging.events (conversation_id, sequence_number, kind, message_id,
                      message_number, sender_id, sender_device_id, idempotency_key, body_hash, text,
                      created_at_us)
                  SELECT $1, n, 1, gen_random_uuid(), n - 1, $2, $2, 'filled-' || n, '', 'text', n
                  FROM generate_series($3::bigint, $4::bigint) n";
    owner.execute(insert, &[&conversation_id, &sender_id, &2_i64, &stored]).unwrap();
    owner.execute(insert, &[&conversation_id, &sender_id, &(last - stored + 1), &last]).unwrap();
    let jump = "UPDATE messaging.conversations
                SET last_sequence_number = $2::bigint, last_message_number = $2::bigint - 1
                WHERE conversation_id = $1";
    owner.execute(jump, &[&conversation_id, &last]).unwrap();
}

fn in_time<T>(what: &str, ask: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let answer = ask();
    assert!(started.elapsed() < PATIENCE, "{what} took {:?}", started.elapsed());
    answer
}

#[test]
fn a_conversation_of_billions_is_read_and_written_as_any_other() {
    let database = Database::new();
    let chatd = Chatd::start(&database);
    let [alice, bob] = ["alice", "bob"].map(|name| Person::register(&chatd, name));
    let conversation_id = alice.create(&chatd, &[&bob]);
    fill(&database, conversation_id, alice.user_id);
    let base = format!("/v1/conversations/{conversation_id}");

    let sent = in_time("a send", || bob.send(&chatd, conversation_id, "k", "hi").unwrap());
    assert_eq!((sent.sequence_number, sent.message_number), (LAST + 1, LAST));
    let again = in_time("a repeat", || bob.send(&chatd, conversation_id, "k", "hi").unwrap());
    assert!(again.repeated && again.sequence_number == LAST + 1);

    let near = in_time("a sync", || bob.sync(&chatd, false, &[(conversation_id, LAST - 9)], 0));
    assert_eq!(near.pages.iter().map(|it| it.events.len()).sum::<usize>(), 10);
    assert_eq!(near.verdicts[0].complete_to_sequence_number, LAST + 1);
    let far =
        in_time("a sync from the start", || bob.sync(&chatd, true, &[(conversation_id, 1)], 100));
    assert_eq!(far.pages.iter().map(|it| it.events.len()).sum::<usize>(), 100);
    let verdict = &far.verdicts[0];
    assert_eq!(verdict.complete_to_sequence_number, 101);
    let gap = (verdict.gap_from_sequence_number, verdict.gap_to_sequence_number);
    assert_eq!((gap, verdict.reset), ((102, LAST + 1), false));

    let page = in_time("a page", || bob.get(&chatd, &format!("{base}/events?limit=3")));
    assert_eq!(sequence_numbers(&page), [LAST - 1, LAST, LAST + 1]);
    let target = format!("{base}/events?limit=2&before={}", LAST - 100);
    assert_eq!(
        sequence_numbers(&in_time("an older page", || bob.get(&chatd, &target))),
        [LAST - 102, LAST - 101]
    );

    let unread = |person: &Person| {
        let list = in_time("the list", || person.get(&chatd, "/v1/conversations"));
        list["conversations"][0]["unread_count"].as_u64().unwrap()
    };
    assert_eq!(unread(&bob), LAST - 1, "all but his own");
    bob.ack(&chatd, conversation_id, LAST + 1, LAST - 1).unwrap();
    assert_eq!(unread(&bob), 1);
    bob.ack(&chatd, conversation_id, u64::MAX, u64::MAX).unwrap_err();
    bob.ack(&chatd, conversation_id, LAST + 1, LAST + 1).unwrap();
    assert_eq!(unread(&bob), 0);
}
