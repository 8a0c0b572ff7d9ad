// The watch page when things are not well: still preparing, server busy, track gone, network lost half way.
// The server is fine; answers are replaced on their way to the page.

import { until } from "../lib/check.mjs";

export async function trouble({ page, trouble: errors, checks, options }) {
  const words = () => page.locator('[data-part="error-text"]').textContent();
  const shown = () => page.locator('[data-part="error"]').isVisible();
  const time = () => page.evaluate(() => segue.audio.currentTime);
  const playlists = "**/*.m3u8*";

  // Preparing twice, then ready: the page comes alive by itself.
  let asked = 0;
  await page.route(options.url, async (route) => {
    const answer = await route.fetch();
    const body = await answer.text();
    const preparing = ++asked <= 2;
    await route.fulfill({ response: answer, body: preparing ? body.replace('data-state="ready"', 'data-state="preparing"') : body });
  });
  await page.goto(options.url, { waitUntil: "load" });
  checks.that((await page.locator("#player").getAttribute("data-state")) === "preparing", "the page does not wait");
  const ready = await until(async () => (await page.evaluate(() => Boolean(window.segue?.rungs.length)).catch(() => false)), 12_000);
  checks.that(ready, "the page did not notice that the track is ready");
  await page.unroute(options.url);

  // Each answer in its own words.
  for (const [status, expected] of [[404, "not here any more"], [403, "has run out"], [451, "legal reasons"], [503, "busy"]]) {
    await page.route(playlists, (route) => route.fulfill({ status, body: "no" }));
    await page.goto(options.url, { waitUntil: "load" });
    if (checks.that(await until(shown, 12_000), `${status}: no error is shown`)) {
      const text = await words();
      checks.that(text.includes(expected), `${status}: the page says "${text}"`);
      checks.that((await page.locator('[data-part="retry"]').isVisible()) === (status !== 451), `${status}: the button is wrong`);
    }
    await page.unroute(playlists);
  }

  // The server is well again: one press plays.
  await page.locator('[data-part="retry"]').click();
  checks.that(await until(async () => (await time()) > 0.5, 8_000), "trying again does not play");
  checks.that(!(await shown()), "the error stays on the page while it plays");

  // What was provoked above, and nothing else, is in the list.
  const provoked = (line) => /^http (404|403|451|503)|status of (404|403|451|503)/.test(line);
  const others = errors.filter((line) => !provoked(line));
  errors.splice(0, errors.length, ...others);
}
