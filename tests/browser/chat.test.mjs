/**
 * Two people in two browsers, on a running stack (REALCHAT_URL): everything that the web chat is
 * for. Screenshots of each step lie in output/.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import {
  OUTPUT, PASSWORD, URL_BASE, api, conversation, freshName, launch, message, openPage, register, say, signIn,
} from "./stack.mjs";

/** More than one page of history. */
const HISTORY_MESSAGES = 130;

let browser;
let ann, ben;
const problems = [];
const shot = (page, name) => page.screenshot({ path: `${OUTPUT}${name}.png` });
const context = (options = {}) =>
  browser.newContext({ viewport: { width: 1180, height: 760 }, ...options });
/** Process ids change with every restart, so they are read when they are needed. */
function gatewayPid() {
  const directory = process.env.REALCHAT_DIR;
  if (!directory) return 0;
  const entry = /^GATEWAY_1_PID='?(\d+)/m.exec(readFileSync(`${directory}/env`, "utf8"));
  return Number(entry?.[1] ?? 0);
}
const texts = (page) => page.locator(".message .text").allTextContents();

before(async () => {
  browser = await launch();
  ann = { name: freshName("ann"), context: await context({ colorScheme: "light" }) };
  ben = { name: freshName("ben"), context: await context({ colorScheme: "dark" }) };
  for (const person of [ann, ben]) person.page = await openPage(person.context, problems);
});
after(() => browser?.close());

test("people create accounts, and mistakes are said plainly", async () => {
  for (const [person, displayName] of [[ann, "Ann Example"], [ben, "Ben Example"]]) {
    const { page } = person;
    await page.goto(URL_BASE);
    await page.getByRole("tab", { name: "Create account" }).click();
    await page.getByLabel("Your name").fill(displayName);
    await page.getByLabel("Account name").fill(person.name);
    await page.getByLabel("Password").fill("short");
    await page.locator("form button[type=submit]").click();
    await page.getByRole("alert").filter({ hasText: "8" }).waitFor();
    await page.getByLabel("Password").fill(PASSWORD);
    await page.locator("form button[type=submit]").click();
    await page.locator(".me", { hasText: displayName }).waitFor();
  }
  const wrong = await openPage(await context(), problems);
  await wrong.goto(URL_BASE);
  await wrong.getByLabel("Name", { exact: true }).fill(ann.name);
  await wrong.getByLabel("Password").fill("not the password");
  await wrong.locator("form button[type=submit]").click();
  await wrong.getByRole("alert").filter({ hasText: /./ }).waitFor();
  await shot(wrong, "wrong-password");
  await wrong.context().close();
});

test("one starts a conversation, both chat, and see each other's presence, typing and ticks", async () => {
  await ann.page.getByRole("button", { name: "New conversation" }).first().click();
  await ann.page.getByLabel("Search people by name").fill(ben.name);
  await ann.page.locator(".people button", { hasText: ben.name }).click();
  await ann.page.getByRole("button", { name: "Start conversation" }).click();
  await say(ann.page, "Hello Ben, can you read this?");
  await conversation(ben.page, "Hello Ben").locator(".badge").waitFor();
  await shot(ben.page, "unread");
  await conversation(ben.page, "Ann Example").click();
  await message(ben.page, "can you read this").waitFor();
  await ann.page.locator(".heading", { hasText: "Online" }).waitFor();
  await ben.page.locator(".heading", { hasText: "Online" }).waitFor();

  await ben.page.getByLabel("Message", { exact: true }).pressSequentially("Loud and clear");
  await ann.page.locator(".typing-line", { hasText: "Ben is typing" }).waitFor();
  await shot(ann.page, "typing");
  await ben.page.keyboard.press("Enter");
  await message(ann.page, "Loud and clear").waitFor();
  await ann.page.locator(".typing-line", { hasText: "typing" }).waitFor({ state: "detached" });
  assert.equal(await ann.page.locator(".typing-line").textContent(), "");

  await say(ann.page, "Two lines\n<b>and no markup</b> https://example.org/");
  await message(ben.page, "<b>and no markup</b>").waitFor();
  assert.equal(await ben.page.locator(".message b").count(), 0);
  await say(ben.page, "🎉");
  await ann.page.locator(".message.large").waitFor();
  // What both have on screen and in focus is read; a background window's is only delivered.
  await ann.page.bringToFront();
  await ann.page.locator(".message.own.read, .message.own.delivered").first().waitFor();
  await shot(ann.page, "chat-light");
  await shot(ben.page, "chat-dark");
  assert.deepEqual(await texts(ann.page), await texts(ben.page));
});

test("messages are edited, reacted to and deleted, and the other sees it at once", async () => {
  await say(ann.page, "Meet at nien");
  const act = async (page, text) => {
    await message(page, text).hover();
    await message(page, text).locator(".actions").click();
  };
  await act(ann.page, "Meet at nien");
  await ann.page.getByLabel("Text", { exact: true }).fill("Meet at nine");
  await ann.page.getByRole("button", { name: "Save" }).click();
  await message(ben.page, "Meet at nine").locator(".meta", { hasText: "edited" }).waitFor();
  await act(ben.page, "Meet at nine");
  await ben.page.getByRole("button", { name: "React with 👍" }).click();
  const chip = message(ann.page, "Meet at nine").locator(".reactions button");
  await chip.waitFor();
  await shot(ann.page, "reaction");
  await chip.click();
  await message(ben.page, "Meet at nine").locator(".reactions button", { hasText: "👍 2" }).waitFor();
  await chip.click();
  await message(ben.page, "Meet at nine").locator(".reactions button", { hasText: /^👍$/ }).waitFor();
  await act(ann.page, "Meet at nine");
  await ann.page.getByRole("button", { name: "Delete message" }).click();
  await message(ben.page, "Message deleted").waitFor();
  assert.equal(await message(ben.page, "Meet at nine").count(), 0);
});

test("a long history scrolls back to its beginning, without a hole and in order", async () => {
  const eve = await register("eve", "Eve Example");
  const fay = await register("fay", "Fay Example");
  const { conversation_id: id } = await api("POST", "/v1/conversations", { title: "Long story", member_ids: [fay.user_id] }, eve.access_token);
  for (let number = 1; number <= HISTORY_MESSAGES; number += 1) {
    const sender = number % 3 === 0 ? fay : eve;
    await api("POST", `/v1/conversations/${id}/messages`, { text: `line ${number}`, idempotency_key: `k${number}` }, sender.access_token);
  }
  const page = await openPage(await context(), problems);
  await signIn(page, eve.name);
  await conversation(page, "Long story").click();
  await message(page, `line ${HISTORY_MESSAGES}`).waitFor();
  assert.ok((await page.locator(".message").count()) < HISTORY_MESSAGES, "only the newest page at first");
  await page.locator(".timeline").hover();
  for (let turn = 0; turn < 200 && (await page.getByText("beginning of the conversation").count()) === 0; turn += 1) {
    await page.mouse.wheel(0, -700);
    await page.waitForTimeout(30);
  }
  const expected = Array.from({ length: HISTORY_MESSAGES }, (_, index) => `line ${index + 1}`);
  assert.deepEqual(await texts(page), expected);
  await shot(page, "history");
  await page.getByRole("button", { name: "Go to the newest message" }).click();
  await page.context().close();
});

test("a reload stays who it was and finds everything", async () => {
  const before = await texts(ann.page);
  await ann.page.reload();
  await message(ann.page, "Loud and clear").waitFor();
  assert.deepEqual(await texts(ann.page), before);
  await ann.page.locator(".me", { hasText: "Ann Example" }).waitFor();
});

test("without a network messages wait, survive a reload of the page, and go out once", async () => {
  await ann.context.setOffline(true);
  await ann.page.locator(".banner", { hasText: "offline" }).waitFor();
  await say(ann.page, "written without a network");
  await ann.page.locator(".message.pending", { hasText: "written without" }).waitFor();
  await shot(ann.page, "offline");
  await say(ben.page, "sent while Ann was away");
  await ann.context.setOffline(false);
  await ann.page.locator(".banner").waitFor({ state: "hidden" });
  await message(ann.page, "sent while Ann was away").waitFor();
  await message(ben.page, "written without a network").waitFor();
  await ann.page.locator(".message.pending").waitFor({ state: "detached" });
  assert.equal(await message(ann.page, "written without a network").count(), 1);
  assert.equal(await message(ben.page, "written without a network").count(), 1);

  // A connection that breaks while the page is reloaded: the message is stored before it is sent.
  await ann.page.routeWebSocket(/\/v1\/connect/, (socket) => socket.close());
  await ann.page.reload();
  await message(ann.page, "Loud and clear").waitFor();
  await say(ann.page, "kept over a reload");
  await ann.page.locator(".message.pending", { hasText: "kept over" }).waitFor();
  await ann.page.unrouteAll();
  await ann.page.routeWebSocket(/\/v1\/connect/, (socket) => void socket.connectToServer());
  await ann.page.reload();
  await message(ben.page, "kept over a reload").waitFor();
  await ann.page.locator(".message.own:not(.pending)", { hasText: "kept over a reload" }).waitFor();
  assert.equal(await message(ben.page, "kept over a reload").count(), 1);
});

const gateway = gatewayPid();

test("a gateway is killed while both write: nothing is lost, doubled or out of order", { skip: !gateway }, async () => {
  const written = [];
  for (let number = 1; number <= 24; number += 1) {
    // Not a digit at the end: the time follows it, and "2" before "3:38" is found as "23".
    const text = `storm ${number}.`;
    written.push(text);
    await say(number % 2 === 0 ? ann.page : ben.page, text);
    if (number === 8) process.kill(gatewayPid(), "SIGKILL");
    await ann.page.waitForTimeout(60);
  }
  for (const { page } of [ann, ben]) {
    await message(page, "storm 24.").waitFor();
    await message(page, "storm 23.").waitFor();
    await page.locator(".message.pending").first().waitFor({ state: "detached" });
    await page.locator(".banner").waitFor({ state: "hidden" });
  }
  const seen = async (page) => (await texts(page)).filter((text) => text.startsWith("storm "));
  const [anns, bens] = [await seen(ann.page), await seen(ben.page)];
  assert.deepEqual(anns, bens);
  assert.deepEqual([...anns].sort(), [...written].sort());
  for (const parity of [0, 1]) {
    const own = (list) => list.filter((text) => Number(text.slice(6)) % 2 === parity);
    assert.deepEqual(own(anns), own(written), "each one's messages stay in the order of writing");
  }
});

test("closing one of two tabs is no goodbye, closing the last one is", async () => {
  const second = await openPage(ben.context, problems);
  await signIn(second, ben.name);
  await conversation(second, "Ann Example").waitFor();
  await second.close();
  // Longer than the pause after which a disconnection is told.
  await ann.page.waitForTimeout(4_000);
  assert.match(await ann.page.locator(".heading").textContent(), /Online/);
  await ben.page.goto("about:blank");
  await ann.page.locator(".heading", { hasText: "Last seen" }).waitFor();
  await ben.page.goto(URL_BASE);
  await conversation(ben.page, "Ann Example").click();
  await ann.page.locator(".heading", { hasText: "Online" }).waitFor();
});

test("a third person is added, sees what comes, and is removed", async () => {
  const cleo = await register("cleo", "Cleo Example");
  const page = await openPage(await context(), problems);
  await signIn(page, cleo.name);
  await ann.page.getByRole("button", { name: "Members and settings", exact: true }).click();
  await ann.page.getByLabel("Add people by name").fill(cleo.name);
  await ann.page.locator("dialog .picker .people button").click();
  await ann.page.getByRole("button", { name: "Add", exact: true }).click();
  await ann.page.locator("dialog .person", { hasText: "Cleo Example" }).waitFor();
  await shot(ann.page, "members");
  await ann.page.keyboard.press("Escape");
  await say(ann.page, "Welcome Cleo");
  await conversation(page, "Welcome Cleo").click();
  await message(page, "Welcome Cleo").waitFor();
  await ann.page.locator(".note.system", { hasText: "You added Cleo Example" }).waitFor();
  await ann.page.getByRole("button", { name: "Members and settings", exact: true }).click();
  await ann.page.getByRole("button", { name: "Remove Cleo Example" }).click();
  await page.getByText("You are no longer in this conversation.").waitFor();
  await ann.page.locator("dialog .person", { hasText: "Cleo Example" }).waitFor({ state: "detached" });
  await ann.page.keyboard.press("Escape");
  await page.context().close();
});

test("two tabs of one browser are two people, a third offers both", async () => {
  const both = await context();
  const first = await openPage(both, problems);
  await signIn(first, ann.name);
  const second = await openPage(both, problems);
  await second.goto(URL_BASE);
  await second.locator(".accounts button", { hasText: "Ann Example" }).waitFor();
  await signIn(second, ben.name);
  await second.locator(".me", { hasText: "Ben Example" }).waitFor();
  await first.reload();
  await first.locator(".me", { hasText: "Ann Example" }).waitFor();
  const third = await openPage(both, problems);
  await third.goto(URL_BASE);
  await third.locator(".accounts button").nth(1).waitFor();
  await shot(third, "accounts");
  await third.locator(".accounts button", { hasText: "Ben Example" }).click();
  await third.locator(".me", { hasText: "Ben Example" }).waitFor();
  await third.locator(".me").click();
  await third.getByRole("button", { name: "Sign out" }).click();
  await third.locator(".accounts button", { hasText: "Ann Example" }).waitFor();
  await second.getByText("You signed out in another tab").waitFor();
  await both.close();
});

test("a sign-in code leaves the address bar, and a bad one is explained", async () => {
  const page = await openPage(await context(), problems);
  await page.goto(`${URL_BASE}/#code=no-such-code`);
  await page.getByRole("alert").filter({ hasText: "This sign-in link does not work" }).waitFor();
  assert.ok(!page.url().includes("code"), page.url());
  await page.context().close();
});

test("a phone shows the list or the conversation, and nothing is wider than the screen", async () => {
  const phone = await context({ viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true });
  const page = await openPage(phone, problems);
  const fits = async (name) => {
    await shot(page, name);
    const [content, screen] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    assert.ok(content <= screen && screen === 360, `${name}: ${content} of ${screen} pixels`);
  };
  await page.goto(URL_BASE);
  await fits("phone-signin");
  await signIn(page, ben.name);
  await conversation(page, "Ann Example").waitFor();
  await fits("phone-list");
  await conversation(page, "Ann Example").click();
  await message(page, "Loud and clear").waitFor();
  assert.ok(!(await page.locator(".sidebar").isVisible()));
  await fits("phone-chat");
  await page.getByRole("button", { name: "Back to the conversations" }).click();
  await page.locator(".sidebar").waitFor();
  assert.ok(!(await page.locator(".pane").isVisible()));
  await phone.close();
});

test("no page reported an error or broke its content security policy", () => {
  assert.deepEqual(problems, []);
});
