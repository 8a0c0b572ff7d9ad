// Numbers as people read or hear them.

/** 64.3 → "1:04" */
export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds + 1e-6));
  const h = Math.floor(whole / 3600);
  const m = Math.floor((whole % 3600) / 60);
  const s = String(whole % 60).padStart(2, "0");
  return h ? `${h}:${String(m).padStart(2, "0")}:${s}` : `${m}:${s}`;
}

/** 64.3 → "1 minute 4 seconds", for a screen reader. */
export function spoken(seconds) {
  const whole = Math.max(0, Math.floor(seconds + 1e-6));
  const m = Math.floor(whole / 60);
  const count = (n, unit) => `${n} ${unit}${n === 1 ? "" : "s"}`;
  return m ? `${count(m, "minute")} ${count(whole % 60, "second")}` : count(whole, "second");
}

export function rungLabel({ codec, kbps }, flacWord) {
  return codec === "FLAC" ? (flacWord === "Lossless" ? "FLAC, lossless" : "FLAC") : `${codec} ${kbps} kbit/s`;
}
