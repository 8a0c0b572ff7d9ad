// The studio, as an owner uses it: a key, a file, rungs as they become whole, where the preview begins, the code to embed it.

import { until } from "../lib/check.mjs";

export async function studio({ page, checks, options }) {
  page.on("dialog", (dialog) => dialog.accept());
  await page.goto(options.url, { waitUntil: "load" });
  await page.locator('[data-part="key"] input').fill(options.key);
  await page.locator('[data-part="key"] button').click();
  const desk = page.locator('[data-part="desk"]');
  await desk.waitFor({ state: "visible" });
  checks.that(!(await page.evaluate((key) => document.documentElement.outerHTML.includes(key), options.key)), "the key is on the page");
  checks.that(await page.locator('[data-part="empty"]').isVisible(), "it does not say that there is nothing");

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
  await again.locator('[data-part="unlist"]').click();
  checks.that(await until(async () => (await again.getAttribute("data-state")) === "unlisted", 5_000), "it is not unlisted");
  await again.locator('[data-part="delete"]').click();
  checks.that(await until(async () => (await page.locator('[data-part="tracks"] > li').count()) === 0, 5_000), "it is not gone");
  checks.that((await page.evaluate(() => document.cookie)) === "", "the page sets cookies");

  // On a phone nothing is wider than the screen.
  await page.setViewportSize({ width: 360, height: 740 });
  checks.that(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "it is wider than a phone");
}
