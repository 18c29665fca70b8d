import assert from "node:assert/strict";
import { test } from "node:test";
import { Conversation } from "../../../client/web/conversation.js";
import { count, initials, isEmojiOnly, listed, presenceLabel, withLinks } from "../../../client/web/format.js";
import { lines } from "../../../client/web/timeline.js";

const MINUTE = 60_000_000;
const summary = (more = {}) => ({
  conversation_id: "c", title: "", last_sequence_number: 0, message_count: 0, member_count: 2, unread_count: 0,
  read_sequence_number: 0, joined_sequence_number: 1, members: [{ user_id: "me" }, { user_id: "bob" }],
  last_message: null, created_at_us: 1, ...more,
});
const message = (sequence, sender, atUs = sequence * MINUTE, text = `${sequence}`) => ({
  conversation_id: "c", sequence_number: sequence, created_at_us: atUs, sender_id: sender,
  message: { message_id: `m${sequence}`, message_number: sequence, text },
});
const show = (conversation, more = {}) =>
  lines({ conversation, me: "me", pending: [], unreadAfter: Infinity, name: (id) => id, ...more });

test("history and pushes make one timeline, however they overlap", () => {
  const conversation = new Conversation(summary({ last_sequence_number: 3 }), "me");
  conversation.push(message(4, "bob"), "me");
  conversation.addHistory([message(2, "bob"), message(3, "me"), message(4, "bob")], 3);
  conversation.push(message(5, "bob"), "me");
  conversation.addHistory([message(1, "bob")], 3);
  assert.deepEqual(conversation.loaded.map((it) => it.sequence_number), [1, 2, 3, 4, 5]);
  assert.ok(conversation.atStart);
});

test("unread counts others' messages beyond the read cursor, wherever they were read", () => {
  const conversation = new Conversation(summary(), "me");
  conversation.addHistory([], 60);
  for (const [sequence, sender] of [[1, "bob"], [2, "me"], [3, "bob"], [4, "bob"]]) {
    conversation.push(message(sequence, sender), "me");
  }
  assert.equal(conversation.unread, 3);
  conversation.addReceipt({ user_id: "me", device_id: "phone", delivered_sequence_number: 3, read_sequence_number: 3 }, "me");
  assert.equal(conversation.unread, 1);
  conversation.markRead(4, "me");
  assert.equal(conversation.unread, 0);
});

test("an older answer of the server does not undo what was pushed", () => {
  const conversation = new Conversation(summary(), "me");
  conversation.push(message(1, "bob"), "me");
  conversation.update(summary({ title: "old", last_sequence_number: 0 }), "me");
  assert.equal(conversation.title, "");
  assert.equal(conversation.lastMessage.text, "1");
});

test("messages of one person stand together, days and unread messages apart", () => {
  const conversation = new Conversation(summary(), "me");
  const day = 86_400_000_000;
  conversation.addHistory([
    message(1, "bob", MINUTE), message(2, "bob", 2 * MINUTE), message(3, "me", 3 * MINUTE), message(4, "bob", day * 3),
  ], 60);
  const shown = show(conversation, { unreadAfter: 3 });
  assert.deepEqual(shown.map((line) => line.kind), ["day", "message", "message", "message", "day", "unread", "message"]);
  assert.deepEqual(shown.slice(1, 4).map(({ first, last }) => [first, last]), [[true, false], [false, true], [true, true]]);
});

test("ticks say how far a message has come", () => {
  const conversation = new Conversation(summary(), "me");
  conversation.addHistory([message(1, "me"), message(2, "me"), message(3, "me")], 60);
  conversation.addReceipt({ user_id: "bob", device_id: "d", delivered_sequence_number: 2, read_sequence_number: 1 }, "me");
  assert.deepEqual(show(conversation).filter((it) => it.kind === "message").map((it) => it.mark), ["read", "delivered", "sent"]);
});

test("of a large conversation the last own message says how many others have read it", () => {
  const conversation = new Conversation(summary({ member_count: 50_000 }), "me");
  conversation.addHistory([message(1, "me"), message(2, "bob"), message(3, "me"), message(4, "bob")], 60);
  const told = (...counts) => conversation.addSummary({
    counts: counts.map(([sequence_number, delivered_count, read_count]) => ({ sequence_number, delivered_count, read_count })),
    member_count: 50_000,
  });
  const own = () => show(conversation).filter((it) => it.kind === "message" && it.own).map((it) => [it.mark, it.readBy]);
  assert.deepEqual(own(), [["sent", ""], ["sent", ""]]);
  told([2, 31_000, 1_235]);
  assert.deepEqual(own(), [["read", ""], ["sent", ""]], "the last is not read by those who have what was before it");
  told([2, 31_000, 1_235], [4, 900, 18]);
  assert.deepEqual(own(), [["read", ""], ["read", `Read by ${count(18)}`]]);
  conversation.markRead(4, "me");
  assert.deepEqual(own()[1], ["read", "Read by 17"], "the sender is none of them");
  told([4, 10, 3]);
  assert.deepEqual(own()[1], ["read", "Read by 17"], "what is told late takes nothing back");
  told([4, 2_000, 1_235]);
  const [first, last] = show(conversation).filter((it) => it.kind === "message" && it.own);
  assert.deepEqual([first.detail, last.readBy], [`Read by ${count(1_234)}`, `Read by ${count(1_234)}`]);
});

test("counts of many sequence numbers are forgotten, the oldest first", () => {
  const conversation = new Conversation(summary(), "me");
  for (let sequence = 1; sequence <= 1_000; sequence += 1) {
    conversation.addSummary({ counts: [{ sequence_number: sequence, delivered_count: sequence, read_count: 1 }], member_count: 2 });
  }
  assert.equal(conversation.counts.size, 64);
  assert.equal(conversation.crowd(1).delivered, 1_000);
});

test("edits and deletions show on the message that they are of", () => {
  const conversation = new Conversation(summary(), "me");
  conversation.addHistory([message(1, "bob"), message(2, "bob")], 60);
  const event = { conversation_id: "c", created_at_us: MINUTE, sender_id: "bob" };
  conversation.push({ ...event, sequence_number: 3, message_edited: { message_id: "m1", text: "better" } }, "me");
  conversation.push({ ...event, sequence_number: 4, message_deleted: { message_id: "m2" } }, "me");
  const [first, second] = show(conversation).filter((it) => it.kind === "message");
  assert.deepEqual([first.text, first.edited, second.deleted], ["better", true, true]);
});

test("who came and went is said, kinds that are not known are not", () => {
  const conversation = new Conversation(summary(), "me");
  const event = { conversation_id: "c", created_at_us: MINUTE, sender_id: "bob" };
  const change = (added, removed, created = false) => ({ added_user_ids: added, removed_user_ids: removed, created });
  conversation.addHistory([
    { ...event, sequence_number: 1, membership_changed: change(["bob", "me"], [], true) },
    { ...event, sequence_number: 2, membership_changed: change(["eve"], []) },
    { ...event, sequence_number: 3, something_new: {} },
    { ...event, sequence_number: 4, membership_changed: change([], ["bob"]) },
    { ...event, sequence_number: 5, settings_changed: { title: "Plans" } },
  ], 60);
  assert.deepEqual(show(conversation).filter((it) => it.kind === "system").map((it) => it.text), [
    "bob started the conversation", "bob added eve", "bob left", "bob named the conversation “Plans”",
  ]);
});

test("names, addresses and emoji are read as people mean them", () => {
  assert.deepEqual(["Ada Lovelace", "ada", "mary-jane.watson", ""].map(initials), ["AL", "A", "MW", "?"]);
  assert.equal(listed(["Ada", "Bob", "Cy", "Di", "Ed"]), "Ada, Bob and 3 others");
  assert.deepEqual(withLinks("see https://a.example/x?y=1, ok").map((it) => it.href), [null, "https://a.example/x?y=1", null]);
  assert.deepEqual(withLinks("javascript:alert(1) http://").map((it) => it.href), [null]);
  assert.ok(isEmojiOnly("🎉") && isEmojiOnly("👍🏽 👩‍👩‍👧") && !isEmojiOnly("12") && !isEmojiOnly("ok 🎉") && !isEmojiOnly("🎉🎉🎉🎉"));
  assert.equal(presenceLabel({ online: false, lastSeenUs: 60_000_000 * 10 }, 60_000 * 15), "Last seen 5 min ago");
});

test("edits, deletions and reactions are shown as they stand, in whatever order pages come", () => {
  const about = (sequence, sender, more) => ({
    conversation_id: "c", sequence_number: sequence, created_at_us: sequence * MINUTE, sender_id: sender, ...more,
  });
  const edit = (sequence, id, text) => about(sequence, "bob", { message_edited: { message_id: id, text } });
  const react = (sequence, sender, reaction, removed = false) =>
    about(sequence, sender, { reaction: { message_id: "m1", reaction, removed } });
  const conversation = new Conversation(summary({ last_sequence_number: 8 }), "me");
  // The newest page first.
  conversation.addHistory([edit(6, "m1", "third"), react(7, "me", "👍"), react(8, "bob", "❤️", true)], 3);
  conversation.addHistory([react(3, "bob", "❤️"), react(4, "bob", "👍"), edit(5, "m1", "second")], 3);
  conversation.addHistory([message(1, "bob", MINUTE, "third"), message(2, "bob")], 3);
  const [first, second] = show(conversation).filter((line) => line.kind === "message");
  assert.deepEqual([first.text, first.edited, second.edited], ["third", true, false]);
  assert.deepEqual(first.reactions, [{ reaction: "👍", own: true, count: 2, names: "bob and me" }]);
  conversation.push(message(9, "bob"), "me");
  conversation.push(edit(10, "m9", "last"), "me");
  assert.equal(conversation.lastMessage.text, "last");
  conversation.push(about(11, "bob", { message_deleted: { message_id: "m9" } }), "me");
  assert.equal(conversation.lastMessage.text, "");
  assert.ok(show(conversation).at(-1).deleted);
  assert.equal(conversation.unread, 1);
});
