/**
 * The web chat's beginning: who this tab is, and which screen it shows.
 *
 * Identity is per tab: localStorage holds a session for every account of this browser,
 * sessionStorage says which of them this tab is. Two sign-in links opened in two tabs are two
 * people; a reload stays who it was; a new tab offers the accounts that there are.
 */
import { Accounts, Api, ApiError, Session } from "../js/realchat.js";
import { fill, h } from "./dom.js";
import { screen } from "./screen.js";
import { deviceName, signInView } from "./signin.js";
import { applyTheme } from "./theme.js";
import { Model } from "./model.js";

const TAB_USER = "realchat.user";
const base = location.origin;
const accounts = new Accounts(localStorage);
const openApi = new Api({ base });
const app = /** @type {HTMLElement} */ (document.getElementById("app"));
/** @type {{ stop: () => void } | null} */
let running = null;

/** @param {string} [problem] */
function showSignIn(problem = "") {
  running?.stop();
  running = null;
  sessionStorage.removeItem(TAB_USER);
  document.title = "RealChat";
  const view = signInView({
    api: openApi, accounts: accounts.list(), problem,
    onAnswer: (answer, displayName) => void enter(answer, displayName),
    onPick: (userId) => void become(userId),
  });
  fill(app, view);
}

/**
 * A sign-in was answered: this tab is that user from here on.
 * @param {import("../js/types.js").AuthAnswer} answer
 * @param {string} displayName
 */
async function enter(answer, displayName) {
  const replaced = accounts.get(answer.user_id);
  if (replaced && replaced.device_id !== answer.device_id) {
    // One session per account and browser: the one before is ended, so that none is left behind.
    void openApi.logout(replaced.refresh_token, replaced.access_token).catch(() => undefined);
  }
  const session = accounts.accept(answer);
  if (displayName) accounts.put({ ...session, display_name: displayName });
  await become(answer.user_id);
}

/** @param {string} userId */
async function become(userId) {
  running?.stop();
  running = null;
  sessionStorage.setItem(TAB_USER, userId);
  fill(app, splash());
  const session = new Session({ accounts, userId, api: openApi });
  const api = new Api({ base, token: (options) => session.token(options) });
  try {
    const me = await api.me();
    const stored = accounts.get(userId);
    if (stored) accounts.put({ ...stored, ...names(me), used_at_ms: Date.now() });
    const model = new Model({ base, session, me });
    const view = screen(model, {
      onSignOut: () => void session.signOut().then(() => showSignIn()),
      onSwitch: () => showSignIn(),
    });
    running = view;
    model.on("signed_out", (message) => showSignIn(message));
    model.on("outdated", () => location.reload());
    await model.start();
    fill(app, view.element);
    view.started();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.code === "unreachable" || error.retryable) showUnreachable(userId, error.message);
    else showSignIn(error.message);
  }
}

function splash() {
  return h("div", { class: "welcome", role: "status" }, h("span", { class: "spinner" }), h("span", { class: "visually-hidden" }, "Loading"));
}

/** @param {{ name: string, display_name: string }} me */
function names({ name, display_name }) {
  return { name, display_name };
}

/**
 * The account is fine but the server is away: tries again until it is back.
 * @param {string} userId
 * @param {string} message
 */
function showUnreachable(userId, message) {
  showSignIn(`${message} Trying again…`);
  sessionStorage.setItem(TAB_USER, userId);
  const timer = setTimeout(() => void become(userId), 3_000);
  running = { stop: () => clearTimeout(timer) };
}

/** Signs in with `#code=...`, which is taken out of the address bar before anything else. */
async function useCode() {
  const code = new URLSearchParams(location.hash.slice(1)).get("code");
  if (code === null) return false;
  history.replaceState(null, "", location.pathname + location.search);
  running?.stop();
  running = null;
  fill(app, splash());
  try {
    await enter(await openApi.code({ code, device_name: deviceName() }), "");
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    showSignIn(`This sign-in link does not work: ${reason}`);
  }
  return true;
}

async function begin() {
  applyTheme();
  addEventListener("hashchange", () => void useCode());
  addEventListener("storage", (event) => {
    const userId = Accounts.changed(event);
    const mine = sessionStorage.getItem(TAB_USER);
    if (userId && userId === mine && event.newValue === null) showSignIn("You signed out in another tab.");
  });
  if (await useCode()) return;
  const userId = sessionStorage.getItem(TAB_USER);
  if (userId && accounts.get(userId)) await become(userId);
  else showSignIn();
}

void begin();
