// Finds where a recording lies in its source, to the sample.
//
// In: the source's samples, a recording of part of it. Out: at which source sample it starts, and the lag of
// every stretch after that. One lag from beginning to end means nothing was dropped, repeated or inserted.

import { readFile } from "node:fs/promises";

/** The left channel of a 16-bit PCM WAV as floats. */
export async function readWav(path) {
  const file = await readFile(path);
  if (file.toString("latin1", 0, 4) !== "RIFF" || file.toString("latin1", 8, 12) !== "WAVE") throw new Error(`${path} is not a WAV file`);
  let channels = 0, rate = 0, bits = 0;
  for (let at = 12; at + 8 <= file.length;) {
    const name = file.toString("latin1", at, at + 4);
    const size = file.readUInt32LE(at + 4);
    const body = at + 8;
    if (name === "fmt ") [channels, rate, bits] = [file.readUInt16LE(body + 2), file.readUInt32LE(body + 4), file.readUInt16LE(body + 14)];
    if (name === "data") {
      if (bits !== 16) throw new Error(`${path}: ${bits} bits, expected 16`);
      const frames = Math.floor(Math.min(size, file.length - body) / (2 * channels));
      const left = new Float32Array(frames);
      for (let i = 0; i < frames; i++) left[i] = file.readInt16LE(body + i * 2 * channels) / 32768;
      return { left, rate, channels };
    }
    at = body + size + (size & 1);
  }
  throw new Error(`${path} has no data`);
}

/** Recording index of source sample 0, by the best match of one stretch of recording anywhere near `expected`. */
export function findLag(source, recording, from, length, expected, reach) {
  let best = { lag: 0, likeness: -2 };
  const stretch = recording.subarray(from, from + length);
  const energy = power(stretch);
  for (let lag = expected - reach; lag <= expected + reach; lag++) {
    const at = from - lag;
    if (at < 0 || at + length > source.length) continue;
    let cross = 0, own = 0;
    for (let i = 0; i < length; i++) {
      const s = source[at + i];
      cross += s * stretch[i];
      own += s * s;
    }
    const likeness = cross / Math.sqrt(energy * own + 1e-20);
    if (likeness > best.likeness) best = { lag, likeness };
  }
  return best;
}

/** Where in the recording the first sound is: everything before is digital silence. */
export function firstSound(recording, from = 0) {
  for (let i = from; i < recording.length; i++) if (recording[i] !== 0) return i;
  return -1;
}

export function lastSound(recording) {
  for (let i = recording.length - 1; i >= 0; i--) if (recording[i] !== 0) return i;
  return -1;
}

/**
 * Walks through the recording from `from` to `to`: the lag of each stretch against the first one's.
 * `expected` is the lag to look around; stretches are 2048 samples, ten a second.
 */
export function walk(source, recording, from, to, expected, rate) {
  const length = 2048;
  const lags = [];
  for (let at = from; at + length <= to; at += Math.floor(rate / 10)) {
    if (power(recording.subarray(at, at + length)) === 0) {
      lags.push({ at, lag: null, likeness: 0 });
      continue;
    }
    // ±1200: an AAC frame or its priming lost or doubled is 1024.
    lags.push({ at, ...findLag(source, recording, at, length, expected, 1200) });
  }
  return lags;
}

/** Largest difference between source and recording at `lag`: 0 for lossless. */
export function largestError(source, recording, from, to, lag) {
  let worst = 0;
  for (let i = from; i < to; i++) worst = Math.max(worst, Math.abs(recording[i] - source[i - lag]));
  return worst;
}

function power(samples) {
  let sum = 0;
  for (const sample of samples) sum += sample * sample;
  return sum;
}
