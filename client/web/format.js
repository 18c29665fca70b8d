/** How names, colours and times are shown. */

/** The number of avatar colours in the style sheet. */
const TONES = 10;
const DAY_MS = 86_400_000;

/** @param {string} name */
export function initials(name) {
  const words = name.trim().split(/[\s._-]+/u).filter(Boolean);
  const letters = words.length > 1 ? [words[0], words[words.length - 1]] : words;
  return letters.map((word) => [...word][0]?.toUpperCase() ?? "").join("") || "?";
}

/**
 * The same colour for the same person, everywhere.
 * @param {string} id
 */
export function tone(id) {
  // FNV-1a, 32 bits.
  let hash = 0x811c9dc5;
  for (const letter of id) hash = Math.imul(hash ^ (letter.codePointAt(0) ?? 0), 0x01000193);
  return (hash >>> 0) % TONES;
}

const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "numeric", minute: "2-digit" });
const WEEKDAY = new Intl.DateTimeFormat(undefined, { weekday: "long" });
const WEEKDAY_SHORT = new Intl.DateTimeFormat(undefined, { weekday: "short" });
const DATE = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
const DATE_YEAR = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "long", year: "numeric" });
const DATE_SHORT = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const FULL = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "short" });

const NUMBER = new Intl.NumberFormat();

/** @param {number} number */
export const count = (number) => NUMBER.format(number);
/** @param {number} us */
export const clock = (us) => CLOCK.format(us / 1000);
/** @param {number} us */
export const fullTime = (us) => FULL.format(us / 1000);

/**
 * The local day, counted in days.
 * @param {number} us
 */
export function dayOf(us) {
  const date = new Date(us / 1000);
  return Date.UTC(date.getFullYear(), date.getMonth(), date.getDate()) / DAY_MS;
}

/** @param {number} us @param {number} nowMs */
function daysAgo(us, nowMs) {
  return dayOf(nowMs * 1000) - dayOf(us);
}

/**
 * A day separator's text.
 * @param {number} us
 * @param {number} [nowMs]
 */
export function dayLabel(us, nowMs = Date.now()) {
  const ago = daysAgo(us, nowMs);
  if (ago <= 0) return "Today";
  if (ago === 1) return "Yesterday";
  if (ago < 7) return WEEKDAY.format(us / 1000);
  const sameYear = new Date(us / 1000).getFullYear() === new Date(nowMs).getFullYear();
  return (sameYear ? DATE : DATE_YEAR).format(us / 1000);
}

/**
 * As short as a list wants it: the time today, the weekday this week, the date before.
 * @param {number} us
 * @param {number} [nowMs]
 */
export function shortTime(us, nowMs = Date.now()) {
  const ago = daysAgo(us, nowMs);
  if (ago <= 0) return clock(us);
  if (ago === 1) return "Yesterday";
  return (ago < 7 ? WEEKDAY_SHORT : DATE_SHORT).format(us / 1000);
}

/**
 * @param {{ online: boolean, lastSeenUs: number } | undefined} presence
 * @param {number} [nowMs]
 * @returns {string} empty when nothing is known
 */
export function presenceLabel(presence, nowMs = Date.now()) {
  if (!presence) return "";
  if (presence.online) return "Online";
  if (presence.lastSeenUs === 0) return "Offline";
  const minutes = Math.floor((nowMs - presence.lastSeenUs / 1000) / 60_000);
  if (minutes < 1) return "Last seen just now";
  if (minutes < 60) return `Last seen ${minutes} min ago`;
  const day = dayLabel(presence.lastSeenUs, nowMs);
  const when = day === "Today" ? "" : day === "Yesterday" ? "yesterday at " : `${day}, `;
  return `Last seen ${when}${when ? "" : "at "}${clock(presence.lastSeenUs)}`;
}

/**
 * "Ada", "Ada and Bob", "Ada, Bob and 3 others".
 * @param {string[]} names
 * @param {number} [most]
 */
export function listed(names, most = 3) {
  if (names.length <= 1) return names[0] ?? "";
  const shown = names.slice(0, names.length > most ? most - 1 : names.length);
  const rest = names.length - shown.length;
  if (rest > 0) return `${shown.join(", ")} and ${rest} others`;
  return `${shown.slice(0, -1).join(", ")} and ${shown[shown.length - 1]}`;
}

/**
 * Cuts a text into plain parts and web addresses.
 * @param {string} text
 * @returns {{ text: string, href: string | null }[]}
 */
export function withLinks(text) {
  const parts = [];
  let end = 0;
  for (const match of text.matchAll(/https?:\/\/[^\s<>"']+/gu)) {
    const address = match[0].replace(/[.,;:!?)\]]+$/u, "");
    if (!URL.canParse(address)) continue;
    if (match.index > end) parts.push({ text: text.slice(end, match.index), href: null });
    parts.push({ text: address, href: address });
    end = match.index + address.length;
  }
  if (end < text.length) parts.push({ text: text.slice(end), href: null });
  return parts;
}

/**
 * One to three emoji and nothing else: shown large.
 * @param {string} text
 */
export function isEmojiOnly(text) {
  const trimmed = text.trim();
  if (trimmed.length > 32 || !/^(?:\p{Extended_Pictographic}|\p{Emoji_Component}|\s)+$/u.test(trimmed)) {
    return false;
  }
  return /\p{Extended_Pictographic}/u.test(trimmed) && [...new Intl.Segmenter().segment(trimmed)].length <= 3;
}
