/** Building and updating the page. Text only ever becomes text: nothing here parses HTML. */

/** @typedef {Node | string | null | undefined | false} Child */
/** @typedef {Record<string, any>} Attributes */

/**
 * An element. `on*` attributes are listeners, `class` is the class list, booleans set or leave out
 * an attribute, everything else is set as an attribute.
 *
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Attributes} [attributes]
 * @param {...Child} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...present(children));
  return element;
}

/** @param {Child[]} children @returns {(Node | string)[]} */
function present(children) {
  return /** @type {(Node | string)[]} */ (
    children.filter((it) => it !== null && it !== undefined && it !== false && it !== "")
  );
}

/**
 * Makes the children of an element these.
 * @param {Element} element
 * @param {...Child} children
 */
export function fill(element, ...children) {
  element.replaceChildren(...present(children));
}

/**
 * One child of a list that is kept up to date: rebuilt only when its stamp changes.
 * @typedef {{ key: string, stamp: string, render: () => HTMLElement }} Row
 */

/** @type {WeakMap<Element, Map<string, { stamp: string, element: HTMLElement }>>} */
const rendered = new WeakMap();

/**
 * Makes the children of a container these rows, touching only what changed.
 * @param {Element} container
 * @param {Row[]} rows with keys that are each one's own
 */
export function reconcile(container, rows) {
  const before = rendered.get(container) ?? new Map();
  /** @type {typeof before} */
  const after = new Map();
  /** @type {ChildNode | null} */
  let place = container.firstChild;
  for (const { key, stamp, render } of rows) {
    const known = before.get(key);
    const element = known?.stamp === stamp ? known.element : render();
    if (known && element !== known.element) {
      if (known.element === place) place = known.element.nextSibling;
      known.element.remove();
    }
    if (element === place) place = element.nextSibling;
    else container.insertBefore(element, place);
    after.set(key, { stamp, element });
  }
  for (const [key, { element }] of before) {
    if (after.get(key)?.element !== element) element.remove();
  }
  rendered.set(container, after);
}

const SVG = "http://www.w3.org/2000/svg";

/** Strokes on a 24 by 24 grid. */
const ICONS = {
  back: "M15 5l-7 7 7 7",
  check: "M5 12.5l4.5 4.5L19 7.5",
  checks: "M2.5 12.5l4.5 4.5L16 7.5M11.5 16.5l.5.5 9.5-9.5",
  clock: "M12 7.5V12l3 2M12 3.5a8.5 8.5 0 1 0 0 17 8.5 8.5 0 0 0 0-17z",
  close: "M6 6l12 12M18 6L6 18",
  down: "M6 9.5l6 6 6-6",
  more: "M5.5 12h.01M12 12h.01M18.5 12h.01",
  offline: "M3 3l18 18M8.5 16.5a5 5 0 0 1 6.6-.3M5.2 12.7a10 10 0 0 1 4-2.4M14.5 10.2a10 10 0 0 1 4.3 2.5M2 9a15 15 0 0 1 4.2-2.8M10.3 5a15 15 0 0 1 11.7 4M12 20h.01",
  people: "M9 11.5a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7zM2.5 19.5c.5-3.3 3-5.5 6.5-5.5s6 2.2 6.5 5.5M16 4.8a3.5 3.5 0 0 1 0 6.4M18 14.5c2 .8 3.2 2.5 3.5 5",
  pencil: "M12 20h8M15.5 4.5a2.1 2.1 0 0 1 3 3L8 18l-4 1 1-4z",
  search: "M10.5 17a6.5 6.5 0 1 0 0-13 6.5 6.5 0 0 0 0 13zM20 20l-4.8-4.8",
  send: "M5 12h13M12.5 6l6 6-6 6",
  warning: "M12 8.5v4.5M12 16.5h.01M10.3 4.3L2.9 17.5a2 2 0 0 0 1.7 3h14.8a2 2 0 0 0 1.7-3L13.7 4.3a2 2 0 0 0-3.4 0z",
};

/**
 * @param {keyof typeof ICONS} name
 * @param {string} [label] for people who cannot see it; without one it is decoration
 * @returns {SVGSVGElement}
 */
export function icon(name, label) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "icon");
  if (label) {
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", label);
    const title = document.createElementNS(SVG, "title");
    title.textContent = label;
    svg.append(title);
  } else {
    svg.setAttribute("aria-hidden", "true");
  }
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/**
 * @param {keyof typeof ICONS} name
 * @param {string} label
 * @param {() => void} onclick
 * @param {string} [className]
 */
export function iconButton(name, label, onclick, className = "") {
  return h(
    "button",
    { type: "button", class: `icon-button ${className}`, "aria-label": label, title: label, onclick },
    icon(name),
  );
}
