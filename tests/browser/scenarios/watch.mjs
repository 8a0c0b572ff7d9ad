// The real watch page, driven the way a listener does: click, drag, keys.

import { sleep, until } from "../lib/check.mjs";
import { nameless } from "../lib/names.mjs";
import { steadyPlay, exactLength } from "./common.mjs";

export async function watch({ page, checks, options }) {
  await page.goto(options.url, { waitUntil: "load" });
  const read = () => page.evaluate(() => ({
    time: segue.audio.currentTime, paused: segue.audio.paused, ended: segue.audio.ended, rung: segue.rung?.id ?? "",
    choice: segue.choice, state: document.getElementById("player").dataset.state, errors: segue.errors,
    error: document.querySelector('[data-part="error"]').hidden ? "" : document.querySelector('[data-part="error-text"]').textContent,
  }));
  const seekTo = async (seconds) => {
    await page.locator('[data-part="seek"]').fill(String(seconds));
    const landed = await until(async () => {
      const { time, ended } = await read();
      return ended || (time > seconds + 0.3 && time < seconds + 4);
    }, 8_000);
    checks.that(landed, `seek to ${seconds.toFixed(1)} s did not play on from there`);
  };

  const drawn = await until(async () => (await page.locator('[data-part="choices"] input').count()) > 1, 10_000);
  if (!checks.that(drawn, "the rungs did not appear")) return;
  checks.that((await page.evaluate(() => document.cookie)) === "", "the page sets cookies");
  const offered = await page.locator('[data-part="choices"] input').evaluateAll((inputs) => inputs.map((input) => input.value));
  checks.fact("offered", offered);
  for (const value of ["auto", "64", "96", "160", "256", "flac"]) checks.that(offered.includes(value), `"${value}" is not offered`);

  for (const wrong of await nameless(page)) checks.that(false, wrong);

  // It starts on a click and plays on without a pause.
  const clicked = Date.now();
  await page.locator('[data-part="play"]').click();
  if (!checks.that(await until(async () => (await read()).time > 0, 8_000, 20), "no sound after clicking play")) return;
  checks.fact("start_ms", Date.now() - clicked);
  await steadyPlay(checks, () => page.evaluate(() => ({ time: segue.audio.currentTime, waits: segue.events.filter((e) => e.name === "waiting").length })), 10.5);
  checks.that((await page.locator('[data-part="rung"]').textContent()).startsWith("AAC "), "the page does not say which rung is playing");
  checks.that((await page.locator('[data-part="play"]').getAttribute("aria-label")) === "Pause", "the button does not offer to pause");

  // Keys: pause, play, five seconds back and forth.
  await page.locator('[data-part="play"]').press("Space");
  checks.that(await until(async () => (await read()).paused, 2_000), "space on the button does not pause");
  await page.locator('[data-part="play"]').press("Enter");
  checks.that(await until(async () => !(await read()).paused, 2_000), "enter on the button does not play");
  const before = (await read()).time;
  await page.locator('[data-part="seek"]').press("ArrowRight");
  checks.that(await until(async () => (await read()).time > before + 4.5, 2_000), "the right arrow does not go forward");
  const later = (await read()).time;
  await page.locator('[data-part="seek"]').press("ArrowLeft");
  checks.that(await until(async () => (await read()).time < later - 3, 2_000), "the left arrow does not go back");

  await seekTo(options.duration * 0.7);
  await seekTo(3);

  // Every rung, each at another place so that it must be loaded.
  const rungs = offered.filter((value) => /^\d+$/.test(value));
  for (const [i, kbps] of rungs.entries()) {
    await page.locator(`[data-part="choices"] label:has(input[value="${kbps}"])`).click();
    await seekTo(options.duration * (0.2 + 0.13 * i));
    checks.that(await until(async () => (await read()).rung === `aac-${kbps}`, 8_000), `rung ${kbps} was chosen but is not heard`);
  }

  // Lossless is another playlist: it goes on from the same place.
  if (offered.includes("flac")) {
    const place = (await read()).time;
    await page.locator('[data-part="choices"] label:has(input[value="flac"])').click();
    const playing = await until(async () => {
      const now = await read();
      return now.rung === "flac" && now.time > place + 0.3 && now.time < place + 6;
    }, 10_000);
    checks.that(playing, "FLAC was chosen but is not heard from the same place");
    await sleep(1_000);
    // Begun in the middle: the player adds up EXTINFs, each rounded to a microsecond.
    exactLength(checks, options, await length(page), "FLAC", 1e-6);
    await page.locator('[data-part="choices"] label:has(input[value="auto"])').click();
    checks.that(await until(async () => (await read()).rung.startsWith("aac-"), 10_000), "Auto does not lead back from FLAC");
  }

  // To the very end, and once more from the start.
  await seekTo(options.duration - 2.5);
  checks.that(await until(async () => (await read()).ended, 8_000), "the end is not reached");
  exactLength(checks, options, await length(page), "AAC");
  const stated = Number(await page.locator("#player").getAttribute("data-duration"));
  checks.that(Math.abs(stated - options.duration) < 1e-9, `the page states ${stated} s, the source has ${options.duration} s`);
  await page.locator('[data-part="play"]').click();
  checks.that(await until(async () => { const { time, ended } = await read(); return !ended && time > 0.2 && time < 5; }, 8_000), "it does not play again after the end");

  const last = await read();
  checks.that(last.error === "", `the page shows an error: ${last.error}`);
  for (const error of last.errors) checks.that(false, `hls.js: ${error.details} ${error.reason}`);
}

const length = (page) => page.evaluate(() => segue.audio.duration);
