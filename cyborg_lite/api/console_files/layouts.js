// SPDX-License-Identifier: Apache-2.0
// The layouts of a device as pictures to choose from, what choosing one would do, and doing it.

import { announce, choice, el, field, newId, number, trouble } from "./dom.js";
import * as past from "./past.js";
import * as pictures from "./pictures.js";
import * as places from "./places.js";
import { planned } from "./plan.js";

/** `39 GiB`, `4.8 GiB`, `512 MiB`. */
export function memory(mib) {
  if (mib < 1024) return `${mib} MiB`;
  const gib = mib / 1024;
  return `${gib >= 10 ? Math.round(gib) : gib.toFixed(1)} GiB`;
}

/**
 * found: the partitioning. load(every): reads it again, with every layout or the full ones;
 * rehearse(wish): the plan of a wish; set(wish): has it done.
 * Returns {node, refresh(partitioning)}.
 */
export function chooser({ found, load, rehearse, set }) {
  let shown = found;
  let chosen = found.layouts.find((layout) => layout.id === past.recalled("layout")) ?? null;
  const group = newId("layout");
  const grid = el("div", { class: "layouts" });
  const legend = el("legend", {});
  const said = el("div", { class: "plan" });
  const types = el("div", {});
  const name = el("strong", {}, "none yet");
  const sieve = filters(found.profiles);
  const look = el("button", { type: "button" }, "Show what it would do");
  const apply = el("button", { type: "submit", class: "main" }, "Set this layout");

  const draw = () => {
    const wanted = shown.layouts.filter(sieve.lets);
    const toneOf = pictures.colours(shown.profiles);
    const hadKeyboard = grid.contains(document.activeElement);
    if (!wanted.some((layout) => layout.id === chosen?.id)) choose(null);
    grid.replaceChildren(...wanted.map((layout) => card(layout, {
      group, toneOf, shown, isChosen: layout.id === chosen?.id,
      onChoose: () => choose(layout) })));
    if (hadKeyboard) (grid.querySelector(":checked") ?? grid.querySelector("input"))?.focus();
    const which = sieve.every.checked ? "" : ` that ${wanted.length === 1 ? "leaves" : "leave"}`
      + " room for nothing more";
    legend.textContent = `${number(wanted.length, "layout")}${which}`;
  };
  const choose = (layout) => {
    chosen = layout;
    past.remember("layout", layout?.id ?? null);
    said.replaceChildren();
    name.textContent = layout ? places.describe(layout.partitions) : "none yet";
    types.replaceChildren(layout ? typesOf(layout, shown.profiles) : "");
  };
  const filtered = () => {
    draw();
    announce(legend.textContent);
  };
  sieve.node.addEventListener("change", (event) => {
    if (event.target !== sieve.every) {
      filtered();
      return;
    }
    during(sieve.every, said, async () => {
      shown = await load(sieve.every.checked);
      filtered();
    });
  });
  const withWish = (control, act) => during(control, said, async () => {
    if (!chosen) {
      said.replaceChildren(el("p", { class: "warn", role: "alert" }, "Choose a layout first."));
      grid.querySelector("input")?.focus();
      return;
    }
    await act(wishFor(chosen, types));
  });
  look.addEventListener("click", () => withWish(look, async (wish) => {
    const plan = await rehearse(wish);
    said.replaceChildren(planned(plan, shown, "What it would do"));
    said.querySelector("h3").focus();
  }));
  const form = el("form", { class: "chooser", "aria-labelledby": "otherwise" },
    el("h2", { id: "otherwise" }, "Split it otherwise"), sieve.node,
    el("div", { class: "beside" },
      el("fieldset", {}, legend, grid),
      el("div", { class: "choice", role: "group", "aria-label": "The chosen layout" },
        el("p", { class: "chosen" }, "Chosen: ", name), types, said,
        el("div", { class: "actions" }, look, apply))));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    withWish(apply, async (wish) => {
      const plan = await set(wish);
      said.replaceChildren(planned(plan, shown, "Being done"));
    });
  });
  choose(chosen);
  draw();
  return {
    node: form,
    refresh: (fresh) => {
      shown = { ...fresh, layouts: sieve.every.checked ? shown.layouts : fresh.layouts };
      if (said.contains(document.activeElement)) look.focus();
      said.replaceChildren();
      draw();
    } };
}

/** What narrows the choice; it is the key to the colours too. */
function filters(profiles) {
  const toneOf = pictures.colours(profiles);
  const names = [...new Set(profiles.map((one) => one.name))];
  const needed = choice("profile", names, "", "any profile");
  const every = el("input", { type: "checkbox", name: "every", id: newId("field") });
  const boxes = names.map((name) => el("input", {
    type: "checkbox", name: "of", value: name, checked: true, id: newId("field") }));
  const node = el("div", { class: "sieve" },
    el("fieldset", { class: "key" }, el("legend", {}, "Made of"),
      boxes.map((box) => el("label", { for: box.id, class: "swatch" }, box,
        pictures.swatch(toneOf(box.value)), box.value))),
    el("div", { class: "filters" }, field("With at least one", needed),
      el("div", { class: "field check" }, every,
        el("label", { for: every.id }, "Also layouts that leave room"))));
  const has = (layout, name) => layout.partitions.some((one) => one.profile === name);
  return { node, every, lets: (layout) => (!needed.value || has(layout, needed.value))
    && boxes.every((box) => box.checked || !has(layout, box.value)) };
}

/** Do `act` once at a time; what goes wrong is said where its outcome would be. */
async function during(control, said, act) {
  if (control.getAttribute("aria-disabled")) return;
  control.setAttribute("aria-disabled", "true");
  try {
    await act();
  } catch (error) {
    if (error.name === "AbortError") return;
    said.replaceChildren(trouble(error));
    said.scrollIntoView({ block: "nearest" });
  } finally {
    control.removeAttribute("aria-disabled");
  }
}

function card(layout, { group, toneOf, shown, isChosen, onChoose }) {
  const isNow = same(layout.partitions, shown.current);
  const measure = [
    layout.slices_used ? number(layout.slices_used, "slice") : null,
    layout.memory_used_mib ? memory(layout.memory_used_mib) : null].filter(Boolean).join(", ");
  return el("label", { class: "layout", "data-layout": layout.id },
    el("input", { type: "radio", name: group, value: layout.id, checked: isChosen,
      onchange: onChoose }),
    el("span", { class: "name" }, places.describe(layout.partitions)),
    pictures.layout(shown.profiles, layout.partitions, toneOf),
    el("span", { class: "measure" }, measure,
      isNow && el("b", { class: "now" }, `${measure && ", "}as it is now`)));
}

function same(partitions, current) {
  const size = (list) => list.reduce((sum, one) => sum + one.count, 0);
  return size(partitions) === size(current) && places.without(partitions, current) === 0;
}

// --- vGPU types in partitions ----------------------------------------------------------------

/** A select for each kind of partition that several vGPU types could live in. */
function typesOf({ partitions }, profiles) {
  const open = partitions.filter((one) => !one.vgpu_type).map((one) => ({
    ...one, types: profiles.find((profile) => profile.name === one.profile)?.vgpu_types ?? [] }))
    .filter((one) => one.types.length);
  if (!open.length) return "";
  return el("fieldset", { class: "types" }, el("legend", {}, "Which vGPU type each is for"),
    el("div", { class: "filters" }, open.map((one) => {
      const select = el("select", { "data-profile": one.profile },
        el("option", { value: "" }, "the driver's choice"),
        one.types.map((type) => el("option", { value: type }, type)));
      return field(places.describe([{ ...one, vgpu_type: null }]), select);
    })));
}

/** The body that asks for a layout: its id, or its partitions where types were chosen. */
function wishFor(layout, types) {
  const chosen = new Map([...types.querySelectorAll("select")].map(
    (select) => [select.dataset.profile, select.value]));
  if (![...chosen.values()].some(Boolean)) return { layout: layout.id };
  return { partitions: layout.partitions.map(({ profile, count, vgpu_type: type }) => (
    { profile, count, vgpu_type: type ?? (chosen.get(profile) || null) })) };
}
