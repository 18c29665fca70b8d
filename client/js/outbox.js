/**
 * Messages on their way: pure, without clock, sockets or storage.
 *
 *   queued --send--> sending --durable--> sent --its event was delivered--> gone
 *                       |-- connection lost, or an error that passes --> queued (same key)
 *                       `-- an error that stays --> failed --retry--> queued
 *
 * Invariant: a conversation's messages are sent one after the other, in the order of writing, and
 * each keeps its idempotency key, so that sending again never makes a second message.
 */
import { OUTBOX_MAX } from "./limits.js";

/**
 * @typedef {object} OutboxItem
 * @property {string} key the idempotency key
 * @property {string} conversationId
 * @property {string} text
 * @property {number} order messages of a conversation are sent by rising order
 * @property {number} createdAtMs when it was written, by this device's clock
 * @property {"queued" | "sending" | "sent" | "failed"} state
 * @property {number} attempts how often it was refused with an error that passes
 * @property {number} notBeforeMs not to be sent again earlier
 * @property {number} echo the event that seems to be this message, before its answer; 0: none
 * @property {number} sequenceNumber of the durable message; 0 before
 * @property {{ code: string, message: string } | null} error why it failed
 */

export class Outbox {
  /** @type {Map<string, OutboxItem>} */
  #items = new Map();
  #lastOrder = 0;

  get size() {
    return this.#items.size;
  }

  /** @param {string} key */
  get(key) {
    return this.#items.get(key);
  }

  /**
   * @param {{ key: string, conversationId: string, text: string, nowMs: number }} message
   * @returns {OutboxItem}
   * @throws {RangeError} when OUTBOX_MAX messages wait already
   */
  add({ key, conversationId, text, nowMs }) {
    if (this.#items.size >= OUTBOX_MAX) {
      throw new RangeError(`${OUTBOX_MAX} messages wait to be sent already`);
    }
    this.#lastOrder = Math.max(this.#lastOrder + 1, nowMs);
    const item = fresh(key, conversationId, text, this.#lastOrder, nowMs);
    this.#items.set(key, item);
    return item;
  }

  /**
   * Takes over what was stored earlier; what is here already is left as it is.
   * @param {{ key: string, conversationId: string, text: string, order: number,
   *   createdAtMs: number }[]} stored
   */
  restore(stored) {
    for (const { key, conversationId, text, order, createdAtMs } of stored) {
      if (this.#items.has(key) || this.#items.size >= OUTBOX_MAX) continue;
      this.#lastOrder = Math.max(this.#lastOrder, order);
      this.#items.set(key, fresh(key, conversationId, text, order, createdAtMs));
    }
  }

  /**
   * A conversation's messages on their way, in order; those whose event was seen are left out.
   * @param {string} conversationId
   * @returns {OutboxItem[]}
   */
  visible(conversationId) {
    return this.#ordered(conversationId).filter((item) => item.echo === 0);
  }

  /** @returns {string[]} the conversations that have messages on their way */
  conversations() {
    return [...new Set([...this.#items.values()].map((item) => item.conversationId))];
  }

  /**
   * What to send now: the first message of each conversation, unless one is on its way already.
   * They are `sending` from here on.
   * @param {number} nowMs
   * @returns {OutboxItem[]}
   */
  take(nowMs) {
    const taken = [];
    for (const item of this.#firsts()) {
      if (item.state !== "queued" || item.notBeforeMs > nowMs) continue;
      item.state = "sending";
      taken.push(item);
    }
    return taken;
  }

  /**
   * @returns {number | null} when `take` may have something that it has not now, in milliseconds
   */
  nextAtMs() {
    const waits = this.#firsts().filter((it) => it.state === "queued").map((it) => it.notBeforeMs);
    return waits.length === 0 ? null : Math.min(...waits);
  }

  /**
   * The message is durable; it stays here until `settle` is told that its event was delivered.
   * @param {string} key
   * @param {number} sequenceNumber
   * @returns {OutboxItem | undefined}
   */
  sent(key, sequenceNumber) {
    const item = this.#items.get(key);
    if (item) Object.assign(item, { state: "sent", sequenceNumber, echo: 0 });
    return item;
  }

  /**
   * The conversation's events were delivered up to here.
   * @param {string} conversationId
   * @param {number} sequenceNumber
   */
  settle(conversationId, sequenceNumber) {
    for (const item of this.#items.values()) {
      const settled = item.state === "sent" && item.sequenceNumber <= sequenceNumber;
      if (settled && item.conversationId === conversationId) this.#items.delete(item.key);
    }
  }

  /**
   * The server refused it: until `retryAtMs`, or for good (null).
   * @param {string} key
   * @param {{ code: string, message: string }} error
   * @param {number | null} retryAtMs
   */
  refused(key, error, retryAtMs) {
    const item = this.#items.get(key);
    if (!item) return;
    item.attempts += 1;
    item.echo = 0;
    item.state = retryAtMs === null ? "failed" : "queued";
    item.notBeforeMs = retryAtMs ?? 0;
    item.error = retryAtMs === null ? error : null;
  }

  /** The connection is gone: what had no answer is sent again, with the same key. */
  disconnected() {
    for (const item of this.#items.values()) {
      if (item.state === "sending") item.state = "queued";
      item.notBeforeMs = 0;
    }
  }

  /**
   * Sends a failed message again, behind what waits already.
   * @param {string} key
   * @param {number} nowMs
   */
  retry(key, nowMs) {
    const item = this.#items.get(key);
    if (item?.state !== "failed") return;
    this.#lastOrder = Math.max(this.#lastOrder + 1, nowMs);
    Object.assign(item, { state: "queued", error: null, notBeforeMs: 0, order: this.#lastOrder });
  }

  /**
   * @param {string} key
   * @returns {OutboxItem | undefined} what was thrown away; nothing when it is on its way
   */
  discard(key) {
    const item = this.#items.get(key);
    if (!item || item.state === "sending" || item.state === "sent") return undefined;
    this.#items.delete(key);
    return item;
  }

  /**
   * The user's own message came as an event. When it looks like the one that waits for its answer
   * it is shown no longer as waiting; the answer decides.
   * @param {string} conversationId
   * @param {string} text
   * @param {number} sequenceNumber
   */
  echoed(conversationId, text, sequenceNumber) {
    const first = this.#ordered(conversationId).find(isWaiting);
    if (first?.state === "sending" && first.text === text) first.echo = sequenceNumber;
  }

  /** @param {string} conversationId */
  #ordered(conversationId) {
    return [...this.#items.values()]
      .filter((item) => item.conversationId === conversationId)
      .sort((a, b) => a.order - b.order);
  }

  /** The first message of each conversation that is not durable and has not failed. */
  #firsts() {
    /** @type {Map<string, OutboxItem>} */
    const firsts = new Map();
    for (const item of this.#items.values()) {
      if (!isWaiting(item)) continue;
      const first = firsts.get(item.conversationId);
      if (!first || item.order < first.order) firsts.set(item.conversationId, item);
    }
    return [...firsts.values()];
  }
}

/**
 * @param {string} key
 * @param {string} conversationId
 * @param {string} text
 * @param {number} order
 * @param {number} createdAtMs
 * @returns {OutboxItem}
 */
function fresh(key, conversationId, text, order, createdAtMs) {
  return {
    key, conversationId, text, order, createdAtMs,
    state: "queued", attempts: 0, notBeforeMs: 0, echo: 0, sequenceNumber: 0, error: null,
  };
}

/** @param {OutboxItem} item */
function isWaiting(item) {
  return item.state === "queued" || item.state === "sending";
}
