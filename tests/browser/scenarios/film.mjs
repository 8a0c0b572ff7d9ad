// The real page of a film: it shows its still, plays on a click of the browser's own controls, seeks, and ends.

import { until } from "../lib/check.mjs";
import { exactLength, steadyPlay } from "./common.mjs";

export async function film({ page, checks, options }) {
  await page.goto(options.url, { waitUntil: "load" });
  const read = () => page.evaluate(() => {
    const { video } = segue;
    return {
      time: video.currentTime, ended: video.ended, width: video.videoWidth, waits: 0, duration: video.duration,
      pictures: video.getVideoPlaybackQuality().totalVideoFrames, seen: document.querySelector('[data-part="seen"]').textContent,
      error: document.querySelector('[data-part="error"]').hidden ? "" : document.querySelector('[data-part="error-text"]').textContent,
    };
  });
  const still = await page.evaluate(() => new Promise((done) => {
    const image = new Image();
    image.onload = () => done(image.naturalWidth);
    image.onerror = () => done(0);
    image.src = segue.video.poster;
  }));
  checks.that(still > 0, "the still cannot be shown");
  checks.that((await page.evaluate(() => document.cookie)) === "", "the page sets cookies");
  await page.evaluate(() => { segue.video.muted = true; return segue.video.play(); });
  if (!checks.that(await until(async () => (await read()).time > 0, 8_000, 20), "it does not play")) return;
  await steadyPlay(checks, read, 2);
  const now = await read();
  checks.that(now.pictures > 10 && now.width > 0, `only ${now.pictures} pictures were decoded`);
  checks.that(now.seen.includes(String(now.width)), `the page says "${now.seen}", ${now.width} pixels are seen`);
  exactLength(checks, options, now.duration, "the page", 0.05);
  await page.evaluate((to) => { segue.video.currentTime = to; }, options.duration - 2);
  checks.that(await until(async () => (await read()).ended, 8_000), "the end is not reached");
  const last = await read();
  checks.that(last.error === "", `the page shows an error: ${last.error}`);
  for (const error of await page.evaluate(() => segue.errors)) checks.that(false, `hls.js: ${error}`);
}
