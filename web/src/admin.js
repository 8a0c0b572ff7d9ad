// The admin's desk: notices of infringement, jobs, who works. In: an admin with a second factor. Out: rulings and retries.

import { wireLeave } from "./account.js";
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
    const verbs = document.createElement("td");
    for (const verb of VERBS[filed.standing] ?? []) verbs.append(button(WORDS[verb], () => rule(filed, verb)));
    return [
      cell(filed.id), cell(filed.standing.replace("_", " ")), cell(filed.track ?? "?"), cell(`${filed.notice.work} — ${filed.notice.on_behalf_of || filed.notice.name}`),
      cell(when(filed.received_at)), cell(filed.restore_from ? `${when(filed.restore_from)} to ${when(filed.restore_by)}` : "–"), verbs,
    ];
  });
}

async function rule(filed, verb) {
  let body = {};
  if (verb === "takedown" && !filed.track) {
    const track = prompt("Which track does it mean?");
    if (!track) return;
    body = { track };
  }
  if (verb === "dismiss" || verb === "court-action") {
    const reason = prompt("Why? It is kept for good.");
    if (!reason) return;
    body = { reason };
  }
  if (verb === "restore") {
    const reason = prompt("Why before its time? Leave empty when the clock has run.");
    if (reason === null) return;
    body = reason ? { reason } : {};
  }
  if (verb === "counter-notice") {
    body = { good_faith_statement: true, consents_to_jurisdiction: true };
    for (const field of ["signature", "name", "address", "phone"]) {
      const value = prompt(`Counter-notice, 17 USC 512(g)(3): ${field}`);
      if (!value) return;
      body[field] = value;
    }
  }
  await told(() => json(`/api/v1/admin/dmca/notices/${filed.id}/${verb}`, "POST", body));
  notices();
}

async function jobs() {
  const state = at("job-state").value;
  await fill("jobs", `/api/v1/admin/jobs?limit=50${state ? `&state=${state}` : ""}`, (job) => {
    const verbs = document.createElement("td");
    if (["dead", "cancelled", "succeeded"].includes(job.state)) verbs.append(button("Requeue", () => told(() => json(`/api/v1/admin/jobs/${job.id}/retry`, "POST", {})).then(jobs)));
    return [cell(job.id), cell(job.state), cell(job.track ?? ""), cell(job.progress === null ? "–" : `${Math.round(job.progress * 100)} %`), cell(job.error ?? "–"), cell(when(job.created_at)), verbs];
  });
}

async function workers() {
  await fill("workers", "/api/v1/admin/workers", (worker) => [cell(worker.name), cell(worker.does), cell(when(worker.until))]);
}

async function fill(part, path, row) {
  const body = at(part);
  await told(async () => {
    const page = await json(path);
    body.replaceChildren(...page.items.map((item) => { const line = document.createElement("tr"); line.append(...row(item)); return line; }));
    if (!page.items.length) { const line = document.createElement("tr"); line.append(Object.assign(cell("Nothing."), { colSpan: 7 })); body.append(line); }
  });
}

async function told(does) {
  try { at("error").textContent = ""; return await does(); } catch (error) { at("error").textContent = error.message; }
}

const cell = (text) => Object.assign(document.createElement("td"), { textContent: text });
const button = (text, act) => { const made = Object.assign(document.createElement("button"), { type: "button", className: "button", textContent: text }); made.addEventListener("click", act); return made; };
