// Who leaves while presenced and Redis are both dead, and forget who was there, is still seen to have left.
// Kills them: not beside other tests.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Session, conversation, person } from "./support.mjs";

// A heartbeat period until presenced has heard of everybody, a census until a gateway asks, and the time over
// which watchers are told; twice that on a busy machine.
const TOLD_MS_MAX = 120_000;

const kill = (daemon) => process.kill(Number(readFileSync(join(process.env.REALCHAT_DIR, "pids", `${daemon}.pid`), "utf8")), "SIGKILL");
const changed = (session, user, from = 0) =>
  session.frames.slice(from).map((frame) => frame.event?.presence_changed).filter((it) => it?.user_id === user.user_id);

async function online(session, user) {
  for (let tries = 0; tries < 300; tries += 1) {
    if (changed(session, user).at(-1)?.online) return;
    await sleep(50);
  }
  assert.fail(`${user.name} is not seen online: ${JSON.stringify(session.frames).slice(0, 2000)}`);
}

test("who leaves while presenced and Redis are dead is told offline, and nobody else is", async () => {
  const [ann, ben, eve] = await Promise.all([person("ann"), person("ben"), person("eve")]);
  await conversation(ann, ben, eve);
  const [watcher, leaves, stays] = await Promise.all([ann, ben, eve].map((one) => Session.open({ token: one.access_token })));
  watcher.send({ request_id: 7, presence_subscribe: { user_ids: [ben.user_id, eve.user_id] } });
  await Promise.all([online(watcher, ben), online(watcher, eve)]);
  const seen = watcher.frames.length;
  kill("presenced");
  kill("redis");
  leaves.close();
  const until = Date.now() + TOLD_MS_MAX;
  while (!changed(watcher, ben, seen).some((it) => !it.online)) {
    assert.ok(Date.now() < until, `not told; seen: ${JSON.stringify(watcher.frames.slice(seen)).slice(0, 2000)}`);
    await sleep(100);
  }
  assert.ok(changed(watcher, eve, seen).every((it) => it.online), "who stays is online all the time");
  assert.ok(watcher.frames.every((frame) => !frame.error), "nothing went wrong that the client must know of");
  watcher.close();
  stays.close();
});
