/** Where unsent messages survive a reload, and how keys are made. */

/** @typedef {import("./outbox.js").OutboxItem} OutboxItem */

/** One account's unsent messages in a Storage, an entry each, so that tabs do not overwrite. */
export class OutboxStore {
  #storage;
  #prefix;

  /**
   * @param {Storage | null} storage null: nothing is kept
   * @param {string} userId
   */
  constructor(storage, userId) {
    this.#storage = storage;
    this.#prefix = `realchat.outbox.${userId}.`;
  }

  /** @returns {OutboxItem[]} */
  load() {
    const items = [];
    for (let index = 0; index < (this.#storage?.length ?? 0); index += 1) {
      const key = this.#storage?.key(index);
      if (!key?.startsWith(this.#prefix)) continue;
      try {
        const item = JSON.parse(this.#storage?.getItem(key) ?? "null");
        if (typeof item?.key === "string" && typeof item.text === "string") items.push(item);
      } catch {
        this.#storage?.removeItem(key);
      }
    }
    return items.sort((a, b) => a.order - b.order);
  }

  /**
   * A full or forbidden storage costs the survival of a reload, not the message.
   * @param {OutboxItem} item
   */
  put({ key, conversationId, text, order, createdAtMs }) {
    try {
      const kept = JSON.stringify({ key, conversationId, text, order, createdAtMs });
      this.#storage?.setItem(this.#prefix + key, kept);
    } catch {
      return;
    }
  }

  /** @param {string} key */
  remove(key) {
    this.#storage?.removeItem(this.#prefix + key);
  }
}

/** A random UUID; unlike crypto.randomUUID also on pages that are not secure (plain HTTP). */
export function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}
