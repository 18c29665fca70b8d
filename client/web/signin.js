/** The first screen: the accounts of this browser, signing in, creating an account. */
import { fill, h } from "./dom.js";
import { alertBox, avatar, brand, busy, field } from "./parts.js";

/** @typedef {import("../js/realchat.js").Api} Api */
/** @typedef {import("../js/types.js").AuthAnswer} AuthAnswer */
/** @typedef {ReturnType<import("../js/realchat.js").Accounts["list"]>[number]} StoredSession */

/**
 * @param {object} options
 * @param {Api} options.api
 * @param {StoredSession[]} options.accounts signed in in this browser
 * @param {string} options.problem why the user is here, if there is something to say
 * @param {(answer: AuthAnswer, displayName: string) => void} options.onAnswer
 * @param {(userId: string) => void} options.onPick
 */
export function signInView({ api, accounts, problem, onAnswer, onPick }) {
  const alert = alertBox();
  alert.show(problem);
  const form = h("form", { class: "stack", novalidate: true });
  const tabs = h("div", { class: "tabs", role: "tablist", "aria-label": "How to continue" });
  const show = (/** @type {boolean} */ registering) => {
    fill(
      tabs,
      tab("Sign in", !registering, () => show(false)),
      tab("Create account", registering, () => show(true)),
    );
    (registering ? registerForm : loginForm)(form, api, alert, onAnswer);
  };
  show(false);
  const card = h(
    "main", { class: "card" },
    brand(),
    h("h1", {}, accounts.length > 0 ? "Welcome back" : "Good to see you"),
    h("p", { class: "lead" }, accounts.length > 0 ? "Choose an account, or use another one." : "Sign in to pick up your conversations, or create an account in a moment."),
    accounts.length > 0 && accountList(accounts, onPick),
    tabs, alert.element, form,
  );
  return h("div", { class: "welcome" }, card);
}

/**
 * @param {string} label
 * @param {boolean} selected
 * @param {() => void} onclick
 */
function tab(label, selected, onclick) {
  return h("button", { type: "button", role: "tab", "aria-selected": String(selected), onclick }, label);
}

/**
 * @param {StoredSession[]} accounts
 * @param {(userId: string) => void} onPick
 */
function accountList(accounts, onPick) {
  return h(
    "ul", { class: "accounts", "aria-label": "Accounts in this browser" },
    ...accounts.map((account) => {
      const name = account.display_name || account.name;
      return h(
        "li", {},
        h(
          "button", { type: "button", onclick: () => onPick(account.user_id) },
          avatar({ id: account.user_id, name }),
          h("span", { class: "who" }, h("strong", {}, name), h("span", {}, `@${account.name}`)),
        ),
      );
    }),
  );
}

/**
 * @param {HTMLFormElement} form
 * @param {Api} api
 * @param {ReturnType<typeof alertBox>} alert
 * @param {(answer: AuthAnswer, displayName: string) => void} onAnswer
 */
function loginForm(form, api, alert, onAnswer) {
  const name = field("Name", { name: "name", autocomplete: "username", autocapitalize: "none", maxlength: "32" });
  const password = field("Password", { name: "password", type: "password", autocomplete: "current-password" });
  const button = h("button", { class: "primary", type: "submit" }, "Sign in");
  fill(form, name.element, password.element, button);
  form.onsubmit = (event) => {
    event.preventDefault();
    void busy(button, alert, async () => {
      const given = { name: name.input.value.trim().toLowerCase(), password: password.input.value };
      need(given.name, name.input, "Enter your name");
      need(given.password, password.input, "Enter your password");
      onAnswer(await api.login({ ...given, device_name: deviceName() }), "");
    });
  };
}

/**
 * @param {HTMLFormElement} form
 * @param {Api} api
 * @param {ReturnType<typeof alertBox>} alert
 * @param {(answer: AuthAnswer, displayName: string) => void} onAnswer
 */
function registerForm(form, api, alert, onAnswer) {
  const display = field("Your name", { name: "display_name", autocomplete: "name", maxlength: "64" }, "As others see it.");
  const name = field(
    "Account name", { name: "name", autocomplete: "username", autocapitalize: "none", maxlength: "32" },
    "2 to 32 of a–z, 0–9, dot, dash, underscore. Others find you by it.",
  );
  const password = field("Password", { name: "password", type: "password", autocomplete: "new-password" }, "At least 8 characters.");
  const button = h("button", { class: "primary", type: "submit" }, "Create account");
  fill(form, display.element, name.element, password.element, button);
  form.onsubmit = (event) => {
    event.preventDefault();
    void busy(button, alert, async () => {
      const displayName = display.input.value.trim();
      const account = {
        name: name.input.value.trim().toLowerCase(),
        password: password.input.value,
        display_name: displayName || undefined,
        device_name: deviceName(),
      };
      need(account.name, name.input, "Choose an account name");
      need(account.password, password.input, "Choose a password");
      onAnswer(await api.register(account), displayName);
    });
  };
}

/**
 * @param {string} value
 * @param {HTMLInputElement} input
 * @param {string} message
 */
function need(value, input, message) {
  if (value !== "") return;
  input.focus();
  throw new Error(message);
}

/** @returns {string} how this device is listed, e.g. "Firefox on Linux" */
export function deviceName() {
  const agent = navigator.userAgent;
  const browser = /Edg\//.test(agent) ? "Edge"
    : /Firefox\//.test(agent) ? "Firefox"
    : /Chrome\//.test(agent) ? "Chrome"
    : /Safari\//.test(agent) ? "Safari" : "Browser";
  const system = /Android/.test(agent) ? "Android"
    : /iPhone|iPad/.test(agent) ? "iOS"
    : /Windows/.test(agent) ? "Windows"
    : /Mac OS/.test(agent) ? "macOS"
    : /Linux/.test(agent) ? "Linux" : "";
  return system ? `${browser} on ${system}` : browser;
}
