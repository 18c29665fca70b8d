/**
 * What the page shows and where it comes from: the HTTP API for what was, the client library for
 * what happens. Views listen and never ask the network themselves.
 */
import { Emitter } from "../js/emitter.js";
import { RealChat, randomId } from "../js/realchat.js";
import { Conversation } from "./conversation.js";

/** @typedef {import("../js/types.js").Event} Event */
/** @typedef {import("../js/types.js").User} User */
/** @typedef {import("../js/types.js").Status} Status */

/** Events in one page of history. */
export const PAGE_EVENTS = 60;
/** Conversations in one page of the list; and pages, so that all fit in one resume. */
const LIST_PAGE = 200;
const LIST_PAGES_MAX = 3;

/**
 * `list`: the conversations, their order or what is known of people. `conversation`: what this one
 * shows. `signed_out`: the session ended. `outdated`: the server has no more what was loaded.
 *
 * @extends {Emitter<{ list: void, conversation: string, status: Status, signed_out: string,
 *   outdated: void }>}
 */
export class Model extends Emitter {
  /** @type {Map<string, Conversation>} */
  conversations = new Map();
  /** @type {Map<string, User>} */
  users = new Map();
  /** @type {Map<string, { online: boolean, lastSeenUs: number }>} */
  presence = new Map();
  /** @type {Map<string, Event[]>} conversations being fetched, and what happened in them meanwhile */
  #adopting = new Map();
  /** @type {Map<string, Promise<void>>} pages being fetched */
  #paging = new Map();
  #wasLive = false;
  #stopped = false;

  /**
   * @param {{ base: string, session: import("../js/realchat.js").Session, me: User }} options
   */
  constructor({ base, session, me }) {
    super();
    this.session = session;
    this.me = me;
    this.users.set(me.user_id, me);
    this.chat = new RealChat({ base, session });
    this.chat.on("event", (event) => this.#event(event));
    this.chat.on("outbox", (conversationId) => this.emit("conversation", conversationId));
    this.chat.on("status", (status) => this.#status(status));
    this.chat.on("signed_out", (error) => this.emit("signed_out", error.message));
    this.chat.on("reset", (conversationId) => this.#removed(conversationId));
    this.chat.on("rewound", () => this.emit("outdated", undefined));
  }

  /** Loads the list and goes live. */
  async start() {
    let page = await this.chat.api.conversations({ limit: LIST_PAGE });
    const summaries = [...page];
    for (let pages = 1; page.length === LIST_PAGE && pages < LIST_PAGES_MAX; pages += 1) {
      const before = summaries[summaries.length - 1].conversation_id;
      page = await this.chat.api.conversations({ limit: LIST_PAGE, before });
      summaries.push(...page);
    }
    if (this.#stopped) return;
    for (const summary of summaries) this.#add(summary);
    this.#watchPeople();
    this.emit("list", undefined);
    this.chat.start();
  }

  stop() {
    this.#stopped = true;
    this.chat.stop();
  }

  get status() {
    return this.chat.status;
  }

  /** @returns {Conversation[]} the newest activity first */
  get list() {
    return [...this.conversations.values()]
      .filter((it) => !it.left)
      .sort((a, b) => b.activityUs - a.activityUs || (a.id < b.id ? 1 : -1));
  }

  get unread() {
    return this.list.reduce((sum, it) => sum + it.unread, 0);
  }

  /** @param {string} userId */
  name(userId) {
    const user = this.users.get(userId);
    return user?.display_name || user?.name || "Somebody";
  }

  /**
   * The other one of a conversation of two; null for a group.
   * @param {Conversation} conversation
   */
  other(conversation) {
    const others = [...conversation.memberIds].filter((id) => id !== this.me.user_id);
    return others.length === 1 && conversation.title === "" ? others[0] : null;
  }

  /** @param {Conversation} conversation */
  title(conversation) {
    if (conversation.title) return conversation.title;
    const others = [...conversation.memberIds].filter((id) => id !== this.me.user_id);
    if (others.length === 0) return "Only you";
    const names = others.map((id) => this.name(id));
    return names.length <= 3 ? names.join(", ") : `${names.slice(0, 2).join(", ")} +${names.length - 2}`;
  }

  /**
   * Loads what a conversation shows first.
   * @param {Conversation} conversation
   */
  async open(conversation) {
    const receipts = this.chat.api.receipts(conversation.id).then((all) => {
      for (const receipt of all.receipts) conversation.addReceipt(receipt, this.me.user_id);
      if (all.summary) conversation.addSummary(all.summary);
    });
    const history = conversation.first === null ? this.#page(conversation) : undefined;
    const everybody = conversation.memberIds.size < conversation.memberCount
      ? this.chat.api.conversation(conversation.id).then((summary) => this.#add(summary))
      : undefined;
    await Promise.all([receipts, history, everybody]);
    this.#learn(conversation.loaded.map((event) => event.sender_id));
    this.emit("conversation", conversation.id);
  }

  /**
   * Loads the page before what is loaded.
   * @param {Conversation} conversation
   * @returns {Promise<void>}
   */
  older(conversation) {
    if (conversation.first === null || conversation.atStart) return Promise.resolve();
    return this.#page(conversation);
  }

  /**
   * The user sees the end of the conversation.
   * @param {Conversation} conversation
   */
  markRead(conversation) {
    if (conversation.read >= conversation.last || conversation.left) return;
    conversation.markRead(conversation.last, this.me.user_id);
    this.chat.acknowledge(conversation.id, { read: conversation.last });
    this.emit("list", undefined);
  }

  /**
   * Opens the conversation of two with somebody that there is, or starts a conversation.
   * @param {User[]} people
   * @param {string} title
   * @returns {Promise<Conversation>}
   */
  async converse(people, title) {
    if (people.length === 1 && title === "") {
      const known = this.list.find((it) => this.other(it) === people[0].user_id);
      if (known) return known;
    }
    const summary = await this.chat.api.createConversation({
      title, member_ids: people.map((user) => user.user_id), idempotency_key: randomId(),
    });
    const conversation = this.#add(summary);
    this.#changedPeople();
    return conversation;
  }

  /**
   * @param {string} query
   * @returns {Promise<User[]>} people whose name begins so, without the user
   */
  async search(query) {
    const found = await this.chat.api.users({ query, limit: 20 });
    return found.filter((user) => user.user_id !== this.me.user_id);
  }

  /** @param {{ display_name: string, about: string }} profile */
  async updateProfile(profile) {
    const me = await this.chat.api.updateMe(profile);
    this.me = me;
    this.users.set(me.user_id, me);
    this.#changedPeople();
  }

  /** @param {Conversation} conversation */
  #page(conversation) {
    const running = this.#paging.get(conversation.id);
    if (running) return running;
    const before = conversation.first ?? undefined;
    const page = this.chat.api
      .events(conversation.id, { before, limit: PAGE_EVENTS })
      .then(({ events }) => {
        conversation.addHistory(events, PAGE_EVENTS);
        this.#learn(events.flatMap((event) => [event.sender_id, ...mentioned(event)]));
        this.emit("conversation", conversation.id);
      })
      .finally(() => this.#paging.delete(conversation.id));
    this.#paging.set(conversation.id, page);
    return page;
  }

  /** @param {import("../js/types.js").ConversationSummary} summary */
  #add(summary) {
    for (const member of summary.members) this.users.set(member.user_id, member);
    const id = summary.conversation_id;
    const conversation = this.conversations.get(id) ?? new Conversation(summary, this.me.user_id);
    conversation.update(summary, this.me.user_id);
    this.conversations.set(id, conversation);
    this.chat.track(id, summary.last_sequence_number);
    if (summary.unread_count > 0) {
      this.chat.acknowledge(id, { delivered: summary.last_sequence_number });
    }
    return conversation;
  }

  /**
   * Something happened in a conversation that this page has not seen yet.
   * @param {Event} event
   */
  async #adopt(event) {
    const id = event.conversation_id;
    const waiting = this.#adopting.get(id);
    if (waiting) {
      waiting.push(event);
      return;
    }
    const events = [event];
    this.#adopting.set(id, events);
    try {
      this.#add(await this.chat.api.conversation(id));
    } catch {
      // Left again already, or unreachable: a reload shows it.
      return;
    } finally {
      this.#adopting.delete(id);
    }
    for (const waited of events) this.#event(waited);
    this.#changedPeople();
  }

  /** @param {Event} event */
  #event(event) {
    if (event.profile_updated) return this.#profile(event.profile_updated);
    if (event.presence_changed) return this.#presence(event.presence_changed);
    const conversation = this.conversations.get(event.conversation_id);
    if (!conversation || (conversation.left && event.membership_changed)) {
      if (event.sequence_number > 0) void this.#adopt(event);
      return;
    }
    const me = this.me.user_id;
    if (event.typing_changed) {
      if (event.sender_id !== me) {
        conversation.setTyping(event.sender_id, event.typing_changed.active, Date.now());
      }
    } else if (event.receipt) {
      conversation.addReceipt(event.receipt, me);
    } else if (event.receipt_summary) {
      conversation.addSummary(event.receipt_summary);
    } else {
      conversation.push(event, me);
      if (event.membership_changed) this.#learn(mentioned(event));
      if (event.membership_changed) this.#watchPeople();
    }
    this.emit("conversation", conversation.id);
    this.emit("list", undefined);
  }

  /** @param {import("../js/types.js").ProfileUpdated} profile */
  #profile(profile) {
    this.users.set(profile.user_id, profile);
    if (profile.user_id === this.me.user_id) this.me = { ...this.me, ...profile };
    this.#changedPeople();
  }

  /** @param {import("../js/types.js").PresenceChanged} presence */
  #presence(presence) {
    this.presence.set(presence.user_id, {
      online: presence.online, lastSeenUs: presence.last_seen_at_us,
    });
    this.emit("list", undefined);
  }

  /** @param {Status} status */
  #status(status) {
    if (status.state === "live") {
      if (this.#wasLive) void this.#refresh();
      this.#wasLive = true;
    } else if (status.state === "waiting" || status.state === "stopped") {
      this.presence.clear();
      for (const conversation of this.conversations.values()) conversation.typing.clear();
    }
    this.emit("status", status);
    this.emit("list", undefined);
  }

  /** What is not in the logs may have changed while the connection was away. */
  async #refresh() {
    try {
      for (const summary of await this.chat.api.conversations({ limit: LIST_PAGE })) {
        this.conversations.get(summary.conversation_id)?.update(summary, this.me.user_id);
      }
      this.emit("list", undefined);
    } catch {
      // The next connection asks again.
    }
  }

  /** @param {string} conversationId */
  #removed(conversationId) {
    const conversation = this.conversations.get(conversationId);
    if (!conversation) return;
    conversation.left = true;
    this.emit("conversation", conversationId);
    this.emit("list", undefined);
  }

  /**
   * Fetches the names of people who are not known yet.
   * @param {string[]} userIds
   */
  #learn(userIds) {
    const unknown = [...new Set(userIds)].filter((id) => id && !this.users.has(id)).slice(0, 100);
    if (unknown.length === 0) return;
    this.chat.api.users({ ids: unknown }).then(
      (users) => {
        for (const user of users) this.users.set(user.user_id, user);
        this.#changedPeople();
      },
      () => undefined,
    );
  }

  #changedPeople() {
    this.#watchPeople();
    this.emit("list", undefined);
    for (const id of this.conversations.keys()) this.emit("conversation", id);
  }

  #watchPeople() {
    const people = this.list.flatMap((it) => [...it.memberIds]);
    this.chat.watchPresence(people.filter((id) => id !== this.me.user_id));
  }
}

/** @param {Event} event @returns {string[]} the people whom an event names */
function mentioned(event) {
  const change = event.membership_changed;
  return change ? [...change.added_user_ids, ...change.removed_user_ids] : [];
}
