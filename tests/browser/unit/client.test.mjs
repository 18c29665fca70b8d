import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { RealChat } from "../../../client/js/realchat.js";
import { FakeServer, foreverSession, MemoryStorage, settle } from "./fakes.mjs";
import { random, seeds } from "./random.mjs";

const ME = "me";

/** A client of a fake server, on a clock that only `pass` moves. */
async function connect(t, { network, storage = new MemoryStorage(), server = new FakeServer(ME, network) } = {}) {
  if (server.conversations.size === 0) server.add("a");
  const chat = new RealChat({
    base: "http://server.test", session: foreverSession(ME), storage, WebSocket: server.WebSocket,
  });
  const shown = [];
  chat.on("event", (event) => shown.push(event));
  chat.start();
  t.after(() => chat.stop());
  await settle();
  const texts = () => shown.filter((it) => it.message).map((it) => it.message.text);
  return { chat, server, shown, texts, storage };
}

async function pass(milliseconds) {
  mock.timers.tick(milliseconds);
  await settle();
}

test.beforeEach(() => mock.timers.enable({ apis: ["setTimeout", "setInterval", "Date"], now: 1_000_000 }));
test.afterEach(() => mock.timers.reset());

test("it says hello with the token beside, resumes, and is live", async (t) => {
  const { chat, server, shown } = await connect(t);
  const [socket] = server.sockets;
  assert.equal(socket.url, "ws://server.test/v1/connect");
  assert.deepEqual(socket.protocols, ["realchat.v1+json", "bearer.token"]);
  assert.equal(server.hellos[0].resume, true);
  assert.equal(server.hellos[0].token, "");
  assert.equal(chat.status.state, "live");
  assert.deepEqual(shown.map((it) => it.sequence_number), [1]);
});

test("a message is sent once, shown once, and settled", async (t) => {
  const { chat, server, texts } = await connect(t);
  chat.send("a", "hello");
  assert.equal(chat.pending("a").length, 1);
  await settle();
  assert.deepEqual(texts(), ["hello"]);
  assert.deepEqual(chat.pending("a"), []);
  assert.equal(server.conversations.get("a").keys.size, 1);
});

test("an answer that is lost does not make a second message", async (t) => {
  let breaks = true;
  const network = (direction, frame) => (breaks && direction === "up" && String(frame).includes('"send"') ? "break" : "pass");
  const { chat, server, texts } = await connect(t, { network });
  chat.send("a", "once");
  await settle();
  assert.equal(chat.status.state, "waiting");
  breaks = false;
  await pass(1_000);
  assert.equal(chat.status.state, "live");
  assert.deepEqual(texts(), ["once"]);
  assert.deepEqual(chat.pending("a"), []);
  assert.equal(server.conversations.get("a").keys.size, 1);
});

test("messages written without a connection survive a reload", async (t) => {
  const storage = new MemoryStorage();
  const server = new FakeServer(ME);
  const before = await connect(t, { server, storage });
  server.reachable = false;
  for (const socket of [...server.sockets]) socket.drop(1006);
  await settle();
  before.chat.send("a", "first");
  before.chat.send("a", "second");
  before.chat.stop();
  server.reachable = true;
  const after = await connect(t, { server, storage });
  await settle();
  assert.deepEqual(after.texts(), ["first", "second"]);
  assert.equal(storage.length, 0, "nothing is kept of what is durable");
});

test("a push that was lost is asked for when the next one shows it", async (t) => {
  const { chat, server, texts } = await connect(t);
  const message = (text) => ({ message: { message_id: text, message_number: 1, text } });
  server.append("a", "other", message("lost"), false);
  server.append("a", "other", message("seen"));
  assert.equal(chat.status.state, "syncing");
  await settle();
  await pass(10);
  assert.deepEqual(texts(), ["lost", "seen"]);
  assert.equal(chat.status.state, "live");
});

test("a durable message whose push was lost is asked for", async (t) => {
  const network = (direction, frame) => (direction === "down" && frame.event ? "skip" : "pass");
  const { chat, texts } = await connect(t, { network });
  chat.send("a", "mine");
  await settle();
  assert.deepEqual([texts(), chat.pending("a").map((it) => it.state)], [[], ["sent"]]);
  await pass(2_500);
  assert.deepEqual(texts(), ["mine"]);
  assert.deepEqual(chat.pending("a"), []);
});

test("it comes back when the server said, not before", async (t) => {
  const { chat, server } = await connect(t);
  server.broadcast({ request_id: 0, goaway: { reason: "draining", reconnect_delay_ms: 3_000 } });
  for (const socket of [...server.sockets]) socket.drop(1012);
  await settle();
  await pass(2_900);
  assert.equal(server.hellos.length, 1);
  await pass(200);
  assert.equal(server.hellos.length, 2);
  assert.equal(chat.status.state, "live");
  assert.deepEqual(server.hellos[1].cursors, [{ conversation_id: "a", sequence_number: 1 }]);
  assert.equal(server.hellos[1].watermark, "0a");
});

test("the watermark that came last is brought back, once nothing before it is missing", async (t) => {
  const { chat, server } = await connect(t);
  const away = async () => {
    for (const socket of [...server.sockets]) socket.drop(1006);
    await settle();
    await pass(5_000);
    return server.hellos.at(-1).watermark;
  };
  server.broadcast({ request_id: 0, watermark: { watermark: "0b" } });
  await settle();
  assert.equal(chat.status.state, "live");
  assert.equal(await away(), "0b");
  assert.equal(chat.status.state, "live");
  // Not answered: what lies in the gap is missing when the next watermark comes.
  server.receive = () => undefined;
  server.broadcast({ request_id: 0, gap: {
    conversation_id: "a", from_sequence_number: 2, to_sequence_number: 9, reason: "backpressure",
  } });
  server.broadcast({ request_id: 0, watermark: { watermark: "0c" } });
  await settle();
  assert.notEqual(chat.status.state, "live");
  delete server.receive;
  assert.equal(await away(), "0a", "the last welcome's");
});

test("a connection that went silent is noticed and replaced", async (t) => {
  const { chat, server } = await connect(t);
  server.receive = () => undefined;
  for (let second = 0; second < 60; second += 1) await pass(1_000);
  assert.notEqual(chat.status.state, "live");
});

test("messages are acknowledged as delivered, and read when told", async (t) => {
  const { chat, server } = await connect(t);
  server.append("a", "other", { message: { message_id: "x", message_number: 1, text: "x" } });
  await pass(200);
  assert.deepEqual(server.acks, [{ conversation_id: "a", delivered_sequence_number: 2, read_sequence_number: 0 }]);
  chat.acknowledge("a", { read: 2 });
  await pass(500);
  assert.equal(server.acks.at(-1).read_sequence_number, 2);
});

test("texts that no server takes are refused before they are kept", async (t) => {
  const { chat, storage } = await connect(t);
  assert.throws(() => chat.send("a", ""), RangeError);
  assert.throws(() => chat.send("a", "€".repeat(6_000)), RangeError);
  assert.equal(storage.length, 0);
});

test("seeded storms: every message becomes durable once, in order, and is shown once, in order", async (t) => {
  for (const seed of seeds(25)) {
    const dice = random(seed);
    let calm = false;
    const network = () => (calm || dice.chance(0.96) ? "pass" : dice.chance(0.5) ? "lose" : "break");
    const server = new FakeServer(ME, network);
    for (const id of ["a", "b"]) server.add(id);
    const { chat, shown } = await connect(t, { server });
    const written = { a: [], b: [] };
    for (let step = 0; step < 60; step += 1) {
      const id = dice.chance(0.5) ? "a" : "b";
      if (dice.chance(0.5)) {
        const text = `${seed}-${step}`;
        written[id].push(text);
        chat.send(id, text);
      } else {
        const message = { message_id: `o${step}`, message_number: 1, text: `other ${step}` };
        server.append(id, "other", { message }, dice.chance(0.9));
      }
      if (dice.chance(0.05)) for (const socket of [...server.sockets]) socket.drop(1006);
      await pass(dice.below(400));
    }
    calm = true;
    for (let wait = 0; wait < 40 && (chat.status.state !== "live" || chat.pending("a").length + chat.pending("b").length > 0); wait += 1) {
      await pass(2_000);
    }
    for (const id of ["a", "b"]) {
      const { events } = server.conversations.get(id);
      const mine = events.filter((it) => it.sender_id === ME).map((it) => it.message.text);
      const seen = shown.filter((it) => it.conversation_id === id).map((it) => it.sequence_number);
      const note = `REALCHAT_TEST_SEED=${seed}`;
      assert.deepEqual(mine, written[id], note);
      // A push that was lost at the very end is only missed when something follows it.
      assert.deepEqual(seen, events.slice(0, seen.length).map((it) => it.sequence_number), note);
      assert.ok(seen.length >= Math.max(...events.filter((it) => it.sender_id === ME).map((it) => it.sequence_number), 0), note);
      assert.deepEqual(chat.pending(id), [], note);
    }
    chat.stop();
  }
});
