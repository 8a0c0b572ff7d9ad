// Takes a picture of the watch page while it plays.
//
//   node screenshot.mjs --url PAGE --out FILE.png [--width 1200] [--height 750] [--dark] [--at SECONDS] [--tour] [--still]
//
// --key enters the studio with an API key, and waits for its tracks; --email, --password and --secret enter the admin's desk.
// --tour changes the rung three times on the way, which takes 20 s and shows as steps.

import { parseArgs } from "node:util";
import { openBrowser } from "./lib/browser.mjs";
import { enter } from "./lib/enter.mjs";

const { values } = parseArgs({
  options: {
    url: { type: "string" },
    out: { type: "string" },
    width: { type: "string", default: "1200" },
    height: { type: "string", default: "750" },
    at: { type: "string", default: "0" },
    dark: { type: "boolean", default: false },
    tour: { type: "boolean", default: false },
    key: { type: "string" },
    email: { type: "string" },
    password: { type: "string" },
    secret: { type: "string" },
    still: { type: "boolean", default: false }, // as it is before anybody presses play, or while it prepares
  },
});
if (!values.url || !values.out) {
  process.stderr.write("screenshot.mjs: --url and --out are needed\n");
  process.exit(2);
}

const { page, trouble, close } = await openBrowser({ width: Number(values.width), height: Number(values.height), dark: values.dark });
try {
  await page.goto(values.url, { waitUntil: "load" });
  if (values.key) {
    await enter(page, values);
    await page.waitForFunction(() => [...document.querySelectorAll('[data-part="tracks"] > li svg path')].every((path) => path.getAttribute("d")?.length > 100)
      && document.querySelector('[data-part="tracks"] > li'));
  } else if (values.email) {
    await enter(page, values);
    await page.locator('[data-part="workers"] tr').nth(3).waitFor({ state: "visible" });
  } else if (!values.still) {
    await page.locator('[data-part="play"]').click();
    await page.waitForFunction(() => segue.rung && segue.audio.currentTime > 1);
    if (Number(values.at) > 0) {
      await page.locator('[data-part="seek"]').fill(values.at);
      await page.waitForFunction((at) => segue.audio.currentTime > at + 1, Number(values.at));
    }
    for (const rung of values.tour ? ["64", "160", "96", "256"] : []) {
      await page.locator(`[data-part="choices"] label:has(input[value="${rung}"])`).click();
      await page.waitForFunction((id) => segue.rung.id === id, `aac-${rung}`);
    }
    await page.waitForTimeout(1_500); // until a comfortable stretch is buffered
  }
  await page.screenshot({ path: values.out });
  process.stdout.write(`${JSON.stringify({ ok: trouble.length === 0, out: values.out, errors: trouble })}\n`);
} finally {
  await close();
}
process.exit(trouble.length === 0 ? 0 : 1);
