// The admin's desk, as an admin uses it: password and code, a notice that is ruled on, a job that is tried again, who works.

import { until } from "../lib/check.mjs";
import { enter } from "../lib/enter.mjs";
import { nameless } from "../lib/names.mjs";

export async function admin({ page, checks, trouble, options }) {
  await page.goto(options.url, { waitUntil: "load" });
  await enter(page, { ...options, lands: true });
  checks.that(page.url() === options.url, `the address still says that a code is missing: ${page.url()}`);

  // A notice: received, taken down, put back.
  const base = new URL(options.url).origin;
  const watch = async () => (await page.request.get(`${base}/watch/${options.track}`, { maxRedirects: 0 })).status();
  const notice = page.locator('[data-part="notices"] tr').first();
  const standing = async () => (await notice.locator("td").nth(1).textContent()) ?? "";
  checks.that(await until(async () => (await standing()) === "received", 5_000), `the notice is ${await standing()}`);
  await notice.getByRole("button", { name: "Take down" }).click();
  checks.that(await until(async () => (await standing()) === "taken down", 5_000), `the notice is ${await standing()}`);
  checks.that(await until(async () => (await watch()) === 451, 10_000), `its track answers ${await watch()}`);
  await page.locator('[data-part="standing"]').selectOption("taken_down");
  checks.that(await until(async () => (await page.locator('[data-part="notices"] tr').count()) === 1, 5_000), "the list is not filtered");
  // What the law wants of a counter-notice is asked in one go; nothing is sent before it is whole, or when it is left.
  const asked = page.getByRole("dialog");
  const verb = (name) => asked.getByRole("button", { name }).click();
  await notice.getByRole("button", { name: "Counter-notice" }).click();
  for (const wrong of await nameless(page)) checks.that(false, wrong);
  await asked.getByLabel("Signature").fill("A. Singer");
  await verb("Counter-notice");
  checks.that(await asked.isVisible(), "half a counter-notice is sent");
  await page.keyboard.press("Escape");
  await asked.waitFor({ state: "detached" });
  checks.that((await standing()) === "taken down", `the notice is ${await standing()}`);
  await notice.getByRole("button", { name: "Put back" }).click();
  await asked.getByLabel("Why before its time?").fill("the complainant withdrew it");
  await verb("Put back");
  await page.locator('[data-part="standing"]').selectOption("");
  checks.that(await until(async () => (await standing()) === "restored", 5_000), `the notice is ${await standing()}`);
  checks.that(await until(async () => (await watch()) === 200, 10_000), `its track answers ${await watch()}`);

  // A job that is dead: tried once more, by whoever looks at the list.
  await page.locator('[data-part="job-state"]').selectOption("dead");
  const dead = page.locator('[data-part="jobs"] tr', { hasText: options.job });
  await dead.waitFor({ state: "visible" });
  checks.that((await dead.locator("td").nth(1).textContent()) === "dead", "the job is not dead");
  await dead.getByRole("button", { name: "Requeue" }).click();
  const attempts = async () => {
    const { items } = await page.evaluate(async () => (await fetch("/api/v1/admin/jobs?limit=200")).json());
    return items.find((job) => job.id === options.job)?.attempt;
  };
  checks.that(await until(async () => (await attempts()) >= 2, 30_000), `it was tried ${await attempts()} times`);

  // Who works: each worker with its interval and its last run.
  const worker = (name) => page.locator('[data-part="workers"] tr', { has: page.getByRole("cell", { name, exact: true }) });
  const cells = async (name) => worker(name).locator("td").allTextContents();
  const fresh = async (name) => { await page.locator('[data-part="refresh"]').click(); await worker(name).waitFor({ state: "visible" }); return cells(name); };
  checks.that(await until(async () => (await fresh("sampler"))[3] !== "–", 30_000), `the sampler: ${await cells("sampler")}`);
  checks.that(/^5\s+s$/.test((await cells("sampler"))[2]), `the sampler has a turn every ${(await cells("sampler"))[2]}`);
  checks.that((await cells("pool"))[4] === "–" && (await cells("pool"))[5] === "0", `the pool: ${await cells("pool")}`);
  checks.that((await page.locator('[data-part="leases"] tr', { hasText: "janitor" }).count()) === 1, "nobody is the janitor");

  for (const wrong of await nameless(page)) checks.that(false, wrong);

  // On a phone nothing is wider than the screen; tables scroll by themselves.
  await page.setViewportSize({ width: 360, height: 740 });
  checks.that(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "it is wider than a phone");
  await page.setViewportSize({ width: 1200, height: 750 });

  // Out again: the cookies open nothing any more.
  await page.locator('[data-part="leave"]').click();
  await page.locator('[data-part="login"]').waitFor({ state: "visible" });
  checks.that((await page.context().cookies()).length === 0, "cookies are left");
  checks.that(trouble.length === 0, "there was trouble before");
  checks.that((await page.evaluate(async () => (await fetch("/api/v1/admin/jobs")).status)) === 401, "the session goes on");
  checks.that(await until(() => trouble.some((line) => line.startsWith("http 401")), 5_000), "nothing was refused");
  trouble.splice(0); // that one was wanted
}
