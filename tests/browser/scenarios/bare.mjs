// hls.js or Shaka on a bare page of another origin: play, seek, every rung, the end.

import { until } from "../lib/check.mjs";
import { exactLength, round, steadyPlay } from "./common.mjs";

export async function bare({ page, checks, options, pages, segments }) {
  await page.goto(`${pages}/${options.scenario}.html${options.film ? "?film" : ""}`, { waitUntil: "load" });
  await page.evaluate((url) => { test.load(url); }, options.url);
  const state = () => page.evaluate(() => ({
    ready: test.ready, time: test.audio.currentTime, waits: test.waits, ended: test.audio.ended, playing: test.ready ? test.playing() : -1,
    height: test.audio.videoHeight ?? 0, pictures: test.audio.getVideoPlaybackQuality?.().totalVideoFrames ?? 0,
  }));
  if (!checks.that(await until(async () => (await state()).ready, 10_000, 30), "the playlist did not open")) return collect(page, checks);
  const levels = await page.evaluate(() => test.levels);
  checks.fact("levels", levels.map((level) => `${level.codec} ${level.bitrate}`));

  const began = Date.now();
  await page.evaluate(() => test.audio.play());
  if (!checks.that(await until(async () => (await state()).time > 0, 8_000, 20), "no sound")) return collect(page, checks);
  checks.fact("start_ms", Date.now() - began);
  await steadyPlay(checks, state, 2);
  const length = () => page.evaluate(() => test.audio.duration);
  if (options.scenario === "shaka") exactLength(checks, options, await length(), "Shaka, from the playlist", 1e-6);

  const seekTo = async (seconds) => {
    await page.evaluate((to) => { test.audio.currentTime = to; }, seconds);
    const landed = await until(async () => { const { time } = await state(); return time > seconds + 0.25 && time < seconds + 4; }, 8_000);
    checks.that(landed, `seek to ${seconds.toFixed(1)} s did not play on from there`);
  };

  // Up and down the ladder, each rung at a place that is not loaded yet, and each heard for half a second.
  const order = levels.length > 1 ? tour(levels.length) : [];
  for (const [i, level] of order.entries()) {
    await seekTo(options.duration * (0.1 + (0.75 * i) / order.length));
    const from = (await state()).time;
    await page.evaluate((to) => test.choose(to), level);
    const heard = await until(async () => {
      const now = await state();
      return now.playing === level && now.time > from + 0.5;
    }, 10_000);
    checks.that(heard, `rung ${levels[level].codec} ${levels[level].bitrate} was chosen but is not playing`);
    if (!options.film) continue;
    const { height } = levels[level];
    const before = (await state()).pictures;
    const seen = await until(async () => { const now = await state(); return now.height === height && now.pictures > before; }, 5_000);
    checks.that(seen, `the size of ${height} lines was chosen but ${(await state()).height} are seen`);
  }
  checks.fact("tour", order);
  if (!order.length) for (const share of [0.6, 0.2, 0.8]) await seekTo(options.duration * share);

  await seekTo(options.duration - 2);
  checks.that(await until(async () => (await state()).ended, 8_000), "the end is not reached");
  // Shaka, like hls.js begun in the middle, takes the first segment of a new rung for the truth about time and
  // ignores its edit list: after a change at a later segment it is one AAC frame early. The sound has no gap.
  const tolerance = options.scenario === "shaka" ? 1025 / options.rate : 1e-6;
  exactLength(checks, options, await length(), options.scenario, tolerance);
  checks.fact("end", round((await state()).time));
  checks.fact("segments", segments.length);
  checks.that(segments.length > 2, "no media segment was fetched");
  await collect(page, checks);
}

/** 0, last, 1, last-1, …, then the first again: with FLAC on top this crosses codecs at every step. */
function tour(levels) {
  const order = [];
  for (let low = 0, high = levels - 1; low <= high; low++, high--) {
    order.push(low);
    if (high !== low) order.push(high);
  }
  order.push(0);
  return order;
}

async function collect(page, checks) {
  for (const error of await page.evaluate(() => test.errors)) checks.that(false, error);
}
