// Whoever is logged in, and what they may want of their account: a name, an archive of everything, to leave.
// In: who they are. Out: a section of the studio.

import { question } from "./dialog.js";
import { json, leave } from "./session.js";

const STATES = { queued: "being made; a mail comes when it is ready", ready: "ready", failed: "could not be made; ask again" };

/** Fills the section; `me` is null for a key, which may do nothing here. */
export function account(root, me) {
  const at = (name) => document.querySelector(`[data-part="${name}"]`);
  root.hidden = !me;
  if (!me) return;
  at("who").textContent = me.name ? `${me.name} (${me.email})` : me.email;
  const told = at("account-told");
  const attempt = async (does) => {
    told.textContent = "";
    try {
      await does(at("proof").value);
      at("proof").value = "";
    } catch (error) {
      told.textContent = error.message;
    }
  };
  const list = async () => {
    const { items } = await json("/api/v1/users/me/exports");
    at("exports").replaceChildren(...items.map(line));
    if (items.some((item) => item.state === "queued")) setTimeout(() => list().catch(() => null), 2_000);
  };
  at("export").addEventListener("click", () => attempt(async (password) => {
    await json("/api/v1/users/me/exports", "POST", password ? { password } : {});
    await list();
  }));
  at("close").addEventListener("click", () => attempt(async (password) => {
    if (!(await question({ title: "Delete your account, and everything of it?", words: "Your tracks go with it, unless you leave those that are published to everybody.", verb: "Delete it", danger: true }))) return;
    const answer = await json("/api/v1/users/me", "DELETE", { ...(password ? { password } : {}), keep_tracks: at("keep-tracks").checked });
    await question({ title: "Your account is closed", words: `Until ${new Date(answer.erase_at).toLocaleString()} the link in our mail brings it back.`, back: "" });
    location.reload();
  }));
  at("stay").addEventListener("click", () => attempt(async () => {
    await json("/api/v1/users/me/erasure", "DELETE");
    location.reload();
  }));
  list().catch(() => null);
  leaves(at).catch(() => null);
}

/** Says when an account goes, to whoever logs in before. */
async function leaves(at) {
  const { erase_at } = await json("/api/v1/users/me/erasure");
  at("leaving").hidden = !erase_at;
  if (erase_at) at("erase-at").textContent = new Date(erase_at).toLocaleString();
}

function line(item) {
  const row = document.createElement("li");
  row.append(`${new Date(item.created_at).toLocaleString()}: `);
  if (item.state === "ready") {
    row.append(Object.assign(document.createElement("a"), {
      href: `/api/v1/users/me/exports/${item.id}/archive`, textContent: `Download (${Math.ceil(item.bytes / 1e6)} MB)`, download: "",
    }));
  } else row.append(STATES[item.state] ?? item.state);
  return row;
}

/** The button that ends a session. */
export const wireLeave = (button) => button.addEventListener("click", leave);
