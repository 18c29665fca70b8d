// The limits that docs/protocol.md names can be used up to the last one.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { before, test } from "node:test";
import { Session, conversation, person } from "./support.mjs";

const CURSORS_MAX = 1024;
let ann, ben, common;

before(async () => {
  [ann, ben] = await Promise.all([person("ann"), person("ben")]);
  common = await conversation(ann, ben);
});

/** So many cursors: the conversation that there is, and others that are none of the user's, at the largest number. */
function cursors(count) {
  const strange = () => ({ conversation_id: randomUUID(), sequence_number: Number.MAX_SAFE_INTEGER });
  return [{ conversation_id: common, sequence_number: 0 }, ...Array.from({ length: count - 1 }, strange)];
}

function assertVerdicts({ synced }) {
  assert.equal(synced.verdicts.length, CURSORS_MAX);
  const own = synced.verdicts.filter((it) => !it.reset);
  assert.deepEqual(own.map((it) => it.conversation_id), [common]);
}

test("a hello and a sync in JSON take 1,024 cursors, and no more", async () => {
  const hello = { resume: true, cursors: cursors(CURSORS_MAX) };
  assert.ok(JSON.stringify(hello).length > 90_000);
  const session = await Session.open({ token: ann.access_token, hello });
  assertVerdicts(await session.next((frame) => frame.synced));
  session.send({ request_id: 7, sync: { cursors: cursors(CURSORS_MAX) } });
  assertVerdicts(await session.next((frame) => frame.synced && frame.request_id === 7));
  const refused = await session.ask({ sync: { cursors: cursors(CURSORS_MAX + 1) } });
  assert.equal(refused.error?.code, "invalid_argument");
  assert.match(refused.error.message, /1024/);
  const sent = await session.ask({ send: { conversation_id: common, idempotency_key: "k", text: "still up" } });
  assert.ok(sent.sent, JSON.stringify(sent));
  session.close();
});
