/**
 * What a device knows of its conversations' logs: pure, without clock, sockets or storage.
 *
 *   live events, sync pages --> [ drop what is known | hold what is early ] --> delivered, in order
 *   gaps, verdicts ----------> [ what is missing ] --> wanted() --> a `sync`
 *
 * Invariant: the events of a conversation come out with rising sequence numbers, each once, and one
 * is skipped only where the server's verdict says that there is nothing for this user.
 */
import { CURSORS_MAX, HELD_EVENTS_MAX } from "./limits.js";

/** @typedef {import("./types.js").Event} Event */
/** @typedef {import("./types.js").Cursor} Cursor */
/** @typedef {import("./types.js").Verdict} Verdict */

/**
 * @typedef {object} Conversation
 * @property {number | null} cursor the last sequence number delivered; null while the first is unknown
 * @property {number} known the highest sequence number known to exist
 * @property {Map<number, Event>} held events that wait for what is before them
 * @property {number} refused the lowest event that there was no room to hold; Infinity: none
 * @property {boolean} left the user was seen to leave
 * @property {number} touched when it last moved, in steps of this log
 */

export class Log {
  /** @type {Map<string, Conversation>} */
  #conversations = new Map();
  /** The conversations with something missing. @type {Set<string>} */
  #behind = new Set();
  #userId;
  #heldMax;
  #step = 0;
  /** Events that had been delivered before and were dropped. */
  duplicates = 0;

  /**
   * @param {string} userId whose device this is
   * @param {{ heldMax?: number }} [options]
   */
  constructor(userId, { heldMax = HELD_EVENTS_MAX } = {}) {
    this.#userId = userId;
    this.#heldMax = heldMax;
  }

  /**
   * The application has everything of the conversation up to here (from the HTTP API, say).
   * A cursor only moves forward.
   *
   * @param {string} conversationId
   * @param {number} sequenceNumber
   * @returns {Event[]} events that had waited for it
   */
  track(conversationId, sequenceNumber) {
    const conversation = this.#at(conversationId);
    conversation.cursor = Math.max(conversation.cursor ?? 0, sequenceNumber);
    conversation.known = Math.max(conversation.known, sequenceNumber);
    conversation.left = false;
    return this.#drain(conversationId, conversation);
  }

  /**
   * @param {string} conversationId
   * @returns {number | null} the last sequence number delivered
   */
  cursor(conversationId) {
    return this.#conversations.get(conversationId)?.cursor ?? null;
  }

  /**
   * For a hello: the conversations that moved last first, as many as the server takes.
   * @returns {Cursor[]}
   */
  cursors() {
    return [...this.#conversations]
      .filter(([, it]) => it.cursor !== null && !it.left)
      .sort(([, a], [, b]) => b.touched - a.touched)
      .slice(0, CURSORS_MAX)
      .map(([conversation_id, it]) => ({ conversation_id, sequence_number: it.cursor ?? 0 }));
  }

  /**
   * An event of a conversation's log, pushed or from a sync page.
   * @param {Event} event
   * @returns {Event[]} what may be shown now, in order
   */
  accept(event) {
    const sequence = event.sequence_number;
    const conversation = this.#at(event.conversation_id);
    const addsMe = event.membership_changed?.added_user_ids.includes(this.#userId) ?? false;
    const startsHere = sequence === 1 || addsMe;
    const isAnew = conversation.cursor === null || (conversation.left && sequence > conversation.cursor);
    if (startsHere && isAnew) conversation.cursor = sequence - 1;
    // Nothing of what the user left comes behind the end of it: this is of another membership.
    if (isAnew) conversation.left = false;
    if (conversation.cursor !== null && sequence <= conversation.cursor) {
      this.duplicates += 1;
      return [];
    }
    conversation.known = Math.max(conversation.known, sequence);
    if (conversation.held.has(sequence)) this.duplicates += 1;
    this.#hold(conversation, event);
    return this.#drain(event.conversation_id, conversation);
  }

  /**
   * The server did not push these events.
   * @param {import("./types.js").Gap} gap
   */
  missed(gap) {
    const conversation = this.#at(gap.conversation_id);
    if (gap.to_sequence_number > (conversation.cursor ?? 0)) conversation.left = false;
    conversation.known = Math.max(conversation.known, gap.to_sequence_number);
    this.#note(gap.conversation_id, conversation);
  }

  /**
   * The end of a resume or of a sync.
   * @param {Verdict[]} verdicts
   * @returns {{ delivered: Event[], reset: string[], rewound: string[] }} what may be shown now; the
   *   conversations that are no longer (or never were) this user's; those whose last events the server
   *   has no more
   */
  conclude(verdicts) {
    /** @type {Event[]} */
    const delivered = [];
    /** @type {string[]} */
    const reset = [];
    /** @type {string[]} */
    const rewound = [];
    for (const verdict of verdicts) {
      if (verdict.reset) {
        if (this.#end(verdict.conversation_id)) reset.push(verdict.conversation_id);
        continue;
      }
      const conversation = this.#at(verdict.conversation_id);
      const end = verdict.rewind_to_sequence_number ?? 0;
      const isRewound = this.#rewind(conversation, end);
      if (isRewound) {
        rewound.push(verdict.conversation_id);
        // What was pushed meanwhile passed for known: it has to be asked for.
        conversation.known = Math.max(end, verdict.complete_to_sequence_number);
      }
      conversation.known = Math.max(conversation.known, verdict.gap_to_sequence_number);
      const complete = Math.min(verdict.complete_to_sequence_number, conversation.refused - 1);
      conversation.refused = Infinity;
      if (!isRewound && complete >= (conversation.cursor ?? 0)) {
        const early = [...conversation.held.keys()].filter((it) => it <= complete).sort(ascending);
        for (const sequence of early) delivered.push(...this.#take(conversation, sequence));
        conversation.cursor = complete;
        conversation.known = Math.max(conversation.known, complete);
      }
      delivered.push(...this.#drain(verdict.conversation_id, conversation));
    }
    return { delivered, reset, rewound };
  }

  /**
   * What must be asked for with `sync`, if anything.
   * @returns {Cursor[]}
   */
  wanted() {
    return [...this.#behind]
      .slice(0, CURSORS_MAX)
      .map((id) => ({ conversation_id: id, sequence_number: this.cursor(id) ?? 0 }));
  }

  /** Everything that is known to exist was delivered. */
  get complete() {
    return this.#behind.size === 0;
  }

  /**
   * The conversation is no longer the user's. A gateway that is behind may still push what is known of it.
   * @param {string} id
   * @returns {boolean} whether it was known
   */
  #end(id) {
    const conversation = this.#conversations.get(id);
    if (!conversation) return false;
    this.#behind.delete(id);
    conversation.held.clear();
    conversation.left = true;
    if (conversation.cursor === null) this.#conversations.delete(id);
    else conversation.known = conversation.cursor;
    return true;
  }

  /**
   * The server was set back to `end`, if that is not 0: numbers beyond it will be given again, to other
   * events.
   * @param {Conversation} conversation
   * @param {number} end
   * @returns {boolean} whether events beyond it were delivered
   */
  #rewind(conversation, end) {
    if (end === 0 || conversation.cursor === null || conversation.cursor <= end) return false;
    conversation.cursor = end;
    conversation.held.clear();
    return true;
  }

  /** @param {string} id */
  #at(id) {
    let conversation = this.#conversations.get(id);
    if (!conversation) {
      conversation = {
        cursor: null, known: 0, held: new Map(), refused: Infinity, left: false, touched: 0,
      };
      this.#conversations.set(id, conversation);
    }
    return conversation;
  }

  /**
   * Keeps an event until what is before it is there; when there is no room, the highest goes.
   * @param {Conversation} conversation
   * @param {Event} event
   */
  #hold(conversation, event) {
    conversation.held.set(event.sequence_number, event);
    if (conversation.held.size <= this.#heldMax) return;
    let highest = 0;
    for (const sequence of conversation.held.keys()) highest = Math.max(highest, sequence);
    conversation.held.delete(highest);
    conversation.refused = Math.min(conversation.refused, highest);
  }

  /**
   * Takes what can be delivered after the conversation changed.
   * @param {string} id
   * @param {Conversation} conversation
   */
  #drain(id, conversation) {
    /** @type {Event[]} */
    const delivered = [];
    if (conversation.cursor !== null) {
      for (const sequence of conversation.held.keys()) {
        if (sequence <= conversation.cursor) conversation.held.delete(sequence);
      }
      while (conversation.held.has(conversation.cursor + 1)) {
        delivered.push(...this.#take(conversation, conversation.cursor + 1));
      }
    }
    this.#note(id, conversation);
    return delivered;
  }

  /**
   * @param {string} id
   * @param {Conversation} conversation
   */
  #note(id, conversation) {
    const behind = !conversation.left && conversation.known > (conversation.cursor ?? 0);
    if (behind) this.#behind.add(id);
    else this.#behind.delete(id);
  }

  /**
   * @param {Conversation} conversation
   * @param {number} sequence
   * @returns {Event[]}
   */
  #take(conversation, sequence) {
    const event = conversation.held.get(sequence);
    conversation.held.delete(sequence);
    if (!event || sequence <= (conversation.cursor ?? 0)) return [];
    conversation.cursor = sequence;
    this.#step += 1;
    conversation.touched = this.#step;
    if (event.membership_changed?.removed_user_ids.includes(this.#userId)) conversation.left = true;
    if (event.membership_changed?.added_user_ids.includes(this.#userId)) conversation.left = false;
    return [event];
  }
}

/** @param {number} a @param {number} b */
function ascending(a, b) {
  return a - b;
}
