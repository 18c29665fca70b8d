/**
 * Who is signed in in this browser, and each one's tokens.
 *
 * A refresh token works once, and using it twice signs the account out; so the tabs of a browser
 * share one stored session per account and take turns (a lock) at renewing it.
 */
import { ApiError } from "./api.js";
import { LOCK_MS, SIGN_OUT_PATIENCE_MS, TOKEN_RENEW_FRACTION } from "./limits.js";

const PREFIX = "realchat.session.";

/**
 * @typedef {object} StoredSession
 * @property {string} user_id
 * @property {string} name
 * @property {string} display_name
 * @property {string} device_id
 * @property {string} access_token
 * @property {string} refresh_token
 * @property {number} expires_at_ms by this device's clock
 * @property {number} lifetime_ms of the access token when it was new
 * @property {number} used_at_ms
 */

/** The sessions kept in a Storage (localStorage in a browser), one per account. */
export class Accounts {
  #storage;

  /** @param {Storage} storage */
  constructor(storage) {
    this.#storage = storage;
  }

  /** @returns {StoredSession[]} the one used last first */
  list() {
    const sessions = [];
    for (let index = 0; index < this.#storage.length; index += 1) {
      const key = this.#storage.key(index);
      const session = key?.startsWith(PREFIX) ? this.get(key.slice(PREFIX.length)) : null;
      if (session) sessions.push(session);
    }
    return sessions.sort((a, b) => b.used_at_ms - a.used_at_ms);
  }

  /**
   * @param {string} userId
   * @returns {StoredSession | null}
   */
  get(userId) {
    try {
      const session = JSON.parse(this.#storage.getItem(PREFIX + userId) ?? "null");
      return typeof session?.refresh_token === "string" ? session : null;
    } catch {
      return null;
    }
  }

  /** @param {StoredSession} session */
  put(session) {
    this.#storage.setItem(PREFIX + session.user_id, JSON.stringify(session));
  }

  /**
   * Keeps what a sign-in or a renewal answered.
   * @param {import("./types.js").AuthAnswer} answer
   * @returns {StoredSession}
   */
  accept(answer) {
    const before = this.get(answer.user_id);
    const lifetime = answer.expires_in * 1000;
    const session = {
      user_id: answer.user_id,
      device_id: answer.device_id,
      name: answer.name ?? before?.name ?? "",
      display_name: before?.display_name ?? answer.name ?? "",
      access_token: answer.access_token,
      refresh_token: answer.refresh_token,
      expires_at_ms: Date.now() + lifetime,
      lifetime_ms: lifetime,
      used_at_ms: Date.now(),
    };
    this.put(session);
    return session;
  }

  /** @param {string} userId */
  remove(userId) {
    this.#storage.removeItem(PREFIX + userId);
  }

  /**
   * @param {StorageEvent} event
   * @returns {string | null} the user whose session another tab changed
   */
  static changed(event) {
    return event.key?.startsWith(PREFIX) ? event.key.slice(PREFIX.length) : null;
  }
}

/** One account's tokens, renewed when they have to be. */
export class Session {
  #accounts;
  #api;
  /** @type {Promise<string> | null} */
  #renewal = null;

  /**
   * @param {{ accounts: Accounts, api: import("./api.js").Api, userId: string }} options
   */
  constructor({ accounts, api, userId }) {
    this.#accounts = accounts;
    this.#api = api;
    this.userId = userId;
  }

  /** @returns {StoredSession | null} null: signed out, perhaps by another tab */
  current() {
    return this.#accounts.get(this.userId);
  }

  /**
   * A valid access token, the stored one or a new one.
   *
   * @param {{ rejected: string | null }} options `rejected`: a token that the server refused
   * @returns {Promise<string>}
   * @throws {ApiError} with the code `signed_out` when there is nothing left to renew with
   */
  async token({ rejected }) {
    const stored = this.current();
    if (!stored) throw signedOut();
    if (isUsable(stored, rejected)) return stored.access_token;
    this.#renewal ??= withLock(`realchat.renew.${this.userId}`, () => this.#renew(rejected))
      .finally(() => (this.#renewal = null));
    try {
      return await this.#renewal;
    } catch (error) {
      const passes = error instanceof ApiError && error.retryable;
      const holds = stored.access_token !== rejected && stored.expires_at_ms > Date.now();
      if (passes && holds) return stored.access_token;
      throw error;
    }
  }

  /** When the token should be renewed, in milliseconds since 1970. */
  renewAtMs() {
    const stored = this.current();
    return stored ? stored.expires_at_ms - stored.lifetime_ms * TOKEN_RENEW_FRACTION : Infinity;
  }

  /** Ends the session on the server, if it can be reached, and forgets it here. */
  async signOut() {
    const attempt = this.token({ rejected: null }).then((token) => {
      const refreshToken = this.current()?.refresh_token;
      return refreshToken ? this.#api.logout(refreshToken, token) : undefined;
    });
    const patience = new Promise((resolve) => setTimeout(resolve, SIGN_OUT_PATIENCE_MS));
    await Promise.race([attempt.catch(() => undefined), patience]);
    this.#accounts.remove(this.userId);
  }

  /**
   * @param {string | null} rejected
   * @returns {Promise<string>}
   */
  async #renew(rejected) {
    // Another tab may have renewed it while this one waited for the lock.
    const stored = this.current();
    if (!stored) throw signedOut();
    if (isUsable(stored, rejected)) return stored.access_token;
    try {
      const answer = await this.#api.refresh(stored.refresh_token);
      return this.#accounts.accept({ ...answer, name: stored.name }).access_token;
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 401) throw error;
      const newer = this.current();
      if (newer && newer.refresh_token !== stored.refresh_token) return newer.access_token;
      this.#accounts.remove(this.userId);
      throw signedOut();
    }
  }
}

/**
 * @param {StoredSession} stored
 * @param {string | null} rejected
 */
function isUsable(stored, rejected) {
  const left = stored.expires_at_ms - Date.now();
  return stored.access_token !== rejected && left > stored.lifetime_ms * TOKEN_RENEW_FRACTION;
}

function signedOut() {
  return new ApiError(401, "signed_out", "Your session has ended. Please sign in again.", false);
}

/**
 * Runs one at a time over all tabs of this browser. Web Locks exist on secure pages alone; on
 * others an entry with an end in localStorage stands in.
 *
 * @template T
 * @param {string} name
 * @param {() => Promise<T>} work
 * @returns {Promise<T>}
 */
async function withLock(name, work) {
  if (globalThis.navigator?.locks) return navigator.locks.request(name, work);
  const storage = globalThis.localStorage;
  if (!storage) return work();
  const mine = String(Math.random());
  const end = Date.now() + LOCK_MS;
  while (Date.now() < end) {
    const [owner, until] = (storage.getItem(name) ?? "").split(" ");
    if (owner === mine) break;
    if (!owner || Number(until) < Date.now()) {
      storage.setItem(name, `${mine} ${Date.now() + LOCK_MS}`);
    }
    // Long enough for a competing tab's write to be seen.
    await new Promise((resolve) => setTimeout(resolve, 40 + Math.random() * 40));
  }
  try {
    return await work();
  } finally {
    if (storage.getItem(name)?.startsWith(`${mine} `)) storage.removeItem(name);
  }
}
