/** Says when the page is not connected, and what that means. */
import { fill, h, icon } from "./dom.js";

/** A shorter interruption is not worth a word, in milliseconds. */
const PATIENCE_MS = 900;

/** @param {import("./model.js").Model} model */
export function banner(model) {
  const element = h("div", { class: "banner", role: "status", "aria-live": "polite", hidden: true });
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let patience;
  /** @type {ReturnType<typeof setInterval> | undefined} */
  let ticking;
  let shown = "";
  let beenLive = false;

  function show() {
    const { state, retryAt } = model.status;
    const seconds = Math.max(0, Math.ceil((retryAt - Date.now()) / 1000));
    const waits = state === "waiting" && seconds > 1;
    const text =
      state === "syncing" ? "Catching up…"
      : !navigator.onLine ? "You are offline. What you write is kept and sent when you are back."
      : !beenLive ? "Connecting…"
      : "No connection. What you write is kept and sent when it is back.";
    element.hidden = false;
    const key = `${text}${waits}`;
    const when = waits ? `Trying again in ${seconds} s` : "";
    if (key === shown) {
      const place = element.querySelector(".when");
      if (place) place.textContent = when;
      return;
    }
    shown = key;
    fill(
      element, icon(state === "syncing" ? "clock" : "offline"), h("span", {}, text),
      // Counting down aloud would be a nuisance.
      waits && h("span", { class: "when", "aria-hidden": "true" }, when),
      waits && h("button", { type: "button", onclick: () => model.chat.wake() }, "Try now"),
    );
  }
  function update() {
    const { state } = model.status;
    if (state === "live") {
      beenLive = true;
      shown = "";
      clearTimeout(patience);
      clearInterval(ticking);
      patience = ticking = undefined;
      element.hidden = true;
      return;
    }
    if (!element.hidden) show();
    patience ??= setTimeout(() => {
      show();
      ticking = setInterval(show, 500);
    }, navigator.onLine ? PATIENCE_MS : 0);
  }
  const stop = model.on("status", update);
  update();
  return {
    element,
    stop() {
      stop();
      clearTimeout(patience);
      clearInterval(ticking);
    },
  };
}
