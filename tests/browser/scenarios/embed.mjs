// The player in a frame of another site: heard by mouse and by keys, read by a screen reader, thirty seconds and no more.

import { until } from "../lib/check.mjs";
import { nameless } from "../lib/names.mjs";

export async function embed({ page, checks, options, pages }) {
  await page.goto(`${pages}/frame.html?src=${encodeURIComponent(options.url)}`, { waitUntil: "load" });
  const frame = page.frames().find((one) => one.url().includes("/embed/"));
  if (!checks.that(frame, "another site may not frame it")) return;
  await frame.waitForSelector('[data-part="play"]');
  const read = () => frame.evaluate(() => {
    const audio = document.querySelector("audio"), seek = document.querySelector('[data-part="seek"]');
    return { time: audio.currentTime, paused: audio.paused, duration: audio.duration, said: seek.getAttribute("aria-valuetext"), seek: Number(seek.value) };
  });
  const button = frame.locator('[data-part="play"]'), seek = frame.locator('[data-part="seek"]');
  checks.that((await button.getAttribute("aria-label")) === "Play the preview", "the button does not say what it does");
  await button.click();
  checks.that(await until(async () => (await read()).time > 0.3, 8_000), "no sound after clicking play");
  checks.that((await button.getAttribute("aria-label")) === "Pause the preview", "the button does not offer to pause");
  const { duration } = await read();
  checks.fact("duration", duration);
  checks.that(duration > 1 && duration <= 30.05, `it has ${duration} s`);

  // By keys alone: the button, then the slider.
  await button.focus();
  await page.keyboard.press("Space");
  checks.that(await until(async () => (await read()).paused, 2_000), "space does not pause");
  await page.keyboard.press("Enter");
  checks.that(await until(async () => !(await read()).paused, 2_000), "enter does not play");
  await page.keyboard.press("Space");
  await page.keyboard.press("Tab");
  checks.that((await frame.evaluate(() => document.activeElement.dataset.part)) === "seek", "tab does not lead from the button to the slider");
  await seek.press("Home");
  const before = await read();
  for (let press = 0; press < 20; press++) await page.keyboard.press("ArrowRight");
  checks.that(await until(async () => (await read()).time > before.time + 1.5, 3_000), "the arrow keys do not move it");
  checks.that(/^\d+ seconds? of \d+ seconds?$/.test((await read()).said), `a screen reader says ${(await read()).said}`);

  // To the end.
  await seek.fill(String(Math.max(0, duration - 1)));
  await button.click();
  checks.that(await until(async () => frame.evaluate(() => document.querySelector("audio").ended), 6_000), "the end is not reached");
  checks.that((await frame.locator('[data-part="status"]').textContent()).includes("preview"), "nobody says that it was the preview");

  checks.that((await frame.evaluate(() => document.cookie)) === "" && (await page.context().cookies()).length === 0, "it sets cookies");
  const kept = await frame.evaluate(() => localStorage.length + sessionStorage.length);
  checks.that(kept === 0, "it keeps something");
  for (const wrong of await nameless(frame)) checks.that(false, wrong);
}
