// The studio: an owner sends files and sees them become tracks.
// In: somebody who may publish, and files. Out: tracks, each with its rungs as they become whole, where its preview begins, and its embed code.

import { clock, spoken } from "./words.js";
import { account, wireLeave } from "./account.js";
import { question } from "./dialog.js";
import { ask, enter, events, json } from "./session.js";
import { upload } from "./tus.js";

const root = document.getElementById("studio");
const at = (name, within = root) => within.querySelector(`[data-part="${name}"]`);
const rows = new Map(); // track id → row
const STATES = {
  draft: "Waiting for its file", uploaded: "In the queue", processing: "Being made", ready: "Ready, not published", published: "Published",
  unlisted: "Unlisted", failed: "Failed", blocked: "Blocked after a legal demand",
};
const UNDER_WAY = ["draft", "uploaded", "processing"];

enter(at("login"), "/api/v1/tracks?limit=1", start);

async function start(me) {
  at("desk").hidden = false;
  wireLeave(at("leave"));
  account(at("account"), me);
  listener(me);
  wireDrop();
  at("more").addEventListener("click", () => list(at("more").dataset.next));
  await list();
}

/** Whoever only listens is asked first: publishing is one click away. */
function listener(me) {
  const listens = me?.role === "listener";
  at("listener").hidden = !listens;
  at("drop").hidden = listens;
  at("become").onclick = async () => listener(await json("/api/v1/users/me", "PATCH", { role: "creator" }));
}

async function list(after = "") {
  const page = await json(`/api/v1/tracks?limit=20${after ? `&after=${encodeURIComponent(after)}` : ""}`);
  for (const track of page.items) show(track);
  at("more").hidden = !page.next;
  at("more").dataset.next = page.next ?? "";
  at("empty").hidden = rows.size > 0;
}

function wireDrop() {
  const zone = at("drop"), input = at("files");
  input.addEventListener("change", () => { [...input.files].forEach(send); input.value = ""; });
  for (const name of ["dragover", "dragenter"]) zone.addEventListener(name, (event) => { event.preventDefault(); zone.classList.add("over"); });
  for (const name of ["dragleave", "drop"]) zone.addEventListener(name, () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => { event.preventDefault(); [...event.dataTransfer.files].forEach(send); });
  addEventListener("beforeunload", (event) => { if (root.querySelector('[data-part="upload"]')) event.preventDefault(); });
}

/** One file, from the disk to a track. */
async function send(file) {
  const row = at("upload-row").content.firstElementChild.cloneNode(true);
  const bar = at("bar", row), told = at("told", row), stop = new AbortController();
  at("name", row).textContent = file.name;
  at("give-up", row).addEventListener("click", () => { stop.abort(); row.remove(); });
  at("uploads").append(row);
  bar.max = file.size || 1;
  const kind = file.type.startsWith("video/") ? "video" : "audio";
  try {
    const id = await upload(file, kind, ask, ({ sent, total, eta_s, waiting }) => {
      bar.value = sent;
      const left = eta_s === null ? "" : `, ${spoken(Math.ceil(eta_s))} left`;
      told.textContent = waiting ? "The network is away; it goes on by itself." : `${Math.floor((sent / (total || 1)) * 100)} %${left}`;
    }, stop.signal);
    const track = await json("/api/v1/tracks", "POST", { upload: id, visibility: at("private").checked ? "private" : "public" });
    row.remove();
    show(track, true);
    at("empty").hidden = true;
  } catch (error) {
    if (stop.signal.aborted) return;
    row.classList.add("failed");
    told.textContent = error.message;
    row.removeAttribute("data-part");
  }
}

function show(track, first = false) {
  let row = rows.get(track.id);
  if (!row) {
    const element = at("track-row").content.firstElementChild.cloneNode(true);
    row = { element, rungs: new Set(), watching: null, track };
    rows.set(track.id, row);
    if (first) at("tracks").prepend(element);
    else at("tracks").append(element);
    wireRow(row);
  }
  row.track = track;
  const { element } = row;
  element.dataset.track = track.id;
  element.dataset.state = track.state;
  at("title", element).textContent = track.title;
  at("title", element).href = track.urls.watch;
  at("length", element).textContent = track.duration_s ? clock(track.duration_s) : "";
  at("state", element).textContent = STATES[track.state] ?? track.state;
  at("error", element).textContent = track.error ?? "";
  at("error", element).hidden = !track.error;
  at("retry", element).hidden = track.state !== "failed" || !track.job;
  at("publish", element).hidden = !["ready", "unlisted"].includes(track.state);
  at("unlist", element).hidden = track.state !== "published";
  at("visibility", element).checked = track.visibility === "private";
  at("preview-enabled", element).checked = track.preview_enabled;
  at("tools", element).hidden = !track.version;
  if (track.version) tools(row);
  if (UNDER_WAY.includes(track.state) && (track.job || track.waits_for_upload)) watch(row);
}

/** Listens until nothing more happens to the track by itself. */
async function watch(row) {
  if (row.watching) return;
  row.watching = new AbortController();
  const { element } = row, id = row.track.id, bar = at("progress", element);
  element.classList.add("busy");
  await events(`/api/v1/tracks/${id}/events`, async (name, data) => {
    if (name === "progress") { bar.hidden = false; bar.value = data.progress ?? 0; at("eta", element).textContent = data.eta_s ? `${spoken(data.eta_s)} left` : ""; }
    if (name === "started") { row.rungs.clear(); drawRungs(row); }
    if (name === "rung") { row.rungs.add(data.data.path); drawRungs(row); }
    if ((name === "state" || name === "playable") && rows.has(id)) show(await json(`/api/v1/tracks/${id}`));
  }, row.watching.signal);
  if (row.watching.signal.aborted) return;
  row.watching = null;
  bar.hidden = true;
  at("eta", element).textContent = "";
  element.classList.remove("busy");
  show(await json(`/api/v1/tracks/${id}`));
}

function drawRungs({ element, rungs }) {
  at("rungs", element).replaceChildren(...[...rungs].sort().map((path) => Object.assign(document.createElement("li"), { textContent: path })));
}

function wireRow(row) {
  const { element } = row;
  const act = (part, does) => at(part, element).addEventListener("click", () => attempt(row, does));
  const path = () => `/api/v1/tracks/${row.track.id}`;
  act("publish", () => json(`${path()}/publish`, "POST", {}));
  act("unlist", () => json(`${path()}/unlist`, "POST", {}));
  act("retry", () => json(`${path()}/retry`, "POST", {}));
  act("delete", async () => {
    if (!(await question({ title: `Delete “${row.track.title}” for good?`, verb: "Delete it", danger: true }))) return null;
    row.watching?.abort();
    await json(path(), "DELETE");
    rows.delete(row.track.id);
    element.remove();
    at("empty").hidden = rows.size > 0;
    return null;
  });
  at("visibility", element).addEventListener("change", (event) => attempt(row, () => json(path(), "PATCH", { visibility: event.target.checked ? "private" : "public" })));
  at("preview-enabled", element).addEventListener("change", (event) => attempt(row, () => json(path(), "PATCH", { preview_enabled: event.target.checked })));
  const start = at("start", element);
  start.addEventListener("input", () => markStart(row));
  start.addEventListener("change", () => attempt(row, () => json(path(), "PATCH", { preview_start_s: Number(start.value) })));
  at("copy", element).addEventListener("click", async () => {
    const code = at("code", element);
    await navigator.clipboard?.writeText(code.value).catch(() => null);
    code.select();
    at("copied", element).textContent = "Copied";
  });
}

async function attempt(row, does) {
  const told = at("error", row.element);
  try {
    const track = await does();
    if (track) { show(track); if (track.job !== row.seen) { row.seen = track.job; watch(row); } }
  } catch (error) {
    told.textContent = error.message;
    told.hidden = false;
  }
}

/** What is only there once there is something to hear: its waveform, where the preview begins, the code for other pages. */
async function tools(row) {
  const { element, track } = row;
  const start = at("start", element);
  start.max = String(Math.max(0, Math.floor((track.duration_s ?? 0) - 1)));
  start.value = String(track.preview_start_s ?? 0);
  markStart(row);
  const src = new URL(track.urls.embed, location.href).href;
  const title = track.title.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
  at("code", element).value = `<iframe src="${src}" title="${title}" width="640" height="180" allow="autoplay; encrypted-media" sandbox="allow-scripts allow-same-origin allow-popups" frameborder="0"></iframe>`;
  if (row.drawn === track.version) return;
  row.drawn = track.version;
  const wave = await json(track.urls.waveform).catch(() => null);
  if (wave) draw(at("wave", element), wave.data);
}

function markStart({ element, track }) {
  const start = at("start", element), from = Number(start.value), share = (seconds) => (100 * seconds) / Math.max(1, track.duration_s ?? 1);
  at("window", element).style.left = `${share(from)}%`;
  at("window", element).style.width = `${Math.min(share(30), 100 - share(from))}%`;
  at("start-text", element).textContent = track.preview_start_s === null && from === 0 ? "at the loudest" : clock(from);
  start.setAttribute("aria-valuetext", spoken(from));
}

function draw(svg, data) {
  const points = data.length / 2, bars = Math.min(240, points);
  let path = "";
  for (let bar = 0; bar < bars; bar++) {
    let loud = 0;
    for (let i = Math.floor((bar * points) / bars); i < Math.ceil(((bar + 1) * points) / bars); i++) loud = Math.max(loud, Math.abs(data[2 * i]), Math.abs(data[2 * i + 1]));
    const height = Math.max(1, (loud / 128) * 40);
    path += `M${bar * 2 + 1} ${((40 - height) / 2).toFixed(1)}v${height.toFixed(1)}`;
  }
  svg.setAttribute("viewBox", `0 0 ${bars * 2 + 1} 40`);
  svg.firstElementChild.setAttribute("d", path);
}
