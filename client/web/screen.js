/** The signed-in page: list and conversation side by side, or one at a time on a phone. */
import { banner } from "./banner.js";
import { chatView } from "./chat-view.js";
import { detailsDialog, newConversationDialog, profileDialog } from "./dialogs.js";
import { h } from "./dom.js";
import { listView } from "./list-view.js";

/** @typedef {import("./model.js").Model} Model */

/** "Typing" and "last seen" fade without an event, so what shows them is looked at this often. */
const TICK_MS = 1_000;
const OPEN = /^#\/c\/([0-9a-f-]{36})$/;

/**
 * @param {Model} model
 * @param {{ onSignOut: () => void, onSwitch: () => void }} options
 */
export function screen(model, { onSignOut, onSwitch }) {
  const openNew = () => newConversationDialog(model, (conversation) => go(conversation.id));
  const list = listView({
    model,
    onOpen: (id) => go(id),
    onNew: openNew,
    onProfile: () => profileDialog(model, onSignOut, onSwitch),
  });
  const chat = chatView({
    model,
    onBack: () => go(""),
    onDetails: (conversation) => detailsDialog(model, conversation),
    onNew: openNew,
  });
  const status = banner(model);
  const element = h("div", { class: "screen" }, status.element, list.element, chat.element);

  /** @param {string} conversationId */
  function go(conversationId) {
    const hash = conversationId ? `#/c/${conversationId}` : " ";
    if (location.hash !== hash) history.pushState(null, "", hash === " " ? location.pathname : hash);
    route();
  }
  function route() {
    const conversation = model.conversations.get(OPEN.exec(location.hash)?.[1] ?? "") ?? null;
    element.classList.toggle("open", conversation !== null);
    list.select(conversation?.id ?? "");
    chat.show(conversation);
  }
  function title() {
    const unread = model.unread;
    document.title = unread > 0 ? `(${unread}) RealChat` : "RealChat";
  }
  let scheduled = false;
  /** Once per turn of the event loop, however much happened in it. */
  function updateSoon() {
    if (scheduled) return;
    scheduled = true;
    queueMicrotask(() => {
      scheduled = false;
      list.update();
      chat.update();
      title();
    });
  }
  /** @param {KeyboardEvent} event */
  function onKey(event) {
    const inDialog = document.querySelector("dialog[open]") !== null;
    if ((event.ctrlKey || event.metaKey) && event.key === "k" && !inDialog) {
      event.preventDefault();
      list.focusSearch();
    } else if (event.key === "Escape" && !inDialog && chat.openId) {
      go("");
    }
  }
  let live = false;
  const stops = [
    model.on("list", updateSoon),
    model.on("conversation", (id) => id === chat.openId && updateSoon()),
    model.on("status", ({ state }) => {
      if (state === "live" && !live) chat.recover();
      live = state === "live";
    }),
    status.stop,
    chat.stop,
  ];
  const tick = setInterval(updateSoon, TICK_MS);
  addEventListener("popstate", route);
  addEventListener("keydown", onKey);

  return {
    element,
    started() {
      list.update();
      route();
      title();
    },
    stop() {
      model.stop();
      clearInterval(tick);
      for (const stop of stops) stop();
      removeEventListener("popstate", route);
      removeEventListener("keydown", onKey);
      for (const dialog of document.querySelectorAll("dialog")) dialog.close();
    },
  };
}
