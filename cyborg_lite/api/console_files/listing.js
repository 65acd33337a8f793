// SPDX-License-Identifier: Apache-2.0
// A list of the API as a table that grows by pages. What its columns are, the views know.

import { announce, el, field, newId, number, table, trouble } from "./dom.js";
import * as past from "./past.js";

/** The longest page of the API, unless an operator made it shorter. */
const LONGEST = 1000;

/**
 * The table of a list, with a button for its next page.
 * first: asks with some more of a query and gives {entries, next} as Service.list; one, many: what
 * an entry is called.
 */
export async function listed({ caption, one, many = `${one}s`, empty, columns, first }) {
  // as many as there were: whoever comes back finds the place again
  const shown = past.recalled(caption);
  let page;
  try {
    page = await first(shown ? { limit: Math.min(shown, LONGEST) } : {});
  } catch (error) {
    // the fields above it are where that is put right
    if (error.status === 400) return trouble(error);
    throw error;
  }
  if (!page.entries.length) return el("p", { class: "empty" }, empty);
  const rows = table(caption, columns, page.entries);
  const count = el("p", { class: "count" });
  const more = el("button", { type: "button" }, "Show more");
  const wrong = el("div", {});
  const tell = () => {
    const further = page.next ? ", and there are more" : "";
    count.textContent = `${number(rows.size(), one, many)}${further}`;
    more.hidden = !page.next;
  };
  more.addEventListener("click", async () => {
    // pressed twice, the same page would come twice
    if (more.getAttribute("aria-disabled")) return;
    more.setAttribute("aria-disabled", "true");
    wrong.replaceChildren();
    try {
      const following = await page.next();
      const at = rows.size();
      rows.add(following.entries);
      page = following;
      tell();
      past.remember(caption, rows.size());
      announce(count.textContent);
      // where the new ones begin: the button may be gone
      const link = rows.node.querySelectorAll("tbody tr")[at]?.querySelector("a");
      (link ?? rows.node).focus();
    } catch (error) {
      if (error.name !== "AbortError") wrong.replaceChildren(trouble(error));
    } finally {
      more.removeAttribute("aria-disabled");
    }
  });
  tell();
  return el("div", { class: "listed" }, rows.node, el("div", { class: "foot" }, count, more),
    wrong);
}

/** A field of a filter to type into. known: [value, what it means?], to choose from as well. */
export function typed(label, name, value, { size = 18, known = null } = {}) {
  const list = known && el("datalist", { id: newId("known") }, known.map(
    ([one, meaning]) => el("option", { value: one, label: meaning })));
  const input = el("input", { name, value: value ?? "", size, list: list?.id, autocomplete: "off",
    autocapitalize: "none", spellcheck: "false" });
  const whole = field(label, input);
  if (list) whole.append(list);
  return whole;
}

/** The same for the name of a host; the names are asked for when somebody is about to choose. */
export function typedHost(name, value, service, signal) {
  const whole = typed("Host", name, value, { known: [] });
  whole.addEventListener("focusin", async () => {
    const found = await service.list("services", "services", {
      binary: "cyborg-lite-agent", sort: "host", limit: LONGEST }, signal).catch(() => null);
    // who may not see hosts types what he knows
    whole.querySelector("datalist").replaceChildren(...(found?.entries ?? []).map(
      ({ host }) => el("option", { value: host })));
  }, { once: true });
  return whole;
}

/** A form whose fields become the query of the view's address. isSet: whether one has a value. */
export function filters(path, fields, isSet) {
  const form = el("form", { class: "filters", role: "search", "aria-label": "Filter" }, fields,
    el("div", { class: "buttons" }, el("button", { type: "submit" }, "Filter"),
      isSet && el("a", { href: `#${path}`, class: "button plain" }, "Show all")));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const given = [...new FormData(form)].map(([name, value]) => [name, value.trim()])
      .filter(([, value]) => value);
    const wanted = `#${path}?${new URLSearchParams(given)}`;
    if (location.hash === wanted) dispatchEvent(new HashChangeEvent("hashchange"));
    else location.hash = wanted;
  });
  return form;
}
