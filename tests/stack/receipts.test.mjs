// What one device has read is told to the sender and to the reader's own other devices, through every gateway.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Session, call, conversation, person, urls } from "./support.mjs";

const socket = (token, at) => Session.open({ token, url: urls[at % urls.length] });
const receipts = (session, id) => session.frames.map((frame) => frame.event).filter((it) => it?.receipt && it.conversation_id === id);

test("a receipt reaches the sender and the reader's other device once, and never goes back", async () => {
  const [ann, ben] = await Promise.all([person("ann"), person("ben")]);
  const signedIn = await call("POST", "/v1/auth/login", { body: { name: ann.name, password: `password of ${ann.name}` } });
  assert.equal(signedIn.status, 200, signedIn.text);
  const laptop = signedIn.json;
  assert.notEqual(laptop.device_id, ann.device_id);
  const id = await conversation(ben, ann);
  const sessions = await Promise.all([socket(ann.access_token, 0), socket(laptop.access_token, 1), socket(ben.access_token, 1)]);
  const [phone, other, sender] = sessions;
  const { sent } = await sender.ask({ send: { conversation_id: id, idempotency_key: randomUUID(), text: "read me" } });
  await Promise.all([phone, other].map((it) => it.next((frame) => frame.event?.message?.message_id === sent.message_id)));
  const ack = (delivered, read) =>
    phone.ask({ ack: { conversation_id: id, delivered_sequence_number: delivered, read_sequence_number: read } });
  assert.ok((await ack(sent.sequence_number, sent.sequence_number)).accepted);
  const isRead = (frame) => frame.event?.receipt?.read_sequence_number === sent.sequence_number && frame.event.conversation_id === id;
  for (const session of [other, sender]) {
    const { event } = await session.next(isRead);
    assert.equal(event.receipt.user_id, ann.user_id);
    assert.equal(event.receipt.device_id, ann.device_id);
  }
  // What was said before is accepted, and changes and tells nothing.
  assert.ok((await ack(1, 1)).accepted);
  assert.ok((await ack(sent.sequence_number, sent.sequence_number)).accepted);
  const told = [other, sender].map((it) => receipts(it, id).length);
  await sleep(1_000);
  assert.deepEqual([other, sender].map((it) => receipts(it, id).length), told);
  assert.ok(receipts(sender, id).every((it) => it.receipt.read_sequence_number <= sent.sequence_number));
  const seen = await call("GET", `/v1/conversations/${id}`, { token: laptop.access_token });
  assert.equal(seen.json.unread_count, 0, "the other device has nothing left to read");
  sessions.forEach((it) => it.close());
});
