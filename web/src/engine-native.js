// Plays with the browser's own HLS player where there is no Media Source (older Safari). It picks the rung
// itself and does not tell which, so there is only Auto, and Lossless as another playlist.

export const nativeSupported = (audio) => audio.canPlayType("application/vnd.apple.mpegurl") !== "";

export class NativeEngine {
  constructor(audio, master, position, report) {
    this.audio = audio;
    this.rungs = [];
    this.hls = null;
    this.ready = true;
    this.goTo = 0;
    this.stop = new AbortController();
    const on = (name, react) => audio.addEventListener(name, react, { signal: this.stop.signal });
    on("loadedmetadata", () => {
      if (position > 0) audio.currentTime = position;
      report.rungs([]);
      report.note("manifest");
    });
    on("error", () => {
      const kind = audio.error?.code === MediaError.MEDIA_ERR_NETWORK ? "network" : "media";
      const error = { kind, details: "native", fatal: true, status: 0, reason: audio.error?.message ?? "" };
      report.error(error);
      report.failed(error);
    });
    audio.src = master;
    audio.load();
  }

  wake() {}

  choose() {}

  close() {
    this.stop.abort();
    this.audio.removeAttribute("src");
    this.audio.load();
  }
}
