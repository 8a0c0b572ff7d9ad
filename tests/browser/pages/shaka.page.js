// Shaka on a bare page, the same shape as hls.page.js. Levels are its variants, lowest first.

"use strict";

const audio = mediaElement();
const test = { ready: false, levels: [], errors: [], waits: 0, audio };
window.test = test;

audio.addEventListener("waiting", () => { test.waits++; });
audio.addEventListener("error", () => test.errors.push(`media: ${audio.error?.message}`));

const words = (error) => `shaka ${error.severity === 2 ? "critical " : ""}${error.category}/${error.code}: ${String(error.data?.[0] ?? error.message ?? "")}`;

test.load = async (master) => {
  const player = new shaka.Player();
  test.player = player;
  player.addEventListener("error", (event) => test.errors.push(words(event.detail)));
  player.configure({ abr: { enabled: false }, streaming: { bufferingGoal: 14 } });
  await player.attach(audio);
  try {
    await player.load(master);
  } catch (error) {
    test.errors.push(words(error));
    return;
  }
  test.levels = variants().map((track) => ({ bitrate: track.bandwidth, codec: track.videoCodec ?? track.audioCodec ?? track.codecs, height: track.height }));
  test.ready = true;
};

const variants = () => test.player.getVariantTracks().sort((a, b) => a.bandwidth - b.bandwidth);

// Clears what is buffered, so that the change is heard at once.
test.choose = (level) => test.player.selectVariantTrack(variants()[level], true);
test.playing = () => variants().findIndex((track) => track.active);
