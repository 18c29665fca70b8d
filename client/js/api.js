/**
 * The HTTP API. Every answer is JSON; every error is an ApiError made from problem+json (RFC 9457).
 */
import { HTTP_TIMEOUT_MS } from "./limits.js";
import { randomId } from "./storage.js";

/** @typedef {import("./types.js").AuthAnswer} AuthAnswer */
/** @typedef {import("./types.js").User} User */
/** @typedef {import("./types.js").ConversationSummary} ConversationSummary */
/** @typedef {import("./types.js").Event} Event */
/** @typedef {import("./types.js").Receipt} Receipt */
/** @typedef {import("./types.js").ReceiptSummary} ReceiptSummary */

/**
 * Where the access token comes from.
 * @typedef {(options: { rejected: string | null }) => Promise<string>} TokenSource
 */

export class ApiError extends Error {
  /**
   * @param {number} status 0: no answer came
   * @param {string} code a stable word, e.g. `not_a_member`; `unreachable` when no answer came
   * @param {string} message for a person
   * @param {boolean} retryable
   */
  constructor(status, code, message, retryable) {
    super(message);
    this.name = "ApiError";
    this.status = status;
    this.code = code;
    this.retryable = retryable;
  }
}

export class Api {
  #base;
  #token;
  #fetch;

  /**
   * @param {{ base: string, token?: TokenSource, fetch?: typeof fetch }} options `base` is the
   *   server's address, e.g. `https://chat.example.org`; without `token` only the open calls work
   */
  constructor({ base, token, fetch: fetcher = (...args) => fetch(...args) }) {
    this.#base = base.replace(/\/$/, "");
    this.#token = token;
    this.#fetch = fetcher;
  }

  // Open calls: accounts and sessions.

  /**
   * @param {{ name: string, password: string, display_name?: string, device_name?: string }} account
   * @returns {Promise<AuthAnswer>}
   */
  register(account) {
    return this.#open("POST", "/v1/auth/register", account);
  }

  /**
   * @param {{ name: string, password: string, device_id?: string, device_name?: string }} login
   * @returns {Promise<AuthAnswer>}
   */
  login(login) {
    return this.#open("POST", "/v1/auth/login", login);
  }

  /**
   * @param {{ code: string, device_name?: string }} code a one-time sign-in code
   * @returns {Promise<AuthAnswer>}
   */
  code(code) {
    return this.#open("POST", "/v1/auth/code", code);
  }

  /**
   * A refresh token works once; its answer holds the next one.
   * @param {string} refreshToken
   * @returns {Promise<AuthAnswer>}
   */
  refresh(refreshToken) {
    return this.#open("POST", "/v1/auth/refresh", { refresh_token: refreshToken });
  }

  /**
   * @param {string} refreshToken
   * @param {string} accessToken of the same session
   */
  logout(refreshToken, accessToken) {
    return this.#call("POST", "/v1/auth/logout", { refresh_token: refreshToken }, accessToken);
  }

  // People.

  /** @returns {Promise<User & { device_id: string }>} */
  me() {
    return this.#signed("GET", "/v1/me");
  }

  /**
   * @param {{ display_name?: string, about?: string }} changes
   * @returns {Promise<User & { device_id: string }>}
   */
  updateMe(changes) {
    return this.#signed("PATCH", "/v1/me", changes);
  }

  /**
   * @param {{ query: string, limit?: number } | { names: string[] } | { ids: string[] }} which
   * @returns {Promise<User[]>}
   */
  async users(which) {
    const query =
      "query" in which ? { query: which.query, limit: which.limit ?? 20 }
      : "names" in which ? { names: which.names.join(",") }
      : { ids: which.ids.join(",") };
    return (await this.#signed("GET", `/v1/users${search(query)}`)).users;
  }

  // Conversations.

  /**
   * The newest activity first.
   * @param {{ limit?: number, before?: string }} [page]
   * @returns {Promise<ConversationSummary[]>}
   */
  async conversations(page = {}) {
    return (await this.#signed("GET", `/v1/conversations${search(page)}`)).conversations;
  }

  /**
   * @param {string} conversationId
   * @returns {Promise<ConversationSummary>}
   */
  conversation(conversationId) {
    return this.#signed("GET", `/v1/conversations/${conversationId}`);
  }

  /**
   * @param {{ title: string, members?: string[], member_ids?: string[],
   *   idempotency_key?: string }} conversation
   * @returns {Promise<ConversationSummary>}
   */
  createConversation(conversation) {
    return this.#signed("POST", "/v1/conversations", conversation);
  }

  /**
   * The key as in `addMembers`.
   * @param {string} conversationId
   * @param {string} title
   * @param {string} [key] the idempotency key
   */
  rename(conversationId, title, key = randomId()) {
    return this.#signed("PATCH", `/v1/conversations/${conversationId}`, { title, idempotency_key: key });
  }

  /**
   * No push requests of it, for oneself, until then in microseconds since the Unix epoch; null: no longer.
   * @param {string} conversationId
   * @param {number | null} untilUs
   * @returns {Promise<ConversationSummary>}
   */
  mute(conversationId, untilUs) {
    return this.#signed("PUT", `/v1/conversations/${conversationId}/mute`, { until_us: untilUs });
  }

  /**
   * @param {string} conversationId
   * @returns {Promise<(User & { joined_sequence_number: number })[]>}
   */
  async members(conversationId) {
    return (await this.#signed("GET", `/v1/conversations/${conversationId}/members`)).members;
  }

  /**
   * Without a key the call has one of its own; whoever may have to repeat it gives one.
   * @param {string} conversationId
   * @param {{ names?: string[], user_ids?: string[], idempotency_key?: string }} who
   * @returns {Promise<{ sequence_number: number }>}
   */
  addMembers(conversationId, who) {
    const body = { idempotency_key: randomId(), ...who };
    return this.#signed("POST", `/v1/conversations/${conversationId}/members`, body);
  }

  /**
   * Oneself: leaves. The key as in `addMembers`.
   * @param {string} conversationId
   * @param {string} userId
   * @param {string} [key] the idempotency key
   * @returns {Promise<{ sequence_number: number }>}
   */
  removeMember(conversationId, userId, key = randomId()) {
    const query = search({ idempotency_key: key });
    return this.#signed("DELETE", `/v1/conversations/${conversationId}/members/${userId}${query}`);
  }

  /**
   * Another text for a message of one's own. The key as in `addMembers`.
   * @param {string} conversationId
   * @param {string} messageId
   * @param {string} text
   * @param {string} [key] the idempotency key
   * @returns {Promise<{ sequence_number: number }>}
   */
  editMessage(conversationId, messageId, text, key = randomId()) {
    const body = { text, idempotency_key: key };
    return this.#signed("PATCH", `/v1/conversations/${conversationId}/messages/${messageId}`, body);
  }

  /**
   * One's own, or any in a conversation that one made. The key as in `addMembers`.
   * @param {string} conversationId
   * @param {string} messageId
   * @param {string} [key] the idempotency key
   * @returns {Promise<{ sequence_number: number }>}
   */
  deleteMessage(conversationId, messageId, key = randomId()) {
    const query = search({ idempotency_key: key });
    return this.#signed("DELETE", `/v1/conversations/${conversationId}/messages/${messageId}${query}`);
  }

  /**
   * Adds a reaction, or takes it back. The key as in `addMembers`.
   * @param {string} conversationId
   * @param {string} messageId
   * @param {{ reaction: string, removed?: boolean, idempotency_key?: string }} what
   * @returns {Promise<{ sequence_number: number }>}
   */
  react(conversationId, messageId, what) {
    const body = { idempotency_key: randomId(), ...what };
    return this.#signed("POST", `/v1/conversations/${conversationId}/messages/${messageId}/reactions`, body);
  }

  /**
   * A page of the log, ascending; without `before` and `after` the newest.
   * @param {string} conversationId
   * @param {{ before?: number, after?: number, limit?: number }} [page]
   * @returns {Promise<{ events: Event[], last_sequence_number: number }>}
   */
  events(conversationId, page = {}) {
    return this.#signed("GET", `/v1/conversations/${conversationId}/events${search(page)}`);
  }

  /**
   * @param {string} conversationId
   * @returns {Promise<{ receipts: Receipt[], summary: ReceiptSummary | null }>} the summary of a
   *   conversation that is, or was, too large to tell of each receipt
   */
  receipts(conversationId) {
    return this.#signed("GET", `/v1/conversations/${conversationId}/receipts`);
  }

  /**
   * @param {string} method
   * @param {string} path
   * @param {object} [body]
   */
  #open(method, path, body) {
    return this.#call(method, path, body, null);
  }

  /**
   * @param {string} method
   * @param {string} path
   * @param {object} [body]
   */
  async #signed(method, path, body) {
    if (!this.#token) throw new ApiError(0, "token_missing", "You are not signed in.", false);
    const token = await this.#token({ rejected: null });
    try {
      return await this.#call(method, path, body, token);
    } catch (error) {
      if (!(error instanceof ApiError) || !/^token_(expired|invalid)$/.test(error.code)) throw error;
      return this.#call(method, path, body, await this.#token({ rejected: token }));
    }
  }

  /**
   * @param {string} method
   * @param {string} path
   * @param {object | undefined} body
   * @param {string | null} token
   * @returns {Promise<any>}
   */
  async #call(method, path, body, token) {
    /** @type {Record<string, string>} */
    const headers = { accept: "application/json" };
    if (body) headers["content-type"] = "application/json";
    if (token) headers["authorization"] = `Bearer ${token}`;
    let response, text;
    try {
      response = await this.#fetch(this.#base + path, {
        method, headers, body: body ? JSON.stringify(body) : undefined,
        credentials: "omit", cache: "no-store", signal: AbortSignal.timeout(HTTP_TIMEOUT_MS),
      });
      text = await response.text();
    } catch {
      const message = "RealChat cannot be reached. Check your connection and try again.";
      throw new ApiError(0, "unreachable", message, true);
    }
    const answer = parse(text);
    if (response.ok) return answer;
    throw new ApiError(
      response.status,
      typeof answer.code === "string" ? answer.code : "internal",
      typeof answer.detail === "string" && answer.detail !== "" ? answer.detail
      : typeof answer.title === "string" ? answer.title
      : `The server answered ${response.status}.`,
      answer.retryable === true || (answer.retryable === undefined && response.status >= 500),
    );
  }
}

/** @param {string} text */
function parse(text) {
  try {
    const value = JSON.parse(text);
    return typeof value === "object" && value !== null ? value : {};
  } catch {
    return {};
  }
}

/** @param {Record<string, string | number | undefined>} fields */
function search(fields) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(fields)) {
    if (value !== undefined) query.set(name, String(value));
  }
  return query.size === 0 ? "" : `?${query}`;
}
