// What went wrong, in words a listener can act on. The cure decides what the button does:
// "retry" opens the stream again here, "reload" fetches a new page (and with it new signed links).

export function plainWords(error, online = true) {
  const say = (text, cure = "retry") => ({ text, cure });
  if (error.kind === "unsupported") return say("This browser cannot play streaming media.", "none");
  if (!online) return say("You are offline. Playback goes on when the connection is back.");
  switch (error.status) {
    case 401:
    case 403: return say("The link to this track has run out.", "reload");
    case 404:
    case 410: return say("This track is not here any more.", "reload");
    case 429:
    case 503: return say("The server is busy. Try again in a moment.");
    case 451: return say("This track is blocked for legal reasons.", "none");
  }
  if (error.kind === "network") return say("The server cannot be reached.");
  if (error.kind === "media") return say("This browser could not decode the media.");
  return say("Playback stopped because of an unexpected problem.");
}
