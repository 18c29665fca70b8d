/** Where messages are written. */
import { MESSAGE_TEXT_BYTES_MAX } from "../js/realchat.js";
import { h, icon } from "./dom.js";

/** With fewer bytes left than this the rest is shown. */
const WARN_BYTES = 1_000;
/** The user who has not pressed a key for this long types no longer, in milliseconds. */
const IDLE_MS = 4_000;
const DRAFT = "realchat.draft.";

/**
 * @param {object} options
 * @param {(text: string) => void} options.onSend
 * @param {(active: boolean) => void} options.onTyping
 */
export function composer({ onSend, onTyping }) {
  let draftKey = "";
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let idle;
  const input = h("textarea", {
    rows: "1", "aria-label": "Message",
    "aria-describedby": "composer-hint", autocomplete: "off", enterkeyhint: "send",
  });
  input.placeholder = "Write a message";
  const rest = h("span", { class: "rest", role: "status" });
  const button = h("button", { type: "submit", class: "send", "aria-label": "Send", title: "Send" }, icon("send"));
  const hint = h("span", { id: "composer-hint", class: "visually-hidden" }, "Enter sends, Shift and Enter starts a new line.");
  const element = h("form", { class: "composer", onsubmit: submit }, h("div", { class: "box" }, input, rest), button, hint);
  const bytes = () => new TextEncoder().encode(input.value.trim()).length;

  function stopTyping() {
    clearTimeout(idle);
    onTyping(false);
  }
  function update() {
    const left = MESSAGE_TEXT_BYTES_MAX - bytes();
    rest.textContent = left < 0 ? `${-left} too many` : left < WARN_BYTES ? `${left} left` : "";
    rest.classList.toggle("over", left < 0);
    button.disabled = input.value.trim() === "" || left < 0;
    input.style.height = "auto";
    input.style.height = `${input.scrollHeight}px`;
  }
  /** @param {Event} event */
  function submit(event) {
    event.preventDefault();
    update();
    if (button.disabled) return;
    const text = input.value.trim();
    input.value = "";
    sessionStorage.removeItem(draftKey);
    stopTyping();
    onSend(text);
    update();
    input.focus();
  }
  input.addEventListener("input", () => {
    update();
    if (input.value) sessionStorage.setItem(draftKey, input.value);
    else sessionStorage.removeItem(draftKey);
    clearTimeout(idle);
    if (input.value.trim() === "") return onTyping(false);
    onTyping(true);
    idle = setTimeout(stopTyping, IDLE_MS);
  });
  input.addEventListener("blur", stopTyping);
  input.addEventListener("keydown", (event) => {
    // On a touch keyboard Enter makes a new line; while composing it picks a word.
    const sends = event.key === "Enter" && !event.shiftKey && !event.isComposing;
    if (sends && !matchMedia("(pointer: coarse)").matches) submit(event);
  });

  return {
    element,
    focus: () => input.focus(),
    /**
     * Goes on with what was written in this conversation.
     * @param {string} conversationId
     * @param {boolean} enabled
     */
    open(conversationId, enabled) {
      draftKey = DRAFT + conversationId;
      input.value = sessionStorage.getItem(draftKey) ?? "";
      element.hidden = !enabled;
      update();
    },
  };
}
