// Starts Chromium and keeps a list of everything that went wrong in it.
// In: nothing. Out: a page, its trouble list, and `close`.

import { chromium } from "playwright-core";

const FLAGS = [
  "--no-sandbox", // CI runs as root
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--autoplay-policy=no-user-gesture-required",
  "--mute-audio",
];

export async function openBrowser({ width = 1200, height = 750, dark = false } = {}) {
  // Playwright makes a fresh profile directory and removes it again.
  const browser = await chromium.launch({ executablePath: await findChromium(), headless: true, args: FLAGS, timeout: 30_000 });
  const context = await browser.newContext({ viewport: { width, height }, colorScheme: dark ? "dark" : "light", serviceWorkers: "block" });
  const page = await context.newPage();
  page.setDefaultTimeout(15_000);
  const trouble = [];
  const segments = [];
  page.on("pageerror", (error) => trouble.push(`script: ${error.message}`));
  page.on("console", (message) => { if (message.type() === "error") trouble.push(`console: ${message.text()}`); });
  page.on("response", (answer) => {
    if (answer.status() >= 400) trouble.push(`http ${answer.status()}: ${answer.url()}`);
    else if (/\/\d+\.mp4(\?|$)/.test(answer.url())) segments.push(new URL(answer.url()).pathname);
  });
  page.on("requestfailed", (request) => {
    const why = request.failure()?.errorText ?? "failed";
    // A player gives up a download when the listener seeks or picks another rung: that is its job.
    if (why !== "net::ERR_ABORTED") trouble.push(`request ${why}: ${request.url()}`);
  });
  return { page, trouble, segments, close: () => browser.close() };
}

async function findChromium() {
  const { access } = await import("node:fs/promises");
  const { constants } = await import("node:fs");
  const named = process.env.CHROMIUM ? [process.env.CHROMIUM] : [];
  const onPath = (process.env.PATH ?? "").split(":").flatMap((dir) => [`${dir}/chromium`, `${dir}/chromium-browser`, `${dir}/google-chrome`]);
  for (const candidate of [...named, "/usr/bin/chromium", ...onPath]) {
    if (await access(candidate, constants.X_OK).then(() => true, () => false)) return candidate;
  }
  throw new Error("no chromium on this machine: apt-get install chromium");
}
