// `startTap(audio, rate)` records what the element plays; `tapped()` gives the left channel as base64 of
// 32-bit floats, and whether the recording itself is without a hole.

"use strict";

/** What plays: the page's audio element, or with `?film` a video element in its place. */
function mediaElement() {
  const audio = document.getElementById("audio");
  if (location.search !== "?film") return audio;
  const video = Object.assign(document.createElement("video"), { id: "audio", crossOrigin: "anonymous", muted: true, width: 640 });
  audio.replaceWith(video);
  return video;
}

const tap = { blocks: [], began: [] };

async function startTap(audio, rate) {
  const context = new AudioContext({ sampleRate: rate, latencyHint: "playback" });
  await context.audioWorklet.addModule("/tap.worklet.js");
  const source = context.createMediaElementSource(audio);
  const node = new AudioWorkletNode(context, "tap", { outputChannelCount: [2] });
  node.port.onmessage = ({ data }) => { tap.blocks.push(data.left); tap.began.push(data.began); };
  source.connect(node).connect(context.destination);
  await context.resume();
  return context.sampleRate;
}

function tapped() {
  const whole = new Float32Array(tap.blocks.reduce((sum, block) => sum + block.length, 0));
  let fill = 0;
  for (const block of tap.blocks) {
    whole.set(block, fill);
    fill += block.length;
  }
  const holes = [];
  for (let i = 1; i < tap.began.length; i++) {
    const missing = tap.began[i] - tap.began[i - 1] - tap.blocks[i - 1].length;
    if (missing) holes.push({ at: i * tap.blocks[0].length, missing });
  }
  const bytes = new Uint8Array(whole.buffer);
  let text = "";
  for (let i = 0; i < bytes.length; i += 0x8000) text += String.fromCharCode(...bytes.subarray(i, i + 0x8000));
  return { pcm: btoa(text), holes };
}
