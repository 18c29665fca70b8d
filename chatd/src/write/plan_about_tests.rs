//! Edits, deletions and reactions, planned.

use super::*;

const MESSAGE: u128 = 77;

fn edit(sender: u128, key: &str, text: &str) -> Append {
    append(1, sender, key, Change::Edit { message_id: id(MESSAGE), text: text.into() })
}

fn delete(sender: u128, key: &str) -> Append {
    append(1, sender, key, Change::Delete { message_id: id(MESSAGE) })
}

fn react(sender: u128, key: &str, removed: bool) -> Append {
    let change = Change::React { message_id: id(MESSAGE), reaction: "yes".into(), removed };
    append(1, sender, key, change)
}

/// Members 1 (who made the conversation), 2 and 3; all requests are about event 4, which 2 sent.
fn about(appends: &[Append], is_deleted: bool) -> Plan<'_> {
    let target = Target { sequence_number: 4, sender_id: id(2), is_deleted };
    let targets = (0..appends.len()).map(|index| (index, target)).collect();
    planned(appends, Found { targets, ..found(&[1, 2, 3]) })
}

#[test]
fn each_takes_a_number_of_the_log_and_no_message_number() {
    let appends = [edit(2, "a", "better"), react(3, "a", false), react(3, "b", true)];
    let plan = about(&appends, false);
    assert_eq!(numbers(&plan), [11, 12, 13]);
    assert!(plan.answers.iter().flatten().all(|it| it.message_id.is_none()));
    assert!(plan.answers.iter().flatten().all(|it| it.message_number == 4));
    assert!(plan.events.iter().all(|it| it.message_id == Some(id(MESSAGE)) && it.text.is_none()));
    let told: Vec<_> = plan.outbox.iter().map(|it| decoded(it).0.kind.unwrap()).collect();
    let message_id = id(MESSAGE).as_bytes().to_vec();
    let [event::Kind::MessageEdited(edit), event::Kind::Reaction(yes), event::Kind::Reaction(no)] =
        told.as_slice()
    else {
        panic!("{told:?}")
    };
    assert_eq!((&edit.message_id, edit.text.as_str()), (&message_id, "better"));
    assert_eq!((yes.reaction.as_str(), yes.removed, no.removed), ("yes", false, true));
    let row = TextRow { message_id: id(MESSAGE), text: Some("better") };
    assert_eq!(plan.texts, BTreeMap::from([((id(1), 4), row)]));
}

#[test]
fn the_last_edit_of_a_batch_is_what_the_message_says() {
    let appends = [edit(2, "a", "one"), edit(2, "b", "two")];
    let plan = about(&appends, false);
    assert_eq!(numbers(&plan), [11, 12]);
    assert_eq!(plan.texts[&(id(1), 4)].text, Some("two"));
}

#[test]
fn only_its_sender_edits_a_message_and_only_its_sender_or_the_creator_deletes_it() {
    let forbidden = Some(ErrorCode::Forbidden);
    let appends = [edit(1, "a", "x"), edit(3, "a", "x"), delete(3, "b"), edit(9, "a", "x")];
    let expected = [forbidden, forbidden, forbidden, Some(ErrorCode::NotAMember)];
    let plan = about(&appends, false);
    assert_eq!(codes(&plan), expected);
    assert!(plan.texts.is_empty() && plan.conversations.is_empty());
    for sender in [1, 2] {
        let appends = [delete(sender, "a")];
        let plan = about(&appends, false);
        assert_eq!(codes(&plan), [None]);
        assert_eq!(plan.texts[&(id(1), 4)].text, None);
    }
}

#[test]
fn a_deleted_message_is_gone_for_whatever_comes_later_in_the_batch_and_after_it() {
    let gone = Some(ErrorCode::NotFound);
    let appends = [
        edit(2, "a", "x"),
        delete(2, "b"),
        edit(2, "c", "y"),
        react(3, "d", false),
        delete(1, "e"),
        delete(2, "b"),
    ];
    let plan = about(&appends, false);
    assert_eq!(codes(&plan), [None, None, gone, gone, gone, None]);
    assert!(plan.answers[5].as_ref().is_ok_and(|it| it.repeated && it.sequence_number == 12));
    assert_eq!(plan.texts[&(id(1), 4)].text, None);
    assert_eq!(codes(&about(&[react(3, "a", false)], true)), [gone]);
}

#[test]
fn a_message_that_the_sender_may_not_see_is_not_found() {
    let appends = [edit(2, "a", "x"), delete(2, "b"), react(2, "c", false)];
    let plan = planned(&appends, found(&[1, 2]));
    assert_eq!(codes(&plan), [Some(ErrorCode::NotFound); 3]);
}
