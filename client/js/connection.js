/**
 * One WebSocket at a time: connects, says hello, answers requests, notices a dead connection and
 * comes back with a jittered, growing wait or when the server asked for it.
 *
 *   stopped --start--> connecting --welcome--> open --lost--> waiting --wait over--> connecting
 */
import { ApiError } from "./api.js";
import { backoffMs } from "./backoff.js";
import { Emitter } from "./emitter.js";
import {
  CONNECT_TIMEOUT_MS, OFFLINE_PROBE_TIMEOUT_MS, PROBE_TIMEOUT_MS, RECONNECT_FIRST_MS,
  RECONNECT_MAX_MS, REQUEST_TIMEOUT_MS, SILENCE_MS, STABLE_MS,
} from "./limits.js";

/** @typedef {import("./types.js").ServerFrame} ServerFrame */
/** @typedef {import("./types.js").Hello} Hello */

const SUBPROTOCOL = "realchat.v1+json";
/** Close codes after which the token was the trouble. */
const TOKEN_CLOSE_CODES = [4001, 4002];
/** Close codes after which the same again would end the same way. */
const HOPELESS_CLOSE_CODES = [1002, 1003, 1007, 1009];
/** How often silence and a slept clock are looked for, in milliseconds. */
const WATCH_MS = 5_000;

/** The connection was lost before the answer came: what was asked may or may not have been done. */
export class ConnectionLost extends Error {
  constructor() {
    super("The connection was lost before the answer came.");
    this.name = "ConnectionLost";
  }
}

/** The server's answer to a request was an error frame. */
export class ProtocolError extends Error {
  /** @param {import("./types.js").ErrorFrame} frame */
  constructor(frame) {
    super(frame.message);
    this.name = "ProtocolError";
    this.code = frame.code;
    this.retryable = frame.retryable;
    this.retryAfterMs = frame.retry_after_ms;
  }
}

/**
 * @typedef {object} Waiting
 * @property {(frame: ServerFrame) => void} resolve
 * @property {(error: Error) => void} reject
 * @property {ReturnType<typeof setTimeout>} timer
 *
 * @typedef {{ phase: "stopped" | "connecting" | "open" | "waiting", retryAt: number,
 *   attempt: number, reason: string }} Phase
 *
 * @extends {Emitter<{ open: import("./types.js").Welcome, frame: ServerFrame, lost: string,
 *   phase: Phase, signed_out: ApiError }>}
 */
export class Connection extends Emitter {
  #options;
  /** @type {WebSocket | null} */
  #socket = null;
  /** @type {Map<number, Waiting>} */
  #waiting = new Map();
  /** @type {Set<() => void>} */
  #undo = new Set();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  #nextRequestId = 1;
  #openedAt = 0;
  #heardAt = 0;
  #watchedAt = 0;
  /** When the server wants this client back, after a goaway; 0: it did not say. */
  #returnAt = 0;
  /** @type {string | null} */
  #rejected = null;
  /** The token that this connection was opened with or was given since. */
  token = "";
  helloId = 0;
  /** @type {Phase} */
  phase = { phase: "stopped", retryAt: 0, attempt: 0, reason: "" };

  /**
   * @param {object} options
   * @param {string} options.url of the WebSocket, e.g. `wss://chat.example.org/v1/connect`
   * @param {import("./api.js").TokenSource} options.token
   * @param {() => Hello} options.hello called at every connection
   * @param {typeof WebSocket} [options.WebSocket]
   * @param {() => number} [options.random]
   */
  constructor(options) {
    super();
    this.#options = options;
  }

  get isOpen() {
    return this.phase.phase === "open";
  }

  start() {
    if (this.phase.phase !== "stopped") return;
    this.#watchedAt = Date.now();
    const watch = setInterval(() => this.#watch(), WATCH_MS);
    this.#undo.add(() => clearInterval(watch));
    this.#listen("online", () => this.wake());
    this.#listen("offline", () => void this.#probe(OFFLINE_PROBE_TIMEOUT_MS));
    this.#listen("visibilitychange", () => {
      if (document.visibilityState === "visible") this.wake();
    });
    void this.#connect();
  }

  stop() {
    for (const undo of this.#undo) undo();
    this.#undo.clear();
    clearTimeout(this.#timer);
    this.#setPhase("stopped", "");
    this.#closeSocket();
    this.#failWaiting();
  }

  /** Connects now instead of waiting; a connection that seems open is tried out. */
  wake() {
    if (this.phase.phase === "waiting") void this.#connect();
    else if (this.isOpen) void this.#probe(PROBE_TIMEOUT_MS);
  }

  /**
   * Gives this connection up for a new one.
   * @param {string} reason
   * @param {number} [delayMs] without it, the next backoff
   */
  reconnect(reason, delayMs) {
    this.#lose(reason, delayMs);
  }

  /**
   * @param {string} name of the frame
   * @param {object} body
   * @param {number} [timeoutMs]
   * @returns {Promise<ServerFrame>} the frame that ends the answer
   * @throws {ProtocolError | ConnectionLost}
   */
  request(name, body, timeoutMs = REQUEST_TIMEOUT_MS) {
    if (!this.isOpen) return Promise.reject(new ConnectionLost());
    const id = this.#nextRequestId++;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => this.#lose("no answer"), timeoutMs);
      this.#waiting.set(id, { resolve, reject, timer });
      this.#write({ request_id: id, [name]: body });
    });
  }

  /**
   * Says something that wants no answer; says nothing when there is no connection.
   * @param {string} name
   * @param {object} body
   */
  post(name, body) {
    if (this.isOpen) this.#write({ request_id: 0, [name]: body });
  }

  async #connect() {
    clearTimeout(this.#timer);
    this.#closeSocket();
    this.#setPhase("connecting", this.phase.reason);
    const attempt = this.phase;
    let token;
    try {
      token = await this.#options.token({ rejected: this.#rejected });
    } catch (error) {
      if (this.phase !== attempt) return;
      if (error instanceof ApiError && error.code === "signed_out") {
        this.stop();
        this.emit("signed_out", error);
        return;
      }
      this.#lose("the server cannot be reached");
      return;
    }
    if (this.phase !== attempt) return;
    this.token = token;
    this.#rejected = null;
    this.#open(token);
  }

  /** @param {string} token */
  #open(token) {
    const Socket = this.#options.WebSocket ?? WebSocket;
    const socket = new Socket(this.#options.url, [SUBPROTOCOL, `bearer.${token}`]);
    this.#socket = socket;
    this.#nextRequestId = 1;
    this.#returnAt = 0;
    this.#timer = setTimeout(() => this.#lose("no answer"), CONNECT_TIMEOUT_MS);
    socket.onopen = () => {
      this.helloId = this.#nextRequestId++;
      this.#write({ request_id: this.helloId, hello: this.#options.hello() });
    };
    socket.onmessage = ({ data }) => {
      this.#heardAt = Date.now();
      const frame = parse(data);
      if (frame) this.#receive(frame);
    };
    socket.onclose = ({ code, reason }) => {
      if (TOKEN_CLOSE_CODES.includes(code)) this.#rejected = this.token;
      const attempt = HOPELESS_CLOSE_CODES.includes(code) ? 10 : undefined;
      this.#lose(reason || "the server cannot be reached", undefined, attempt);
    };
  }

  /** @param {ServerFrame} frame */
  #receive(frame) {
    if (frame.welcome) {
      clearTimeout(this.#timer);
      this.#openedAt = Date.now();
      this.#setPhase("open", "");
      this.emit("open", frame.welcome);
      return;
    }
    if (frame.goaway) this.#goaway(frame.goaway.reconnect_delay_ms);
    const refusal = frame.error?.code ?? "";
    if (!this.isOpen && refusal.startsWith("token_")) this.#rejected = this.token;
    const ends = frame.sent ?? frame.synced ?? frame.accepted ?? frame.token_accepted ?? frame.error;
    const waiting = ends ? this.#waiting.get(frame.request_id) : undefined;
    // Listeners first: an answer's promise must see what its pages changed.
    this.emit("frame", frame);
    if (!waiting) return;
    this.#waiting.delete(frame.request_id);
    clearTimeout(waiting.timer);
    if (frame.error) waiting.reject(new ProtocolError(frame.error));
    else waiting.resolve(frame);
  }

  /**
   * The server will close; if it does not in time, this side does.
   * @param {number} delayMs
   */
  #goaway(delayMs) {
    this.#returnAt = Date.now() + delayMs;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#lose("the server is restarting"), delayMs);
  }

  /**
   * @param {string} reason
   * @param {number} [delayMs] the wait; without it, what the server asked for or the next backoff
   * @param {number} [attempt] as if it had failed so often
   */
  #lose(reason, delayMs, attempt) {
    if (this.phase.phase === "stopped" || this.phase.phase === "waiting") return;
    const wasOpen = this.isOpen;
    const stable = wasOpen && Date.now() - this.#openedAt >= STABLE_MS;
    const failed = attempt ?? (stable ? 0 : this.phase.attempt);
    const asked = this.#returnAt > 0 ? Math.max(0, this.#returnAt - Date.now()) : undefined;
    const wait = delayMs ?? asked
      ?? backoffMs(failed, RECONNECT_FIRST_MS, RECONNECT_MAX_MS, this.#options.random);
    clearTimeout(this.#timer);
    this.#closeSocket();
    this.#setPhase("waiting", reason, Date.now() + wait, failed + 1);
    this.#timer = setTimeout(() => void this.#connect(), wait);
    this.#failWaiting();
    if (wasOpen) this.emit("lost", reason);
  }

  /** @param {number} timeoutMs */
  async #probe(timeoutMs) {
    if (!this.isOpen) return;
    // Answered by the gateway alone; the answer's content does not matter.
    await this.request("token_refresh", { token: this.token }, timeoutMs).catch(() => undefined);
  }

  #watch() {
    const now = Date.now();
    const slept = now - this.#watchedAt > WATCH_MS * 4;
    this.#watchedAt = now;
    if (slept) this.wake();
    else if (this.isOpen && now - this.#heardAt > SILENCE_MS) void this.#probe(PROBE_TIMEOUT_MS);
  }

  /** @param {object} frame */
  #write(frame) {
    if (this.#socket?.readyState === 1) this.#socket.send(JSON.stringify(frame));
  }

  #closeSocket() {
    const socket = this.#socket;
    this.#socket = null;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
  }

  #failWaiting() {
    const waiting = [...this.#waiting.values()];
    this.#waiting.clear();
    for (const { reject, timer } of waiting) {
      clearTimeout(timer);
      reject(new ConnectionLost());
    }
  }

  /**
   * @param {Phase["phase"]} phase
   * @param {string} reason
   * @param {number} [retryAt]
   * @param {number} [attempt]
   */
  #setPhase(phase, reason, retryAt = 0, attempt = this.phase.attempt) {
    this.phase = { phase, reason, retryAt, attempt };
    this.emit("phase", this.phase);
  }

  /**
   * @param {"online" | "offline" | "visibilitychange"} name
   * @param {() => void} listener
   */
  #listen(name, listener) {
    const target = name === "visibilitychange" ? globalThis.document : globalThis;
    if (!target?.addEventListener) return;
    target.addEventListener(name, listener);
    this.#undo.add(() => target.removeEventListener(name, listener));
  }
}

/**
 * @param {unknown} data
 * @returns {ServerFrame | null} null for what is no frame; unknown frames are left to be ignored
 */
function parse(data) {
  if (typeof data !== "string") return null;
  try {
    const frame = JSON.parse(data);
    return typeof frame === "object" && frame !== null ? frame : null;
  } catch {
    return null;
  }
}
