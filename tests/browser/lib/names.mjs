// What a screen reader has to say: every control that is shown has a name, every picture has words or is decoration.

/** The controls of a page or a frame without a name, and what else a screen reader would stumble over. */
export function nameless(page) {
  return page.evaluate(() => {
    const shown = (one) => one.checkVisibility({ visibilityProperty: true });
    const texts = (ids) => ids.split(/\s+/).map((id) => document.getElementById(id)?.textContent ?? "").join(" ");
    const name = (one) => [
      one.getAttribute("aria-label"), one.hasAttribute("aria-labelledby") && texts(one.getAttribute("aria-labelledby")),
      ...[...(one.labels ?? [])].map((label) => label.textContent), one.matches("a, button, summary, legend, [role=button]") && one.textContent, one.title, one.alt,
    ].find((text) => text && text.trim());
    const wrong = [];
    for (const one of document.querySelectorAll("a[href], button, input:not([type=hidden]), select, textarea, summary, progress, audio[controls], video[controls], [role=group], [role=slider]")) {
      if (shown(one) && !name(one)) wrong.push(`${one.outerHTML.slice(0, 90)} has no name`);
    }
    for (const one of document.querySelectorAll("svg, canvas, img")) {
      const said = one.getAttribute("aria-hidden") === "true" || one.closest("[aria-hidden=true]") || one.hasAttribute("alt") || name(one) || one.getAttribute("role") === "img";
      if (shown(one) && !said) wrong.push(`${one.outerHTML.slice(0, 90)} is neither hidden nor named`);
    }
    if (!document.documentElement.lang) wrong.push("the page has no language");
    if (![...document.querySelectorAll("h1")].some(shown)) wrong.push("the page has no first heading");
    if (document.querySelectorAll("main").length !== 1) wrong.push("the page has not one main part");
    const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
    if (new Set(ids).size !== ids.length) wrong.push("an id is there twice");
    for (const one of document.querySelectorAll("[tabindex]")) if (one.tabIndex > 0) wrong.push(`${one.outerHTML.slice(0, 90)} jumps the queue`);
    return wrong;
  });
}
