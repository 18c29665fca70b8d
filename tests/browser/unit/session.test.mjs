import assert from "node:assert/strict";
import { test } from "node:test";
import { Api, ApiError } from "../../../client/js/api.js";
import { Accounts, Session } from "../../../client/js/session.js";
import { MemoryStorage } from "./fakes.mjs";

const answer = (number) => ({
  user_id: "u1", device_id: "d1", name: "ada", access_token: `access-${number}`,
  refresh_token: `refresh-${number}`, expires_in: 900,
});

/** An account in a browser with several tabs, and a server that takes each refresh token once. */
function browser({ expiresInMs = 900_000 } = {}) {
  const storage = new MemoryStorage();
  const accounts = new Accounts(storage);
  const calls = [];
  let number = 1;
  let failure = null;
  const api = {
    async refresh(token) {
      calls.push(token);
      await new Promise((resolve) => setImmediate(resolve));
      if (failure) throw failure;
      if (token !== `refresh-${number}`) throw new ApiError(401, "token_invalid", "reused", false);
      number += 1;
      return answer(number);
    },
    logout: async (token) => void calls.push(`logout ${token}`),
  };
  accounts.accept(answer(1));
  accounts.put({ ...accounts.get("u1"), expires_at_ms: Date.now() + expiresInMs });
  const tab = () => new Session({ accounts: new Accounts(storage), api, userId: "u1" });
  return { accounts, calls, tab, fail: (error) => (failure = error) };
}

test("a token is used while it has a while to go", async () => {
  const { tab, calls } = browser();
  assert.equal(await tab().token({ rejected: null }), "access-1");
  assert.deepEqual(calls, []);
});

test("it is renewed before it ends, and when the server refused it", async () => {
  const { tab, calls } = browser({ expiresInMs: 100_000 });
  assert.equal(await tab().token({ rejected: null }), "access-2");
  assert.equal(await tab().token({ rejected: "access-2" }), "access-3");
  assert.deepEqual(calls, ["refresh-1", "refresh-2"]);
});

test("many tabs at once renew it once", async () => {
  globalThis.localStorage ??= new MemoryStorage();
  const { tab, calls } = browser({ expiresInMs: 0 });
  const first = tab();
  const tokens = await Promise.all([first, first, tab(), tab()].map((it) => it.token({ rejected: null })));
  assert.deepEqual(new Set(tokens), new Set(["access-2"]));
  assert.deepEqual(calls, ["refresh-1"]);
});

test("a server that is away ends no session", async () => {
  const { tab, fail } = browser({ expiresInMs: 100_000 });
  fail(new ApiError(0, "unreachable", "", true));
  assert.equal(await tab().token({ rejected: null }), "access-1", "still valid");
  await assert.rejects(tab().token({ rejected: "access-1" }), { code: "unreachable" });
});

test("a refused refresh token ends the session here", async () => {
  const { tab, fail, accounts } = browser({ expiresInMs: 0 });
  fail(new ApiError(401, "token_invalid", "", false));
  await assert.rejects(tab().token({ rejected: null }), { code: "signed_out" });
  assert.equal(accounts.get("u1"), null);
  await assert.rejects(tab().token({ rejected: null }), { code: "signed_out" });
});

test("two accounts of a browser do not touch each other", async () => {
  const { accounts, tab } = browser();
  accounts.accept({ ...answer(7), user_id: "u2", name: "bob" });
  await tab().signOut();
  assert.deepEqual(accounts.list().map((it) => it.name), ["bob"]);
});

test("the API repeats a call once with a fresh token and names what went wrong", async () => {
  const tokens = [];
  const problem = { title: "Forbidden", status: 403, code: "not_a_member", detail: "Not yours.", retryable: false };
  const reply = (status, body) => new Response(JSON.stringify(body), { status });
  const api = new Api({
    base: "http://server.test/",
    token: async ({ rejected }) => (rejected ? "new" : "old"),
    async fetch(url, { headers }) {
      tokens.push(headers.authorization);
      if (headers.authorization === "Bearer old") return reply(401, { code: "token_expired", status: 401 });
      return String(url).endsWith("/v1/me") ? reply(200, { user_id: "u1" }) : reply(403, problem);
    },
  });
  assert.deepEqual(await api.me(), { user_id: "u1" });
  assert.deepEqual(tokens, ["Bearer old", "Bearer new"]);
  await assert.rejects(api.conversation("x"), { code: "not_a_member", message: "Not yours.", status: 403 });
  const away = new Api({ base: "", fetch: () => Promise.reject(new TypeError("fetch failed")) });
  await assert.rejects(away.login({ name: "a", password: "b" }), { code: "unreachable", retryable: true });
});
