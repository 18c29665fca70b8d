/** The left side: who I am, search, and the conversations. */
import { h, icon, iconButton, reconcile } from "./dom.js";
import { fullTime, shortTime } from "./format.js";
import { avatar, conversationAvatar } from "./parts.js";

/** @typedef {import("./model.js").Model} Model */
/** @typedef {import("./conversation.js").Conversation} Conversation */

/**
 * @param {object} options
 * @param {Model} options.model
 * @param {(conversationId: string) => void} options.onOpen
 * @param {() => void} options.onNew
 * @param {() => void} options.onProfile
 */
export function listView({ model, onOpen, onNew, onProfile }) {
  let openId = "";
  const items = h("ul", { class: "conversations" });
  const filter = h("input", {
    type: "search", "aria-label": "Search conversations",
    autocomplete: "off", spellcheck: "false", oninput: () => update(),
  });
  filter.placeholder = "Search conversations";
  const empty = h("div", { class: "list-empty" });
  const me = h("button", {
    type: "button", class: "me", onclick: onProfile, "aria-label": "Your profile and settings",
  });
  const element = h(
    "nav", { class: "sidebar", "aria-label": "Conversations" },
    h("header", {}, me, iconButton("pencil", "New conversation", onNew, "accent")),
    h("div", { class: "search" }, icon("search"), filter),
    h("div", { class: "scroll" }, items, empty),
  );
  items.addEventListener("keydown", (event) => moveFocus(items, event));

  function update() {
    const query = filter.value.trim().toLowerCase();
    const all = model.list;
    const shown = all.filter((it) => query === "" || matches(model, it, query));
    reconcile(items, shown.map((it) => row(model, it, it.id === openId, onOpen)));
    empty.textContent =
      all.length === 0 ? "No conversations yet. Start one with the pencil above."
      : shown.length === 0 ? "Nothing found." : "";
    const name = model.name(model.me.user_id);
    const live = model.status.state === "live";
    me.replaceChildren(
      avatar({ id: model.me.user_id, name, online: live }),
      h("span", { class: "who" }, h("strong", {}, name), h("span", {}, `@${model.me.name}`)),
    );
  }

  return {
    element, update,
    focusSearch: () => filter.focus(),
    /** @param {string} conversationId */
    select(conversationId) {
      openId = conversationId;
      update();
    },
  };
}

/**
 * @param {Model} model
 * @param {Conversation} conversation
 * @param {string} query
 */
function matches(model, conversation, query) {
  const people = [...conversation.memberIds].map((id) => model.users.get(id));
  return [model.title(conversation), ...people.flatMap((it) => [it?.name, it?.display_name])]
    .some((text) => text?.toLowerCase().includes(query));
}

/**
 * @param {Model} model
 * @param {Conversation} conversation
 * @param {boolean} selected
 * @param {(conversationId: string) => void} onOpen
 * @returns {import("./dom.js").Row}
 */
function row(model, conversation, selected, onOpen) {
  const { id, unread } = conversation;
  const title = model.title(conversation);
  const other = model.other(conversation);
  const online = other !== null && (model.presence.get(other)?.online ?? false);
  const typing = conversation.typingNow(Date.now()).length > 0;
  const preview = typing ? "typing…" : previewText(model, conversation);
  const time = shortTime(conversation.activityUs);
  return {
    key: id,
    stamp: JSON.stringify([title, preview, typing, time, unread, selected, online]),
    render: () => h(
      "li", {},
      h(
        "button",
        {
          type: "button", class: "conversation", "data-id": id,
          "aria-current": selected ? "true" : false, onclick: () => onOpen(id),
        },
        conversationAvatar(model, conversation),
        h(
          "span", { class: "body" },
          h(
            "span", { class: "top" },
            h("strong", {}, title),
            h("time", { title: fullTime(conversation.activityUs) }, time),
          ),
          h(
            "span", { class: "bottom" },
            h("span", { class: typing ? "preview typing" : "preview" }, preview),
            unread > 0 && h(
              "span", { class: "badge", "aria-label": `${unread} unread` },
              unread > 99 ? "99+" : String(unread),
            ),
          ),
        ),
      ),
    ),
  };
}

/**
 * @param {Model} model
 * @param {Conversation} conversation
 */
function previewText(model, conversation) {
  const pending = model.chat.pending(conversation.id).at(-1);
  if (pending) return `${pending.state === "failed" ? "Not sent" : "You"}: ${oneLine(pending.text)}`;
  const message = conversation.lastMessage;
  if (!message) return "No messages yet";
  // Only a deleted message has no text.
  const text = oneLine(message.text) || "Message deleted";
  if (message.sender_id === model.me.user_id) return `You: ${text}`;
  return model.other(conversation) ? text : `${model.name(message.sender_id).split(" ")[0]}: ${text}`;
}

/** @param {string} text */
function oneLine(text) {
  return text.slice(0, 200).replace(/\s+/gu, " ");
}

/**
 * Arrow keys go through the list.
 * @param {Element} items
 * @param {KeyboardEvent} event
 */
function moveFocus(items, event) {
  const step = event.key === "ArrowDown" ? 1 : event.key === "ArrowUp" ? -1 : 0;
  if (step === 0) return;
  const buttons = [...items.querySelectorAll("button")];
  const at = buttons.findIndex((button) => button === document.activeElement);
  event.preventDefault();
  buttons[at + step]?.focus();
}
