// SPDX-License-Identifier: Apache-2.0
// Makes elements: text is always text, never markup. Knows neither the service nor the views.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined
                                                 && child !== false));
  return node;
}

/** An element; attributes that are null are left out, `on<event>` are listeners. */
export function el(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for a part of a picture. */
export function svg(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** The button that looks again. */
export function refresh(again) {
  return el("button", { type: "button", onclick: again }, "Refresh");
}

/** Say something to those who listen to the page. */
export function announce(text) {
  const live = document.getElementById("live");
  // the same text twice is a change only when there was another between
  live.textContent = live.textContent === text ? `${text}\u00a0` : text;
}

const ids = new Map();

/** An id that no other element has. */
export function newId(stem) {
  ids.set(stem, (ids.get(stem) ?? 0) + 1);
  return `${stem}-${ids.get(stem)}`;
}

/** A label with its control. */
export function field(label, control, hint) {
  control.id ||= newId("field");
  const help = hint && el("span", { class: "hint", id: `${control.id}-hint` }, hint);
  if (help) control.setAttribute("aria-describedby", help.id);
  return el("div", { class: "field" }, el("label", { for: control.id }, label), control, help);
}

/** A select with a choice for `everything` and one for each word. */
export function choice(name, words, chosen, everything) {
  return el("select", { name },
    el("option", { value: "" }, everything),
    words.map((word) => el("option", { value: word, selected: word === chosen }, word)));
}

/**
 * A table. columns: [title, function of a row that gives text or nodes, class?]; the first is the
 * header of its row.
 */
export function table(caption, columns, rows) {
  const cell = (column, row, index) => {
    const content = column[1](row);
    const given = { class: column[2], "data-title": column[0] };
    return index === 0 ? el("th", { ...given, scope: "row", role: "rowheader" }, content)
      : el("td", { ...given, role: "cell" }, content ?? el("span", { class: "none" }, "none"));
  };
  const line = (row) => el("tr", { role: "row" }, columns.map(
    (column, index) => cell(column, row, index)));
  const body = el("tbody", { role: "rowgroup" }, rows.map(line));
  // narrow screens scroll it sideways, so the keyboard has to reach it
  const node = el("div", { class: "scroll", role: "group", "aria-label": caption, tabindex: "0" },
    // with roles of their own, which a narrow screen's display: block would take away
    el("table", { role: "table" }, el("caption", { class: "out-of-sight" }, caption),
      el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, columns.map(
        (column) => el("th", { scope: "col", role: "columnheader",
          class: column[2] === "number" ? "number" : null }, column[0])))),
      body));
  return { node, add: (more) => body.append(...more.map(line)), size: () => body.rows.length };
}

/** A list of terms with what they mean; what is null is left out. */
export function facts(pairs) {
  return el("dl", { class: "facts" }, pairs.filter(([, value]) => value !== null
    && value !== undefined && value !== "").map(([name, value]) => el("div", {},
    el("dt", {}, name), el("dd", {}, value))));
}

/** A word with a mark: `kind` is good, busy, bad or quiet; the word says it too. */
export function badge(word, kind) {
  return el("span", { class: `badge ${kind}` }, word);
}

/** A moment, as the reader's own clock shows it. */
export function moment(text) {
  if (!text) return null;
  const date = new Date(/(Z|[+-]\d\d:?\d\d)$/.test(text) ? text : `${text}Z`);
  if (Number.isNaN(date.valueOf())) return text;
  return el("time", { datetime: date.toISOString() }, date.toLocaleString(undefined,
    { dateStyle: "medium", timeStyle: "medium" }));
}

/** `1 host`, `2 hosts`. */
export function number(count, one, many = `${one}s`) {
  return `${count} ${count === 1 ? one : many}`;
}

/** What went wrong, as the service words it. */
export function trouble(error) {
  return el("div", { class: "trouble", role: "alert" },
    el("p", { class: "title" }, error.title ?? "Something went wrong in this page"),
    el("p", { class: "said" }, error.message),
    error.requestId && el("p", { class: "hint" }, `Request ${error.requestId}`));
}
