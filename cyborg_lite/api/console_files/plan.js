// SPDX-License-Identifier: Apache-2.0
// What the service says that a wish does: its steps, and the device afterwards.

import { el, number } from "./dom.js";
import * as pictures from "./pictures.js";
import * as places from "./places.js";

const ACTIONS = { destroy: "Destroy", create: "Create" };

/** shown: the partitioning before; title: of the part, which can get the focus. */
export function planned(plan, shown, title) {
  const heading = el("h3", { tabindex: "-1" }, title);
  const stays = plan.kept ? `${number(plan.kept, "partition stays", "partitions stay")} as `
    + `${plan.kept === 1 ? "it is" : "they are"}.` : "";
  if (!plan.steps.length) {
    return el("div", {}, heading, el("p", {}, `Nothing has to change. ${stays}`));
  }
  const outcome = places.after(places.existing(shown.current), plan.steps);
  const units = places.unitsOf(shown.profiles);
  return el("div", { class: "split" },
    el("div", {}, heading,
      el("p", {}, `${stays} ${number(plan.steps.length, "step")}, in this order:`.trim()),
      el("ol", { class: "steps" }, plan.steps.map(({ action, profile, placement }) => el("li", {
        class: action }, el("span", { class: "action" }, ACTIONS[action] ?? action), ` ${profile}`,
      placement && ` at ${places.span(placement)}`)))),
    outcome && el("figure", { class: "device" },
      el("figcaption", {}, el("strong", {}, "Afterwards"),
        ` ${places.describe(plan.layout.partitions)}`),
      pictures.device(units, outcome, pictures.colours(shown.profiles),
        { title: "Afterwards", ruler: true })));
}
