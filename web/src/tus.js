// Sends a file by tus 1.0 in pieces, goes on after an interruption, and says how far it is.
// In: a file, and how to ask the server. Out: the id of the upload.

import { UPLOADS } from "./session.js";

const PIECE_BYTES = 4 << 20;
// Waits between tries that fail, in milliseconds; then it is up to the person.
const WAITS_MS = [500, 1000, 2000, 4000, 8000, 15000];

/** Uploads `file`. `ask(path, init)` is fetch with the caller's credentials; `told({sent, total, eta_s})` is called as it goes. */
export async function upload(file, kind, ask, told, signal) {
  const mark = `${kind}/${file.name}/${file.size}/${file.lastModified}`;
  let place = remembered(mark);
  let sent = place ? await offset(place, ask, signal).catch(() => null) : null;
  if (sent === null) {
    place = await announce(file, kind, ask, signal);
    remember(mark, place);
    sent = 0;
  }
  const pace = new Pace(sent);
  told({ sent, total: file.size, eta_s: null });
  for (let failed = 0; sent < file.size;) {
    try {
      const piece = file.slice(sent, Math.min(file.size, sent + PIECE_BYTES));
      const answer = await ask(place, {
        method: "PATCH", body: piece, signal,
        headers: { "Tus-Resumable": "1.0.0", "Upload-Offset": String(sent), "Content-Type": "application/offset+octet-stream" },
      });
      if (answer.status === 409) sent = await offset(place, ask, signal);
      else if (answer.status === 204) sent = Number(answer.headers.get("Upload-Offset"));
      else if (answer.status >= 500 || answer.status === 429) throw new Error(`the server answered ${answer.status}`);
      else { forget(mark); throw Object.assign(new Error(await words(answer)), { final: true }); }
      failed = 0;
      told({ sent, total: file.size, eta_s: pace.eta(sent, file.size) });
    } catch (error) {
      if (error.final || signal?.aborted || failed === WAITS_MS.length) throw error;
      told({ sent, total: file.size, eta_s: null, waiting: true });
      await new Promise((wake) => setTimeout(wake, WAITS_MS[failed++]));
      sent = await offset(place, ask, signal).catch(() => sent);
    }
  }
  forget(mark);
  return place.split("/").pop();
}

async function announce(file, kind, ask, signal) {
  const text = (value) => btoa(String.fromCharCode(...new TextEncoder().encode(value)));
  const answer = await ask("/api/v1/uploads/tus", {
    method: "POST", signal,
    headers: { "Tus-Resumable": "1.0.0", "Upload-Length": String(file.size), "Upload-Metadata": `filename ${text(file.name)},kind ${text(kind)}` },
  });
  if (answer.status !== 201) throw Object.assign(new Error(await words(answer)), { final: true });
  return new URL(answer.headers.get("Location"), location.href).pathname;
}

async function offset(place, ask, signal) {
  const answer = await ask(place, { method: "HEAD", signal, headers: { "Tus-Resumable": "1.0.0" } });
  if (!answer.ok) throw new Error("it is gone");
  return Number(answer.headers.get("Upload-Offset"));
}

/** What a problem says, or its status. */
export async function words(answer) {
  const problem = await answer.json().catch(() => null);
  return problem?.detail ? `${problem.title}: ${problem.detail}` : `the server answered ${answer.status}`;
}

/** The rest at the speed of the last ten seconds. */
class Pace {
  constructor(sent) { this.seen = [[performance.now(), sent]]; }
  eta(sent, total) {
    const now = performance.now();
    this.seen.push([now, sent]);
    while (this.seen.length > 2 && now - this.seen[0][0] > 10_000) this.seen.shift();
    const [then, had] = this.seen[0];
    const bytes_per_s = (sent - had) / Math.max(0.001, (now - then) / 1000);
    return bytes_per_s > 0 ? (total - sent) / bytes_per_s : null;
  }
}

// Where unfinished uploads are, so that a browser that was closed goes on: no credentials, only places. Whoever logs out leaves none.
function memory() { try { return JSON.parse(localStorage.getItem(UPLOADS)) ?? {}; } catch { return {}; } }
const remembered = (mark) => memory()[mark];
function remember(mark, place) { localStorage.setItem(UPLOADS, JSON.stringify({ ...memory(), [mark]: place })); }
function forget(mark) { const all = memory(); delete all[mark]; localStorage.setItem(UPLOADS, JSON.stringify(all)); }
