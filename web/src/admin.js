// The admin's desk: notices of infringement, jobs, who works. In: an admin with a second factor. Out: rulings and retries.

import { wireLeave } from "./account.js";
import { question } from "./dialog.js";
import { enter, json } from "./session.js";

const root = document.getElementById("admin");
const at = (name, within = root) => within.querySelector(`[data-part="${name}"]`);
const when = (text) => (text ? new Date(text).toLocaleString() : "–");
const VERBS = {
  incomplete: ["takedown", "dismiss"], received: ["takedown", "dismiss"], taken_down: ["counter-notice", "restore"],
  waiting: ["restore", "court-action"], upheld: ["restore"], restored: [], dismissed: [],
};
const WORDS = { takedown: "Take down", dismiss: "Dismiss", restore: "Put back", "court-action": "Court action", "counter-notice": "Counter-notice" };

enter(at("login"), "/api/v1/admin/dmca/notices?limit=1", () => {
  at("desk").hidden = false;
  wireLeave(at("leave"));
  at("standing").addEventListener("change", () => notices());
  at("job-state").addEventListener("change", () => jobs());
  at("refresh").addEventListener("click", all);
  all();
});

function all() { notices(); jobs(); workers(); }

async function notices() {
  const standing = at("standing").value;
  await fill("notices", `/api/v1/admin/dmca/notices?limit=50${standing ? `&standing=${standing}` : ""}`, (filed) => {
    const verbs = cell("", "verbs");
    for (const verb of VERBS[filed.standing] ?? []) verbs.append(button(WORDS[verb], () => rule(filed, verb)));
    return [
      cell(filed.id, "id"), cell(filed.standing.replace("_", " ")), cell(filed.track ?? "?", "id"), cell(`${filed.notice.work} — ${filed.notice.on_behalf_of || filed.notice.name}`, "words"),
      cell(when(filed.received_at), "time"), cell(filed.restore_from ? `${when(filed.restore_from)} to ${when(filed.restore_by)}` : "–", "time"), verbs,
    ];
  });
}

const REASON = { name: "reason", label: "Why? It is kept for good.", kind: "words" };
/** What is asked before a ruling, for those that need words. */
const QUESTIONS = {
  takedown: { title: "Which track does the notice mean?", fields: [{ name: "track", label: "Id of the track" }] },
  dismiss: { title: "Dismiss the notice", fields: [REASON] },
  "court-action": { title: "The complainant went to court", words: "The track stays dark until the court decides.", fields: [REASON] },
  restore: { title: "Put the track back", fields: [{ ...REASON, label: "Why before its time? Leave empty when the clock has run.", optional: true }] },
  "counter-notice": {
    title: "Counter-notice", words: "What the uploader sent, by 17 USC 512(g)(3).",
    fields: [
      { name: "signature", label: "Signature" }, { name: "name", label: "Name" }, { name: "address", label: "Address" }, { name: "phone", label: "Telephone" },
      { name: "good_faith_statement", label: "They swear, under penalty of perjury, that it was removed by mistake", kind: "check" },
      { name: "consents_to_jurisdiction", label: "They accept the court of their district, and service of process", kind: "check" },
    ],
  },
};

async function rule(filed, verb) {
  let body = {};
  if (QUESTIONS[verb] && !(verb === "takedown" && filed.track)) {
    body = await question({ verb: WORDS[verb], ...QUESTIONS[verb] });
    if (!body) return;
  }
  await told(() => json(`/api/v1/admin/dmca/notices/${filed.id}/${verb}`, "POST", body));
  notices();
}

async function jobs() {
  const state = at("job-state").value;
  await fill("jobs", `/api/v1/admin/jobs?limit=50${state ? `&state=${state}` : ""}`, (job) => {
    const verbs = cell("", "verbs");
    if (["dead", "cancelled", "succeeded"].includes(job.state)) verbs.append(button("Requeue", () => told(() => json(`/api/v1/admin/jobs/${job.id}/retry`, "POST", {})).then(jobs)));
    return [cell(job.id, "id"), cell(job.state), cell(job.track ?? "", "id"), cell(job.progress === null ? "–" : `${Math.round(job.progress * 100)}\u00a0%`), cell(job.error ?? "–", "words"), cell(when(job.created_at), "time"), verbs];
  });
}

async function workers() {
  await told(async () => {
    const { items, leases } = await json("/api/v1/admin/workers");
    lines("workers", items, (worker) => {
      const process = worker.silent ? cell(`${worker.node}, silent since ${when(worker.seen_at)}`, "late") : cell(worker.node);
      const alone = items.some((other) => other.worker === worker.worker && other.holds_until);
      const last = worker.last_run_at ? when(worker.last_run_at) : alone ? "another process does it" : "–";
      const error = worker.last_error ? `${when(worker.last_error_at)}: ${worker.last_error}` : "–";
      return [cell(worker.worker), process, cell(every(worker.every_s)), cell(last, "time"), cell(error, worker.last_error ? "words" : ""), cell(String(worker.failures))];
    });
    lines("leases", leases, (lease) => [cell(lease.name), cell(lease.does, "words"), cell(when(lease.until), "time")]);
  });
}

/** 0.5 → "500 ms", 10 → "10 s", 3600 → "1 h" */
function every(seconds) {
  if (seconds < 1) return `${Math.round(seconds * 1000)}\u00a0ms`;
  const [size, unit] = seconds >= 3600 ? [3600, "h"] : seconds >= 60 ? [60, "min"] : [1, "s"];
  return `${Math.round((seconds / size) * 10) / 10}\u00a0${unit}`;
}

const asked = {}; // part → how often it was asked for: an answer to a question before the last one is nobody's any more

const fill = (part, path, row) => told(async () => {
  const turn = (asked[part] = (asked[part] ?? 0) + 1);
  const { items } = await json(path);
  if (turn === asked[part]) lines(part, items, row);
});

function lines(part, items, row) {
  const made = items.map((item) => { const line = document.createElement("tr"); line.append(...row(item)); return line; });
  if (!made.length) { const line = document.createElement("tr"); line.append(Object.assign(cell("Nothing."), { colSpan: 7 })); made.push(line); }
  at(part).replaceChildren(...made);
}

async function told(does) {
  try { at("error").textContent = ""; return await does(); } catch (error) { at("error").textContent = error.message; }
}

const cell = (text, className = "") => Object.assign(document.createElement("td"), { textContent: text, className });
const button = (text, act) => { const made = Object.assign(document.createElement("button"), { type: "button", className: "button", textContent: text }); made.addEventListener("click", act); return made; };
