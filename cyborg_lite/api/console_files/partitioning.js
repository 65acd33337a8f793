// SPDX-License-Identifier: Apache-2.0
// How a device is split and can be split; sets a layout and watches it being applied.

import { announce, badge, el, number, trouble } from "./dom.js";
import { chooser } from "./layouts.js";
import * as pictures from "./pictures.js";
import * as places from "./places.js";
import { passes } from "./service.js";

const MARKS = { applied: "good", applying: "busy", failed: "bad", unsupported: "quiet" };
const SENTENCES = {
  applied: "The card is split as shown.",
  applying: "The host is splitting the card. This page looks again by itself.",
  failed: "The card could not be split as wished.",
  unsupported: "The card can't be split at present.",
};
const SCHEMES = new Map([["mig", "MIG"], ["vgpu", "vGPU types"],
  ["mig-vgpu", "vGPU types in MIG partitions"]]);

const WAITS_MS = [500, 1000, 1000, 2000, 3000, 5000];

/**
 * The parts of a device's view: now, how it is split; otherwise, to split it otherwise, or null.
 * begin(): once they are shown, watches a wish that is being applied. onApplied: called after a
 * wish was applied, or has failed.
 */
export async function sections({ service, uuid, signal, onApplied }) {
  const path = `devices/${uuid}/partitioning`;
  const heading = el("h2", { id: "partitions", tabindex: "-1" }, "Partitions");
  const part = el("section", { "aria-labelledby": "partitions", class: "partitions" },
    heading);
  let found;
  try {
    found = await service.get(path, {}, signal);
  } catch (error) {
    if (error.name === "AbortError" || error.status === 401) throw error;
    part.append(trouble(error));
    return { now: part, otherwise: null, begin: () => {} };
  }
  if (found.scheme === "none") {
    part.append(el("p", { class: "empty" }, "This device has no partitions.",
      found.fault && ` ${found.fault}`));
    return { now: part, otherwise: null, begin: () => {} };
  }
  heading.append(" ", el("span", { class: "kind" }, SCHEMES.get(found.scheme) ?? found.scheme));
  const now = el("div", { class: "now" });
  const away = el("div", {});
  let drawn = null;
  const draw = (fresh) => {
    away.replaceChildren();
    // what has not changed stays, and whoever reads it is not disturbed
    const text = JSON.stringify(fresh);
    if (text !== drawn) now.replaceChildren(...overview(fresh));
    drawn = text;
  };
  const wait = (error) => {
    if (!away.firstChild) {
      away.append(trouble(error), el("p", { class: "hint" }, "This page goes on asking."));
    }
  };
  let isWatched = false;
  const watch = async () => {
    // the same wish once more is no second one
    if (isWatched) return;
    isWatched = true;
    const fresh = await watched(service, path, signal, { draw, wait }).finally(() => {
      isWatched = false;
    });
    if (!fresh) return;
    announce(fresh.state === "failed" ? `Failed. ${fresh.fault ?? ""}`
      : `Applied: ${places.describe(groups(fresh.current))}`);
    choosing.refresh(fresh);
    await onApplied().catch(() => {});
  };
  const failed = (error) => {
    if (error.name === "AbortError") return;
    drawn = null;
    now.append(trouble(error));
  };
  const choosing = chooser({
    found,
    load: (every) => service.get(path, every ? { all: "true" } : {}, signal),
    rehearse: (wish) => service.put(path, { dry_run: "true" }, wish, signal),
    set: async (wish) => {
      const plan = await service.put(path, {}, wish, signal);
      // where it can be watched
      heading.focus();
      announce("The wish is stored and is being applied");
      void watch().catch(failed);
      return plan;
    } });
  draw(found);
  part.append(now, away);
  return { now: part, otherwise: choosing.node, begin: () => {
    if (found.state === "applying") void watch().catch(failed);
  } };
}

/** Ask until nothing is being applied; returns the last answer, or null when the view is left. */
async function watched(service, path, signal, { draw, wait }) {
  for (let round = 0; ; round += 1) {
    try {
      const fresh = await service.get(path, {}, signal);
      draw(fresh);
      if (fresh.state !== "applying") return fresh;
    } catch (error) {
      // a service that is restarted meanwhile comes back
      if (!passes(error)) throw error;
      wait(error);
    }
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, WAITS_MS[Math.min(round, WAITS_MS.length - 1)]);
      signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
    });
    if (signal.aborted) return null;
  }
}

function overview(found) {
  const toneOf = pictures.colours(found.profiles);
  const units = places.unitsOf(found.profiles);
  const isWaiting = found.state === "applying" || found.state === "failed";
  return [
    el("p", { class: "state", "data-state": found.state },
      badge(found.state, MARKS[found.state] ?? "quiet"), " ",
      found.state === "applied" && !found.current.length ? "The card is not split."
        : SENTENCES[found.state] ?? ""),
    found.state === "applying" && progress(found),
    found.fault && el("p", { class: found.state === "failed" ? "fault" : "fault waits" },
      found.fault),
    el("div", { class: "figures" },
      figure("Now", groups(found.current), places.existing(found.current), units, toneOf),
      isWaiting && found.desired && figure("Wished", found.desired,
        places.place(found.profiles, found.desired), units, toneOf))].filter(Boolean);
}

/** Groups of equal partitions, where they lie left out. */
function groups(current) {
  return current.map(({ profile, count, vgpu_type }) => ({ profile, count, vgpu_type }));
}

/** A picture with its text; side by side where nobody knows the places. */
function figure(title, partitions, placed, units, toneOf) {
  const text = places.describe(partitions);
  return el("figure", { class: "device" },
    el("figcaption", {}, el("strong", {}, title), ` ${text}`),
    placed && units ? pictures.device(units, placed, toneOf, { title, ruler: true, size: "large" })
      : partitions.length > 0 && pictures.sideBySide(partitions, toneOf,
        { title, size: "large" }));
}

/** How many of the wished partitions are there. */
function progress({ current, desired }) {
  const wanted = desired.reduce((sum, one) => sum + one.count, 0);
  const there = wanted - places.without(desired, current);
  const text = `${there} of ${number(wanted, "partition")} ${there === 1 ? "is" : "are"} there`;
  return el("p", { class: "progress" },
    el("progress", { max: Math.max(wanted, 1), value: there, "aria-label": "Partitions made" }),
    el("span", {}, text));
}
