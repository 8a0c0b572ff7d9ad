// Collects what a scenario asserts: every check is named and all failures are reported, not only the first.

export class Checks {
  constructor() {
    this.facts = {};
    this.failures = [];
  }

  fact(name, value) {
    this.facts[name] = value;
  }

  that(condition, sentence) {
    if (!condition) this.failures.push(sentence);
    return Boolean(condition);
  }
}

/** Asks `probe` again until it is true; the answer says whether it became so in time. */
export async function until(probe, timeout_ms, every_ms = 100) {
  const end = Date.now() + timeout_ms;
  for (;;) {
    if (await probe()) return true;
    if (Date.now() > end) return false;
    await sleep(every_ms);
  }
}

export const sleep = (ms) => new Promise((wake) => setTimeout(wake, ms));
