// Bad input gets a named error that says what is allowed, the connection stays up where the protocol
// allows it, and nobody else notices.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, before, test } from "node:test";
import { Session, anotherKey, base, call, closeCode, conversation, exchange, forge, person, upgrade, within } from "./support.mjs";

let ann, ben, eve, common, annSession, benSession;

before(async () => {
  [ann, ben, eve] = await Promise.all([person("ann"), person("ben"), person("eve")]);
  common = await conversation(ann, ben);
  [annSession, benSession] = await Promise.all([ann, ben].map((one) => Session.open({ token: one.access_token })));
});
after(() => [annSession, benSession].forEach((session) => session?.close()));

/** After whatever was done, a message still goes from Ann to Ben on the sessions that were open all along. */
async function neighboursAreFine() {
  const text = `still here ${randomUUID()}`;
  const sent = await annSession.ask({ send: { conversation_id: common, idempotency_key: randomUUID(), text } });
  assert.ok(sent.sent, JSON.stringify(sent));
  await benSession.next((frame) => frame.event?.message?.text === text);
}

const send = (fields) => ({ send: { conversation_id: common, idempotency_key: randomUUID(), text: "hi", ...fields } });

async function refused(request, code, says) {
  const answer = await annSession.ask(request);
  assert.equal(answer.error?.code, code, JSON.stringify(answer));
  assert.match(answer.error.message, says);
  assert.equal(answer.error.retryable, false);
}

test("a send that is wrong is told why on a connection that stays up", async () => {
  await refused(send({ conversation_id: randomUUID() }), "not_a_member", /member/);
  await refused(send({ idempotency_key: "" }), "idempotency_key_missing", /key/);
  await refused(send({ idempotency_key: "k".repeat(129) }), "invalid_argument", /128/);
  await refused(send({ text: "x".repeat(16 * 1024 + 1) }), "message_too_long", /16384/);
  await refused(send({ text: "" }), "invalid_argument", /text/);
  await refused(send({ text: "a\u0000b" }), "invalid_argument", /NUL|zero|U\+0000/i);
  await refused(send({ conversation_id: "not an id" }), "malformed_frame", /UUID/);
  const longest = await annSession.ask(send({ text: "x".repeat(16 * 1024), idempotency_key: "k".repeat(128) }));
  assert.ok(longest.sent, "text and key at their limits are taken");
  await neighboursAreFine();
});

test("a frame that is no frame is told so on a connection that stays up", async () => {
  for (const [frame, code] of [
    ["this is no JSON", "malformed_frame"],
    ["[1,2]", "malformed_frame"],
    ["{}", "unknown_frame"],
    ['{"request_id":1,"dance":{}}', "unknown_frame"],
    ['{"request_id":1,"send":{"text":[]}}', "malformed_frame"],
    ['{"request_id":1,"hello":{}}', "unexpected_frame"],
  ]) {
    const count = annSession.frames.length;
    annSession.send(frame);
    const answer = await annSession.next((it) => it.error && annSession.frames.indexOf(it) >= count);
    assert.equal(answer.error.code, code, frame);
    assert.ok(answer.error.message.length > 10, frame);
  }
  await neighboursAreFine();
});

test("the same key gives the first answer again, and with another text an error", async () => {
  const key = randomUUID();
  const first = await annSession.ask(send({ idempotency_key: key, text: "one" }));
  const again = await annSession.ask(send({ idempotency_key: key, text: "one" }));
  assert.equal(again.sent.message_id, first.sent.message_id);
  assert.equal(again.sent.sequence_number, first.sent.sequence_number);
  assert.equal(again.sent.repeated, true);
  await refused(send({ idempotency_key: key, text: "two" }), "idempotency_key_conflict", /key/);
  await neighboursAreFine();
});

test("somebody else's conversation is closed in every way", async () => {
  const session = await Session.open({ token: eve.access_token });
  const sent = await session.ask(send({}));
  assert.equal(sent.error?.code, "not_a_member");
  const acked = await session.ask({ ack: { conversation_id: common, read_sequence_number: 1 } });
  assert.equal(acked.error?.code, "not_a_member");
  session.send({ request_id: 77, sync: { cursors: [{ conversation_id: common, sequence_number: 0 }] } });
  const synced = await session.next((frame) => frame.request_id === 77 && (frame.synced || frame.error));
  assert.ok(synced.synced?.verdicts.every((verdict) => verdict.reset) ?? synced.error.code === "not_a_member", JSON.stringify(synced));
  assert.ok(!session.frames.some((frame) => frame.sync_page), "no page of a foreign conversation");
  for (const [method, path, body] of [
    ["GET", `/v1/conversations/${common}`],
    ["GET", `/v1/conversations/${common}/events`],
    ["GET", `/v1/conversations/${common}/members`],
    ["GET", `/v1/conversations/${common}/receipts`],
    ["PATCH", `/v1/conversations/${common}`, { title: "mine" }],
    ["POST", `/v1/conversations/${common}/members`, { names: [eve.name] }],
    ["POST", `/v1/conversations/${common}/messages`, { text: "x", idempotency_key: "k" }],
    ["DELETE", `/v1/conversations/${common}/members/${ben.user_id}`],
  ]) {
    const answer = await call(method, path, { token: eve.access_token, body });
    assert.equal(answer.status, 403, `${method} ${path}: ${answer.text}`);
    assert.equal(answer.json.code, "not_a_member");
  }
  session.close();
  await neighboursAreFine();
});

test("a token that is missing, expired, forged or confused is refused by WebSocket and by HTTP", async () => {
  const good = { user: ann.user_id, device: ann.device_id };
  const past = Math.floor(Date.now() / 1000) - 3600;
  const bad = {
    empty: ["", "token_missing"],
    "no token": ["abc", "token_invalid"],
    expired: [forge({ ...good, claims: { exp: past, iat: past - 900 } }), "token_expired"],
    "of another key": [forge({ ...good, key: anotherKey() }), "token_invalid"],
    "without an algorithm": [forge({ ...good, header: { alg: "none" }, signature: "" }), "token_invalid"],
    "of another algorithm": [forge({ ...good, header: { alg: "HS256" } }), "token_invalid"],
    "of an unknown key id": [forge({ ...good, header: { kid: "../../etc/passwd" } }), "token_invalid"],
    "of another issuer": [forge({ ...good, claims: { iss: "somebody" } }), "token_invalid"],
    "for another audience": [forge({ ...good, claims: { aud: "somebody" } }), "token_invalid"],
    "of another type": [forge({ ...good, header: { typ: "JWT" } }), "token_invalid"],
  };
  for (const [what, [token, code]] of Object.entries(bad)) {
    const session = await Session.open({ greet: false });
    session.send({ request_id: 1, hello: { token } });
    const answer = await session.next((frame) => frame.error || frame.welcome);
    assert.equal(answer.error?.code, code, `${what}: ${JSON.stringify(answer)}`);
    const { code: close } = await within(session.closed, () => `the close after a token ${what}`);
    assert.equal(close, code === "token_expired" ? 4002 : 4001, what);
    const http = await call("GET", "/v1/me", { token: token || undefined });
    assert.equal(http.status, 401, what);
    assert.equal(http.json.code, code, what);
  }
  const session = await Session.open({ token: forge(good) });
  assert.equal(session.welcome.user_id, ann.user_id, "a token that is right is taken");
  session.close();
  await neighboursAreFine();
});

test("HTTP answers 4xx with one shape of error", async () => {
  const token = ann.access_token;
  for (const [method, path, options, status, code] of [
    ["GET", "/v1/nothing", { token }, 404, "not_found"],
    ["GET", "/nothing", {}, 404, "not_found"],
    ["DELETE", "/v1/me", { token }, 405, "method_not_allowed"],
    ["POST", "/", {}, 405, "method_not_allowed"],
    ["POST", "/v1/conversations", { token, raw: "{" }, 400, "malformed_frame"],
    ["POST", "/v1/conversations", { token, raw: "[]" }, 400, "invalid_argument"],
    ["POST", "/v1/conversations", { token, body: { title: 7 } }, 400, "invalid_argument"],
    ["POST", "/v1/conversations", { token, body: { title: "x".repeat(257), members: [] } }, 400, "invalid_argument"],
    ["POST", "/v1/conversations", { token, body: { title: "x", members: ["nobody-of-that-name"] } }, 404, "not_found"],
    ["POST", "/v1/auth/register", { body: { name: "A!", password: "long enough" } }, 400, "invalid_argument"],
    ["POST", "/v1/auth/register", { body: { name: ann.name, password: "long enough" } }, 409, "name_taken"],
    ["POST", "/v1/auth/login", { body: { name: ann.name, password: "wrong password" } }, 401, "wrong_credentials"],
    ["GET", "/v1/conversations/xyz", { token }, 400, "invalid_argument"],
    ["GET", `/v1/conversations/${common}/events?limit=many`, { token }, 400, "invalid_argument"],
  ]) {
    const answer = await call(method, path, options);
    assert.equal(answer.status, status, `${method} ${path}: ${answer.text}`);
    assert.match(answer.headers.get("content-type"), /^application\/problem\+json/, path);
    assert.equal(answer.json.code, code, `${method} ${path}: ${answer.text}`);
    assert.equal(answer.json.status, status);
    assert.ok(answer.json.title && answer.json.detail, answer.text);
    if (status === 405) assert.ok(answer.headers.get("allow"), "405 names what is allowed");
  }
  await neighboursAreFine();
});

test("HTTP that is out of bounds is refused", async () => {
  const first = async (bytes) => String(await exchange(bytes)).split("\r\n")[0];
  assert.match(await first(`GET / HTTP/1.1\r\nHost: x\r\nx: ${"y".repeat(9000)}\r\n\r\n`), / 431 /);
  const many = Array.from({ length: 70 }, (_, index) => `h${index}: v\r\n`).join("");
  assert.match(await first(`GET / HTTP/1.1\r\nHost: x\r\n${many}\r\n`), / 431 /);
  assert.match(await first("NONSENSE\r\n\r\n"), / 400 /);
  assert.match(await first(`POST /v1/conversations HTTP/1.1\r\nHost: x\r\ncontent-length: ${1 << 30}\r\n\r\n`), / 413 /);
  assert.match(await first(upgrade().replace("Version: 13", "Version: 12")), / 4(00|26) /);
  assert.match(await first(upgrade()), / 101 /);
  await neighboursAreFine();
});

test("WebSocket violations close with the code of RFC 6455", async () => {
  const after = async (bytes) => closeCode(await exchange(Buffer.concat([Buffer.from(upgrade()), Buffer.from(bytes)]), { silence: 5_000 }));
  const masked = (first, payload) => [first, 0x80 | payload.length, 0, 0, 0, 0, ...payload];
  assert.equal(await after([0x81, 0x01, 0x61]), 1002, "unmasked");
  assert.equal(await after(masked(0xf1, [0x61])), 1002, "reserved bits");
  assert.equal(await after(masked(0x83, [0x61])), 1002, "reserved opcode");
  assert.equal(await after(masked(0x09, [])), 1002, "fragmented control frame");
  assert.equal(await after([0x89, 0xfe, 0x00, 0x80, 0, 0, 0, 0]), 1002, "long control frame");
  assert.equal(await after(masked(0x80, [0x61])), 1002, "continuation of nothing");
  assert.equal(await after(masked(0x81, [0xff, 0xfe])), 1007, "bad UTF-8");
  assert.equal(await after([0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]), 1009, "length of 2^63 - 1");
  assert.equal(await after(masked(0x88, [0x03])), 1002, "close with half a code");
  await neighboursAreFine();
});

test("binary and JSON devices of one conversation see the same events", async () => {
  const session = await Session.open({ token: ben.access_token, hello: { resume: true, cursors: [] } });
  await session.next((frame) => frame.synced);
  const sent = await annSession.ask(send({ text: "for everybody" }));
  const event = await session.next((frame) => frame.event?.sequence_number === sent.sent.sequence_number);
  assert.equal(event.event.message.message_id, sent.sent.message_id);
  assert.equal(event.event.sender_id, ann.user_id);
  session.close();
});

test("the page and the API are served on one port", async () => {
  const page = await call("GET", "/");
  assert.equal(page.status, 200);
  assert.match(page.headers.get("content-type"), /^text\/html/);
  assert.equal((await call("GET", "/healthz")).status, 200);
  assert.ok(base.startsWith("http"));
});
