import assert from "node:assert/strict";
import { test } from "node:test";
import { Log } from "../../../client/js/core.js";
import { eachSeed, random } from "./random.mjs";

const ME = "me";

const message = (id, sequence) => ({
  conversation_id: id, sequence_number: sequence, created_at_us: 0, sender_id: "other",
  message: { message_id: `${id}-${sequence}`, message_number: sequence, text: `${sequence}` },
});
const membership = (id, sequence, added, removed) => ({
  conversation_id: id, sequence_number: sequence, created_at_us: 0, sender_id: "other",
  membership_changed: { added_user_ids: added, removed_user_ids: removed, created: sequence === 1 },
});
const numbers = (events) => events.map((event) => event.sequence_number);
const verdict = (id, complete, from = 0, to = 0) => ({
  conversation_id: id, complete_to_sequence_number: complete, gap_from_sequence_number: from,
  gap_to_sequence_number: to, reset: false, rewind_to_sequence_number: 0,
});

test("events come once and in order, whatever order they arrive in", () => {
  const log = new Log(ME);
  log.track("a", 4);
  assert.deepEqual(numbers(log.accept(message("a", 6))), []);
  assert.deepEqual(log.wanted(), [{ conversation_id: "a", sequence_number: 4 }]);
  assert.deepEqual(numbers(log.accept(message("a", 4))), []);
  assert.deepEqual(numbers(log.accept(message("a", 5))), [5, 6]);
  assert.deepEqual(numbers(log.accept(message("a", 6))), []);
  assert.equal(log.duplicates, 2);
  assert.ok(log.complete);
});

test("a gap frame is a gap until a sync filled it", () => {
  const log = new Log(ME);
  log.track("a", 1);
  log.missed({ conversation_id: "a", from_sequence_number: 2, to_sequence_number: 3, reason: "" });
  assert.ok(!log.complete);
  log.accept(message("a", 2));
  log.accept(message("a", 3));
  assert.ok(log.complete);
});

test("an unknown conversation waits for the server's verdict, a new one does not", () => {
  const log = new Log(ME);
  assert.deepEqual(numbers(log.accept(message("old", 9))), []);
  assert.deepEqual(log.wanted(), [{ conversation_id: "old", sequence_number: 0 }]);
  log.accept(message("old", 7));
  log.accept(message("old", 8));
  assert.deepEqual(numbers(log.conclude([verdict("old", 9)]).delivered), [7, 8, 9]);
  assert.deepEqual(numbers(log.accept(membership("new", 1, [ME], []))), [1]);
  assert.deepEqual(numbers(log.accept(membership("joined", 40, [ME], []))), [40]);
});

test("what happened while the user was away from the conversation is no gap", () => {
  const log = new Log(ME);
  log.track("a", 1);
  assert.deepEqual(numbers(log.accept(membership("a", 2, [], [ME]))), [2]);
  assert.deepEqual(log.cursors(), []);
  assert.deepEqual(numbers(log.accept(membership("a", 10, [ME], []))), [10]);
  assert.deepEqual(log.cursors(), [{ conversation_id: "a", sequence_number: 10 }]);
});

test("the verdict that all is complete ends a gap in which there was nothing for the user", () => {
  const log = new Log(ME);
  log.track("a", 2);
  log.accept(message("a", 6));
  assert.deepEqual(numbers(log.conclude([verdict("a", 5)]).delivered), [6]);
  log.missed({ conversation_id: "a", from_sequence_number: 7, to_sequence_number: 8, reason: "" });
  assert.deepEqual(log.conclude([verdict("a", 8)]).delivered, []);
  assert.ok(log.complete);
  assert.deepEqual(numbers(log.accept(message("a", 9))), [9]);
});

test("a conversation that is no longer the user's is not asked for, and what is pushed again is not shown again", () => {
  const log = new Log(ME);
  log.track("a", 3);
  const { reset } = log.conclude([{ ...verdict("a", 0), reset: true }, { ...verdict("b", 0), reset: true }]);
  assert.deepEqual(reset, ["a"]);
  assert.deepEqual(log.cursors(), []);
  // A gateway that is behind: events of before, one that it had no room for, and the joining itself.
  assert.deepEqual(log.accept(message("a", 2)), []);
  assert.deepEqual(log.accept(membership("a", 3, [ME], [])), []);
  log.missed({ conversation_id: "a", from_sequence_number: 2, to_sequence_number: 3, reason: "" });
  assert.deepEqual([log.wanted(), log.complete], [[], true]);
  // Whoever joins again begins there, or asks if that was missed.
  assert.deepEqual(numbers(log.accept(membership("a", 9, [ME], []))), [9]);
  log.conclude([{ ...verdict("a", 0), reset: true }]);
  log.missed({ conversation_id: "a", from_sequence_number: 12, to_sequence_number: 12, reason: "" });
  assert.deepEqual(log.wanted(), [{ conversation_id: "a", sequence_number: 9 }]);
});

test("a server that was set back is followed from where it goes on", () => {
  const log = new Log(ME);
  log.track("a", 9);
  log.accept(message("a", 12));
  assert.deepEqual(log.accept(message("a", 6)), [], "its number was another event's before");
  const end = { ...verdict("a", 6), rewind_to_sequence_number: 5 };
  const { delivered, rewound } = log.conclude([end]);
  assert.deepEqual([delivered, rewound], [[], ["a"]]);
  assert.deepEqual(log.wanted(), [{ conversation_id: "a", sequence_number: 5 }]);
  assert.deepEqual(numbers(log.accept(message("a", 6))), [6]);
  log.conclude([verdict("a", 6)]);
  assert.ok(log.complete);
  assert.deepEqual(numbers(log.accept(message("a", 7))), [7]);
});

test("with no room to hold early events the verdict does not skip them", () => {
  const log = new Log(ME, { heldMax: 2 });
  log.track("a", 1);
  for (const sequence of [9, 8, 7, 6]) log.accept(message("a", sequence));
  assert.deepEqual(numbers(log.conclude([verdict("a", 9)]).delivered), [6, 7]);
  assert.ok(!log.complete, "8 and 9 have to be asked for");
  assert.equal(log.cursor("a"), 7);
});

/** A server's side of one conversation, from which the user may be away now and then. */
class Conversation {
  constructor(id) {
    this.id = id;
    this.events = [membership(id, 1, [ME, "other"], [])];
    this.member = true;
    this.joined = 1;
    /** What the user must have been shown in the end. */
    this.visible = [1];
  }

  change(dice) {
    const sequence = this.events.length + 1;
    const toggles = dice.chance(0.05);
    const event =
      !toggles ? message(this.id, sequence)
      : this.member ? membership(this.id, sequence, [], [ME])
      : membership(this.id, sequence, [ME], []);
    this.events.push(event);
    const sees = this.member || toggles;
    if (toggles) this.member = !this.member;
    if (toggles && this.member) this.joined = sequence;
    if (sees) this.visible.push(sequence);
    return sees ? event : null;
  }

  /** Pages and a verdict, as the server answers a sync; a page of at most `limit`. */
  sync(cursor, limit) {
    if (!this.member) return { events: [], verdict: { ...verdict(this.id, 0), reset: true } };
    const from = Math.max(cursor + 1, this.joined);
    const events = this.events.slice(from - 1, from - 1 + limit);
    const complete = events.at(-1)?.sequence_number ?? Math.max(cursor, this.events.length);
    const last = this.events.length;
    return { events, verdict: complete < last ? verdict(this.id, complete, complete + 1, last) : verdict(this.id, complete) };
  }
}

/** A run of a client over a network that loses, repeats and reorders pushes and cuts the connection. */
function simulate(seed) {
  const dice = random(seed);
  const log = new Log(ME, { heldMax: 1 + dice.below(40) });
  const conversations = ["a", "b", "c"].map((id) => new Conversation(id));
  const shown = new Map(conversations.map(({ id }) => [id, []]));
  const deliver = (events) => events.forEach((it) => shown.get(it.conversation_id).push(it.sequence_number));
  const limit = 1 + dice.below(8);
  const exchange = (cursors, resume, reliable) => {
    const known = new Map(cursors.map((it) => [it.conversation_id, it.sequence_number]));
    const asked = conversations.filter(({ id, member }) => known.has(id) || (resume && member));
    const answers = asked.map((it) => it.sync(known.get(it.id) ?? 0, limit));
    for (const event of answers.flatMap((answer) => answer.events)) {
      if (!reliable && dice.chance(0.02)) return false;
      deliver(log.accept(event));
    }
    deliver(log.conclude(answers.map((answer) => answer.verdict)).delivered);
    return true;
  };
  let flight = [];
  for (let step = 0; step < 300; step += 1) {
    const event = conversations[dice.below(3)].change(dice);
    if (event && !dice.chance(0.15)) flight.push(event);
    if (event && dice.chance(0.1)) flight.push(event);
    if (dice.chance(0.1)) {
      log.missed({ conversation_id: "a", from_sequence_number: 1, to_sequence_number: conversations[0].visible.at(-1), reason: "" });
    }
    while (flight.length > 0 && dice.chance(0.7)) {
      deliver(log.accept(flight.splice(dice.chance(0.2) ? dice.below(flight.length) : 0, 1)[0]));
    }
    const cut = dice.chance(0.03) || (dice.chance(0.3) && !log.complete && !exchange(log.wanted(), false, false));
    if (cut) {
      flight = [];
      exchange(log.cursors(), true, false);
    }
  }
  exchange(log.cursors(), true, true);
  for (let round = 0; !log.complete; round += 1) {
    assert.ok(round < 2_000, "the gaps are healed");
    exchange(log.wanted(), false, true);
  }
  return { conversations, shown };
}

test("seeded losses, repeats, reorderings and cuts: nothing lost that the server still shows, nothing twice, all in order", () => {
  eachSeed(500, (seed) => {
    const { conversations, shown } = simulate(seed);
    for (const { id, visible, member, joined } of conversations) {
      const seen = shown.get(id);
      for (let index = 1; index < seen.length; index += 1) {
        assert.ok(seen[index] > seen[index - 1], `${id}: ${seen[index]} after ${seen[index - 1]}`);
      }
      assert.ok(seen.every((sequence) => visible.includes(sequence)), `${id}: only what is visible`);
      if (!member) continue;
      const since = visible.filter((sequence) => sequence >= joined);
      assert.deepEqual(seen.filter((sequence) => sequence >= joined), since, id);
    }
  });
});
