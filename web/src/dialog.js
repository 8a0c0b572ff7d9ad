// A question in the middle of the page, in place of the browser's own prompts, which have no labels, no several fields and no
// style. In: what is asked. Out: what was said, or null when somebody thought better of it.

const made = (name, parts = {}, ...within) => { const one = Object.assign(document.createElement(name), parts); one.append(...within); return one; };

/**
 * Asks, and waits. `fields`: `{ name, label, kind, optional }`, where kind is "line" (the usual), "words" or "check"; a check
 * that is not optional has to be set. The answer is an object of what was filled in, trimmed, without what was left empty.
 */
export function question({ title, words = "", fields = [], verb = "OK", danger = false, back = "Never mind" }) {
  const inputs = fields.map(({ name, kind = "line", optional = false }) => Object.assign(
    document.createElement(kind === "words" ? "textarea" : "input"),
    kind === "check" ? { type: "checkbox" } : { maxLength: 2000, autocomplete: "off", ...(kind === "words" && { rows: 3 }) },
    { name, required: !optional },
  ));
  const labels = fields.map(({ label, kind }, at) => (kind === "check"
    ? made("label", { className: "check" }, inputs[at], ` ${label}`)
    : made("label", {}, label, inputs[at])));
  const no = made("button", { type: "button", className: "button", textContent: back });
  const yes = made("button", { className: `button ${danger ? "danger" : "main"}`, textContent: verb });
  const form = made("form", {}, made("h2", { id: "question", textContent: title }), ...(words ? [made("p", { textContent: words })] : []), ...labels, made("div", { className: "actions" }, ...(back ? [no] : []), yes));
  const dialog = made("dialog", { className: "card question" }, form);
  dialog.setAttribute("aria-labelledby", "question");
  document.body.append(dialog);
  return new Promise((said) => {
    let answer = null;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      answer = Object.fromEntries(inputs.map((input) => [input.name, input.type === "checkbox" ? input.checked : input.value.trim()]).filter(([, value]) => value !== ""));
      const missing = inputs.find((input) => input.required && !answer[input.name]);
      if (missing) missing.focus(); // blanks are not words
      else dialog.close();
    });
    no.addEventListener("click", () => { answer = null; dialog.close(); });
    dialog.addEventListener("cancel", () => { answer = null; });
    dialog.addEventListener("close", () => { dialog.remove(); said(answer); });
    dialog.showModal();
    (inputs[0] ?? (danger ? no : yes)).focus();
  });
}
