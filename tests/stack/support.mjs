// Helpers for the stack tests: the HTTP API, a WebSocket session of another maker's library, raw sockets.
// The stack is the one whose DIR/env is in the environment (REALCHAT_URL, REALCHAT_SIGNING_KEY, ...).
import { createPrivateKey, createPublicKey, createHash, generateKeyPairSync, randomUUID, sign } from "node:crypto";
import { readFileSync } from "node:fs";
import net from "node:net";
import WebSocket from "ws";

export const PATIENCE_MS = 15_000;
export const base = process.env.REALCHAT_URL ?? fail("REALCHAT_URL is not set: start a stack, then source DIR/env");
export const urls = (process.env.REALCHAT_URLS ?? base).split(" ");
export const socketUrl = (url = base) => `${url.replace(/^http/, "ws")}/v1/connect`;

function fail(message) {
  throw new Error(message);
}

/** One call of the JSON API. */
export async function call(method, path, { token, body, raw, headers = {} } = {}) {
  const answer = await fetch(base + path, {
    method,
    headers: {
      ...(token ? { authorization: `Bearer ${token}` } : {}),
      ...(body !== undefined || raw !== undefined ? { "content-type": "application/json" } : {}),
      ...headers,
    },
    body: raw ?? (body === undefined ? undefined : JSON.stringify(body)),
    signal: AbortSignal.timeout(PATIENCE_MS),
  });
  const text = await answer.text();
  let json = null;
  try {
    json = text === "" ? null : JSON.parse(text);
  } catch {
    // Not JSON: the caller looks at the text.
  }
  return { status: answer.status, headers: answer.headers, text, json };
}

/** Registers somebody new. */
export async function person(prefix = "t") {
  const name = `${prefix}${randomUUID().slice(0, 8)}`;
  const answer = await call("POST", "/v1/auth/register", { body: { name, password: `password of ${name}` } });
  if (answer.status !== 201) fail(`register answered ${answer.status}: ${answer.text}`);
  return { ...answer.json, name };
}

/** A conversation of these people; the first one creates it. */
export async function conversation(creator, ...others) {
  const answer = await call("POST", "/v1/conversations", {
    token: creator.access_token,
    body: { title: "Test", members: others.map((other) => other.name) },
  });
  if (answer.status !== 201) fail(`create answered ${answer.status}: ${answer.text}`);
  return answer.json.conversation_id;
}

/** A JSON session whose frames can be awaited. */
export class Session {
  static async open({ token, url, hello = {}, greet = true } = {}) {
    const session = new Session(new WebSocket(socketUrl(url), ["realchat.v1+json"]));
    await session.opened;
    if (greet) {
      session.send({ request_id: 1, hello: { token, ...hello } });
      session.welcome = (await session.next((frame) => frame.welcome)).welcome;
    }
    return session;
  }

  constructor(socket) {
    this.socket = socket;
    this.frames = [];
    this.waiting = [];
    this.opened = new Promise((resolve, reject) => {
      socket.on("open", resolve);
      socket.on("error", reject);
    });
    this.closed = new Promise((resolve) => socket.on("close", (code, reason) => resolve({ code, reason: String(reason) })));
    socket.on("message", (data, binary) => this.take(binary ? data : JSON.parse(String(data))));
  }

  take(frame) {
    this.frames.push(frame);
    this.waiting = this.waiting.filter(({ wanted, resolve }) => {
      if (!wanted(frame)) return true;
      resolve(frame);
      return false;
    });
  }

  send(frame) {
    this.socket.send(typeof frame === "string" ? frame : JSON.stringify(frame));
  }

  /** The first frame that `wanted` accepts, also of those that came before. */
  next(wanted) {
    const known = this.frames.find(wanted);
    if (known) return Promise.resolve(known);
    return within(new Promise((resolve) => this.waiting.push({ wanted, resolve })), () =>
      `the awaited frame; seen: ${JSON.stringify(this.frames).slice(0, 2000)}`);
  }

  /** Sends a request and gives its answer. */
  async ask(request) {
    this.requestId = (this.requestId ?? 100) + 1;
    const request_id = this.requestId;
    this.send({ request_id, ...request });
    return this.next((frame) => frame.request_id === request_id);
  }

  close() {
    this.socket.terminate();
  }
}

export function within(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited ${PATIENCE_MS} ms for ${what()}`)), PATIENCE_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Sends bytes and gives everything that comes back until the server closes or falls silent. */
export function exchange(bytes, { silence = 1_500, url = base } = {}) {
  const { hostname, port } = new URL(url);
  return new Promise((resolve, reject) => {
    const chunks = [];
    const socket = net.connect(Number(port), hostname, () => socket.write(bytes));
    socket.setTimeout(silence, () => socket.destroy());
    socket.on("data", (chunk) => chunks.push(chunk));
    socket.on("close", () => resolve(Buffer.concat(chunks)));
    socket.on("error", (error) => (error.code === "ECONNRESET" || error.code === "EPIPE" ? resolve(Buffer.concat(chunks)) : reject(error)));
  });
}

export const upgrade = (extra = "") =>
  `GET /v1/connect HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n${extra}\r\n`;

/** The close code in what a server sent after its 101, or null. */
export function closeCode(bytes) {
  let at = bytes.indexOf("\r\n\r\n") + 4;
  while (at + 2 <= bytes.length) {
    const opcode = bytes[at] & 0x0f;
    let length = bytes[at + 1] & 0x7f;
    let start = at + 2;
    if (length === 126) {
      length = bytes.readUInt16BE(start);
      start += 2;
    }
    if (opcode === 8) return length >= 2 ? bytes.readUInt16BE(start) : 1005;
    at = start + length;
  }
  return null;
}

const base64url = (value) => Buffer.from(typeof value === "string" ? value : JSON.stringify(value)).toString("base64url");

/** A token as the tests want it: right in everything that is not overridden. */
export function forge({ user = randomUUID(), device = randomUUID(), header = {}, claims = {}, key, signature } = {}) {
  const own = createPrivateKey(readFileSync(process.env.REALCHAT_SIGNING_KEY ?? fail("REALCHAT_SIGNING_KEY is not set")));
  const spki = createPublicKey(own).export({ type: "spki", format: "der" });
  const kid = createHash("sha256").update(spki.subarray(-32)).digest("hex").slice(0, 16);
  const now = Math.floor(Date.now() / 1000);
  const head = base64url({ alg: "EdDSA", typ: "at+jwt", kid, ...header });
  const payload = base64url({
    iss: "realchat", aud: "realchat", sub: user, did: device, iat: now, exp: now + 600, jti: randomUUID(), ...claims,
  });
  const signed = `${head}.${payload}`;
  return `${signed}.${signature ?? sign(null, Buffer.from(signed), key ?? own).toString("base64url")}`;
}

export const anotherKey = () => generateKeyPairSync("ed25519").privateKey;
