// An account from its beginning to its end, in three visits: between them somebody reads a mail.

import { until } from "../lib/check.mjs";
import { enter } from "../lib/enter.mjs";
import { nameless } from "../lib/names.mjs";

export async function account({ page, checks, options }) {
  await page.goto(options.url, { waitUntil: "load" });
  for (const wrong of await nameless(page)) checks.that(false, wrong);
  await VISITS[options.visit]({ page, checks, options });
}

const said = async (page, checks, words) => {
  const status = page.locator('[data-part="said"]');
  checks.that(await until(async () => (await status.textContent())?.includes(words), 15_000), `it says ${await status.textContent()}`);
};

const VISITS = {
  async register({ page, checks, options }) {
    const form = page.locator('[data-page="register"]');
    await form.locator('[name="email"]').fill(options.email);
    await form.locator('[name="password"]').fill(options.password);
    await page.getByRole("button", { name: "Create it" }).click();
    await said(page, checks, "A mail is on its way");
  },

  /** Proves the address, logs in, publishes, leaves. */
  async verify({ page, checks, options }) {
    await page.getByRole("button", { name: "Yes, it is mine" }).click();
    await said(page, checks, "You can log in now");
    checks.that(!page.url().includes("#"), "what opens stays in the address");
    await page.getByRole("link", { name: "Log in" }).click();
    await enter(page, options);
    checks.that(await page.locator('[data-part="drop"]').isHidden(), "a listener may upload");
    await page.locator('[data-part="become"]').click();
    await page.locator('[data-part="drop"]').waitFor({ state: "visible" });
    await page.locator('[data-part="account"] summary').click();
    checks.that((await page.locator('[data-part="who"]').textContent()) === options.email, "it is somebody else's account");
    await page.locator('[data-part="proof"]').fill(options.password);
    await page.locator('[data-part="close"]').click();
    await page.getByRole("dialog", { name: "Delete your account" }).getByRole("button", { name: "Delete it" }).click();
    const closed = page.getByRole("dialog", { name: "Your account is closed" });
    checks.that(/Until .*\d.* the link in our mail/.test((await closed.textContent()) ?? ""), `it says ${await closed.textContent()}`);
    await closed.getByRole("button", { name: "OK" }).click();
    await page.locator('[data-part="login"]').waitFor({ state: "visible" });
    checks.that((await page.context().cookies()).length === 0, "cookies are left");
  },

  /** Comes back by the mail, and is told of nothing any more. */
  async keep({ page, checks, options }) {
    await page.getByRole("button", { name: "Yes, keep it" }).click();
    await said(page, checks, "Your account stays");
    await page.getByRole("link", { name: "Log in" }).click();
    await enter(page, options);
    await page.locator('[data-part="drop"]').waitFor({ state: "visible" });
    checks.that(await page.locator('[data-part="leaving"]').isHidden(), "it says that the account goes");
    await page.locator('[data-part="leave"]').click();
    await page.locator('[data-part="login"]').waitFor({ state: "visible" });
  },
};
