// Who asks: an API key for as long as the tab lives. In: a form. Out: `ask`, which is fetch with that key.

const KEY = "segue.key";

export const hasKey = () => Boolean(sessionStorage.getItem(KEY));
export const ask = (path, init = {}) => fetch(path, {
  ...init, cache: "no-store", headers: { ...init.headers, ...(hasKey() ? { Authorization: `Bearer ${sessionStorage.getItem(KEY)}` } : {}) },
});

export async function json(path, method = "GET", body) {
  const answer = await ask(path, { method, headers: body === undefined ? {} : { "Content-Type": "application/json" }, body: body === undefined ? undefined : JSON.stringify(body) });
  const text = await answer.text();
  const value = text ? JSON.parse(text) : null;
  if (!answer.ok) throw Object.assign(new Error(value?.detail ? `${value.title}: ${value.detail}` : `the server answered ${answer.status}`), { status: answer.status });
  return value;
}

/** Shows the form until a key opens `path`; then calls `entered`. */
export function enter(form, path, entered) {
  const field = form.querySelector("input"), told = form.querySelector('[role="alert"]');
  const look = async () => {
    try {
      await json(path);
      form.hidden = true;
      entered();
    } catch (error) {
      sessionStorage.removeItem(KEY);
      form.hidden = false;
      told.textContent = error.status === 401 ? "This key opens nothing." : error.message;
      field.focus();
    }
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    sessionStorage.setItem(KEY, field.value.trim());
    field.value = "";
    look();
  });
  if (hasKey()) look();
  else form.hidden = false;
}

/** Server-sent events with a key, which EventSource cannot send: calls `heard(name, data)`, and comes back when it breaks off. */
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
