/** How the lines of a timeline look. */
import { h, icon, iconButton } from "./dom.js";
import { clock, fullTime, isEmojiOnly, withLinks } from "./format.js";
import { avatar } from "./parts.js";

/** @typedef {import("./timeline.js").Line} Line */
/** @typedef {import("./timeline.js").MessageLine} MessageLine */

/**
 * @typedef {object} LineOptions
 * @property {(userId: string) => string} name
 * @property {boolean} group with more than two people, so that senders are named
 * @property {(outboxKey: string) => void} onRetry
 * @property {(outboxKey: string) => void} onDiscard
 * @property {(line: MessageLine) => void} onMore
 * @property {(line: MessageLine, reaction: string, removed: boolean) => void} onReact
 */

/**
 * @param {Line} line
 * @param {LineOptions} options
 * @returns {import("./dom.js").Row}
 */
export function lineRow(line, options) {
  if (line.kind !== "message") {
    return {
      key: line.key,
      stamp: line.text,
      render: () => h("div", { class: `note ${line.kind}` }, h("span", {}, line.text)),
    };
  }
  const name = options.name(line.senderId);
  const { key: _, ...shown } = line;
  return {
    key: line.key,
    stamp: JSON.stringify([shown, options.group, name]),
    render: () => messageElement(line, name, options),
  };
}

/**
 * @param {MessageLine} line
 * @param {string} name
 * @param {LineOptions} options
 */
function messageElement(line, name, options) {
  const large = !line.deleted && isEmojiOnly(line.text);
  const classes = [
    "message", line.own ? "own" : "other", line.first ? "first" : "", line.last ? "last" : "",
    large ? "large" : "", line.mark,
  ];
  const text = line.deleted ? h("em", {}, "Message deleted") : textElement(line.text);
  const failed = line.mark === "failed";
  return h(
    "div",
    { class: classes.filter(Boolean).join(" "), "data-sequence": line.sequence || null },
    !line.own && options.group && (line.last
      ? avatar({ id: line.senderId, name, size: "small" })
      : h("span", { class: "avatar-space" })),
    h(
      "div", { class: "column" },
      line.first && !line.own && options.group && h("span", { class: "sender" }, name),
      h(
        "div", { class: "bubble" },
        h("span", { class: "visually-hidden" }, line.own ? "You: " : `${name}: `),
        text, meta(line),
        line.messageId && !line.deleted
          && iconButton("more", line.own ? "React, edit or delete" : "React", () => options.onMore(line), "actions"),
      ),
      line.reactions.length > 0 && !line.deleted && h(
        "div", { class: "reactions" },
        ...line.reactions.map(({ reaction, own, count, names }) => h("button", {
          type: "button", "aria-pressed": String(own), title: names, "aria-label": `${reaction} by ${names}`,
          onclick: () => options.onReact(line, reaction, own),
        }, count > 1 ? `${reaction} ${count}` : reaction)),
      ),
      line.readBy && h("p", { class: "read-by" }, line.readBy),
      failed && h(
        "p", { class: "failure", role: "alert" },
        `Not sent: ${line.detail} `,
        h("button", { type: "button", onclick: () => options.onRetry(line.outboxKey) }, "Try again"),
        h("button", { type: "button", onclick: () => options.onDiscard(line.outboxKey) }, "Delete"),
      ),
    ),
  );
}

/** @param {MessageLine} line */
function meta(line) {
  return h(
    "span", { class: "meta" },
    line.edited && !line.deleted && h("span", {}, "edited"),
    h("time", { title: fullTime(line.atUs), datetime: new Date(line.atUs / 1000).toISOString() }, clock(line.atUs)),
    line.mark === "pending" ? icon("clock", line.detail)
    : line.mark === "failed" ? icon("warning", "Not sent")
    : line.mark === "sent" ? icon("check", line.detail)
    : line.mark !== "" && icon("checks", line.detail),
  );
}

/** @param {string} text */
function textElement(text) {
  return h(
    "span", { class: "text" },
    ...withLinks(text).map((part) => part.href
      ? h("a", { href: part.href, target: "_blank", rel: "noopener noreferrer nofollow" }, part.text)
      : part.text),
  );
}
