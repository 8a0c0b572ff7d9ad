// Checks that several scenarios share.

import { sleep } from "../lib/check.mjs";

/** The position moves with the wall clock for `seconds`, without waiting for data. */
export async function steadyPlay(checks, read, seconds) {
  const first = await read();
  const began = performance.now();
  let last = first;
  while (performance.now() - began < seconds * 1000) {
    await sleep(500);
    const now = await read();
    if (!checks.that(now.time > last.time, `the position stood still at ${now.time.toFixed(2)} s`)) return;
    last = now;
  }
  const media = last.time - first.time;
  const wall = (performance.now() - began) / 1000;
  checks.fact("steady", { media_s: round(media), wall_s: round(wall), waits: last.waits - first.waits });
  checks.that(Math.abs(media - wall) < 1, `played ${media.toFixed(2)} s in ${wall.toFixed(2)} s`);
  checks.that(last.waits === first.waits, `waited for data ${last.waits - first.waits} times`);
}

/** The player's duration is the source's, samples divided by rate. Browsers count in microseconds. */
export function exactLength(checks, options, duration, what, tolerance = 1e-6) {
  checks.fact(`duration_${what}`, duration);
  const allowed = options.lenient ? 0.15 : tolerance;
  checks.that(Math.abs(duration - options.duration) <= allowed, `${what}: duration is ${duration} s, the source has ${options.duration} s`);
}

export const round = (value) => Math.round(value * 1000) / 1000;
