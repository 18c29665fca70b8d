/** Finding people by name and choosing some. */
import { fill, h, icon } from "./dom.js";
import { avatar } from "./parts.js";

/** @typedef {import("../js/types.js").User} User */

/** The search begins when nothing was typed for this long, in milliseconds. */
const PAUSE_MS = 180;

/**
 * @param {object} options
 * @param {string} options.label
 * @param {(query: string) => Promise<User[]>} options.search
 * @param {(chosen: User[]) => void} options.onChange
 * @param {(problem: unknown) => void} options.onProblem
 */
export function peoplePicker({ label, search, onChange, onProblem }) {
  /** @type {User[]} */
  let chosen = [];
  /** @type {User[]} */
  let found = [];
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  let asked = 0;
  const chips = h("ul", { class: "chips", "aria-label": "Chosen" });
  const input = h("input", {
    type: "text", role: "searchbox", "aria-label": label, autocomplete: "off",
    autocapitalize: "none", spellcheck: "false",
  });
  input.placeholder = label;
  const results = h("ul", { class: "people", "aria-label": "People found" });
  const status = h("p", { class: "hint", role: "status" });
  const element = h("div", { class: "picker" }, chips, h("div", { class: "search" }, icon("search"), input), status, results);

  /** @param {User} user */
  function choose(user) {
    const known = chosen.some((it) => it.user_id === user.user_id);
    chosen = known ? chosen.filter((it) => it.user_id !== user.user_id) : [...chosen, user];
    input.value = "";
    found = [];
    show();
    onChange(chosen);
    input.focus();
  }
  function show() {
    fill(chips, ...chosen.map((user) => h(
      "li", {},
      h("button", { type: "button", "aria-label": `Remove ${user.display_name}`, onclick: () => choose(user) }, user.display_name || user.name, icon("close")),
    )));
    const rest = found.filter((user) => !chosen.some((it) => it.user_id === user.user_id));
    fill(results, ...rest.map((user) => h(
      "li", {},
      h(
        "button", { type: "button", onclick: () => choose(user) },
        avatar({ id: user.user_id, name: user.display_name || user.name }),
        h("span", { class: "who" }, h("strong", {}, user.display_name || user.name), h("span", {}, `@${user.name}`)),
      ),
    )));
  }
  async function find() {
    const query = input.value.trim().replace(/^@/, "").toLowerCase();
    asked += 1;
    const mine = asked;
    if (query === "") {
      found = [];
      status.textContent = "";
      return show();
    }
    try {
      const users = await search(query);
      if (mine !== asked) return;
      found = users;
      status.textContent = users.length === 0 ? `Nobody’s name begins with “${query}”.` : "";
      onProblem("");
    } catch (error) {
      onProblem(error);
    }
    show();
  }
  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => void find(), PAUSE_MS);
  });
  input.addEventListener("keydown", (event) => {
    if (event.key === "Backspace" && input.value === "" && chosen.length > 0) choose(chosen[chosen.length - 1]);
    if (event.key !== "Enter" || input.value.trim() === "") return;
    event.preventDefault();
    clearTimeout(timer);
    void find().then(() => {
      const name = input.value.trim().replace(/^@/, "").toLowerCase();
      const first = found.find((user) => user.name === name) ?? (found.length === 1 ? found[0] : null);
      if (first) choose(first);
    });
  });
  show();
  return {
    element,
    focus: () => input.focus(),
    clear() {
      chosen = [];
      show();
    },
  };
}
