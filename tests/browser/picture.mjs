/**
 * Makes docs/images/chat.png, the README's picture: two people who talk, in two windows side by
 * side, on a running stack (REALCHAT_URL).
 */
import { mkdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { URL_BASE, api, conversation, launch, message, openPage, register, say, signIn } from "./stack.mjs";

const TARGET = fileURLToPath(new URL("../../docs/images/chat.png", import.meta.url));
/** One window, in CSS pixels. */
const WINDOW = { width: 860, height: 640 };
const GAP = 28;

const TEAM = [
  ["maya", "Morning! Tonight’s release: are we set?"],
  ["leo", "Checklist is done, the upgrade guide is in review"],
  ["priya", "Storage is calm: p99 under 9 ms all morning"],
  ["maya", "Perfect. Go at six?"],
];

async function people() {
  const names = { maya: "Maya Lindholm", leo: "Leo Okafor", priya: "Priya Raman", sam: "Sam Duarte" };
  const team = {};
  for (const [who, display] of Object.entries(names)) {
    const name = display.toLowerCase().replace(" ", ".");
    // On a stack where the picture was made before, the plain name is taken.
    team[who] = await register(who, display, name).catch(() => register(who, display));
  }
  return team;
}

async function converse(creator, title, others, lines, team) {
  const { conversation_id: id } = await api(
    "POST", "/v1/conversations", { title, member_ids: others.map((it) => it.user_id) }, creator.access_token,
  );
  for (const [index, [who, text]] of lines.entries()) {
    const body = { text, idempotency_key: `picture-${index}` };
    await api("POST", `/v1/conversations/${id}/messages`, body, team[who].access_token);
  }
}

const problems = [];
const team = await people();
const { maya, leo, priya, sam } = team;
await converse(sam, "", [maya], [["sam", "Thanks for the notes, they helped a lot"]], team);
await converse(priya, "Storage", [maya, leo], [["priya", "New disks arrive on Thursday"]], team);
await converse(priya, "", [leo], [["priya", "The dashboard is up, have a look"]], team);
await converse(maya, "Autumn release", [leo, priya], TEAM, team);

const browser = await launch();
const windows = [];
for (const [person, colorScheme] of [[maya, "light"], [leo, "dark"]]) {
  const context = await browser.newContext({ viewport: WINDOW, deviceScaleFactor: 2, colorScheme, locale: "en-GB" });
  const page = await openPage(context, problems);
  await signIn(page, person.name);
  await conversation(page, "Autumn release").click();
  await message(page, "Go at six?").waitFor();
  windows.push(page);
}
const [left, right] = windows;
await say(right, "Six works. I’ll push the button");
await message(left, "push the button").waitFor();
await say(left, "🎉");
await message(right, "🎉").waitFor();
await say(right, "See you all on the call");
await message(left, "See you all on the call").waitFor();
await left.getByLabel("Message", { exact: true }).pressSequentially("Thank you both!");
await right.locator(".typing-line", { hasText: "typing" }).waitFor();
await right.locator(".message.own.read").last().waitFor();

const images = [];
for (const page of windows) images.push((await page.screenshot()).toString("base64"));
const frame = await browser.newPage({
  viewport: { width: WINDOW.width * 2 + GAP * 3, height: WINDOW.height + GAP * 2 }, deviceScaleFactor: 1.25,
});
await frame.setContent(`<style>
  body { margin: 0; padding: ${GAP}px; display: flex; gap: ${GAP}px; background: #d9e5e1; }
  img { width: ${WINDOW.width}px; height: ${WINDOW.height}px; border-radius: 14px; box-shadow: 0 12px 40px rgb(10 40 36 / 28%); }
</style>${images.map((image) => `<img src="data:image/png;base64,${image}">`).join("")}`);
await frame.waitForTimeout(200);
mkdirSync(fileURLToPath(new URL("../../docs/images/", import.meta.url)), { recursive: true });
await frame.screenshot({ path: TARGET });
await browser.close();
if (problems.length > 0) throw new Error(problems.join("\n"));
console.log(`${TARGET}, from ${URL_BASE}`);
