// Says that somebody listens, once a playback: after ten seconds of it, or half of what is shorter. The server counts a
// listener once, however often it is told.

const HEARD_S = 10;

export function tellPlays(media, track) {
  let heard = 0, last = null, told = false;
  media.addEventListener("timeupdate", () => {
    const step = last === null ? 0 : media.currentTime - last;
    last = media.currentTime;
    if (step > 0 && step < 2) heard += step; // a seek is not listening
    if (told || heard < Math.min(HEARD_S, (media.duration || HEARD_S * 2) / 2)) return;
    told = true;
    fetch(`/api/v1/tracks/${track}/plays${location.search}`, { method: "POST", keepalive: true }).catch(() => {}); // nobody waits for it
  });
  media.addEventListener("ended", () => { heard = 0; last = null; told = false; });
}
