/**
 * RealChat's client: keeps one connection, delivers every event once and in order, and gets every
 * message through, whatever the network does.
 *
 *   your code --send--> Outbox --> Connection <--> gateway
 *   your code <--event-- Log <------'  |
 *                Session (tokens) -----'
 */
import { Acks } from "./acks.js";
import { Api } from "./api.js";
import { backoffMs } from "./backoff.js";
import { Connection, ProtocolError } from "./connection.js";
import { Log } from "./core.js";
import { Emitter } from "./emitter.js";
import {
  ACK_DELAY_MS, EVENT_WAIT_MS, HEAL_FIRST_MS, HEAL_MAX_MS, MESSAGE_TEXT_BYTES_MAX,
  PRESENCE_USERS_MAX, RENEWAL_PAUSE_MS, RENEWAL_SPREAD_MS, RESEND_FIRST_MS, RESEND_MAX_MS,
  TIMER_MAX_MS, TYPING_REPEAT_MS,
} from "./limits.js";
import { Outbox } from "./outbox.js";
import { OutboxStore, randomId } from "./storage.js";

export { Api, ApiError } from "./api.js";
export { ConnectionLost, ProtocolError } from "./connection.js";
export { MESSAGE_TEXT_BYTES_MAX } from "./limits.js";
export { Accounts, Session } from "./session.js";
export { randomId } from "./storage.js";

const CLIENT = "realchat-js/0.1.0";
const CONNECT_PATH = "/v1/connect";

/** @typedef {import("./types.js").Event} Event */
/** @typedef {import("./types.js").ServerFrame} ServerFrame */
/** @typedef {import("./types.js").Status} Status */
/** @typedef {import("./outbox.js").OutboxItem} OutboxItem */

/**
 * `event`: what happened, each once, a conversation's in order. `status`: how far the connection
 * is. `outbox`: the messages on their way in this conversation changed. `sent`: a message is
 * durable. `reset`: the conversation is no longer this user's. `rewound`: the server was set back and
 * has the conversation's last events no more. `signed_out`: sign in again.
 *
 * @typedef {{ event: Event, status: Status, outbox: string,
 *   sent: { item: OutboxItem, sent: import("./types.js").Sent }, reset: string,
 *   rewound: string, signed_out: import("./api.js").ApiError }} ClientEvents
 *
 * @extends {Emitter<ClientEvents>}
 */
export class RealChat extends Emitter {
  #session;
  #connection;
  #log;
  #outbox = new Outbox();
  #store;
  #acks = new Acks();
  #watermark = "";
  /** The server's last watermark: it tells the truth once all that lies before it has come. */
  #watermarkNext = "";
  #deviceId = "";
  #resumed = false;
  #healing = false;
  #healAttempt = 0;
  /** @type {string[]} */
  #watched = [];
  /** @type {Map<string, number>} */
  #typingToldAt = new Map();
  /** @type {Map<string, ReturnType<typeof setTimeout>>} */
  #timers = new Map();
  /** @type {Status} */
  status = { state: "stopped", retryAt: 0, attempt: 0, reason: "" };

  /**
   * @param {object} options
   * @param {string} options.base the server's address, e.g. `https://chat.example.org`
   * @param {import("./session.js").Session} options.session
   * @param {Storage | null} [options.storage] where unsent messages survive a reload
   * @param {typeof WebSocket} [options.WebSocket]
   */
  constructor(options) {
    super();
    const { base, session, storage = globalThis.localStorage ?? null } = options;
    this.#session = session;
    this.userId = session.userId;
    this.#log = new Log(session.userId);
    this.#store = new OutboxStore(storage, session.userId);
    this.#outbox.restore(this.#store.load());
    this.api = new Api({ base, token: (options) => session.token(options) });
    this.#connection = new Connection({
      url: base.replace(/^http/, "ws").replace(/\/$/, "") + CONNECT_PATH,
      token: (options) => session.token(options),
      hello: () => ({
        token: "", resume: true, cursors: this.#log.cursors(), watermark: this.#watermark,
        client: CLIENT,
      }),
      WebSocket: options.WebSocket,
    });
    this.#connection.on("open", (welcome) => this.#opened(welcome));
    this.#connection.on("frame", (frame) => this.#receive(frame));
    this.#connection.on("phase", (phase) => this.#phase(phase));
    this.#connection.on("signed_out", (error) => this.emit("signed_out", error));
  }

  start() {
    this.#connection.start();
  }

  stop() {
    this.#connection.stop();
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#timers.clear();
  }

  /** Connects now instead of waiting for the next attempt. */
  wake() {
    this.#connection.wake();
  }

  /**
   * The application has the conversation's events up to here, from the HTTP API: what comes later
   * is delivered. Conversations that are not tracked are delivered from where the user joined.
   *
   * @param {string} conversationId
   * @param {number} sequenceNumber
   */
  track(conversationId, sequenceNumber) {
    this.#deliver(this.#log.track(conversationId, sequenceNumber));
  }

  /**
   * Sends a message, now or when the connection is back, also after a reload.
   *
   * @param {string} conversationId
   * @param {string} text 1 to MESSAGE_TEXT_BYTES_MAX bytes of UTF-8
   * @returns {string} the message's idempotency key
   * @throws {RangeError} when the text is empty or too long, or too many messages wait
   */
  send(conversationId, text) {
    const bytes = new TextEncoder().encode(text).length;
    if (bytes === 0 || bytes > MESSAGE_TEXT_BYTES_MAX) {
      throw new RangeError(`A message has 1 to ${MESSAGE_TEXT_BYTES_MAX} bytes; this has ${bytes}.`);
    }
    const item = this.#outbox.add({ key: randomId(), conversationId, text, nowMs: Date.now() });
    this.#store.put(item);
    this.#typingToldAt.delete(conversationId);
    this.emit("outbox", conversationId);
    this.#flush();
    return item.key;
  }

  /**
   * The conversation's messages on their way, in order.
   * @param {string} conversationId
   * @returns {OutboxItem[]}
   */
  pending(conversationId) {
    return this.#outbox.visible(conversationId);
  }

  /**
   * Sends a message that failed again.
   * @param {string} key
   */
  retry(key) {
    this.#outbox.retry(key, Date.now());
    const item = this.#outbox.get(key);
    if (!item) return;
    this.#store.put(item);
    this.emit("outbox", item.conversationId);
    this.#flush();
  }

  /**
   * Throws a message away that failed or was not sent yet.
   * @param {string} key
   */
  discard(key) {
    const item = this.#outbox.discard(key);
    if (!item) return;
    this.#store.remove(key);
    this.emit("outbox", item.conversationId);
  }

  /**
   * This device has, or its user has read, everything up to here. Messages that are delivered as
   * events are acknowledged as delivered without being asked.
   *
   * @param {string} conversationId
   * @param {{ delivered?: number, read?: number }} upTo sequence numbers
   */
  acknowledge(conversationId, upTo) {
    if (this.#acks.reach(conversationId, upTo)) {
      this.#after("acks", ACK_DELAY_MS, () => this.#acknowledge());
    }
  }

  /**
   * Tells the others that the user types, or stopped; may be called at every key.
   * @param {string} conversationId
   * @param {boolean} active
   */
  typing(conversationId, active) {
    const told = this.#typingToldAt.get(conversationId) ?? 0;
    if (active ? Date.now() - told < TYPING_REPEAT_MS : told === 0) return;
    if (active) this.#typingToldAt.set(conversationId, Date.now());
    else this.#typingToldAt.delete(conversationId);
    this.#connection.post("typing", { conversation_id: conversationId, active });
  }

  /**
   * Replaces the users whose presence is told; at most PRESENCE_USERS_MAX are.
   * @param {string[]} userIds
   */
  watchPresence(userIds) {
    this.#watched = [...new Set(userIds)].sort().slice(0, PRESENCE_USERS_MAX);
    this.#after("presence", 0, () => this.#watch());
  }

  /** @param {import("./types.js").Welcome} welcome */
  #opened(welcome) {
    this.#watermarkNext = welcome.watermark;
    this.#deviceId = welcome.device_id;
    this.#resumed = false;
    this.#healing = false;
    this.#healAttempt = 0;
    this.#typingToldAt.clear();
    this.#watch();
    this.#acknowledge();
    this.#flush();
    this.#scheduleRenewal();
  }

  /** @param {import("./connection.js").Phase} phase */
  #phase({ phase, retryAt, attempt, reason }) {
    if (phase !== "open") {
      this.#cancel("heal");
      this.#outbox.disconnected();
      this.#acks.disconnected();
      for (const conversationId of this.#outbox.conversations()) this.emit("outbox", conversationId);
    }
    this.#setStatus({ state: phase === "open" ? "syncing" : phase, retryAt, attempt, reason });
  }

  /** @param {Status} status */
  #setStatus(status) {
    if (status.state === this.status.state && status.retryAt === this.status.retryAt) return;
    this.status = status;
    this.emit("status", status);
  }

  /** @param {ServerFrame} frame */
  #receive(frame) {
    if (frame.event) {
      if (frame.event.sequence_number === 0) this.emit("event", frame.event);
      else this.#deliver(this.#log.accept(frame.event));
    } else if (frame.sync_page) {
      for (const event of frame.sync_page.events) this.#deliver(this.#log.accept(event));
    } else if (frame.watermark) {
      this.#watermarkNext = frame.watermark.watermark;
    } else if (frame.gap) {
      this.#log.missed(frame.gap);
    } else if (frame.synced) {
      const { delivered, reset, rewound } = this.#log.conclude(frame.synced.verdicts);
      this.#deliver(delivered);
      for (const conversationId of reset) {
        this.#acks.forget(conversationId);
        this.#outbox.settle(conversationId, Infinity);
        this.emit("reset", conversationId);
      }
      for (const conversationId of rewound) this.emit("rewound", conversationId);
      if (frame.request_id === this.#connection.helloId) this.#resumed = true;
    } else if (frame.error && frame.request_id === this.#connection.helloId) {
      this.#connection.reconnect(frame.error.message, frame.error.retry_after_ms || undefined);
    }
    this.#heal();
  }

  /** @param {Event[]} events in order */
  #deliver(events) {
    for (const event of events) {
      const { conversation_id: id, sequence_number: sequence, message } = event;
      if (message && event.sender_id === this.userId) this.#outbox.echoed(id, message.text, sequence);
      this.#outbox.settle(id, sequence);
      this.emit("event", event);
      if (message && event.sender_id !== this.userId) this.acknowledge(id, { delivered: sequence });
    }
  }

  /** Asks for what is missing, one request at a time; with nothing missing the client is live. */
  #heal() {
    if (!this.#connection.isOpen || !this.#resumed || this.#healing) return;
    const cursors = this.#log.wanted();
    const { retryAt, attempt, reason } = this.#connection.phase;
    const state = cursors.length === 0 ? "live" : "syncing";
    this.#setStatus({ state, retryAt, attempt, reason });
    if (cursors.length === 0) {
      this.#healAttempt = 0;
      this.#watermark = this.#watermarkNext || this.#watermark;
      return;
    }
    this.#healing = true;
    const before = JSON.stringify(cursors);
    const again = () => {
      const stuck = JSON.stringify(this.#log.wanted()) === before;
      this.#healAttempt = stuck ? this.#healAttempt + 1 : 0;
      const wait = stuck ? backoffMs(this.#healAttempt, HEAL_FIRST_MS, HEAL_MAX_MS) : 0;
      this.#after("heal", wait, () => {
        this.#healing = false;
        this.#heal();
      });
    };
    this.#connection.request("sync", { cursors, limit: 0 }).then(again, (error) => {
      // A lost connection resumes by itself.
      if (error instanceof ProtocolError) again();
    });
  }

  #flush() {
    if (!this.#connection.isOpen) return;
    for (const item of this.#outbox.take(Date.now())) {
      const { conversationId, key, text } = item;
      const body = { conversation_id: conversationId, idempotency_key: key, text };
      this.#connection.request("send", body).then(
        (frame) => frame.sent && this.#sent(key, frame.sent),
        (error) => error instanceof ProtocolError && this.#refused(key, error),
      );
    }
    const next = this.#outbox.nextAtMs();
    const wait = next === null ? 0 : next - Date.now();
    if (wait > 0) this.#after("flush", wait, () => this.#flush());
  }

  /**
   * @param {string} key
   * @param {import("./types.js").Sent} sent
   */
  #sent(key, sent) {
    this.#store.remove(key);
    const { conversation_id: id, sequence_number: sequence } = sent;
    const item = this.#outbox.sent(key, sequence);
    this.#outbox.settle(id, this.#log.cursor(id) ?? 0);
    if (item) this.emit("sent", { item, sent });
    this.emit("outbox", id);
    this.#flush();
    if ((this.#log.cursor(id) ?? 0) >= sequence) return;
    // The event is on its way; should it not come, it is missing.
    this.#after(`event ${id} ${sequence}`, EVENT_WAIT_MS, () => {
      this.#log.missed({
        conversation_id: id, from_sequence_number: sequence, to_sequence_number: sequence,
        reason: "its event did not come",
      });
      this.#heal();
    });
  }

  /**
   * @param {string} key
   * @param {ProtocolError} error
   */
  #refused(key, error) {
    const item = this.#outbox.get(key);
    if (!item) return;
    const wait = error.retryAfterMs || backoffMs(item.attempts, RESEND_FIRST_MS, RESEND_MAX_MS);
    this.#outbox.refused(key, error, error.retryable ? Date.now() + wait : null);
    this.emit("outbox", item.conversationId);
    this.#flush();
  }

  #acknowledge() {
    if (!this.#connection.isOpen) return;
    for (const { conversationId, delivered, read } of this.#acks.take()) {
      const body = {
        conversation_id: conversationId,
        delivered_sequence_number: delivered, read_sequence_number: read,
      };
      const answered = () => {
        this.#acks.answered(conversationId, { delivered, read });
        this.#after("acks", ACK_DELAY_MS, () => this.#acknowledge());
      };
      this.#connection.request("ack", body).then(answered, (error) => {
        if (!(error instanceof ProtocolError)) return;
        if (!error.retryable) return answered();
        this.#acks.disconnected();
        this.#after("acks", RESEND_FIRST_MS, () => this.#acknowledge());
      });
    }
  }

  #watch() {
    this.#connection.post("presence_subscribe", { user_ids: this.#watched });
  }

  /** The connection is told a fresh token before the old one ends. */
  #scheduleRenewal() {
    const due = Math.max(0, this.#session.renewAtMs() - Date.now());
    // Tabs and devices that started together do not all ask in the same moment.
    const spread = Math.random() * Math.min(RENEWAL_SPREAD_MS, due / 10);
    const wait = Math.max(RENEWAL_PAUSE_MS, due + spread);
    this.#after("renewal", Math.min(wait, TIMER_MAX_MS), () => void this.#renew());
  }

  async #renew() {
    if (!this.#connection.isOpen) return;
    try {
      const token = await this.#session.token({ rejected: null });
      if (token !== this.#connection.token && this.#connection.isOpen) {
        const sameDevice = this.#session.current()?.device_id === this.#deviceId;
        if (!sameDevice) return this.#connection.reconnect("another session took over", 0);
        await this.#connection.request("token_refresh", { token });
        this.#connection.token = token;
      }
    } catch (error) {
      // Refused: a new connection brings the new token. Lost or unreachable: tried again.
      if (error instanceof ProtocolError) return this.#connection.reconnect(error.message, 0);
    }
    this.#scheduleRenewal();
  }

  /** @param {string} name */
  #cancel(name) {
    clearTimeout(this.#timers.get(name));
    this.#timers.delete(name);
  }

  /**
   * Does something later, once, however often it is asked for under this name.
   * @param {string} name
   * @param {number} delayMs
   * @param {() => void} work
   */
  #after(name, delayMs, work) {
    if (this.#timers.has(name)) return;
    this.#timers.set(name, setTimeout(() => {
      this.#timers.delete(name);
      work();
    }, delayMs));
  }
}
