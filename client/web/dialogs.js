/** What opens above the page: a new conversation, a conversation's members, the user's profile. */
import { fill, h, iconButton } from "./dom.js";
import { presenceLabel } from "./format.js";
import { alertBox, avatar, busy, field } from "./parts.js";
import { peoplePicker } from "./people-picker.js";
import { setTheme, theme } from "./theme.js";

/** @typedef {import("./model.js").Model} Model */
/** @typedef {import("./conversation.js").Conversation} Conversation */
/** @typedef {import("../js/types.js").User} User */

/**
 * A modal dialog; Escape, the cross and a click outside close it.
 * @param {string} title
 * @param {...(Node | string | false)} content
 */
export function openDialog(title, ...content) {
  const dialog = h("dialog", { "aria-labelledby": "dialog-title" });
  const close = () => dialog.close();
  fill(
    dialog,
    h("header", {}, h("h2", { id: "dialog-title" }, title), iconButton("close", "Close", close)),
    h("div", { class: "dialog-body" }, ...content),
  );
  dialog.addEventListener("click", (event) => event.target === dialog && close());
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  return { dialog, close };
}

/**
 * @param {Model} model
 * @param {(conversation: Conversation) => void} onOpen
 */
export function newConversationDialog(model, onOpen) {
  /** @type {User[]} */
  let people = [];
  const alert = alertBox();
  const title = field("Name of the conversation", { name: "title", maxlength: "80" });
  title.input.placeholder = "Optional";
  title.element.hidden = true;
  const button = h("button", { type: "button", class: "primary", disabled: true }, "Start conversation");
  const picker = peoplePicker({
    label: "Search people by name",
    search: (query) => model.search(query),
    onProblem: (problem) => alert.show(problem),
    onChange(chosen) {
      people = chosen;
      button.disabled = people.length === 0;
      title.element.hidden = people.length < 2;
    },
  });
  button.onclick = () => void busy(button, alert, async () => {
    const name = people.length < 2 ? "" : title.input.value.trim();
    const conversation = await model.converse(people, name);
    close();
    onOpen(conversation);
  });
  const { close } = openDialog("New conversation", picker.element, title.element, alert.element, h("footer", {}, button));
  picker.focus();
}

/**
 * @param {Model} model
 * @param {Conversation} conversation
 */
export function detailsDialog(model, conversation) {
  const { api } = model.chat;
  const alert = alertBox();
  const members = h("ul", { class: "people", "aria-label": "Members" });
  /** @type {User[]} */
  let adding = [];
  const add = h("button", { type: "button", class: "primary", disabled: true }, "Add");
  const picker = peoplePicker({
    label: "Add people by name",
    search: async (query) =>
      (await model.search(query)).filter((user) => !conversation.memberIds.has(user.user_id)),
    onProblem: (problem) => alert.show(problem),
    onChange(chosen) {
      adding = chosen;
      add.disabled = chosen.length === 0;
    },
  });
  add.onclick = () => void busy(add, alert, async () => {
    await api.addMembers(conversation.id, { user_ids: adding.map((user) => user.user_id) });
    picker.clear();
  }).then(() => (add.disabled = true));
  const title = field("Name", { name: "title", maxlength: "80", value: conversation.title });
  title.input.placeholder = "No name";
  const save = h("button", { type: "submit", class: "secondary" }, "Save");
  const rename = h("form", { class: "inline", onsubmit: (/** @type {Event} */ event) => {
    event.preventDefault();
    void busy(save, alert, () => api.rename(conversation.id, title.input.value.trim()));
  } }, title.element, save);
  const leave = h("button", { type: "button", class: "danger" }, "Leave conversation");
  leave.onclick = () => {
    if (leave.dataset.sure !== "yes") {
      leave.dataset.sure = "yes";
      leave.textContent = "Leave? Press again to confirm";
      return;
    }
    void busy(leave, alert, async () => {
      await api.removeMember(conversation.id, model.me.user_id);
      close();
    });
  };
  const show = () => fill(members, ...[...conversation.memberIds].map((id) => memberItem(model, conversation, id, alert)));
  const { dialog, close } = openDialog(
    model.title(conversation), rename, h("h3", {}, "Members"), members, picker.element,
    h("div", { class: "inline end" }, add), alert.element, h("footer", {}, leave),
  );
  const stops = [
    model.on("list", show),
    model.on("conversation", (id) => id === conversation.id && show()),
  ];
  dialog.addEventListener("close", () => stops.forEach((stop) => stop()));
  show();
}

/**
 * @param {Model} model
 * @param {Conversation} conversation
 * @param {string} userId
 * @param {ReturnType<typeof alertBox>} alert
 */
function memberItem(model, conversation, userId, alert) {
  const me = userId === model.me.user_id;
  const presence = model.presence.get(userId);
  const label = me ? "You" : presenceLabel(presence);
  const remove = iconButton("close", `Remove ${model.name(userId)}`, () => {
    void busy(remove, alert, () => model.chat.api.removeMember(conversation.id, userId));
  });
  return h(
    "li", { class: "person" },
    avatar({ id: userId, name: model.name(userId), online: me || (presence?.online ?? false) }),
    h(
      "span", { class: "who" },
      h("strong", {}, model.name(userId)),
      h("span", {}, [`@${model.users.get(userId)?.name ?? ""}`, label].filter(Boolean).join(" · ")),
    ),
    !me && remove,
  );
}

/**
 * @param {Model} model
 * @param {() => void} onSignOut
 * @param {() => void} onSwitch
 */
export function profileDialog(model, onSignOut, onSwitch) {
  const alert = alertBox();
  const display = field("Your name", { name: "display_name", maxlength: "64", value: model.me.display_name });
  const about = field("About you", { name: "about", maxlength: "140", value: model.me.about ?? "" });
  const save = h("button", { type: "submit", class: "primary" }, "Save");
  const form = h("form", { class: "stack", onsubmit: (/** @type {Event} */ event) => {
    event.preventDefault();
    void busy(save, alert, async () => {
      await model.updateProfile({ display_name: display.input.value.trim(), about: about.input.value.trim() });
      close();
    });
  } }, display.element, about.element, save);
  const { close } = openDialog(
    "Profile and settings",
    h(
      "div", { class: "profile" },
      avatar({ id: model.me.user_id, name: model.name(model.me.user_id), size: "large" }),
      h("span", { class: "who" }, h("strong", {}, model.name(model.me.user_id)), h("span", {}, `@${model.me.name}`)),
    ),
    form, alert.element, themeChoice(),
    h(
      "footer", {},
      h("button", { type: "button", class: "secondary", onclick: () => (close(), onSwitch()) }, "Use another account"),
      h("button", { type: "button", class: "danger", onclick: () => (close(), onSignOut()) }, "Sign out"),
    ),
  );
}

function themeChoice() {
  const options = /** @type {const} */ ([["system", "Like the system"], ["light", "Light"], ["dark", "Dark"]]);
  return h(
    "fieldset", { class: "choice" },
    h("legend", {}, "Appearance"),
    ...options.map(([value, label]) => h(
      "label", {},
      h("input", {
        type: "radio", name: "theme", value, checked: theme() === value, onchange: () => setTheme(value),
      }),
      h("span", {}, label),
    )),
  );
}
