// What comes out of the element, compared with the source sample by sample: it starts with the source's first
// sample, goes on without a gap, and ends with its last. `--cycle` takes every segment from another rung.

import { sleep, until } from "../lib/check.mjs";
import { findLag, firstSound, largestError, lastSound, readWav, walk } from "../lib/compare.mjs";

// Past two segment boundaries, at 6 and 12 s.
const LISTEN_S = 13;
// The tail is recorded from here to the end.
const TAIL_S = 2.5;

export async function record({ page, checks, options, pages }) {
  const source = await readWav(options.wav);
  checks.that(source.rate === options.rate && source.left.length === options.samples, "the WAV file is not the published source");

  await load(page, checks, options, pages);
  await page.evaluate(() => test.audio.play());
  checks.that(await until(async () => (await page.evaluate(() => test.audio.currentTime)) > LISTEN_S, (LISTEN_S + 10) * 1000), "it did not play far enough");
  await page.evaluate(() => test.audio.pause());
  const heard = await page.evaluate(() => test.heard);
  checks.fact("loads", await page.evaluate(() => test.loads));
  checks.fact("heard", heard.map(({ sn, level }) => `${sn}:${level}`));
  if (options.cycle) {
    const changed = heard.every((now, i) => i === 0 || now.level !== heard[i - 1].level);
    checks.that(heard.length >= 3 && changed, "the rung did not change at every segment");
  }
  compareStart(checks, options, source.left, await recording(page, checks));
  await collect(page, checks);

  await page.goto("about:blank");
  await load(page, checks, options, pages);
  await page.evaluate((to) => { test.audio.currentTime = to; return test.audio.play(); }, options.duration - TAIL_S);
  checks.that(await until(() => page.evaluate(() => test.audio.ended), 12_000), "the end is not reached");
  await sleep(300);
  compareTail(checks, options, source.left, await recording(page, checks));
  await collect(page, checks);
}

async function load(page, checks, options, pages) {
  await page.goto(`${pages}/hls.html`, { waitUntil: "load" });
  const rate = await page.evaluate((wanted) => startTap(test.audio, wanted), options.rate);
  checks.that(rate === options.rate, `the recording is at ${rate} Hz`);
  await page.evaluate(({ url, cycle }) => test.load(url, { cycle, bufferSeconds: 12 }), options);
  checks.that(await until(() => page.evaluate(() => test.ready), 10_000, 30), "the playlist did not open");
}

async function recording(page, checks) {
  const { pcm, holes } = await page.evaluate(() => tapped());
  // Chromium skips a few blocks while its audio clock starts; later, the recording would be worth nothing.
  const late = holes.filter(({ at }) => at > 16_384);
  checks.that(late.length === 0, `the recording itself has holes: ${JSON.stringify(late)}`);
  const bytes = Buffer.from(pcm, "base64");
  return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4).slice();
}

function compareStart(checks, options, source, heard) {
  const { rate } = options;
  const first = firstSound(heard);
  if (!checks.that(first >= 0, "the recording is silent")) return;
  // Half a second after the first sound, where music is loud enough to be told apart.
  const { lag, likeness } = findLag(source, heard, first + rate / 2, 16_384, first, 4096);
  checks.fact("first_source_sample", first - lag);
  checks.fact("likeness", Math.round(likeness * 1e5) / 1e5);
  checks.that(likeness > 0.98, `the recording does not resemble the source (${likeness.toFixed(3)})`);
  // The encoder may write a few exact zeros where the source is nearly silent; it may not play its priming.
  checks.that(options.lenient || (first - lag >= 0 && first - lag <= 32), `the first sample heard is the source's sample ${first - lag}`);

  const end = lastSound(heard);
  const stretches = walk(source, heard, lag + 64, end - 4096, lag, rate);
  // A lossy rung may match a sample or two beside the truth; what can go wrong is never that small.
  const slack = options.lossless ? 0 : 2;
  const strays = stretches.filter((stretch) => stretch.lag === null || Math.abs(stretch.lag - lag) > slack);
  checks.fact("stretches", stretches.length);
  checks.fact("seconds", Math.round((end - lag) / rate * 100) / 100);
  checks.that((end - lag) / rate > LISTEN_S - 1, `only ${((end - lag) / rate).toFixed(1)} s were recorded`);
  for (const { at, lag: other, likeness: like } of strays.slice(0, 5)) {
    const where = ((at - lag) / rate).toFixed(2);
    checks.that(false, other === null ? `silence at ${where} s` : `at ${where} s the sound is ${other - lag} samples late (likeness ${like.toFixed(3)})`);
  }
  if (options.lossless) {
    const worst = largestError(source, heard, lag, end - 4096, lag);
    checks.fact("largest_error", worst);
    checks.that(worst < 1 / 65536, `lossless differs from the source by ${worst}`);
  }
}

function compareTail(checks, options, source, heard) {
  const { rate, samples } = options;
  const first = firstSound(heard);
  const end = lastSound(heard);
  if (!checks.that(first >= 0 && end - first > rate, "the tail was not recorded")) return;
  const expected = first - Math.round((options.duration - TAIL_S) * rate);
  const { lag, likeness } = findLag(source, heard, first + rate, 16_384, expected, 8192);
  checks.that(likeness > 0.98, `the tail does not resemble the source (${likeness.toFixed(3)})`);
  const missing = samples - 1 - (end - lag);
  checks.fact("samples_after_end", -missing);
  checks.that(options.lenient || missing <= 32, `the last ${missing} samples were not heard`);
  // A decoder has no way to play half an AAC frame: what pads the last one may still sound.
  checks.that(missing >= -1024, `${-missing} samples were heard after the end`);
}

async function collect(page, checks) {
  for (const error of await page.evaluate(() => test.errors)) checks.that(false, error);
}
