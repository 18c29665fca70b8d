/** A browser and people on a running stack: what the browser test and the picture share. */
import { mkdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

/** The stack's address, as its DIR/env says. */
export const URL_BASE = process.env.REALCHAT_URL ?? "http://127.0.0.1:8080";
export const OUTPUT = fileURLToPath(new URL("output/", import.meta.url));
export const PASSWORD = "correct-horse-battery";

/** Headless Chromium; as root it runs without its sandbox. */
export function launch() {
  mkdirSync(OUTPUT, { recursive: true });
  return chromium.launch({
    executablePath: process.env.REALCHAT_CHROMIUM ?? "/usr/bin/chromium",
    args: process.getuid?.() === 0 ? ["--no-sandbox"] : [],
  });
}

/** A call of the HTTP API; an error answer throws with its detail. */
export async function api(method, path, body, token) {
  const headers = { "content-type": "application/json" };
  if (token) headers.authorization = `Bearer ${token}`;
  const response = await fetch(URL_BASE + path, {
    method, headers, body: body ? JSON.stringify(body) : undefined,
  });
  const text = await response.text();
  if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`);
  return text ? JSON.parse(text) : {};
}

/** A name that nobody has yet, so that the test may run again on the same stack. */
export function freshName(prefix) {
  return `${prefix}-${Date.now().toString(36)}${Math.floor(Math.random() * 1296).toString(36)}`;
}

/** Creates an account through the HTTP API. */
export function register(prefix, displayName, name = freshName(prefix)) {
  return api("POST", "/v1/auth/register", { name, password: PASSWORD, display_name: displayName });
}

/** A page that fails the test when it logs an error that the test did not bring about. */
export async function openPage(context, problems) {
  const page = await context.newPage();
  page.setDefaultTimeout(15_000);
  page.on("pageerror", (error) => problems.push(error.message));
  page.on("console", (message) => {
    // A browser reports every lost connection and refused request by itself.
    const expected = /WebSocket connection|net::ERR|Failed to load resource/;
    if (message.type() === "error" && !expected.test(message.text())) problems.push(message.text());
  });
  return page;
}

/** Signs in with name and password on the first screen. */
export async function signIn(page, name) {
  await page.goto(URL_BASE);
  await page.getByLabel("Name", { exact: true }).fill(name);
  await page.getByLabel("Password").fill(PASSWORD);
  await page.locator("form button[type=submit]").click();
  await page.locator(".sidebar").waitFor();
}

export const conversation = (page, title) => page.locator(".conversation", { hasText: title });
export const message = (page, text) => page.locator(".message", { hasText: text });

/** Writes a message as a person does. */
export async function say(page, text) {
  await page.getByLabel("Message", { exact: true }).fill(text);
  await page.keyboard.press("Enter");
}
