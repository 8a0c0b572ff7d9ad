// The pages that links in mails lead to. What a link opens stands behind its #, which no server sees, and goes from here
// into a request's header or body. Nothing opens by itself: programs that look at links in mails press no buttons.
"use strict";

const page = location.pathname.split("/").pop();
const form = document.querySelector(`[data-page="${page}"]`);
const said = document.querySelector('[data-part="said"]');
const token = location.hash.slice(1);

const requests = {
  register: () => ["auth/register", json({ email: form.elements.email.value, password: form.elements.password.value })],
  verify: () => ["auth/verify-email", { headers: { "X-Verify-Token": token } }],
  email: () => ["users/me/email/confirm", { headers: { "X-Verify-Token": token } }],
  reset: () => ["auth/password/reset", json({ token, password: form.elements.password.value })],
  keep: () => ["users/erasure/cancel", { headers: { "X-Keep-Token": token } }],
  forgot: () => ["auth/password/reset-request", json({ email: form.elements.email.value })],
};
const done = {
  register: "A mail is on its way. Follow the link in it, and your account is ready.",
  verify: "Thank you. You can log in now.",
  email: "Thank you. Log in with this address from now on.",
  reset: "Your password is set, and you were logged out everywhere. Log in with it.",
  keep: "Your account stays. Log in as before.",
  forgot: "If this address has an account, a mail is on its way.",
};

function json(body) {
  return { headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
}

async function send(event) {
  event.preventDefault();
  const button = form.querySelector("button");
  button.disabled = true;
  said.textContent = "…";
  try {
    const [path, options] = requests[page]();
    const answer = await fetch(`/api/v1/${path}`, { method: "POST", ...options });
    if (answer.ok) {
      said.textContent = done[page];
      form.hidden = true;
      document.querySelector('[data-part="on"]').hidden = ["register", "forgot"].includes(page);
      history.replaceState(null, "", location.pathname);
      return;
    }
    const problem = await answer.json();
    said.textContent = `${problem.title}: ${problem.detail}.`;
  } catch {
    said.textContent = "The server cannot be reached; try again.";
  }
  button.disabled = false;
}

if (form) {
  form.hidden = false;
  // A download is the browser's own: what opens it goes in a form, not in a URL.
  if (page === "export") form.elements.token.value = token;
  else form.addEventListener("submit", send);
}
