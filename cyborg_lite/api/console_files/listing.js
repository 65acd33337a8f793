// SPDX-License-Identifier: Apache-2.0
// A list of the API as a table that grows by pages. What its columns are, the views know.

import { announce, el, number, table, trouble } from "./dom.js";

/**
 * The table of a list, with a button for its next page.
 * first: gives {entries, next} as Service.list; one, many: what an entry is called.
 */
export async function listed({ caption, one, many = `${one}s`, empty, columns, first }) {
  let page = await first();
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

/** A form whose fields become the query of the view's address. */
export function filters(path, fields) {
  const form = el("form", { class: "filters", role: "search", "aria-label": "Filter" }, fields,
    el("div", { class: "buttons" }, el("button", { type: "submit" }, "Filter"),
      el("a", { href: `#${path}`, class: "button plain" }, "Show all")));
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
