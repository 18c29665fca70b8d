/** One conversation as the page knows it: pure, without network and page. */

/** @typedef {import("../js/types.js").Event} Event */
/** @typedef {import("../js/types.js").ConversationSummary} ConversationSummary */
/** @typedef {import("../js/types.js").Receipt} Receipt */
/** @typedef {import("../js/types.js").ReceiptSummary} ReceiptSummary */
/** @typedef {import("../js/types.js").LastMessage} LastMessage */

/** Somebody counts as typing for this long after having said so, in milliseconds. */
const TYPING_MS = 6_000;
/** Sequence numbers of which it is kept how many members have come so far. */
const COUNTS_MAX = 64;

export class Conversation {
  /** @type {Map<number, Event>} the log, as far as it was loaded or pushed */
  events = new Map();
  /** The lowest sequence number from which on `events` has no hole; null: history was not loaded. */
  /** @type {number | null} */
  first = null;
  /** There is nothing before `first`. */
  atStart = false;
  /** @type {Map<string, { at: number, text: string }>} a message's last edit, and its sequence number */
  edits = new Map();
  /** @type {Set<string>} */
  deleted = new Set();
  /** Who reacts to a message how: the last word of each user, with its sequence number.
   * @type {Map<string, Map<string, { at: number, userId: string, reaction: string, removed: boolean }>>} */
  reactions = new Map();
  /** @type {Map<string, { delivered: number, read: number }>} by user */
  receipts = new Map();
  /** Of a large conversation: how many members have come so far, by sequence number.
   * @type {Map<number, { delivered: number, read: number }>} */
  counts = new Map();
  /** @type {Map<string, number>} until when somebody counts as typing, by user */
  typing = new Map();
  /** The user left or was removed. */
  left = false;
  title = "";
  /** @type {Set<string>} of a large conversation only some, until it is opened */
  memberIds = new Set();
  memberCount = 0;
  last = 0;
  read = 0;
  joined = 1;
  unread = 0;
  createdAtUs = 0;
  /** @type {LastMessage | null} */
  lastMessage = null;

  /**
   * @param {ConversationSummary} summary
   * @param {string} me
   */
  constructor(summary, me) {
    this.id = summary.conversation_id;
    this.update(summary, me);
  }

  /**
   * What the server says of it. An answer that is older than what was pushed changes nothing.
   * @param {ConversationSummary} summary
   * @param {string} me
   */
  update(summary, me) {
    if (summary.last_sequence_number < this.last) return;
    this.title = summary.title;
    this.memberIds = new Set(summary.members.map((member) => member.user_id));
    this.memberCount = Math.max(summary.member_count, this.memberIds.size);
    this.last = summary.last_sequence_number;
    this.joined = summary.joined_sequence_number;
    this.createdAtUs = summary.created_at_us;
    this.lastMessage = summary.last_message;
    if (summary.read_sequence_number >= this.read) {
      this.read = summary.read_sequence_number;
      // Who wrote the last message has seen what was before it.
      this.unread = summary.last_message?.sender_id === me ? 0 : summary.unread_count;
    }
    this.left = false;
  }

  get activityUs() {
    return Math.max(this.lastMessage?.created_at_us ?? 0, this.createdAtUs);
  }

  /**
   * A page of history.
   * @param {Event[]} events ascending and without a hole
   * @param {number} [limit] what was asked for; fewer events mean that there are no earlier ones
   */
  addHistory(events, limit = 0) {
    for (const event of events) {
      this.events.set(event.sequence_number, event);
      this.#note(event);
    }
    const first = events[0]?.sequence_number ?? this.first ?? this.last + 1;
    this.first = Math.min(first, this.first ?? first);
    this.atStart = events.length < limit || this.first <= 1;
  }

  /**
   * A pushed event of the log; they come in order.
   * @param {Event} event
   * @param {string} me
   */
  push(event, me) {
    if (event.sequence_number <= this.last && this.events.has(event.sequence_number)) return;
    this.events.set(event.sequence_number, event);
    this.#note(event);
    if (event.sequence_number <= this.last) return;
    this.last = event.sequence_number;
    if (event.settings_changed) this.title = event.settings_changed.title;
    if (event.membership_changed) this.#members(event.membership_changed, me);
    if (!event.message) return;
    this.typing.delete(event.sender_id);
    this.lastMessage = {
      sequence_number: event.sequence_number, sender_id: event.sender_id,
      text: event.message.text, created_at_us: event.created_at_us,
    };
    if (event.sender_id !== me && event.sequence_number > this.read) this.unread += 1;
  }

  /**
   * @param {Receipt} receipt
   * @param {string} me
   */
  addReceipt(receipt, me) {
    const { user_id, delivered_sequence_number: delivered, read_sequence_number: read } = receipt;
    const before = this.receipts.get(user_id) ?? { delivered: 0, read: 0 };
    this.receipts.set(user_id, {
      delivered: Math.max(before.delivered, delivered, read), read: Math.max(before.read, read),
    });
    if (user_id === me) this.markRead(read, me);
  }

  /**
   * Counts only grow: whatever says less is older.
   * @param {ReceiptSummary} summary
   */
  addSummary({ counts }) {
    for (const { sequence_number: sequence, delivered_count, read_count } of counts) {
      const before = this.counts.get(sequence) ?? { delivered: 0, read: 0 };
      this.counts.set(sequence, {
        delivered: Math.max(before.delivered, delivered_count, read_count), read: Math.max(before.read, read_count),
      });
    }
    const kept = [...this.counts.keys()].sort((a, b) => a - b);
    for (const sequence of kept.slice(0, -COUNTS_MAX)) this.counts.delete(sequence);
  }

  /**
   * The user has read up to here, on this device or another.
   * @param {number} sequenceNumber
   * @param {string} me
   */
  markRead(sequenceNumber, me) {
    if (sequenceNumber <= this.read) return;
    this.read = sequenceNumber;
    if (sequenceNumber >= this.last) {
      this.unread = 0;
      return;
    }
    let beyond = 0;
    for (const [sequence, event] of this.events) {
      if (sequence > sequenceNumber && event.message && event.sender_id !== me) beyond += 1;
    }
    this.unread = Math.min(this.unread, beyond);
  }

  /**
   * @param {string} userId
   * @param {boolean} active
   * @param {number} nowMs
   */
  setTyping(userId, active, nowMs) {
    if (active) this.typing.set(userId, nowMs + TYPING_MS);
    else this.typing.delete(userId);
  }

  /**
   * Who types now.
   * @param {number} nowMs
   * @returns {string[]} user ids
   */
  typingNow(nowMs) {
    return [...this.typing].filter(([, until]) => until > nowMs).map(([userId]) => userId);
  }

  /**
   * How far a message of the user's own has come with the others.
   * @param {number} sequenceNumber
   * @param {string} me
   * @returns {{ delivered: string[], read: string[] }} user ids
   */
  reach(sequenceNumber, me) {
    /** @type {string[]} */
    const delivered = [];
    /** @type {string[]} */
    const read = [];
    for (const [userId, receipt] of this.receipts) {
      if (userId === me || !this.memberIds.has(userId)) continue;
      if (receipt.read >= sequenceNumber) read.push(userId);
      else if (receipt.delivered >= sequenceNumber) delivered.push(userId);
    }
    return { delivered, read };
  }

  /**
   * How many others have a message of the user's own, at least: as many as have what came later.
   * @param {number} sequenceNumber
   * @returns {{ delivered: number, read: number }}
   */
  crowd(sequenceNumber) {
    const most = { delivered: 0, read: 0 };
    for (const [sequence, { delivered, read }] of this.counts) {
      if (sequence < sequenceNumber) continue;
      // The user is one of those who were counted.
      const own = this.read >= sequence ? 1 : 0;
      most.delivered = Math.max(most.delivered, delivered - own);
      most.read = Math.max(most.read, read - own);
    }
    return most;
  }

  /** The loaded log, ascending. @returns {Event[]} */
  get loaded() {
    const first = this.first;
    if (first === null) return [];
    return [...this.events.values()]
      .filter((event) => event.sequence_number >= first)
      .sort((a, b) => a.sequence_number - b.sequence_number);
  }

  /**
   * Who reacts to a message, by reaction, in the order of the reactions' coming.
   * @param {string} messageId
   * @returns {{ reaction: string, userIds: string[] }[]}
   */
  reactionsTo(messageId) {
    /** @type {Map<string, string[]>} */
    const found = new Map();
    const words = [...(this.reactions.get(messageId)?.values() ?? [])].sort((a, b) => a.at - b.at);
    for (const { userId, reaction, removed } of words) {
      if (!removed) found.set(reaction, [...(found.get(reaction) ?? []), userId]);
    }
    return [...found].map(([reaction, userIds]) => ({ reaction, userIds }));
  }

  /** Pages of history come newest first: what is known already may be later. @param {Event} event */
  #note({ sequence_number: at, sender_id: userId, message_edited: edited, message_deleted: deleted, reaction: word }) {
    if (edited && at > (this.edits.get(edited.message_id)?.at ?? 0)) {
      this.edits.set(edited.message_id, { at, text: edited.text });
      this.#preview(edited.message_id, edited.text);
    }
    if (deleted) {
      this.deleted.add(deleted.message_id);
      this.#preview(deleted.message_id, "");
    }
    if (word) {
      const words = this.reactions.get(word.message_id) ?? new Map();
      const key = `${userId} ${word.reaction}`;
      if (at > (words.get(key)?.at ?? 0)) words.set(key, { at, userId, reaction: word.reaction, removed: word.removed });
      this.reactions.set(word.message_id, words);
    }
  }

  /**
   * If it is the last message, the list shows its new text.
   * @param {string} messageId
   * @param {string} text
   */
  #preview(messageId, text) {
    const last = this.lastMessage;
    const event = last && this.events.get(last.sequence_number);
    if (last && event?.message?.message_id === messageId) this.lastMessage = { ...last, text };
  }

  /**
   * @param {import("../js/types.js").MembershipChanged} change
   * @param {string} me
   */
  #members({ added_user_ids, removed_user_ids }, me) {
    for (const userId of removed_user_ids) {
      this.memberIds.delete(userId);
      this.typing.delete(userId);
    }
    for (const userId of added_user_ids) this.memberIds.add(userId);
    this.memberCount = Math.max(this.memberCount + added_user_ids.length - removed_user_ids.length, this.memberIds.size);
    if (removed_user_ids.includes(me)) this.left = true;
    if (added_user_ids.includes(me)) this.left = false;
  }
}
