// Logs in to the studio or the admin's desk as a person would: by address and password, and a code when one is asked for; or
// by an API key. Whoever `lands` comes back before the code, as from a provider that has sent them.

import { createHmac } from "node:crypto";

export async function enter(page, { key, email, password, secret, lands }) {
  const form = page.locator('[data-part="login"]');
  await form.waitFor({ state: "visible" });
  if (key) {
    await form.locator("summary").click();
    await form.locator('[name="key"]').fill(key);
  } else {
    await form.locator('[name="email"]').fill(email);
    await form.locator('[name="password"]').fill(password);
  }
  await form.locator('[data-part="go"]').click();
  if (secret) {
    await form.locator('[name="code"]').waitFor({ state: "visible" });
    if (lands) {
      await page.goto(`${page.url()}?mfa_required=1`, { waitUntil: "load" });
      await form.locator('[name="code"]').waitFor({ state: "visible" });
    }
    await form.locator('[name="code"]').fill(totp(secret));
    await form.locator('[name="code"]').press("Enter");
  }
  await page.locator('[data-part="desk"]').waitFor({ state: "visible" });
}

/** RFC 6238 with SHA-1, six digits, 30 seconds: what an authenticator shows now. */
export function totp(base32, now = Date.now()) {
  const bits = [...base32].map((c) => "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".indexOf(c).toString(2).padStart(5, "0")).join("");
  const secret = Buffer.from(bits.match(/.{8}/g).map((byte) => parseInt(byte, 2)));
  const step = Buffer.alloc(8);
  step.writeBigUInt64BE(BigInt(Math.floor(now / 30_000)));
  const mac = createHmac("sha1", secret).update(step).digest();
  const at = mac[19] & 15;
  return String((mac.readUInt32BE(at) & 0x7fff_ffff) % 1_000_000).padStart(6, "0");
}
