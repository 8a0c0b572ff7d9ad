// The full hls.js build on a bare page. `load(master, options)`; state in `window.test`.

"use strict";

const audio = mediaElement();
const test = { ready: false, levels: [], errors: [], waits: 0, heard: [], loads: [], audio };
window.test = test;

audio.addEventListener("waiting", () => { test.waits++; });
audio.addEventListener("error", () => test.errors.push(`media: ${audio.error?.message}`));

/** options.cycle: every segment from the next rung. options.bufferSeconds: how far to read ahead. */
test.load = (master, options = {}) => {
  const hls = new Hls({
    enableWorker: true, maxBufferLength: options.bufferSeconds ?? 30, maxBufferSize: 0,
    ...(options.cycle ? { testBandwidth: false, startLevel: 0 } : {}),
  });
  test.hls = hls;
  hls.on(Hls.Events.ERROR, (_, data) => {
    if (data.details === Hls.ErrorDetails.INTERNAL_ABORTED) return; // a download given up for a seek or another rung
    test.errors.push(`${data.details}${data.fatal ? " (fatal)" : ""}: ${data.reason ?? data.error?.message ?? data.response?.code ?? ""}`);
  });
  hls.on(Hls.Events.MANIFEST_PARSED, (_, data) => {
    test.levels = data.levels.map((level) => ({ bitrate: level.bitrate, codec: level.videoCodec ?? level.audioCodec, height: level.height, uri: level.uri }));
    test.ready = true;
  });
  hls.on(Hls.Events.FRAG_CHANGED, (_, { frag }) => test.heard.push({ sn: frag.sn, level: frag.level, at: audio.currentTime }));
  if (options.cycle) {
    hls.on(Hls.Events.FRAG_LOADING, (_, { frag }) => { if (frag.sn !== "initSegment") test.loads.push(`${frag.sn}:${frag.level}`); });
    hls.on(Hls.Events.FRAG_BUFFERED, (_, { frag }) => {
      if (frag.sn !== "initSegment") hls.loadLevel = (frag.level + 1) % hls.levels.length;
    });
  }
  hls.loadSource(master);
  hls.attachMedia(audio);
};

// Clears what is buffered, so that the change is heard at once; record.mjs covers changes at a boundary.
test.choose = (level) => { test.hls.currentLevel = level; };
test.playing = () => test.heard.at(-1)?.level ?? -1;
