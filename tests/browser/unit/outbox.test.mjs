import assert from "node:assert/strict";
import { test } from "node:test";
import { Acks } from "../../../client/js/acks.js";
import { backoffMs } from "../../../client/js/backoff.js";
import { OUTBOX_MAX } from "../../../client/js/limits.js";
import { Outbox } from "../../../client/js/outbox.js";

const keys = (items) => items.map((item) => item.key);
const outboxOf = (...messages) => {
  const outbox = new Outbox();
  for (const [key, conversationId] of messages) {
    outbox.add({ key, conversationId, text: key, nowMs: 1_000 });
  }
  return outbox;
};

test("a conversation's messages go one after the other, conversations beside each other", () => {
  const outbox = outboxOf(["a1", "a"], ["a2", "a"], ["b1", "b"]);
  assert.deepEqual(keys(outbox.take(1_000)), ["a1", "b1"]);
  assert.deepEqual(keys(outbox.take(1_000)), []);
  outbox.sent("a1", 5);
  assert.deepEqual(keys(outbox.take(1_000)), ["a2"]);
});

test("a durable message is shown until its event was delivered", () => {
  const outbox = outboxOf(["a1", "a"]);
  outbox.take(1_000);
  outbox.sent("a1", 5);
  assert.deepEqual(keys(outbox.visible("a")), ["a1"]);
  outbox.settle("a", 4);
  outbox.settle("b", 9);
  assert.deepEqual(keys(outbox.visible("a")), ["a1"]);
  outbox.settle("a", 5);
  assert.equal(outbox.size, 0);
});

test("a lost connection sends again with the same key", () => {
  const outbox = outboxOf(["a1", "a"], ["a2", "a"]);
  outbox.take(1_000);
  outbox.disconnected();
  assert.deepEqual(keys(outbox.take(1_000)), ["a1"]);
});

test("an error that passes is waited out in order, one that stays lets the next pass", () => {
  const outbox = outboxOf(["a1", "a"], ["a2", "a"]);
  outbox.take(1_000);
  outbox.refused("a1", { code: "overloaded", message: "" }, 3_000);
  assert.deepEqual(outbox.take(2_999), []);
  assert.equal(outbox.nextAtMs(), 3_000);
  assert.deepEqual(keys(outbox.take(3_000)), ["a1"]);
  outbox.refused("a1", { code: "forbidden", message: "no" }, null);
  assert.deepEqual(keys(outbox.take(3_000)), ["a2"]);
  assert.equal(outbox.get("a1").error.message, "no");
  outbox.retry("a1", 4_000);
  outbox.sent("a2", 1);
  assert.deepEqual(keys(outbox.take(4_000)), ["a1"]);
});

test("what is on its way cannot be thrown away, what waits or failed can", () => {
  const outbox = outboxOf(["a1", "a"], ["a2", "a"]);
  outbox.take(1_000);
  assert.equal(outbox.discard("a1"), undefined);
  assert.equal(outbox.discard("a2").key, "a2");
});

test("the event of the message that waits for its answer hides it", () => {
  const outbox = outboxOf(["a1", "a"], ["a2", "a"]);
  outbox.take(1_000);
  outbox.echoed("a", "a2", 7);
  assert.deepEqual(keys(outbox.visible("a")), ["a1", "a2"], "only the one on its way");
  outbox.echoed("a", "a1", 8);
  assert.deepEqual(keys(outbox.visible("a")), ["a2"]);
});

test("stored messages come back in their order, before new ones", () => {
  const before = outboxOf(["a1", "a"], ["a2", "a"]);
  const outbox = new Outbox();
  outbox.restore([before.get("a2"), before.get("a1")]);
  outbox.add({ key: "a3", conversationId: "a", text: "", nowMs: 0 });
  assert.deepEqual(keys(outbox.visible("a")), ["a1", "a2", "a3"]);
});

test("the outbox has an end", () => {
  const outbox = new Outbox();
  const add = (index) => outbox.add({ key: `${index}`, conversationId: "a", text: "", nowMs: 0 });
  for (let index = 0; index < OUTBOX_MAX; index += 1) add(index);
  assert.throws(() => add("more"), RangeError);
});

test("acknowledgements only move forward and are repeated until answered", () => {
  const acks = new Acks();
  assert.ok(acks.reach("a", { delivered: 3 }));
  assert.deepEqual(acks.take(), [{ conversationId: "a", delivered: 3, read: 0 }]);
  acks.reach("a", { read: 5 });
  assert.deepEqual(acks.take(), [], "one at a time");
  acks.disconnected();
  assert.deepEqual(acks.take(), [{ conversationId: "a", delivered: 5, read: 5 }]);
  acks.answered("a", { delivered: 5, read: 5 });
  assert.ok(!acks.reach("a", { delivered: 4, read: 5 }));
  assert.deepEqual(acks.take(), []);
});

test("waits double up to their limit and are spread", () => {
  assert.equal(backoffMs(0, 100, 1_000, () => 1), 100);
  assert.equal(backoffMs(2, 100, 1_000, () => 1), 400);
  assert.equal(backoffMs(2, 100, 1_000, () => 0), 200);
  assert.equal(backoffMs(500, 100, 1_000, () => 1), 1_000);
});
