/** Small pieces that several views show. */
import { h } from "./dom.js";
import { initials, tone } from "./format.js";

/** @typedef {import("./model.js").Model} Model */
/** @typedef {import("./conversation.js").Conversation} Conversation */

/**
 * @param {{ id: string, name: string, size?: "small" | "large", group?: boolean,
 *   online?: boolean }} options
 */
export function avatar({ id, name, size, group = false, online = false }) {
  const classes = ["avatar", `tone-${tone(id)}`, size ?? "", group ? "group" : "", online ? "online" : ""];
  return h("span", { class: classes.filter(Boolean).join(" "), "aria-hidden": "true" }, initials(name));
}

/**
 * @param {Model} model
 * @param {Conversation} conversation
 */
export function conversationAvatar(model, conversation) {
  const other = model.other(conversation);
  const online = other !== null && (model.presence.get(other)?.online ?? false);
  return avatar({
    id: other ?? conversation.id, name: model.title(conversation), group: other === null, online,
  });
}

/** The mark and the name. */
export function brand() {
  return h("div", { class: "brand" }, h("img", { src: "icon.svg", alt: "", width: "36", height: "36" }), "RealChat");
}

/**
 * A labelled text field.
 * @param {string} label
 * @param {Record<string, any>} attributes of the input
 * @param {string} [hint]
 */
export function field(label, attributes, hint) {
  const input = h("input", { id: `field-${attributes.name}`, spellcheck: "false", ...attributes });
  const hintId = `hint-${attributes.name}`;
  if (hint) input.setAttribute("aria-describedby", hintId);
  const element = h(
    "div", { class: "field" },
    h("label", { for: input.id }, label), input,
    hint && h("p", { class: "hint", id: hintId }, hint),
  );
  return { element, input };
}

/** A place where errors are said aloud. */
export function alertBox() {
  const element = h("p", { class: "alert", role: "alert" });
  return {
    element,
    /** @param {unknown} problem an error, a text, or nothing to clear it */
    show(problem) {
      const text = problem instanceof Error ? problem.message : String(problem ?? "");
      element.textContent = text && !/[.!?…]$/u.test(text) ? `${text}.` : text;
    },
  };
}

/**
 * Runs what a button does, once at a time, and shows what went wrong.
 * @param {HTMLButtonElement} button
 * @param {{ show: (problem: unknown) => void }} alert
 * @param {() => Promise<unknown>} work
 */
export async function busy(button, alert, work) {
  if (button.disabled) return;
  alert.show("");
  button.disabled = true;
  try {
    await work();
  } catch (error) {
    alert.show(error);
  } finally {
    button.disabled = false;
  }
}
