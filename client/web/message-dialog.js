/** What one may do with a message: react, and with one's own, edit and delete. */
import { openDialog } from "./dialogs.js";
import { h } from "./dom.js";
import { alertBox, busy } from "./parts.js";

/** @typedef {import("./model.js").Model} Model */
/** @typedef {import("./conversation.js").Conversation} Conversation */
/** @typedef {import("./timeline.js").MessageLine} MessageLine */

/** Reactions that are offered; the API takes any emoji or short word. */
const OFFERED = ["👍", "❤️", "😂", "😮", "😢", "🙏"];

/**
 * @param {Model} model
 * @param {Conversation} conversation
 * @param {MessageLine} line
 */
export function messageDialog(model, conversation, line) {
  const { api } = model.chat;
  const alert = alertBox();
  const reactions = OFFERED.map((reaction) => {
    const removed = line.reactions.some((it) => it.own && it.reaction === reaction);
    const button = h("button", { type: "button", "aria-pressed": String(removed), "aria-label": `React with ${reaction}` }, reaction);
    button.onclick = () => void busy(button, alert, async () => {
      await api.react(conversation.id, line.messageId, { reaction, removed });
      close();
    });
    return button;
  });
  const { close } = openDialog(
    "Message", h("div", { class: "offered" }, ...reactions), line.own && ownPart(), alert.element,
  );

  function ownPart() {
    const text = h("textarea", { name: "text", rows: "3", "aria-label": "Text" });
    text.value = line.text;
    const save = h("button", { type: "submit", class: "primary" }, "Save");
    const remove = h("button", { type: "button", class: "danger" }, "Delete message");
    remove.onclick = () => void busy(remove, alert, async () => {
      await api.deleteMessage(conversation.id, line.messageId);
      close();
    });
    return h("form", { class: "edit", onsubmit: (/** @type {Event} */ event) => {
      event.preventDefault();
      void busy(save, alert, async () => {
        if (text.value !== line.text) await api.editMessage(conversation.id, line.messageId, text.value);
        close();
      });
    } }, text, h("footer", {}, remove, save));
  }
}
