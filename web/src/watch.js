// The watch page: reads what the server wrote on the root element, plays it, and says what it is doing.
// In: data-state, data-aac, data-flac, data-duration. Out: sound, and `window.segue` for tests and the curious.
//
// Two engines hide behind one shape (`play`, `choose`, `close`): hls.js where there is Media Source, the
// browser's own HLS player elsewhere (older Safari).

import { HlsEngine, hlsSupported, flacSupported } from "./engine-hls.js";
import { NativeEngine, nativeSupported } from "./engine-native.js";
import { plainWords } from "./errors.js";
import { clock, spoken, rungLabel } from "./words.js";
import { RungMap } from "./rungmap.js";
import { tellPlays } from "./plays.js";

const root = document.getElementById("player");
const at = (name) => root.querySelector(`[data-part="${name}"]`);

// Seven hours of segments; the log is for tests and bug reports, not for keeping.
const EVENTS_MAX = 5000;

const STATUS = { loading: "Loading…", ended: "The end." };

if (root.dataset.state === "preparing") waitUntilReady();
else if (root.dataset.state === "ready") start();

/** Asks for this page again until the server says the track is ready, then reloads. */
async function waitUntilReady() {
  for (let delay = 1000; ; delay = Math.min(delay * 1.3, 5000)) {
    await new Promise((wake) => setTimeout(wake, delay));
    if (document.hidden) continue;
    const state = await pageState().catch(() => "preparing"); // a lost network is not the track's fault
    if (state === "preparing") continue;
    return location.reload();
  }
}

async function pageState() {
  const answer = await fetch(location.href, { cache: "no-store" });
  if (answer.status >= 500 || answer.status === 429) return "preparing";
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  return page.getElementById("player")?.dataset.state ?? "gone";
}

function start() {
  const audio = at("audio");
  const buttons = { play: at("play"), retry: at("retry") };
  const seek = at("seek");
  const volume = at("volume");
  const masters = { aac: root.dataset.aac, flac: root.dataset.flac };
  // FLAC of a source that had to be resampled, or had more bits, is FLAC and not lossless.
  const flacWord = root.dataset.lossless === "true" ? "Lossless" : "FLAC";
  const map = new RungMap(at("map"));

  let engine = null;
  let choice = "auto"; // what the listener asked for: "auto", "flac" or a nominal bit rate as text
  let dragging = false;
  let playWhenReady = false;
  let family = "aac";
  let lastRung = null;

  const log = { events: [], errors: [] };
  const note = (name, detail = {}) => {
    log.events.push({ at: Math.round(performance.now()), name, position: audio.currentTime, ...detail });
    if (log.events.length > EVENTS_MAX) log.events.shift();
  };

  window.segue = {
    get hls() { return engine?.hls ?? null; },
    get choice() { return choice; },
    get rung() { return lastRung; },
    get rungs() { return engine?.rungs ?? []; },
    audio, events: log.events, errors: log.errors, choose,
  };

  const report = {
    rungs: drawChoices,
    rung: showRung,
    ready: () => { if (playWhenReady) play(); },
    network: (bps) => { at("network").textContent = bps > 0 ? `${bitrate(bps)}` : "–"; },
    segment: (segment) => map.add(segment),
    note,
    error: (error) => { log.errors.push(error); note("error", error); },
    failed: (error) => fail(error),
  };

  open(0);
  wireControls();
  wireMedia();
  tellPlays(audio, root.dataset.track);
  requestAnimationFrame(tick);

  function open(position) {
    engine?.close();
    map.clear();
    showState("loading");
    const Engine = hlsSupported() ? HlsEngine : nativeSupported(audio) ? NativeEngine : null;
    if (!Engine) return fail({ kind: "unsupported" });
    engine = new Engine(audio, masters[family], position, report);
    if (family === "aac") engine.choose(choice);
  }

  /** Auto and bit rates live in the AAC playlist, FLAC in one of its own: crossing over opens the other
   *  playlist at the same position, because hls.js does not survive a codec change inside one master. */
  function choose(wanted) {
    const wantedFamily = wanted === "flac" ? "flac" : "aac";
    choice = wanted;
    note("choose", { choice });
    syncChoices();
    if (wantedFamily === family) return engine.choose(choice);
    const resume = playWhenReady || (!audio.paused && !audio.ended);
    const position = audio.ended ? 0 : where();
    family = wantedFamily;
    open(position);
    if (resume) play();
  }

  function play() {
    if (audio.ended) audio.currentTime = 0;
    engine?.wake();
    playWhenReady = !engine?.ready;
    if (playWhenReady) return;
    audio.play().catch((reason) => {
      if (reason.name === "NotAllowedError") showState("paused"); // the browser wants a tap first
    });
  }

  function toggle() {
    if (audio.paused || audio.ended) play();
    else audio.pause();
  }

  function goTo(seconds) {
    const end = lengthSeconds();
    audio.currentTime = Math.max(0, Math.min(seconds, end));
    note("seek", { to: audio.currentTime });
  }

  function wireControls() {
    buttons.play.addEventListener("click", toggle);
    buttons.retry.addEventListener("click", () => {
      if (root.dataset.cure === "reload") return location.reload();
      at("error").hidden = true;
      open(where());
      play();
    });
    seek.addEventListener("input", () => { dragging = true; paint(Number(seek.value)); });
    seek.addEventListener("change", () => { dragging = false; goTo(Number(seek.value)); });
    volume.addEventListener("input", () => { audio.volume = Number(volume.value) / 100; });
    document.addEventListener("keydown", (press) => {
      if (press.ctrlKey || press.metaKey || press.altKey) return;
      const onSeek = press.target === seek;
      const onControl = press.target.closest?.("button, input, a");
      const keys = {
        ArrowLeft: () => goTo(audio.currentTime - 5),
        ArrowRight: () => goTo(audio.currentTime + 5),
        PageDown: () => goTo(audio.currentTime - 15),
        PageUp: () => goTo(audio.currentTime + 15),
        Home: () => goTo(0),
        End: () => goTo(lengthSeconds()),
        " ": toggle,
      };
      const act = keys[press.key];
      if (!act || (onControl && !onSeek)) return;
      press.preventDefault();
      act();
    });
    if ("mediaSession" in navigator) {
      navigator.mediaSession.metadata = new MediaMetadata({ title: at("title").textContent });
      navigator.mediaSession.setActionHandler("play", play);
      navigator.mediaSession.setActionHandler("pause", () => audio.pause());
      navigator.mediaSession.setActionHandler("seekto", (to) => goTo(to.seekTime));
    }
  }

  function wireMedia() {
    const states = {
      play: () => showState("loading"),
      playing: () => showState("playing"),
      pause: () => { if (!audio.ended) showState("paused"); },
      waiting: () => { if (!audio.paused) showState("loading"); },
      canplay: () => { if (audio.paused && !audio.ended) showState("paused"); },
      ended: () => showState("ended"),
      seeking: () => {}, seeked: () => {}, stalled: () => {}, durationchange: () => {},
    };
    for (const [name, react] of Object.entries(states)) {
      audio.addEventListener(name, () => { note(name); react(); });
    }
  }

  function showState(state) {
    if (!at("error").hidden && state !== "error") {
      if (state === "loading") return;
      at("error").hidden = true;
    }
    root.dataset.state = state;
    const playing = !audio.paused && !audio.ended && state !== "error";
    buttons.play.dataset.shows = playing ? "pause" : "play";
    buttons.play.setAttribute("aria-label", playing ? "Pause" : "Play");
    at("status").textContent = STATUS[state] ?? "";
  }

  function fail(error) {
    const { text, cure } = plainWords(error, navigator.onLine);
    root.dataset.cure = cure;
    at("error-text").textContent = text;
    buttons.retry.textContent = cure === "reload" ? "Reload the page" : "Try again";
    buttons.retry.hidden = cure === "none";
    at("error").hidden = false;
    audio.pause();
    showState("error");
    note("failed", error);
  }

  function showRung(rung) {
    lastRung = rung;
    at("rung").textContent = rungLabel(rung, flacWord);
    at("measured").textContent = rung.measured_bps ? bitrate(rung.measured_bps) : "–";
    root.dataset.rung = rung.id;
    note("rung", { rung: rung.id });
    for (const label of at("choices").querySelectorAll("label")) {
      label.classList.toggle("sounding", label.dataset.rung === rung.id);
    }
  }

  function drawChoices(rungs) {
    const aac = family === "aac" ? rungs : drawChoices.aac ?? [];
    drawChoices.aac = aac;
    const offers = [{ value: "auto", text: "Auto" }];
    for (const rung of aac) offers.push({ value: String(rung.kbps), text: `${rung.kbps}`, rung: rung.id });
    if (masters.flac && flacSupported(audio)) offers.push({ value: "flac", text: flacWord, rung: "flac" });
    const shown = offers.map((offer) => offer.value).join();
    const list = at("choices");
    if (list.dataset.shown === shown) return syncChoices();
    list.dataset.shown = shown;
    list.replaceChildren(...offers.map(choiceRow));
    syncChoices();
  }

  function choiceRow({ value, text, rung }) {
    const label = document.createElement("label");
    const input = Object.assign(document.createElement("input"), { type: "radio", name: "quality", value });
    const face = Object.assign(document.createElement("span"), { textContent: text });
    if (/^\d+$/.test(value)) input.setAttribute("aria-label", `${value} kilobits per second`);
    if (value === "flac") input.setAttribute("aria-label", flacWord === "FLAC" ? "FLAC" : "Lossless (FLAC)");
    if (rung) label.dataset.rung = rung;
    input.addEventListener("change", () => choose(value));
    label.append(input, face);
    return label;
  }

  function syncChoices() {
    for (const input of at("choices").querySelectorAll("input")) input.checked = input.value === choice;
  }

  /** Where the listener is, also while the player is still on its way there. */
  function where() {
    return engine?.goTo || audio.currentTime || 0;
  }

  function lengthSeconds() {
    return Number.isFinite(audio.duration) && audio.duration > 0 ? audio.duration : Number(root.dataset.duration) || 0;
  }

  /** One frame: the moving parts only, and only when they moved. */
  function tick() {
    if (!dragging) paint(where());
    requestAnimationFrame(tick);
  }

  function paint(position) {
    const length = lengthSeconds();
    const ahead = bufferedAhead(audio);
    const key = `${position.toFixed(2)}/${length}/${ahead.toFixed(1)}`;
    map.draw(position, length, audio.buffered);
    if (key === paint.last) return;
    paint.last = key;
    root.dataset.position = audio.currentTime.toFixed(6);
    root.dataset.length = length.toFixed(6);
    if (Number(seek.max) !== length) seek.max = String(length);
    if (!dragging) seek.value = String(position);
    setText("position", clock(position));
    setText("duration", clock(length));
    setText("ahead", `${Math.round(ahead)} s`);
    seek.setAttribute("aria-valuetext", `${spoken(position)} of ${spoken(length)}`);
  }

  function setText(part, text) {
    const node = at(part);
    if (node.textContent !== text) node.textContent = text;
  }
}

function bufferedAhead(audio) {
  const { buffered, currentTime } = audio;
  for (let i = 0; i < buffered.length; i++) {
    if (currentTime >= buffered.start(i) - 0.05 && currentTime <= buffered.end(i)) return buffered.end(i) - currentTime;
  }
  return 0;
}

const bitrate = (bps) => (bps >= 10e6 ? `${Math.round(bps / 1e6)} Mbit/s` : `${Math.round(bps / 1000)} kbit/s`);
