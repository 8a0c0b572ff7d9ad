// The player in other sites' frames: plays the preview, and says where it is. No cookies, no storage, no other requests.

import { clock, spoken } from "./words.js";

const root = document.getElementById("embed");
const at = (name) => root.querySelector(`[data-part="${name}"]`);
const audio = at("audio");
if (audio) start();

function start() {
  const button = at("play"), seek = at("seek"), played = at("played"), status = at("status");
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const length = () => (Number.isFinite(audio.duration) && audio.duration > 0 ? audio.duration : 30);
  let dragging = false;

  button.addEventListener("click", toggle);
  document.addEventListener("keydown", (press) => {
    if (press.ctrlKey || press.metaKey || press.altKey || press.target.closest?.("a, button, input")) return;
    if (press.key === " ") { press.preventDefault(); toggle(); }
  });
  seek.addEventListener("input", () => { dragging = true; paint(Number(seek.value)); });
  seek.addEventListener("change", () => { dragging = false; audio.currentTime = Number(seek.value); paint(audio.currentTime); });
  for (const name of ["play", "pause", "ended", "playing", "waiting"]) audio.addEventListener(name, show);
  audio.addEventListener("durationchange", () => { seek.max = String(length()); paint(audio.currentTime); });
  audio.addEventListener("timeupdate", () => { if (!dragging && still.matches) paint(audio.currentTime); });
  audio.addEventListener("error", () => { status.textContent = "The preview cannot be played."; });
  paint(0);

  function toggle() {
    if (audio.ended) audio.currentTime = 0;
    if (audio.paused) audio.play().catch(() => show());
    else audio.pause();
  }

  function show() {
    const playing = !audio.paused && !audio.ended;
    button.dataset.shows = playing ? "pause" : "play";
    button.setAttribute("aria-label", playing ? "Pause the preview" : "Play the preview");
    status.textContent = audio.ended ? "That was the preview." : "";
    if (playing) requestAnimationFrame(move);
    else paint(audio.currentTime);
  }

  /** A frame: only while it plays, and only for who likes motion; others see it move four times a second. */
  function move() {
    if (audio.paused || still.matches) return;
    if (!dragging) paint(audio.currentTime);
    requestAnimationFrame(move);
  }

  function paint(position) {
    const share = Math.min(1, position / length());
    played.style.clipPath = `inset(0 ${(100 - share * 100).toFixed(2)}% 0 0)`;
    if (!dragging) seek.value = String(position);
    seek.setAttribute("aria-valuetext", `${spoken(position)} of ${spoken(length())}`);
    at("position").textContent = clock(position);
  }
}
