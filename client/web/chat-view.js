/** The right side: one conversation, its history, who types, and the composer. */
import { composer } from "./composer.js";
import { fill, h, iconButton, reconcile } from "./dom.js";
import { listed, presenceLabel } from "./format.js";
import { lineRow } from "./lines-view.js";
import { messageDialog } from "./message-dialog.js";
import { conversationAvatar } from "./parts.js";
import { lines } from "./timeline.js";

/** @typedef {import("./model.js").Model} Model */
/** @typedef {import("./conversation.js").Conversation} Conversation */

/** So near to the end counts as being there, in pixels. */
const NEAR_PX = 80;
/** So near to the beginning the page before is fetched, in pixels. */
const OLDER_PX = 600;

/**
 * @param {object} options
 * @param {Model} options.model
 * @param {() => void} options.onBack
 * @param {(conversation: Conversation) => void} options.onDetails
 * @param {() => void} options.onNew
 */
export function chatView({ model, onBack, onDetails, onNew }) {
  /** @type {Conversation | null} */
  let open = null;
  let unreadAfter = Infinity;
  let atEnd = true;
  let problem = "";

  const heading = h("button", { type: "button", class: "heading", onclick: () => open && onDetails(open) });
  const list = h("div", { class: "lines", role: "log", "aria-label": "Messages", "aria-live": "polite" });
  const top = h("div", { class: "top-note", role: "status" });
  const typing = h("div", { class: "typing-line", role: "status", "aria-live": "polite" });
  const scroll = h("div", { class: "timeline", tabindex: "0", "aria-label": "Message history" }, h("div", { class: "spacer" }), top, list);
  const jump = iconButton("down", "Go to the newest message", () => toEnd("smooth"), "jump");
  const closed = h("p", { class: "closed" }, "You are no longer in this conversation.");
  const write = composer({
    onSend(text) {
      if (!open) return;
      try {
        model.chat.send(open.id, text);
      } catch (error) {
        top.textContent = error instanceof Error ? error.message : String(error);
      }
      unreadAfter = Infinity;
      update();
      toEnd("instant");
    },
    onTyping: (active) => open && model.chat.typing(open.id, active),
  });
  const pane = h(
    "div", { class: "pane" },
    h(
      "header", {},
      iconButton("back", "Back to the conversations", onBack, "back"),
      heading,
      iconButton("people", "Members and settings", () => open && onDetails(open)),
    ),
    h("div", { class: "middle" }, scroll, jump),
    typing, closed, write.element,
  );
  const nothing = h(
    "div", { class: "nothing" },
    h("img", { src: "icon.svg", alt: "", width: "72", height: "72" }),
    h("h2", {}, "Your conversations, in real time"),
    h("p", {}, "Choose one on the left, or start a new one."),
    h("button", { type: "button", class: "primary", onclick: onNew }, "New conversation"),
  );
  const element = h("main", { class: "content" }, nothing);

  scroll.addEventListener("scroll", () => {
    atEnd = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < NEAR_PX;
    pane.classList.toggle("scrolled-up", !atEnd);
    if (atEnd) markRead();
    if (scroll.scrollTop < OLDER_PX) void older();
  }, { passive: true });
  new ResizeObserver(() => atEnd && toEnd("instant")).observe(scroll);
  const stopping = new AbortController();
  addEventListener("focus", () => markRead(), { signal: stopping.signal });
  document.addEventListener("visibilitychange", () => markRead(), { signal: stopping.signal });

  /** @param {ScrollBehavior} behavior */
  function toEnd(behavior) {
    scroll.scrollTo({ top: scroll.scrollHeight, behavior });
  }

  function markRead() {
    const seen = document.visibilityState === "visible" && document.hasFocus();
    if (open?.first != null && atEnd && seen) model.markRead(open);
  }

  /** Keeps what the user looks at where it is while earlier messages are put before it. */
  async function older() {
    const conversation = open;
    if (!conversation || conversation.first === null || conversation.atStart || problem) return;
    try {
      await model.older(conversation);
    } catch (error) {
      if (open === conversation) fail(error);
    }
  }

  /** @param {unknown} error */
  function fail(error) {
    problem = error instanceof Error ? error.message : String(error);
    update();
  }

  async function load() {
    const conversation = open;
    if (!conversation) return;
    problem = "";
    update();
    try {
      await model.open(conversation);
    } catch (error) {
      if (open === conversation) fail(error);
    }
  }

  function update() {
    if (!open) return;
    const conversation = open;
    const end = atEnd;
    const fromEnd = scroll.scrollHeight - scroll.scrollTop;
    const first = list.firstElementChild;
    const rows = lines({
      conversation, me: model.me.user_id, pending: model.chat.pending(conversation.id),
      unreadAfter, name: (id) => model.name(id),
    });
    const options = {
      name: (/** @type {string} */ id) => model.name(id),
      group: model.other(conversation) === null,
      onRetry: (/** @type {string} */ key) => model.chat.retry(key),
      onDiscard: (/** @type {string} */ key) => model.chat.discard(key),
      onMore: (/** @type {import("./timeline.js").MessageLine} */ line) => messageDialog(model, conversation, line),
      onReact: react,
    };
    reconcile(list, rows.map((line) => lineRow(line, options)));
    updateTop(conversation);
    updateHeading(conversation);
    updateTyping(conversation);
    closed.hidden = !conversation.left;
    write.element.hidden = conversation.left;
    if (end) toEnd("instant");
    else if (first !== list.firstElementChild) scroll.scrollTop = scroll.scrollHeight - fromEnd;
    markRead();
  }

  /**
   * @param {import("./timeline.js").MessageLine} line
   * @param {string} reaction
   * @param {boolean} removed
   */
  async function react(line, reaction, removed) {
    if (!open) return;
    try {
      await model.chat.api.react(open.id, line.messageId, { reaction, removed });
    } catch (error) {
      top.textContent = error instanceof Error ? error.message : String(error);
    }
  }

  /** @param {Conversation} conversation */
  function updateTop(conversation) {
    if (problem) {
      fill(top, `${problem} `, h("button", { type: "button", onclick: () => void load() }, "Try again"));
    } else if (conversation.first === null) {
      fill(top, h("span", { class: "spinner", "aria-hidden": "true" }), "Loading messages…");
    } else if (!conversation.atStart) {
      fill(top, h("span", { class: "spinner", "aria-hidden": "true" }), "Loading earlier messages…");
    } else {
      fill(top, conversation.joined > 1 ? "You joined here" : "This is the beginning of the conversation");
    }
  }

  /** @param {Conversation} conversation */
  function updateHeading(conversation) {
    const other = model.other(conversation);
    const presence = other ? presenceLabel(model.presence.get(other)) : "";
    const online = [...conversation.memberIds].filter(
      (id) => id !== model.me.user_id && model.presence.get(id)?.online,
    ).length;
    const people = `${conversation.memberCount} members${online > 0 ? `, ${online} online` : ""}`;
    const detail = other ? presence || `@${model.users.get(other)?.name ?? ""}` : people;
    fill(
      heading, conversationAvatar(model, conversation),
      h(
        "span", { class: "who" },
        h("strong", {}, model.title(conversation)),
        h("span", { class: presence === "Online" ? "online" : "" }, detail),
      ),
    );
    heading.setAttribute("aria-label", `${model.title(conversation)}, ${detail}. Members and settings`);
  }

  /** @param {Conversation} conversation */
  function updateTyping(conversation) {
    const names = conversation.typingNow(Date.now()).map((id) => model.name(id).split(" ")[0]);
    const text = names.length === 0 ? "" : `${listed(names)} ${names.length === 1 ? "is" : "are"} typing`;
    if (typing.dataset.text === text) return;
    typing.dataset.text = text;
    fill(typing, text && h("span", { class: "dots", "aria-hidden": "true" }, h("i"), h("i"), h("i")), text);
  }

  return {
    element, update,
    /** @param {Conversation | null} conversation */
    show(conversation) {
      if (conversation === open) return;
      write.element.querySelector("textarea")?.blur();
      open = conversation;
      fill(element, conversation ? pane : nothing);
      if (!conversation) return;
      unreadAfter = conversation.unread > 0 ? conversation.read : Infinity;
      atEnd = true;
      pane.classList.remove("scrolled-up");
      write.open(conversation.id, !conversation.left);
      void load();
      toEnd("instant");
      if (!matchMedia("(pointer: coarse)").matches) write.focus();
    },
    /** Asks again for what could not be loaded. */
    recover() {
      if (open) void load();
    },
    stop: () => stopping.abort(),
    get openId() {
      return open?.id ?? "";
    },
  };
}
