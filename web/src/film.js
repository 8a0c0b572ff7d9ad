// The page of a film: the browser's own controls, hls.js under them, and a line that says what is seen.
//
// The full build of hls.js: the sound is a rendition of its own, which the light one does not know.

import Hls from "hls.js";
import { plainWords } from "./errors.js";
import { tellPlays } from "./plays.js";

const root = document.getElementById("player");
const at = (part) => root.querySelector(`[data-part="${part}"]`);
const video = at("video");
// For tests and for whoever opens the console.
const film = { errors: [], video, hls: null };
globalThis.segue = film;

if (root.dataset.state === "ready") open();

function open() {
  const { master } = root.dataset;
  tellPlays(video, root.dataset.track);
  video.addEventListener("resize", () => { at("seen").textContent = `${video.videoWidth} × ${video.videoHeight}`; });
  at("retry").addEventListener("click", () => location.reload());
  if (!Hls.isSupported()) {
    // Safari on phones plays it by itself.
    if (video.canPlayType("application/vnd.apple.mpegurl")) video.src = master;
    else say({ kind: "unsupported" });
    return;
  }
  const hls = new Hls({ enableWorker: false, capLevelToPlayerSize: true, backBufferLength: 60 });
  film.hls = hls;
  let recovered = false;
  hls.on(Hls.Events.ERROR, (_, data) => {
    if (data.details === Hls.ErrorDetails.INTERNAL_ABORTED) return;
    film.errors.push(`${data.details}${data.fatal ? " (fatal)" : ""}`);
    if (!data.fatal) return; // it is already trying again
    if (data.type === Hls.ErrorTypes.MEDIA_ERROR && !recovered) {
      recovered = true;
      return hls.recoverMediaError();
    }
    hls.stopLoad();
    const kind = { [Hls.ErrorTypes.NETWORK_ERROR]: "network", [Hls.ErrorTypes.MEDIA_ERROR]: "media" }[data.type] ?? "other";
    say({ kind, status: data.response?.code ?? 0 });
  });
  hls.loadSource(master);
  hls.attachMedia(video);
}

function say(error) {
  at("error-text").textContent = plainWords(error, navigator.onLine).text;
  at("error").hidden = false;
}
