// SPDX-License-Identifier: Apache-2.0
// Pictures of a device: its memory units as columns, partitions as blocks on them. Each picture
// has a text that says the same.

import { svg } from "./dom.js";
import { MOST_UNITS, describe, place, span, unitsOf } from "./places.js";

const WIDTH = { small: 320, large: 640 };
const HEIGHT = { small: 66, large: 96 };
const RULER = 20;
const GAP = 3;
const COLOURS = 12;

/** What a profile is drawn with: equal profiles look the same in all pictures of a device. */
export function colours(profiles) {
  const names = [...new Set(profiles.map((profile) => profile.name))];
  const found = new Map(names.map((name, index) => [name, `tone-${index % COLOURS}`]));
  return (name) => found.get(name) ?? "tone-0";
}

/** `1g.5gb+me` becomes 1g, 5gb, +me; `A100-4C` becomes 4C. */
export function shortLines(name, type) {
  const lines = name.includes(".") ? name.split(/[.](?=\d)|(?=[+-])/) : [name.split("-").at(-1)];
  return type && type !== name ? [...lines, type.split("-").at(-1)] : lines;
}

/**
 * A device of `units` with blocks [{profile, vgpu_type, start, size}].
 * title: what the text begins with; size: small or large; ruler: with the numbers of the units.
 */
export function device(units, blocks, toneOf, { title, ruler = false, size = "small" }) {
  const height = HEIGHT[size];
  const step = WIDTH[size] / units;
  const used = new Set();
  const parts = blocks.map((block) => {
    for (let unit = block.start; unit < block.start + block.size; unit += 1) used.add(unit);
    return drawn(block, step, height, toneOf(block.profile));
  });
  const free = [...Array(units).keys()].filter((unit) => !used.has(unit));
  const label = [
    ...blocks.map((block) => `${named(block)} at ${span(block)}`),
    ...(free.length ? [`nothing at ${runs(free).map(span).join(" and ")}`] : [])].join(", ");
  return svg("svg", {
    class: "device-picture", role: "img", "aria-label": `${title}: ${label || "nothing"}.`,
    viewBox: `0 0 ${WIDTH[size]} ${height + (ruler ? RULER : 0)}` },
  free.map((unit) => svg("rect", { class: "free", x: unit * step + GAP / 2, y: GAP / 2,
    width: step - GAP, height: height - GAP, rx: 5 })),
  parts,
  ruler && [...Array(units).keys()].filter((unit) => unit % Math.ceil(units / 16) === 0).map(
    (unit) => svg("text", {
      class: "unit", x: (unit + 0.5) * step, y: height + 15 }, String(unit))));
}

/** One way to lay out [{profile, count}]; as equal columns where nobody knows the places. */
export function layout(profiles, partitions, toneOf) {
  const units = unitsOf(profiles);
  const placed = units ? place(profiles, partitions) : null;
  if (placed) return device(units, placed, toneOf, { title: "One way to lay it out" });
  return sideBySide(partitions, toneOf, { title: "Side by side" });
}

/** Equal columns; the text names what is there and no places. */
export function sideBySide(partitions, toneOf, { title, size = "small" }) {
  const blocks = [];
  for (const { profile, count, vgpu_type } of partitions) {
    for (let index = 0; index < count && blocks.length < MOST_UNITS; index += 1) {
      blocks.push({ profile, vgpu_type, start: blocks.length, size: 1 });
    }
  }
  const drawing = device(Math.max(blocks.length, 1), blocks, toneOf, { title, size });
  drawing.setAttribute("aria-label", `${title}: ${describe(partitions)}.`);
  return drawing;
}

/** The colour of a profile, beside its name. */
export function swatch(tone) {
  return svg("svg", { class: `mark ${tone}`, viewBox: "0 0 16 16", "aria-hidden": "true" },
    svg("rect", { width: 16, height: 16, rx: 4 }));
}

function named({ profile, vgpu_type: type }) {
  return type && type !== profile ? `${profile} as ${type}` : profile;
}

/** Neighbouring units together. */
function runs(units) {
  const found = [];
  for (const unit of units) {
    const last = found.at(-1);
    if (last && last.start + last.size === unit) last.size += 1;
    else found.push({ start: unit, size: 1 });
  }
  return found;
}

function drawn(block, step, height, tone) {
  const x = block.start * step + GAP / 2;
  const width = block.size * step - GAP;
  const lines = width >= 22 ? shortLines(block.profile, block.vgpu_type) : [];
  const top = height / 2 - (lines.length - 1) * 8 + 5;
  return svg("g", { class: `block ${tone}` },
    svg("rect", { x, y: GAP / 2, width, height: height - GAP, rx: 5 }),
    lines.map((line, index) => svg("text", {
      class: index ? "minor" : "major", x: x + width / 2, y: top + index * 16 }, line)));
}

const STATES = ["in_use", "reserved", "free", "cleaning", "failed", "missing"];

/** The attach handles of a deployable, by state, as one bar. */
export function handles(counts) {
  const total = STATES.reduce((sum, state) => sum + counts[state], 0);
  const said = STATES.filter((state) => counts[state]).map(
    (state) => `${counts[state]} ${state.replace("_", " ")}`).join(", ");
  let x = 0;
  return svg("svg", { class: "handles-picture", role: "img", viewBox: "0 0 160 10",
    preserveAspectRatio: "none", "aria-label": `Attach handles: ${said || "none"}.` },
  svg("rect", { class: "nothing", width: 160, height: 10, rx: 3 }),
  STATES.filter((state) => counts[state]).map((state) => {
    const width = 160 * counts[state] / total;
    const part = svg("rect", { class: `handles-${state}`, x, width, height: 10 });
    x += width;
    return part;
  }));
}
