// SPDX-License-Identifier: Apache-2.0
// The layouts of a device as pictures to choose from, what choosing one would do, and doing it.

import { announce, choice, el, field, newId, number, trouble } from "./dom.js";
import * as pictures from "./pictures.js";
import * as places from "./places.js";

const ACTIONS = { destroy: "Destroy", create: "Create" };

/** `39 GiB`, `4.8 GiB`, `512 MiB`. */
export function memory(mib) {
  if (mib < 1024) return `${mib} MiB`;
  const gib = mib / 1024;
  return `${gib >= 10 ? Math.round(gib) : gib.toFixed(1)} GiB`;
}

/**
 * found: the partitioning. load(every): reads it again, with every layout or the full ones;
 * rehearse(id): the plan of a layout; set(id): makes it the wish.
 * Returns {node, refresh(partitioning)}.
 */
export function chooser({ found, load, rehearse, set }) {
  let shown = found;
  let chosen = null;
  const grid = el("div", { class: "layouts" });
  const legend = el("legend", {});
  const said = el("div", { class: "plan" });
  const withProfile = choice("profile", found.profiles.map((one) => one.name), "", "any profile");
  const every = el("input", { type: "checkbox", name: "every" });
  const look = el("button", { type: "button" }, "Show what it would do");
  const apply = el("button", { type: "submit", class: "main" }, "Set this layout");
  const group = newId("layout");

  const draw = () => {
    const wanted = shown.layouts.filter((layout) => !withProfile.value
      || layout.partitions.some((one) => one.profile === withProfile.value));
    const toneOf = pictures.colours(shown.profiles);
    const units = places.unitsOf(shown.profiles);
    if (!wanted.some((layout) => layout.id === chosen)) choose(null);
    grid.replaceChildren(...wanted.map((layout) => card(layout, {
      group, toneOf, units, shown, isChosen: layout.id === chosen,
      onChoose: () => choose(layout.id) })));
    legend.textContent = `${number(wanted.length, "layout")}${every.checked ? "" : " that leave"
      + " room for nothing more"}`;
    if (wanted.length === 1) legend.textContent = legend.textContent.replace("leave", "leaves");
  };
  const choose = (id) => {
    if (id === chosen) return;
    chosen = id;
    said.replaceChildren();
  };
  const filtered = () => {
    draw();
    announce(legend.textContent);
  };
  withProfile.addEventListener("change", filtered);
  every.addEventListener("change", () => during(every, said, async () => {
    shown = await load(every.checked);
    filtered();
  }));
  look.addEventListener("click", () => during(look, said, async () => {
    if (!needsChoice(chosen, grid, said)) return;
    const plan = await rehearse(chosen);
    said.replaceChildren(planned(plan, shown, "What it would do"));
    said.querySelector("h3").focus();
  }));

  const form = el("form", { class: "chooser" },
    el("h3", {}, "Split it otherwise"),
    el("div", { class: "filters" }, field("With at least one", withProfile),
      el("div", { class: "field check" }, every,
        el("label", { for: (every.id = newId("field")) }, "Also layouts that leave room"))),
    el("fieldset", {}, legend, grid),
    said,
    el("div", { class: "actions" }, look, apply));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    during(apply, said, async () => {
      if (!needsChoice(chosen, grid, said)) return;
      const plan = await set(chosen);
      said.replaceChildren(planned(plan, shown, "Being done"));
    });
  });
  draw();
  return {
    node: form,
    refresh: (fresh) => {
      shown = { ...fresh, layouts: every.checked ? shown.layouts : fresh.layouts };
      said.replaceChildren();
      draw();
    } };
}

/** Do `act` once at a time; what goes wrong is said where its outcome would be. */
async function during(control, said, act) {
  if (control.getAttribute("aria-disabled")) return;
  control.setAttribute("aria-disabled", "true");
  try {
    await act();
  } catch (error) {
    if (error.name !== "AbortError") said.replaceChildren(trouble(error));
  } finally {
    control.removeAttribute("aria-disabled");
  }
}

function needsChoice(chosen, grid, said) {
  if (chosen !== null) return true;
  said.replaceChildren(el("p", { class: "notice", role: "alert" }, "Choose a layout first."));
  grid.querySelector("input")?.focus();
  return false;
}

function card(layout, { group, toneOf, units, shown, isChosen, onChoose }) {
  const placed = places.place(shown.profiles, layout.partitions);
  const isNow = same(layout.partitions, shown.current);
  const measure = [
    layout.slices_used ? `${number(layout.slices_used, "slice")}` : null,
    layout.memory_used_mib ? memory(layout.memory_used_mib) : null].filter(Boolean).join(", ");
  return el("label", { class: "layout", "data-layout": layout.id },
    el("input", { type: "radio", name: group, value: layout.id, checked: isChosen,
      onchange: onChoose }),
    el("span", { class: "name" }, places.describe(layout.partitions)),
    placed && units ? pictures.device(units, placed, toneOf, { title: "One way to lay it out" })
      : bars(layout, toneOf),
    el("span", { class: "measure" }, measure, isNow && el("b", {}, measure ? ", as it is now"
      : "as it is now")));
}

/** A picture for partitions whose places nobody knows: as many equal columns. */
function bars({ partitions }, toneOf) {
  const blocks = [];
  for (const { profile, count, vgpu_type } of partitions) {
    for (let index = 0; index < count; index += 1) {
      blocks.push({ profile, vgpu_type, start: blocks.length, size: 1 });
    }
  }
  return pictures.device(Math.max(blocks.length, 1), blocks, toneOf, { title: "Side by side" });
}

function same(partitions, current) {
  const sorted = (list) => list.filter((one) => one.count).map(
    ({ profile, count, vgpu_type: type }) => `${profile} ${type ?? ""} ${count}`).toSorted().join();
  return sorted(partitions) === sorted(current);
}

function planned(plan, shown, title) {
  const heading = el("h3", { tabindex: "-1" }, title);
  const stays = plan.kept ? `${number(plan.kept, "partition stays", "partitions stay")} as `
    + `${plan.kept === 1 ? "it is" : "they are"}.` : "";
  if (!plan.steps.length) {
    return el("div", { class: "card" }, heading,
      el("p", {}, `Nothing has to change. ${stays}`));
  }
  const outcome = places.after(places.existing(shown.current), plan.steps);
  const units = places.unitsOf(shown.profiles);
  return el("div", { class: "card" }, heading,
    el("p", {}, `${stays} ${number(plan.steps.length, "step")}, in this order:`.trim()),
    el("ol", { class: "steps" }, plan.steps.map(({ action, profile, placement }) => el("li", {
      class: action }, el("span", { class: "action" }, ACTIONS[action] ?? action), ` ${profile}`,
    placement && ` at ${places.span(placement)}`))),
    outcome && el("figure", { class: "device" },
      el("figcaption", {}, el("strong", {}, "Afterwards"),
        ` ${places.describe(plan.layout.partitions)}`),
      pictures.device(units, outcome, pictures.colours(shown.profiles),
        { title: "Afterwards", ruler: true, height: 74 })));
}
