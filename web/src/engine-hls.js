// Plays one multivariant playlist with hls.js and reports rungs, segments and trouble.
//
// The light build is enough: our playlists have neither alternate renditions nor subtitles nor DRM. No
// worker: fMP4 is passed through without remuxing, so there is nothing to move off the main thread.

import Hls from "hls.js/light";

export const hlsSupported = () => Hls.isSupported();

export function flacSupported(audio) {
  const source = globalThis.ManagedMediaSource ?? globalThis.MediaSource;
  if (source) return source.isTypeSupported('audio/mp4; codecs="flac"');
  return audio.canPlayType('audio/mp4; codecs="fLaC"') !== "";
}

export class HlsEngine {
  constructor(audio, master, position, report) {
    this.audio = audio;
    this.report = report;
    this.rungs = [];
    this.choice = "auto";
    this.recovered = false;
    this.measured = new Map(); // media sequence number → bits per second of the segment as loaded
    // hls.js takes the first segment it loads for the truth about time, and does not know edit lists: begun in
    // the middle, an AAC track would run one frame (its priming) early for the rest of the session. So we
    // begin at the beginning, on the smallest rung, and go to the place from there. FLAC has no priming.
    this.goTo = position > 0 && !/\/flac\//.test(master) ? position : 0;
    this.hls = new Hls({
      enableWorker: false,
      startPosition: this.goTo || position <= 0 ? -1 : position,
      startLevel: this.goTo ? 0 : undefined,
      // Nobody has pressed play yet: two segments make the start instant and cost little. `wake` lifts it.
      maxBufferLength: IDLE_AHEAD_S,
      maxMaxBufferLength: AHEAD_S,
      maxBufferSize: 0, // let seconds decide, not bytes
      backBufferLength: 60,
    });
    this.listen();
    this.hls.loadSource(master);
    this.hls.attachMedia(audio);
  }

  /** The listener pressed play: buffer as far as we ever want to. */
  wake() {
    this.hls.config.maxBufferLength = AHEAD_S;
  }

  /** "auto", or a nominal bit rate; takes effect at the next segment boundary, without a break. */
  choose(choice) {
    this.choice = choice;
    if (!this.rungs.length || this.goTo) return; // nothing to choose from yet
    const { hls } = this;
    const level = this.rungs.findIndex((rung) => String(rung.kbps) === choice);
    if (level < 0 && !hls.autoLevelEnabled) hls.loadLevel = -1;
    if (level >= 0 && (hls.autoLevelEnabled || level !== hls.loadLevel)) hls.nextLevel = level;
  }

  close() {
    this.hls.destroy();
  }

  listen() {
    const { hls, report } = this;
    const { Events } = Hls;
    hls.on(Events.MANIFEST_PARSED, (_, { levels }) => {
      this.rungs = levels.map(rungOf);
      this.choose(this.choice);
      report.rungs(this.rungs);
      report.note("manifest", { levels: levels.length });
    });
    hls.on(Events.FRAG_BUFFERED, (_, { frag, stats }) => {
      if (frag.sn === "initSegment" || !(frag.duration > 0)) return;
      this.arrive();
      const measured_bps = (stats.total * 8) / frag.duration;
      this.measured.set(frag.sn, measured_bps);
      const height = this.rungs.length > 1 ? (frag.level + 1) / this.rungs.length : 1;
      report.segment({ start: frag.start, end: frag.start + frag.duration, height });
      report.network(hls.bandwidthEstimate);
      report.note("segment", { sn: frag.sn, level: frag.level, bytes: stats.total });
    });
    hls.on(Events.FRAG_CHANGED, (_, { frag }) => {
      report.rung({ ...this.rungs[frag.level], measured_bps: this.measured.get(frag.sn) ?? 0 });
    });
    hls.on(Events.LEVEL_SWITCHED, (_, { level }) => report.note("switched", { level }));
    hls.on(Events.ERROR, (_, data) => this.trouble(data));
  }

  /** The first segment has told hls.js what time it is: now go where the listener was. */
  arrive() {
    if (!this.goTo) return;
    this.audio.currentTime = this.goTo;
    this.goTo = 0;
    this.choose(this.choice);
    this.report.ready();
  }

  /** Whether `play` may be called, or `report.ready` will say so. */
  get ready() {
    return this.goTo === 0;
  }

  trouble(data) {
    const error = {
      kind: data.type === Hls.ErrorTypes.NETWORK_ERROR ? "network" : data.type === Hls.ErrorTypes.MEDIA_ERROR ? "media" : "other",
      details: data.details,
      fatal: data.fatal,
      status: data.response?.code ?? 0,
      reason: String(data.reason ?? data.error?.message ?? ""),
    };
    // hls.js calls it an error when a choice or a seek makes it drop a download half way. It is not.
    if (data.details === Hls.ErrorDetails.INTERNAL_ABORTED) return this.report.note("aborted");
    this.report.error(error);
    if (!data.fatal) return; // hls.js is already trying again
    if (error.kind === "media" && !this.recovered) {
      this.recovered = true;
      return this.hls.recoverMediaError();
    }
    this.hls.stopLoad();
    this.report.failed(error);
  }
}

function rungOf(level) {
  const codec = /flac/i.test(level.audioCodec ?? level.codecSet ?? "") ? "FLAC" : "AAC";
  // The rung's directory is its nominal rate; what the playlist states is the measured one.
  const named = /\/(\d+)\/[^/]+$/.exec(new URL(level.uri, location.href).pathname);
  const kbps = named ? Number(named[1]) : Math.round((level.averageBitrate || level.bitrate) / 1000);
  return { id: codec === "FLAC" ? "flac" : `aac-${kbps}`, codec, kbps };
}

const IDLE_AHEAD_S = 10;
// A minute survives a tunnel; more would only be thrown away when the listener leaves.
const AHEAD_S = 60;
