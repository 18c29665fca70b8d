/** What a conversation shows, line by line: pure. */
import { count, dayLabel, dayOf, listed } from "./format.js";

/** @typedef {import("../js/types.js").Event} Event */
/** @typedef {import("./conversation.js").Conversation} Conversation */
/** @typedef {import("../js/realchat.js").OutboxItem} OutboxItem */

/** Messages of one person closer than this stand together, in microseconds. */
const GROUP_US = 5 * 60 * 1_000_000;

/**
 * @typedef {"sent" | "delivered" | "read" | "pending" | "failed" | ""} Mark
 *
 * @typedef {object} MessageLine
 * @property {"message"} kind
 * @property {string} key
 * @property {string} senderId
 * @property {boolean} own
 * @property {boolean} first of its group
 * @property {boolean} last of its group
 * @property {string} text
 * @property {boolean} edited
 * @property {string} messageId empty before it is sent
 * @property {boolean} deleted
 * @property {{ reaction: string, own: boolean, count: number, names: string }[]} reactions
 * @property {number} atUs
 * @property {Mark} mark
 * @property {string} detail who has read it, or why it failed
 * @property {string} readBy how many have read it, if it is the user's last message in a large conversation
 * @property {string} outboxKey of a message on its way; empty for others
 * @property {number} sequence 0 for a message on its way
 *
 * @typedef {{ kind: "day" | "system" | "unread", key: string, text: string }} NoteLine
 * @typedef {MessageLine | NoteLine} Line
 */

/**
 * @param {object} options
 * @param {Conversation} options.conversation
 * @param {string} options.me
 * @param {OutboxItem[]} options.pending
 * @param {number} options.unreadAfter the "new messages" line stands behind this; Infinity: nowhere
 * @param {(userId: string) => string} options.name
 * @returns {Line[]}
 */
export function lines({ conversation, me, pending, unreadAfter, name }) {
  /** @type {Line[]} */
  const lines = [];
  let day = NaN;
  let marked = false;
  const startDay = (/** @type {number} */ atUs) => {
    if (dayOf(atUs) === day) return;
    day = dayOf(atUs);
    lines.push({ kind: "day", key: `day-${day}`, text: dayLabel(atUs) });
  };
  for (const event of conversation.loaded) {
    const text = event.message ? "" : systemText(event, me, name);
    if (!event.message && !text) continue;
    startDay(event.created_at_us);
    if (!marked && event.message && event.sequence_number > unreadAfter && event.sender_id !== me) {
      marked = true;
      lines.push({ kind: "unread", key: "unread", text: "New messages" });
    }
    if (!event.message) {
      lines.push({ kind: "system", key: `s${event.sequence_number}`, text });
      continue;
    }
    lines.push(messageLine(event, event.message, conversation, me, name));
  }
  tellCrowd(lines, conversation);
  for (const item of pending) {
    startDay(item.createdAtMs * 1000);
    lines.push(pendingLine(item, me));
  }
  group(lines);
  return lines;
}

/**
 * @param {Event} event
 * @param {import("../js/types.js").Message} message
 * @param {Conversation} conversation
 * @param {string} me
 * @param {(userId: string) => string} name
 * @returns {MessageLine}
 */
function messageLine(event, message, conversation, me, name) {
  const own = event.sender_id === me;
  const reach = own ? conversation.reach(event.sequence_number, me) : { delivered: [], read: [] };
  const crowd = own ? conversation.crowd(event.sequence_number) : { delivered: 0, read: 0 };
  const read = Math.max(reach.read.length, crowd.read);
  const delivered = Math.max(reach.delivered.length, crowd.delivered);
  const edit = conversation.edits.get(message.message_id);
  return {
    kind: "message",
    key: `m${event.sequence_number}`,
    senderId: event.sender_id,
    own,
    first: true,
    last: true,
    messageId: message.message_id,
    text: edit?.text ?? message.text,
    edited: edit !== undefined,
    reactions: conversation.reactionsTo(message.message_id).map(({ reaction, userIds }) => ({
      reaction, own: userIds.includes(me), count: userIds.length, names: listed(userIds.map(name), 8),
    })),
    deleted: conversation.deleted.has(message.message_id),
    atUs: event.created_at_us,
    mark: !own ? "" : read > 0 ? "read" : delivered > 0 ? "delivered" : "sent",
    detail:
      crowd.read > reach.read.length ? `Read by ${count(crowd.read)}`
      : reach.read.length > 0 ? `Read by ${listed(reach.read.map(name), 8)}`
      : crowd.delivered > reach.delivered.length ? `Delivered to ${count(crowd.delivered)}`
      : reach.delivered.length > 0 ? `Delivered to ${listed(reach.delivered.map(name), 8)}`
      : own ? "Sent" : "",
    readBy: "",
    outboxKey: "",
    sequence: event.sequence_number,
  };
}

/**
 * @param {OutboxItem} item
 * @param {string} me
 * @returns {MessageLine}
 */
function pendingLine(item, me) {
  const failed = item.state === "failed";
  const sent = item.state === "sent";
  return {
    kind: "message",
    key: sent ? `m${item.sequenceNumber}` : `p${item.key}`,
    senderId: me,
    own: true,
    first: true,
    last: true,
    messageId: "",
    text: item.text,
    edited: false,
    reactions: [],
    deleted: false,
    atUs: item.createdAtMs * 1000,
    mark: failed ? "failed" : sent ? "sent" : "pending",
    detail: failed ? (item.error?.message ?? "It was not sent.") : sent ? "Sent" : "Waiting to be sent",
    readBy: "",
    outboxKey: sent ? "" : item.key,
    sequence: 0,
  };
}

/**
 * Nobody looks at the tick of a message for how many thousands have read it.
 * @param {Line[]} lines
 * @param {Conversation} conversation
 */
function tellCrowd(lines, conversation) {
  const last = lines.findLast((line) => line.kind === "message" && line.own);
  if (last?.kind !== "message") return;
  const { read } = conversation.crowd(last.sequence);
  if (read > 0) last.readBy = `Read by ${count(read)}`;
}

/** @param {Line[]} lines */
function group(lines) {
  for (const [index, line] of lines.entries()) {
    const before = lines[index - 1];
    if (line.kind !== "message" || before?.kind !== "message") continue;
    if (line.senderId !== before.senderId || line.atUs - before.atUs > GROUP_US) continue;
    before.last = false;
    line.first = false;
  }
}

/**
 * @param {Event} event
 * @param {string} me
 * @param {(userId: string) => string} name
 * @returns {string} empty for what is not shown
 */
function systemText(event, me, name) {
  const who = (/** @type {string} */ id) => (id === me ? "you" : name(id));
  const actor = event.sender_id === me ? "You" : name(event.sender_id);
  if (event.settings_changed) {
    const { title } = event.settings_changed;
    return title ? `${actor} named the conversation “${title}”` : `${actor} removed the conversation’s name`;
  }
  const change = event.membership_changed;
  if (!change) return "";
  if (change.created) return `${actor} started the conversation`;
  const parts = [];
  const left = change.removed_user_ids.filter((id) => id === event.sender_id);
  const removed = change.removed_user_ids.filter((id) => id !== event.sender_id);
  if (left.length > 0) parts.push(`${actor} left`);
  if (removed.length > 0) parts.push(`${actor} removed ${listed(removed.map(who), 8)}`);
  if (change.added_user_ids.length > 0) {
    parts.push(`${actor} added ${listed(change.added_user_ids.map(who), 8)}`);
  }
  return parts.join(" · ");
}
