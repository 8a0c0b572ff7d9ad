// Plays a published track with a real player in a real browser and says what it found.
//
//   node play.mjs --scenario watch  --url PAGE   --samples N --rate R
//   node play.mjs --scenario trouble --url PAGE  --samples N --rate R
//   node play.mjs --scenario film   --url PAGE   --samples N --rate R
//   node play.mjs --scenario embed  --url FRAME  --samples N --rate R
//   node play.mjs --scenario studio --url PAGE   --samples N --rate R (--key KEY | --email A --password P) --file AUDIO
//   node play.mjs --scenario admin  --url PAGE   --samples N --rate R --email A --password P --secret S --track ID --job ID
//   node play.mjs --scenario account --url PAGE  --samples N --rate R --email A --password P --visit register|verify|keep
//   node play.mjs --scenario hls    --url MASTER --samples N --rate R
//   node play.mjs --scenario shaka  --url MASTER --samples N --rate R
//   node play.mjs --scenario record --url MASTER --samples N --rate R --wav SOURCE [--cycle] [--lossless]
//
// With `--film`, hls and shaka play into a video element and every size must be seen.
//
// Prints one line of JSON: {ok, scenario, failures, errors, facts, ms}. Exit code 0 when ok, 1 when not, 2 for
// wrong arguments. `--lenient` forgives inexact lengths and priming: for stand-in trees during development.

import { parseArgs } from "node:util";
import { Checks } from "./lib/check.mjs";
import { openBrowser } from "./lib/browser.mjs";
import { servePages } from "./lib/pages.mjs";
import { trouble } from "./scenarios/trouble.mjs";
import { watch } from "./scenarios/watch.mjs";
import { bare } from "./scenarios/bare.mjs";
import { film } from "./scenarios/film.mjs";
import { embed } from "./scenarios/embed.mjs";
import { account } from "./scenarios/account.mjs";
import { admin } from "./scenarios/admin.mjs";
import { studio } from "./scenarios/studio.mjs";
import { record } from "./scenarios/record.mjs";

const SCENARIOS = { watch, film, embed, studio, admin, account, trouble, hls: bare, shaka: bare, record };
// Longer than any scenario needs; a hung browser must not hang the test run.
const WHOLE_RUN_MS = 90_000;

const options = readArguments();
const began = Date.now();
const checks = new Checks();
const pages = await servePages();
let browser = null;
let errors = [];
const alarm = setTimeout(() => finish(`not finished after ${WHOLE_RUN_MS} ms`), WHOLE_RUN_MS);

try {
  browser = await openBrowser();
  errors = browser.trouble;
  await SCENARIOS[options.scenario]({ ...browser, checks, options, pages: pages.base });
  await finish();
} catch (error) {
  await finish(error.message.split("\n")[0]);
}

async function finish(failure) {
  clearTimeout(alarm);
  if (failure) checks.failures.push(failure);
  const ok = checks.failures.length === 0 && errors.length === 0;
  const line = { ok, scenario: options.scenario, url: options.url, failures: checks.failures, errors, facts: checks.facts, ms: Date.now() - began };
  await new Promise((written) => process.stdout.write(`${JSON.stringify(line)}\n`, written));
  await Promise.race([Promise.allSettled([browser?.close(), pages.close()]), new Promise((late) => setTimeout(late, 5000))]);
  process.exit(ok ? 0 : 1);
}

function readArguments() {
  try {
    const { values } = parseArgs({
      options: {
        scenario: { type: "string" },
        url: { type: "string" },
        samples: { type: "string" },
        rate: { type: "string" },
        wav: { type: "string" },
        key: { type: "string" },
        file: { type: "string" },
        email: { type: "string" },
        password: { type: "string" },
        secret: { type: "string" },
        track: { type: "string" },
        job: { type: "string" },
        visit: { type: "string" },
        cycle: { type: "boolean", default: false },
        lossless: { type: "boolean", default: false },
        film: { type: "boolean", default: false },
        lenient: { type: "boolean", default: false },
      },
    });
    const numbers = { samples: Number(values.samples), rate: Number(values.rate) };
    if (!SCENARIOS[values.scenario]) throw new Error(`--scenario is one of ${Object.keys(SCENARIOS).join(", ")}`);
    if (!values.url) throw new Error("--url is missing");
    if (!(numbers.samples > 0 && numbers.rate > 0)) throw new Error("--samples and --rate are missing");
    if (values.scenario === "record" && !values.wav) throw new Error("--wav is missing");
    return { ...values, ...numbers, duration: numbers.samples / numbers.rate };
  } catch (error) {
    process.stderr.write(`play.mjs: ${error.message}\n`);
    process.exit(2);
  }
}
