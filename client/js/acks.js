/**
 * How far this device has come in each conversation, and what of it the server knows: pure.
 * Both cursors only move forward; what had no answer when the connection was lost is due again.
 */

/**
 * @typedef {object} Progress
 * @property {number} delivered
 * @property {number} read
 * @property {number} toldDelivered
 * @property {number} toldRead
 * @property {boolean} pending on its way, without an answer yet
 */

export class Acks {
  /** @type {Map<string, Progress>} */
  #progress = new Map();

  /**
   * @param {string} conversationId
   * @param {{ delivered?: number, read?: number }} upTo sequence numbers
   * @returns {boolean} whether the server has to be told
   */
  reach(conversationId, { delivered = 0, read = 0 }) {
    const at = this.#progress.get(conversationId) ?? {
      delivered: 0, read: 0, toldDelivered: 0, toldRead: 0, pending: false,
    };
    this.#progress.set(conversationId, at);
    at.read = Math.max(at.read, read);
    at.delivered = Math.max(at.delivered, delivered, read);
    return isDue(at);
  }

  /**
   * The server knows this much already.
   * @param {string} conversationId
   * @param {{ delivered: number, read: number }} upTo
   */
  told(conversationId, { delivered, read }) {
    this.reach(conversationId, { delivered, read });
    const at = this.#progress.get(conversationId);
    if (!at) return;
    at.toldRead = Math.max(at.toldRead, read);
    at.toldDelivered = Math.max(at.toldDelivered, delivered, read);
  }

  /**
   * What to tell the server now; it counts as on its way from here on.
   * @returns {{ conversationId: string, delivered: number, read: number }[]}
   */
  take() {
    const taken = [];
    for (const [conversationId, at] of this.#progress) {
      if (at.pending || !isDue(at)) continue;
      at.pending = true;
      taken.push({ conversationId, delivered: at.delivered, read: at.read });
    }
    return taken;
  }

  /**
   * The server answered: it knows what was sent, or will never take it.
   * @param {string} conversationId
   * @param {{ delivered: number, read: number }} sent
   */
  answered(conversationId, sent) {
    this.told(conversationId, sent);
    const at = this.#progress.get(conversationId);
    if (at) at.pending = false;
  }

  disconnected() {
    for (const at of this.#progress.values()) at.pending = false;
  }

  /** @param {string} conversationId */
  forget(conversationId) {
    this.#progress.delete(conversationId);
  }
}

/** @param {Progress} at */
function isDue(at) {
  return at.delivered > at.toldDelivered || at.read > at.toldRead;
}
