// Who asks. In: a form. Out: `ask`, which is fetch as whoever is logged in: by cookies that no script can read, with the
// token that other sites cannot know beside them; or by an API key, for as long as the tab lives.

const KEY = "segue.key", RENEWED = "segue.renewed";
/** Where unfinished uploads are, for as long as somebody is logged in. */
export const UPLOADS = "segue.uploads";

const key = () => sessionStorage.getItem(KEY);
const csrf = () => document.cookie.split("; ").find((pair) => pair.startsWith("__Host-segue_csrf="))?.split("=")[1];
export const mayBeIn = () => Boolean(key() || csrf());

export async function ask(path, init = {}) {
  const answer = await once(path, init);
  // The access token lives for minutes; whoever is still there gets another one.
  return answer.status === 401 && !key() && csrf() && (await renewed()) ? once(path, init) : answer;
}

function once(path, init) {
  const by = key() ? { Authorization: `Bearer ${key()}` } : csrf() ? { "X-CSRF-Token": csrf() } : {};
  return fetch(path, { ...init, cache: "no-store", headers: { ...init.headers, ...by } });
}

/** One tab at a time: a refresh token that is used twice ends the session, and the other tab's cookies are ours, too. */
function renewed() {
  const renew = async () => {
    if (Date.now() - Number(localStorage.getItem(RENEWED) ?? 0) < 5_000) return true;
    const answer = await once("/api/v1/auth/refresh", { method: "POST" }).catch(() => null);
    if (answer?.ok) localStorage.setItem(RENEWED, String(Date.now()));
    return Boolean(answer?.ok);
  };
  return navigator.locks ? navigator.locks.request("segue.session", renew) : renew();
}

export async function json(path, method = "GET", body) {
  const answer = await ask(path, { method, headers: body === undefined ? {} : { "Content-Type": "application/json" }, body: body === undefined ? undefined : JSON.stringify(body) });
  const text = await answer.text();
  const value = text ? JSON.parse(text) : null;
  if (!answer.ok) {
    const kind = value?.type?.split("/").pop();
    throw Object.assign(new Error(value?.detail ? `${value.title}: ${value.detail}.` : `the server answered ${answer.status}`), { status: answer.status, kind });
  }
  return value;
}

/** Shows the form until whoever asks may have `path`; then calls `entered` with who they are, `null` for a key. */
export function enter(form, path, entered) {
  const part = (name) => form.querySelector(`[data-part="${name}"]`);
  const told = part("told"), fields = form.elements;
  const look = async () => {
    told.textContent = "";
    try {
      await json(path);
      const me = key() ? null : await json("/api/v1/users/me");
      form.hidden = true;
      form.reset();
      entered(me);
    } catch (error) {
      sessionStorage.removeItem(KEY);
      show("first");
      told.textContent = error.status === 401 ? "" : error.message;
    }
  };
  const show = (step) => {
    form.hidden = false;
    part("first").hidden = step !== "first";
    part("second").hidden = step !== "second";
    form.dataset.step = step;
    (step === "first" ? fields.email : fields.code).focus();
  };
  const steps = {
    async first() {
      if (fields.key.value.trim()) {
        sessionStorage.setItem(KEY, fields.key.value.trim());
        fields.key.value = "";
        await json(path).catch((error) => {
          sessionStorage.removeItem(KEY);
          throw error;
        });
        return look();
      }
      const began = await json("/api/v1/auth/login", "POST", { email: fields.email.value.trim(), password: fields.password.value, cookies: true });
      fields.password.value = "";
      return began.mfa_required ? show("second") : look();
    },
    async second() {
      // Six digits are what an authenticator shows; anything else is one of the codes for the day when it is lost.
      const said = fields.code.value.trim();
      await json("/api/v1/auth/mfa/verify", "POST", { [/^\d{6}$/.test(said) ? "code" : "recovery_code"]: said, cookies: true });
      return look();
    },
  };
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = part("go");
    button.disabled = true;
    told.textContent = "";
    try {
      await steps[form.dataset.step]();
    } catch (error) {
      fields.code.value = "";
      if (error.kind === "ticket-invalid") show("first");
      told.textContent = error.message;
    }
    button.disabled = false;
  });
  form.dataset.step = "first";
  // A provider has sent them: who they are is known, and a cookie that no script reads waits for the code.
  const half = new URLSearchParams(location.search).has("mfa_required");
  if (half) history.replaceState(null, "", location.pathname);
  if (half) show("second");
  else if (mayBeIn()) look();
  else show("first");
}

/** Ends the session, or forgets the key, and begins anew. */
export async function leave() {
  localStorage.removeItem(UPLOADS);
  if (key()) sessionStorage.removeItem(KEY);
  else await json("/api/v1/auth/logout", "POST").catch(() => null);
  location.reload();
}

/** Server-sent events with credentials, which EventSource cannot send: calls `heard(name, data)`, and comes back when it breaks off. */
export async function events(path, heard, signal) {
  for (let last = "", waits = 0; !signal.aborted && waits < 20; waits++) {
    try {
      const answer = await ask(path, { signal, headers: last ? { "Last-Event-ID": last } : {} });
      if (answer.status === 204 || answer.status === 404) return;
      if (answer.ok) {
        waits = 0;
        let text = "";
        for (const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader(); ;) {
          const { done, value } = await reader.read();
          if (done) break;
          text += value;
          for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
            const lines = Object.fromEntries(text.slice(0, end).split("\n").map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 1).trim()]));
            if (lines.id) last = lines.id;
            if (lines.event) heard(lines.event, JSON.parse(lines.data));
          }
        }
      }
    } catch (error) {
      if (signal.aborted) return;
    }
    await new Promise((wake) => setTimeout(wake, 1000));
  }
}
