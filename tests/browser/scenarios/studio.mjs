// The studio, as an owner uses it: a login or a key, a file, rungs as they become whole, where the preview begins, the code to embed it.

import { until } from "../lib/check.mjs";
import { enter } from "../lib/enter.mjs";
import { nameless } from "../lib/names.mjs";

export async function studio({ page, checks, trouble, options }) {
  await page.goto(options.url, { waitUntil: "load" });
  if (options.email) {
    // A wrong password says so; the browser's own complaint about the 401 is no trouble.
    const form = page.locator('[data-part="login"]');
    await form.locator('[name="email"]').fill(options.email);
    await form.locator('[name="password"]').fill("not this one");
    await form.locator('[data-part="go"]').click();
    const told = form.locator('[data-part="told"]');
    checks.that(await until(async () => (await told.textContent())?.includes("do not belong together"), 15_000), `it says ${await told.textContent()}`);
    checks.that(await until(() => trouble.some((line) => line.startsWith("http 401")), 5_000), "nothing was refused");
    trouble.splice(0);
  }
  await enter(page, options);
  const secrets = [options.key, options.password].filter(Boolean);
  checks.that(!(await page.evaluate((all) => all.some((one) => document.documentElement.outerHTML.includes(one)), secrets)), "what opens is on the page");
  if (options.email) await session({ page, checks, trouble, options });
  checks.that(await page.locator('[data-part="empty"]').isVisible(), "it does not say that there is nothing");
  if (options.key) await dropped({ page, checks, trouble });

  await page.locator('[data-part="files"]').setInputFiles(options.file);
  const row = page.locator('[data-part="tracks"] > li').first();
  await row.waitFor({ state: "visible", timeout: 30_000 });
  const state = () => row.getAttribute("data-state");
  if (!checks.that(await until(async () => ["published", "failed"].includes(await state()), 60_000), `it is ${await state()}`)) return;
  checks.that((await state()) === "published", `it is ${await state()}: ${await row.locator('[data-part="error"]').textContent()}`);
  const rungs = await row.locator('[data-part="rungs"] li').allTextContents();
  checks.fact("rungs", rungs);
  for (const rung of ["aac/64", "aac/96", "aac/160", "aac/256", "flac"]) checks.that(rungs.includes(rung), `${rung} was not told of`);
  checks.that(await until(async () => ((await row.locator("svg path").getAttribute("d")) ?? "").length > 100, 5_000), "no waveform is drawn");
  const code = await row.locator('[data-part="code"]').inputValue();
  checks.that(/^<iframe src="http.*\/embed\/track\/trk_/.test(code), `the code is ${code}`);

  // Where the preview begins: told to the server, and shown after a reload.
  const told = () => page.waitForResponse((answer) => answer.request().method() === "PATCH" && answer.ok());
  await Promise.all([told(), row.locator('[data-part="start"]').fill("4")]);
  checks.that(await until(async () => (await row.locator('[data-part="start-text"]').textContent()) === "0:04", 5_000), "the start is not shown");
  await Promise.all([told(), row.locator('[data-part="visibility"]').check()]);
  checks.that(await until(async () => !(await row.getAttribute("class"))?.includes("busy"), 60_000), "the preview is not cut again");
  await page.reload({ waitUntil: "load" });
  const again = page.locator('[data-part="tracks"] > li').first();
  await again.waitFor({ state: "visible" });
  checks.that((await again.locator('[data-part="start"]').inputValue()) === "4", "the start is forgotten");
  checks.that(await again.locator('[data-part="visibility"]').isChecked(), "private is forgotten");
  for (const wrong of await nameless(page)) checks.that(false, wrong);
  await again.locator('[data-part="unlist"]').click();
  checks.that(await until(async () => (await again.getAttribute("data-state")) === "unlisted", 5_000), "it is not unlisted");
  await again.locator('[data-part="delete"]').click();
  const asked = page.getByRole("dialog", { name: /^Delete “.*” for good\?$/ });
  await asked.waitFor({ state: "visible" });
  for (const wrong of await nameless(page)) checks.that(false, wrong);
  await page.keyboard.press("Enter"); // whoever goes on too quickly deletes nothing
  await asked.waitFor({ state: "detached" });
  checks.that(await again.isVisible(), "it is gone without a yes");
  checks.that(await page.evaluate(() => document.activeElement?.dataset.part === "delete"), "the keyboard is lost behind the question");
  await deleted(page, again);
  checks.that(await until(async () => (await page.locator('[data-part="tracks"] > li').count()) === 0, 5_000), "it is not gone");
  if (options.key) checks.that((await page.evaluate(() => document.cookie)) === "", "the page sets cookies");

  // On a phone nothing is wider than the screen.
  await page.setViewportSize({ width: 360, height: 740 });
  checks.that(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "it is wider than a phone");
}

/** Deletes a track, and says yes. */
async function deleted(page, row) {
  await row.locator('[data-part="delete"]').click();
  await page.getByRole("dialog").getByRole("button", { name: "Delete it" }).click();
}

/** A file of several pieces is dropped; the network goes away in the middle, once, and the page is left in the middle, once. */
async function dropped({ page, checks, trouble }) {
  const drop = () => page.evaluateHandle(() => {
    const wav = new Uint8Array(44 + (9 << 20)), at = new DataView(wav.buffer), text = (offset, words) => wav.set([...words].map((c) => c.charCodeAt(0)), offset);
    text(0, "RIFF"), at.setUint32(4, wav.length - 8, true), text(8, "WAVEfmt "), at.setUint32(16, 16, true), at.setUint16(20, 1, true), at.setUint16(22, 2, true);
    at.setUint32(24, 44_100, true), at.setUint32(28, 176_400, true), at.setUint16(32, 4, true), at.setUint16(34, 16, true), text(36, "data"), at.setUint32(40, wav.length - 44, true);
    const files = new DataTransfer();
    files.items.add(new File([wav], "Dropped.wav", { type: "audio/wav", lastModified: 1 }));
    // What the row says goes by quickly: all of it is kept.
    window.heard = [];
    new MutationObserver((changes) => changes.forEach(({ target }) => heard.push(target.textContent))).observe(document.querySelector('[data-part="uploads"]'), { subtree: true, childList: true });
    return files;
  }).then((dataTransfer) => page.dispatchEvent('[data-part="drop"]', "drop", { dataTransfer }));
  const pieces = [];
  let broken = 0, held = null;
  await page.route("**/api/v1/uploads/tus/*", async (route) => {
    const request = route.request();
    if (request.method() !== "PATCH") return route.continue();
    const from = Number(request.headers()["upload-offset"]);
    pieces.push(from);
    if (from > 0 && broken++ === 0) return route.abort("internetdisconnected");
    if (from > 4 << 20 && !held) { held = route; return; } // on its way for ever: until the page is gone
    return route.continue();
  });
  await drop();
  checks.that(await until(() => held, 30_000), `it does not go on: ${pieces}`);
  const heard = await page.evaluate(() => heard);
  checks.that(heard.some((words) => words.includes("it goes on by itself")), `nobody says that the network is away: ${heard}`);
  checks.that(heard.some((words) => /^\d+ %, .* left$/.test(words)), `nobody says how long it takes: ${heard}`);
  checks.that(pieces.filter((from) => from === 0).length === 1, `it began again: ${pieces}`);
  await page.reload({ waitUntil: "load" });
  await page.locator('[data-part="desk"]').waitFor({ state: "visible" });
  await drop();
  const row = page.locator('[data-part="tracks"] > li');
  await row.waitFor({ state: "visible", timeout: 30_000 });
  checks.that(pieces.filter((from) => from === 0).length === 1, `it began again after a reload: ${pieces}`);
  await page.unroute("**/api/v1/uploads/tus/*");
  await deleted(page, row);
  checks.that(await until(async () => (await row.count()) === 0, 10_000), "it is not gone");
  trouble.splice(0, trouble.length, ...trouble.filter((line) => !line.includes("INTERNET_DISCONNECTED")));
}

/** What a session is to the page: cookies that it cannot read, and one that it sends beside them. */
async function session({ page, checks, trouble, options }) {
  const cookies = await page.context().cookies();
  const named = (name) => cookies.find((cookie) => cookie.name === `__Host-segue_${name}`);
  for (const name of ["access", "refresh"]) checks.that(named(name)?.httpOnly && named(name)?.sameSite === "Strict", `${name} can be read`);
  checks.that(named("csrf") && !named("csrf").httpOnly, "there is no token against other sites");
  const readable = await page.evaluate(() => [document.cookie, ...Object.values(localStorage), ...Object.values(sessionStorage)].join());
  checks.that(!readable.includes(named("access").value) && !readable.includes(named("refresh").value), "scripts can read what opens");
  // The access token is over, and another one is fetched without a word.
  await page.context().clearCookies({ name: "__Host-segue_access" });
  const renewed = page.waitForResponse((answer) => answer.url().endsWith("/api/v1/auth/refresh") && answer.ok());
  await page.locator('[data-part="account"] summary').click();
  await page.locator('[data-part="proof"]').fill(options.password);
  await Promise.all([renewed, page.locator('[data-part="export"]').click()]);
  checks.that(await until(() => trouble.filter((line) => /401/.test(line)).length === 2, 5_000), `it was refused otherwise: ${trouble}`);
  trouble.splice(0); // the browser tells of that one refusal twice
  // An archive of everything, from the page.
  const link = page.locator('[data-part="exports"] a');
  await link.waitFor({ state: "visible", timeout: 30_000 });
  const [download] = await Promise.all([page.waitForEvent("download"), link.click()]);
  checks.that(download.suggestedFilename() === "segue-export.zip", `it is called ${download.suggestedFilename()}`);
  checks.that((await download.failure()) === null, "it broke off");
  checks.that((await page.locator('[data-part="account-told"]').textContent()) === "", "something was complained about");
}
